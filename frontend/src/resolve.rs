//! What stages begin with: images are asked for in one go, and once more if triggers in them name
//! others. It does not know how images are fetched.

use crate::contexts::{ContextSource, source_of};
use crate::error::{LowerError, Place};
use crate::graph::{Node, NodeId};
use crate::lower::{Lowering, Resolver};
use crate::options::{ImageRequest, NamedContext, ResolvedImage};
use crate::progress::full_platform;
use kiln_grammar::{Instruction, InstructionKind, Word, parse_instruction};
use kiln_oci::{Digest, ImageConfig, Platform, Reference};
use kiln_solver::{Edge, SourceOp};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

/// The path that programs are looked for in.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a stage begins with that is made from no other.
pub(crate) struct Root<'a> {
    /// Where its files come from.
    pub source: RootSource<'a>,
    /// What it is called in the progress.
    pub label: String,
    /// The config, its history in it.
    pub config: Rc<ImageConfig>,
    /// The platform.
    pub platform: Platform,
    /// Its place in the graph, once it is there.
    pub edge: Option<Option<Edge>>,
}

/// Where files come from.
#[derive(Clone)]
pub(crate) enum RootSource<'a> {
    Empty,
    Plain(SourceOp),
    Archive(SourceOp),
    Local { name: &'a str, excludes: &'a [String] },
}

/// What is to be found out about a node.
struct Question {
    node: NodeId,
    request: usize,
    is_context: bool,
}

impl<'a> Lowering<'a> {
    /// Finds out what the needed stages begin with, and adds the triggers of their bases. Says which
    /// nodes are needed.
    pub(crate) fn resolve(
        &mut self,
        target: NodeId,
        all: bool,
        resolver: &mut Resolver<'_>,
    ) -> Result<Vec<bool>, LowerError> {
        loop {
            let needed = if all { vec![true; self.graph.nodes.len()] } else { self.graph.needed_by(target) };
            self.roots.resize_with(needed.len(), || None);
            self.resolve_once(&needed, resolver)?;
            let mut again = false;
            for (index, _) in needed.iter().enumerate().filter(|(_, needed)| **needed) {
                again |= self.add_triggers(NodeId(index))?;
            }
            if !again {
                return Ok(needed);
            }
        }
    }

    fn resolve_once(&mut self, needed: &[bool], resolver: &mut Resolver<'_>) -> Result<(), LowerError> {
        let mut requests: Vec<ImageRequest> = Vec::new();
        let mut known: HashMap<(String, String), usize> = HashMap::new();
        let mut questions = Vec::new();
        for (index, is_needed) in needed.iter().copied().enumerate() {
            let node = &self.graph.nodes[index];
            if node.base.is_some() || self.roots[index].is_some() {
                continue;
            }
            let (reference, is_context) = match self.begin(node, is_needed)? {
                Beginning::Root(root) => {
                    self.roots[index] = Some(root);
                    continue;
                }
                Beginning::Later => continue,
                Beginning::Image { reference, is_context } => (reference, is_context),
            };
            let platform = node.platform.as_ref().unwrap_or(&self.options.target_platform);
            let key = (reference.clone(), full_platform(platform));
            let request = *known.entry(key).or_insert_with(|| {
                let Place { line, span, .. } = node.word;
                requests.push(ImageRequest { reference, platform: platform.clone(), line, span });
                requests.len() - 1
            });
            questions.push(Question { node: NodeId(index), request, is_context });
        }
        if requests.is_empty() {
            return Ok(());
        }
        let answers = resolver(&requests);
        for question in questions {
            let request = &requests[question.request];
            let node = self.graph.node(question.node);
            let failed = |message: String| LowerError::Image {
                reference: request.reference.clone(),
                message,
                line: node.word.line,
                span: node.word.span,
                hint: self.graph.names.stage(&node.base_name, node.place.line),
            };
            let none = || failed("nothing is known about it".to_owned());
            let answer = answers.get(question.request).ok_or_else(none)?;
            let image = answer.as_ref().map_err(|message| failed(message.clone()))?;
            let root = self.image_root(&question, request, image);
            self.roots[question.node.0] = Some(root);
        }
        Ok(())
    }

    /// What a node begins with, as far as it can be said without asking.
    fn begin(&self, node: &Node<'a>, is_needed: bool) -> Result<Beginning<'a>, LowerError> {
        let target = &self.options.target_platform;
        if node.base_name == "scratch" && node.context.is_none() {
            return Ok(Beginning::Root(Root {
                source: RootSource::Empty,
                label: String::new(),
                config: Rc::new(empty_image(target)),
                platform: target.clone(),
                edge: None,
            }));
        }
        if let (Some(context), true) = (node.context, is_needed) {
            let platform = node.platform.clone().unwrap_or_else(|| target.clone());
            return self.begin_context(node, context, ImageConfig::default(), platform);
        }
        let reference = self.options.aliased(&node.base_name).parse::<Reference>().map_err(|why| {
            let message = format!("failed to parse stage name {:?}: {why}", node.base_name);
            node.word.perhaps_hinted(message, self.graph.names.stage(&node.base_name, node.word.line))
        })?;
        if !is_needed {
            return Ok(Beginning::Later);
        }
        let platform = node.platform.as_ref().unwrap_or(target);
        match self.contexts.find(&node.base_name, platform) {
            Some(context) => self.begin_context(node, context, empty_image(platform), platform.clone()),
            None => Ok(Beginning::Image { reference: reference.to_string(), is_context: false }),
        }
    }

    fn begin_context(
        &self,
        node: &Node<'a>,
        context: &'a NamedContext,
        config: ImageConfig,
        platform: Platform,
    ) -> Result<Beginning<'a>, LowerError> {
        let source = match source_of(context).map_err(|why| node.place.error(why))? {
            ContextSource::Image(reference) => return Ok(Beginning::Image { reference, is_context: true }),
            ContextSource::Empty => RootSource::Empty,
            ContextSource::Plain(op) => RootSource::Plain(op),
            // As BuildKit: only the main context is unpacked, a named one is the file as it comes.
            ContextSource::Archive(op) => RootSource::Plain(op),
            ContextSource::Local { name, excludes } => RootSource::Local { name, excludes },
        };
        let name = if node.context.is_some() { &node.name } else { &node.base_name };
        let label = format!("[context {name}] load");
        Ok(Beginning::Root(Root { source, label, config: Rc::new(config), platform, edge: None }))
    }

