//! Paths in an image, as text: cleaned and joined as Go's `path` does. It does not know files.

pub(crate) use kiln_grammar::path::clean;

/// A path beneath the root.
pub(crate) fn rooted(path: &str) -> String {
    clean(&format!("/{path}"))
}

/// The last name of a path.
pub(crate) fn base(path: &str) -> &str {
    let path = path.trim_end_matches('/');
    path.rsplit('/').next().unwrap_or(path)
}

/// A folder to work in: one that is absolute stands as it is written, others add to the one before.
pub(crate) fn work_dir(before: &str, path: &str) -> String {
    let before = if before.is_empty() { "/" } else { before };
    if path.starts_with('/') {
        return path.to_owned();
    }
    clean(&format!("/{before}/{path}"))
}

/// A destination in a folder: absolute, cleaned, with the slash at its end if it has one or is a dot.
pub(crate) fn destination(dir: &str, path: &str) -> String {
    let path = if path.is_empty() || path == "." { "./" } else { path };
    let mut whole = if path.starts_with('/') { clean(path) } else { clean(&format!("/{dir}/{path}")) };
    if path.ends_with('/') && !whole.ends_with('/') {
        whole.push('/');
    } else if path.ends_with("/.") {
        if whole != "/" {
            whole.push('/');
        }
        whole.push('.');
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_work_dir_that_is_absolute_is_not_cleaned() {
        assert_eq!(work_dir("/", "../up"), "/up");
        assert_eq!(work_dir("/a/b", "c/../d"), "/a/b/d");
        assert_eq!(work_dir("", "x"), "/x");
        assert_eq!(work_dir("/a", "//b/../c/"), "//b/../c/");
    }

    #[test]
    fn a_destination_keeps_the_slash_at_its_end() {
        for (dir, path, expect) in [
            ("/w", ".", "/w/"),
            ("/w", "", "/w/"),
            ("/w", "x", "/w/x"),
            ("/w", "sub/", "/w/sub/"),
            ("/", "./", "/"),
            ("/w", "/a/../b/", "/b/"),
            ("/w", "a/.", "/w/a/."),
        ] {
            assert_eq!(destination(dir, path), expect, "{path}");
        }
    }

    #[test]
    fn nothing_leads_above_the_root() {
        assert_eq!(rooted("../../f"), "/f");
        assert_eq!(rooted("."), "/");
        assert_eq!(base("/a/b/"), "b");
    }
}
