//! Finds the known name that was probably meant. It does not know what the names stand for.

/// The furthest that a name may be from what was written.
const MAX_DISTANCE: usize = 3;

/// The name nearest to `written`, if another than that is near enough; case does not count.
pub fn nearest<'a>(written: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if written.len() > 64 {
        return None;
    }
    let limit = (written.chars().count() / 2).min(MAX_DISTANCE);
    let others = names.into_iter().filter(|name| name.len() <= 64 && *name != written);
    others
        .map(|name| (distance(written, name), name))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// How many characters must be added, dropped or changed, case aside.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.to_lowercase().chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_meant() {
        let names = ["FROM", "RUN", "COPY", "ENTRYPOINT", "USER"];
        for (written, expect) in [
            ("FORM", Some("FROM")),
            ("cpy", Some("COPY")),
            ("ENTRPOINT", Some("ENTRYPOINT")),
            ("NONSENSE", None),
            ("X", None),
            ("RUN", None),
        ] {
            assert_eq!(nearest(written, names), expect, "{written}");
        }
    }
}
