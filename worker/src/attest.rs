//! Attestations, when they are asked for: what is in an image, where it comes from, and whose it is. It does not
//! know how an image is built, or what its outputs are.
//!
//! | what | made by | kept by |
//! | --- | --- | --- |
//! | bill of materials | `sbom`: the files of the final tree | `statement`, then `storage` or a file |
//! | provenance | `provenance`: the graph and what was fetched | the same |
//! | signature | `sign`: a key of cosign's, read by `key` | at the registry, beside the image |

mod key;
mod provenance;
mod purl;
mod redact;
mod referrers;
mod sbom;
mod sign;
mod statement;
mod storage;

pub use key::{SignKeyError, SigningKey};
pub(crate) use provenance::{Facts, Fetched};
pub use provenance::{ProvenanceMode, ProvenanceRequest};
pub(crate) use referrers::{listed, push_referrers};
pub(crate) use sign::push_signature;
pub(crate) use statement::Statement;
pub(crate) use storage::no_platform;

use crate::WorkerError;
use crate::export::{Documents, Exporter};
use crate::layer::Stack;
use crate::layer_form::Spelling;
use crate::worker::{BuildRequest, Target};
use jiff::Timestamp;
use kiln_oci::{ChainId, DiffId, Digest, ImageConfig, Platform, Reference};
use kiln_snapshotter::{Kind, TreeView};
use sbom::Bill;
use statement::Predicate;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// How a bill of materials is called beside files, as BuildKit calls it.
const BILL_FILE: &str = "sbom.spdx.json";

/// What is attested of a result.
#[derive(Clone, Debug, Default)]
pub struct Attest {
    /// Whether what is in it is listed.
    pub sbom: bool,
    /// Whether and how it is told where it comes from.
    pub provenance: Option<ProvenanceRequest>,
    /// Whether and how it is told to who builds, besides: [`crate::BuildResult::provenance`].
    pub told: Option<ProvenanceRequest>,
    /// How an image and its attestations belong together.
    pub place: AttestPlace,
    /// What signs an image that is pushed.
    pub key: Option<Arc<SigningKey>>,
}

/// How an image and its attestations belong together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttestPlace {
    /// An index lists both, as BuildKit has it.
    #[default]
    Index,
    /// The image is as it is without any, and they refer to it.
    Referrers,
}

impl Attest {
    /// Whether there is something to attest.
    pub fn is_any(&self) -> bool {
        self.sbom || self.provenance.is_some()
    }

    /// Whether an image becomes an index, even one of one platform.
    pub fn makes_index(&self) -> bool {
        self.is_any() && self.place == AttestPlace::Index
    }
}

/// Attests of the images of one build.
pub(crate) struct Attester<'a> {
    pub exporter: &'a Exporter<'a>,
    pub request: &'a BuildRequest,
    facts: &'a Facts,
    /// What is in the images, by their numbers; each is looked through once for all outputs.
    bills: RefCell<HashMap<usize, Rc<Bill>>>,
}

/// An image that something is attested of.
#[derive(Clone, Copy)]
pub(crate) struct Attested<'a> {
    /// Its number among those of the build.
    pub number: usize,
    pub target: &'a Target,
    pub stack: &'a Stack,
    pub config: &'a ImageConfig,
}

/// What came of an image's attestations: manifests for its index, or such as refer to it.
#[derive(Debug, Default)]
pub(crate) struct Attestations {
    pub in_index: Vec<Documents>,
    pub referrers: Vec<Documents>,
}

