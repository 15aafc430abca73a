//! PAX extended headers: records `LENGTH KEY=VALUE\n`, framed by their length alone, so that a value may
//! hold any byte. It does not know header blocks.

use super::reader::ArchiveError;
use std::collections::BTreeMap;

/// The greatest length of one extended header, for the writer and the reader; Go's limit too.
pub const METADATA_BYTES_MAX: usize = 1 << 20;
/// The greatest number of extended attributes of one member.
pub const XATTRS_MAX: usize = 4096;
/// The prefix of keys that carry extended attributes.
pub(crate) const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";
const SPARSE_PREFIX: &[u8] = b"GNU.sparse.";
/// Beyond these, two readers could disagree about where the next member starts or what it is called.
const NEVER_GLOBAL: [&[u8]; 3] = [b"size", b"path", b"linkpath"];

/// Records to be written, sorted by key.
#[derive(Default)]
pub(crate) struct Records(BTreeMap<Vec<u8>, Vec<u8>>);

impl Records {
    /// Adds a record.
    pub(crate) fn insert(&mut self, key: &[u8], value: &[u8]) {
        self.0.insert(key.to_vec(), value.to_vec());
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All records on the wire.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (key, value) in &self.0 {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + digits(rest);
            if rest + digits(length) != length {
                length = rest + digits(length);
            }
            out.extend_from_slice(length.to_string().as_bytes());
            out.push(b' ');
            out.extend_from_slice(key);
            out.push(b'=');
            out.extend_from_slice(value);
            out.push(b'\n');
        }
        out
    }
}

fn digits(number: usize) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

/// What one extended header says about the member that follows it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Extended {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) linkpath: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) mtime: Option<(i64, u32)>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse: SparseRecords,
}

/// GNU's records about holes, in all of its three versions.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct SparseRecords {
    pub(crate) major: Option<u64>,
    pub(crate) minor: Option<u64>,
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) blocks: Option<u64>,
    /// The numbers of the map, offset and length in turn.
    pub(crate) map: Option<Vec<u64>>,
}

/// The records of a local extended header.
pub(crate) fn parse(body: &[u8]) -> Result<Extended, ArchiveError> {
    let mut extended = Extended::default();
    let mut seen: BTreeMap<&[u8], &[u8]> = BTreeMap::new();
    for record in split(body) {
        let (key, value) = record?;
        let repeats = matches!(key, b"GNU.sparse.offset" | b"GNU.sparse.numbytes");
        if !repeats && seen.insert(key, value).is_some_and(|before| before != value) {
            return Err(ArchiveError::Contradiction { what: "one extended header has a key twice" });
        }
        if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
            extended.xattr(name, value)?;
        } else if let Some(key) = key.strip_prefix(SPARSE_PREFIX) {
            extended.sparse.record(key, value)?;
        } else if !value.is_empty() {
            extended.record(key, value)?;
        }
    }
    extended.xattrs.sort();
    extended.xattrs.dedup();
    Ok(extended)
}

/// Checks a global extended header. Its records are not applied, as BuildKit and Docker don't apply them;
/// those that a reader who does apply them would find other members by are refused.
pub(crate) fn check_global(body: &[u8]) -> Result<(), ArchiveError> {
    for record in split(body) {
        let (key, _) = record?;
        if NEVER_GLOBAL.contains(&key) || key.starts_with(SPARSE_PREFIX) {
            return Err(ArchiveError::Contradiction { what: "a global header names or measures members" });
        }
    }
    Ok(())
}

impl Extended {
    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), ArchiveError> {
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.linkpath = Some(value.to_vec()),
            b"size" => self.size = Some(decimal(value, "size")?),
            b"uid" => self.uid = Some(word(value, "uid")?),
            b"gid" => self.gid = Some(word(value, "gid")?),
            b"mtime" => self.mtime = Some(time(value).ok_or(ArchiveError::Number { field: "mtime" })?),
            _ => {}
        }
        Ok(())
    }

    fn xattr(&mut self, name: &[u8], value: &[u8]) -> Result<(), ArchiveError> {
        if name.is_empty() {
            return Err(ArchiveError::Record { why: "an extended attribute without a name" });
        }
        if self.xattrs.len() == XATTRS_MAX {
            return Err(ArchiveError::TooLarge { what: "number of extended attributes", max: XATTRS_MAX });
        }
        self.xattrs.push((name.to_vec(), value.to_vec()));
        Ok(())
    }
}

impl SparseRecords {
    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<(), ArchiveError> {
        const FIELD: &str = "sparse map";
        let push = |map: &mut Option<Vec<u64>>, odd: usize| {
            let map = map.get_or_insert_default();
            if map.len() % 2 != odd {
                return Err(ArchiveError::Sparse { why: "offsets and lengths do not take turns" });
            }
            map.push(decimal(value, FIELD)?);
            Ok(())
        };
        match key {
            b"major" => self.major = Some(decimal(value, FIELD)?),
            b"minor" => self.minor = Some(decimal(value, FIELD)?),
            b"name" if value.contains(&0) => return Err(ArchiveError::NulInPath),
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => {
                let size = decimal(value, FIELD)?;
                if self.size.replace(size).is_some_and(|before| before != size) {
                    return Err(ArchiveError::Contradiction { what: "a sparse file has two sizes" });
                }
            }
            b"numblocks" => self.blocks = Some(decimal(value, FIELD)?),
            b"offset" => push(&mut self.map, 0)?,
            b"numbytes" => push(&mut self.map, 1)?,
            b"map" if self.map.is_some() => {
                return Err(ArchiveError::Contradiction { what: "a sparse file has two maps" });
            }
            b"map" => {
                let numbers = value.split(|&c| c == b',').map(|number| decimal(number, FIELD));
                self.map = Some(numbers.collect::<Result<_, _>>()?);
            }
            _ => {}
        }
        Ok(())
    }
}

