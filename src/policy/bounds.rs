//! What one instruction of the machine may cost. The clock is looked at between instructions and not within one, so that what
//! one of them works on has to be bounded before the policy is served.
//!
//! In: files that parse, and the data documents. Out: problems with file, line and column:
//! - patterns and paths that the policy's authors did not write: one from a request can overflow the stack that matches it;
//! - products of what is worked out itself: each line of them doubles the digits;
//! - values that are put together of themselves over and over: small in memory, and endless for whoever walks them;
//! - texts and lists that are looked for in each other, and are large;
//! - rules with more `else` than can be compiled in time.
//!
//! Sizes are those that the text of a policy gives: a fact and a data document count as one, and what a loop collects as a
//! few, whatever they hold. Not covered is therefore what follows from the number of turns of a loop over large collections;
//! the limits of instructions and time bound that from turn to turn.

mod measure;
mod scope;

use super::at;
use super::syntax::{File, dotted, place, text, variable};
use crate::document::{Problem, Problems};
use measure::{Excess, MAX_DEPTH, MAX_SIZE, Measures};
use regorus::Value;
use regorus::unstable::{ArithOp, Expr, Ref, Rule, Span};
use scope::{At, Below, From, House, spine};
use std::collections::{BTreeSet, HashSet};

/// `else` of one rule. Compiling takes time with their square.
const MAX_ELSE: usize = 500;
/// Bytes of a text that is written in a rule.
const MAX_TEXT: usize = 8 * 1024;
/// Size of what is matched with a pattern, and of two that are looked for in each other.
const MAX_MATCHED: u64 = 8;
/// Size of what a short text is looked for in.
const MAX_SEARCHED: u64 = 256;
/// Characters of a text from a request that is read as a number: shorter than any object that is taken for one.
const MAX_CUT: usize = 20;

/// Where a value comes from; the worst counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    /// Somebody wrote it, in a rule or in a data document.
    #[default]
    Written,
    /// It is a fact as it is.
    Fact,
    Computed,
}

/// All that a value may be.
#[derive(Default)]
struct Sources<'e> {
    origin: Origin,
    /// Texts as they are written, with their places.
    texts: Vec<(&'e str, &'e Span, At)>,
    /// Paths of data documents.
    data: BTreeSet<String>,
}

/// What a written text has to keep to.
#[derive(Clone, Copy)]
enum Kind {
    Glob,
    Regex,
    /// Of JSON, with `/` between its steps.
    Path,
    /// Looked for in others.
    Short,
    /// One of the characters at which a glob ends.
    Delimiters,
    /// Read as JSON.
    Json,
}

impl Kind {
    /// What is wrong with a text.
    fn wrong(self, text: &str) -> Option<&'static str> {
        match self {
            Kind::Glob if depth(text) > 10 => Some("has braces more than 10 deep in each other"),
            Kind::Glob | Kind::Regex if text.len() > 1_000 => Some("is longer than 1000 bytes"),
            Kind::Path if text.matches('/').count() > 100 => Some("has more than 100 steps"),
            Kind::Short if text.len() > 256 => Some("is longer than 256 bytes"),
            Kind::Delimiters if text.len() > 4 => Some("is longer than one character"),
            Kind::Json if text.contains('$') => Some("has a `$`, with which the engine reads numbers of any length"),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Glob | Kind::Regex => "the pattern",
            Kind::Path => "the path",
            Kind::Short => "the text that is looked for",
            Kind::Delimiters => "the delimiter",
            Kind::Json => "the text",
        }
    }
}

