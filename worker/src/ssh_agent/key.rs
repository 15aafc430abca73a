//! Private keys for signing: read from what a file holds, used, and told by their public half alone.
//! It does not know agents, nor where a key is given.
//!
//! `ssh-key` reads OpenSSH's form, ring does the arithmetic.

use super::protocol::take_string;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::rand::SystemRandom;
use ring::rsa::{KeyPairComponents, PublicKeyComponents};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaKeyPair,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use ssh_key::private::{KeypairData, RsaKeypair};
use ssh_key::public::{EcdsaPublicKey, Ed25519PublicKey, KeyData, RsaPublicKey};
use ssh_key::{Mpint, PrivateKey, PublicKey};
use std::fmt;
use std::io::Read;
use std::path::Path;
use zeroize::{Zeroize, Zeroizing};

/// A private key is smaller than this.
const MAX_FILE_BYTES: u64 = 100 << 10;

const OPENSSH: (&str, &str) = ("-----BEGIN OPENSSH PRIVATE KEY-----", "-----END OPENSSH PRIVATE KEY-----");

/// Why a file gives no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It can't be read.
    #[error("cannot be read: {0}")]
    Read(#[source] std::io::Error),
    /// It is too large for one.
    #[error("has more than 100 KiB: that is no private key")]
    TooLarge,
    /// A passphrase is needed.
    #[error("is encrypted")]
    Encrypted,
    /// It is the other half.
    #[error("is a public key: give the private one")]
    Public,
    /// It is something else.
    #[error("is neither a socket nor a private key (in OpenSSH's form, PKCS#8, PKCS#1 or SEC1)")]
    NoKey,
    /// It begins as a key, but does not go on as one.
    #[error("begins as a private key, but is damaged")]
    Damaged,
    /// There is nothing here that signs with it.
    #[error(
        "is a key that can't be used (ed25519, ECDSA P-256 and P-384, RSA of 2048, 3072 or 4096 bits can)"
    )]
    Unsupported,
}

/// A private key that signs. Only its public half is ever shown.
pub struct AgentKey {
    /// The public half, as it is sent.
    public: Vec<u8>,
    signer: Signer,
}

enum Signer {
    Ed25519(Ed25519KeyPair),
    Ecdsa(&'static Curve, EcdsaKeyPair),
    Rsa(Box<RsaKeyPair>),
}

/// The hash under a signature by RSA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RsaHash {
    Sha256,
    Sha512,
}

/// A curve that there is.
struct Curve {
    signing: &'static EcdsaSigningAlgorithm,
    signature: &'static str,
    /// Its identifier, as DER has it.
    oid: &'static [u8],
}

static P256: Curve = Curve {
    signing: &ECDSA_P256_SHA256_FIXED_SIGNING,
    signature: "ecdsa-sha2-nistp256",
    oid: &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
};
static P384: Curve = Curve {
    signing: &ECDSA_P384_SHA384_FIXED_SIGNING,
    signature: "ecdsa-sha2-nistp384",
    oid: &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22],
};

impl fmt::Debug for AgentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentKey")
            .field("public", &BASE64_STANDARD.encode(&self.public))
            .finish_non_exhaustive()
    }
}

