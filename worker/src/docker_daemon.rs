//! A Docker daemon, spoken to by its Engine API: which layers it has, and images loaded into it while they are
//! read. It does not know how an image becomes an archive.

use crate::WorkerError;
use crate::images::Images;
use kiln_oci::{DiffId, Reference};
use reqwest::{Body, Client, Method, Response};
use serde::Deserialize;
use std::fmt;
use std::io::{self, BufWriter, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::ReaderStream;

/// What is read of an answer.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Images of the daemon that are looked at for layers.
const IMAGES_MAX: usize = 256;
/// What is collected before it goes out.
const BUFFER_BYTES: usize = 256 << 10;
/// What a daemon says of itself that keeps images in containerd's store.
const CONTAINERD_STORE: &str = "io.containerd.snapshotter.v1";

/// Where a daemon listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DockerHost {
    /// A socket: `unix:///var/run/docker.sock`.
    Unix(PathBuf),
    /// Host and port without TLS: `tcp://127.0.0.1:2375`.
    Tcp(String),
}

/// What can go wrong with a daemon.
#[derive(Debug, thiserror::Error)]
pub enum DockerError {
    /// An address that can't be used.
    #[error("kiln speaks to unix:///PATH, and to tcp://HOST:PORT without TLS")]
    Address,
    /// It can't be asked.
    #[error("{0}; without --load the image is named in kiln's store alone")]
    Unreachable(String),
    /// It does not go on.
    #[error("nothing has moved for {0} s")]
    Stalled(u64),
    /// It says no.
    #[error("{0}")]
    Refused(String),
    /// What it says is no answer.
    #[error("its answer can't be read: {0}")]
    Answer(String),
}

impl DockerHost {
    /// Reads what `DOCKER_HOST` says.
    pub fn parse(text: &str) -> Result<DockerHost, WorkerError> {
        let wrong = || WorkerError::Docker { host: text.to_owned(), error: DockerError::Address };
        if let Some(path) = text.strip_prefix("unix://").filter(|path| path.starts_with('/')) {
            return Ok(DockerHost::Unix(path.into()));
        }
        let place = text.strip_prefix("tcp://").map(|place| place.trim_end_matches('/'));
        // Whatever is not host and port alone would be put into an address of the web.
        let (host, port) = place.and_then(|place| place.rsplit_once(':')).ok_or_else(wrong)?;
        let is_host = !host.is_empty() && !host.contains(['/', '@', '?', '#']);
        match port.parse::<u16>() {
            Ok(port) if is_host => Ok(DockerHost::Tcp(format!("{host}:{port}"))),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for DockerHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DockerHost::Unix(path) => write!(f, "unix://{}", path.display()),
            DockerHost::Tcp(place) => write!(f, "tcp://{place}"),
        }
    }
}

/// What is read of `GET /info`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Info {
    #[serde(default)]
    driver_status: Option<Vec<Vec<String>>>,
}

/// What is read of each image that `GET /images/json` lists.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    id: String,
}

/// What is read of `GET /images/NAME/json`.
#[derive(Debug, Default, Deserialize)]
struct Inspected {
    #[serde(rename = "RootFS", default)]
    root_fs: RootFs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RootFs {
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// What a failed answer, or a line of a load that fails, says.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    message: Option<String>,
    error: Option<String>,
}

/// A daemon.
pub(crate) struct DockerDaemon<'a> {
    host: &'a DockerHost,
    images: &'a Images<'a>,
    client: Client,
}

