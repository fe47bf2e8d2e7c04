//! Rules that stand where nobody asks for them, or where they would be asked for something else, and references to what nobody has
//! written.

use super::{
    CUSTOM, File, For, Key, Looked, Problem, Problems, Rule, RuleHead, all, at, base, is_name_of, outermost, place,
    refr, text, warned,
};
use crate::document::nearest;
use crate::policy::syntax::{declared, reference, references};
use regorus::Value;
use regorus::unstable::Expr;
use std::collections::{BTreeMap, BTreeSet};

/// Names that are meant for the set of denials.
const LIKE_DENY: &[&str] = &["deny", "denies", "denied", "denial", "denials"];

fn in_package(package: &str, root: &str) -> bool {
    package.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Which packages the files of a folder may be of: what lies in `custom/` may only add denials, and nothing else may reach into
/// the shipped library, where there is one. Tests are not served.
pub(in crate::policy) fn packages(files: &[File], library: bool, problems: &mut Problems) {
    for file in files {
        let (path, of) = (file.path.as_str(), |root: &str| in_package(&file.package, root));
        let package = file.package.strip_prefix("data.").unwrap_or_default();
        let (line, column) = place(&file.module.package.span);
        let wrong = |reason: String, fix: &str| at(path, line, column, reason, Some(fix));
        if path.starts_with("custom/") && !of(CUSTOM) {
            let fix = if of("data.system") {
                "put the file into another folder, such as `system/`"
            } else {
                "write `package partnergate.custom`: denials count there alone; what they use may be in a package below it"
            };
            problems.push(wrong(format!("`package {package}` is declared in the folder of custom rules"), fix));
        } else if library && of("data.partnergate") && !["custom/", "partnergate/"].iter().any(|f| path.starts_with(f))
        {
            let reason =
                format!("`package {package}` is declared outside of the shipped library, which it would alter");
            let fix =
                "denials go into `custom/`, in `package partnergate.custom`; for other rules choose another package";
            problems.push(wrong(reason, fix));
        } else if !of("data.system.log") && (of("data.system") || path.starts_with("system/")) {
            let reason = format!("rules of `package {package}` say nothing about records");
            problems.push(warned(wrong(reason, "masks are rules of `package system.log`")));
        }
    }
}

/// What the definitions of a rule make it.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Value,
    Set,
    Object,
}

impl Form {
    fn named(self) -> &'static str {
        match self {
            Form::Value => "one value",
            Form::Set => "a set",
            Form::Object => "an object",
        }
    }
}

/// All definitions of a rule have one form.
pub(super) fn forms(files: &[File], problems: &mut Problems) {
    let mut first: BTreeMap<String, (Form, String)> = BTreeMap::new();
    for (file, rule) in all(files) {
        let Some(name) = base(file, rule) else { continue };
        let computed = |refr: &Expr| {
            reference(refr).is_some_and(|(_, keys)| keys.iter().any(|key| matches!(key, Key::Computed(_))))
        };
        let form = match rule {
            Rule::Spec { head: RuleHead::Set { .. }, .. } => Form::Set,
            Rule::Spec { head: RuleHead::Compr { refr, .. }, .. } if computed(refr) => Form::Object,
            Rule::Spec { head: RuleHead::Compr { .. }, .. } => Form::Value,
            _ => continue,
        };
        let (line, column) = place(refr(rule).span());
        // `deny["x"] if …` is a part of `deny`.
        let above = name.rsplit_once('.').and_then(|(above, _)| first.get_key_value(above));
        let above = above.filter(|(_, (form, _))| *form == Form::Set);
        let (name, form) = above.map_or((name.as_str(), form), |(above, _)| (above.as_str(), Form::Object));
        match first.get(name) {
            Some((other, there)) if *other != form => {
                let short = name.rsplit('.').next().unwrap_or(name);
                let reason = format!("`{short}` is {} at {there}, and {} here", other.named(), form.named());
                let fix = match other {
                    Form::Set if name == format!("{CUSTOM}.deny") => {
                        "write `deny contains {\"reason\": \"x-…\"} if …`".to_owned()
                    }
                    Form::Set => format!("write `{short} contains … if …`"),
                    _ => "write it in one form everywhere, or choose another name".to_owned(),
                };
                problems.push(at(&file.path, line, column, reason, Some(&fix)));
            }
            Some(_) => {}
            None => drop(first.insert(name.to_owned(), (form, format!("{}:{line}", file.path)))),
        }
    }
}

