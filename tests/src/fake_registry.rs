//! A registry that misbehaves: it answers whatever the test tells it to. One request per connection,
//! plain HTTP on 127.0.0.1. It does not know the distribution protocol.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The headers besides Content-Length and Connection.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Reply {
    /// An answer without headers of its own.
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply { status, headers: Vec::new(), body: body.into() }
    }

    /// The same with one more header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Reply {
        self.headers.push((name, value.into()));
        self
    }
}

/// A server that answers as told, until it is dropped.
#[derive(Debug)]
pub struct FakeRegistry {
    address: String,
    stopped: Arc<AtomicBool>,
    requests: Arc<Mutex<Vec<String>>>,
    authorizations: Arc<Mutex<Vec<String>>>,
}

impl FakeRegistry {
    /// Starts a server that answers each request (its method and its target) with what `answer` makes.
    pub fn start(answer: impl Fn(&str, &str) -> Reply + Send + Sync + 'static) -> FakeRegistry {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port of 127.0.0.1");
        let address = listener.local_addr().expect("its address").to_string();
        let stopped = Arc::new(AtomicBool::new(false));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let authorizations = Arc::new(Mutex::new(Vec::new()));
        let (stop, seen, answer) = (stopped.clone(), requests.clone(), Arc::new(answer));
        let shown = authorizations.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let (seen, shown, answer) = (seen.clone(), shown.clone(), answer.clone());
                std::thread::spawn(move || drop(serve(stream, (&seen, &shown), answer.as_ref())));
            }
        });
        FakeRegistry { address, stopped, requests, authorizations }
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The requests so far, each as `METHOD target`.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no panic in the server").clone()
    }

    /// The `Authorization` headers so far.
    pub fn authorizations(&self) -> Vec<String> {
        self.authorizations.lock().expect("no panic in the server").clone()
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(&self.address));
    }
}

/// An address of 127.0.0.1 where nobody listens.
pub fn closed_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of 127.0.0.1");
    listener.local_addr().expect("its address").to_string()
}

fn serve(
    stream: TcpStream,
    (seen, shown): (&Mutex<Vec<String>>, &Mutex<Vec<String>>),
    answer: &(impl Fn(&str, &str) -> Reply + ?Sized),
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut words = first.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    seen.lock().expect("no panic in the server").push(format!("{method} {target}"));
    let mut body_bytes = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            body_bytes = value.trim().parse().unwrap_or(0);
        }
        if name.eq_ignore_ascii_case("authorization") {
            shown.lock().expect("no panic in the server").push(value.trim().to_owned());
        }
    }
    std::io::copy(&mut reader.take(body_bytes), &mut std::io::sink())?;
    let reply = answer(method, target);
    let mut head = format!("HTTP/1.1 {} Told\r\nConnection: close\r\n", reply.status);
    head.push_str(&format!("Content-Length: {}\r\n", reply.body.len()));
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let mut stream = stream;
    stream.write_all(head.as_bytes())?;
    if method != "HEAD" {
        stream.write_all(&reply.body)?;
    }
    stream.flush()
}
