//! Where things are written in the files that are applied, so that what is wrong with the registry that they lead to is
//! said there.

use crate::document::{Node, Problem, Problems, REGISTRY};
use std::collections::HashMap;

/// Nouns of the files, by their keys: `anchors.acme-ca`, `partners.acme`.
#[derive(Clone, Debug, Default)]
pub struct Places(HashMap<String, Node>);

impl Places {
    pub(super) fn insert(&mut self, key: String, node: &Node) {
        self.0.insert(key, node.clone());
    }

    /// Problems of the registry at the lines where their keys are written, as far as the files have them.
    pub fn locate(&self, problems: Problems) -> Problems {
        let mut located = Problems::new();
        for problem in problems.iter() {
            located.push(self.at_its_place(problem));
        }
        located.sort();
        located
    }

    fn at_its_place(&self, problem: &Problem) -> Problem {
        let parts: Vec<&str> = problem.key.split('.').collect();
        // Ids may have dots of their own.
        let noun = (2..=parts.len()).find_map(|n| Some((self.0.get(&parts.get(..n)?.join("."))?, parts.get(n..)?)));
        match noun {
            Some((node, rest)) if &*problem.file == REGISTRY => {
                let place = below(node, rest);
                let (file, line, column) = (place.file.clone(), place.line, place.column);
                Problem { file, line, column, ..problem.clone() }
            }
            _ => problem.clone(),
        }
    }
}

/// As deep as the keys lead.
fn below<'a>(node: &'a Node, keys: &[&str]) -> &'a Node {
    let next = (1..=keys.len()).find_map(|n| {
        let key = keys.get(..n)?.join(".");
        let found = node.get(&key).or_else(|| node.items().iter().find(|item| item.text() == Some(&key)))?;
        Some(below(found, keys.get(n..)?))
    });
    next.unwrap_or(node)
}
