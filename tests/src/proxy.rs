//! An HTTP proxy on 127.0.0.1 that wants a password, and leads every host to one address.
//! It does not know what goes through it.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// `Basic` of user `proxy-user` and password `proxy-secret`.
const WANTED: &str = "Basic cHJveHktdXNlcjpwcm94eS1zZWNyZXQ=";
const PATIENCE: Duration = Duration::from_secs(60);

/// A proxy that runs as long as this value lives.
#[derive(Debug)]
pub struct Proxy {
    address: String,
    stopped: Arc<AtomicBool>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// The password that it wants, of the user `proxy-user`.
    pub const PASSWORD: &'static str = "proxy-secret";

    /// A proxy for which all hosts are at `upstream` (host and port).
    pub fn to(upstream: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port of 127.0.0.1");
        let address = listener.local_addr().expect("its address").to_string();
        let (stopped, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (stop, log, upstream) = (stopped.clone(), asked.clone(), upstream.to_owned());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let (log, upstream) = (log.clone(), upstream.clone());
                std::thread::spawn(move || drop(pass(stream, &log, &upstream)));
            }
        });
        Proxy { address, stopped, asked }
    }

    /// Its address with this password.
    pub fn address(&self, password: &str) -> String {
        format!("http://proxy-user:{password}@{}", self.address)
    }

    /// Host and port.
    pub fn host(&self) -> &str {
        &self.address
    }

    /// What was asked for so far: `CONNECT host:port`, or the method and the address.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic in the proxy").clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(&self.address));
    }
}

fn pass(mut client: TcpStream, log: &Mutex<Vec<String>>, upstream: &str) -> std::io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(client.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let (mut head, mut is_known) = (String::new(), false);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        match line.split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("proxy-authorization") => {
                is_known = value.trim() == WANTED;
            }
            // One request for each connection, so that none goes on unseen.
            Some((name, _)) if name.eq_ignore_ascii_case("connection") => {}
            _ => head.push_str(&line),
        }
    }
    let mut words = first.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    log.lock().expect("no panic in the proxy").push(format!("{method} {target}"));
    if !is_known {
        return client.write_all(
            b"HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic realm=\"p\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        );
    }
    let mut server = TcpStream::connect(upstream)?;
    if method == "CONNECT" {
        client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
    } else {
        let path = target.splitn(4, '/').nth(3).unwrap_or_default();
        server
            .write_all(format!("{method} /{path} HTTP/1.1\r\n{head}Connection: close\r\n\r\n").as_bytes())?;
    }
    let (mut from, mut to) = (server.try_clone()?, client.try_clone()?);
    let back = std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let _ = std::io::copy(&mut reader, &mut server);
    let _ = server.shutdown(Shutdown::Write);
    let _ = back.join();
    Ok(())
}