    fn image_root(&mut self, question: &Question, request: &ImageRequest, image: &ResolvedImage) -> Root<'a> {
        let node = self.graph.node(question.node);
        let mut config = image.config.clone();
        config.created = None;
        let has_layers = !config.rootfs.diff_ids.is_empty() || config.history.iter().any(|h| !h.empty_layer);
        let reference = with_digest(request, image);
        let source = if has_layers {
            RootSource::Plain(SourceOp { identifier: reference.clone(), attrs: BTreeMap::new() })
        } else {
            RootSource::Empty
        };
        let own = config.platform();
        let differs = own.os != request.platform.os || own.architecture != request.platform.architecture;
        if has_layers && differs && !question.is_context {
            let (place, name) = (node.place, node.base_name.clone());
            let wanted = request.platform.clone();
            self.lints.enter(&[]);
            self.lints.warn("InvalidBaseImagePlatform", place, || {
                format!("the base image {name} is for `{own}`, and not for `{wanted}`")
            });
        }
        let shown = reference.split_once("://").map_or(reference.as_str(), |(_, shown)| shown);
        Root {
            source,
            label: format!("FROM {shown}"),
            config: Rc::new(config),
            platform: request.platform.clone(),
            edge: None,
        }
    }

    fn add_triggers(&mut self, id: NodeId) -> Result<bool, LowerError> {
        let node = self.graph.node(id);
        if node.has_triggers || node.context.is_some() {
            return Ok(false);
        }
        let texts: Vec<String> = match (node.base, &self.roots[id.0]) {
            (Some(base), _) => {
                let of_stage = |kind: &InstructionKind| match kind {
                    InstructionKind::Onbuild { trigger, .. } => Some(trigger.raw.clone()),
                    _ => None,
                };
                let commands = &self.graph.node(base).commands;
                commands.iter().filter_map(|command| of_stage(&command.instruction.kind)).collect()
            }
            (None, Some(root)) => root.config.config.on_build.clone(),
            (None, None) => Vec::new(),
        };
        let place = node.place;
        self.graph.nodes[id.0].has_triggers = true;
        if texts.is_empty() {
            return Ok(false);
        }
        let mut triggers = Vec::with_capacity(texts.len());
        for text in texts {
            let kind = parse_instruction(&text, '\\').map_err(|why| {
                place.hinted(why.message, format!("this is about the trigger `ONBUILD {text}` of the base"))
            })?;
            triggers.push(trigger(text, kind, place));
        }
        self.graph.add_triggers(id, triggers)
    }
}

/// What can be said of what a node begins with.
enum Beginning<'a> {
    Root(Root<'a>),
    Image { reference: String, is_context: bool },
    Later,
}

fn trigger(text: String, kind: InstructionKind, place: Place) -> Instruction {
    let keyword = text.split_whitespace().next().unwrap_or_default().to_owned();
    Instruction {
        span: place.span,
        line: place.line,
        end_line: place.end_line,
        keyword: Word { raw: keyword, span: place.span },
        text: text.split('\n').next().unwrap_or_default().to_owned(),
        comments: Vec::new(),
        advice: Vec::new(),
        kind,
    }
}

/// The identifier of the source of an image, at its digest.
fn with_digest(request: &ImageRequest, image: &ResolvedImage) -> String {
    let reference = if image.reference.is_empty() { &request.reference } else { &image.reference };
    let pinned = reference.rsplit_once('@').filter(|(_, digest)| digest.parse::<Digest>().is_ok());
    let name = pinned.map_or(reference.as_str(), |(name, _)| name);
    let scheme = if name.contains("://") { "" } else { "docker-image://" };
    format!("{scheme}{name}@{}", image.digest)
}

/// The config of an image from nothing.
fn empty_image(platform: &Platform) -> ImageConfig {
    let mut config = ImageConfig {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        os_version: platform.os_version.clone(),
        variant: platform.variant.clone(),
        ..ImageConfig::default()
    };
    config.config.working_dir = "/".to_owned();
    config.config.env = vec![default_path()];
    config
}

/// The variable that says where programs are looked for, where nothing else says it.
pub(crate) fn default_path() -> String {
    format!("PATH={DEFAULT_PATH}")
}