/// Deepest braces of a glob.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for sign in text.bytes() {
        match sign {
            b'{' => depth += 1,
            b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// Refuses rules that would take long to look at, too; whether there are none.
pub(super) fn branches(files: &[File], problems: &mut Problems) -> bool {
    let mut none = true;
    for file in files {
        for rule in &file.module.policy {
            let Rule::Spec { span, bodies, .. } = &**rule else { continue };
            if bodies.len() > MAX_ELSE {
                none = false;
                let (line, column) = place(span);
                let reason = format!("a rule has more than {MAX_ELSE} `else`, which take too long to compile");
                let fix = "look the value up in an object, or in a data file";
                problems.push(at(&file.path, line, column, reason, Some(fix)));
            }
        }
    }
    none
}

/// Looks at every rule of files that are compiled together, and at what they use of the data; whether all is good.
pub(super) fn look(files: &[File], data: &Value, problems: &mut Problems) -> bool {
    let before = problems.iter().count();
    let house = House::new(files);
    let mut measures = Measures::new(&house);
    let looked = Looked { house: &house, data };
    for (expr, at) in &house.nodes {
        measures.of(expr, *at);
        looked.node(expr, *at, &mut measures, problems);
    }
    for (expr, at, excess) in &measures.found {
        let name = spine(expr).0;
        let reason = match excess {
            Excess::Size => format!(
                "this is put together of so many others that it may have more than {MAX_SIZE} parts, and whoever compares \
                 or sorts it walks through each"
            ),
            Excess::Depth => format!("the parts of this may lie more than {MAX_DEPTH} deep in each other"),
            Excess::Itself => {
                format!("`{}` is made of what is made of it", variable(name).unwrap_or_default())
            }
        };
        let fix = match excess {
            Excess::Itself => "give one of them with `:=`, and compare with `==`",
            _ => "look at the parts themselves, or put large collections into a data file",
        };
        problems.push(looked.wrong(expr.span(), *at, reason, fix));
    }
    problems.iter().count() == before
}

struct Looked<'h, 'e> {
    house: &'h House<'e>,
    data: &'h Value,
}

impl<'e> Looked<'_, 'e> {
    fn wrong(&self, span: &Span, place_of: At, reason: String, fix: &str) -> Problem {
        let (line, column) = place(span);
        let file = self.house.file(place_of).map_or("policies", |file| &file.path);
        at(file, line, column, reason, Some(fix))
    }

    fn node(&self, expr: &'e Expr, at: At, measures: &mut Measures<'_, 'e>, problems: &mut Problems) {
        match expr {
            Expr::String { span, .. } | Expr::RawString { span, .. }
                if text(expr).is_some_and(|text| text.len() > MAX_TEXT) =>
            {
                let reason = format!("a text of more than {MAX_TEXT} bytes is written in a rule");
                problems.push(self.wrong(span, at, reason, "put it into a data file"));
            }
            Expr::ArithExpr { op: ArithOp::Mul, lhs, rhs, .. } => self.product(expr, (lhs, rhs), at, problems),
            Expr::Call { fcn, params, .. } => {
                let Some(called) = dotted(fcn) else { return };
                let own = self.house.file(at).map(|file| file.absolute(&called));
                if !own.is_some_and(|name| self.house.rules.contains_key(&name)) {
                    self.call(expr, (&called, params), at, measures, problems);
                }
            }
            _ => {}
        }
    }

    /// Of two numbers that are worked out, each may be such a product itself, and so twice as long as the last.
    fn product(&self, expr: &'e Expr, (lhs, rhs): (&'e Expr, &'e Expr), at: At, problems: &mut Problems) {
        let plain = |factor: &'e Expr| self.sources(factor, at).origin <= Origin::Fact;
        if !plain(lhs) && !plain(rhs) {
            let reason = "both factors of this product are worked out, so that a few lines of such could make a number of \
                          millions of digits";
            let fix = "multiply with a number as it is written, with a fact or with a value of a data file";
            problems.push(self.wrong(expr.span(), at, reason.to_owned(), fix));
        }
    }

    fn call(
        &self,
        expr: &'e Expr,
        (name, params): (&str, &'e [Ref<Expr>]),
        at: At,
        measures: &mut Measures<'_, 'e>,
        problems: &mut Problems,
    ) {
        let params: Vec<&'e Expr> = params.iter().map(|param| &**param).collect();
        let mut size = |expr: &'e Expr| {
            let size = measures.of(expr, at).size;
            // Of a parameter, as if it were a fact.
            size.of.values().fold(size.fixed, |sum, times| sum.saturating_add(*times))
        };
        let mut large = |what: &str, params: &[&'e Expr], most: u64, problems: &mut Problems| {
            let all = params.iter().fold(0_u64, |sum, param| sum.saturating_add(size(param)));
            if all > most {
                let reason = format!("{what} of `{name}` may be large, and no limit reaches inside of it");
                let fix = "take facts or their parts as they are, and one after another";
                problems.push(self.wrong(expr.span(), at, reason, fix));
            }
        };
        match (name, params.as_slice()) {
            ("glob.match", [pattern, delimiters, matched]) => {
                self.written(Kind::Glob, name, pattern, at, problems);
                self.written(Kind::Delimiters, name, delimiters, at, problems);
                large("the delimiters", &[delimiters], MAX_MATCHED, problems);
                large("the text", &[matched], MAX_MATCHED, problems);
            }
            ("regex.match", [pattern, matched]) => {
                self.written(Kind::Regex, name, pattern, at, problems);
                large("the text", &[matched], MAX_MATCHED, problems);
            }
            ("glob.quote_meta", [pattern]) => self.written(Kind::Glob, name, pattern, at, problems),
            ("regex.is_valid" | "regex.split", [pattern, ..]) | ("regex.replace", [_, pattern, ..]) => {
                self.written(Kind::Regex, name, pattern, at, problems);
            }
            ("json.filter" | "json.remove" | "json.patch", [_, paths]) => self.paths(name, paths, at, problems),
            (
                "indexof"
                | "object.subset"
                | "strings.any_prefix_match"
                | "strings.any_suffix_match"
                | "trim"
                | "trim_left"
                | "trim_right",
                [one, other],
            ) => {
                let short = |expr: &'e Expr| {
                    let sources = self.sources(expr, at);
                    sources.origin == Origin::Written && self.first_wrong(Kind::Short, &sources).is_none()
                };
                let most = if short(one) || short(other) { MAX_SEARCHED } else { MAX_MATCHED };
                large("what is looked through", &[one, other], most, problems);
            }
            // An object with a key of the parser's own is a number of as many digits as its exponent says.
            ("json.unmarshal" | "json.is_valid", [read]) => self.written(Kind::Json, name, read, at, problems),
            ("to_number", [read]) if !self.is_short(read, at) => {
                let sources = self.sources(read, at);
                if sources.origin > Origin::Written || self.first_wrong(Kind::Json, &sources).is_some() {
                    let reason = "`to_number` of a text of any length can take minutes".to_owned();
                    let fix = format!("cut it before: `to_number(substring(TEXT, 0, {MAX_CUT}))`");
                    problems.push(self.wrong(expr.span(), at, reason, &fix));
                }
            }
            _ => {}
        }
    }

    /// Whether it is a text that was cut, by itself or by a name of it.
    fn is_short(&self, expr: &'e Expr, at: At) -> bool {
        let (mut seen, mut waiting) = (HashSet::new(), vec![(expr, at)]);
        while let Some((expr, at)) = waiting.pop() {
            if !seen.insert((std::ptr::from_ref(expr), at)) {
                continue;
            }
            match expr {
                Expr::Call { fcn, params, .. } if dotted(fcn).as_deref() == Some("substring") => {
                    let most = params.get(2).map(|most| match &**most {
                        Expr::Number { span, .. } => span.text().parse::<usize>().is_ok_and(|most| most <= MAX_CUT),
                        _ => false,
                    });
                    if most != Some(true) {
                        return false;
                    }
                }
                Expr::Var { .. } => {
                    let sources = variable(expr).and_then(|name| self.house.sources(at, name));
                    let Some((_, sources)) = sources.filter(|(_, all)| !all.is_empty()) else { return false };
                    for source in sources {
                        let From::Whole(expr, at) = source else { return false };
                        waiting.push((expr, at));
                    }
                }
                _ => return false,
            }
        }
        true
    }

    /// A list or set of paths. One in the form of a list has as many steps as are written.
    fn paths(&self, name: &str, paths: &'e Expr, at: At, problems: &mut Problems) {
        match paths {
            Expr::Array { items, .. } | Expr::Set { items, .. } => {
                for item in items.iter().filter(|item| !matches!(&***item, Expr::Array { .. })) {
                    self.written(Kind::Path, name, item, at, problems);
                }
            }
            _ => self.written(Kind::Path, name, paths, at, problems),
        }
    }

    fn written(&self, kind: Kind, name: &str, expr: &'e Expr, at: At, problems: &mut Problems) {
        let what = kind.name();
        let sources = self.sources(expr, at);
        if sources.origin > Origin::Written {
            let reason = format!(
                "{what} of `{name}` is not what somebody wrote: one of a request can overflow the stack, or take long"
            );
            let fix = "write it here, in a rule of its own or in a data file, and choose from these; texts compare with \
                       `startswith`, `endswith` and `contains`";
            problems.push(self.wrong(expr.span(), at, reason, fix));
            return;
        }
        if let Some((why, place)) = self.first_wrong(kind, &sources) {
            let (span, place_of) = place.unwrap_or((expr.span(), at));
            let fix = "write several of them";
            problems.push(self.wrong(span, place_of, format!("{what} of `{name}` {why}"), fix));
        }
    }

    /// What is wrong with one of these texts; its place where a rule has it.
    fn first_wrong(&self, kind: Kind, sources: &Sources<'e>) -> Option<(String, Option<(&'e Span, At)>)> {
        for (text, span, at) in &sources.texts {
            if let Some(why) = kind.wrong(text) {
                return Some((why.to_owned(), Some((span, *at))));
            }
        }
        for path in &sources.data {
            let mut value = self.data;
            for key in path.split('.').skip(1) {
                let Value::Object(object) = value else { break };
                match object.get(&Value::from(key)) {
                    Some(inner) => value = inner,
                    None => break,
                }
            }
            let mut waiting = vec![value];
            while let Some(value) = waiting.pop() {
                match value {
                    Value::String(text) => {
                        if let Some(why) = kind.wrong(text) {
                            return Some((format!("may be one below `{path}` that {why}"), None));
                        }
                    }
                    Value::Array(list) => waiting.extend(list.iter()),
                    Value::Set(set) => waiting.extend(set.iter()),
                    Value::Object(object) => waiting.extend(object.iter().flat_map(|(key, value)| [key, value])),
                    _ => {}
                }
            }
        }
        None
    }

    /// Follows an expression to all that its value can be, or be taken out of.
    fn sources(&self, expr: &'e Expr, at: At) -> Sources<'e> {
        let mut found = Sources::default();
        let mut seen: HashSet<(*const Expr, At)> = HashSet::new();
        let mut seen_rules: HashSet<String> = HashSet::new();
        let mut waiting = vec![(expr, at)];
        while let Some((expr, at)) = waiting.pop() {
            if found.origin == Origin::Computed {
                break;
            }
            if !seen.insert((std::ptr::from_ref(expr), at)) {
                continue;
            }
            let mut rules: Vec<String> = Vec::new();
            match expr {
                Expr::String { span, .. } | Expr::RawString { span, .. } => {
                    found.texts.extend(text(expr).map(|text| (text, span, at)));
                }
                Expr::Number { .. } | Expr::Bool { .. } | Expr::Null { .. } => {}
                Expr::BoolExpr { .. } | Expr::Membership { .. } => {}
                Expr::Array { items, .. } | Expr::Set { items, .. } => {
                    waiting.extend(items.iter().map(|item| (&**item, at)));
                }
                Expr::Object { fields, .. } => {
                    waiting.extend(fields.iter().flat_map(|(_, key, value)| [(&**key, at), (&**value, at)]));
                }
                Expr::ArrayCompr { term, query, .. } | Expr::SetCompr { term, query, .. } => {
                    waiting.push((term, self.house.inside(query, at)));
                }
                Expr::ObjectCompr { key, value, query, .. } => {
                    let inside = self.house.inside(query, at);
                    waiting.extend([(&**key, inside), (&**value, inside)]);
                }
                Expr::UnaryExpr { expr, .. } => waiting.push((expr, at)),
                Expr::BinExpr { lhs, rhs, .. } => waiting.extend([(&**lhs, at), (&**rhs, at)]),
                Expr::Call { fcn, params, .. } => {
                    let called = dotted(fcn).unwrap_or_default();
                    let own = self.house.file(at).map(|file| file.absolute(&called)).unwrap_or_default();
                    match (called.as_str(), params.as_slice()) {
                        _ if self.house.rules.contains_key(&own) => rules.push(own),
                        ("set", []) => {}
                        // Whatever it counts, it is a small number.
                        ("count", _) => found.origin = found.origin.max(Origin::Fact),
                        ("object.get", [of, _, default]) => waiting.extend([(&**of, at), (&**default, at)]),
                        ("max" | "min" | "sort" | "array.slice" | "array.reverse" | "object.keys", [of, ..]) => {
                            waiting.push((of, at));
                        }
                        _ => found.origin = Origin::Computed,
                    }
                }
                Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. } => {
                    let (root, keys) = spine(expr);
                    match variable(root).map(|name| (name, self.house.sources(at, name))) {
                        None => waiting.push((root, at)),
                        Some((_, Some((_, sources)))) if sources.is_empty() => found.origin = Origin::Computed,
                        Some((_, Some((_, sources)))) => {
                            for source in sources {
                                match source {
                                    From::Whole(expr, at) | From::Part(expr, at) => waiting.push((expr, at)),
                                    From::Parameter(function, n) => {
                                        let name = self.house.function(function);
                                        let calls = name.and_then(|name| self.house.calls.get(name));
                                        let given = calls.into_iter().flatten();
                                        waiting.extend(given.filter_map(|(given, at)| Some((&**given.get(n)?, *at))));
                                    }
                                }
                            }
                        }
                        Some((name, None)) => match self.house.below(at, name, &keys) {
                            Below::Fact => found.origin = found.origin.max(Origin::Fact),
                            Below::Data(path) => drop(found.data.insert(path)),
                            Below::Rules(below) => rules.extend(below),
                            Below::Several(_) => found.origin = Origin::Computed,
                        },
                    }
                }
                _ => found.origin = Origin::Computed,
            }
            for rule in rules {
                let Some(definitions) = self.house.rules.get(&rule).filter(|_| seen_rules.insert(rule.clone())) else {
                    continue;
                };
                for one in &definitions.yields {
                    waiting.extend(one.key.into_iter().chain(one.value).map(|expr| (expr, one.at)));
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests;
