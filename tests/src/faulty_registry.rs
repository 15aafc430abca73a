//! A registry of our own, in this process, that works and can be told to fail: HTTP/1.1 on 127.0.0.1 with connections
//! that are kept. It writes down every request. What a registry answers is in `faulty_registry/protocol.rs`.

mod protocol;
mod wire;

pub use protocol::{Let, Nature, Uploads};

use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use wire::{Head, Wire};

/// How long a stalled connection stays open before the server itself gives it up.
const STALL_MAX: Duration = Duration::from_secs(60);
/// How long a server that closes early still takes what is on its way, so that its answer is not lost.
const LINGER: Duration = Duration::from_millis(300);

/// What goes wrong with a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It is answered with this at once; what it carries is not looked at.
    Answer(Told),
    /// It is answered with this when so many bytes of what it carries were taken, and kept.
    AnswerAfter(u64, Told),
    /// The answer comes so much later.
    Late(Duration),
    /// The connection ends after so many bytes of the answer's body.
    CutAfter(u64),
    /// The connection ends after so many bytes of what the request carries; they are kept.
    CutRequestAfter(u64),
    /// Nothing more is taken or answered after so many bytes of what the request carries; they are kept.
    StallRequestAfter(u64),
    /// The connection is reset before anything is answered.
    Reset,
    /// What the request asks for is done; the connection ends before the answer.
    LoseAnswer,
    /// After so many bytes of the answer's body the others come one by one, with this pause before each.
    DripAfter(u64, Duration),
    /// Nothing more comes after so many bytes of the answer's body.
    StallAfter(u64),
    /// The body is another one, and its length is told rightly.
    Body(Vec<u8>),
    /// The body is the right one, its length is told as this.
    Length(String),
    /// The answer has one more header, which replaces its own of that name.
    Header(&'static str, String),
}

/// An answer of a test's own making.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// The status.
    pub status: u16,
    /// The headers besides Content-Length.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Told {
    /// A status and nothing else.
    pub fn status(status: u16) -> Told {
        Told { status, ..Told::default() }
    }

    /// The same with one more header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Told {
        self.headers.push((name, value.into()));
        self
    }

    /// The same with a body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Told {
        self.body = body.into();
        self
    }
}

/// A request, as who decides about its fault sees it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// As `GET`.
    pub method: String,
    /// The path and the query.
    pub target: String,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// How many requests of this method and [kind](Asked::kind) came before.
    pub nth: usize,
}

impl Asked {
    /// What it is about: `manifests`, `blobs`, `uploads`, `token`, `storage`, or else the path.
    pub fn kind(&self) -> &str {
        protocol::kind(&self.target)
    }

    /// Whether it is of this method and kind.
    pub fn is(&self, method: &str, kind: &str) -> bool {
        self.method == method && self.kind() == kind
    }

    /// A header, its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// A request that came, and what became of it.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The request.
    pub asked: Asked,
    /// The status of the answer; 0 if there was none.
    pub status: u16,
    /// How many bytes of what it carried were taken.
    pub bytes_in: u64,
    /// How many bytes of the answer's body were sent.
    pub bytes_out: u64,
    /// When it came.
    pub at: Instant,
}

impl Recorded {
    /// `METHOD kind status`, with the range that was asked for.
    pub fn line(&self) -> String {
        let range = self.asked.header("range").or_else(|| self.asked.header("content-range"));
        let range = range.map(|range| format!(" [{range}]")).unwrap_or_default();
        format!("{} {}{range} {}", self.asked.method, self.asked.kind(), self.status)
    }
}

type Script = Box<dyn Fn(&Asked) -> Option<Fault> + Send + Sync>;

struct Inner {
    address: String,
    registry: protocol::Registry,
    script: Mutex<Script>,
    log: Mutex<Vec<Recorded>>,
    /// How many requests are being answered, and the most at once since the last script.
    busy: Mutex<(usize, usize)>,
    stopped: AtomicBool,
}

/// A registry that runs as long as this value lives.
pub struct FaultyRegistry {
    inner: Arc<Inner>,
}

impl FaultyRegistry {
    /// A registry that takes everything, from anybody.
    pub fn start() -> FaultyRegistry {
        FaultyRegistry::of(Nature::default())
    }

