//! What a file of the web is called: by its server, by its address, and never a path.
//! It does not know requests or files.

use super::percent_decoded;

/// The name of a file that has no other.
const FALLBACK: &str = "download";
/// The longest name that file systems take, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// The last part of a name, if it can be that of a file.
pub(super) fn checked(name: &str) -> Option<&str> {
    let name = name.rsplit('/').next().unwrap_or_default();
    let is_special = matches!(name, "" | "." | "..");
    let fits = name.len() <= NAME_BYTES_MAX && !name.contains(char::is_control);
    (fits && !is_special).then_some(name)
}

/// The name that a server (by its header `Content-Disposition`) or else an address gives.
pub(super) fn of_answer(disposition: Option<&str>, url_path: &str) -> String {
    let served = disposition.and_then(of_disposition);
    let in_path = || percent_decoded(url_path.rsplit('/').next().unwrap_or_default());
    let name = served.filter(|name| checked(name).is_some()).unwrap_or_else(in_path);
    checked(&name).unwrap_or(FALLBACK).to_owned()
}

/// The parameter `filename*` or else `filename` of a header `Content-Disposition`.
fn of_disposition(header: &str) -> Option<String> {
    let mut plain = None;
    for parameter in parameters(header).into_iter().skip(1) {
        let Some((key, value)) = parameter.split_once('=') else { continue };
        match key.trim().to_ascii_lowercase().as_str() {
            "filename*" => {
                let mut parts = value.trim().splitn(3, '\'');
                let charset = parts.next().unwrap_or_default();
                if charset.eq_ignore_ascii_case("utf-8") {
                    return parts.nth(1).map(percent_decoded);
                }
            }
            "filename" => plain = Some(unquoted(value.trim())),
            _ => {}
        }
    }
    plain
}

/// The parts of a header between semicolons that stand in no quotes.
fn parameters(header: &str) -> Vec<&str> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in header.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ';' if !quoted => {
                parts.push(&header[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&header[start..]);
    parts
}

fn unquoted(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')) else {
        return value.to_owned();
    };
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        out.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_comes_from_the_server_or_the_address() {
        for (disposition, path, expect) in [
            (None, "/a/b.tar.gz", "b.tar.gz"),
            (None, "/a/b%20c", "b c"),
            (None, "/", "download"),
            (None, "/a/%2e%2e", "download"),
            (Some("attachment"), "/x", "x"),
            (Some("attachment; filename=y.txt"), "/x", "y.txt"),
            (Some(r#"attachment; filename="a;b \"c\".txt"; size=3"#), "/x", "a;b \"c\".txt"),
            (Some("attachment; filename=y; filename*=UTF-8''%e2%82%ac.txt"), "/x", "€.txt"),
            (Some("attachment; filename*=latin1''%e4; filename=z"), "/x", "z"),
        ] {
            assert_eq!(of_answer(disposition, path), expect, "{disposition:?} {path}");
        }
    }

    #[test]
    fn a_name_is_never_a_path_nor_special() {
        for (disposition, expect) in [
            ("attachment; filename=\"../../x\"", "x"),
            ("attachment; filename=\"/etc/passwd\"", "passwd"),
            ("attachment; filename=\"..\"", "url"),
            ("attachment; filename=\"a\\\0b\"", "url"),
            ("attachment; filename*=UTF-8''a%0ab", "url"),
            ("attachment; filename*=UTF-8''..%2f..%2f", "url"),
        ] {
            assert_eq!(of_answer(Some(disposition), "/url"), expect, "{disposition}");
        }
        let long = format!("attachment; filename={}", "a".repeat(4096));
        assert_eq!(of_answer(Some(&long), "/"), "download");
    }
}
