//! Variables with their values, in the order in which they were first set. Copies are cheap until
//! one of them changes. It does not know where values come from.

use std::collections::HashMap;
use std::rc::Rc;

/// Variables and values.
#[derive(Clone, Debug, Default)]
pub(crate) struct Env {
    inner: Rc<Inner>,
    /// The same for processes, which share it.
    process: kiln_solver::Env,
}

#[derive(Clone, Debug, Default)]
struct Inner {
    pairs: Vec<(Rc<str>, Rc<str>)>,
    index: HashMap<Rc<str>, usize>,
}

impl Env {
    /// The value of a variable.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.inner.index.get(name).map(|i| &*self.inner.pairs[*i].1)
    }

    /// Sets a variable. One that is set already keeps its place.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        if self.get(name) == Some(value) {
            return;
        }
        self.process.set(name, value);
        let inner = Rc::make_mut(&mut self.inner);
        if let Some(i) = inner.index.get(name) {
            inner.pairs[*i].1 = value.into();
            return;
        }
        let name: Rc<str> = name.into();
        inner.index.insert(name.clone(), inner.pairs.len());
        inner.pairs.push((name, value.into()));
    }

    /// Drops a variable.
    pub(crate) fn remove(&mut self, name: &str) {
        if self.get(name).is_some() {
            let inner = Rc::make_mut(&mut self.inner);
            inner.pairs.retain(|(key, _)| &**key != name);
            inner.index = inner.pairs.iter().enumerate().map(|(i, (key, _))| (key.clone(), i)).collect();
            self.process = self.to_list().into_iter().collect();
        }
    }

    /// The names, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.inner.pairs.iter().map(|(name, _)| &**name)
    }

    /// The environment of a process: what was set last is at the end.
    pub(crate) fn of_process(&self) -> kiln_solver::Env {
        self.process.clone()
    }

    /// `NAME=value` each, in order.
    pub(crate) fn to_list(&self) -> Vec<String> {
        self.inner.pairs.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_is_set_again_keeps_its_place() {
        let mut env = Env::default();
        for (name, value) in [("A", "1"), ("B", "2"), ("A", "3")] {
            env.set(name, value);
        }
        let mut copy = env.clone();
        copy.remove("A");
        copy.set("C", "4");
        assert_eq!(env.to_list(), ["A=3", "B=2"]);
        assert_eq!(copy.to_list(), ["B=2", "C=4"]);
        assert_eq!((copy.get("A"), copy.get("C")), (None, Some("4")));
    }
}