    /// A registry of another nature.
    pub fn of(nature: Nature) -> FaultyRegistry {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port of 127.0.0.1");
        let address = listener.local_addr().expect("its address").to_string();
        let inner = Arc::new(Inner {
            registry: protocol::Registry::new(&address, nature),
            address,
            script: Mutex::new(Box::new(|_| None)),
            log: Mutex::default(),
            busy: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let shared = inner.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if shared.stopped.load(Ordering::Relaxed) {
                    return;
                }
                let shared = shared.clone();
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        FaultyRegistry { inner }
    }

    /// Host and port.
    pub fn address(&self) -> &str {
        &self.inner.address
    }

    /// Its port.
    pub fn port(&self) -> &str {
        self.address().rsplit(':').next().unwrap_or_default()
    }

    /// The reference of a name in it.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address())
    }

    /// Puts a blob into it, without a request.
    pub fn put_blob(&self, repository: &str, bytes: &[u8]) {
        self.inner.registry.put_blob(repository, bytes);
    }

    /// Puts a manifest or an index into it, without a request.
    pub fn put_manifest(&self, repository: &str, tag: &str, kind: &str, bytes: &[u8]) {
        self.inner.registry.put_manifest(repository, tag, kind, bytes);
    }

    /// A manifest that it has, by tag or digest.
    pub fn manifest(&self, repository: &str, pointer: &str) -> Option<Vec<u8>> {
        self.inner.registry.manifest(repository, pointer).map(|(_, bytes)| bytes)
    }

    /// A blob that it has.
    pub fn blob(&self, repository: &str, digest: &str) -> Option<Arc<Vec<u8>>> {
        self.inner.registry.blob(repository, digest)
    }

    /// From now on, and counting anew, `script` says what goes wrong with a request.
    pub fn script(&self, script: impl Fn(&Asked) -> Option<Fault> + Send + Sync + 'static) {
        *lock(&self.inner.script) = Box::new(script);
        lock(&self.inner.log).clear();
        lock(&self.inner.busy).1 = 0;
    }

    /// The requests since the last script.
    pub fn recorded(&self) -> Vec<Recorded> {
        lock(&self.inner.log).clone()
    }

    /// The same, each as a [line](Recorded::line).
    pub fn lines(&self) -> Vec<String> {
        self.recorded().iter().map(Recorded::line).collect()
    }

    /// The most requests that were answered at once since the last script.
    pub fn at_once(&self) -> usize {
        lock(&self.inner.busy).1
    }

    /// The bytes that went in and out as bodies.
    pub fn moved(&self) -> u64 {
        self.recorded().iter().map(|one| one.bytes_in + one.bytes_out).sum()
    }

    /// The requests that brought credentials where they do not belong: to another name or address than this
    /// registry's, or to its storage, which stands for a host of its own.
    pub fn leaks(&self, is_own: bool) -> usize {
        let is_leak = |one: &&Recorded| {
            let asked = &one.asked;
            let is_known =
                is_own && asked.header("host") == Some(self.address()) && asked.kind() != "storage";
            asked.header("authorization").is_some() && !is_known
        };
        self.recorded().iter().filter(is_leak).count()
    }
}

impl Drop for FaultyRegistry {
    fn drop(&mut self) {
        self.inner.stopped.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        drop(TcpStream::connect(self.address()));
    }
}

impl std::fmt::Debug for FaultyRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FaultyRegistry({})", self.address())
    }
}

impl Inner {
    /// Answers the requests of a connection, until either side ends it.
    fn serve(&self, stream: TcpStream) {
        let Ok(mut wire) = Wire::new(&stream) else { return };
        while let Ok(Some(head)) = wire.head() {
            let (fault, place) = self.noted(&head);
            {
                let mut busy = lock(&self.busy);
                *busy = (busy.0 + 1, busy.1.max(busy.0 + 1));
            }
            let done = self.one(&mut wire, &head, fault, place);
            lock(&self.busy).0 -= 1;
            if !matches!(done, Ok(true)) {
                break;
            }
        }
        let _ = stream.shutdown(Shutdown::Both);
    }

    /// Writes a request down and asks the script about it; gives its place in the log.
    fn noted(&self, head: &Head) -> (Option<Fault>, usize) {
        let mut log = lock(&self.log);
        let mut asked = Asked {
            method: head.method.clone(),
            target: head.target.clone(),
            headers: head.headers.clone(),
            nth: 0,
        };
        asked.nth = log.iter().filter(|one| one.asked.is(&asked.method, asked.kind())).count();
        let fault = lock(&self.script)(&asked);
        log.push(Recorded { asked, status: 0, bytes_in: 0, bytes_out: 0, at: Instant::now() });
        (fault, log.len() - 1)
    }

