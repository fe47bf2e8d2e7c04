//! Comparisons and calls that can never hold, because a fact is never of that type, or never that value.

use super::{Looked, Mention, Problem, Problems, Rule, Shape, each, queries, text};
use crate::document::nearest;
use crate::policy::builtins;
use crate::policy::syntax::{AssignOp, dotted, spelled};
use regorus::Value;
use regorus::unstable::{BoolOp, Expr, Literal};
use std::collections::HashMap;

/// The type of a value, as far as Rego tells them apart.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Number,
    Boolean,
    Null,
    List,
    Set,
    Object,
}

impl Kind {
    fn named(self) -> &'static str {
        match self {
            Kind::Text => "a text",
            Kind::Number => "a number",
            Kind::Boolean => "a boolean",
            Kind::Null => "null",
            Kind::List => "a list",
            Kind::Set => "a set",
            Kind::Object => "an object",
        }
    }

    /// Of a fact; `None` where it may be of several.
    fn of(shape: &Shape) -> Option<Kind> {
        match shape {
            Shape::Text | Shape::Name(_) | Shape::OneOf(_) => Some(Kind::Text),
            Shape::Whole | Shape::Within(..) => Some(Kind::Number),
            Shape::Open(_) | Shape::Headers(_) | Shape::Table(_) => Some(Kind::Object),
            Shape::List(_) => Some(Kind::List),
            Shape::Condition | Shape::Unknown => None,
        }
    }
}

/// Of what is written out.
pub(super) fn literal(expr: &Expr) -> Option<Kind> {
    match expr {
        Expr::String { .. } | Expr::RawString { .. } => Some(Kind::Text),
        Expr::Number { .. } => Some(Kind::Number),
        Expr::Bool { .. } => Some(Kind::Boolean),
        Expr::Null { .. } => Some(Kind::Null),
        Expr::Array { .. } | Expr::ArrayCompr { .. } => Some(Kind::List),
        Expr::Set { .. } | Expr::SetCompr { .. } => Some(Kind::Set),
        Expr::Object { .. } | Expr::ObjectCompr { .. } => Some(Kind::Object),
        _ => None,
    }
}

type Known = HashMap<String, &'static Shape>;

/// How two values are compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Equal,
    Unequal,
    Ordered,
    /// One is looked for among others.
    Among,
}

impl Looked<'_> {
    pub(super) fn types(&self, rule: &Rule, known: &Known, mentions: &mut Vec<Mention>, problems: &mut Problems) {
        let mut comparing = Comparing { looked: self, known, mentions, found: Vec::new() };
        for statement in queries(rule).into_iter().flat_map(|query| &query.stmts) {
            if let Literal::SomeIn { collection, .. } = &statement.literal {
                comparing.is_collection(collection);
            }
        }
        each(rule, &mut |expr| {
            comparing.look(expr);
            true
        });
        comparing.found.into_iter().for_each(|problem| problems.push(problem));
    }
}

/// Looks at the expressions of one rule.
struct Comparing<'l, 'm> {
    looked: &'l Looked<'l>,
    known: &'l Known,
    mentions: &'m mut Vec<Mention>,
    found: Vec<Problem>,
}

impl Comparing<'_, '_> {
    fn look(&mut self, expr: &Expr) {
        match expr {
            Expr::BoolExpr { op, lhs, rhs, .. } => {
                let how = match op {
                    BoolOp::Eq => How::Equal,
                    BoolOp::Ne => How::Unequal,
                    BoolOp::Lt | BoolOp::Le | BoolOp::Gt | BoolOp::Ge => How::Ordered,
                };
                self.compare(how, lhs, rhs);
            }
            Expr::AssignExpr { op: AssignOp::Eq, lhs, rhs, .. } => self.compare(How::Equal, lhs, rhs),
            Expr::Membership { value, collection, .. } => self.member(value, collection),
            Expr::Call { fcn, params, .. } => {
                let file = self.looked.file;
                let own = |name: &String| self.looked.rules.functions.contains(&file.absolute(name));
                let Some(called) = dotted(fcn).filter(|name| !own(name)) else { return };
                let takes = builtins::takes(&called).unwrap_or_default().chars();
                params.iter().zip(takes).for_each(|(param, takes)| self.argument(&called, takes, param));
            }
            _ => {}
        }
    }

