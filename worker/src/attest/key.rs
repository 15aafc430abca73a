//! Private keys that sign images: those of cosign, locked with a password or not, for ECDSA over P-256. It does
//! not know what is signed.
//!
//! A locked key (go-securesystemslib's `encrypted`) is JSON in PEM:
//! ```text
//! {"kdf":    {"name":"scrypt","params":{"N":65536,"r":8,"p":1},"salt":BASE64},
//!  "cipher": {"name":"nacl/secretbox","nonce":BASE64},
//!  "ciphertext": BASE64 of the locked PKCS#8}
//! ```

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use crypto_secretbox::aead::Aead;
use crypto_secretbox::{KeyInit, XSalsa20Poly1305};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use serde::Deserialize;
use zeroize::Zeroizing;

/// The kinds of PEM that hold a locked key.
const LOCKED: [&str; 2] = ["ENCRYPTED SIGSTORE PRIVATE KEY", "ENCRYPTED COSIGN PRIVATE KEY"];
/// The kind of PEM that holds a key as it is, in PKCS#8.
const OPEN: &str = "PRIVATE KEY";
/// What a key may want of memory to be unlocked, in bytes: 128 × N × r.
const SCRYPT_BYTES_MAX: u64 = 512 << 20;
/// How often that much may be gone through.
const SCRYPT_P_MAX: u32 = 4;

/// Why a file is no key that can be used.
#[derive(Debug, thiserror::Error)]
pub enum SignKeyError {
    /// No PEM.
    #[error("it is not a key in PEM")]
    Pem,
    /// PEM of something else.
    #[error("it holds a `{0}`: a key of cosign's or a `PRIVATE KEY` (PKCS#8) is wanted")]
    Kind(String),
    /// Locked, and no password was given.
    #[error("it is locked: set COSIGN_PASSWORD to its password")]
    Locked,
    /// Locked in another way than cosign does.
    #[error("it is locked in a way that kiln does not know: {0}")]
    Lock(&'static str),
    /// Locked with another password.
    #[error("COSIGN_PASSWORD is not its password")]
    Password,
    /// Not for this kind of signature.
    #[error("it is not a private key for ECDSA over P-256 in PKCS#8 with its public half")]
    Algorithm,
    /// The system gave no random numbers.
    #[error("nothing could be signed with it")]
    Sign,
}

/// A private key.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey")
    }
}

#[derive(Deserialize)]
struct Locked {
    kdf: Kdf,
    cipher: Cipher,
    ciphertext: String,
}

#[derive(Deserialize)]
struct Kdf {
    name: String,
    params: Params,
    salt: String,
}

#[derive(Deserialize)]
struct Params {
    #[serde(rename = "N")]
    n: u64,
    r: u32,
    p: u32,
}

#[derive(Deserialize)]
struct Cipher {
    name: String,
    nonce: String,
}

impl SigningKey {
    /// Reads a key from the text of its file; a locked one with its password.
    pub fn read(text: &str, password: Option<&[u8]>) -> Result<SigningKey, SignKeyError> {
        let (kind, bytes) = pem(text).ok_or(SignKeyError::Pem)?;
        let pkcs8 = match kind {
            OPEN => bytes,
            kind if LOCKED.contains(&kind) => unlocked(&bytes, password.ok_or(SignKeyError::Locked)?)?,
            other => return Err(SignKeyError::Kind(other.to_owned())),
        };
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8, &random);
        Ok(SigningKey { pair: pair.map_err(|_| SignKeyError::Algorithm)?, random })
    }

    /// A signature of `message`, in ASN.1.
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignKeyError> {
        let signature = self.pair.sign(&self.random, message).map_err(|_| SignKeyError::Sign)?;
        Ok(signature.as_ref().to_vec())
    }

    /// Whether a signature of `message` is by this key.
    pub(super) fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, self.pair.public_key());
        public.verify(message, signature).is_ok()
    }
}

/// The kind and the bytes of the first block of a PEM file.
fn pem(text: &str) -> Option<(&str, Zeroizing<Vec<u8>>)> {
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (kind, rest) = rest.split_once("-----")?;
    let (body, _) = rest.split_once(&format!("-----END {kind}-----"))?;
    let body = Zeroizing::new(body.split_whitespace().collect::<String>());
    Some((kind, Zeroizing::new(BASE64_STANDARD.decode(body.as_bytes()).ok()?)))
}

