//! Names that may stand for nothing, with which the serving engine would carry on where Rego stops.

use super::{AssignOp, BTreeSet, Expr, HashMap, Literal, Looked, Problems, Query, Rule, Shape, variables};
use crate::policy::syntax::{dotted, heads, queries, reference, variable};
use regorus::unstable::{ArithOp, RuleHead};

impl Looked<'_> {
    /// After `x := …` from something absent the machine carries on, where Rego stops. That makes no difference where `x` is
    /// used, because what uses it does not hold either; but it does where it is not, or only below `not` or inside a
    /// comprehension or `every`.
    pub(super) fn absent(&self, rule: &Rule, problems: &mut Problems) {
        let Rule::Spec { head, bodies, .. } = rule else { return };
        let outer: BTreeSet<*const Query> = bodies.iter().map(|body| std::ptr::from_ref(&*body.query)).collect();
        let mut present: BTreeSet<&str> = BTreeSet::new();
        if let RuleHead::Func { args, .. } = head {
            args.iter().for_each(|arg| variables(arg, &mut present));
        }
        for query in queries(rule) {
            let mut asked = asked(query);
            if outer.contains(&std::ptr::from_ref(query)) {
                heads(rule).into_iter().for_each(|head| variables(head, &mut asked.names));
            }
            let asked = asked.all();
            for statement in &query.stmts {
                if let Literal::SomeIn { key, value, .. } = &statement.literal {
                    key.iter().map(|key| &**key).chain([&**value]).for_each(|name| variables(name, &mut present));
                }
            }
            for statement in &query.stmts {
                let Literal::Expr { expr, .. } = &statement.literal else { continue };
                let Expr::AssignExpr { op: AssignOp::ColEq, lhs, rhs, .. } = &**expr else { continue };
                let Some(name) = variable(lhs) else { continue };
                if !self.may_be_absent(rhs, &present) {
                    present.insert(name);
                } else if !asked.contains(name) {
                    let reason = format!(
                        "`{name}` may be undefined, and nothing here fails when it is: it is not used, or only below `not` or \
                         inside a comprehension or `every`. The serving engine would carry on where Rego stops"
                    );
                    let fix = "name the fact itself where it is needed, or ask for it as well: add `NAME != null`";
                    problems.push(self.wrong(lhs.span(), reason, Some(&fix.replace("NAME", name))));
                }
            }
        }
    }

    fn may_be_absent(&self, expr: &Expr, present: &BTreeSet<&str>) -> bool {
        let absent = |expr: &Expr| self.may_be_absent(expr, present);
        match expr {
            Expr::String { .. }
            | Expr::RawString { .. }
            | Expr::Number { .. }
            | Expr::Bool { .. }
            | Expr::Null { .. }
            | Expr::ArrayCompr { .. }
            | Expr::SetCompr { .. }
            | Expr::ObjectCompr { .. } => false,
            Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. } => {
                let local = variable(expr).is_some_and(|name| present.contains(name));
                let set = || dotted(expr).is_some_and(|path| self.rules.sets.contains(&self.file.absolute(&path)));
                !local && !set()
            }
            Expr::Array { items, .. } | Expr::Set { items, .. } => items.iter().any(|item| absent(item)),
            Expr::Object { fields, .. } => fields.iter().any(|(_, key, value)| absent(key) || absent(value)),
            // A division may have no value.
            Expr::ArithExpr { op: ArithOp::Add | ArithOp::Sub | ArithOp::Mul, lhs, rhs, .. }
            | Expr::BinExpr { lhs, rhs, .. } => absent(lhs) || absent(rhs),
            Expr::Call { fcn, params, .. } => match dotted(fcn).as_deref() {
                Some("count" | "sort") => params.iter().any(|one| absent(one)),
                // Labels, header fields and the like are there, if empty.
                Some("object.get") => match params.as_slice() {
                    [of, _, default] => (absent(of) && !self.always_there(of)) || absent(default),
                    _ => true,
                },
                _ => true,
            },
            _ => true,
        }
    }

    fn always_there(&self, expr: &Expr) -> bool {
        self.shape(expr, &HashMap::new()).is_some_and(Shape::is_open)
            && dotted(expr).is_some_and(|path| path.starts_with("input.") && !path.ends_with(".params"))
    }
}

/// What a query asks for, and which names stand for which others.
struct Asked<'e> {
    names: BTreeSet<&'e str>,
    /// A name, and what it is another name of.
    plain: Vec<(&'e str, &'e str)>,
}

impl<'e> Asked<'e> {
    /// Every name without which the query does not hold.
    fn all(self) -> BTreeSet<&'e str> {
        let mut of: HashMap<&str, Vec<&'e str>> = HashMap::new();
        for (name, root) in &self.plain {
            of.entry(name).or_default().push(root);
        }
        let mut all = self.names;
        let mut waiting: Vec<&str> = all.iter().copied().collect();
        while let Some(name) = waiting.pop() {
            for root in of.remove(name).unwrap_or_default() {
                if all.insert(root) {
                    waiting.push(root);
                }
            }
        }
        all
    }
}

/// The names that statements of a query fail without.
fn asked(query: &Query) -> Asked<'_> {
    let mut asked = Asked { names: BTreeSet::new(), plain: Vec::new() };
    for statement in &query.stmts {
        match &statement.literal {
            Literal::NotExpr { .. } | Literal::SomeVars { .. } => {}
            Literal::Expr { expr, .. } => match &**expr {
                Expr::AssignExpr { op: AssignOp::ColEq, lhs, rhs, .. } => match (variable(lhs), reference(rhs)) {
                    // It goes on as another name, which is asked for or is not.
                    (Some(name), Some(_)) => {
                        let mut roots = BTreeSet::new();
                        variables(rhs, &mut roots);
                        asked.plain.extend(roots.into_iter().map(|root| (name, root)));
                    }
                    _ => variables(rhs, &mut asked.names),
                },
                other => variables(other, &mut asked.names),
            },
            Literal::SomeIn { collection, .. } => variables(collection, &mut asked.names),
            Literal::Every { domain, .. } => variables(domain, &mut asked.names),
        }
    }
    asked
}