    fn shape(&self, expr: &Expr) -> Option<&'static Shape> {
        self.looked.shape(expr, self.known)
    }

    fn kind(&self, expr: &Expr) -> Option<Kind> {
        literal(expr).or_else(|| Kind::of(self.shape(expr)?))
    }

    fn compare(&mut self, how: How, lhs: &Expr, rhs: &Expr) {
        for (fact, other) in [(lhs, rhs), (rhs, lhs)] {
            let Some(shape) = self.shape(fact) else { continue };
            let before = self.found.len();
            self.fit(spelled(fact), shape, how, other);
            if self.found.len() > before {
                return;
            }
        }
    }

    /// `value in collection`.
    fn member(&mut self, value: &Expr, collection: &Expr) {
        match self.shape(collection).and_then(Shape::item) {
            Some(item) => self.fit(&format!("{}[_]", spelled(collection)), item, How::Among, value),
            None => self.is_collection(collection),
        }
        let Some(shape) = self.shape(value) else { return };
        let items: Vec<&Expr> = match collection {
            Expr::Array { items, .. } | Expr::Set { items, .. } => items.iter().map(|item| &**item).collect(),
            Expr::Object { fields, .. } => fields.iter().map(|(.., value)| &**value).collect(),
            _ => return,
        };
        items.into_iter().for_each(|item| self.fit(spelled(value), shape, How::Among, item));
    }

    fn is_collection(&mut self, expr: &Expr) {
        let Some(shape) = self.shape(expr) else { return };
        if matches!(Kind::of(shape), Some(Kind::Text | Kind::Number)) {
            let reason = format!("there is nothing in `{}`; it is: {}", spelled(expr), shape.named());
            self.found.push(self.looked.wrong(expr.span(), reason, Some("compare it with `==`")));
        }
    }

    /// Whether a fact can be what it is compared with.
    fn fit(&mut self, fact: &str, shape: &Shape, how: How, other: &Expr) {
        if let (Shape::Name(listed), Some(name)) = (shape, text(other)) {
            self.mentions.push(self.looked.mention(*listed, name, other.span()));
        }
        let (Some(is), Some(with)) = (Kind::of(shape), self.kind(other)) else { return };
        let (written, named) = (spelled(other), shape.named());
        let never = format!("`{fact}` is never `{written}`; it is: {named}");
        let (reason, fix) = if with == Kind::Null {
            let reason = format!("`{fact}` is never null: what is not there is undefined");
            (reason, Some(format!("write `not {fact}` for what is not there")))
        } else if is != with {
            let fix = match (is, with) {
                (Kind::Number, Kind::Text) => text(other).filter(|text| text.parse::<i64>().is_ok()).map(str::to_owned),
                (Kind::Text, Kind::Number) => Some(format!("\"{written}\"")),
                (Kind::List, Kind::Text) if how == How::Equal => Some(format!("{written} in {fact}")),
                (Kind::List, Kind::Text) if how == How::Unequal => Some(format!("not {written} in {fact}")),
                _ => None,
            };
            let reason = format!("`{fact}` cannot be compared with {}; it is: {named}", with.named());
            (reason, fix.map(|fix| format!("write `{fix}`")))
        } else {
            match (shape, other) {
                (Shape::OneOf(texts), _) if text(other).is_some_and(|said| !texts.contains(&said)) => {
                    let said = text(other).unwrap_or_default();
                    let same = texts.iter().copied().find(|one| one.eq_ignore_ascii_case(said));
                    let near = same.or_else(|| nearest(said, texts.iter().copied()));
                    (never, near.map(|near| format!("did you mean `{near}`?")))
                }
                // A rule may be ready for the next version of the contract.
                (Shape::Within(least, most), Expr::Number { value: Value::Number(n), .. })
                    if least < most && n.as_i64().is_none_or(|n| n < *least || n > *most) =>
                {
                    (never, None)
                }
                _ => return,
            }
        };
        // What is there is not null, and smaller or larger than what it never is.
        let asked = match with {
            Kind::Null => how != How::Unequal,
            _ => is != with || how != How::Ordered,
        };
        if asked {
            self.found.push(self.looked.wrong(other.span(), reason, fix.as_deref()));
        }
    }

    /// An argument of a builtin, of which `takes` says what it has to be.
    fn argument(&mut self, called: &str, takes: char, param: &Expr) {
        let takes = match takes {
            't' => Kind::Text,
            'n' => Kind::Number,
            _ => return,
        };
        let Some(is) = self.kind(param).filter(|is| *is != takes) else { return };
        let reason = format!("`{called}` takes {} here, and `{}` is {}", takes.named(), spelled(param), is.named());
        let fix = (is == Kind::List).then_some("take one of them: `some x in …`");
        self.found.push(self.looked.wrong(param.span(), reason, fix));
    }
}