impl<'a> DockerDaemon<'a> {
    /// A daemon that was not asked anything yet.
    pub fn new(host: &'a DockerHost, images: &'a Images<'a>) -> Result<DockerDaemon<'a>, WorkerError> {
        // The second time it is there already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(images.client.patience().connect);
        if let DockerHost::Unix(path) = host {
            builder = builder.unix_socket(path.as_path());
        }
        let failed = |e| WorkerError::Docker { host: host.to_string(), error: unreachable(&e) };
        Ok(DockerDaemon { host, images, client: builder.build().map_err(failed)? })
    }

    /// How many of an image's layers, from the lowest up, it has and can do without. None if it keeps images where
    /// only whole ones come in.
    pub fn layers_of(&self, diff_ids: &[DiffId], names: &[Reference]) -> Result<usize, WorkerError> {
        let info: Info = self.get("/info")?.unwrap_or(Info { driver_status: None });
        if info.driver_status.iter().flatten().flatten().any(|said| said == CONTAINERD_STORE) {
            return Ok(0);
        }
        let wanted: Vec<String> = diff_ids.iter().map(|diff_id| diff_id.0.to_string()).collect();
        let mut most = 0;
        let listed = || Ok::<_, WorkerError>(self.get::<Vec<Listed>>("/images/json")?.unwrap_or_default());
        let named = names.iter().map(Reference::familiar);
        let mut left: Option<Vec<String>> = Some(named.collect());
        let mut is_listed = false;
        while let Some(images) = left.take() {
            for image in images.iter().take(IMAGES_MAX) {
                let found: Inspected = self.get(&format!("/images/{image}/json"))?.unwrap_or_default();
                let has = found.root_fs.layers.unwrap_or_default();
                most = most.max(has.iter().zip(&wanted).take_while(|(has, wanted)| has == wanted).count());
                if most == wanted.len() {
                    return Ok(most);
                }
            }
            if !is_listed {
                is_listed = true;
                left = Some(listed()?.into_iter().map(|image| image.id).collect());
            }
        }
        Ok(most)
    }

    /// Loads what `write` writes, which goes out while it is written.
    pub fn load(
        &self,
        write: impl FnOnce(&mut dyn Write) -> Result<(), WorkerError> + Send,
    ) -> Result<(), WorkerError> {
        let failed = |e| self.error(DockerError::Unreachable(e));
        let pair = UnixStream::pair().and_then(|(out, body)| {
            body.set_nonblocking(true)?;
            Ok((out.try_clone()?, out, body))
        });
        let (end, out, body) = pair.map_err(|e| failed(e.to_string()))?;
        let way = Arc::new(Way::default());
        std::thread::scope(|scope| {
            let own = Arc::clone(&way);
            let writer = scope.spawn(move || {
                let mut out = BufWriter::with_capacity(BUFFER_BYTES, Pipe { out, way: &own });
                write(&mut out)?;
                out.flush().map_err(WorkerError::io("write", "the archive"))?;
                own.is_whole.store(true, Ordering::Release);
                Ok(())
            });
            let answered = self.images.network(self.sent(body, &way));
            // Who still writes now writes for nobody.
            let _ = end.shutdown(std::net::Shutdown::Both);
            let written: Result<(), WorkerError> = writer.join().unwrap_or(Err(WorkerError::Panicked));
            match written {
                // What could not be read or made is why it ended.
                Err(error) if !way.is_broken.load(Ordering::Acquire) => Err(error),
                _ => answered,
            }
        })
    }

    /// Sends the body, and reads what comes of it.
    async fn sent(&self, body: UnixStream, way: &Arc<Way>) -> Result<(), WorkerError> {
        let body = tokio::net::UnixStream::from_std(body)
            .map_err(|e| self.error(DockerError::Unreachable(e.to_string())))?;
        let body = Upload { body, way: Arc::clone(way) };
        let request = self
            .client
            .request(Method::POST, self.url("/images/load?quiet=0"))
            .header("content-type", "application/x-tar")
            .body(Body::wrap_stream(ReaderStream::with_capacity(body, BUFFER_BYTES)));
        let response = self.while_it_moves(request.send(), way).await?;
        let status = response.status();
        let body = self.body(response, way).await?;
        let said = |line: &[u8]| serde_json::from_slice::<Said>(line).unwrap_or_default();
        if !status.is_success() {
            let text = said(&body).message.unwrap_or_else(|| status.to_string());
            return Err(self.error(DockerError::Refused(text)));
        }
        match body.split(|byte| *byte == b'\n').find_map(|line| said(line).error) {
            Some(text) => Err(self.error(DockerError::Refused(text))),
            None => Ok(()),
        }
    }

    /// A document, if it has it and tells of it.
    fn get<T: for<'d> Deserialize<'d>>(&self, path: &str) -> Result<Option<T>, WorkerError> {
        let way = Arc::new(Way::default());
        let read = async {
            let asked = self.client.request(Method::GET, self.url(path)).send();
            let response = self.while_it_moves(asked, &way).await?;
            if !response.status().is_success() {
                return Ok(None);
            }
            Ok(Some(self.body(response, &way).await?))
        };
        let Some(body) = self.images.network::<_, WorkerError>(read)? else { return Ok(None) };
        let document = serde_json::from_slice(&body);
        document.map(Some).map_err(|e| self.error(DockerError::Answer(e.to_string())))
    }

    async fn body(&self, mut response: Response, way: &Arc<Way>) -> Result<Vec<u8>, WorkerError> {
        let mut body = Vec::new();
        while let Some(piece) = self.while_it_moves(response.chunk(), way).await? {
            body.extend_from_slice(&piece);
            if body.len() > ANSWER_BYTES_MAX {
                let text = format!("it is longer than {ANSWER_BYTES_MAX} bytes");
                return Err(self.error(DockerError::Answer(text)));
            }
        }
        Ok(body)
    }

    /// Waits as long as the upload goes on, or for as long as an answer may take.
    async fn while_it_moves<T>(
        &self,
        work: impl Future<Output = Result<T, reqwest::Error>>,
        way: &Way,
    ) -> Result<T, WorkerError> {
        let patience = self.images.client.patience();
        tokio::pin!(work);
        loop {
            let before = way.sent_bytes.load(Ordering::Relaxed);
            // What was loaded whole is unpacked before it is spoken of.
            let is_whole = way.is_whole.load(Ordering::Acquire);
            let limit: Duration = if is_whole { patience.commit } else { patience.idle };
            match tokio::time::timeout(limit, &mut work).await {
                Ok(done) => return done.map_err(|e| self.error(unreachable(&e))),
                Err(_) if way.sent_bytes.load(Ordering::Relaxed) != before => {}
                Err(_) if !is_whole && way.is_whole.load(Ordering::Acquire) => {}
                Err(_) => return Err(self.error(DockerError::Stalled(limit.as_secs()))),
            }
        }
    }

    fn url(&self, path: &str) -> String {
        match self.host {
            // The name is only for the header `Host`.
            DockerHost::Unix(_) => format!("http://docker{path}"),
            DockerHost::Tcp(place) => format!("http://{place}{path}"),
        }
    }

    fn error(&self, error: DockerError) -> WorkerError {
        WorkerError::Docker { host: self.host.to_string(), error }
    }
}

/// A failure with all that is behind it.
fn unreachable(error: &reqwest::Error) -> DockerError {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    DockerError::Unreachable(cause.to_string())
}

/// What is known of an upload on its way.
#[derive(Debug, Default)]
struct Way {
    sent_bytes: AtomicU64,
    is_whole: AtomicBool,
    /// Whether nobody reads any more.
    is_broken: AtomicBool,
}

/// The end that an archive is written to.
struct Pipe<'w> {
    out: UnixStream,
    way: &'w Way,
}

