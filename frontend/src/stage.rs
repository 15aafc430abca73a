//! What a stage has come to so far: its files, its config, its variables. It does not know the
//! instructions that change it.

use crate::args::Declared;
use crate::env::Env;
use crate::error::Place;
use crate::progress::Steps;
use crate::resolve::{Root, default_path};
use crate::{HISTORY_COMMENT, HISTORY_MARK, path};
use kiln_grammar::{Advice, AdviceKind};
use kiln_oci::{History, ImageConfig, Platform};
use kiln_solver::Edge;
use std::rc::Rc;

/// What `# kiln:` comments ask for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked {
    pub no_cache: bool,
    pub max_age_s: Option<u64>,
}

/// A stage under way, or done.
pub(crate) struct StageState {
    /// Its files; `None` is an empty file system.
    pub fs: Option<Edge>,
    /// Its config, without variables and history.
    pub image: Rc<ImageConfig>,
    /// The variables of its config.
    pub image_env: Env,
    /// The variables that instructions see: those of the config and arguments.
    pub env: Env,
    /// The arguments that it has declared.
    pub declared: Declared,
    /// Its platform.
    pub platform: Platform,
    /// The lines of the history that are its own.
    pub history: Vec<History>,
    /// Its steps.
    pub steps: Steps,
    /// Its name, for the graph.
    pub name: String,
    /// Whether what is known of it from before is not used.
    pub ignore_cache: bool,
    /// What the comments above the instruction at hand ask for.
    pub asked: Asked,
    /// Whether it, or a stage that it is made from, has a WORKDIR.
    pub has_work_dir: bool,
    /// Where it has its last CMD.
    pub cmd: Option<Place>,
    /// Where it has its last ENTRYPOINT.
    pub entrypoint: Option<Place>,
    /// Where it has its last HEALTHCHECK.
    pub healthcheck: Option<Place>,
}

impl Asked {
    /// What an instruction's comments ask for; of several ages the least.
    pub(crate) fn of(advice: &[Advice]) -> Asked {
        let ages = advice.iter().filter_map(|advice| match advice.kind {
            AdviceKind::MaxAge { seconds } => Some(seconds),
            AdviceKind::NoCache => None,
        });
        let no_cache = advice.iter().any(|advice| advice.kind == AdviceKind::NoCache);
        Asked { no_cache, max_age_s: ages.min() }
    }
}

impl StageState {
    /// A stage that begins with an image or a context.
    pub(crate) fn of_root(root: &Root<'_>, fs: Option<Edge>) -> StageState {
        let mut image = (*root.config).clone();
        image.history.clear();
        image.config.on_build.clear();
        let mut image_env = Env::default();
        for pair in std::mem::take(&mut image.config.env) {
            let (name, value) = pair.split_once('=').unwrap_or((&pair, ""));
            image_env.set(name, value);
        }
        StageState {
            fs,
            image: Rc::new(image),
            image_env,
            env: Env::default(),
            declared: Declared::default(),
            platform: root.platform.clone(),
            history: Vec::new(),
            steps: Steps::default(),
            name: String::new(),
            ignore_cache: false,
            asked: Asked::default(),
            has_work_dir: false,
            cmd: None,
            entrypoint: None,
            healthcheck: None,
        }
    }

    /// A stage that is made from this one.
    pub(crate) fn child(&self) -> StageState {
        let mut child = StageState {
            fs: self.fs,
            image: self.image.clone(),
            image_env: self.image_env.clone(),
            env: self.env.clone(),
            declared: self.declared.clone(),
            platform: self.platform.clone(),
            history: Vec::new(),
            steps: Steps::default(),
            name: String::new(),
            ignore_cache: false,
            asked: Asked::default(),
            has_work_dir: self.has_work_dir,
            cmd: None,
            entrypoint: None,
            healthcheck: None,
        };
        if !child.image.config.on_build.is_empty() {
            Rc::make_mut(&mut child.image).config.on_build.clear();
        }
        child
    }

    /// Makes it ready for its first instruction.
    pub(crate) fn begin(&mut self) {
        if self.image_env.get("PATH").is_none() && self.platform.os != "windows" {
            let path = default_path();
            self.image_env.set("PATH", path.strip_prefix("PATH=").unwrap_or_default());
        }
        for name in self.image_env.names() {
            self.env.set(name, self.image_env.get(name).unwrap_or_default());
        }
        let dir = &self.image.config.working_dir;
        if !dir.is_empty() && !dir.starts_with('/') {
            let dir = path::rooted(dir);
            Rc::make_mut(&mut self.image).config.working_dir = dir;
        }
    }

    /// The value of a variable.
    pub(crate) fn look_up(&self) -> impl Fn(&str) -> Option<String> + '_ {
        |name| self.env.get(name).map(str::to_owned)
    }

    /// The folder that instructions work in.
    pub(crate) fn dir(&self) -> &str {
        if self.image.config.working_dir.is_empty() { "/" } else { &self.image.config.working_dir }
    }

    /// Adds a line that makes no layer to the history.
    pub(crate) fn note(&mut self, created_by: String) {
        self.history.push(line(created_by, true));
    }

    /// Adds a line with a layer.
    pub(crate) fn note_layer(&mut self, created_by: String) {
        self.history.push(line(created_by, false));
    }

    /// Adds a line with a layer, and the mark of the builder.
    pub(crate) fn note_marked_layer(&mut self, mut created_by: String) {
        created_by.push_str(HISTORY_MARK);
        self.history.push(line(created_by, false));
    }
}

fn line(created_by: String, empty_layer: bool) -> History {
    History { created_by, comment: HISTORY_COMMENT.to_owned(), empty_layer, ..History::default() }
}
