//! The text of a Rego file as its syntax tree: the one place that uses regorus' parser, whose types may change with a version.

use regorus::unstable::{
    Expr, Lexer, Literal, Module, Query, Ref, Rule, RuleHead, Source, Span, TokenKind, WithModifier,
};
use regorus::{Engine, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Range, RangeInclusive};

pub(super) use regorus::unstable::{AssignOp, LiteralStmt};

/// A file that is served.
pub(super) struct File {
    pub path: String,
    /// `data.a.b`.
    pub package: String,
    pub module: Ref<Module>,
    /// What `import` gives a name to, as a dotted path.
    pub imports: BTreeMap<String, String>,
}

/// A step of a reference.
pub(super) enum Key<'e> {
    Name(&'e str, &'e Span),
    Computed(&'e Expr),
}

/// The files that an engine has been given.
pub(super) fn files(engine: &mut Engine) -> Vec<File> {
    engine.get_modules().iter().filter_map(|module| file(module.clone())).collect()
}

/// `None` where the package has a name that is worked out, which the parser does not permit.
fn file(module: Ref<Module>) -> Option<File> {
    let path = module.package.span.source.get_path().to_string();
    let package = format!("data.{}", dotted(&module.package.refr)?);
    let mut imports = BTreeMap::new();
    for import in &module.imports {
        let Some(path) = dotted(&import.refr) else { continue };
        let last = path.rsplit('.').next().unwrap_or_default().to_owned();
        let name = import.r#as.as_ref().map_or(last, |alias| alias.text().to_owned());
        imports.insert(name, path);
    }
    Some(File { path, package, module, imports })
}

/// Where a node lies in its file's text, in bytes. The quotes of a text lie outside its span, and so outside the spans of all
/// that begins or ends with it.
pub(super) fn extent(span: &Span) -> Range<usize> {
    let text = span.source.get_contents().as_bytes();
    let (mut start, mut end) =
        (usize::try_from(span.start).unwrap_or_default(), usize::try_from(span.end).unwrap_or_default());
    let is_quote = |at: usize| matches!(text.get(at), Some(b'"' | b'`'));
    if start > 0 && is_quote(start - 1) {
        start -= 1;
    }
    if is_quote(end) {
        end += 1;
    }
    start..end
}

/// The text of a node.
pub(super) fn written(span: &Span) -> &str {
    span.source.get_contents().get(extent(span)).unwrap_or_default()
}

/// The text of an expression. That of an object does not begin where its span says.
pub(super) fn spelled(expr: &Expr) -> &str {
    let (span, Expr::Object { fields, .. }) = (expr.span(), expr) else { return written(expr.span()) };
    let text = span.source.get_contents();
    let first = fields.first().map_or_else(|| extent(span).start, |(_, key, _)| extent(key.span()).start);
    let start = text.get(..first).and_then(|before| before.rfind('{')).unwrap_or(first);
    text.get(start..extent(span).end).unwrap_or_default()
}

/// The text of what a `with` puts in the place of its target.
pub(super) fn replacement(with: &WithModifier) -> &str {
    let text = with.span.source.get_contents();
    let range = extent(with.refr.span()).end..extent(&with.span).end;
    let after = text.get(range).unwrap_or_default();
    after.split_once("as").map_or(after, |(_, value)| value).trim()
}

/// The text of what the names of an `every` are taken from.
pub(super) fn domain<'s>(value: &'s Span, query: &Query) -> &'s str {
    let range = extent(value).end..extent(&query.span).start;
    let between = value.source.get_contents().get(range).unwrap_or_default();
    between.split_once("in").map_or(between, |(_, domain)| domain).trim()
}

/// The text of a statement without its `with`.
pub(super) fn without_with(statement: &LiteralStmt) -> &str {
    let mut range = extent(&statement.span);
    if let Some(with) = statement.with_mods.first() {
        range.end = extent(&with.span).start;
    }
    statement.span.source.get_contents().get(range).unwrap_or_default().trim_end()
}

