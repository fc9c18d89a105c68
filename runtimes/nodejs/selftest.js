// Whether a Node.js that was forked is as good as one that was started.
//
// Nobody documents that V8 and libuv may be forked. So before a service gives forked interpreters to
// programs it runs this one in them, in a real sandbox, and uses them only if nothing is wrong. It is
// an ordinary program: `main({})` answers
//
//     { version: TEXT, wrong: { PROBE: REASON, ... }, passed: [PROBE, ...],
//       fresh: { NAME: VALUE, ... }, ends: [NAME, ...] }
//
// 1. `wrong` must be empty, or hold no probe that passes in a started interpreter in the same sandbox.
// 2. Each value of `fresh` must differ between two runs of the same zygote.
// 3. `main({ end: NAME })` ends the process in a way that `ends` names; started and forked
//    interpreters must agree on how.
//
// `main({ only: [PROBE, ...] })` runs some. A probe has three seconds.
'use strict';

const assert = require('assert');
const fs = require('fs');
const os = require('os');
const path = require('path');
const { once } = require('events');
const sleep = require('timers/promises').setTimeout;

const place = fs.mkdtempSync(path.join(os.tmpdir(), 'probe-'));
const file = (name) => path.join(place, name);
const written = (name, text) => {
  fs.writeFileSync(file(name), text);
  return file(name);
};
const call = (work) => new Promise((resolve, reject) => {
  work((error, value) => (error ? reject(error) : resolve(value)));
});
const listen = async (server, ...where) => {
  server.listen(...where);
  await once(server, 'listening');
  return server.address();
};
const run = async (child) => {
  let text = '';
  child.stdout.on('data', (data) => { text += data; });
  const [code, signal] = await once(child, 'close');
  return { text, code, signal };
};

// (module (memory 1) (func (export "l") (param i32) (result i32) local.get 0 i32.load))
const LOAD = new Uint8Array([
  0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 1, 6, 1, 0x60, 1, 0x7f, 1, 0x7f, 3, 2, 1, 0, 5, 3, 1, 0, 1,
  7, 5, 1, 1, 0x6c, 0, 0, 10, 9, 1, 7, 0, 0x20, 0, 0x28, 2, 0, 11,
]);