impl AgentKey {
    /// The key in a file.
    pub fn read(path: &Path) -> Result<AgentKey, KeyError> {
        let file = std::fs::File::open(path).map_err(KeyError::Read)?;
        // Of its full size at once: growing would leave copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE_BYTES as usize + 64));
        file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(KeyError::Read)?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(KeyError::TooLarge);
        }
        AgentKey::of_text(std::str::from_utf8(&bytes).map_err(|_| KeyError::NoKey)?)
    }

    /// The key that a file's text holds.
    pub(super) fn of_text(text: &str) -> Result<AgentKey, KeyError> {
        if text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || is_encrypted_pem(text) {
            return Err(KeyError::Encrypted);
        }
        if let Some((_, rest)) = text.split_once(OPENSSH.0) {
            let (body, _) = rest.split_once(OPENSSH.1).ok_or(KeyError::Damaged)?;
            return of_openssh(body);
        }
        if text.contains("PRIVATE KEY-----") {
            return of_pem(text);
        }
        let is_public = PublicKey::from_openssh(text.trim()).is_ok() || text.contains("PUBLIC KEY-----");
        Err(if is_public { KeyError::Public } else { KeyError::NoKey })
    }

    fn new(signer: Signer) -> Result<AgentKey, KeyError> {
        let data = match &signer {
            Signer::Ed25519(pair) => {
                let bytes = pair.public_key().as_ref().try_into().map_err(|_| KeyError::Damaged)?;
                KeyData::Ed25519(Ed25519PublicKey(bytes))
            }
            Signer::Ecdsa(_, pair) => {
                let public = EcdsaPublicKey::from_sec1_bytes(pair.public_key().as_ref());
                KeyData::Ecdsa(public.map_err(|_| KeyError::Damaged)?)
            }
            Signer::Rsa(pair) => {
                let PublicKeyComponents { n, e } = PublicKeyComponents::<Vec<u8>>::from(pair.public());
                let number = |bytes: &[u8]| Mpint::from_positive_bytes(bytes).map_err(|_| KeyError::Damaged);
                KeyData::Rsa(RsaPublicKey { e: number(&e)?, n: number(&n)? })
            }
        };
        // No comment: a step need not learn who and where its user is.
        let public = PublicKey::new(data, "").to_bytes().map_err(|_| KeyError::Damaged)?;
        Ok(AgentKey { public, signer })
    }

    /// The public half, as the protocol sends it.
    pub(super) fn public(&self) -> &[u8] {
        &self.public
    }

    /// A signature, as the protocol sends it. RSA needs a hash: without one it would be SHA-1, which is refused.
    pub(super) fn sign(&self, data: &[u8], hash: Option<RsaHash>) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        match &self.signer {
            Signer::Ed25519(pair) => {
                put_string(&mut out, b"ssh-ed25519");
                put_string(&mut out, pair.sign(data).as_ref());
            }
            Signer::Ecdsa(curve, pair) => {
                let signature = pair.sign(&SystemRandom::new(), data).ok()?;
                let (r, s) = signature.as_ref().split_at(signature.as_ref().len() / 2);
                let mut numbers = Vec::new();
                for number in [r, s] {
                    put_string(&mut numbers, Mpint::from_positive_bytes(number).ok()?.as_bytes());
                }
                put_string(&mut out, curve.signature.as_bytes());
                put_string(&mut out, &numbers);
            }
            Signer::Rsa(pair) => {
                let (name, padding) = match hash? {
                    RsaHash::Sha256 => ("rsa-sha2-256", &RSA_PKCS1_SHA256),
                    RsaHash::Sha512 => ("rsa-sha2-512", &RSA_PKCS1_SHA512),
                };
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &SystemRandom::new(), data, &mut signature).ok()?;
                put_string(&mut out, name.as_bytes());
                put_string(&mut out, &signature);
            }
        }
        Some(out)
    }
}

/// Bytes with their length before them.
pub(super) fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    // What is sent is far below 4 GiB.
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Whether a key in OpenSSL's old form has a passphrase, which its headers tell.
fn is_encrypted_pem(text: &str) -> bool {
    text.lines().any(|line| line.starts_with("Proc-Type:") && line.contains("ENCRYPTED"))
}

