//! Masks and drops that are written out, and mask nothing: a path that no record has, a form that is none.
//!
//! In: rules of `package system.log`. Out: problems with their places. What is worked out is read when it is there.

use super::event::EVENT;
use super::{DROP, MASK};
use crate::document::{Problems, nearest};
use crate::policy::at;
use crate::policy::contract::{INPUT, Shape};
use crate::policy::syntax::{File, is_literal, name, place, text};
use regorus::unstable::{Expr, Rule, RuleHead};

/// A form that is right, for those that are not.
const FORMS: &str = "write a path such as `\"/input/request/query/token\"`, or `{\"op\": \"remove\", \"path\": …}`, or \
                     `{\"op\": \"upsert\", \"path\": …, \"value\": …}`";

pub(super) fn look(files: &[File], problems: &mut Problems) {
    for (file, rule) in files.iter().flat_map(|file| file.module.policy.iter().map(move |rule| (file, rule))) {
        let mut wrong = |expr: &Expr, reason: String, fix: &str| {
            let (line, column) = place(expr.span());
            problems.push(at(&file.path, line, column, reason, Some(fix)));
        };
        let name = name(file, rule);
        let (key, values) = match &**rule {
            Rule::Default { value, .. } => (None, vec![&**value]),
            Rule::Spec { head: RuleHead::Set { key, .. }, .. } => (key.as_deref(), Vec::new()),
            Rule::Spec { head: RuleHead::Compr { assign, .. }, bodies, .. } => {
                let others = bodies.iter().filter_map(|body| body.assign.as_ref());
                (None, assign.iter().chain(others).map(|assign| &*assign.value).collect())
            }
            Rule::Spec { head: RuleHead::Func { .. }, .. } => continue,
        };
        match name.as_deref() {
            Some(MASK) => {
                key.into_iter().for_each(|key| item(key, &mut wrong));
                for value in values {
                    match value {
                        Expr::Array { items, .. } | Expr::Set { items, .. } => {
                            items.iter().for_each(|one| item(one, &mut wrong));
                        }
                        other if is_literal(other) => {
                            wrong(other, "`mask` is neither a set nor a list".into(), "write `mask contains …`");
                        }
                        _ => {}
                    }
                }
            }
            Some(DROP) => {
                let not = |expr: &&Expr| !matches!(expr, Expr::Bool { .. }) && is_literal(expr);
                for value in key.into_iter().chain(values.into_iter().filter(not)) {
                    wrong(value, "`drop` is true or false".into(), "write `drop if { … }`");
                }
            }
            _ => {}
        }
    }
}

/// One mask.
fn item(expr: &Expr, wrong: &mut impl FnMut(&Expr, String, &str)) {
    let Expr::Object { fields, .. } = expr else {
        return match text(expr) {
            Some(_) => path(expr, wrong),
            None if is_literal(expr) => wrong(expr, "this is neither a path nor an object".into(), FORMS),
            None => {}
        };
    };
    if fields.iter().any(|(_, key, _)| text(key).is_none()) {
        return;
    }
    let of = |name: &str| fields.iter().find(|(_, key, _)| text(key) == Some(name)).map(|(.., value)| &**value);
    match of("op") {
        None => wrong(expr, "a mask that is an object has an `op`".into(), FORMS),
        Some(op) if is_literal(op) && !matches!(text(op), Some("remove" | "upsert")) => {
            wrong(op, "`op` is neither `remove` nor `upsert`".into(), FORMS);
        }
        Some(_) => {}
    }
    match of("path") {
        None => wrong(expr, "a mask that is an object has a `path`".into(), FORMS),
        Some(value) if is_literal(value) => path(value, wrong),
        Some(_) => {}
    }
}

/// A path that is written out.
fn path(expr: &Expr, wrong: &mut impl FnMut(&Expr, String, &str)) {
    let Some(written) = text(expr) else { return wrong(expr, "a path is a text".into(), FORMS) };
    let shown = written.escape_debug();
    let Some(parts) = written.strip_prefix('/') else {
        let fix = format!("write `/{}`", shown.to_string().replace('.', "/"));
        return wrong(expr, format!("the path `{shown}` does not begin with `/`"), &fix);
    };
    let (mut shape, mut above): (&'static Shape, _) = (&EVENT, String::new());
    for (n, part) in parts.split('/').enumerate() {
        let key = part.replace("~1", "/").replace("~0", "~");
        let next = match shape {
            _ if n == 0 && !super::MASKED.contains(&part) => None,
            Shape::List(item) => part.parse::<usize>().ok().map(|_| *item),
            Shape::Headers(_) if key.chars().any(char::is_uppercase) => None,
            shape => shape.key(&key),
        };
        let Some(next) = next else {
            let fix = match shape {
                _ if n == 0 && INPUT.key(&key).is_some() => format!("write `/input/{}`", parts.escape_debug()),
                _ if n == 0 => "a path begins with `/input` or `/result`".to_owned(),
                Shape::List(_) => "the parts of a list are `0`, `1`, …".to_owned(),
                Shape::Headers(_) => format!("write `{}`", key.to_lowercase().escape_debug()),
                shape => match nearest(&key, shape.keys()) {
                    Some(near) => format!("did you mean `{above}/{near}`?"),
                    None if shape.keys().next().is_some() => {
                        format!("`{above}` has {}", shape.keys().collect::<Vec<_>>().join(", "))
                    }
                    None => format!("there is nothing below `{above}`"),
                },
            };
            return wrong(expr, format!("no record has `{above}/{}`", part.escape_debug()), &fix);
        };
        shape = next;
        above.push('/');
        above.extend(part.escape_debug());
    }
}