const probes = {
  // --- who and when ------------------------------------------------------------------------------

  'process.pid': () => {
    const pid = Number(fs.readlinkSync('/proc/self'));
    assert.strictEqual(process.pid, pid);
    assert.strictEqual(require('process').pid, pid);
    assert.strictEqual(process.ppid, Number(/^PPid:\s*(\d+)/m.exec(fs.readFileSync('/proc/self/status', 'utf8'))[1]));
    const { get, set, ...shape } = Object.getOwnPropertyDescriptor(process, 'pid');
    assert.deepStrictEqual(shape, { value: pid, writable: false, enumerable: true, configurable: true });
  },
  'process.cwd': () => assert.strictEqual(process.cwd(), fs.readlinkSync('/proc/self/cwd')),
  'process.memoryUsage': () => {
    const usage = process.memoryUsage();
    assert(usage.rss > 1e6 && usage.heapUsed > 1e6 && process.memoryUsage.rss() > 1e6);
    assert(process.resourceUsage().maxRSS > 0);
  },
  'process.uptime': () => assert(process.uptime() >= 0 && process.uptime() < 30, 'is ' + process.uptime()),
  clocks: async () => {
    const before = [process.hrtime.bigint(), performance.now(), Date.now(), process.uptime()];
    await sleep(20);
    const passed = [
      Number(process.hrtime.bigint() - before[0]) / 1e6, performance.now() - before[1],
      Date.now() - before[2], (process.uptime() - before[3]) * 1e3,
    ];
    for (const one of passed) assert(one > 15 && one < 1000, String(passed));
    const off = Math.abs(performance.timeOrigin + performance.now() - Date.now());
    assert(off < 500, 'timeOrigin is off by ' + off);
  },

  // --- chance ------------------------------------------------------------------------------------

  'Math.random': () => {
    const seen = new Set();
    for (let index = 0; index < 1000; index += 1) seen.add(Math.random());
    assert.strictEqual(seen.size, 1000);
    assert.deepStrictEqual(
      { ...Object.getOwnPropertyDescriptor(Math, 'random'), value: Math.random.toString() },
      { value: 'function random() { [native code] }', writable: true, enumerable: false, configurable: true },
    );
  },
  crypto: async () => {
    const crypto = require('crypto');
    assert.strictEqual(crypto.createHash('sha256').update('a').digest('hex').slice(0, 8), 'ca978112');
    assert.strictEqual((await call((done) => crypto.pbkdf2('p', 's', 10, 16, 'sha256', done))).length, 16);
    assert.strictEqual((await call((done) => crypto.scrypt('p', 's', 16, { N: 64 }, done))).length, 16);
    assert.strictEqual((await call((done) => crypto.randomBytes(16, done))).length, 16);
    assert((await call((done) => crypto.randomInt(10, done))) < 10);
    const { privateKey, publicKey } = await call((done) => crypto.generateKeyPair(
      'ec', { namedCurve: 'P-256' }, (error, publicKey, privateKey) => done(error, { publicKey, privateKey }),
    ));
    assert(crypto.verify('sha256', Buffer.from('a'), publicKey, crypto.sign('sha256', Buffer.from('a'), privateKey)));
    assert.strictEqual((await crypto.webcrypto.subtle.digest('SHA-256', Buffer.from('a'))).byteLength, 32);
    require('tls').createSecureContext();
  },

  // --- the event loop ----------------------------------------------------------------------------

  timers: async () => {
    const start = performance.now();
    await sleep(30);
    const took = performance.now() - start;
    assert(took > 25 && took < 1000, 'took ' + took);
    let count = 0;
    await new Promise((resolve) => {
      const timer = setInterval(() => {
        count += 1;
        if (count === 3) resolve(clearInterval(timer));
      }, 2);
    });
    await new Promise(setImmediate);
    await new Promise(process.nextTick);
    await new Promise(queueMicrotask);
    setInterval(() => {}, 1).unref();
    await assert.rejects(once(AbortSignal.timeout(5), 'never', { signal: AbortSignal.timeout(5) }));
  },
  order: async () => {
    const seen = [];
    setImmediate(() => seen.push('immediate'));
    process.nextTick(() => seen.push('tick'));
    Promise.resolve().then(() => seen.push('promise'));
    seen.push('now');
    await new Promise(setImmediate);
    assert.deepStrictEqual([...seen].sort(), ['immediate', 'now', 'promise', 'tick']);
    assert.deepStrictEqual([seen[0], seen[3]], ['now', 'immediate']);
  },
  async_hooks: async () => {
    const { AsyncLocalStorage, executionAsyncId, createHook } = require('async_hooks');
    const storage = new AsyncLocalStorage();
    assert.strictEqual(await storage.run(7, async () => { await sleep(1); return storage.getStore(); }), 7);
    assert(executionAsyncId() >= 0);
    let seen = 0;
    const hook = createHook({ init() { seen += 1; } }).enable();
    await sleep(1);
    hook.disable();
    assert(seen > 0);
  },
  signals: async () => {
    for (const name of ['SIGUSR2', 'SIGUSR1', 'SIGHUP', 'SIGTERM']) {
      const heard = once(process, name);
      process.kill(process.pid, name);
      await heard;
      process.removeAllListeners(name);
    }
  },
  'fs.watch': async () => {
    const watcher = fs.watch(place);
    const heard = once(watcher, 'change');
    written('watched', '1');
    await heard;
    watcher.close();
  },

  // --- the pool of threads -----------------------------------------------------------------------

  'fs.promises': async () => {
    await Promise.all(Array.from({ length: 20 }, async (_, index) => {
      await fs.promises.writeFile(file('f' + index), 'x'.repeat(index));
      assert.strictEqual((await fs.promises.readFile(file('f' + index))).length, index);
    }));
    assert.strictEqual((await call((done) => fs.readFile(file('f3'), 'utf8', done))), 'xxx');
    await fs.promises.mkdir(file('a/b'), { recursive: true });
    await fs.promises.rm(file('a'), { recursive: true });
  },
  streams: async () => {
    const { pipeline } = require('stream/promises');
    const { Readable, Transform } = require('stream');
    const upper = new Transform({ transform(chunk, _, done) { done(null, String(chunk).toUpperCase()); } });
    await pipeline(Readable.from(['a', 'b']), upper, fs.createWriteStream(file('out')));
    assert.strictEqual(fs.readFileSync(file('out'), 'utf8'), 'AB');
    const lines = [];
    for await (const line of require('readline').createInterface({ input: fs.createReadStream(written('in', '1\n2\n')) })) lines.push(line);
    assert.deepStrictEqual(lines, ['1', '2']);
    const web = new ReadableStream({ start(control) { control.enqueue('w'); control.close(); } });
    for await (const chunk of web) assert.strictEqual(chunk, 'w');
    assert.strictEqual(await new Response(new Blob(['blob'])).text(), 'blob');
  },
  zlib: async () => {
    const zlib = require('zlib');
    const data = Buffer.alloc(200000, 'ampoule');
    for (const [there, back] of [['gzip', 'gunzip'], ['deflate', 'inflate'], ['brotliCompress', 'brotliDecompress']]) {
      const packed = await call((done) => zlib[there](data, done));
      assert(packed.length < 5000);
      assert(data.equals(await call((done) => zlib[back](packed, done))));
    }
  },
  'dns.lookup': async () => {
    const { address } = await require('dns').promises.lookup('localhost');
    assert(address === '127.0.0.1' || address === '::1', address);
  },

  // --- the engine --------------------------------------------------------------------------------

  compiler: () => {
    let text = 0;
    for (let round = 0; round < 20; round += 1) {
      const add = new Function('a', 'b', 'return a + b + ' + round);
      for (let index = 0; index < 20000; index += 1) text = add(text & 1023, index & 7);
      assert.strictEqual(add('x', 1), 'x1' + round);
    }
    const fibonacci = (n) => (n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2));
    assert.strictEqual(fibonacci(25), 75025);
    assert.strictEqual(/^(a+)+$/.exec('aaaaaaaaaaaa')[0].length, 12);
    assert.strictEqual((2n ** 200n).toString().length, 61);
  },
  garbage: async () => {
    const kept = [];
    let gone = 0;
    const registry = new FinalizationRegistry(() => { gone += 1; });
    for (let index = 0; index < 400000; index += 1) {
      const one = { index, text: 'text ' + index, list: [index] };
      if (index % 4 === 0) kept.push(one);
      if (index % 1000 === 0) registry.register({ index }, index);
    }
    for (let round = 0; round < 20; round += 1) new Array(1e6).fill(round);
    for (let round = 0; round < 20; round += 1) Buffer.alloc(4 << 20, round);
    await sleep(1);
    const { setFlagsFromString, getHeapStatistics } = require('v8');
    setFlagsFromString('--expose-gc');
    const collect = require('vm').runInNewContext('gc');
    for (let round = 0; round < 50 && gone === 0; round += 1) {
      collect();
      collect({ type: 'minor' });
      await sleep(5);
    }
    // A registry that nobody holds any more tells nothing.
    registry.unregister(kept);
    assert(gone > 0, 'nothing was collected');
    kept.forEach((one, at) => assert(one.index === at * 4 && one.list[0] === one.index));
    assert(getHeapStatistics().used_heap_size > 5e6);
  },
  'stack overflow': () => {
    const deeper = () => deeper() + 1;
    for (let round = 0; round < 3; round += 1) assert.throws(deeper, RangeError);
    assert.throws(() => JSON.parse('['.repeat(200000)), (error) => error instanceof SyntaxError || error instanceof RangeError);
  },
  WebAssembly: async () => {
    for (const make of [
      () => new WebAssembly.Instance(new WebAssembly.Module(LOAD)),
      async () => (await WebAssembly.instantiate(LOAD)).instance,
      async () => WebAssembly.instantiate(await WebAssembly.compile(LOAD)),
    ]) {
      const { l } = (await make()).exports;
      for (let index = 0; index < 50000; index += 1) assert.strictEqual(l(index & 255), 0);
      // Beyond its end: a fault that V8's handler turns into an error.
      assert.throws(() => l(0x7ffffff0), WebAssembly.RuntimeError);
    }
    new WebAssembly.Memory({ initial: 1, maximum: 100 }).grow(50);
  },
  'vm and v8': () => {
    const vm = require('vm');
    const v8 = require('v8');
    assert.strictEqual(vm.runInNewContext('a + 1', { a: 1 }), 2);
    assert.throws(() => vm.runInNewContext('for (;;);', {}, { timeout: 20 }), { code: 'ERR_SCRIPT_EXECUTION_TIMEOUT' });
    const value = { date: new Date(1), map: new Map([[1, 2n]]) };
    assert.deepStrictEqual(v8.deserialize(v8.serialize(value)), value);
    assert.deepStrictEqual(structuredClone(value), value);
    assert.strictEqual(require('inspector').url(), undefined);
  },
  inspector: async () => {
    const session = new (require('inspector').Session)();
    session.connect();
    const { result } = await call((done) => session.post('Runtime.evaluate', { expression: '6 * 7' }, done));
    assert.strictEqual(result.value, 42);
    session.disconnect();
  },
  Intl: () => {
    assert.strictEqual(new Intl.NumberFormat('de-DE').format(1234.5), '1.234,5');
    assert.strictEqual(new Date(0).toLocaleDateString('en-US', { timeZone: 'Asia/Tokyo', dateStyle: 'medium' }), 'Jan 1, 1970');
    assert(['z', 'ä'].sort(new Intl.Collator('de').compare)[0] === 'ä');
    assert.strictEqual([...new Intl.Segmenter('en', { granularity: 'word' }).segment('a b')].length, 3);
  },

  // --- threads and processes ---------------------------------------------------------------------

  'Atomics.wait': () => {
    const start = performance.now();
    assert.strictEqual(Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20), 'timed-out');
    assert(performance.now() - start > 15);
  },
  worker_threads: async () => {
    const { Worker, MessageChannel } = require('worker_threads');
    const code = `
      const { parentPort, workerData } = require('worker_threads');
      Atomics.add(workerData, 0, 1);
      Atomics.notify(workerData, 0);
      let sum = 0;
      for (let index = 0; index < 1e6; index += 1) sum += index % 7;
      parentPort.postMessage({ sum, pid: process.pid, random: Math.random() });`;
    const shared = new Int32Array(new SharedArrayBuffer(4));
    const randoms = new Set();
    await Promise.all(Array.from({ length: 3 }, async () => {
      const worker = new Worker(code, { eval: true, workerData: shared });
      const exited = once(worker, 'exit');
      const [answer] = await once(worker, 'message');
      assert.deepStrictEqual([answer.sum, answer.pid], [2999997, process.pid]);
      randoms.add(answer.random);
      assert.strictEqual((await exited)[0], 0);
    }));
    assert.strictEqual(shared[0], 3);
    assert.strictEqual(randoms.size, 3);
    const endless = new Worker('for (;;);', { eval: true });
    await once(endless, 'online');
    assert.strictEqual(await endless.terminate(), 1);
    const { port1, port2 } = new MessageChannel();
    port1.postMessage(new Uint8Array(4));
    assert.strictEqual((await once(port2, 'message'))[0].length, 4);
    port1.close();
  },
  child_process: async () => {
    const { spawn, spawnSync, exec, fork, execFileSync } = require('child_process');
    assert.strictEqual(spawnSync('/bin/sh', ['-c', 'echo a; exit 3']).status, 3);
    assert.strictEqual(String(execFileSync('/bin/echo', ['b'])), 'b\n');
    assert.deepStrictEqual(await run(exec('echo c')), { text: 'c\n', code: 0, signal: null });
    const cat = spawn('/bin/cat');
    cat.stdin.end('d');
    assert.strictEqual((await run(cat)).text, 'd');
    const asleep = spawn('/bin/sleep', ['9']);
    asleep.kill();
    assert.strictEqual((await once(asleep, 'exit'))[1], 'SIGTERM');
    assert.strictEqual((await once(spawn('/no/such'), 'error'))[0].code, 'ENOENT');
    const child = fork(written('child.js', 'process.on("message", (m) => { process.send(m + 1); process.disconnect(); })'));
    child.send(1);
    assert.strictEqual((await once(child, 'message'))[0], 2);
    assert.strictEqual((await once(child, 'exit'))[0], 0);
  },
  cluster: async () => {
    const cluster = require('cluster');
    cluster.setupPrimary({ exec: written('member.js', 'require("net").createServer((c) => c.end("hi")).listen(0, "127.0.0.1")') });
    const member = cluster.fork();
    const [, address] = await once(cluster, 'listening');
    const client = require('net').connect(address.port, '127.0.0.1');
    assert.strictEqual(String((await once(client, 'data'))[0]), 'hi');
    member.kill();
    await once(member, 'exit');
  },

  // --- sockets -----------------------------------------------------------------------------------

  net: async () => {
    const net = require('net');
    for (const where of [[0, '127.0.0.1'], [file('socket')]]) {
      const server = net.createServer((socket) => socket.pipe(socket));
      const address = await listen(server, ...where);
      const client = net.connect(typeof address === 'string' ? address : { port: address.port, host: address.address });
      client.end('echo');
      assert.strictEqual(String((await once(client, 'data'))[0]), 'echo');
      client.destroy();
      server.close();
    }
    const socket = require('dgram').createSocket('udp4');
    socket.bind(0, '127.0.0.1');
    await once(socket, 'listening');
    socket.send('u', socket.address().port, '127.0.0.1');
    assert.strictEqual(String((await once(socket, 'message'))[0]), 'u');
    socket.close();
    const refused = net.connect(1, '127.0.0.1');
    assert.strictEqual((await once(refused, 'error'))[0].code, 'ECONNREFUSED');
  },
  'http and fetch': async () => {
    const http = require('http');
    const server = http.createServer((request, response) => request.pipe(response));
    const { port } = await listen(server, 0, '127.0.0.1');
    const url = 'http://127.0.0.1:' + port;
    const answer = await fetch(url, { method: 'POST', body: 'f'.repeat(100000) });
    assert.strictEqual((await answer.text()).length, 100000);
    const request = http.request(url, { method: 'POST' });
    request.end('r');
    const [response] = await once(request, 'response');
    assert.strictEqual(String((await once(response, 'data'))[0]), 'r');
    let axios;
    try {
      axios = require('axios');
    } catch {
      // Not installed here.
    }
    if (axios) assert.deepStrictEqual((await axios.post(url, { a: 1 })).data, { a: 1 });
    server.closeAllConnections();
    server.close();
  },

  // --- modules -----------------------------------------------------------------------------------

  modules: async () => {
    assert.strictEqual((await import('node:path')).sep, '/');
    assert.strictEqual((await import(written('m.mjs', 'export default await Promise.resolve(5)'))).default, 5);
    assert.strictEqual(require(written('n.cjs', 'module.exports = 6')), 6);
    assert.strictEqual((await import('data:text/javascript,export default 7')).default, 7);
    assert.throws(() => require('/no/such'), { code: 'MODULE_NOT_FOUND' });
    for (const name of require('module').builtinModules) {
      if (!/^_|^(sys|wasi|test|sea|sqlite|punycode|trace_events|repl|domain)|^node:/.test(name)) require(name);
    }
  },
  performance: async () => {
    const { PerformanceObserver, monitorEventLoopDelay } = require('perf_hooks');
    const seen = new Promise((resolve) => new PerformanceObserver((list, observer) => {
      observer.disconnect();
      resolve(list.getEntries()[0].name);
    }).observe({ entryTypes: ['mark'] }));
    performance.mark('here');
    assert.strictEqual(await seen, 'here');
    const delay = monitorEventLoopDelay({ resolution: 1 });
    delay.enable();
    for (let round = 0; round < 50 && delay.count === 0; round += 1) await sleep(10);
    delay.disable();
    assert(delay.count > 0, 'no delay was ever measured');
  },
};