    fn record(&self, place: usize, change: impl FnOnce(&mut Recorded)) {
        if let Some(one) = lock(&self.log).get_mut(place) {
            change(one);
        }
    }

    /// Deals with one request; whether the connection is still good.
    fn one(
        &self,
        wire: &mut Wire<'_>,
        head: &Head,
        fault: Option<Fault>,
        place: usize,
    ) -> std::io::Result<bool> {
        let length = head.length();
        let refused = || self.registry.refused(head).map(Fault::Answer);
        let fault = fault.or_else(refused);
        match fault {
            Some(Fault::Reset) => return wire.reset().map(|()| false),
            Some(Fault::Answer(told)) => {
                self.record(place, |one| one.status = told.status);
                self.send(wire, head, place, &told, None)?;
                // What is on its way is taken and thrown away, as real servers do.
                let late = wire.drain(length, LINGER);
                self.record(place, |one| one.bytes_in = late);
                return Ok(late == length);
            }
            Some(Fault::Late(wait)) => std::thread::sleep(wait),
            _ => {}
        }
        let wanted = match &fault {
            Some(
                Fault::CutRequestAfter(bytes)
                | Fault::StallRequestAfter(bytes)
                | Fault::AnswerAfter(bytes, _),
            ) => (*bytes).min(length),
            _ => length,
        };
        let body = wire.body(wanted);
        self.record(place, |one| one.bytes_in = body.len() as u64);
        let is_whole = body.len() as u64 == length;
        let told = self.registry.answer(head, &body, is_whole);
        let told = match &fault {
            Some(Fault::CutRequestAfter(_) | Fault::LoseAnswer) => return Ok(false),
            Some(Fault::StallRequestAfter(_)) => {
                wire.wait_for_end(STALL_MAX);
                return Ok(false);
            }
            Some(Fault::AnswerAfter(_, own)) => own.clone(),
            _ if !is_whole => return Ok(false),
            Some(Fault::Body(body)) => {
                let status = if told.status == 206 { 200 } else { told.status };
                Told { status, body: body.clone(), ..told }
            }
            Some(Fault::Header(name, value)) => {
                let mut told = told;
                told.headers.retain(|(have, _)| !have.eq_ignore_ascii_case(name));
                told.header(name, value.clone())
            }
            _ => told,
        };
        self.record(place, |one| one.status = told.status);
        let good = self.send(wire, head, place, &told, fault.as_ref())?;
        if !is_whole {
            wire.drain(length - wanted, LINGER);
        }
        Ok(good && is_whole)
    }

    /// Sends an answer; whether all of it went out as it should.
    fn send(
        &self,
        wire: &mut Wire<'_>,
        head: &Head,
        place: usize,
        told: &Told,
        fault: Option<&Fault>,
    ) -> std::io::Result<bool> {
        let length = match fault {
            Some(Fault::Length(length)) => length.clone(),
            _ => told.body.len().to_string(),
        };
        wire.send_head(told.status, &told.headers, &length)?;
        let body: &[u8] = if head.method == "HEAD" { &[] } else { &told.body };
        let most = match fault {
            Some(Fault::CutAfter(bytes) | Fault::StallAfter(bytes) | Fault::DripAfter(bytes, _))
                if head.method != "HEAD" =>
            {
                *bytes
            }
            _ => u64::MAX,
        };
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(body.len());
        let sent = wire.send_body(&body[..most]);
        self.record(place, |one| one.bytes_out = sent);
        if let Some(Fault::DripAfter(_, pause)) = fault {
            let until = Instant::now() + STALL_MAX;
            for byte in &body[most..] {
                std::thread::sleep(*pause);
                if wire.send_body(&[*byte]) == 0 || Instant::now() > until {
                    return Ok(false);
                }
                self.record(place, |one| one.bytes_out += 1);
            }
            return Ok(true);
        }
        if matches!(fault, Some(Fault::StallAfter(_))) && most < body.len() {
            wire.wait_for_end(STALL_MAX);
        }
        Ok(most == body.len() && sent == most as u64 && !matches!(fault, Some(Fault::Length(_))))
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic in the registry")
}
