//! Finds the name that was probably meant. It does not know what names stand for.

/// The name nearest to what was written, if one is near enough.
pub(crate) fn nearest<'a>(written: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if written.len() > 64 {
        return None;
    }
    let limit = (written.chars().count() / 2).min(3);
    let near = names.into_iter().filter(|name| name.len() <= 64).map(|name| (distance(written, name), name));
    near.filter(|(far, name)| *far <= limit && *name != written).min_by_key(|(far, _)| *far).map(|(_, n)| n)
}

/// How many letters must be added, dropped or changed, case aside.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.to_lowercase().chars().enumerate() {
        let mut before = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let change = before + usize::from(x != *y);
            before = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(before + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_is_found() {
        assert_eq!(nearest("twoo", ["one", "two"]), Some("two"));
        assert_eq!(nearest("nowhere", ["one", "two"]), None);
        assert_eq!(nearest("two", ["two"]), None);
    }
}