/// The package of a text, as names, without a look at what follows it.
pub(super) fn package(path: &str, text: &str) -> Option<Vec<String>> {
    let source = Source::from_contents(path.to_owned(), text.to_owned()).ok()?;
    let mut lexer = Lexer::new(&source);
    let mut next = || lexer.next_token().ok().map(|token| (token.0, token.1.text().to_owned(), token.1.start));
    let (TokenKind::Ident, word, _) = next()? else { return None };
    let (TokenKind::Ident, first, _) = next().filter(|_| word == "package")? else { return None };
    let mut names = vec![first];
    loop {
        match next()? {
            (TokenKind::Symbol, sign, _) if sign == "." => {
                let (TokenKind::Ident, name, _) = next()? else { return None };
                names.push(name);
            }
            (TokenKind::Symbol, sign, start) if sign == "[" => {
                // The parser permits no space before it: then it begins something else.
                let before = text.get(..usize::try_from(start).ok()?)?;
                if before.ends_with(char::is_whitespace) {
                    return Some(names);
                }
                let (TokenKind::String | TokenKind::RawString, name, _) = next()? else { return None };
                let closed = next().is_some_and(|(_, sign, _)| sign == "]");
                // An escape would be another name than it looks.
                if !closed || name.contains('\\') {
                    return None;
                }
                names.push(name);
            }
            _ => return Some(names),
        }
    }
}

/// Line and column in characters, from 1, of where a node begins. A span's own are those of an operator in the middle of
/// it, and count a tab as four.
pub(super) fn place(span: &Span) -> (u32, u32) {
    let before = span.source.get_contents().get(..extent(span).start).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
}

/// First and last line of a node.
pub(super) fn lines(span: &Span) -> RangeInclusive<u32> {
    let first = place(span).0;
    let more = written(span).trim_end().matches('\n').count();
    first..=first.saturating_add(u32::try_from(more).unwrap_or(u32::MAX))
}

fn text_of(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

/// The text of a node that is a text.
pub(super) fn text(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::String { value, .. } | Expr::RawString { value, .. } => text_of(value),
        _ => None,
    }
}

/// The name of a node that is a variable.
pub(super) fn variable(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Var { value, .. } => text_of(value),
        _ => None,
    }
}

/// What a reference begins with, and its steps.
pub(super) fn reference(expr: &Expr) -> Option<(&str, Vec<Key<'_>>)> {
    let mut keys = Vec::new();
    let mut at = expr;
    loop {
        match at {
            Expr::RefDot { refr, field: (span, value), .. } => {
                keys.push(Key::Name(text_of(value)?, span));
                at = refr;
            }
            Expr::RefBrack { refr, index, .. } => {
                keys.push(match text(index) {
                    Some(name) => Key::Name(name, index.span()),
                    None => Key::Computed(index),
                });
                at = refr;
            }
            other => {
                keys.reverse();
                return Some((variable(other)?, keys));
            }
        }
    }
}

