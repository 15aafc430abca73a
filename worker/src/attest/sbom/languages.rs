//! What the package managers of languages leave in an image: lock files and the metadata of what is installed.
//! It does not know where the files lie.

use super::package::Package;
use serde_json::Value;

/// How deep a lock file of npm's first version may nest.
const NESTED_MAX: usize = 64;

/// `package.json` of something that npm installed.
pub(super) fn package_json(text: &str) -> Result<Vec<Package>, String> {
    let value: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let name = value["name"].as_str().unwrap_or_default();
    let version = value["version"].as_str().unwrap_or_default();
    // Folders of modules have such files of their own, which only say how they are loaded.
    let Some(package) = npm(name, version).filter(|_| !version.is_empty()) else { return Ok(Vec::new()) };
    Ok(vec![Package { licence: licence_of(&value), ..package }])
}

/// `package-lock.json`, in all three versions.
pub(super) fn package_lock(text: &str) -> Result<Vec<Package>, String> {
    let value: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let mut all = Vec::new();
    if let Some(packages) = value["packages"].as_object() {
        for (path, entry) in packages {
            let Some((_, last)) = path.rsplit_once("node_modules/") else { continue };
            if entry["link"].as_bool() == Some(true) {
                continue;
            }
            let name = entry["name"].as_str().unwrap_or(last);
            let package = npm(name, entry["version"].as_str().unwrap_or_default());
            all.extend(package.map(|package| Package { licence: licence_of(entry), ..package }));
        }
        return Ok(all);
    }
    let mut left = vec![(&value, 0)];
    while let Some((at, depth)) = left.pop() {
        let Some(dependencies) = at["dependencies"].as_object() else { continue };
        if depth == NESTED_MAX {
            return Err(format!("more than {NESTED_MAX} dependencies in one another"));
        }
        for (name, entry) in dependencies {
            all.extend(npm(name, entry["version"].as_str().unwrap_or_default()));
            left.push((entry, depth + 1));
        }
    }
    Ok(all)
}

/// `yarn.lock`, of the first yarn and of those after it.
pub(super) fn yarn_lock(text: &str) -> Result<Vec<Package>, String> {
    let (mut all, mut name, mut is_own) = (Vec::new(), String::new(), false);
    for line in text.lines() {
        if line.starts_with('#') || line.trim().is_empty() {
            continue;
        }
        if !line.starts_with(' ') {
            let first = line.split(',').next().unwrap_or_default().trim_end_matches(':').trim_matches('"');
            // The name may begin with an at sign of its own.
            let end = first.get(1..).and_then(|rest| rest.find('@')).map_or(first.len(), |at| at + 1);
            name = first[..end].to_owned();
            is_own = first[end..].starts_with("@workspace:");
            continue;
        }
        let Some(rest) = line.strip_prefix("  version") else { continue };
        let version = rest.trim_start_matches(':').trim().trim_matches('"');
        if !is_own && name != "__metadata" {
            all.extend(npm(&name, version));
        }
    }
    match all.is_empty() && !text.contains("yarn lockfile") && !text.contains("__metadata") {
        true if !text.trim().is_empty() => Err("it is no lock file of yarn's".to_owned()),
        _ => Ok(all),
    }
}

fn npm(name: &str, version: &str) -> Option<Package> {
    let (namespace, short) = match name.split_once('/') {
        Some((scope, short)) if scope.starts_with('@') => (scope, short),
        _ => ("", name),
    };
    // What is no version is an address or a folder.
    let is_version = version.starts_with(|c: char| c.is_ascii_digit()) || version.is_empty();
    Package::of(
        "npm",
        &namespace.to_lowercase(),
        &short.to_lowercase(),
        if is_version { version } else { "" },
    )
}

