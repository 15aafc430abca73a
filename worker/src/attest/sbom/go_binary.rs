//! What Go's linker writes into a program of the modules that it was built from (Go's `debug/buildinfo`). Only
//! 64-bit ELF with small numbers first, and what Go 1.18 or later linked. It does not know where programs lie.

use super::package::Package;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const MAGIC: &[u8] = b"\xff Go buildinf:";
/// The block begins where a number of these ends.
const ALIGNMENT: usize = 16;
/// How much of a segment with data is looked through, in bytes.
const SEARCHED_BYTES_MAX: usize = 4 << 20;
const SEGMENTS_MAX: usize = 64;
/// What stands before and behind the list of modules.
const MARK_BYTES: usize = 16;

/// The modules of a program; none if it is not Go's.
pub(super) fn modules(program: &File) -> io::Result<Vec<Package>> {
    let mut head = [0; 64];
    if read_at(program, &mut head, 0)? < head.len() || head[..6] != *b"\x7fELF\x02\x01" {
        return Ok(Vec::new());
    }
    let (table, entry, count) = (u64_at(&head, 32), u16_at(&head, 54), u16_at(&head, 56));
    for number in 0..usize::from(count).min(SEGMENTS_MAX) {
        let Some(at) = table.checked_add(number as u64 * u64::from(entry)) else { break };
        let mut segment = [0; 56];
        if read_at(program, &mut segment, at)? < segment.len() {
            break;
        }
        // Loaded, writable and not executable: data.
        let (kind, flags) = (segment[0], segment[4]);
        if kind != 1 || segment[1..4] != [0; 3] || flags & 3 != 2 {
            continue;
        }
        let (at, bytes) = (u64_at(&segment, 8), u64_at(&segment, 32));
        let mut data = vec![0; usize::try_from(bytes).unwrap_or(usize::MAX).min(SEARCHED_BYTES_MAX)];
        let read = read_at(program, &mut data, at)?;
        // The block is aligned in memory, where the segment may begin anywhere.
        let first = (ALIGNMENT - (u64_at(&segment, 16) % ALIGNMENT as u64) as usize) % ALIGNMENT;
        if let Some((version, list)) = data[..read].get(first..).and_then(build_info) {
            return Ok(listed(&version, &list));
        }
    }
    Ok(Vec::new())
}

fn read_at(file: &File, into: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < into.len() {
        let Some(at) = at.checked_add(done as u64).filter(|at| *at <= i64::MAX as u64) else { break };
        match file.read_at(&mut into[done..], at)? {
            0 => break,
            read => done += read,
        }
    }
    Ok(done)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// Go's version and the list of modules.
fn build_info(data: &[u8]) -> Option<(String, String)> {
    let blocks = (0..data.len().saturating_sub(32)).step_by(ALIGNMENT);
    let at = blocks.into_iter().find(|at| data[*at..].starts_with(MAGIC))?;
    let block = &data[at..];
    // Older linkers wrote addresses there.
    if block[15] & 2 == 0 {
        return None;
    }
    let (version, rest) = text(&block[32..])?;
    let (list, _) = text(rest)?;
    let list = list.get(MARK_BYTES..list.len().checked_sub(MARK_BYTES)?).unwrap_or_default();
    Some((String::from_utf8_lossy(version).into_owned(), String::from_utf8_lossy(list).into_owned()))
}

/// A text with its length before it, in groups of seven bits.
fn text(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut length, mut shift) = (0usize, 0);
    for (i, byte) in bytes.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return bytes.get(i + 1..)?.split_at_checked(length);
        }
    }
    None
}

fn listed(version: &str, list: &str) -> Vec<Package> {
    let standard = version.split_whitespace().next().unwrap_or_default().trim_start_matches("go");
    let mut all: Vec<Package> = Package::of("golang", "", "stdlib", standard).into_iter().collect();
    for line in list.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [kind, path, version, ..] = fields[..] else { continue };
        match kind {
            "mod" | "dep" => all.extend(module(path, version)),
            // The one before is replaced by this.
            "=>" => {
                all.pop();
                all.extend(module(path, version));
            }
            _ => {}
        }
    }
    all
}

fn module(path: &str, version: &str) -> Option<Package> {
    let path = path.to_lowercase();
    let (namespace, name) = path.rsplit_once('/').unwrap_or(("", &path));
    Package::of("golang", namespace, name, if version == "(devel)" { "" } else { version })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const LIST: &str = "path\texample.com/cmd\nmod\texample.com/App\t(devel)\t\ndep\tgithub.com/Foo/bar\tv1.2.3\th1:x=\ndep\tgithub.com/old/x\tv1.0.0\n=>\tgithub.com/new/x/v2\tv2.0.0\th1:y=\nbuild\tCGO_ENABLED=0\n";

    fn program(list: &str) -> Vec<u8> {
        let mut block = [MAGIC, &[8, 2], &[0; 16]].concat();
        let list = [&[1; MARK_BYTES][..], list.as_bytes(), &[2; MARK_BYTES]].concat();
        for text in [b"go1.22.1".as_slice(), &list] {
            let mut length = text.len();
            while length >= 0x80 {
                block.push(length as u8 | 0x80);
                length >>= 7;
            }
            block.push(length as u8);
            block.extend_from_slice(text);
        }
        let mut out = vec![0; 256];
        out[..6].copy_from_slice(b"\x7fELF\x02\x01");
        out[32] = 64;
        (out[54], out[56]) = (56, 2);
        // The first segment is code, the second data that begin at 256.
        (out[64], out[68]) = (1, 5);
        (out[120], out[124]) = (1, 6);
        out[120 + 9] = 1;
        // In memory they begin eight bytes before an aligned place.
        out[120 + 16] = 8;
        out[120 + 32..120 + 34].copy_from_slice(&((block.len() + 8 + 32) as u16).to_le_bytes());
        out.extend_from_slice(&[7; 8 + 32]);
        out.extend_from_slice(&block);
        out
    }

    fn read(bytes: &[u8]) -> Vec<String> {
        let mut file = tempfile::tempfile().unwrap_or_else(|e| panic!("{e}"));
        file.write_all(bytes).unwrap_or_else(|e| panic!("{e}"));
        let modules = modules(&file).unwrap_or_else(|e| panic!("{e}"));
        modules.iter().map(|package| package.purl.text()).collect()
    }

    #[test]
    fn a_program_names_its_modules_with_what_replaced_them() {
        assert_eq!(
            read(&program(LIST)),
            [
                "pkg:golang/stdlib@1.22.1",
                "pkg:golang/example.com/app",
                "pkg:golang/github.com/foo/bar@v1.2.3",
                "pkg:golang/github.com/new/x/v2@v2.0.0",
            ]
        );
    }

    #[test]
    fn a_program_that_is_cut_off_or_not_gos_has_no_modules() {
        let whole = program(LIST);
        for cut in 0..whole.len() - 1 {
            assert_eq!(read(&whole[..cut]), [""; 0], "{cut}");
        }
        assert_eq!(read(&[0xff; 400]), [""; 0]);
        let mut odd = whole;
        odd[32..40].fill(0xff);
        assert_eq!(read(&odd), [""; 0]);
    }
}