fn unlocked(bytes: &[u8], password: &[u8]) -> Result<Zeroizing<Vec<u8>>, SignKeyError> {
    let locked: Locked =
        serde_json::from_slice(bytes).map_err(|_| SignKeyError::Lock("no JSON of cosign's"))?;
    if locked.kdf.name != "scrypt" || locked.cipher.name != "nacl/secretbox" {
        return Err(SignKeyError::Lock("neither scrypt nor nacl/secretbox"));
    }
    let Params { n, r, p } = locked.kdf.params;
    let is_bounded = n.checked_mul(u64::from(r)).and_then(|blocks| blocks.checked_mul(128));
    if !n.is_power_of_two() || is_bounded.is_none_or(|bytes| bytes > SCRYPT_BYTES_MAX) || p > SCRYPT_P_MAX {
        return Err(SignKeyError::Lock("it asks for too much memory or time"));
    }
    let strange = |_| SignKeyError::Lock("its parameters have no sense");
    let params = scrypt::Params::new(n.ilog2() as u8, r, p, 32).map_err(|_| strange(()))?;
    let decoded = |text: &str| BASE64_STANDARD.decode(text).map_err(|_| strange(()));
    let (salt, nonce) = (decoded(&locked.kdf.salt)?, decoded(&locked.cipher.nonce)?);
    let nonce: [u8; 24] = nonce.try_into().map_err(|_| strange(()))?;
    let mut key = Zeroizing::new([0; 32]);
    scrypt::scrypt(password, &salt, &params, key.as_mut_slice()).map_err(|_| strange(()))?;
    let cipher = XSalsa20Poly1305::new(key.as_slice().into());
    let opened = cipher.decrypt(&nonce.into(), decoded(&locked.ciphertext)?.as_slice());
    opened.map(Zeroizing::new).map_err(|_| SignKeyError::Password)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pkcs8() -> Vec<u8> {
        let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
        made.map(|made| made.as_ref().to_vec()).unwrap_or_default()
    }

    fn in_pem(kind: &str, bytes: &[u8]) -> String {
        let body = BASE64_STANDARD.encode(bytes);
        let lines: Vec<&str> =
            body.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
        format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", lines.join("\n"))
    }

    fn locked(pkcs8: &[u8], password: &[u8], n: u64) -> String {
        let (salt, nonce, mut key) = ([7; 32], [9; 24], [0; 32]);
        let params = scrypt::Params::new(n.ilog2() as u8, 8, 1, 32).unwrap_or_else(|e| panic!("{e}"));
        scrypt::scrypt(password, &salt, &params, &mut key).unwrap_or_else(|e| panic!("{e}"));
        let sealed = XSalsa20Poly1305::new(&key.into()).encrypt(&nonce.into(), pkcs8);
        let sealed = sealed.unwrap_or_else(|e| panic!("{e}"));
        json!({
            "kdf": {"name": "scrypt", "params": {"N": n, "r": 8, "p": 1}, "salt": BASE64_STANDARD.encode(salt)},
            "cipher": {"name": "nacl/secretbox", "nonce": BASE64_STANDARD.encode(nonce)},
            "ciphertext": BASE64_STANDARD.encode(sealed),
        })
        .to_string()
    }

    #[test]
    fn a_locked_key_and_an_open_one_sign() {
        let pkcs8 = pkcs8();
        let open = SigningKey::read(&in_pem(OPEN, &pkcs8), None);
        let json = locked(&pkcs8, b"pw", 1024);
        let texts = LOCKED.map(|kind| in_pem(kind, json.as_bytes()));
        for key in [open].into_iter().chain(texts.iter().map(|text| SigningKey::read(text, Some(b"pw")))) {
            let key = key.unwrap_or_else(|e| panic!("{e}"));
            let signature = key.sign(b"message").unwrap_or_else(|e| panic!("{e}"));
            assert!(key.has_signed(b"message", &signature) && !key.has_signed(b"other", &signature));
            assert_eq!(format!("{key:?}"), "SigningKey");
        }
    }

    /// Locked by other code: libsodium's secretbox, OpenSSL's scrypt. Nobody trusts it.
    const OF_OTHERS: &str = include_str!("key/test.key");
    const ITS_PUBLIC_HALF: &str = include_str!("key/test.pub");

    #[test]
    fn a_key_that_other_code_locked_is_unlocked_and_is_that_key() {
        let key = SigningKey::read(OF_OTHERS, Some(b"correct horse")).unwrap_or_else(|e| panic!("{e}"));
        let signature = key.sign(b"message").unwrap_or_else(|e| panic!("{e}"));
        let (_, public) = pem(ITS_PUBLIC_HALF).unwrap_or_default();
        // The point is what a SubjectPublicKeyInfo ends with.
        let point = &public[public.len() - 65..];
        let verified = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(b"message", &signature);
        assert!(verified.is_ok());
    }

    #[test]
    fn a_key_that_can_not_be_used_is_told_apart() {
        let pkcs8 = pkcs8();
        let text = in_pem(LOCKED[0], locked(&pkcs8, b"pw", 1024).as_bytes());
        let read = |text: &str, password: Option<&[u8]>| match SigningKey::read(text, password) {
            Ok(_) => "a key".to_owned(),
            Err(e) => e.to_string(),
        };
        assert!(read(&text, None).contains("set COSIGN_PASSWORD"));
        assert!(read(&text, Some(b"no")).contains("not its password"));
        assert!(read("x", None).contains("not a key in PEM"));
        assert!(read(&in_pem("RSA PRIVATE KEY", &pkcs8), None).contains("`RSA PRIVATE KEY`"));
        assert!(read(&in_pem(OPEN, b"junk"), None).contains("P-256"));
        assert!(read(&in_pem(LOCKED[1], b"junk"), Some(b"")).contains("JSON"));
        let greedy = locked(&pkcs8, b"pw", 1024).replace("1024", "1073741824");
        assert!(read(&in_pem(LOCKED[0], greedy.as_bytes()), Some(b"pw")).contains("too much"));
    }
}
