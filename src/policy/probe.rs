//! How far the body of a rule comes, and what its conditions see: each of its statements becomes a rule of its own, with those
//! before it. The first that does not hold, in the order in which they are written, is why the body does not.
//!
//! In: the syntax tree, and what asks an engine that was given the rules made here with the file. Out: a [`Failure`].

use super::syntax::{self, LiteralStmt, place, spelled, written};
use regorus::Value;
use regorus::unstable::{Expr, Literal, RuleBody};

/// Values of one part of a condition that are shown.
const VALUES: usize = 10;
/// Characters of a value that are shown.
const SHOWN: usize = 400;

/// What parts of a condition were: each as it is written, and the values that came up; none where it was undefined.
pub type Seen = Vec<(String, Vec<String>)>;

/// A condition that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub line: u32,
    pub column: u32,
    /// As it is written.
    pub statement: String,
    pub seen: Seen,
}

/// Rules that look into a body. Their names begin with what makes the body recognisable.
pub(super) struct Probes {
    /// One for each statement.
    pub holds: String,
    /// One for each part of each; these may not stand by themselves.
    pub values: String,
}

pub(super) fn probes(mark: &str, body: &RuleBody) -> Probes {
    let mut probes = Probes { holds: String::new(), values: String::new() };
    let statements = &body.query.stmts;
    for (n, statement) in statements.iter().enumerate() {
        let before: Vec<&str> = statements.iter().take(n).map(|before| written(&before.span)).collect();
        let before = before.join("\n");
        let own = written(&statement.span);
        probes.holds.push_str(&format!("\npgx_{mark}_{n} if {{\ntrue\n{before}\n{own}\n}}\n"));
        let with: Vec<&str> = statement.with_mods.iter().map(|with| written(&with.span)).collect();
        let with = with.join("\n");
        for (k, part) in parts(statement).into_iter().enumerate() {
            let part = spelled(part);
            let body = format!("true\n{before}\npgv = ({part})\n{with}");
            probes.values.push_str(&format!("\npgx_{mark}_{n}_{k} contains pgv if {{\n{body}\n}}\n"));
        }
    }
    probes
}

/// What a rule is; undefined where it fails.
pub(super) type Ask<'a> = &'a mut dyn FnMut(String) -> Result<Value, NoTime>;

/// There was no time to ask: nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoTime;

/// The first statement of a body that does not hold, by its place among them. `None` where all do.
pub(super) fn failure(
    ask: Ask<'_>,
    package: &str,
    mark: &str,
    body: &RuleBody,
) -> Result<Option<(usize, Failure)>, NoTime> {
    for (n, statement) in body.query.stmts.iter().enumerate() {
        if ask(format!("{package}.pgx_{mark}_{n}"))? == Value::Bool(true) {
            continue;
        }
        let (line, column) = place(&statement.span);
        let seen = seen(ask, package, mark, n, statement);
        return Ok(Some((n, Failure { line, column, statement: written(&statement.span).to_owned(), seen })));
    }
    Ok(None)
}

/// What a statement of a body sees.
pub(super) fn seen(ask: Ask<'_>, package: &str, mark: &str, n: usize, statement: &LiteralStmt) -> Seen {
    let parts = parts(statement).into_iter().enumerate().map(|(k, part)| {
        let values = match ask(format!("{package}.pgx_{mark}_{n}_{k}")) {
            Ok(Value::Set(values)) => values.iter_sorted().take(VALUES).map(shown).collect(),
            _ => Vec::new(),
        };
        (spelled(part).to_owned(), values)
    });
    parts.collect()
}

/// What a condition compares or looks at, without what is written out.
fn parts(statement: &LiteralStmt) -> Vec<&Expr> {
    let all: Vec<&Expr> = match &statement.literal {
        Literal::SomeVars { .. } => Vec::new(),
        Literal::SomeIn { collection, .. } => vec![collection],
        Literal::Every { domain, .. } => vec![domain],
        Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => match &**expr {
            Expr::BoolExpr { lhs, rhs, .. } => vec![lhs, rhs],
            Expr::AssignExpr { rhs, .. } => vec![rhs],
            Expr::Membership { value, collection, .. } => vec![value, collection],
            Expr::Call { params, .. } => params.iter().map(|param| &**param).collect(),
            other => vec![other],
        },
    };
    all.into_iter().filter(|expr| !is_written_out(expr)).collect()
}

/// Whether all of an expression's value can be read in it.
fn is_written_out(expr: &Expr) -> bool {
    let mut all = true;
    syntax::walk(expr, &mut |expr| {
        all &= syntax::is_literal(expr) || matches!(expr, Expr::UnaryExpr { .. });
        all
    });
    all
}

/// A value as Rego writes it, not longer than can be read.
pub(super) fn shown(value: &Value) -> String {
    let mut text = String::new();
    write_rego(value, &mut text);
    if text.chars().count() <= SHOWN { text } else { format!("{}…", text.chars().take(SHOWN).collect::<String>()) }
}

fn write_rego(value: &Value, out: &mut String) {
    // Much more than is shown need not be written.
    if out.len() > 8 * SHOWN {
        return;
    }
    let list = |values: &mut dyn Iterator<Item = &Value>, out: &mut String| {
        for (n, value) in values.take(8 * SHOWN).enumerate() {
            out.push_str(if n > 0 { ", " } else { "" });
            write_rego(value, out);
        }
    };
    match value {
        Value::Set(set) if set.is_empty() => out.push_str("set()"),
        Value::Set(set) => {
            out.push('{');
            list(&mut set.iter_sorted(), out);
            out.push('}');
        }
        Value::Array(values) => {
            out.push('[');
            list(&mut values.iter(), out);
            out.push(']');
        }
        Value::Object(object) => {
            out.push('{');
            for (n, (key, value)) in object.iter_sorted().take(8 * SHOWN).enumerate() {
                out.push_str(if n > 0 { ", " } else { "" });
                write_rego(key, out);
                out.push_str(": ");
                write_rego(value, out);
            }
            out.push('}');
        }
        Value::String(text) if text.len() > 8 * SHOWN => {
            out.push_str(&Value::from(text.chars().take(2 * SHOWN).collect::<String>()).to_string());
        }
        other => out.push_str(&other.to_string()),
    }
}
