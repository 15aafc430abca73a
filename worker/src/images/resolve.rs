//! What the name of an image stands for: whom to ask, how long, and what to make of no answer.
//! It does not know what the image is for.
//!
//! | policy  | the store's own name | what the registry said last | the registry                               |
//! | ---     | ---                  | ---                         | ---                                        |
//! | usual   | first                | if nobody answers           | asked, for 2 s if there is a last answer   |
//! | always  | not used             | not used                    | asked, and must answer                     |
//! | newer   | if nobody answers    | if nobody answers           | asked, for 2 s if something is known       |
//! | missing | first                | next                        | asked if neither is there                  |
//! | never   | first                | next                        | not asked                                  |
//!
//! What is known counts only if all its documents are here. A name with a digest never moves: it is asked for
//! only if it is not here. Within one process a tag is asked for once, however many want it.

use super::{Image, Images};
use crate::WorkerError;
use crate::image_name::ImageName;
use crate::store::now_s;
use kiln_oci::{DOCUMENT_BYTES_MAX, Descriptor, Digest, MediaType, Platform, Reference};
use kiln_registry::{Client, Options, Patience, RegistryError};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a registry has to say what a tag is, where something is known that will do.
const BUDGET: Duration = Duration::from_secs(2);

/// Whom to ask what a tag stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullPolicy {
    /// The registry, unless the store has the name; what it said last, if it does not answer.
    #[default]
    Usual,
    /// The registry, which must answer.
    Always,
    /// The registry; whatever is known, if it does not answer.
    Newer,
    /// The registry only if nothing is known.
    Missing,
    /// Nobody.
    Never,
}

/// An answer that is not of now.
#[derive(Clone, Debug)]
pub struct Aged {
    /// Why there is none of now.
    pub reason: String,
    /// How old it is in seconds; `None` is the store's own name.
    pub age_s: Option<i64>,
}

/// What this process has asked so far.
#[derive(Debug)]
pub(crate) struct Asked {
    /// A client that tries once and does not wait for long.
    quick: Client,
    answers: Mutex<HashMap<String, Arc<Mutex<Option<Answer>>>>>,
}

/// What came of asking for a tag.
#[derive(Clone, Debug)]
enum Answer {
    Is(Box<Descriptor>),
    /// Nobody answered within the budget, and why.
    Nothing(String),
}

/// What is done about a name that moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    /// The store's own name is used.
    Own,
    /// What the registry said last is used.
    Last,
    /// The registry is asked, as long as it takes.
    Ask,
    /// The registry is asked for a short time; what is known is used if it does not answer.
    AskBriefly,
    /// There is nothing.
    Refuse,
}

impl PullPolicy {
    fn plan(self, has_own: bool, has_last: bool) -> Plan {
        match self {
            PullPolicy::Always => Plan::Ask,
            PullPolicy::Newer if has_own || has_last => Plan::AskBriefly,
            PullPolicy::Newer => Plan::Ask,
            PullPolicy::Usual | PullPolicy::Missing | PullPolicy::Never if has_own => Plan::Own,
            PullPolicy::Usual if has_last => Plan::AskBriefly,
            PullPolicy::Missing | PullPolicy::Never if has_last => Plan::Last,
            PullPolicy::Usual | PullPolicy::Missing => Plan::Ask,
            PullPolicy::Never => Plan::Refuse,
        }
    }
}

impl Asked {
    pub fn new(options: Options) -> Result<Asked, RegistryError> {
        let patience = Patience { connect: BUDGET, idle: BUDGET, attempts: 1, ..options.patience };
        let quick = Client::new(Options { patience, ..options })?;
        Ok(Asked { quick, answers: Mutex::default() })
    }

    fn of(&self, name: &str) -> Arc<Mutex<Option<Answer>>> {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(answers.entry(name.to_owned()).or_default())
    }
}

