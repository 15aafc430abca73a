//! An image, or an index of several, in a folder: an OCI layout, beside the images that are there already.
//! `index.json` comes last and at once, so that it never names what is not there. It does not know how
//! blobs came to be.

use super::Output;
use super::archive::{IMAGE_NAME, LAYOUT_FILE, Member, REF_NAME, all_blobs, copy_verified, index_of};
use super::whole::whole;
use crate::WorkerError;
use crate::attest;
use crate::export::{Documents, Exporter, Release};
use kiln_oci::{DOCUMENT_BYTES_MAX, Descriptor, Index};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The tag of what has no name.
const DEFAULT_TAG: &str = "latest";

/// Writes the result into `folder`.
pub(super) fn layout(
    exporter: &Exporter<'_>,
    output: &Output,
    (release, referrers): (&Release, &[Documents]),
    folder: &Path,
) -> Result<(), WorkerError> {
    layout_of(exporter, &[Member { referrers, ..Member::named(&output.names, release) }], folder)
}

/// Writes images into `folder`.
pub(crate) fn layout_of(
    exporter: &Exporter<'_>,
    members: &[Member<'_>],
    folder: &Path,
) -> Result<(), WorkerError> {
    let cancel = exporter.images.cancel;
    let blobs = folder.join("blobs").join("sha256");
    for part in [folder.join("blobs"), blobs.clone(), folder.join("index.json"), folder.join("oci-layout")] {
        refuse_link(&part)?;
    }
    std::fs::create_dir_all(&blobs).map_err(WorkerError::io("create", folder))?;
    // Looked at before anything is written: what is no layout is left as it is.
    let there = listed(&folder.join("index.json"))?;
    for (digest, size_bytes) in members.iter().flat_map(|member| all_blobs(member.release, member.referrers))
    {
        let path = blobs.join(digest.hex());
        refuse_link(&path)?;
        if path.metadata().is_ok_and(|there| there.is_file() && there.len() == size_bytes) {
            continue;
        }
        whole(Some(&path), cancel, |out| {
            copy_verified(exporter, &digest, |blob| io::copy(blob, out).map(drop))
        })?;
    }
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        whole(Some(&path), cancel, |out| out.write_all(bytes).map_err(WorkerError::io("write", &path)))
    };
    file("oci-layout", LAYOUT_FILE)?;
    // What refers to an image has no name, and is not in the way of anything.
    let mut there = there;
    let artifacts: Vec<Descriptor> =
        members.iter().flat_map(|member| member.referrers).map(attest::listed).collect();
    there.retain(|old| artifacts.iter().all(|artifact| artifact.digest != old.digest));
    let new = members.iter().flat_map(|member| member.entries.iter().cloned()).map(tagged).collect();
    let mut all = merged(there, new);
    all.extend(artifacts);
    let index = index_of(all);
    file("index.json", &serde_json::to_vec(&index).unwrap_or_default())
}

/// Nothing in a folder of this form is a link: what one leads to is not the folder's.
fn refuse_link(path: &Path) -> Result<(), WorkerError> {
    match std::fs::symlink_metadata(path) {
        Ok(there) if there.is_symlink() => Err(WorkerError::Link { path: path.to_owned() }),
        _ => Ok(()),
    }
}

/// A folder is asked for tags, so that what has no name gets one.
fn tagged(mut entry: Descriptor) -> Descriptor {
    entry.annotations.entry(REF_NAME.to_owned()).or_insert_with(|| DEFAULT_TAG.to_owned());
    entry
}

/// What the index of a folder lists; nothing if there is none.
fn listed(path: &Path) -> Result<Vec<Descriptor>, WorkerError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(WorkerError::io("open", path)(e)),
    };
    let mut bytes = Vec::new();
    file.take(DOCUMENT_BYTES_MAX).read_to_end(&mut bytes).map_err(WorkerError::io("read", path))?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|e| WorkerError::io("read", path)(e.into()))?;
    Ok(index.manifests)
}

/// The old entries but for those whose names are taken, then the new ones.
fn merged(mut there: Vec<Descriptor>, new: Vec<Descriptor>) -> Vec<Descriptor> {
    let name = |of: &Descriptor| [IMAGE_NAME, REF_NAME].map(|key| of.annotations.get(key).cloned());
    there.retain(|old| new.iter().all(|new| name(new) != name(old)));
    there.extend(new);
    there
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_oci::MediaType;

    #[test]
    fn a_name_that_is_given_again_is_taken_from_what_had_it() {
        let entry = |bytes: &str, name: Option<&str>, tag: &str| {
            let mut entry = Descriptor::of(MediaType::OciManifest, bytes.as_bytes());
            entry.annotations.extend(name.map(|name| (IMAGE_NAME.to_owned(), name.to_owned())));
            entry.annotations.insert(REF_NAME.to_owned(), tag.to_owned());
            entry
        };
        let there = vec![
            entry("1", Some("a:1"), "1"),
            entry("2", Some("b:1"), "1"),
            entry("3", None, "1"),
            entry("4", None, "latest"),
        ];
        let all = merged(there.clone(), vec![entry("5", Some("a:1"), "1"), entry("6", None, "latest")]);
        let expect = vec![
            there[1].clone(),
            there[2].clone(),
            entry("5", Some("a:1"), "1"),
            entry("6", None, "latest"),
        ];
        assert_eq!(all, expect);
    }
}
