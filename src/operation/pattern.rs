//! How a grant may be written: exact ids, `invoices.*` and `tag:billing`, turned into the ids that exist now.

use super::{OperationId, Operations, nearest, shown};
use std::collections::BTreeSet;

/// What a pattern that means a tag starts with.
pub(super) const TAG: &str = "tag:";

impl Operations {
    /// The ids that `pattern` stands for, sorted and each once: an exact id, a prefix with `*` at its end, or
    /// `tag:NAME`. Grants store the result, so that an operation that appears later is not covered by them.
    ///
    /// # Errors
    /// A pattern that stands for nothing or for everything, or has its `*` elsewhere; the sentence names the nearest
    /// known name.
    pub fn expand(&self, pattern: &str) -> Result<Vec<OperationId>, String> {
        if let Some(tag) = pattern.strip_prefix(TAG) {
            return self.with_tag(tag);
        }
        match pattern.split_once('*') {
            None => self.exact(pattern),
            Some(("", "")) => {
                Err("`*` stands for every operation: name them, or write a prefix such as `invoices.*`".into())
            }
            Some((prefix, "")) => self.with_prefix(prefix),
            Some(_) => {
                Err(format!("`{}` has a `*` that is not at its end: write it like `invoices.*`", shown(pattern)))
            }
        }
    }

    fn exact(&self, id: &str) -> Result<Vec<OperationId>, String> {
        if let Some(operation) = self.find(id) {
            return Ok(vec![operation.id.clone()]);
        }
        let near = nearest(id, self.iter().map(|o| o.id.as_str()));
        Err(format!("`{}` is not an operation{}", shown(id), suggestion(near)))
    }

    fn with_prefix(&self, prefix: &str) -> Result<Vec<OperationId>, String> {
        let ids: Vec<_> = self.iter().map(|o| &o.id).filter(|id| id.as_str().starts_with(prefix)).cloned().collect();
        if ids.is_empty() {
            return Err(format!("`{}*` matches no operation: no id starts with `{0}`", shown(prefix)));
        }
        Ok(ids)
    }

    fn with_tag(&self, tag: &str) -> Result<Vec<OperationId>, String> {
        let ids: Vec<_> =
            self.iter().filter(|o| o.tags.iter().any(|known| **known == *tag)).map(|o| o.id.clone()).collect();
        if ids.is_empty() {
            let tags: BTreeSet<&str> = self.iter().flat_map(|o| o.tags.iter().map(|t| &**t)).collect();
            let near = nearest(tag, tags.into_iter()).map(|near| format!("{TAG}{near}"));
            return Err(format!("`{TAG}{}` matches no operation{}", shown(tag), suggestion(near.as_deref())));
        }
        Ok(ids)
    }
}

fn suggestion(near: Option<&str>) -> String {
    near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default()
}
