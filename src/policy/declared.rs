//! What several files of a policy folder declare together: reasons and conditions.

use crate::document::{self, Node, Problems, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Names that files declare, each once, with what they stand for and where they are written.
#[derive(Clone, Debug)]
pub(super) struct Declarations<T> {
    names: BTreeMap<Arc<str>, (T, String, u32)>,
}

impl<T> Default for Declarations<T> {
    fn default() -> Self {
        Declarations { names: BTreeMap::new() }
    }
}

impl<T> Declarations<T> {
    /// Adds what one file has under `section`, its only key. `value` reads what a name stands for; where it gives nothing,
    /// it has said why.
    pub fn read(
        &mut self,
        path: &str,
        text: &str,
        section: &str,
        problems: &mut Problems,
        value: impl Fn((&Node, &Node), &mut Problems) -> Option<T>,
    ) {
        let node = match document::parse(path, text) {
            Ok(node) => node,
            Err(found) => return problems.extend(found),
        };
        for (key, _) in node.entries().iter().filter(|(key, _)| key.text() != Some(section)) {
            let fix = format!("the only key here is `{section}`");
            problems.push(key.error(key.text().unwrap_or_default(), "unknown key", Some(&fix)));
        }
        let Some(declared) = node.get(section) else { return };
        if !matches!(declared.value, Value::Table(_) | Value::Null) {
            problems.push(declared.error(section, "must be a table of names", None));
        }
        for (key, given) in declared.entries() {
            let name = key.text().unwrap_or_default();
            if let Some((_, file, line)) = self.names.get(name) {
                let reason = format!("is declared in `{file}`, line {line}, already");
                problems.push(key.error(format!("{section}.{name}"), reason, Some("choose another name, or keep one")));
            } else if let Some(value) = value((key, given), problems) {
                self.names.insert(name.into(), (value, path.to_owned(), key.line));
            }
        }
    }

    pub fn get(&self, name: &str) -> Option<&T> {
        self.names.get(name).map(|(value, ..)| value)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(|name| &**name)
    }

    /// Names, and what they stand for.
    pub fn into_values(self) -> BTreeMap<Arc<str>, T> {
        self.names.into_iter().map(|(name, (value, ..))| (name, value)).collect()
    }
}