/// A path, and the steps that follow it as far as they are named.
pub(super) fn named(root: &str, keys: &[Key<'_>]) -> String {
    let mut path = root.to_owned();
    for key in keys {
        let Key::Name(name, _) = key else { break };
        path.push('.');
        path.push_str(name);
    }
    path
}

/// Whether one of two dotted paths lies on the other.
pub(crate) fn overlap(a: &str, b: &str) -> bool {
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    long.strip_prefix(short).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// A reference by fixed names only, as a dotted path.
pub(super) fn dotted(expr: &Expr) -> Option<String> {
    let (root, keys) = reference(expr)?;
    let mut path = root.to_owned();
    for key in keys {
        let Key::Name(name, _) = key else { return None };
        path.push('.');
        path.push_str(name);
    }
    Some(path)
}

impl File {
    /// A path as it is from anywhere: of an import or of this package where it begins with a name of one.
    pub fn absolute(&self, path: &str) -> String {
        let (first, rest) = path.split_once('.').map_or((path, ""), |(first, rest)| (first, rest));
        match self.imports.get(first) {
            Some(imported) if rest.is_empty() => imported.clone(),
            Some(imported) => format!("{imported}.{rest}"),
            None if first == "data" => path.to_owned(),
            None => format!("{}.{path}", self.package),
        }
    }
}

/// A file's text in which these rules are blank. What is left stays in its place.
pub(super) fn without_rules(file: &File, blank: impl Fn(&str) -> bool) -> String {
    let mut text = file.module.package.span.source.get_contents().clone();
    for rule in &file.module.policy {
        let range = match &**rule {
            Rule::Spec { span, .. } | Rule::Default { span, .. } => extent(span),
        };
        if !name(file, rule).is_some_and(|name| blank(&name)) {
            continue;
        }
        let Some(old) = text.get(range.clone()) else { continue };
        // In bytes, so that other places stay right.
        let gone: String = old.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect();
        text.replace_range(range, &gone);
    }
    text
}

/// The texts of files in which names of imported packages are spelled out, where there are any. regorus' virtual machine would
/// take `custom.deny` after `import data.partnergate.custom` for all that is in the package. Lines stay what they are.
pub(super) fn spelled_out(files: &[File]) -> Option<Vec<(String, String)>> {
    let rules: Vec<String> =
        files.iter().flat_map(|file| file.module.policy.iter().filter_map(|rule| name(file, rule))).collect();
    let is_package = |path: &str| rules.iter().any(|rule| rule.starts_with(&format!("{path}.")));
    let texts: Vec<(String, String, bool)> = files
        .iter()
        .map(|file| {
            let own: BTreeSet<&str> = file.module.policy.iter().flat_map(|rule| declared(rule)).collect();
            let packages: BTreeMap<&str, &str> = file
                .imports
                .iter()
                .filter(|(name, path)| is_package(path) && !own.contains(name.as_str()))
                .map(|(name, path)| (name.as_str(), path.as_str()))
                .collect();
            let mut places: BTreeMap<usize, (usize, &str)> = BTreeMap::new();
            for expr in file.module.policy.iter().flat_map(|rule| outermost(rule)) {
                walk(expr, &mut |expr| {
                    if let (Expr::RefDot { .. } | Expr::RefBrack { .. }, Some((root, _))) = (expr, reference(expr)) {
                        if let (Some(path), Some(span)) = (packages.get(root), root_span(expr)) {
                            let range = extent(span);
                            places.insert(range.start, (range.end, path));
                        }
                    }
                    true
                });
            }
            let mut text = file.module.package.span.source.get_contents().clone();
            for (start, (end, path)) in places.iter().rev() {
                if text.get(*start..*end).is_some() {
                    text.replace_range(*start..*end, path);
                }
            }
            (file.path.clone(), text, !places.is_empty())
        })
        .collect();
    let any = texts.iter().any(|(.., changed)| *changed);
    any.then(|| texts.into_iter().map(|(path, text, _)| (path, text)).collect())
}

/// Whether it is a value as it stands, whatever is in it.
pub(super) fn is_literal(expr: &Expr) -> bool {
    matches!(
        expr,
        Expr::String { .. }
            | Expr::RawString { .. }
            | Expr::Number { .. }
            | Expr::Bool { .. }
            | Expr::Null { .. }
            | Expr::Array { .. }
            | Expr::Set { .. }
            | Expr::Object { .. }
    )
}

/// Expressions of a rule that lie in no other one. [`walk`] leads to all that is in them.
pub(super) fn outermost(rule: &Rule) -> Vec<&Expr> {
    let mut all = heads(rule);
    let mut waiting: Vec<&Query> = Vec::new();
    if let Rule::Spec { bodies, .. } = rule {
        waiting.extend(bodies.iter().map(|body| &*body.query));
    }
    while let Some(query) = waiting.pop() {
        for statement in &query.stmts {
            all.extend(expressions(statement));
            if let Literal::Every { query, .. } = &statement.literal {
                waiting.push(query);
            }
        }
    }
    all
}

/// Gives every reference in an expression to `look`, with what it begins with and its steps: each as a whole, and those in its
/// brackets by themselves.
pub(super) fn references<'e>(expr: &'e Expr, look: &mut impl FnMut(&'e Expr, &'e str, &[Key<'e>])) {
    let mut waiting = vec![expr];
    while let Some(expr) = waiting.pop() {
        walk(expr, &mut |expr| {
            let Some((root, keys)) = reference(expr) else { return true };
            waiting.extend(keys.iter().filter_map(|key| match key {
                Key::Computed(index) => Some(*index),
                Key::Name(..) => None,
            }));
            look(expr, root, &keys);
            false
        });
    }
}

fn root_span(expr: &Expr) -> Option<&Span> {
    let mut at = expr;
    loop {
        match at {
            Expr::RefDot { refr, .. } | Expr::RefBrack { refr, .. } => at = refr,
            Expr::Var { span, .. } => return Some(span),
            _ => return None,
        }
    }
}

/// Names that a rule gives to values of its own, each as often as it does: as a parameter, by `some`, `every`, `:=` or `=`.
pub(super) fn declared(rule: &Rule) -> Vec<&str> {
    let mut names = parameters(rule);
    for statement in queries(rule).into_iter().flat_map(|query| &query.stmts) {
        match &statement.literal {
            Literal::SomeVars { vars, .. } => names.extend(vars.iter().map(Span::text)),
            Literal::SomeIn { key, value, .. } => key.iter().chain([value]).for_each(|expr| given(expr, &mut names)),
            Literal::Every { key, value, .. } => names.extend(key.iter().chain([value]).map(Span::text)),
            Literal::Expr { expr, .. } => {
                if let Expr::AssignExpr { lhs, .. } = &**expr {
                    given(lhs, &mut names);
                }
            }
            Literal::NotExpr { .. } => {}
        }
    }
    names
}

/// Names of a function's parameters.
pub(super) fn parameters(rule: &Rule) -> Vec<&str> {
    let mut names = Vec::new();
    if let Rule::Spec { head: RuleHead::Func { args, .. }, .. } = rule {
        args.iter().for_each(|arg| given(arg, &mut names));
    }
    names
}

/// The names that a pattern gives. What `a.b` or `f(x)` stands for is there already.
fn given<'e>(pattern: &'e Expr, names: &mut Vec<&'e str>) {
    walk(pattern, &mut |expr| {
        names.extend(variable(expr));
        matches!(expr, Expr::Var { .. } | Expr::Array { .. } | Expr::Object { .. })
    });
}

/// What a rule is called from anywhere.
pub(super) fn name(file: &File, rule: &Rule) -> Option<String> {
    let refr = match rule {
        Rule::Spec {
            head: RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. } | RuleHead::Func { refr, .. },
            ..
        }
        | Rule::Default { refr, .. } => refr,
    };
    Some(format!("{}.{}", file.package, dotted(refr)?))
}

/// Every query that lies in a rule: its bodies, and those of comprehensions and of `every` in it, outer ones first.
pub(super) fn queries(rule: &Rule) -> Vec<&Query> {
    let mut found = Vec::new();
    let mut waiting: Vec<&Query> = Vec::new();
    if let Rule::Spec { bodies, .. } = rule {
        waiting.extend(bodies.iter().rev().map(|body| &*body.query));
    }
    for expr in heads(rule) {
        inner(expr, &mut waiting);
    }
    while let Some(query) = waiting.pop() {
        found.push(query);
        for statement in &query.stmts {
            if let Literal::Every { query, .. } = &statement.literal {
                waiting.push(query);
            }
            for expr in expressions(statement) {
                inner(expr, &mut waiting);
            }
        }
    }
    found
}

/// Queries of comprehensions in an expression, not those inside them.
fn inner<'e>(expr: &'e Expr, found: &mut Vec<&'e Query>) {
    walk(expr, &mut |expr| match expr {
        Expr::ArrayCompr { query, .. } | Expr::SetCompr { query, .. } | Expr::ObjectCompr { query, .. } => {
            found.push(query);
            false
        }
        _ => true,
    });
}

