//! Annotations of a result: which of its documents has which. It does not know what they mean.

use kiln_oci::Platform;
use std::collections::BTreeMap;

/// An annotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Annotation {
    /// What it is put on.
    pub level: AnnotationLevel,
    /// The one platform whose image it is for; `None` is all.
    pub platform: Option<Platform>,
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// What an annotation can be put on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnnotationLevel {
    /// The manifest of an image.
    Manifest,
    /// What an index says of a manifest.
    ManifestDescriptor,
    /// The index.
    Index,
    /// What a layout says of the index.
    IndexDescriptor,
}

/// Those of a level that are for an image, or for what is of no platform. One for just this platform goes
/// before one for all.
pub(crate) fn annotations_of(
    all: &[Annotation],
    level: AnnotationLevel,
    platform: Option<&Platform>,
) -> BTreeMap<String, String> {
    let of_level = all.iter().filter(|annotation| annotation.level == level);
    let (for_all, for_one): (Vec<_>, Vec<_>) = of_level.partition(|annotation| annotation.platform.is_none());
    let for_it = for_one.into_iter().filter(|annotation| annotation.platform.as_ref() == platform);
    for_all.into_iter().chain(for_it).map(|a| (a.name.clone(), a.value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_annotation_for_one_platform_goes_before_one_for_all() {
        let (arm64, amd64) = (Platform::new("linux", "arm64", None), Platform::new("linux", "amd64", None));
        let annotation = |platform: Option<&Platform>, name: &str, value: &str| Annotation {
            level: AnnotationLevel::Manifest,
            platform: platform.cloned(),
            name: name.to_owned(),
            value: value.to_owned(),
        };
        let all = [
            annotation(Some(&arm64), "a", "arm64"),
            annotation(None, "a", "all"),
            annotation(None, "b", "b"),
        ];
        let of = |level, platform| {
            let found = annotations_of(&all, level, platform);
            found.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(of(AnnotationLevel::Manifest, Some(&arm64)), "a=arm64 b=b");
        assert_eq!(of(AnnotationLevel::Manifest, Some(&amd64)), "a=all b=b");
        assert_eq!(of(AnnotationLevel::Index, None), "");
    }
}
