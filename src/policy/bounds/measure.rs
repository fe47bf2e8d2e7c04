//! How large and how deep values are that the text of a policy puts together.

use super::scope::{At, Below, From, House, spine};
use crate::policy::syntax::{Key, dotted, variable};
use regorus::unstable::{ArithOp, BinOp, Expr, Query};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Parts that a value may have.
pub(super) const MAX_SIZE: u64 = 1 << 16;
/// How deep the parts of a value may lie in each other.
pub(super) const MAX_DEPTH: u64 = 200;
/// What a loop is taken to collect, in turns.
const TURNS: u64 = 4;
/// Names that may have their values from each other, one after another.
const LONGEST: usize = 5_000;

/// A number that depends on those of a function's arguments.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Linear {
    pub fixed: u64,
    pub of: BTreeMap<usize, u64>,
}

/// What a value has in it, at most.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Measure {
    /// Parts, itself among them.
    pub size: Linear,
    /// Those of its largest part.
    part: Linear,
    /// The deepest of what stands here, each with what lies below it.
    pub depth: Linear,
}

impl Linear {
    fn of(fixed: u64) -> Self {
        Linear { fixed, of: BTreeMap::new() }
    }

    fn join(mut self, other: &Self, put: impl Fn(u64, u64) -> u64) -> Self {
        self.fixed = put(self.fixed, other.fixed);
        for (n, more) in &other.of {
            let one = self.of.entry(*n).or_default();
            *one = put(*one, *more);
        }
        self
    }

    fn plus(self, other: &Self) -> Self {
        self.join(other, u64::saturating_add)
    }

    fn max(self, other: &Self) -> Self {
        self.join(other, u64::max)
    }

    fn times(mut self, factor: u64) -> Self {
        self.fixed = self.fixed.saturating_mul(factor);
        self.of.values_mut().for_each(|one| *one = one.saturating_mul(factor));
        self
    }

    /// Of sizes, with these in the place of the parameters.
    fn with(&self, arguments: &[Measure]) -> Self {
        let given = self.of.iter().filter_map(|(n, factor)| Some((arguments.get(*n)?, *factor)));
        given.fold(Linear::of(self.fixed), |sum, (one, factor)| sum.plus(&one.size.clone().times(factor)))
    }

    /// The same of depths.
    fn below(&self, arguments: &[Measure]) -> Self {
        let given = self.of.iter().filter_map(|(n, more)| Some((arguments.get(*n)?, *more)));
        given.fold(Linear::of(self.fixed), |deepest, (one, more)| deepest.max(&one.depth.clone().deeper(more)))
    }

    fn deeper(mut self, more: u64) -> Self {
        self.fixed = self.fixed.saturating_add(more);
        self.of.values_mut().for_each(|one| *one = one.saturating_add(more));
        self
    }

    fn passes(&self, most: u64) -> bool {
        self.fixed > most || self.of.values().any(|one| *one > most)
    }
}

impl Measure {
    fn one() -> Self {
        Measure { size: Linear::of(1), part: Linear::of(1), depth: Linear::of(1) }
    }

    fn parameter(n: usize) -> Self {
        let one = |times| Linear { fixed: 0, of: BTreeMap::from([(n, times)]) };
        Measure { size: one(1), part: one(1), depth: one(0) }
    }

    /// All of these beside each other in one.
    fn around(parts: impl IntoIterator<Item = Measure>) -> Self {
        let none = Measure { size: Linear::of(1), part: Linear::of(0), depth: Linear::of(0) };
        let mut all = parts.into_iter().fold(none, |all, one| Measure {
            size: all.size.plus(&one.size),
            part: all.part.max(&one.size),
            depth: all.depth.max(&one.depth),
        });
        all.depth = all.depth.deeper(1);
        all
    }

    /// What these make together, put into one another.
    fn together(parts: impl IntoIterator<Item = Measure>) -> Self {
        parts.into_iter().fold(Measure::default(), |all, one| Measure {
            size: all.size.plus(&one.size),
            part: all.part.max(&one.part),
            depth: all.depth.max(&one.depth),
        })
    }

    /// One of these.
    fn largest(parts: impl IntoIterator<Item = Measure>) -> Self {
        parts.into_iter().fold(Measure::default(), |all, one| Measure {
            size: all.size.max(&one.size),
            part: all.part.max(&one.part),
            depth: all.depth.max(&one.depth),
        })
    }

    /// What a loop collects.
    fn collected(self) -> Self {
        let mut all = self.clone();
        for _ in 1..TURNS {
            all.size = all.size.plus(&self.size);
        }
        Measure { size: all.size.plus(&Linear::of(1)), part: self.size, depth: self.depth.deeper(1) }
    }

    fn times(mut self, factor: u64) -> Self {
        self.size = self.size.times(factor);
        self
    }

