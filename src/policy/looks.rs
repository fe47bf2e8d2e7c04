//! Which facts the rules of files look at: what a record must have in full for its decision to be made again.
//!
//! In: files. Out: dotted paths from `input`, each for all that lies below it. A name that an object of the contract is given, by
//! `x := input.partner` or as the parameter of a function, is followed: what is looked at below the name is what counts. Any other
//! way to use an object counts as all of it. Must never: leave out a fact that a rule can see.

use super::contract::{self, Shape};
use super::syntax::{
    AssignOp, File, Key, dotted, name, outermost, parameters, queries, reference, text, variable, walk,
};
use regorus::unstable::{Expr, Ref, Rule, RuleHead};
use std::collections::{BTreeMap, BTreeSet};

/// Facts that the rules of files look at.
pub(super) fn at(files: &[File]) -> Vec<String> {
    let known = Known::of(files);
    let mut found = BTreeSet::new();
    for (file, rule) in all(files) {
        known.looked(file, rule, &mut found);
    }
    // A path below another one says nothing more.
    let all: Vec<String> = found.iter().cloned().collect();
    found.retain(|path| !all.iter().any(|other| path.starts_with(&format!("{other}."))));
    found.into_iter().collect()
}

fn all(files: &[File]) -> impl Iterator<Item = (&File, &Rule)> {
    files.iter().flat_map(|file| file.module.policy.iter().map(move |rule| (file, &**rule)))
}

/// A name, and fixed keys below it as `.a.b`.
type Place<'e> = (&'e str, String);

/// What calls may mean.
struct Known<'f> {
    /// Definitions by the whole name.
    functions: BTreeMap<String, Vec<(&'f File, &'f Rule)>>,
    /// What some `with` puts something else in the place of.
    replaced: BTreeSet<String>,
}

/// What one rule does with the names in it.
#[derive(Default)]
struct Uses<'e> {
    looked: Vec<Place<'e>>,
    /// `name := place`.
    given: Vec<(&'e str, Place<'e>)>,
    passed: Vec<(Place<'e>, Passed)>,
}

/// Where something goes.
enum Passed {
    /// To `object.get`, for what is at these keys.
    Keys(String),
    /// To a function, as the parameter of this number.
    To(String, usize),
}

impl<'f> Known<'f> {
    fn of(files: &'f [File]) -> Known<'f> {
        let (mut functions, mut replaced) = (BTreeMap::<_, Vec<_>>::new(), BTreeSet::new());
        for (file, rule) in all(files) {
            if let (Rule::Spec { head: RuleHead::Func { .. }, .. }, Some(name)) = (rule, name(file, rule)) {
                functions.entry(name).or_default().push((file, rule));
            }
            let statements = queries(rule).into_iter().flat_map(|query| &query.stmts);
            for target in statements.flat_map(|statement| &statement.with_mods).filter_map(|with| dotted(&with.refr)) {
                replaced.insert(file.absolute(&target));
                replaced.insert(target);
            }
        }
        Known { functions, replaced }
    }

    fn looked(&self, file: &File, rule: &Rule, found: &mut BTreeSet<String>) {
        let uses = self.uses(file, rule);
        // What each name may stand for. A name may be given something in one part of a rule and something else in another: then
        // it counts as both in all of them.
        let mut stands_for: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        stands_for.entry("input").or_default().insert("input".into());
        for (name, path) in file.imports.iter().filter(|(_, path)| is_fact(path)) {
            stands_for.entry(name).or_default().insert(path.clone());
        }
        let paths = |stands_for: &BTreeMap<&str, BTreeSet<String>>, (root, below): &Place<'_>| -> Vec<String> {
            stands_for.get(root).into_iter().flatten().map(|path| format!("{path}{below}")).collect()
        };
        // Ends, since there are only so many objects.
        loop {
            let mut more = false;
            for (name, place) in &uses.given {
                for path in paths(&stands_for, place).into_iter().filter(|path| is_there(path)) {
                    more |= stands_for.entry(name).or_default().insert(path);
                }
            }
            if !more {
                break;
            }
        }
        for (name, place) in &uses.given {
            // That it is there is something that is looked at too, and of an object that follows from what is below it.
            let followed = uses.has(name);
            found.extend(paths(&stands_for, place).into_iter().filter(|path| !followed || !is_there(path)));
        }
        for place in &uses.looked {
            found.extend(paths(&stands_for, place));
        }
        for (place, passed) in &uses.passed {
            for path in paths(&stands_for, place) {
                match passed {
                    _ if !is_there(&path) => drop(found.insert(path)),
                    Passed::Keys(keys) => drop(found.insert(format!("{path}{keys}"))),
                    Passed::To(function, nth) => {
                        found.extend(self.parameter(function, *nth).into_iter().map(|below| format!("{path}{below}")));
                    }
                }
            }
        }
    }