impl Images<'_> {
    /// What `name` stands for on `platform`: in the store, at its registry, or in its folder.
    pub fn resolve(
        &self,
        name: &ImageName,
        platform: &Platform,
        policy: PullPolicy,
    ) -> Result<Image, WorkerError> {
        let reference = match name {
            ImageName::Registry(reference) => reference,
            ImageName::Layout(layout) => {
                let (descriptor, bytes) = self.document_of_layout(layout, platform)?;
                return self.read_document(name, platform, descriptor, &bytes);
            }
        };
        let own = match policy {
            PullPolicy::Always => None,
            _ => self.stored(reference, platform)?,
        };
        if let Some(digest) = reference.digest() {
            let silent = self.forbidding((policy == PullPolicy::Never).then_some("--pull=never"));
            return match own {
                Some(image) => Ok(image),
                None => silent.at(reference, platform, silent.pinned(digest)),
            };
        }
        let policy = if self.forbidden.is_some() { PullPolicy::Never } else { policy };
        let last = match policy {
            PullPolicy::Always => None,
            _ => self.last(reference, platform)?,
        };
        match policy.plan(own.is_some(), last.is_some()) {
            Plan::Own => match (own, last) {
                // A name that was pulled is still what the registry said: that is known of it, too.
                (Some(own), Some(last)) if own.config_digest == last.config_digest => {
                    Ok(Image { top: last.top, is_of_registry: true, ..own })
                }
                (own, _) => own.ok_or_else(|| self.refused(reference, platform)),
            },
            Plan::Last => last.ok_or_else(|| self.refused(reference, platform)),
            Plan::Refuse => Err(self.refused(reference, platform)),
            Plan::Ask => {
                let now = self.ask(reference)?;
                self.at(reference, platform, now)
            }
            Plan::AskBriefly => self.briefly(reference, platform, own, last),
        }
    }

    /// Asks for a tag for a short time; what is known will do.
    fn briefly(
        &self,
        reference: &Reference,
        platform: &Platform,
        own: Option<Image>,
        last: Option<Image>,
    ) -> Result<Image, WorkerError> {
        let reason = match self.ask_briefly(reference)? {
            Answer::Is(now) => match last {
                Some(last) if last.top == now.digest => {
                    self.store.meta.set_resolved(&reference.to_string(), &*now)?;
                    return Ok(Image { aged: None, ..last });
                }
                last => match self.at(reference, platform, *now) {
                    Err(WorkerError::Registry(error)) if error.is_transient() => {
                        return known(own, last, &error.to_string()).ok_or(WorkerError::Registry(error));
                    }
                    done => return done,
                },
            },
            Answer::Nothing(reason) => reason,
        };
        known(own, last, &reason).ok_or_else(|| self.refused(reference, platform))
    }

    /// What the registry says that a tag is, now.
    pub fn ask(&self, reference: &Reference) -> Result<Descriptor, WorkerError> {
        self.may_ask(reference)?;
        let name = reference.to_string();
        let slot = self.asked.map(|asked| asked.of(&name)).unwrap_or_default();
        let mut answer = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Answer::Is(known)) = &*answer {
            return Ok(known.as_ref().clone());
        }
        let now = self.network(self.client.resolve(reference))?.descriptor;
        *answer = Some(Answer::Is(Box::new(now.clone())));
        Ok(now)
    }

    /// The same, with one try and little time. That nobody answers is an answer.
    fn ask_briefly(&self, reference: &Reference) -> Result<Answer, WorkerError> {
        let Some(asked) = self.asked else { return Ok(Answer::Is(Box::new(self.ask(reference)?))) };
        let slot = asked.of(&reference.to_string());
        let mut answer = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*answer {
            return Ok(known.clone());
        }
        let within = async {
            match tokio::time::timeout(BUDGET, asked.quick.resolve(reference)).await {
                Ok(done) => done,
                Err(_) => Err(RegistryError::Timeout {
                    host: reference.registry().to_owned(),
                    what: "what the tag stands for".to_owned(),
                    seconds: BUDGET.as_secs_f32(),
                }),
            }
        };
        let now = match self.network(within) {
            Ok(now) => Answer::Is(Box::new(now.descriptor)),
            Err(WorkerError::Registry(error)) if error.is_transient() => Answer::Nothing(error.to_string()),
            Err(error) => return Err(error),
        };
        *answer = Some(now.clone());
        Ok(now)
    }

    /// What the registry said last, if all its documents are here.
    fn last(&self, reference: &Reference, platform: &Platform) -> Result<Option<Image>, WorkerError> {
        let found = self.store.meta.resolved::<Descriptor>(&reference.to_string())?;
        let Some((top, asked_s)) = found else { return Ok(None) };
        let here = self.forbidding(Some("--pull=never"));
        let name = ImageName::Registry(reference.clone());
        let Ok(bytes) = self.store.content.read(&top.digest, DOCUMENT_BYTES_MAX) else { return Ok(None) };
        // One for another platform is as unknown: the tag may have moved to an index that has it.
        let Ok(image) = here.read_document(&name, platform, top, &bytes) else { return Ok(None) };
        let aged = Aged { reason: String::new(), age_s: Some((now_s() - asked_s).max(0)) };
        Ok(Some(Image { aged: Some(aged), is_of_registry: true, ..image }))
    }

    /// The image that a reference's document leads to; what the reference stood for is remembered.
    fn at(&self, reference: &Reference, platform: &Platform, top: Descriptor) -> Result<Image, WorkerError> {
        let pinned = ImageName::Registry(reference.with_digest(top.digest));
        let (top, bytes) = self.fetched_document(&pinned, &top.media_type)?;
        let name = ImageName::Registry(reference.clone());
        let image = self.read_document(&name, platform, top.clone(), &bytes)?;
        if reference.digest().is_none() {
            self.store.meta.set_resolved(&reference.to_string(), &top)?;
        }
        Ok(Image { is_of_registry: true, ..image })
    }

    /// What a digest stands for. Of what is not here only the digest counts: the answer says the rest.
    fn pinned(&self, digest: Digest) -> Descriptor {
        match self.store.content.read(&digest, DOCUMENT_BYTES_MAX) {
            Ok(bytes) => Descriptor::of(super::own_media_type(&bytes), &bytes),
            Err(_) => Descriptor::new(MediaType::OciManifest, digest, 0),
        }
    }

    /// The same access, which may ask nobody if a flag says so.
    fn forbidding(&self, flag: Option<&'static str>) -> Images<'_> {
        let forbidden = self.forbidden.or(flag);
        let images = Images::new(self.store, self.client, self.runtime, self.transfer, self.cancel);
        Images { asked: self.asked, forbidden, ..images }
    }

    /// Refuses to ask for something if nobody may be asked.
    pub fn may_ask(&self, what: &dyn std::fmt::Display) -> Result<(), WorkerError> {
        match self.forbidden {
            Some(flag) => Err(WorkerError::NotAsked { what: what.to_string(), flag }),
            None => Ok(()),
        }
    }

    fn refused(&self, reference: &Reference, platform: &Platform) -> WorkerError {
        let what = format!("{reference} for {platform}");
        WorkerError::NotAsked { what, flag: self.forbidden.unwrap_or("--pull=never") }
    }
}

/// What there is where nobody answers: what the registry said last, else the store's own name.
fn known(own: Option<Image>, last: Option<Image>, reason: &str) -> Option<Image> {
    let image = last.or(own)?;
    let age_s = image.aged.as_ref().and_then(|aged| aged.age_s);
    Some(Image { aged: Some(Aged { reason: reason.to_owned(), age_s }), ..image })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_policy_asks_whom_it_says() {
        use Plan::*;
        // (own, last): neither, last, own, both
        for (policy, want) in [
            (PullPolicy::Usual, [Ask, AskBriefly, Own, Own]),
            (PullPolicy::Always, [Ask, Ask, Ask, Ask]),
            (PullPolicy::Newer, [Ask, AskBriefly, AskBriefly, AskBriefly]),
            (PullPolicy::Missing, [Ask, Last, Own, Own]),
            (PullPolicy::Never, [Refuse, Last, Own, Own]),
        ] {
            let of = |(own, last)| policy.plan(own, last);
            let got = [(false, false), (false, true), (true, false), (true, true)].map(of);
            assert_eq!(got, want, "{policy:?}");
        }
    }
}