    fn into_part(self) -> Self {
        Measure { size: self.part.clone(), ..self }
    }

    fn called(&self, arguments: &[Measure]) -> Self {
        Measure { size: self.size.with(arguments), part: self.part.with(arguments), depth: self.depth.below(arguments) }
    }
}

/// Why a value is refused.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Excess {
    Size,
    Depth,
    /// It is made of itself.
    Itself,
}

/// Measures expressions, each once.
pub(super) struct Measures<'h, 'e> {
    house: &'h House<'e>,
    done: HashMap<(*const Expr, At), Measure>,
    names: HashMap<(At, String), Measure>,
    rules: HashMap<String, Measure>,
    open_names: HashSet<(At, String)>,
    open_rules: HashSet<String>,
    pub found: Vec<(&'e Expr, At, Excess)>,
}

impl<'h, 'e> Measures<'h, 'e> {
    pub fn new(house: &'h House<'e>) -> Self {
        Measures {
            house,
            done: HashMap::new(),
            names: HashMap::new(),
            rules: HashMap::new(),
            open_names: HashSet::new(),
            open_rules: HashSet::new(),
            found: Vec::new(),
        }
    }

    /// What is too large is told once, where it becomes so, and counts as one from there on.
    pub fn of(&mut self, expr: &'e Expr, at: At) -> Measure {
        let key = (std::ptr::from_ref(expr), at);
        if let Some(done) = self.done.get(&key) {
            return done.clone();
        }
        let mut measure = self.measured(expr, at);
        let excess = match &measure {
            Measure { size, .. } if size.passes(MAX_SIZE) => Some(Excess::Size),
            Measure { depth, .. } if depth.passes(MAX_DEPTH) => Some(Excess::Depth),
            _ => None,
        };
        if let Some(excess) = excess {
            self.found.push((expr, at, excess));
            measure = Measure::one();
        }
        self.done.insert(key, measure.clone());
        measure
    }

    fn all(&mut self, exprs: impl IntoIterator<Item = &'e Expr>, at: At) -> Vec<Measure> {
        exprs.into_iter().map(|expr| self.of(expr, at)).collect()
    }

    fn measured(&mut self, expr: &'e Expr, at: At) -> Measure {
        match expr {
            Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. } => self.reference(expr, at),
            Expr::Array { items, .. } | Expr::Set { items, .. } => {
                Measure::around(self.all(items.iter().map(|item| &**item), at))
            }
            Expr::Object { fields, .. } => {
                Measure::around(self.all(fields.iter().flat_map(|(_, key, value)| [&**key, &**value]), at))
            }
            Expr::ArrayCompr { term, query, .. } | Expr::SetCompr { term, query, .. } => {
                let inside = self.house.inside(query, at);
                self.of(term, inside).collected()
            }
            Expr::ObjectCompr { key, value, query, .. } => self.pairs(key, value, query, at),
            Expr::Call { fcn, params, .. } => {
                let arguments = self.all(params.iter().map(|param| &**param), at);
                let Some(called) = dotted(fcn) else { return Measure::one() };
                let own = self.house.file(at).map(|file| file.absolute(&called));
                let own = own.filter(|name| self.house.rules.get(name).is_some_and(|rule| rule.is_function));
                match own {
                    Some(name) => self.rule(&name).called(&arguments),
                    None => builtin(&called, arguments),
                }
            }
            // What these are made of may be as many as a file has room for.
            Expr::BinExpr { .. } => {
                let (mut waiting, mut all) = (vec![expr], Vec::new());
                let mut both = false;
                while let Some(expr) = waiting.pop() {
                    match expr {
                        Expr::BinExpr { op, lhs, rhs, .. } => {
                            both |= matches!(op, BinOp::Union);
                            waiting.extend([&**lhs, &**rhs]);
                        }
                        other => all.push(self.of(other, at)),
                    }
                }
                if both { Measure::together(all) } else { Measure::largest(all) }
            }
            // Numbers, or sets of which the first is the largest.
            Expr::ArithExpr { .. } => {
                let mut first = expr;
                while let Expr::ArithExpr { op: ArithOp::Sub, lhs, .. } = first {
                    first = lhs;
                }
                if matches!(first, Expr::ArithExpr { .. }) { Measure::one() } else { self.of(first, at) }
            }
            _ => Measure::one(),
        }
    }

    fn pairs(&mut self, key: &'e Expr, value: &'e Expr, query: &Query, at: At) -> Measure {
        let inside = self.house.inside(query, at);
        let both = self.all([key, value], inside);
        let largest = Measure::largest(both.clone());
        Measure { part: largest.size, ..Measure::together(both).collected() }
    }