impl Looked<'_> {
    /// Denials under another name than that which is asked, what looks as if it allowed, and tests among what is served.
    pub(super) fn unasked(&self, rule: &Rule, problems: &mut Problems) {
        let (Rule::Spec { head, .. }, Some(full)) = (rule, base(self.file, rule)) else { return };
        let last = full.rsplit('.').next().unwrap_or(&full);
        if last.starts_with("test_") {
            let reason = format!("the test `{last}` is in a file that is served");
            let fix = "put it into a file whose name ends in `_test.rego`";
            problems.push(warned(self.wrong(refr(rule).span(), reason, Some(fix))));
        }
        let For::Decisions { library: true, .. } = self.of else { return };
        let Some(own) = full.strip_prefix(CUSTOM).and_then(|rest| rest.strip_prefix('.')) else { return };
        if own == "deny" {
            return;
        }
        let gives_reason = matches!(head, RuleHead::Set { key: Some(key), .. }
            if matches!(&**key, Expr::Object { fields, .. } if fields.iter().any(|(_, key, _)| text(key) == Some("reason"))));
        let like = LIKE_DENY.contains(&last.to_lowercase().as_str());
        let asked = self.rules.referred.contains(&full) || is_above(&full, &self.rules.referred);
        if last == "deny" || (!asked && (like || gives_reason)) {
            let reason = format!(
                "nothing asks for `{own}`: denials count in the set `deny` of `package partnergate.custom` alone"
            );
            let fix = "write `package partnergate.custom` and `deny contains {\"reason\": \"x-…\"} if …`";
            problems.push(self.wrong(refr(rule).span(), reason, Some(fix)));
        } else if !asked && matches!(last, "allow" | "decision") {
            let reason = format!("`{own}` opens nothing: custom rules only deny");
            let fix = "take it out, or deny the opposite: `deny contains {\"reason\": \"x-…\"} if not …`";
            problems.push(warned(self.wrong(refr(rule).span(), reason, Some(fix))));
        }
    }

    /// Rules and data that are named, and that there are not.
    pub(super) fn data(&self, rule: &Rule, problems: &mut Problems) {
        let own = declared(rule);
        for expr in outermost(rule).into_iter().filter(|expr| !is_name_of(expr, rule)) {
            references(expr, &mut |expr, root, keys| {
                let path = match self.file.imports.get(root) {
                    Some(path) if !own.contains(&root) => path.as_str(),
                    _ => root,
                };
                let mut steps: Vec<&str> = path.split('.').collect();
                if steps.first() != Some(&"data") {
                    return;
                }
                steps.extend(keys.iter().map_while(|key| match key {
                    Key::Name(name, _) => Some(*name),
                    Key::Computed(_) => None,
                }));
                let computed = keys.iter().any(|key| matches!(key, Key::Computed(_)));
                self.missing(expr, &steps, computed).into_iter().for_each(|problem| problems.push(problem));
            });
        }
    }

    fn missing(&self, expr: &Expr, steps: &[&str], computed: bool) -> Option<Problem> {
        let (path, names) = (steps.join("."), &self.rules.names);
        let shown = path.escape_debug();
        if is_above(&path, names) {
            let reason = match computed {
                true => format!("`{shown}[…]` asks for a rule by a computed name, which could be any of the package"),
                false => format!("`{shown}` asks for a whole package"),
            };
            return Some(self.wrong(expr.span(), reason, Some("name the rule")));
        }
        if (1..=steps.len()).any(|n| steps.get(..n).is_some_and(|steps| names.contains(&steps.join(".")))) {
            return None;
        }
        let mut there = self.data;
        let (step, beside) = steps.iter().skip(1).find_map(|step| {
            let Value::Object(object) = there else { return Some((step, None)) };
            match object.get(&Value::from(*step)) {
                Some(next) => there = next,
                None => return Some((step, Some(object))),
            }
            None
        })?;
        let keys = beside.into_iter().flat_map(|object| object.iter()).filter_map(|(key, _)| match key {
            Value::String(key) => Some(&**key),
            _ => None,
        });
        let above = format!("{}.", path.rsplit_once('.').map_or("", |(above, _)| above));
        let rules = names.range(above.clone()..).map_while(|name| name.strip_prefix(&above));
        let near = nearest(step, keys).or_else(|| nearest(steps.last()?, rules));
        let fix = match (near, self.of) {
            (Some(near), _) => format!("did you mean `{near}`?"),
            (None, For::Decisions { .. }) => {
                "write the rule, or the data file; what may be missing is asked with `object.get(…, …, …)`".to_owned()
            }
            (None, For::Records(_)) => {
                "rules of other packages are not asked about records; what they decided is in `input.result`".to_owned()
            }
        };
        Some(self.wrong(expr.span(), format!("there is neither a rule nor data of the name `{shown}`"), Some(&fix)))
    }
}

/// Whether a set has a path below this one.
fn is_above(path: &str, paths: &BTreeSet<String>) -> bool {
    let path = format!("{path}.");
    paths.range(path.clone()..).next().is_some_and(|first| first.starts_with(&path))
}