impl<'a> Attester<'a> {
    /// Attests what `request` wants.
    pub fn new(exporter: &'a Exporter<'a>, request: &'a BuildRequest, facts: &'a Facts) -> Attester<'a> {
        Attester { exporter, request, facts, bills: RefCell::default() }
    }

    /// The attestations of an image with these names, as documents.
    pub fn of_image(
        &self,
        of: Attested<'_>,
        image: &Documents,
        names: &[Reference],
        (spelling, as_artifact): (Spelling, bool),
    ) -> Result<Attestations, WorkerError> {
        let mut made = Attestations::default();
        if !self.request.attest.is_any() {
            return Ok(made);
        }
        let digest = image.descriptor().digest;
        let subject = |name| (purl::of_image("docker", name, Some(&of.target.platform)), digest);
        let mut subjects: Vec<(String, Digest)> = names.iter().map(subject).collect();
        if subjects.is_empty() {
            // As BuildKit calls what has no name.
            subjects.push(("_".to_owned(), digest));
        }
        let statements = self.statements(of, &subjects, &digest, &image.diff_ids, false)?;
        let store = self.exporter.store;
        match self.request.attest.place {
            AttestPlace::Index => {
                made.in_index = vec![storage::in_index(store, image, &statements, spelling, as_artifact)?];
            }
            AttestPlace::Referrers => made.referrers = storage::referrers(store, image, &statements)?,
        }
        Ok(made)
    }

    /// The statements about an image's files.
    pub fn of_files(&self, of: Attested<'_>) -> Result<Vec<Statement>, WorkerError> {
        let attest = &self.request.attest;
        let wants_provenance = attest.provenance.as_ref().is_some_and(|wanted| !wanted.inline_only);
        if !attest.sbom && !wants_provenance {
            return Ok(Vec::new());
        }
        let store = self.exporter.store;
        let snapshots = self.exporter.images.unpacked(of.stack)?;
        let indexes = snapshots.iter().map(|id| store.snapshots.index(id));
        let view = TreeView::new(indexes.collect::<Result<Vec<_>, _>>()?);
        let file = |(path, entry): (Vec<u8>, &kiln_snapshotter::Entry)| match entry.kind {
            Kind::File { digest, .. } => Some((String::from_utf8_lossy(&path).into_owned(), digest)),
            _ => None,
        };
        let mut subjects: Vec<(String, Digest)> = view.walk(b"").filter_map(file).collect();
        subjects.sort();
        let diff_ids = of.stack.diff_ids()?;
        let digest = ChainId::of(&diff_ids).map_or_else(|| Digest::of(b""), |chain| chain.0);
        self.statements(of, &subjects, &digest, &diff_ids, true)
    }

    /// Where each image comes from, for who builds, if he asked for it: predicates of SLSA 1.0, without what would make
    /// them attestations.
    pub fn told(&self) -> Result<Vec<(Platform, serde_json::Value)>, WorkerError> {
        let Some(wanted) = &self.request.attest.told else { return Ok(Vec::new()) };
        let of = |target: &Target| {
            Ok((target.platform.clone(), provenance::predicate(self.request, wanted, target, self.facts)?))
        };
        self.request.targets.iter().map(of).collect()
    }

    /// What the build calls itself.
    pub fn invocation(&self) -> &str {
        &self.facts.invocation
    }

    fn statements(
        &self,
        of: Attested<'_>,
        subjects: &[(String, Digest)],
        digest: &Digest,
        layers: &[DiffId],
        is_files: bool,
    ) -> Result<Vec<Statement>, WorkerError> {
        let attest = &self.request.attest;
        let mut all = Vec::new();
        if attest.sbom {
            let bill = self.bill(of)?;
            let body = sbom::document(&bill, digest, created(of), layers);
            all.push(Statement::new(Predicate::Sbom, BILL_FILE, subjects, &body));
        }
        if let Some(wanted) = attest.provenance.as_ref().filter(|wanted| !(is_files && wanted.inline_only)) {
            let body = provenance::predicate(self.request, wanted, of.target, self.facts)?;
            all.push(Statement::new(Predicate::Provenance, &wanted.file, subjects, &body));
        }
        Ok(all)
    }

    fn bill(&self, of: Attested<'_>) -> Result<Rc<Bill>, WorkerError> {
        if let Some(known) = self.bills.borrow().get(&of.number) {
            return Ok(known.clone());
        }
        let task = match self.request.is_index {
            true => format!("listing packages {}", of.target.platform),
            false => "listing packages".to_owned(),
        };
        let bill = Rc::new(self.exporter.task(&task, || sbom::bill(self.exporter, of.stack))?);
        self.bills.borrow_mut().insert(of.number, bill.clone());
        Ok(bill)
    }
}

/// A name for one build, that no other has.
pub(crate) fn invocation() -> String {
    let random: Result<ring::rand::Random<[u8; 16]>, _> =
        ring::rand::generate(&ring::rand::SystemRandom::new());
    let bytes = random.map(ring::rand::Random::expose).unwrap_or_default();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// When an image says that it was made.
fn created(of: Attested<'_>) -> Timestamp {
    let epoch = of.target.source_date_epoch_s.and_then(|s| Timestamp::from_second(s).ok());
    let said = || of.config.created.as_deref().and_then(|text| text.parse().ok());
    epoch.or_else(said).unwrap_or(Timestamp::UNIX_EPOCH)
}
