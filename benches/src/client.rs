//! A client that costs little: one blocking connection, a request that was built before, one write.
//!
//! Its cpu time is on the same processors as the service's, so what it does not do is measured too.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// No answer that is measured here takes as long.
const PATIENCE: Duration = Duration::from_secs(90);
/// The service closes connections that are idle for longer, some time later.
const IDLE: Duration = Duration::from_secs(10);
const HEAD_MOST: usize = 16 * 1024;
const BODY_MOST: usize = 64 * 1024 * 1024;

/// One connection with keep-alive.
#[derive(Debug)]
pub(crate) struct Client {
    address: SocketAddr,
    stream: TcpStream,
    buffer: Vec<u8>,
    used: Instant,
}

/// What came back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a str,
}

impl Client {
    /// Connects.
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Self> {
        Ok(Self {
            address,
            stream: open(address)?,
            buffer: Vec::with_capacity(16 * 1024),
            used: Instant::now(),
        })
    }

    /// Sends a whole request and waits for the whole answer. The time is from before the write until
    /// the last byte.
    pub(crate) fn exchange(&mut self, request: &[u8]) -> io::Result<(Duration, Answer<'_>)> {
        if self.used.elapsed() > IDLE {
            self.stream = open(self.address)?;
        }
        let began = Instant::now();
        self.send(request)?;
        let (status, body) = self.read()?;
        let took = began.elapsed();
        self.used = Instant::now();
        Ok((took, self.answer(status, body)?))
    }

    /// Sends a whole request.
    pub(crate) fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.write_all(request)
    }

    /// Waits for the answer of what was sent.
    pub(crate) fn receive(&mut self) -> io::Result<Answer<'_>> {
        let (status, body) = self.read()?;
        self.used = Instant::now();
        self.answer(status, body)
    }

    fn answer(&self, status: u16, body: usize) -> io::Result<Answer<'_>> {
        let body = str::from_utf8(&self.buffer[body..])
            .map_err(|_| invalid("a body that is not UTF-8"))?;
        Ok(Answer { status, body })
    }

    /// Reads one answer into the buffer; its status and where its body begins.
    fn read(&mut self) -> io::Result<(u16, usize)> {
        self.buffer.clear();
        let head = loop {
            if let Some(head) = Head::of(&self.buffer)? {
                break head;
            }
            if self.buffer.len() > HEAD_MOST {
                return Err(invalid("a head without end"));
            }
            self.fill(4096)?;
        };
        let end = head.length + head.body;
        while self.buffer.len() < end {
            self.fill(end - self.buffer.len())?;
        }
        if self.buffer.len() > end {
            return Err(invalid("more than one answer"));
        }
        Ok((head.status, head.length))
    }

    fn fill(&mut self, most: usize) -> io::Result<()> {
        let filled = self.buffer.len();
        self.buffer.resize(filled + most.max(4096), 0);
        let read = self.stream.read(&mut self.buffer[filled..]);
        self.buffer.truncate(filled + read.as_ref().map_or(0, |read| *read));
        match read {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.to_owned())
}

/// The head of an answer.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    /// Of the head itself.
    length: usize,
    /// Of the body.
    body: usize,
}

impl Head {
    /// Reads a head, or gives nothing if it is not complete yet.
    fn of(bytes: &[u8]) -> io::Result<Option<Self>> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response
            .parse(bytes)
            .map_err(|error| invalid(&format!("a head that is not HTTP: {error}")))?;
        let httparse::Status::Complete(length) = parsed else { return Ok(None) };
        let body = response
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case("content-length"))
            .and_then(|header| str::from_utf8(header.value).ok()?.trim().parse().ok())
            .filter(|body| *body <= BODY_MOST)
            .ok_or_else(|| invalid("an answer without a usable Content-Length"))?;
        Ok(Some(Self { status: response.code.unwrap_or(0), length, body }))
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    #[test]
    fn heads_are_read_when_they_are_complete() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        let head = Head::of(whole).unwrap().unwrap();
        assert_eq!(head, Head { status: 200, length: whole.len() - 5, body: 5 });
        for end in 0..head.length {
            assert_eq!(Head::of(&whole[..end]).unwrap(), None, "{end} bytes");
        }
    }

    #[test]
    fn an_answer_whose_end_is_not_told_is_refused() {
        for head in [
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 999999999999\r\n\r\n",
            "SSH-2.0-x\r\n\r\n",
        ] {
            assert!(Head::of(head.as_bytes()).is_err(), "{head}");
        }
    }

    #[test]
    fn answers_in_pieces_are_put_together_and_the_connection_is_kept() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let service = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for body in ["one", "twelve bytes"] {
                let mut request = [0; 4];
                stream.read_exact(&mut request).unwrap();
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                for piece in [&answer[..20], &answer[20..], &body[..1], &body[1..]] {
                    stream.write_all(piece.as_bytes()).unwrap();
                    stream.flush().unwrap();
                    thread::sleep(Duration::from_millis(2));
                }
            }
        });
        let mut client = Client::connect(address).unwrap();
        for body in ["one", "twelve bytes"] {
            let (_, answer) = client.exchange(b"GET\n").unwrap();
            assert_eq!((answer.status, answer.body), (200, body));
        }
        service.join().unwrap();
        assert!(client.exchange(b"GET\n").is_err(), "the service has gone");
    }
}