fn licence_of(value: &Value) -> Option<String> {
    let of = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Object(_) => value["type"].as_str().map(str::to_owned),
        _ => None,
    };
    let several = |values: &Vec<Value>| {
        let all: Vec<String> = values.iter().filter_map(of).collect();
        (!all.is_empty()).then(|| all.join(" OR "))
    };
    let found = match &value["license"] {
        Value::Array(all) => several(all),
        one => of(one),
    };
    found.or_else(|| several(value["licenses"].as_array()?)).filter(|text| !text.trim().is_empty())
}

/// `Cargo.lock`, `poetry.lock`, `uv.lock`: blocks `[[package]]` with a name and a version.
pub(super) fn toml_lock(kind: &'static str, text: &str) -> Result<Vec<Package>, String> {
    let mut all = Vec::new();
    let (mut in_package, mut name, mut version) = (false, String::new(), String::new());
    let mut take = |name: &mut String, version: &mut String| {
        let (name, version) = (std::mem::take(name), std::mem::take(version));
        all.extend(if kind == "pypi" {
            pypi(&name, &version)
        } else {
            Package::of(kind, "", &name, &version)
        });
    };
    for line in text.lines() {
        if line.starts_with('[') {
            take(&mut name, &mut version);
            in_package = line.trim() == "[[package]]";
        }
        let Some((key, value)) = line.split_once('=').filter(|_| in_package) else { continue };
        let value = value.trim().trim_matches('"');
        match key.trim() {
            "name" => value.clone_into(&mut name),
            "version" => value.clone_into(&mut version),
            _ => {}
        }
    }
    take(&mut name, &mut version);
    match all.is_empty() && !text.trim().is_empty() && !text.contains('=') {
        true => Err("it has nothing of a lock file".to_owned()),
        false => Ok(all),
    }
}

/// `METADATA` or `PKG-INFO` of an installed distribution (Python's core metadata).
pub(super) fn python_metadata(text: &str) -> Result<Vec<Package>, String> {
    let head = text.lines().take_while(|line| !line.trim().is_empty());
    let fields: Vec<(&str, &str)> = head.filter_map(|line| line.split_once(':')).collect();
    let field = |key: &str| {
        let found = fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(key));
        found.map(|(_, value)| value.trim()).filter(|value| !value.is_empty() && *value != "UNKNOWN")
    };
    let (name, version) = (field("Name").unwrap_or_default(), field("Version").unwrap_or_default());
    let package = pypi(name, version).filter(|_| !version.is_empty()).ok_or("it has no name or version")?;
    let licence = field("License-Expression").or_else(|| field("License"));
    Ok(vec![Package { licence: licence.map(str::to_owned), ..package }])
}

/// `requirements.txt`: of its lines those that pin a version.
pub(super) fn requirements(text: &str) -> Result<Vec<Package>, String> {
    let pinned = |line: &str| {
        let line = line.split(['#', ';']).next()?.trim();
        let (name, version) = line.split_once("==")?;
        let name = name.split('[').next()?.trim();
        let version = version.trim_start_matches('=').split_whitespace().next()?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let is_one = name.chars().all(is_name) && !version.contains([',', '*']);
        is_one.then(|| pypi(name, version)).flatten()
    };
    Ok(text.lines().filter_map(pinned).collect())
}

fn pypi(name: &str, version: &str) -> Option<Package> {
    Package::of("pypi", "", &name.to_lowercase().replace('_', "-"), version)
}

/// `Gemfile.lock`.
pub(super) fn gemfile_lock(text: &str) -> Result<Vec<Package>, String> {
    let (mut all, mut in_specs) = (Vec::new(), false);
    for line in text.lines() {
        if !line.starts_with(' ') {
            in_specs = false;
        }
        if line.trim_end() == "  specs:" {
            in_specs = true;
        }
        // Four spaces are a gem, six what it needs.
        let Some(gem) = line.strip_prefix("    ").filter(|gem| in_specs && !gem.starts_with(' ')) else {
            continue;
        };
        let Some((name, version)) = gem.split_once(" (") else { continue };
        let version = version.trim_end().trim_end_matches(')');
        let (version, platform) = version.split_once('-').unwrap_or((version, ""));
        all.extend(Package::of("gem", "", name, version).map(|gem| gem.with("platform", platform)));
    }
    match all.is_empty() && !text.contains("DEPENDENCIES") && !text.trim().is_empty() {
        true => Err("it is no lock file of Bundler's".to_owned()),
        false => Ok(all),
    }
}

