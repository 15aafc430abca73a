//! One thread that answers all who connect to a socket, until it is told to stop.
//! It does not know what messages mean, nor who may connect.

use super::key::AgentKey;
use super::protocol::{Garbage, answer, first_message};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread::JoinHandle;

/// Who connects beyond this takes the place of the one that was silent longest: descriptors are few.
pub(super) const MAX_CLIENTS: usize = 64;
/// What is read at once.
const CHUNK_BYTES: usize = 16 << 10;

/// A thread that listens; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Server {
    stop: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Answers who connects to `listener`.
    pub(super) fn start(listener: UnixListener, keys: Arc<[AgentKey]>) -> std::io::Result<Server> {
        listener.set_nonblocking(true)?;
        let (stop, stopped) = UnixStream::pair()?;
        let thread = std::thread::Builder::new()
            .name("ssh-agent".to_owned())
            .spawn(move || serve(&listener, &stopped, &keys))?;
        Ok(Server { stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.stop.shutdown(std::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Who is connected.
struct Client {
    stream: UnixStream,
    /// What came and is not answered yet.
    input: Vec<u8>,
    /// What is still to be sent.
    output: Vec<u8>,
    /// The round in which it was heard last.
    heard: u64,
}

/// Whether there is more to be done with a client.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Wait,
    Close,
}

fn serve(listener: &UnixListener, stopped: &UnixStream, keys: &[AgentKey]) {
    let mut clients: Vec<Client> = Vec::new();
    let pause = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    let (mut round, mut is_full) = (0, false);
    loop {
        round += 1;
        let listens = if is_full { PollFlags::empty() } else { PollFlags::IN };
        let mut waiting = vec![PollFd::new(stopped, PollFlags::IN), PollFd::new(listener, listens)];
        waiting.extend(clients.iter().map(|client| PollFd::new(&client.stream, client.awaits())));
        match poll(&mut waiting, is_full.then_some(&pause)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            // Nothing that goes on from here would be an agent.
            Err(_) => return,
        }
        let came: Vec<bool> = waiting.iter().map(|fd| !fd.revents().is_empty()).collect();
        if came[0] {
            return;
        }
        let mut ready = came[2..].iter();
        clients.retain_mut(|client| {
            if ready.next() != Some(&true) {
                return true;
            }
            client.heard = round;
            client.go_on(keys) == Next::Wait
        });
        is_full = came[1] && !accept(listener, &mut clients, round);
    }
}

/// Lets one in. Whether that could be done: not where there are no descriptors left.
fn accept(listener: &UnixListener, clients: &mut Vec<Client>, round: u64) -> bool {
    let stream = match listener.accept() {
        Ok((stream, _)) => stream,
        Err(error) => {
            return matches!(
                error.kind(),
                ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionAborted
            );
        }
    };
    if stream.set_nonblocking(true).is_err() {
        return true;
    }
    if clients.len() >= MAX_CLIENTS
        && let Some(oldest) = (0..clients.len()).min_by_key(|&i| clients[i].heard)
    {
        clients.swap_remove(oldest);
    }
    clients.push(Client { stream, input: Vec::new(), output: Vec::new(), heard: round });
    true
}

impl Client {
    /// Who does not take its answers is not heard.
    fn awaits(&self) -> PollFlags {
        if self.output.is_empty() { PollFlags::IN } else { PollFlags::OUT }
    }

    fn go_on(&mut self, keys: &[AgentKey]) -> Next {
        let done = if self.output.is_empty() { self.read() } else { Ok(()) };
        match done.and_then(|()| self.answer(keys)) {
            Ok(()) => Next::Wait,
            Err(Garbage) => Next::Close,
        }
    }

    fn read(&mut self) -> Result<(), Garbage> {
        let mut chunk = [0; CHUNK_BYTES];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err(Garbage),
            Ok(n) => {
                self.input.extend_from_slice(&chunk[..n]);
                Ok(())
            }
            Err(e) if is_transient(&e) => Ok(()),
            Err(_) => Err(Garbage),
        }
    }

    /// Answers all messages that came, as far as the answers are taken.
    fn answer(&mut self, keys: &[AgentKey]) -> Result<(), Garbage> {
        loop {
            while !self.output.is_empty() {
                match self.stream.write(&self.output) {
                    Ok(0) => return Err(Garbage),
                    Ok(n) => drop(self.output.drain(..n)),
                    Err(e) if is_transient(&e) => return Ok(()),
                    Err(_) => return Err(Garbage),
                }
            }
            let Some(length) = first_message(&self.input)? else { return Ok(()) };
            self.output = answer(keys, &self.input[..length]);
            self.input.drain(..length);
        }
    }
}

fn is_transient(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
