//! Owners and modes as `--chown`, `--chmod` and USER give them. It does not know `/etc/passwd`.

use kiln_solver::{Chown, Principal};

/// The largest mode.
const MODE_MAX: u32 = 0o7777;

/// A user, or a user and a group behind a colon, each a number or a name.
pub(crate) fn chown(text: &str) -> Chown {
    match text.split_once(':') {
        Some((user, group)) => Chown { user: Some(principal(user)), group: Some(principal(group)) },
        None => Chown { user: Some(principal(text)), group: None },
    }
}

/// The first name in an owner, if it has one that must be looked up.
pub(crate) fn first_name(owner: &Chown) -> Option<&str> {
    [&owner.user, &owner.group].into_iter().flatten().find_map(|principal| match principal {
        Principal::Name(name) => Some(name.as_str()),
        Principal::Id(_) => None,
    })
}

fn principal(text: &str) -> Principal {
    if text == "root" {
        return Principal::Id(0);
    }
    let number = text.parse::<i32>().ok().and_then(|number| u32::try_from(number).ok());
    number.map_or_else(|| Principal::Name(text.to_owned()), Principal::Id)
}

/// A mode: octal digits without leading zeros, or chmod's symbols as they were written.
pub(crate) fn mode(text: &str) -> Result<String, String> {
    let octal =
        || format!("invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777");
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        let number = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= MODE_MAX);
        return number.map(|mode| format!("{mode:o}")).ok_or_else(octal);
    }
    if text.split(',').all(is_clause) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "invalid chmod parameter: '{text}'. it should be an octal number, or symbols as in u=rwX,go-w"
    ))
}

/// `[ugoa]*` and then once or more `[-+=]` with `[rwxXstugo]*`.
fn is_clause(clause: &str) -> bool {
    let operations = clause.trim_start_matches(['u', 'g', 'o', 'a']);
    operations.starts_with(['+', '-', '=']) && operations.chars().all(|c| "+-=rwxXstugo".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_numbers_or_names() {
        let name = |name: &str| Some(Principal::Name(name.to_owned()));
        assert_eq!(chown("web"), Chown { user: name("web"), group: None });
        assert_eq!(chown("1:root"), Chown { user: Some(Principal::Id(1)), group: Some(Principal::Id(0)) });
        assert_eq!(chown("web:"), Chown { user: name("web"), group: name("") });
        assert_eq!(first_name(&chown("7:staff")), Some("staff"));
        assert_eq!(first_name(&chown("7")), None);
    }

    #[test]
    fn modes_are_octal_or_symbols() {
        for (text, expect) in
            [("640", "640"), ("0604", "604"), ("0", "0"), ("07777", "7777"), ("u=rwX,go-w+x", "u=rwX,go-w+x")]
        {
            assert_eq!(mode(text), Ok(expect.to_owned()), "{text}");
        }
        for text in ["", "888", "10000", "u", "u+q", "+x,", "-1"] {
            assert!(mode(text).is_err(), "{text}");
        }
    }
}
