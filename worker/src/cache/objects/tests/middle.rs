//! What stands between a client and a server, and spoils some of the connections. It does not know HTTP beyond
//! the answers that it makes up.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What is done to one connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// It ends after so many bytes of answers.
    CutAfter(usize),
    /// The request is answered with this status, and not passed on.
    Say(u16),
    /// Nothing is ever answered.
    Hang,
}

/// Something in the middle, as long as the process lives.
#[derive(Debug)]
pub(super) struct Middle {
    port: u16,
    connections: Arc<AtomicUsize>,
}

impl Middle {
    /// Connections are treated in the order of `ways`; those after them are left alone.
    pub fn start(server: String, ways: Vec<Way>) -> Middle {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let way = ways.get(count.fetch_add(1, Ordering::SeqCst)).copied();
                let server = server.clone();
                std::thread::spawn(move || serve(client, &server, way));
            }
        });
        Middle { port, connections }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

fn serve(mut client: TcpStream, server: &str, way: Option<Way>) {
    let limit = match way {
        Some(Way::Say(status)) => {
            let _ = client.read(&mut [0; 64 << 10]);
            let body = if status == 404 { "<Error><Code>NoSuchBucket</Code></Error>" } else { "" };
            let head = format!("HTTP/1.1 {status} No\r\nContent-Length: {}\r\nConnection: close", body.len());
            let _ = client.write_all(format!("{head}\r\n\r\n{body}").as_bytes());
            return;
        }
        Some(Way::Hang) => {
            while client.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {}
            return;
        }
        Some(Way::CutAfter(limit)) => limit,
        None => usize::MAX,
    };
    let mut upstream = TcpStream::connect(server).expect("the server");
    let (mut from, mut to) = (client.try_clone().expect("a clone"), upstream.try_clone().expect("a clone"));
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let _ = std::io::copy(&mut (&mut upstream).take(limit as u64), &mut client);
    let _ = client.shutdown(Shutdown::Both);
    let _ = upstream.shutdown(Shutdown::Both);
}