// Ways to end, each in a worker of its own.
const ends = {
  heap: () => {
    const kept = [];
    for (;;) kept.push(new Array(1e4).fill(kept.length));
  },
  throw: () => setImmediate(() => { throw new Error('on purpose'); }) && new Promise(() => {}),
  reject: () => Promise.reject(new Error('on purpose')) && new Promise(() => {}),
  exit: () => {
    process.on('exit', () => fs.writeSync(1, 'exit heard\n'));
    process.exit(7);
  },
  abort: () => process.abort(),
  signal: () => process.kill(process.pid, 'SIGTERM') && new Promise(() => {}),
  pending: () => new Promise(() => {}),
  working: () => {
    // A thread of the pool is busy at the end.
    require('crypto').pbkdf2('p', 's', 5e5, 16, 'sha256', () => {});
    process.exit(8);
  },
};

const limited = async (probe) => {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error('no answer in 3 s')), 3000);
  });
  try {
    await Promise.race([probe(), late]);
  } finally {
    clearTimeout(timer);
  }
};

const main = async ({ only, end } = {}) => {
  if (end) return ends[end]();
  const crypto = require('crypto');
  const fresh = {
    'Math.random': Math.random(),
    'Math.random of another context': require('vm').runInNewContext('Math.random()'),
    'crypto.randomUUID': crypto.randomUUID(),
    'crypto.randomBytes': crypto.randomBytes(16).toString('hex'),
    'crypto.randomInt': crypto.randomInt(2 ** 47),
    'crypto.getRandomValues': String(crypto.getRandomValues(new Uint32Array(4))),
    mkdtemp: place,
  };
  const wrong = {};
  const passed = [];
  for (const name of only || Object.keys(probes)) {
    try {
      await limited(probes[name]);
      passed.push(name);
    } catch (error) {
      wrong[name] = String((error && error.stack) || error).slice(0, 600);
    }
  }
  fs.rmSync(place, { recursive: true, force: true });
  return { version: process.version, wrong, passed, fresh, ends: Object.keys(ends) };
};

module.exports = { main };