/// Expressions of a statement that are in its own query; not those of the query of an `every`.
pub(super) fn expressions(statement: &LiteralStmt) -> Vec<&Expr> {
    let mut all: Vec<&Expr> = match &statement.literal {
        Literal::SomeVars { .. } => Vec::new(),
        Literal::SomeIn { key, value, collection, .. } => {
            key.iter().map(|key| &**key).chain([&**value, &**collection]).collect()
        }
        Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => vec![expr],
        Literal::Every { domain, .. } => vec![domain],
    };
    all.extend(statement.with_mods.iter().flat_map(|with| [&*with.refr, &*with.r#as]));
    all
}

/// Expressions in the heads of a rule: its key, its value and those of its `else`.
pub(super) fn heads(rule: &Rule) -> Vec<&Expr> {
    match rule {
        Rule::Default { value, .. } => vec![value],
        Rule::Spec { head, bodies, .. } => {
            let mut all: Vec<&Expr> = match head {
                RuleHead::Compr { refr, assign, .. } => {
                    [&**refr].into_iter().chain(assign.iter().map(|a| &*a.value)).collect()
                }
                RuleHead::Set { refr, key, .. } => [&**refr].into_iter().chain(key.iter().map(|k| &**k)).collect(),
                RuleHead::Func { args, assign, .. } => {
                    args.iter().map(|a| &**a).chain(assign.iter().map(|a| &*a.value)).collect()
                }
            };
            all.extend(bodies.iter().filter_map(|body| body.assign.as_ref()).map(|assign| &*assign.value));
            all
        }
    }
}

/// Gives an expression and all below it to `look`, outer ones first, and what is below where `look` says so. The statements of
/// comprehensions are below as well.
pub(super) fn walk<'e>(expr: &'e Expr, look: &mut impl FnMut(&'e Expr) -> bool) {
    let mut waiting = vec![expr];
    while let Some(expr) = waiting.pop() {
        if !look(expr) {
            continue;
        }
        let of_query = |query: &'e Query| {
            let mut all: Vec<&'e Expr> = Vec::new();
            let mut queries = vec![query];
            while let Some(query) = queries.pop() {
                for statement in &query.stmts {
                    all.extend(expressions(statement));
                    if let Literal::Every { query, .. } = &statement.literal {
                        queries.push(query);
                    }
                }
            }
            all
        };
        match expr {
            Expr::Array { items, .. } | Expr::Set { items, .. } => waiting.extend(items.iter().map(|e| &**e)),
            Expr::Object { fields, .. } => waiting.extend(fields.iter().flat_map(|(_, key, value)| [&**key, &**value])),
            Expr::ArrayCompr { term, query, .. } | Expr::SetCompr { term, query, .. } => {
                waiting.push(term);
                waiting.extend(of_query(query));
            }
            Expr::ObjectCompr { key, value, query, .. } => {
                waiting.extend([&**key, &**value]);
                waiting.extend(of_query(query));
            }
            Expr::Call { fcn, params, .. } => {
                waiting.push(fcn);
                waiting.extend(params.iter().map(|e| &**e));
            }
            Expr::UnaryExpr { expr, .. } => waiting.push(expr),
            Expr::RefDot { refr, .. } => waiting.push(refr),
            Expr::RefBrack { refr, index, .. } => waiting.extend([&**refr, &**index]),
            Expr::BinExpr { lhs, rhs, .. }
            | Expr::BoolExpr { lhs, rhs, .. }
            | Expr::ArithExpr { lhs, rhs, .. }
            | Expr::AssignExpr { lhs, rhs, .. } => waiting.extend([&**lhs, &**rhs]),
            Expr::Membership { key, value, collection, .. } => {
                waiting.extend(key.iter().map(|e| &**e));
                waiting.extend([&**value, &**collection]);
            }
            _ => {}
        }
    }
}
