//! A bill of materials as a document of SPDX 2.3 in JSON. It does not know how packages were found.

use super::licence::{References, expression};
use super::package::{Distribution, Package};
use jiff::Timestamp;
use kiln_oci::{DiffId, Digest};
use serde_json::{Value, json};

/// Where documents have their names that nobody's own web site names (SPDX 2.3, clause 6.5).
const NAMESPACE: &str = "https://spdx.org/spdxdocs";
const NOT_SAID: &str = "NOASSERTION";

/// A package with where it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// The package.
    pub package: Package,
    /// The file that names it, as an absolute path.
    pub path: String,
    /// In which layer of the image it came, from the lowest.
    pub layer: Option<usize>,
}

/// All that is known of an image's content.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bill {
    /// The packages, sorted.
    pub listed: Vec<Listed>,
    /// The distribution.
    pub distribution: Distribution,
}

/// The document of an image: `digest` is the image's, `created` when it says that it was made.
pub(super) fn document(bill: &Bill, digest: &Digest, created: Timestamp, layers: &[DiffId]) -> Value {
    let mut references = References::new();
    let mut packages = vec![image(digest)];
    let mut relationships = vec![relation("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-Image")];
    if !bill.distribution.id.is_empty() {
        packages.push(distribution(&bill.distribution));
        relationships.push(relation("SPDXRef-Image", "CONTAINS", "SPDXRef-Distribution"));
    }
    for listed in &bill.listed {
        let id = id_of(listed);
        packages.push(package(listed, &id, layers, &mut references));
        relationships.push(relation("SPDXRef-Image", "CONTAINS", &id));
    }
    let created = Timestamp::from_second(created.as_second()).unwrap_or_default();
    let mut document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": digest.to_string(),
        "documentNamespace": format!("{NAMESPACE}/kiln-sha256-{}", digest.hex()),
        "creationInfo": {
            "created": created.to_string(),
            "creators": [concat!("Tool: kiln-", env!("CARGO_PKG_VERSION"))],
        },
        "packages": packages,
        "relationships": relationships,
    });
    if !references.is_empty() {
        let texts = references.into_iter().map(|(id, text)| json!({"licenseId": id, "extractedText": text}));
        document["hasExtractedLicensingInfos"] = texts.collect();
    }
    document
}

fn relation(from: &str, how: &str, to: &str) -> Value {
    json!({"spdxElementId": from, "relationshipType": how, "relatedSpdxElement": to})
}

/// The image itself.
fn image(digest: &Digest) -> Value {
    json!({
        "SPDXID": "SPDXRef-Image",
        "name": digest.to_string(),
        "versionInfo": digest.to_string(),
        "downloadLocation": NOT_SAID,
        "filesAnalyzed": false,
        "licenseConcluded": NOT_SAID,
        "licenseDeclared": NOT_SAID,
        "copyrightText": NOT_SAID,
        "checksums": [{"algorithm": "SHA256", "checksumValue": digest.hex()}],
        "primaryPackagePurpose": "CONTAINER",
    })
}

fn distribution(of: &Distribution) -> Value {
    json!({
        "SPDXID": "SPDXRef-Distribution",
        "name": of.id,
        "versionInfo": if of.version.is_empty() { NOT_SAID } else { &of.version },
        "downloadLocation": NOT_SAID,
        "filesAnalyzed": false,
        "licenseConcluded": NOT_SAID,
        "licenseDeclared": NOT_SAID,
        "copyrightText": NOT_SAID,
        "primaryPackagePurpose": "OPERATING-SYSTEM",
    })
}

fn package(listed: &Listed, id: &str, layers: &[DiffId], references: &mut References) -> Value {
    let Listed { package, path, layer } = listed;
    let licence = package.licence.as_deref().filter(|text| !text.trim().is_empty());
    let mut value = json!({
        "SPDXID": id,
        "name": package.full_name(),
        "supplier": package.supplier.as_deref().map_or(NOT_SAID.to_owned(), |who| supplier(package, who)),
        "downloadLocation": NOT_SAID,
        "filesAnalyzed": false,
        "sourceInfo": format!("named in {path}"),
        "licenseConcluded": NOT_SAID,
        "licenseDeclared": licence.map_or(NOT_SAID.to_owned(), |text| expression(text, references)),
        "copyrightText": NOT_SAID,
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": package.purl.text(),
        }],
    });
    if !package.purl.version.is_empty() {
        value["versionInfo"] = package.purl.version.as_str().into();
    }
    // As BuildKit and Syft tell the layer of a file.
    if let Some(layer) = layer.and_then(|layer| layers.get(layer)) {
        value["comment"] = format!("layerID: {layer}").into();
    }
    value
}

/// `Name <mail>` is a person, unless it is rpm's vendor.
fn supplier(package: &Package, who: &str) -> String {
    let who = who.trim();
    if package.purl.kind == "rpm" {
        return format!("Organization: {who}");
    }
    match who.split_once('<') {
        Some((name, mail)) if !name.trim().is_empty() => {
            format!("Person: {} ({})", name.trim(), mail.trim_end_matches('>').trim())
        }
        _ => format!("Person: {who}"),
    }
}

/// A name that no other element of the document has, and that depends on nothing else in it.
fn id_of(listed: &Listed) -> String {
    let Package { purl, .. } = &listed.package;
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    let name: String = purl.name.chars().map(plain).take(64).collect();
    format!("SPDXRef-Package-{}-{name}-{}", purl.kind, &Digest::of(purl.text().as_bytes()).hex()[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bill() -> Bill {
        let deb = Package::of("deb", "debian", "libc6", "2.36-9").map(|package| Package {
            licence: Some("strange one".to_owned()),
            supplier: Some("GNU Libc <a@b>".to_owned()),
            ..package
        });
        let npm = Package::of("npm", "@a", "b", "");
        let listed = |package: Option<Package>, layer| Listed {
            package: package.unwrap_or_default(),
            path: "/var/lib/dpkg/status".to_owned(),
            layer,
        };
        let distribution = Distribution { id: "debian".to_owned(), version: "12".to_owned() };
        Bill { listed: vec![listed(deb, Some(0)), listed(npm, None)], distribution }
    }

    #[test]
    fn a_document_has_what_spdx_asks_for_and_is_the_same_each_time() {
        let digest = Digest::of(b"image");
        let created = "2024-05-06T07:08:09.5Z".parse().unwrap_or_else(|e| panic!("{e}"));
        let layers = [DiffId(Digest::of(b"layer"))];
        let made = document(&bill(), &digest, created, &layers);
        assert_eq!(made, document(&bill(), &digest, created, &layers));
        assert_eq!(made["creationInfo"]["created"], "2024-05-06T07:08:09Z");
        assert_eq!(made["documentNamespace"], format!("{NAMESPACE}/kiln-sha256-{}", digest.hex()));
        let packages = made["packages"].as_array().cloned().unwrap_or_default();
        assert_eq!(packages.len(), 4);
        assert_eq!(packages[2]["supplier"], "Person: GNU Libc (a@b)");
        assert_eq!(packages[2]["comment"], format!("layerID: {}", layers[0]));
        assert_eq!(packages[2]["licenseDeclared"], made["hasExtractedLicensingInfos"][0]["licenseId"]);
        assert_eq!((packages[3]["name"].as_str(), packages[3].get("versionInfo")), (Some("@a/b"), None));
        let mut ids: Vec<&str> = packages.iter().filter_map(|package| package["SPDXID"].as_str()).collect();
        let related = made["relationships"].as_array().map_or(0, Vec::len);
        assert_eq!(related, ids.len());
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 4, "no two elements have the same name");
    }
}
