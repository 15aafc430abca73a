//! The agent's protocol (draft-miller-ssh-agent): a message in, the answer out.
//! It does not know how messages come and go, nor how a signature is made.

use super::key::{AgentKey, RsaHash, put_string};

/// A message has at most this many bytes, as with OpenSSH.
pub(super) const MAX_MESSAGE_BYTES: usize = 256 << 10;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

const RSA_SHA2_256: u32 = 2;
const RSA_SHA2_512: u32 = 4;

/// What a peer sent can't be a message: there is no way on with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Garbage;

/// How many bytes at the start of what came are the first message, with its length: `None` as long as some are missing.
pub(super) fn first_message(came: &[u8]) -> Result<Option<usize>, Garbage> {
    let Some((length, rest)) = came.split_first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| Garbage)?;
    match length {
        0 => Err(Garbage),
        _ if length > MAX_MESSAGE_BYTES => Err(Garbage),
        _ => Ok((rest.len() >= length).then_some(4 + length)),
    }
}

/// The answer to a message; both with their lengths before them.
pub(super) fn answer(keys: &[AgentKey], message: &[u8]) -> Vec<u8> {
    let body = message.get(4..).and_then(|body| answer_body(keys, body)).unwrap_or_else(|| vec![FAILURE]);
    let mut out = Vec::with_capacity(4 + body.len());
    put_string(&mut out, &body);
    out
}

/// `None` is a failure: of all that agents can be asked, only what a step needs is done.
fn answer_body(keys: &[AgentKey], body: &[u8]) -> Option<Vec<u8>> {
    match body.split_first()? {
        (&REQUEST_IDENTITIES, []) => {
            let mut out = vec![IDENTITIES_ANSWER];
            out.extend_from_slice(&u32::try_from(keys.len()).ok()?.to_be_bytes());
            for key in keys {
                put_string(&mut out, key.public());
                put_string(&mut out, b"");
            }
            Some(out)
        }
        (&SIGN_REQUEST, rest) => {
            let (public, rest) = take_string(rest)?;
            let (data, rest) = take_string(rest)?;
            let flags = u32::from_be_bytes(rest.try_into().ok()?);
            let hash = match flags {
                _ if flags & RSA_SHA2_256 != 0 => Some(RsaHash::Sha256),
                _ if flags & RSA_SHA2_512 != 0 => Some(RsaHash::Sha512),
                _ => None,
            };
            let key = keys.iter().find(|key| key.public() == public)?;
            let mut out = vec![SIGN_RESPONSE];
            put_string(&mut out, &key.sign(data, hash)?);
            Some(out)
        }
        _ => None,
    }
}

/// Bytes with their length before them, and what is after them.
pub(super) fn take_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}