/// `composer.lock`, or `installed.json` in a folder `vendor/composer`.
pub(super) fn composer(text: &str) -> Result<Vec<Package>, String> {
    let value: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let lists = [&value, &value["packages"], &value["packages-dev"]];
    let mut all = Vec::new();
    for entry in lists.into_iter().filter_map(Value::as_array).flatten() {
        let name = entry["name"].as_str().unwrap_or_default().to_lowercase();
        let (namespace, short) = name.split_once('/').unwrap_or(("", &name));
        let package =
            Package::of("composer", namespace, short, entry["version"].as_str().unwrap_or_default());
        all.extend(package.map(|package| Package { licence: licence_of(entry), ..package }));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(packages: Result<Vec<Package>, String>, expect: &[&str]) {
        let mut texts: Vec<String> = match packages {
            Ok(all) => all.iter().map(|package| package.purl.text()).collect(),
            Err(problem) => panic!("{problem}"),
        };
        texts.sort();
        assert_eq!(texts, expect);
    }

    #[test]
    fn lock_files_of_npm_are_read_in_all_versions() {
        let flat = r#"{"lockfileVersion":3,"packages":{"":{"name":"app","version":"9"},
            "node_modules/@a/b":{"version":"1.0.0","license":"MIT"},
            "node_modules/c/node_modules/D":{"version":"2.0.0-rc.1"},
            "node_modules/alias":{"name":"real","version":"3.0.0"},
            "node_modules/own":{"link":true,"resolved":"own"},"own":{"version":"1.0.0"}}}"#;
        let expect = ["pkg:npm/%40a/b@1.0.0", "pkg:npm/d@2.0.0-rc.1", "pkg:npm/real@3.0.0"];
        check(package_lock(flat), &expect);
        let nested = r#"{"lockfileVersion":1,"dependencies":{"@a/b":{"version":"1.0.0"},
            "c":{"version":"git+https://u:p@h/c.git","dependencies":{"d":{"version":"2.0.0"}}}}}"#;
        check(package_lock(nested), &["pkg:npm/%40a/b@1.0.0", "pkg:npm/c", "pkg:npm/d@2.0.0"]);
        assert!(package_lock("{").is_err());
    }

    #[test]
    fn an_installed_module_has_its_licence_and_a_mere_folder_is_none() {
        let one = package_json(r#"{"name":"@x/y","version":"1.2.3","license":{"type":"ISC"}}"#);
        assert_eq!(one.as_ref().ok().and_then(|all| all[0].licence.as_deref()), Some("ISC"));
        check(one, &["pkg:npm/%40x/y@1.2.3"]);
        let old = package_json(r#"{"name":"z","version":"1.0.0","licenses":[{"type":"MIT"},{"type":"X"}]}"#);
        assert_eq!(old.ok().and_then(|all| all[0].licence.clone()).as_deref(), Some("MIT OR X"));
        check(package_json(r#"{"type":"module"}"#), &[]);
        assert!(package_json("no").is_err());
    }

    #[test]
    fn lock_files_of_both_yarns_are_read() {
        let first = "# yarn lockfile v1\n\n\n\"@a/b@^1.0.0\", \"@a/b@^1.1.0\":\n  version \"1.1.0\"\n  dependencies:\n    c \"^2\"\n\nc@^2:\n  version \"2.0.1\"\n";
        check(yarn_lock(first), &["pkg:npm/%40a/b@1.1.0", "pkg:npm/c@2.0.1"]);
        let later = "__metadata:\n  version: 6\n\n\"@a/b@npm:^1.0.0\":\n  version: 1.1.0\n  resolution: \"@a/b@npm:1.1.0\"\n\n\"app@workspace:.\":\n  version: 0.0.0-use.local\n";
        check(yarn_lock(later), &["pkg:npm/%40a/b@1.1.0"]);
        assert!(yarn_lock("<html>").is_err());
    }

    #[test]
    fn blocks_of_packages_are_read_and_other_tables_are_not() {
        let text = "version = 3\n\n[[package]]\nname = \"rand\"\nversion = \"0.8.5\"\nsource = \"registry\"\n\n[[package]]\nname = \"libc\"\nversion = \"0.2.1\"\n\n[metadata]\nname = \"x\"\nversion = \"9\"\n";
        check(toml_lock("cargo", text), &["pkg:cargo/libc@0.2.1", "pkg:cargo/rand@0.8.5"]);
        let poetry = "[[package]]\nname = \"Typing_Extensions\"\nversion = \"4.8.0\"\n\n[package.dependencies]\nname = \"no\"\n";
        check(toml_lock("pypi", poetry), &["pkg:pypi/typing-extensions@4.8.0"]);
        assert!(toml_lock("cargo", "<html>").is_err());
    }

    #[test]
    fn no_text_makes_a_reader_panic() {
        type Reader = fn(&str) -> Result<Vec<Package>, String>;
        let readers: [Reader; 9] = [
            package_json,
            package_lock,
            yarn_lock,
            |text| toml_lock("pypi", text),
            python_metadata,
            requirements,
            gemfile_lock,
            composer,
            |text| crate::attest::sbom::system::dpkg(text, &Default::default()),
        ];
        let parts = [
            "\"@a/b@^1\":\n",
            "  version \"",
            "é",
            "@",
            "\"",
            "[[package]]\n",
            "name = \"x\"\n",
            "=",
            "==1[",
            "(",
            ")\n",
            "  specs:\n    ",
            "a (1-",
            "{\"packages\":",
            "[{\"name\":\"é/\"}]",
            "}",
            "Name: é\n",
            "Version:",
            "\n\n",
            " ",
            "",
        ];
        // All texts of three parts.
        for first in parts {
            for second in parts {
                for third in parts {
                    let text = [first, second, third].concat();
                    readers.iter().for_each(|read| drop(read(&text)));
                }
            }
        }
    }

    #[test]
    fn what_python_has_is_read_from_metadata_and_from_pins() {
        let text =
            "Metadata-Version: 2.1\nName: Flask_Cors\nVersion: 4.0.0\nLicense: MIT\n\nName: not this\n";
        let read = python_metadata(text);
        assert_eq!(read.as_ref().ok().and_then(|all| all[0].licence.as_deref()), Some("MIT"));
        check(read, &["pkg:pypi/flask-cors@4.0.0"]);
        assert!(python_metadata("Name: x\n").is_err());
        let pins = "a==1.0 # x\nb[extra]==2 ; python_version<'3'\nc>=1\nd==1.*\n-r other.txt\ne===3 --hash=sha256:0\nhttps://u:p@h/x==1\n";
        check(requirements(pins), &["pkg:pypi/a@1.0", "pkg:pypi/b@2", "pkg:pypi/e@3"]);
    }

    #[test]
    fn gems_and_composers_packages_are_read() {
        let text = "GEM\n  remote: https://rubygems.org/\n  specs:\n    nokogiri (1.15.0-x86_64-linux)\n      racc (~> 1.4)\n    racc (1.7.1)\n\nPLATFORMS\n  ruby\n\nDEPENDENCIES\n  nokogiri\n";
        check(gemfile_lock(text), &["pkg:gem/nokogiri@1.15.0?platform=x86_64-linux", "pkg:gem/racc@1.7.1"]);
        assert!(gemfile_lock("<html>").is_err());
        let lock = r#"{"packages":[{"name":"Laravel/framework","version":"v10.0.0","license":["MIT"]}],"packages-dev":[{"name":"a/b","version":"1"}]}"#;
        check(composer(lock), &["pkg:composer/a/b@1", "pkg:composer/laravel/framework@v10.0.0"]);
    }
}
