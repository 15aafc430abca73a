//! HTTP/1.1 as far as a small server needs it: heads and bodies of a known length, over one connection.
//! It does not know what they mean.

use rustix::event::{PollFd, PollFlags, Timespec};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// The beginning of a request.
pub(super) struct Head {
    pub method: String,
    pub target: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Head {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// How many bytes it carries.
    pub fn length(&self) -> u64 {
        self.header("content-length").and_then(|text| text.parse().ok()).unwrap_or(0)
    }
}

/// A connection.
pub(super) struct Wire<'a> {
    stream: &'a TcpStream,
    reader: BufReader<&'a TcpStream>,
}

impl<'a> Wire<'a> {
    pub fn new(stream: &'a TcpStream) -> io::Result<Wire<'a>> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Wire { stream, reader: BufReader::new(stream) })
    }

    /// The next request; `None` at the end, and for what is no HTTP, as a greeting of TLS is.
    pub fn head(&mut self) -> io::Result<Option<Head>> {
        let mut line = Vec::new();
        self.reader.by_ref().take(16 << 10).read_until(b'\n', &mut line)?;
        let line = String::from_utf8_lossy(&line).into_owned();
        let mut words = line.split_whitespace().map(str::to_owned);
        let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next()) else {
            return Ok(None);
        };
        if !version.starts_with("HTTP/") {
            return Ok(None);
        }
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(Some(Head { method, target, headers }))
    }

    /// So many bytes of what a request carries, or as many as come.
    pub fn body(&mut self, bytes: u64) -> Vec<u8> {
        let mut body = Vec::new();
        // What came before an error is there all the same.
        let _ = self.reader.by_ref().take(bytes).read_to_end(&mut body);
        body
    }

    /// Takes what still comes of a request within a time, and gives how many bytes it was.
    pub fn drain(&mut self, bytes: u64, time: Duration) -> u64 {
        let until = Instant::now() + time;
        let mut drained = 0;
        let mut piece = [0; 16 << 10];
        while drained < bytes && Instant::now() < until {
            if self.stream.set_read_timeout(Some(time)).is_err() {
                break;
            }
            match self.reader.by_ref().take(bytes - drained).read(&mut piece) {
                Ok(0) | Err(_) => break,
                Ok(n) => drained += n as u64,
            }
        }
        let _ = self.stream.set_read_timeout(Some(PATIENCE));
        drained
    }

    pub fn send_head(&mut self, status: u16, headers: &[(&str, String)], length: &str) -> io::Result<()> {
        let mut head = format!("HTTP/1.1 {status} Told\r\nContent-Length: {length}\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        self.stream.write_all((head + "\r\n").as_bytes())
    }

    /// Sends a body as far as it goes, and gives how many bytes that was.
    pub fn send_body(&mut self, body: &[u8]) -> u64 {
        let mut sent = 0;
        for piece in body.chunks(64 << 10) {
            if self.stream.write_all(piece).is_err() {
                break;
            }
            sent += piece.len() as u64;
        }
        sent
    }

    /// Says nothing, and takes nothing, until the other side goes away.
    pub fn wait_for_end(&mut self, time: Duration) {
        let until = Instant::now() + time;
        let mut poll = [PollFd::new(self.stream, PollFlags::RDHUP)];
        while Instant::now() < until {
            let left = Timespec { tv_sec: 1, tv_nsec: 0 };
            if !matches!(rustix::event::poll(&mut poll, Some(&left)), Ok(0)) {
                break;
            }
        }
    }

    /// Ends the connection so that the other side gets an error, not an end.
    pub fn reset(&mut self) -> io::Result<()> {
        rustix::net::sockopt::set_socket_linger(self.stream, Some(Duration::ZERO))?;
        Ok(())
    }
}
