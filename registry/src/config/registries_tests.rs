//! Claims about `registries.conf`, file by file and name by name.

use super::*;

fn read_text(text: &str) -> Registries {
    let mut all = Registries::default();
    all.add(Path::new("/r.conf"), text).expect(text);
    all
}

fn places(all: &Registries, name: &str) -> String {
    let route = all.route(&name.parse().expect("a reference"));
    let Some(route) = route else { return "as named".to_owned() };
    let text = |e: &Endpoint| {
        let insecure = if e.security == Security::Insecure { "!" } else { "" };
        format!("{}/{}{insecure}", e.host, e.repository)
    };
    let all: Vec<String> = route.endpoints.iter().map(text).collect();
    let blocked = route.blocked.map_or_else(String::new, |at| format!(" blocked at {at}"));
    format!("{}{blocked}", all.join(" "))
}

const FILE: &str = r#"
unqualified-search-registries = ["quay.io"]

[[registry]]
prefix = "r.io"
location = "inner.local:5000/r"

[[registry.mirror]]
location = "one.local"
insecure = true

[[registry.mirror]]
location = "two.local/x"
pull-from-mirror = "digest-only"

[[registry.mirror]]
location = "three.local"
pull-from-mirror = "tag-only"

[[registry]]
prefix = "r.io/team"
insecure = true

[[registry]]
prefix = "*.wild.io"
location = "all.local"

[[registry]]
location = "evil.io"
blocked = true

[aliases]
"fedora" = "registry.fedoraproject.org/fedora"
"#;

#[test]
fn the_longest_prefix_decides() {
    let all = read_text(FILE);
    let digest = format!("sha256:{}", "0".repeat(64));
    for (name, want) in [
        ("r.io/a/b:1", "one.local/a/b! three.local/a/b inner.local:5000/r/a/b".to_owned()),
        (&format!("r.io/a/b@{digest}"), "one.local/a/b! two.local/x/a/b inner.local:5000/r/a/b".to_owned()),
        (&format!("r.io/a/b:1@{digest}"), "one.local/a/b! two.local/x/a/b inner.local:5000/r/a/b".to_owned()),
        ("r.io/team/a", "r.io/team/a!".to_owned()),
        ("r.io/teams/a", "one.local/teams/a! three.local/teams/a inner.local:5000/r/teams/a".to_owned()),
        ("r.io:5000/a", "as named".to_owned()),
        ("a.b.wild.io/x", "all.local/x".to_owned()),
        ("wild.io/x", "as named".to_owned()),
        ("notwild.io/x", "as named".to_owned()),
        ("evil.io/x", "evil.io/x blocked at /r.conf:28".to_owned()),
        ("fedora", "as named".to_owned()),
    ] {
        assert_eq!(places(&all, name), want, "{name}");
    }
    assert_eq!(
        all.alias("fedora").map(|(name, at)| (name, at.line)),
        Some(("registry.fedoraproject.org/fedora", 33))
    );
    assert!(
        all.notes[0].starts_with("/r.conf:2: unqualified-search-registries has no effect"),
        "{:?}",
        all.notes
    );
}

#[test]
fn a_later_file_replaces_what_an_earlier_one_says_of_a_prefix() {
    let mut all = read_text(
        "[[registry]]\nprefix='a.io'\nlocation='b.io'\n[aliases]\n\"x\"='a.io/x'\n\"y\"='a.io/y'\n",
    );
    let later = "[[registry]]\nprefix='a.io'\nlocation='c.io'\n[aliases]\n\"x\"=''\n\"y\"='b.io/y'\n";
    all.add(Path::new("/later.conf"), later).expect("read");
    assert_eq!(places(&all, "a.io/x"), "c.io/x");
    assert_eq!(all.alias("x"), None);
    assert_eq!(all.alias("y").map(|(name, _)| name), Some("b.io/y"));
}

#[test]
fn digests_alone_may_be_all_that_mirrors_are_asked_for() {
    let all = read_text(
        "[[registry]]\nlocation='a.io'\nmirror-by-digest-only=true\n[[registry.mirror]]\nlocation='m.io'\n",
    );
    assert_eq!(places(&all, "a.io/x:1"), "a.io/x");
    assert_eq!(places(&all, &format!("a.io/x@sha256:{}", "0".repeat(64))), "m.io/x a.io/x");
}

#[test]
fn mistakes_are_told_with_file_and_line() {
    for (text, line, words) in [
        ("a = \n", 1, ""),
        ("[registries.search]\nregistries=['a']\n", 1, "version 1"),
        ("\n[[registry]]\ninsecure=true\n", 2, "neither `prefix` nor `location`"),
        ("[[registry]]\nlocation='https://a.io'\n", 2, "scheme"),
        ("[[registry]]\nlocation='mirror/a'\n", 2, "names no registry"),
        ("[[registry]]\nprefix='a*.io'\n", 2, "`*.`"),
        ("[[registry]]\nprefix='*.a.io/x'\n", 2, "path"),
        ("[[registry]]\nprefix='a.io/x:1'\n", 2, "no tag"),
        ("[[registry]]\nlocation='a.io'\n[[registry]]\nlocation='a.io'\n", 3, "line 1 already"),
        ("[[registry]]\nlocation='a.io'\n[[registry.mirror]]\ninsecure=true\n", 3, "no `location`"),
        (
            "[[registry]]\nlocation='a.io'\n[[registry.mirror]]\nlocation='b.io'\npull-from-mirror='some'\n",
            5,
            "some",
        ),
        (
            "[[registry]]\nlocation='a.io'\nmirror-by-digest-only=true\n[[registry.mirror]]\nlocation='b.io'\npull-from-mirror='all'\n",
            6,
            "exclude",
        ),
        ("[[registry]]\nlocation=1\n", 2, "string"),
        ("[aliases]\n\"x\"='y/z'\n", 2, "alias `x`"),
    ] {
        let error = Registries::default().add(Path::new("/r.conf"), text).expect_err(text).to_string();
        assert!(error.contains(&format!("/r.conf:{line}: ")) && error.contains(words), "{text}: {error}");
    }
}