/// The records of `body`, each framed by its own length.
fn split(mut body: &[u8]) -> impl Iterator<Item = Result<(&[u8], &[u8]), ArchiveError>> {
    std::iter::from_fn(move || {
        if body.is_empty() {
            return None;
        }
        let record = take(&mut body);
        if record.is_err() {
            body = &[];
        }
        Some(record)
    })
}

fn take<'a>(body: &mut &'a [u8]) -> Result<(&'a [u8], &'a [u8]), ArchiveError> {
    let bad = |why| ArchiveError::Record { why };
    let space = body.iter().position(|&c| c == b' ').ok_or(bad("no length"))?;
    let length = decimal(&body[..space], "length of a record")?;
    let length = usize::try_from(length).ok().filter(|&length| length <= body.len());
    let length = length.ok_or(bad("longer than the header"))?;
    // The shortest text after the blank is a key of one byte, `=` and the line feed.
    if length < space + 4 {
        return Err(bad("shorter than its own frame"));
    }
    let (record, rest) = body.split_at(length);
    *body = rest;
    let record = record[space + 1..].strip_suffix(b"\n").ok_or(bad("no line feed at its end"))?;
    let equals = record.iter().position(|&c| c == b'=').ok_or(bad("no `=`"))?;
    let (key, value) = (&record[..equals], &record[equals + 1..]);
    if key.is_empty() || key.contains(&0) {
        return Err(bad("no key, or a NUL in it"));
    }
    if matches!(key, b"path" | b"linkpath") && value.contains(&0) {
        return Err(ArchiveError::NulInPath);
    }
    Ok((key, value))
}

/// Decimal digits only; at most the greatest file size.
pub(crate) fn decimal(text: &[u8], field: &'static str) -> Result<u64, ArchiveError> {
    let value = text.iter().try_fold(0_u64, |value, &c| {
        let digit = c.is_ascii_digit().then(|| u64::from(c - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    });
    value
        .filter(|&value| !text.is_empty() && i64::try_from(value).is_ok())
        .ok_or(ArchiveError::Number { field })
}

fn word(text: &[u8], field: &'static str) -> Result<u32, ArchiveError> {
    u32::try_from(decimal(text, field)?).map_err(|_| ArchiveError::Number { field })
}

/// Seconds with a sign and a fraction, as seconds rounded down and nanoseconds; finer digits are dropped.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let dot = text.iter().position(|&c| c == b'.').unwrap_or(text.len());
    let seconds = i64::try_from(decimal(&text[..dot], "mtime").ok()?).ok()?;
    let fraction = text.get(dot + 1..).unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |at: usize| u32::from(fraction.get(at).map_or(0, |c| c - b'0'));
    let nanoseconds = (0..9).fold(0, |value, at| value * 10 + digit(at));
    Some(match (negative, nanoseconds) {
        (false, _) => (seconds, nanoseconds),
        (true, 0) => (-seconds, 0),
        (true, _) => (-seconds - 1, 1_000_000_000 - nanoseconds),
    })
}

/// A time as `mtime` writes it: no fraction if there is none, no closing zeros.
pub(crate) fn format_time(seconds: i64, nanoseconds: u32) -> String {
    if nanoseconds == 0 {
        return seconds.to_string();
    }
    let text = if seconds < 0 {
        format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanoseconds)
    } else {
        format!("{seconds}.{nanoseconds:09}")
    };
    text.trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_record_counts_its_own_digits() {
        for value_bytes in (0..120).chain(980..1010).chain(99_980..100_010) {
            let mut records = Records::default();
            let value = vec![b'\n'; value_bytes];
            records.insert(b"SCHILY.xattr.user.a", &value);
            records.insert(b"uid", b"7");
            let body = records.encode();
            let extended = parse(&body).unwrap_or_else(|err| panic!("{value_bytes}: {err}"));
            assert_eq!(extended.xattrs, [(b"user.a".to_vec(), value)]);
            assert_eq!(extended.uid, Some(7));
        }
    }

    #[test]
    fn times_keep_sign_and_nanoseconds() {
        for (text, want) in [
            ("0", (0, 0)),
            ("1.5", (1, 500_000_000)),
            ("-1", (-1, 0)),
            ("-0.25", (-1, 750_000_000)),
            ("-1.000000001", (-2, 999_999_999)),
            ("1350244992.023960108", (1_350_244_992, 23_960_108)),
            ("1350244992.02396010899", (1_350_244_992, 23_960_108)),
        ] {
            assert_eq!(time(text.as_bytes()), Some(want), "{text}");
            if text.len() < 21 {
                assert_eq!(format_time(want.0, want.1), text);
            }
        }
        for bad in ["", ".5", "+1", "1e9", "--1", "1.5.0", "1.-5", "99999999999999999999"] {
            assert_eq!(time(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_record_that_lies_about_its_frame_is_refused() {
        for bad in [
            &b"path=a\n"[..],
            b"11 path=a\n",
            b"8 path=a\n",
            b"9 path=a\n9",
            b"9 path=a ",
            b"+9 path=a\n",
            b"3 =\n",
            b"4 =a\n",
            b"18446744073709551617 path=a\n",
            b"11 path=\0\0\n",
            b"9 siz=12\n\0\0\0",
            b"11 size=-1\n",
            b"12 uid=0x10\n",
            b"18 uid=4294967296\n",
            b"10 size=1\n10 size=2\n",
        ] {
            assert!(parse(bad).is_err(), "{:?}", bad.escape_ascii().to_string());
        }
        assert_eq!(parse(b"10 size=1\n10 size=1\n").ok().and_then(|e| e.size), Some(1));
    }
}