fn of_openssh(body: &str) -> Result<AgentKey, KeyError> {
    // Lines are often broken in other places on the way through a CI's settings.
    let body: Zeroizing<Vec<u8>> =
        Zeroizing::new(body.bytes().filter(|b| !b.is_ascii_whitespace()).collect());
    let bytes = Zeroizing::new(BASE64_STANDARD.decode(&body).map_err(|_| KeyError::Damaged)?);
    if let Some((curve, point, number)) = ecdsa_parts(&bytes) {
        return of_ecdsa(curve, point, number);
    }
    let key = PrivateKey::from_bytes(&bytes).map_err(|error| match error {
        ssh_key::Error::AlgorithmUnknown | ssh_key::Error::AlgorithmUnsupported { .. } => {
            KeyError::Unsupported
        }
        _ => KeyError::Damaged,
    })?;
    AgentKey::new(match key.key_data() {
        KeypairData::Encrypted(_) => return Err(KeyError::Encrypted),
        KeypairData::Ed25519(pair) => {
            let (seed, public) = (Zeroizing::new(pair.private.to_bytes()), pair.public.as_ref());
            let pair = Ed25519KeyPair::from_seed_and_public_key(seed.as_slice(), public);
            Signer::Ed25519(pair.map_err(|_| KeyError::Damaged)?)
        }
        KeypairData::Rsa(pair) => Signer::Rsa(Box::new(rsa(pair)?)),
        _ => return Err(KeyError::Unsupported),
    })
}

/// Curve, point and number of an ECDSA key in OpenSSH's form, if it is one and not encrypted. `ssh-key` refuses the
/// one in 256 whose number is a byte shorter than the curve's.
fn ecdsa_parts(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (cipher, rest) = take_string(bytes.strip_prefix(b"openssh-key-v1\0")?)?;
    let (_derivation, rest) = take_string(rest)?;
    let (_options, rest) = take_string(rest)?;
    let (_public, rest) = take_string(rest.strip_prefix(&[0, 0, 0, 1])?)?;
    let (private, _) = take_string(rest)?;
    let (first, rest) = private.split_first_chunk::<4>()?;
    let (kind, rest) = take_string(rest.strip_prefix(first)?)?;
    if cipher != b"none" || !kind.starts_with(b"ecdsa-sha2-") {
        return None;
    }
    let (curve, rest) = take_string(rest)?;
    let (point, rest) = take_string(rest)?;
    let (number, _) = take_string(rest)?;
    Some((curve, point, number))
}

fn of_ecdsa(curve: &[u8], point: &[u8], number: &[u8]) -> Result<AgentKey, KeyError> {
    let (curve, length) = match curve {
        b"nistp256" => (&P256, 32),
        b"nistp384" => (&P384, 48),
        _ => return Err(KeyError::Unsupported),
    };
    let digits = &number[number.iter().take_while(|byte| **byte == 0).count()..];
    let mut full = Zeroizing::new(vec![0; length]);
    let start = length.checked_sub(digits.len()).ok_or(KeyError::Damaged)?;
    full[start..].copy_from_slice(digits);
    let pair =
        EcdsaKeyPair::from_private_key_and_public_key(curve.signing, &full, point, &SystemRandom::new());
    AgentKey::new(Signer::Ecdsa(curve, pair.map_err(|_| KeyError::Damaged)?))
}

fn rsa(pair: &RsaKeypair) -> Result<RsaKeyPair, KeyError> {
    let bytes = |number: &Mpint| {
        number.as_positive_bytes().map(|bytes| Zeroizing::new(bytes.to_vec())).ok_or(KeyError::Damaged)
    };
    let (d, p, q) = (bytes(&pair.private.d)?, bytes(&pair.private.p)?, bytes(&pair.private.q)?);
    let pair = RsaKeyPair::from_components(&KeyPairComponents {
        public_key: PublicKeyComponents { n: &bytes(&pair.public.n)?[..], e: &bytes(&pair.public.e)?[..] },
        dP: &exponent(&d, &p)?[..],
        dQ: &exponent(&d, &q)?[..],
        qInv: &bytes(&pair.private.iqmp)?[..],
        d: &d[..],
        p: &p[..],
        q: &q[..],
    });
    pair.map_err(|_| KeyError::Unsupported)
}

