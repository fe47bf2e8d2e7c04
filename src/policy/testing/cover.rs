//! Which lines of the rules were reached by tests.
//!
//! In: the syntax tree, and the lines on which the interpreter evaluated something. A line counts when a statement or a value of a
//! rule begins on it, and is covered when any of what begins there was evaluated; the head of a rule is evaluated when its body
//! held. Tests themselves do not count.

use super::super::syntax::{self, File, LiteralStmt, expressions, lines, walk};
use regorus::Engine;
use regorus::unstable::{Expr, Literal, Query, Rule, RuleHead};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// Lines of all files of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    pub files: Vec<FileCoverage>,
}

/// Lines of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileCoverage {
    pub path: String,
    pub covered: BTreeSet<u32>,
    pub not_covered: BTreeSet<u32>,
}

impl FileCoverage {
    /// 0 to 100; 100 where there is nothing to cover.
    pub fn percent(&self) -> f64 {
        percent(self.covered.len(), self.not_covered.len())
    }
}

impl Coverage {
    /// Lines that are covered, and that are not.
    pub fn lines(&self) -> (usize, usize) {
        self.files.iter().fold((0, 0), |(yes, no), file| (yes + file.covered.len(), no + file.not_covered.len()))
    }

    /// 0 to 100.
    pub fn percent(&self) -> f64 {
        let (covered, not) = self.lines();
        percent(covered, not)
    }
}

fn percent(covered: usize, not: usize) -> f64 {
    let number = |n: usize| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
    if covered + not == 0 { 100.0 } else { 100.0 * number(covered) / number(covered + not) }
}

/// Lines that an engine has evaluated something on.
pub(super) fn hits(engine: &Engine) -> BTreeMap<String, BTreeSet<u32>> {
    let report = engine.get_coverage_report();
    report.map(|report| report.files.into_iter().map(|file| (file.path, file.covered)).collect()).unwrap_or_default()
}

/// The report on files that are no tests.
pub(super) fn report(files: &[File], hits: &BTreeMap<String, BTreeSet<u32>>) -> Coverage {
    let none = BTreeSet::new();
    let served = files.iter().filter(|file| !file.path.ends_with("_test.rego"));
    let files = served.map(|file| {
        let hit = hits.get(&file.path).unwrap_or(&none);
        let mut lines: BTreeMap<u32, bool> = BTreeMap::new();
        for (line, reached) in file.module.policy.iter().flat_map(|rule| units(rule, hit)) {
            *lines.entry(line).or_default() |= reached;
        }
        let of = |wanted: bool| lines.iter().filter(|(_, hit)| **hit == wanted).map(|(line, _)| *line).collect();
        FileCoverage { path: file.path.clone(), covered: of(true), not_covered: of(false) }
    });
    let mut files: Vec<FileCoverage> = files.collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Coverage { files }
}

/// Lines on which something of a rule begins, and whether that was evaluated.
fn units(rule: &Rule, hit: &BTreeSet<u32>) -> Vec<(u32, bool)> {
    let reached = |lines: &RangeInclusive<u32>| hit.range(lines.clone()).next().is_some();
    let unit = |lines: RangeInclusive<u32>| (*lines.start(), reached(&lines));
    let Rule::Spec { head, bodies, .. } = rule else {
        let Rule::Default { span, value, .. } = rule else { return Vec::new() };
        return vec![(*lines(span).start(), reached(&lines(value.span())))];
    };
    let mut found = Vec::new();
    let (span, value) = match head {
        RuleHead::Compr { span, assign, .. } | RuleHead::Func { span, assign, .. } => {
            (span, assign.as_ref().map(|assign| &assign.value))
        }
        RuleHead::Set { span, key, .. } => (span, key.as_ref()),
    };
    match (value, bodies.first()) {
        // It has no value that would show when it is given, as an `else` has not.
        (None, Some(body)) if bodies.iter().any(|body| body.is_else) => {
            let last = body.query.stmts.last().is_some_and(|statement| reached(&lines(&statement.span)));
            found.push((*lines(span).start(), last));
        }
        (value, _) => {
            let whole = value.map_or_else(|| lines(span), |value| *lines(span).start()..=*lines(value.span()).end());
            found.push((*whole.start(), reached(&whole)));
        }
    }
    for body in bodies {
        let mut own = Vec::new();
        statements(&body.query, &mut |statement| own.push(unit(lines(&statement.span))));
        // The value of an `else` is not among what the interpreter tells of: it was given when the last condition was looked at.
        if let (Some(assign), true) = (&body.assign, body.is_else) {
            let last = body.query.stmts.last().map(|statement| reached(&lines(&statement.span)));
            own.extend(last.map(|last| (*lines(assign.value.span()).start(), last)));
        }
        found.extend(own);
    }
    found
}

/// Every statement of a query that is evaluated, also those inside others.
fn statements<'q>(query: &'q Query, look: &mut impl FnMut(&'q LiteralStmt)) {
    let mut waiting = vec![query];
    while let Some(query) = waiting.pop() {
        for statement in &query.stmts {
            match &statement.literal {
                Literal::SomeVars { .. } => continue,
                Literal::Every { query, .. } => waiting.push(query),
                _ => {}
            }
            look(statement);
            for expr in expressions(statement) {
                walk(expr, &mut |expr| match expr {
                    Expr::ArrayCompr { query, .. } | Expr::SetCompr { query, .. } | Expr::ObjectCompr { query, .. } => {
                        waiting.push(query);
                        false
                    }
                    _ => true,
                });
            }
        }
    }
}

/// A file's text in which heads without a value have theirs, so that it shows when it is given. Lines stay what they are.
pub(super) fn with_values(file: &File) -> String {
    let text = file.module.package.span.source.get_contents();
    let mut places: Vec<usize> = Vec::new();
    for rule in &file.module.policy {
        let Rule::Spec { head, bodies, .. } = &**rule else { continue };
        // What an `else` without a value has would no longer be true.
        if bodies.iter().any(|body| body.is_else) {
            continue;
        }
        if let (RuleHead::Compr { span, assign: None, .. } | RuleHead::Func { span, assign: None, .. }, Some(_)) =
            (head, bodies.first())
        {
            places.push(syntax::extent(span).end);
        }
    }
    let mut out = text.clone();
    places.sort_unstable();
    for place in places.into_iter().rev() {
        if out.is_char_boundary(place) {
            out.insert_str(place, " := true");
        }
    }
    out
}
