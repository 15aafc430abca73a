//! The database of rpm in its SQLite form, and the headers in it. It does not know where it lies.
//!
//! A header (rpm, `docs/manual/format_header.md`), numbers in network order:
//! ```text
//! u32 entries, u32 bytes of data
//! entries × { u32 tag, u32 type, u32 offset in data, u32 count }
//! data
//! ```

use super::package::{Distribution, Package};
use rusqlite::{Connection, OpenFlags};
use std::path::Path;

/// More entries in a header are not read; rpm has the same limit.
const ENTRIES_MAX: usize = 0xffff;
/// A larger header is not read; rpm has the same limit, in bytes.
const HEADER_BYTES_MAX: usize = 256 << 20;

/// More packages are not read.
const ROWS_MAX: usize = 100_000;

const NAME: u32 = 1000;
const VERSION: u32 = 1001;
const RELEASE: u32 = 1002;
const EPOCH: u32 = 1003;
const VENDOR: u32 = 1011;
const LICENSE: u32 = 1014;
const ARCH: u32 = 1022;
const SOURCE_RPM: u32 = 1044;
/// A signing key that rpm trusts: it stands among the packages, and is none.
const KEY: &str = "gpg-pubkey";

const TYPE_INT32: u32 = 4;
const TYPE_STRING: u32 = 6;
const TYPE_I18N_STRING: u32 = 9;

/// The packages in a database, which lies in a file of its own that nobody else uses.
pub(super) fn sqlite(file: &Path, distribution: &Distribution) -> Result<Vec<Package>, String> {
    let told = |e: rusqlite::Error| e.to_string();
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(file, flags).map_err(told)?;
    // It is a stranger's: nothing in its schema may do anything.
    database.pragma_update(None, "trusted_schema", false).map_err(told)?;
    // What only passes for a table may take as long as its author likes.
    let plain =
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'Packages' AND rootpage > 0";
    let is_plain: i64 = database.query_row(plain, [], |row| row.get(0)).map_err(told)?;
    if is_plain != 1 {
        return Err("it has no table of packages".to_owned());
    }
    let mut query = database.prepare("SELECT blob FROM Packages ORDER BY hnum").map_err(told)?;
    let mut rows = query.query([]).map_err(told)?;
    let mut all = Vec::new();
    while let Some(row) = rows.next().map_err(told)? {
        if all.len() == ROWS_MAX {
            return Err(format!("it has more than {ROWS_MAX} packages"));
        }
        let blob = row.get_ref(0).map_err(told)?;
        let bytes = blob.as_blob().map_err(|e| e.to_string())?;
        all.extend(package(bytes, distribution)?);
    }
    Ok(all)
}

/// The package that a header describes; none for a key.
fn package(bytes: &[u8], distribution: &Distribution) -> Result<Option<Package>, String> {
    let header = Header::read(bytes).ok_or("a header that is cut off or has no sense")?;
    let name = header.text(NAME);
    if name == KEY {
        return Ok(None);
    }
    let version = format!("{}-{}", header.text(VERSION), header.text(RELEASE));
    let package = Package::of("rpm", distribution.namespace("rpm"), &name, &version);
    let package = package.ok_or("a header without a name")?;
    let epoch = header.number(EPOCH).filter(|epoch| *epoch != 0);
    let package = package
        .with("arch", &header.text(ARCH))
        .with("epoch", &epoch.map_or_else(String::new, |epoch| epoch.to_string()))
        .with("distro", &distribution.qualifier())
        .with("upstream", &header.text(SOURCE_RPM));
    let stated = |tag| Some(header.text(tag)).filter(|text| !text.is_empty());
    Ok(Some(Package { licence: stated(LICENSE), supplier: stated(VENDOR), ..package }))
}

struct Header<'a> {
    entries: &'a [u8],
    data: &'a [u8],
}

impl<'a> Header<'a> {
    fn read(bytes: &'a [u8]) -> Option<Header<'a>> {
        let (entries, data) = (number_at(bytes, 0)? as usize, number_at(bytes, 4)? as usize);
        if entries == 0 || entries > ENTRIES_MAX || data > HEADER_BYTES_MAX {
            return None;
        }
        let (entries, rest) = bytes.get(8..)?.split_at_checked(entries * 16)?;
        Some(Header { entries, data: rest.get(..data)? })
    }

    /// Where the data of a tag are, if it has one of these types.
    fn find(&self, tag: u32, types: &[u32]) -> Option<&'a [u8]> {
        let mut entries = self.entries.chunks_exact(16);
        let entry = entries.find(|entry| number_at(entry, 0) == Some(tag))?;
        types.contains(&number_at(entry, 4)?).then_some(())?;
        self.data.get(number_at(entry, 8)? as usize..)
    }

