// Builds a request with axios and lets an adapter of its own answer it: the library is there, the
// network is not.

const axios = require('axios');

async function main({ city = 'Berlin' }) {
  const client = axios.create({
    baseURL: 'https://weather.example/v1',
    adapter: async (config) => ({
      status: 200,
      statusText: 'OK',
      headers: {},
      config,
      data: JSON.stringify({ city: config.params.city, celsius: 21 }),
    }),
  });
  const address = client.getUri({ url: '/now', params: { city } });
  const answer = await client.get('/now', { params: { city } });
  console.log('would have asked', client.defaults.baseURL + address.replace(client.defaults.baseURL, ''));
  return { axios: axios.VERSION, node: process.version, answer: answer.data };
}