impl Write for Pipe<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.out.write(buf).inspect_err(|_| self.way.is_broken.store(true, Ordering::Release))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Pipe<'_> {
    /// Who reads sees the end, although somebody else holds this socket too.
    fn drop(&mut self) {
        let _ = self.out.shutdown(std::net::Shutdown::Write);
    }
}

/// The end that is sent: it is an error, and no end, if the archive is not whole.
struct Upload {
    body: tokio::net::UnixStream,
    way: Arc<Way>,
}

impl AsyncRead for Upload {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.body).poll_read(context, buf);
        let got = buf.filled().len() - before;
        self.way.sent_bytes.fetch_add(got as u64, Ordering::Relaxed);
        match polled {
            Poll::Ready(Ok(())) if got == 0 && !self.way.is_whole.load(Ordering::Acquire) => {
                Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()))
            }
            polled => polled,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_socket_or_a_port_and_nothing_else() {
        for (text, expect) in [
            ("unix:///run/docker.sock", Some(DockerHost::Unix("/run/docker.sock".into()))),
            ("tcp://127.0.0.1:2375", Some(DockerHost::Tcp("127.0.0.1:2375".to_owned()))),
            ("tcp://[::1]:2375/", Some(DockerHost::Tcp("[::1]:2375".to_owned()))),
            ("unix://run/docker.sock", None),
            ("tcp://127.0.0.1", None),
            ("tcp://:2375", None),
            ("tcp://a@b:2375", None),
            ("tcp://a/b:2375", None),
            ("tcp://a:99999", None),
            ("ssh://me@host", None),
            ("npipe:////./pipe/docker_engine", None),
            ("", None),
        ] {
            assert_eq!(DockerHost::parse(text).ok(), expect, "{text}");
        }
    }

    #[test]
    fn a_host_is_shown_as_it_is_written() {
        for text in ["unix:///run/docker.sock", "tcp://127.0.0.1:2375"] {
            assert_eq!(DockerHost::parse(text).map(|host| host.to_string()).ok().as_deref(), Some(text));
        }
    }
}