    /// What the definitions of a function look at below a parameter.
    fn parameter(&self, function: &str, nth: usize) -> BTreeSet<String> {
        let mut below = BTreeSet::new();
        for (file, rule) in self.functions.get(function).into_iter().flatten() {
            let Rule::Spec { head: RuleHead::Func { args, .. }, .. } = rule else { continue };
            let name = args.get(nth).and_then(|arg| variable(arg));
            let once = |name: &&str| parameters(rule).iter().filter(|other| *other == name).count() == 1;
            let uses = self.uses(file, rule);
            match name.filter(once).filter(|name| uses.has(name)) {
                Some(name) => {
                    below.extend(uses.places().filter(|(root, _)| *root == name).map(|(_, below)| below.clone()))
                }
                None => drop(below.insert(String::new())),
            }
        }
        below
    }

    fn uses<'e>(&self, file: &File, rule: &'e Rule) -> Uses<'e> {
        let mut uses = Uses::default();
        let args = match rule {
            Rule::Spec { head: RuleHead::Func { args, .. }, .. } => args.as_slice(),
            _ => &[],
        };
        // The name of a parameter is no use of it.
        let is_parameter = |expr: &Expr| variable(expr).is_some() && args.iter().any(|arg| std::ptr::eq(&**arg, expr));
        let mut waiting: Vec<&Expr> = outermost(rule).into_iter().filter(|expr| !is_parameter(expr)).collect();
        while let Some(expr) = waiting.pop() {
            walk(expr, &mut |expr| {
                match expr {
                    Expr::AssignExpr { op: AssignOp::ColEq, lhs, rhs, .. } => {
                        let (Some(name), Some(place)) = (variable(lhs), fixed(rhs)) else { return true };
                        uses.given.push((name, place));
                        return false;
                    }
                    Expr::Call { fcn, params, .. } => {
                        let Some((passed, others)) = self.call(file, fcn, params) else { return true };
                        uses.passed.extend(passed);
                        waiting.extend(others);
                        return false;
                    }
                    _ => {}
                }
                let Some((root, keys)) = reference(expr) else { return true };
                let fixed_keys = keys.iter().map_while(|key| match key {
                    Key::Name(name, _) => Some(format!(".{name}")),
                    Key::Computed(_) => None,
                });
                uses.looked.push((root, fixed_keys.collect()));
                waiting.extend(keys.iter().filter_map(|key| match key {
                    Key::Computed(expr) => Some(*expr),
                    Key::Name(..) => None,
                }));
                false
            });
        }
        uses
    }

    /// What a call is given that can be followed, and its other parameters; `None` where none can.
    #[expect(clippy::type_complexity, reason = "it is taken apart where it comes from")]
    fn call<'e>(
        &self,
        file: &File,
        fcn: &Expr,
        params: &'e [Ref<Expr>],
    ) -> Option<(Vec<(Place<'e>, Passed)>, Vec<&'e Expr>)> {
        let called = dotted(fcn)?;
        let whole = file.absolute(&called);
        if self.replaced.contains(&called) || self.replaced.contains(&whole) {
            return None;
        }
        let (mut passed, mut others) = (Vec::new(), Vec::new());
        if self.functions.contains_key(&whole) {
            for (nth, param) in params.iter().enumerate() {
                match fixed(param) {
                    Some(place) => passed.push((place, Passed::To(whole.clone(), nth))),
                    None => others.push(&**param),
                }
            }
            return Some((passed, others));
        }
        let (of, path, default) = match params {
            [of, path, default] if called == "object.get" => (of, path, default),
            _ => return None,
        };
        passed.push((fixed(of)?, Passed::Keys(keys(path)?)));
        others.push(&**default);
        Some((passed, others))
    }
}

impl<'e> Uses<'e> {
    fn places(&self) -> impl Iterator<Item = &Place<'e>> {
        let given = self.given.iter().map(|(_, place)| place);
        self.looked.iter().chain(given).chain(self.passed.iter().map(|(place, _)| place))
    }

    fn has(&self, name: &str) -> bool {
        self.places().any(|(root, _)| *root == name)
    }
}

/// A reference by fixed names only.
fn fixed(expr: &Expr) -> Option<Place<'_>> {
    let (root, keys) = reference(expr)?;
    let mut below = String::new();
    for key in keys {
        let Key::Name(name, _) = key else { return None };
        below.push('.');
        below.push_str(name);
    }
    Some((root, below))
}

/// What `object.get` is asked for: a key, or a list of keys.
fn keys(path: &Expr) -> Option<String> {
    match path {
        Expr::Array { items, .. } => items.iter().map(|item| text(item).map(|key| format!(".{key}"))).collect(),
        one => text(one).map(|key| format!(".{key}")),
    }
}

fn is_fact(path: &str) -> bool {
    path == "input" || path.starts_with("input.")
}

/// Whether there is an object at a path in every input, so that nothing can be told by its presence alone.
fn is_there(path: &str) -> bool {
    let mut shape = &contract::INPUT;
    for key in path.split('.').skip(1) {
        let Shape::Table(facts) = shape else { return false };
        let Some(fact) = facts.iter().find(|fact| fact.key == key && fact.when.is_none()) else { return false };
        shape = &fact.shape;
    }
    matches!(shape, Shape::Table(_) | Shape::Open(_) | Shape::Headers(_))
}

#[cfg(test)]
mod tests;
