//! The frontend's questions about images, answered by the worker. It does not know what they are asked for.

use crate::args::BuildArgs;
use crate::error::CommandError;
use crate::lock::LockFile;
use crate::stderr::say;
use kiln_frontend::{ImageRequest, ResolvedImage};
use kiln_oci::Platform;
use kiln_worker::{Aged, Image, ImageName, PullPolicy, Worker, WorkerError};
use std::collections::HashMap;

/// What is asked: a reference and a platform.
type Question = (String, Platform);

/// Answers the frontend's questions, each once, and keeps the images for the build.
pub(crate) struct Resolver<'a> {
    pub worker: &'a Worker,
    pull: PullPolicy,
    lock: Option<LockFile>,
    answers: HashMap<Question, Result<ResolvedImage, String>>,
    /// The images that are known by now.
    pub images: Vec<Image>,
    /// Why the first of those is not known that are not.
    pub failure: Option<WorkerError>,
}

impl<'a> Resolver<'a> {
    /// Answers as the flags of a build and the lock file say.
    pub(crate) fn of(args: &BuildArgs, worker: &'a Worker, lock: Option<LockFile>) -> Resolver<'a> {
        let (pull, answers) = (args.pull.unwrap_or_default(), HashMap::new());
        Resolver { worker, pull, lock, answers, images: Vec::new(), failure: None }
    }
}

impl Resolver<'_> {
    /// What images are. Whoever builds for several platforms asks for the same image again.
    pub(crate) fn resolve(&mut self, wanted: &[ImageRequest]) -> Vec<Result<ResolvedImage, String>> {
        let question = |request: &ImageRequest| (request.reference.clone(), request.platform.clone());
        let mut named: Vec<(Question, (ImageName, Platform))> = Vec::new();
        for asked in
            wanted.iter().map(question).filter(|asked| !self.answers.contains_key(asked)).collect::<Vec<_>>()
        {
            match asked.0.parse::<ImageName>() {
                Ok(name) => match self.lock.as_ref().map_or(Ok(name.clone()), |lock| lock.pinned(&name)) {
                    Ok(name) => {
                        let platform = asked.1.clone();
                        named.push((asked, (name, platform)));
                    }
                    Err(error) => {
                        let refusal = self.refused(error.into());
                        self.answers.insert(asked, Err(refusal));
                    }
                },
                Err(error) => {
                    self.answers.insert(asked, Err(error.to_string()));
                }
            }
        }
        let (asked, names): (Vec<Question>, Vec<(ImageName, Platform)>) = named.into_iter().unzip();
        let answers = self.worker.resolve(&names, self.pull);
        for (asked, answer) in asked.into_iter().zip(answers) {
            let answer = self.taken_in(&asked.0, answer);
            self.answers.insert(asked, answer);
        }
        let none = || Err("no answer".to_owned());
        wanted.iter().map(|w| self.answers.get(&question(w)).cloned().unwrap_or_else(none)).collect()
    }

    /// Writes the lock file, if something was added to it. A check and a dry run leave it as it is.
    pub(crate) fn save_lock(&mut self, args: &BuildArgs) -> Result<(), CommandError> {
        match &mut self.lock {
            Some(lock) if !args.dry_run => lock.save(),
            _ => Ok(()),
        }
    }

    /// Says so, once, where what is used may be no longer what the name stands for.
    fn tell_of_age(&self, image: &Image) {
        let Some(Aged { reason, age_s }) = &image.aged else { return };
        let name = image.name.to_string();
        if reason.is_empty() || self.images.iter().any(|known| known.name == image.name) {
            return;
        }
        match age_s {
            Some(age_s) => {
                let (age, top) = (age_text(*age_s), image.top);
                say(&format!(
                    "warning: cannot ask for {name} ({reason}); using what it was {age} ago: {top}"
                ));
            }
            None => say(&format!("warning: cannot ask for {name} ({reason}); using the store's own")),
        }
    }

    fn taken_in(&mut self, asked: &str, answer: Result<Image, WorkerError>) -> Result<ResolvedImage, String> {
        match answer {
            Ok(image) => {
                self.tell_of_age(&image);
                if let Some(lock) = &mut self.lock {
                    lock.add(&image);
                }
                let resolved = ResolvedImage {
                    digest: image.digest,
                    config: image.config.clone(),
                    reference: image.name.to_string(),
                };
                self.images.push(image);
                Ok(resolved)
            }
            Err(WorkerError::NotAsked { what, flag }) => {
                let of_lock = self.lock.as_ref().and_then(|lock| lock.not_asked(asked, flag));
                let error = of_lock.map_or(WorkerError::NotAsked { what, flag }, WorkerError::from);
                Err(self.refused(error))
            }
            Err(error) => Err(self.refused(error)),
        }
    }

    /// Keeps the first error; its words.
    fn refused(&mut self, error: WorkerError) -> String {
        let message = error.to_string();
        self.failure.get_or_insert(error);
        message
    }
}

/// A time that has passed, in its largest unit.
pub(crate) fn age_text(age_s: i64) -> String {
    match age_s {
        ..120 => format!("{age_s} s"),
        120..7200 => format!("{} min", age_s / 60),
        7200..172_800 => format!("{} h", age_s / 3600),
        _ => format!("{} days", age_s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_told_in_its_largest_unit() {
        for (age_s, want) in
            [(0, "0 s"), (119, "119 s"), (120, "2 min"), (10_800, "3 h"), (172_800, "2 days")]
        {
            assert_eq!(age_text(age_s), want);
        }
    }
}
