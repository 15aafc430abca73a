//! The databases of dpkg and apk, which are texts of fields. It does not know where they lie.

use super::package::{Distribution, Package};

/// The packages that dpkg has installed: `status`, or a file of `status.d` (deb822, dpkg's `status`).
pub(super) fn dpkg(text: &str, distribution: &Distribution) -> Result<Vec<Package>, String> {
    let mut all = Vec::new();
    for paragraph in paragraphs(text) {
        let field = |key: &str| {
            let found = paragraph.iter().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case(key).then(|| value.trim())
            });
            found.unwrap_or_default()
        };
        // A file of status.d has no such field: what it names is there.
        let status = field("Status");
        if !(status.is_empty() || status.split_whitespace().last() == Some("installed")) {
            continue;
        }
        let (name, version) = (field("Package"), field("Version"));
        let package = Package::of("deb", distribution.namespace("debian"), &name.to_lowercase(), version);
        let Some(package) = package.filter(|_| !version.is_empty()) else {
            return Err(format!("a paragraph without a name or version: {:?}", first(&paragraph)));
        };
        let package = package
            .with("arch", field("Architecture"))
            .with("distro", &distribution.qualifier())
            .with("upstream", &upstream(field("Source"), name));
        let supplier = Some(field("Maintainer").to_owned()).filter(|text| !text.is_empty());
        all.push(Package { supplier, ..package });
    }
    Ok(all)
}

/// The source of a package where it is called otherwise: `glibc`, or `glibc@2.36` where that has its own version.
fn upstream(source: &str, name: &str) -> String {
    match source.split_once('(') {
        Some((source, version)) => format!("{}@{}", source.trim(), version.trim_end_matches(')').trim()),
        None if source == name => String::new(),
        None => source.to_owned(),
    }
}

/// The packages that apk has installed (apk-tools, `lib/apk/db/installed`).
pub(super) fn apk(text: &str, distribution: &Distribution) -> Result<Vec<Package>, String> {
    let mut all = Vec::new();
    for paragraph in paragraphs(text) {
        let field = |key: &str| {
            let found = paragraph.iter().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            found.unwrap_or_default().trim()
        };
        let (name, version) = (field("P"), field("V"));
        let package = Package::of("apk", distribution.namespace("alpine"), &name.to_lowercase(), version);
        let Some(package) = package.filter(|_| !version.is_empty()) else {
            return Err(format!("a paragraph without a name or version: {:?}", first(&paragraph)));
        };
        let origin = field("o");
        let package = package
            .with("arch", field("A"))
            .with("distro", &distribution.qualifier())
            .with("upstream", if origin == name { "" } else { origin });
        let stated = |key: &str| Some(field(key).to_owned()).filter(|text| !text.is_empty());
        all.push(Package { licence: stated("L"), supplier: stated("m"), ..package });
    }
    Ok(all)
}

/// Lines up to an empty one. What goes on on the next line does not matter here.
fn paragraphs(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let mut lines = text.lines();
    std::iter::from_fn(move || {
        let paragraph: Vec<&str> = lines
            .by_ref()
            .skip_while(|line| line.trim().is_empty())
            .take_while(|line| !line.trim().is_empty())
            .filter(|line| !line.starts_with([' ', '\t']))
            .collect();
        (!paragraph.is_empty()).then_some(paragraph)
    })
}

fn first(paragraph: &[&str]) -> String {
    paragraph.first().copied().unwrap_or_default().chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debian() -> Distribution {
        Distribution { id: "debian".to_owned(), version: "12".to_owned() }
    }

    fn texts(packages: Result<Vec<Package>, String>) -> Vec<String> {
        packages.unwrap_or_else(|e| panic!("{e}")).iter().map(|package| package.purl.text()).collect()
    }

    const STATUS: &str = "\
Package: libc6
Status: install ok installed
Architecture: amd64
Multi-Arch: same
Source: glibc
Version: 2.36-9+deb12u4
Maintainer: GNU Libc Maintainers <debian-glibc@lists.debian.org>
Description: GNU C Library
 Package: not-one
 .
 more

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1

Package: perl-base
Status: hold ok installed
Source: perl (5.36.0-7)
Version: 1:5.36.0-7+b1
Architecture: amd64
";

    #[test]
    fn dpkg_packages_are_those_that_are_installed() {
        let packages = dpkg(STATUS, &debian());
        let supplier = packages.as_ref().ok().and_then(|all| all[0].supplier.clone());
        assert_eq!(supplier.as_deref(), Some("GNU Libc Maintainers <debian-glibc@lists.debian.org>"));
        assert_eq!(
            texts(packages),
            [
                "pkg:deb/debian/libc6@2.36-9%2Bdeb12u4?arch=amd64&distro=debian-12&upstream=glibc",
                "pkg:deb/debian/perl-base@1:5.36.0-7%2Bb1?arch=amd64&distro=debian-12&upstream=perl%405.36.0-7",
            ]
        );
    }

    #[test]
    fn a_file_of_status_d_needs_no_status() {
        let text = "Package: tzdata\nVersion: 2024a-0+deb12u1\nArchitecture: all\n";
        let expect = "pkg:deb/debian/tzdata@2024a-0%2Bdeb12u1?arch=all&distro=debian-12";
        assert_eq!(texts(dpkg(text, &debian())), [expect]);
    }

    #[test]
    fn apk_packages_have_licence_and_origin() {
        let text = "C:Q1abc=\nP:musl-utils\nV:1.2.4-r2\nA:x86_64\nL:MIT AND BSD-2-Clause\no:musl\nm:T <t@x>\nF:usr/bin\nR:ldd\n\n\nP:musl\nV:1.2.4-r2\nA:x86_64\no:musl\n";
        let alpine = Distribution { id: "alpine".to_owned(), version: "3.19.1".to_owned() };
        let packages = apk(text, &alpine);
        assert_eq!(
            packages.as_ref().ok().and_then(|all| all[0].licence.as_deref()),
            Some("MIT AND BSD-2-Clause")
        );
        assert_eq!(
            texts(packages),
            [
                "pkg:apk/alpine/musl-utils@1.2.4-r2?arch=x86_64&distro=alpine-3.19.1&upstream=musl",
                "pkg:apk/alpine/musl@1.2.4-r2?arch=x86_64&distro=alpine-3.19.1",
            ]
        );
    }

    #[test]
    fn what_is_no_database_is_told() {
        for text in ["\u{0}\u{1}garbage", "Package: a\n", "Version: 1\n"] {
            assert!(dpkg(text, &debian()).is_err(), "{text:?}");
            assert!(apk(text, &debian()).is_err(), "{text:?}");
        }
        assert_eq!(dpkg("\n\n", &debian()), Ok(Vec::new()));
    }
}
