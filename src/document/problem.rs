//! What is wrong with a document, said so that its author can mend it.

use super::plain;
use std::fmt;
use std::sync::Arc;

/// Whether a problem stops the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The document is not used.
    Error,
    /// The document is used; somebody should look.
    Warning,
}

/// What stands for the file of problems that were found in the registry.
pub const REGISTRY: &str = "registry";

/// One thing that is wrong: where (file, line, column, key), what, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub severity: Severity,
    /// The file as the operator named it.
    pub file: Arc<str>,
    /// Line, from 1; 0 when the problem is about the whole file.
    pub line: u32,
    /// Column, from 1; 0 when unknown.
    pub column: u32,
    /// The key, as a dotted path; empty at the top.
    pub key: String,
    pub reason: String,
    /// What to write instead, where that can be said.
    pub fix: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.severity {
            Severity::Error => f.write_str("error: ")?,
            Severity::Warning => f.write_str("warning: ")?,
        }
        f.write_str(&plain(&self.file, &[]))?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
            if self.column > 0 {
                write!(f, ":{}", self.column)?;
            }
        }
        f.write_str(": ")?;
        if !self.key.is_empty() {
            write!(f, "`{}`: ", self.key)?;
        }
        f.write_str(&self.reason)?;
        if let Some(fix) = &self.fix {
            write!(f, "\n    fix: {fix}")?;
        }
        Ok(())
    }
}

/// Everything found so far. A load goes on collecting after the first error and is refused at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    list: Vec<Problem>,
}

impl Problems {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn push(&mut self, problem: Problem) {
        self.list.push(problem);
    }

    /// A problem about a file as a whole, such as one that cannot be read.
    pub fn file(&mut self, file: &str, reason: impl Into<String>, fix: Option<&str>) {
        self.list.push(Problem {
            severity: Severity::Error,
            file: file.into(),
            line: 0,
            column: 0,
            key: String::new(),
            reason: reason.into(),
            fix: fix.map(str::to_owned),
        });
    }

    /// A problem about what the registry has under a key, such as `anchors.acme-ca`; whoever knows where that is written
    /// can say so.
    pub fn registry(&mut self, key: impl Into<String>, reason: impl Into<String>, fix: Option<&str>) {
        self.list.push(Problem {
            severity: Severity::Error,
            file: REGISTRY.into(),
            line: 0,
            column: 0,
            key: key.into(),
            reason: reason.into(),
            fix: fix.map(str::to_owned),
        });
    }

    /// The same without places, for what nobody has written down.
    #[must_use]
    pub fn unplaced(self) -> Self {
        let list = self.list.into_iter().map(|p| Problem { file: REGISTRY.into(), line: 0, column: 0, ..p });
        Problems { list: list.collect() }
    }

    /// Something about a file as a whole, or about a key of it, that does not stop the load.
    pub fn warning(&mut self, file: &str, key: &str, reason: impl Into<String>, fix: Option<&str>) {
        self.list.push(Problem {
            severity: Severity::Warning,
            file: file.into(),
            line: 0,
            column: 0,
            key: key.to_owned(),
            reason: reason.into(),
            fix: fix.map(str::to_owned),
        });
    }

    pub fn extend(&mut self, other: Problems) {
        self.list.extend(other.list);
    }

    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }

    pub fn errors(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter().filter(|p| p.severity == Severity::Error)
    }

    pub fn warnings(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter().filter(|p| p.severity == Severity::Warning)
    }

    pub fn has_errors(&self) -> bool {
        self.errors().next().is_some()
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Sorted by place, so that the report reads like the file. A second report of the same thing is dropped.
    pub fn sort(&mut self) {
        self.list.sort_by(|a, b| {
            (&a.file, a.line, a.column, &a.key, &a.reason).cmp(&(&b.file, b.line, b.column, &b.key, &b.reason))
        });
        self.list.dedup();
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.list.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