    fn reference(&mut self, expr: &'e Expr, at: At) -> Measure {
        let (root, keys) = spine(expr);
        let whole = match variable(root) {
            None => self.of(root, at),
            Some(name) => match self.house.sources(at, name) {
                Some((place, sources)) => self.name(expr, name, (at, place), &sources),
                None => match self.house.below(at, name, &keys) {
                    Below::Fact | Below::Data(_) => return Measure::one(),
                    Below::Rules(rules) => {
                        let whole = Measure::largest(rules.iter().map(|rule| self.rule(rule)).collect::<Vec<_>>());
                        // How many of the keys are those of the rule itself is not looked at: the last one is not.
                        return if matches!(keys.last(), Some(Key::Computed(_))) { whole.into_part() } else { whole };
                    }
                    Below::Several(rules) => {
                        return Measure::around(rules.iter().map(|rule| self.rule(rule)).collect::<Vec<_>>());
                    }
                },
            },
        };
        if keys.is_empty() { whole } else { whole.into_part() }
    }

    fn name(&mut self, expr: &'e Expr, name: &str, (at, place): (At, At), sources: &[From<'e>]) -> Measure {
        let key = (place, name.to_owned());
        if let Some(done) = self.names.get(&key) {
            return done.clone();
        }
        if self.open_names.len() > LONGEST || !self.open_names.insert(key.clone()) {
            self.found.push((expr, at, Excess::Itself));
            return Measure::one();
        }
        let all: Vec<Measure> = sources
            .iter()
            .map(|source| match source {
                From::Whole(expr, at) => self.of(expr, *at),
                From::Part(expr, at) => self.of(expr, *at).into_part(),
                From::Parameter(_, n) => Measure::parameter(*n),
            })
            .collect();
        let measure = if all.is_empty() { Measure::one() } else { Measure::largest(all) };
        self.open_names.remove(&key);
        self.names.insert(key, measure.clone());
        measure
    }

    /// A rule that comes back to itself is refused elsewhere.
    fn rule(&mut self, name: &str) -> Measure {
        if let Some(done) = self.rules.get(name) {
            return done.clone();
        }
        let house = self.house;
        let Some(definitions) = house.rules.get(name) else { return Measure::one() };
        if !self.open_rules.insert(name.to_owned()) {
            return Measure::one();
        }
        let all: Vec<Measure> = definitions
            .yields
            .iter()
            .map(|one| {
                let value = one.value.map_or_else(Measure::one, |value| self.of(value, one.at));
                match one.key {
                    Some(key) => Measure::together([self.of(key, one.at), value]),
                    None => value,
                }
            })
            .collect();
        let count = u64::try_from(all.len()).unwrap_or(u64::MAX);
        let mut measure = Measure::largest(all);
        if definitions.collects {
            measure = measure.collected();
            measure.size = measure.size.plus(&Linear::of(count));
        }
        self.open_rules.remove(name);
        self.rules.insert(name.to_owned(), measure.clone());
        measure
    }
}

/// What a builtin gives.
fn builtin(name: &str, mut arguments: Vec<Measure>) -> Measure {
    match name {
        "array.concat" | "object.union" => Measure::together(arguments),
        // The text between, as often as there are others.
        "concat" => {
            let between = arguments.first().cloned().unwrap_or_default();
            let list = arguments.pop().unwrap_or_default();
            match (between.size.of.is_empty(), list.size.of.is_empty()) {
                _ if between == Measure::one() => list,
                (true, _) => list.times(between.size.fixed.saturating_add(1)),
                (false, true) => between.times(list.size.fixed.saturating_add(1)),
                (false, false) => between.times(u64::MAX),
            }
        }
        "base64.encode" | "base64url.encode" | "base64url.encode_no_pad" | "hex.encode" | "glob.quote_meta" => {
            Measure::together(arguments).times(2)
        }
        "split" => arguments.into_iter().next().unwrap_or_default().collected(),
        "object.get" => {
            let default = arguments.pop().unwrap_or_default();
            let of = arguments.into_iter().next().unwrap_or_default().into_part();
            Measure::largest([of, default])
        }
        "max" | "min" => arguments.into_iter().next().unwrap_or_default().into_part(),
        _ if is_plain(name) => Measure::one(),
        // None of the rest gives more than it is given.
        _ => Measure::largest(arguments),
    }
}

/// Whether it gives a number, a boolean or a short text.
fn is_plain(name: &str) -> bool {
    name.starts_with("is_")
        || name.ends_with(".is_valid")
        || name.starts_with("bits.")
        || name.starts_with("time.")
        || name.starts_with("strings.any_")
        || matches!(
            name,
            "abs"
                | "ceil"
                | "contains"
                | "count"
                | "endswith"
                | "floor"
                | "glob.match"
                | "indexof"
                | "net.cidr_contains"
                | "object.subset"
                | "regex.match"
                | "round"
                | "semver.compare"
                | "set"
                | "startswith"
                | "sum"
                | "to_number"
                | "type_name"
        )
}
