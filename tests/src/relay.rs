//! A server in front of another: it passes on what is asked, writes down what went through, and can be told to fail.
//! One request per connection, plain HTTP on 127.0.0.1. It does not know what is asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum Fate {
    /// It is passed on.
    Passes,
    /// It is answered at once with this status, and these headers besides.
    Answered(u16, Vec<(&'static str, String)>),
    /// It is never answered, until the relay is dropped.
    Hangs,
    /// The connection is closed after so many bytes of the answer.
    CutAfter(usize),
}

/// A request that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// As `GET`.
    pub method: String,
    /// The path and what follows it.
    pub target: String,
    /// The bytes of the answer's body that went to who asked.
    pub answer_bytes: usize,
    /// The bytes of the request's body.
    pub request_bytes: usize,
}

type Decide = Box<dyn Fn(&str, &str) -> Fate + Send + Sync>;

struct Inner {
    upstream: String,
    decide: Mutex<Decide>,
    passed: Mutex<Vec<Passed>>,
    stopped: AtomicBool,
}

/// A relay that runs as long as this value lives.
pub struct Relay {
    address: String,
    inner: Arc<Inner>,
}

impl Relay {
    /// A relay to `upstream` (host and port) that passes everything on.
    pub fn to(upstream: &str) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port of 127.0.0.1");
        let address = listener.local_addr().expect("its address").to_string();
        let inner = Arc::new(Inner {
            upstream: upstream.to_owned(),
            decide: Mutex::new(Box::new(|_, _| Fate::Passes)),
            passed: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let shared = inner.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.stopped.load(Ordering::Relaxed) {
                    return;
                }
                let shared = shared.clone();
                std::thread::spawn(move || drop(shared.serve(stream)));
            }
        });
        Relay { address, inner }
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The reference of a name behind it.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// From now on `decide` says what becomes of a request, by its method and target.
    pub fn decide(&self, decide: impl Fn(&str, &str) -> Fate + Send + Sync + 'static) {
        *lock(&self.inner.decide) = Box::new(decide);
    }

    /// What went through since the last time that this was asked.
    pub fn take_passed(&self) -> Vec<Passed> {
        std::mem::take(&mut *lock(&self.inner.passed))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.inner.stopped.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(&self.address));
    }
}

impl Inner {
    fn serve(&self, mut client: TcpStream) -> std::io::Result<()> {
        client.set_read_timeout(Some(PATIENCE))?;
        let mut reader = BufReader::new(client.try_clone()?);
        let (mut head, mut body_bytes) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
            if name == "content-length" {
                body_bytes = line[name.len() + 1..].trim().parse().unwrap_or(0);
            }
            if line == "\r\n" {
                break;
            }
            if name != "connection" {
                head.push_str(&line);
            }
        }
        let mut words = head.split_whitespace().map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let fate = lock(&self.decide)(&method, &target);
        let mut body = Vec::new();
        reader.take(body_bytes).read_to_end(&mut body)?;
        let request_bytes = body.len();
        let answer_bytes = match fate {
            Fate::Hangs => {
                while !self.stopped.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(20));
                }
                return Ok(());
            }
            Fate::Answered(status, headers) => {
                let mut answer =
                    format!("HTTP/1.1 {status} Told\r\nConnection: close\r\nContent-Length: 0\r\n");
                for (name, value) in headers {
                    answer.push_str(&format!("{name}: {value}\r\n"));
                }
                client.write_all((answer + "\r\n").as_bytes())?;
                0
            }
            Fate::Passes => self.pass(&head, &body, &mut client, usize::MAX)?,
            Fate::CutAfter(bytes) => self.pass(&head, &body, &mut client, bytes)?,
        };
        lock(&self.passed).push(Passed { method, target, answer_bytes, request_bytes });
        Ok(())
    }

    /// Passes a request on, and at most `most` bytes of the answer back; gives the bytes of its body.
    fn pass(&self, head: &str, body: &[u8], client: &mut TcpStream, most: usize) -> std::io::Result<usize> {
        let mut upstream = TcpStream::connect(&self.upstream)?;
        upstream.set_read_timeout(Some(PATIENCE))?;
        upstream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes())?;
        upstream.write_all(body)?;
        let (mut passed, mut piece, mut start) = (0, vec![0; 64 << 10], Vec::new());
        let mut head_bytes = None;
        loop {
            let n = upstream.read(&mut piece)?;
            let n = n.min(most - passed);
            if n == 0 {
                break;
            }
            client.write_all(&piece[..n])?;
            passed += n;
            if head_bytes.is_none() {
                start.extend_from_slice(&piece[..n]);
                head_bytes = start.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
            }
        }
        client.shutdown(Shutdown::Both)?;
        Ok(passed - head_bytes.unwrap_or(passed))
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic in the relay")
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Relay({} to {})", self.address, self.inner.upstream)
    }
}
