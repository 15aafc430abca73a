//! A real server of S3's protocol, the program s3s-fs, as a child process on a free port of 127.0.0.1, with one
//! bucket in a folder of its own. It checks signatures. It does not know caches, nor the rest of this crate: the
//! worker's own tests include this file too.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The only bucket.
pub const S3_BUCKET: &str = "cache";
/// The key's id that the server takes.
pub const S3_KEY_ID: &str = "AKIDKILN";
/// The key.
pub const S3_SECRET: &str = "kiln-tests-secret";

const START_PATIENCE: Duration = Duration::from_secs(20);

/// How the program gets to where it is looked for.
const HOW: &str = "s3s-fs, the S3 server of the tests, is not there. `./check` installs it, and so does\n    \
    cargo install s3s-fs --version 0.14.1 --features binary --locked --root target/tools";

/// A server that runs as long as this value lives.
#[derive(Debug)]
pub struct S3Server {
    port: u16,
    folder: PathBuf,
    keeper: Mutex<Child>,
}

impl S3Server {
    /// A server with the empty bucket [`S3_BUCKET`].
    pub fn start() -> S3Server {
        // Between finding a free port and its use, another process can take it.
        for _ in 0..5 {
            let folder = tempfile::Builder::new().prefix("s3-").tempdir().expect("a temporary folder").keep();
            std::fs::create_dir_all(folder.join("data").join(S3_BUCKET)).expect("the bucket's folder");
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port of 127.0.0.1");
            let port = listener.local_addr().expect("its address").port();
            drop(listener);
            let keeper = Mutex::new(serve(&program(), &folder, port));
            let server = S3Server { port, folder, keeper };
            if server.answers() {
                return server;
            }
        }
        panic!("s3s-fs does not answer")
    }

    /// Host and port.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What to give as `endpoint_url`, with `use_path_style=true`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The file that an object of the bucket is in.
    pub fn object(&self, key: &str) -> PathBuf {
        self.folder.join("data").join(S3_BUCKET).join(key)
    }

    /// The folder that the server works in.
    pub fn folder(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Ends the server as `kill -9` does, with whatever it is at.
    pub fn kill(&self) {
        let mut keeper = self.keeper.lock().expect("the keeper");
        drop(keeper.stdin.take());
        let _ = keeper.wait();
    }

    fn answers(&self) -> bool {
        let start = Instant::now();
        while start.elapsed() < START_PATIENCE {
            if TcpStream::connect(self.address()).is_ok() {
                return true;
            }
            if self.keeper.lock().expect("the keeper").try_wait().is_ok_and(|ended| ended.is_some()) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The program: where `check` installs it, or where the shell finds it.
fn program() -> PathBuf {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/bin/s3s-fs");
    if installed.is_file() {
        return installed;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("s3s-fs")).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("{HOW}"))
}

/// Runs the server until standard input is closed or it ends by itself, and removes the folder then.
const KEEPER: &str = r#"
    trap '' INT TERM HUP
    "$1" --host 127.0.0.1 --port "$3" --access-key "$4" --secret-key "$5" "$2/data" \
        < /dev/null > /dev/null 2> "$2/log" &
    read -r _
    kill -KILL $!
    wait $!
    rm -rf "$2"
"#;

/// Starts the keeper: a shell that ends the server when the pipe to the shell is closed, which happens also when
/// this process dies.
fn serve(program: &Path, folder: &Path, port: u16) -> Child {
    Command::new("sh")
        .args(["-c", KEEPER, "sh"])
        .args([program, folder])
        .args([&port.to_string(), S3_KEY_ID, S3_SECRET])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a shell")
}