    fn text(&self, tag: u32) -> String {
        let data = self.find(tag, &[TYPE_STRING, TYPE_I18N_STRING]).unwrap_or_default();
        let end = data.iter().position(|byte| *byte == 0).unwrap_or(0);
        String::from_utf8_lossy(&data[..end]).into_owned()
    }

    fn number(&self, tag: u32) -> Option<u32> {
        number_at(self.find(tag, &[TYPE_INT32])?, 0)
    }
}

fn number_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(texts: &[(u32, &str)], epoch: Option<u32>) -> Vec<u8> {
        let (mut entries, mut data) = (Vec::new(), Vec::new());
        let mut add = |tag: u32, kind: u32, bytes: &[u8]| {
            for number in [tag, kind, data.len() as u32, 1] {
                entries.extend_from_slice(&number.to_be_bytes());
            }
            data.extend_from_slice(bytes);
        };
        if let Some(epoch) = epoch {
            add(EPOCH, TYPE_INT32, &epoch.to_be_bytes());
        }
        for (tag, text) in texts {
            add(*tag, TYPE_STRING, &[text.as_bytes(), &[0]].concat());
        }
        let count = |bytes: usize| (bytes as u32).to_be_bytes();
        [&count(entries.len() / 16)[..], &count(data.len()), &entries, &data].concat()
    }

    fn fedora() -> Distribution {
        Distribution { id: "fedora".to_owned(), version: "39".to_owned() }
    }

    fn bash() -> Vec<u8> {
        let texts = [
            (NAME, "bash"),
            (VERSION, "5.2.21"),
            (RELEASE, "1.fc39"),
            (ARCH, "x86_64"),
            (LICENSE, "GPL-3.0-or-later"),
            (VENDOR, "Fedora Project"),
            (SOURCE_RPM, "bash-5.2.21-1.fc39.src.rpm"),
        ];
        header(&texts, Some(2))
    }

    #[test]
    fn a_database_gives_its_packages_and_no_keys() {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let file = folder.path().join("rpmdb.sqlite");
        let key = header(&[(NAME, KEY), (VERSION, "1"), (RELEASE, "2")], None);
        let database = Connection::open(&file).unwrap_or_else(|e| panic!("{e}"));
        let made =
            database.execute_batch("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob BLOB NOT NULL)");
        made.unwrap_or_else(|e| panic!("{e}"));
        for blob in [key, bash()] {
            let added = database.execute("INSERT INTO Packages (blob) VALUES (?1)", [blob]);
            added.unwrap_or_else(|e| panic!("{e}"));
        }
        drop(database);
        let packages = sqlite(&file, &fedora()).unwrap_or_else(|e| panic!("{e}"));
        let expect = "pkg:rpm/fedora/bash@5.2.21-1.fc39?arch=x86_64&distro=fedora-39&epoch=2&upstream=bash-5.2.21-1.fc39.src.rpm";
        assert_eq!(packages.iter().map(|p| p.purl.text()).collect::<Vec<_>>(), [expect]);
        assert_eq!(packages[0].licence.as_deref(), Some("GPL-3.0-or-later"));
        let view = Connection::open(&file).and_then(|database| {
            database.execute_batch(
                "DROP TABLE Packages; CREATE VIEW Packages AS WITH RECURSIVE n(blob) AS
                 (SELECT 1 UNION ALL SELECT blob + 1 FROM n) SELECT blob, blob AS hnum FROM n",
            )
        });
        assert_eq!(view, Ok(()));
        assert_eq!(sqlite(&file, &fedora()), Err("it has no table of packages".to_owned()));
        std::fs::write(&file, "SQLite format 3\0 and then nothing").unwrap_or_else(|e| panic!("{e}"));
        assert!(sqlite(&file, &fedora()).is_err());
    }

    #[test]
    fn a_header_that_lies_about_its_sizes_is_told_and_not_followed() {
        let whole = bash();
        for cut in 0..whole.len() {
            // Whatever is cut off, nothing is read beyond the end.
            assert!(package(&whole[..cut], &fedora()).is_err(), "{cut}");
        }
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 0xff;
            let _ = package(&bad, &fedora());
        }
        assert!(package(&[0xff; 64], &fedora()).is_err());
    }
}
