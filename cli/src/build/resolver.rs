//! The frontend's questions about images, answered by the worker. It does not know what they are asked for.

use kiln_frontend::{ImageRequest, ResolvedImage};
use kiln_oci::Platform;
use kiln_worker::{Image, ImageName, Worker, WorkerError};
use std::collections::HashMap;

/// What is asked: a reference and a platform.
type Question = (String, Platform);

/// Answers the frontend's questions, each once, and keeps the images for the build.
pub(crate) struct Resolver<'a> {
    pub worker: &'a Worker,
    pull: bool,
    answers: HashMap<Question, Result<ResolvedImage, String>>,
    /// The images that are known by now.
    pub images: Vec<Image>,
    /// Why the first of those is not known that are not.
    pub failure: Option<WorkerError>,
}

impl<'a> Resolver<'a> {
    pub(crate) fn new(worker: &'a Worker, pull: bool) -> Resolver<'a> {
        Resolver { worker, pull, answers: HashMap::new(), images: Vec::new(), failure: None }
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
            match asked.0.parse() {
                Ok(name) => {
                    let platform = asked.1.clone();
                    named.push((asked, (name, platform)));
                }
                Err(error) => {
                    let error: kiln_worker::ImageNameError = error;
                    self.answers.insert(asked, Err(error.to_string()));
                }
            }
        }
        let (asked, names): (Vec<Question>, Vec<(ImageName, Platform)>) = named.into_iter().unzip();
        let answers = self.worker.resolve(&names, self.pull);
        for (asked, answer) in asked.into_iter().zip(answers) {
            let answer = self.taken_in(answer);
            self.answers.insert(asked, answer);
        }
        let none = || Err("no answer".to_owned());
        wanted.iter().map(|w| self.answers.get(&question(w)).cloned().unwrap_or_else(none)).collect()
    }

    fn taken_in(&mut self, answer: Result<Image, WorkerError>) -> Result<ResolvedImage, String> {
        match answer {
            Ok(image) => {
                let resolved = ResolvedImage {
                    digest: image.digest,
                    config: image.config.clone(),
                    reference: image.name.to_string(),
                };
                self.images.push(image);
                Ok(resolved)
            }
            Err(error) => {
                let message = error.to_string();
                self.failure.get_or_insert(error);
                Err(message)
            }
        }
    }
}