/// `d mod (prime - 1)`, which OpenSSH's form leaves out: bit by bit, and for each bit the same work.
fn exponent(d: &[u8], prime: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let mut modulus = Zeroizing::new(vec![0]);
    modulus.reserve_exact(prime.len());
    modulus.extend_from_slice(prime);
    match modulus.last_mut() {
        Some(last) if *last & 1 == 1 => *last -= 1,
        _ => return Err(KeyError::Damaged),
    }
    let mut rest = Zeroizing::new(vec![0u8; modulus.len()]);
    let mut less = rest.clone();
    for bit in d.iter().flat_map(|byte| (0..8).rev().map(move |place| byte >> place & 1)) {
        let mut carry = bit;
        for byte in rest.iter_mut().rev() {
            (*byte, carry) = (*byte << 1 | carry, *byte >> 7);
        }
        let mut borrow = 0;
        for ((to, byte), minus) in less.iter_mut().zip(rest.iter()).zip(modulus.iter()).rev() {
            let difference = i16::from(*byte) - i16::from(*minus) - borrow;
            *to = (difference & 0xff) as u8;
            borrow = difference >> 8 & 1;
        }
        // All ones if the modulus fits in.
        let mask = (borrow as u8).wrapping_sub(1);
        for (byte, less) in rest.iter_mut().zip(less.iter()) {
            *byte = *byte & !mask | less & mask;
        }
    }
    rest.remove(0);
    Ok(rest)
}

/// PKCS#8, PKCS#1 or SEC1 in PEM.
fn of_pem(text: &str) -> Result<AgentKey, KeyError> {
    let mut der = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| KeyError::Damaged)?;
    let signer = match &der {
        PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der()).ok().map(rsa_signer),
        PrivateKeyDer::Sec1(der) => [&P256, &P384].into_iter().find_map(|curve| {
            let wrapped = pkcs8_of(der.secret_sec1_der(), curve);
            ecdsa(&wrapped, curve)
        }),
        PrivateKeyDer::Pkcs8(der) => {
            let der = der.secret_pkcs8_der();
            let rsa = || RsaKeyPair::from_pkcs8(der).ok().map(rsa_signer);
            let ed25519 = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok().map(Signer::Ed25519);
            ed25519.or_else(rsa).or_else(|| ecdsa(der, &P256)).or_else(|| ecdsa(der, &P384))
        }
        _ => None,
    };
    der.zeroize();
    AgentKey::new(signer.ok_or(KeyError::Unsupported)?)
}

fn rsa_signer(pair: RsaKeyPair) -> Signer {
    Signer::Rsa(Box::new(pair))
}

fn ecdsa(pkcs8: &[u8], curve: &'static Curve) -> Option<Signer> {
    let pair = EcdsaKeyPair::from_pkcs8(curve.signing, pkcs8, &SystemRandom::new()).ok()?;
    Some(Signer::Ecdsa(curve, pair))
}

/// PKCS#8 around a key in SEC1's form.
fn pkcs8_of(sec1: &[u8], curve: &Curve) -> Zeroizing<Vec<u8>> {
    const EC_PUBLIC_KEY: [u8; 9] = [0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    let version = [0x02, 0x01, 0x00];
    let algorithm = der(0x30, &[&EC_PUBLIC_KEY, curve.oid]);
    let key = der(0x04, &[sec1]);
    der(0x30, &[&version, &algorithm, &key])
}

/// A value of DER that is made of parts.
fn der(tag: u8, parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = Zeroizing::new(Vec::with_capacity(length + 10));
    out.push(tag);
    match u8::try_from(length) {
        Ok(short @ ..0x80) => out.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let bytes = &bytes[length.leading_zeros() as usize / 8..];
            // At most the eight bytes of a `usize`.
            out.push(0x80 | bytes.len() as u8);
            out.extend_from_slice(bytes);
        }
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}
