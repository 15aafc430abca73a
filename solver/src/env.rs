//! The environment of a process as a chain, so that steps which follow each other share what they have in
//! common: ten thousand steps with a thousand variables each need no ten million texts. It does not know
//! where values come from.

use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Variables, `NAME=value` each. One that is set again goes to the end, as BuildKit's `EnvList` has it.
#[derive(Clone, Default)]
pub struct Env {
    last: Option<Arc<Link>>,
}

struct Link {
    before: Env,
    pair: Box<str>,
}

impl Env {
    /// No variables.
    pub fn new() -> Env {
        Env::default()
    }

    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: &str) {
        self.push(format!("{name}={value}"));
    }

    /// Sets a variable that is written as `NAME=value`.
    pub fn push(&mut self, pair: impl Into<Box<str>>) {
        let before = std::mem::take(self);
        self.last = Some(Arc::new(Link { before, pair: pair.into() }));
    }

    /// All variables, `NAME=value` each, in order, each name once.
    pub fn to_list(&self) -> Vec<&str> {
        let (mut seen, mut list) = (HashSet::new(), Vec::new());
        let mut at = self;
        while let Some(link) = &at.last {
            if seen.insert(name_of(&link.pair)) {
                list.push(&*link.pair);
            }
            at = &link.before;
        }
        list.reverse();
        list
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.last.is_none()
    }
}

/// The name of a variable; all of it where there is no equals sign.
fn name_of(pair: &str) -> &str {
    pair.split_once('=').map_or(pair, |(name, _)| name)
}

impl<S: Into<Box<str>>> FromIterator<S> for Env {
    fn from_iter<I: IntoIterator<Item = S>>(pairs: I) -> Env {
        let mut env = Env::new();
        for pair in pairs {
            env.push(pair);
        }
        env
    }
}

impl PartialEq for Env {
    fn eq(&self, other: &Env) -> bool {
        match (&self.last, &other.last) {
            (Some(a), Some(b)) if Arc::ptr_eq(a, b) => true,
            _ => self.to_list() == other.to_list(),
        }
    }
}

impl Eq for Env {}

impl Hash for Env {
    /// The last variable stands for all: equal ones end alike, and to look at all would make long chains slow.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.last.as_ref().map(|link| &link.pair).hash(state);
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.to_list()).finish()
    }
}

impl Drop for Env {
    /// Link by link: a chain of many would need as many frames of the stack.
    fn drop(&mut self) {
        let mut next = self.last.take();
        while let Some(mut link) = next.and_then(Arc::into_inner) {
            next = link.before.last.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_again_goes_to_the_end() {
        let mut env: Env = ["A=1", "B=2", "BARE"].into_iter().collect();
        let before = env.clone();
        env.set("A", "3");
        assert_eq!(env.to_list(), ["B=2", "BARE", "A=3"]);
        assert_eq!(before.to_list(), ["A=1", "B=2", "BARE"]);
        assert_eq!(env, ["B=2", "BARE", "A=3"].into_iter().collect());
        assert_ne!(env, before);
    }

    #[test]
    fn a_long_chain_ends_without_a_deep_stack() {
        let mut env = Env::new();
        for i in 0..200_000 {
            env.set("A", &i.to_string());
        }
        let shared = env.clone();
        drop(env);
        assert_eq!(shared.to_list(), ["A=199999"]);
    }
}
