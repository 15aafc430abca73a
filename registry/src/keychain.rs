//! Programs that keep credentials, in the protocol of docker's helpers: `docker-credential-NAME get`, `store`, `erase`.
//! It does not know who names them.

use crate::credentials::Credentials;
use crate::error::printable;
use serde::{Deserialize, Serialize};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const OUTPUT_BYTES_MAX: u64 = 1024 * 1024;
/// The user name under which helpers give an identity token.
const TOKEN_USER: &str = "<token>";

/// What it has for a registry. `None`: nothing.
pub(crate) async fn get(helper: &str, key: &str, time: Duration) -> Result<Option<Credentials>, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        #[serde(default)]
        username: String,
        secret: String,
    }
    let (succeeded, output) = ask(helper, "get", key.as_bytes(), time).await?;
    if !succeeded {
        let message = printable(&String::from_utf8_lossy(&output));
        return if says_none(&message) { Ok(None) } else { Err(or_silent(message)) };
    }
    let Ok(answer) = serde_json::from_slice::<Answer>(&output) else {
        return Err("its answer cannot be read".to_owned());
    };
    Ok(match answer {
        Answer { username, secret } if username.is_empty() && secret.is_empty() => None,
        Answer { username, secret } if username == TOKEN_USER => {
            Some(Credentials::IdentityToken { username, token: secret })
        }
        Answer { username, secret } => Some(Credentials::Basic { username, password: secret }),
    })
}

/// Gives it credentials to keep.
pub(crate) async fn store(
    helper: &str,
    key: &str,
    (username, secret): (&str, &str),
    time: Duration,
) -> Result<(), String> {
    #[derive(Serialize)]
    struct Entry<'a> {
        #[serde(rename = "ServerURL")]
        key: &'a str,
        #[serde(rename = "Username")]
        username: &'a str,
        #[serde(rename = "Secret")]
        secret: &'a str,
    }
    let entry = serde_json::to_vec(&Entry { key, username, secret }).map_err(|e| e.to_string())?;
    match ask(helper, "store", &entry, time).await? {
        (true, _) => Ok(()),
        // What it says may quote what it was given.
        (false, output) => {
            let message = printable(&String::from_utf8_lossy(&output));
            Err(if message.contains(secret) { or_silent(String::new()) } else { or_silent(message) })
        }
    }
}

/// Makes it forget a registry; says whether it knew it.
pub(crate) async fn erase(helper: &str, key: &str, time: Duration) -> Result<bool, String> {
    match ask(helper, "erase", key.as_bytes(), time).await? {
        (true, _) => Ok(true),
        (false, output) => {
            let message = printable(&String::from_utf8_lossy(&output));
            if says_none(&message) { Ok(false) } else { Err(or_silent(message)) }
        }
    }
}

fn says_none(message: &str) -> bool {
    message.contains("credentials not found") || message.contains("no credentials server URL")
}

fn or_silent(message: String) -> String {
    if message.is_empty() { "it failed and did not say why".to_owned() } else { message }
}

async fn ask(helper: &str, verb: &str, input: &[u8], time: Duration) -> Result<(bool, Vec<u8>), String> {
    if helper.contains('/') {
        return Err("its name contains a slash".to_owned());
    }
    match tokio::time::timeout(time, talk(helper, verb, input)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(e)) if e.kind() == std::io::ErrorKind::NotFound => {
            Err("there is no program of that name in the PATH".to_owned())
        }
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => Err(format!("it did not answer within {} s", time.as_secs_f32())),
    }
}

/// Whether the helper succeeded, and what it printed. It is killed when this is dropped.
async fn talk(helper: &str, verb: &str, input: &[u8]) -> std::io::Result<(bool, Vec<u8>)> {
    let mut child = tokio::process::Command::new(helper)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let mut output = Vec::new();
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input may answer all the same.
        let _ = stdin.write_all(input).await;
    }
    if let Some(stdout) = child.stdout.take() {
        stdout.take(OUTPUT_BYTES_MAX).read_to_end(&mut output).await?;
    }
    Ok((child.wait().await?.success(), output))
}
