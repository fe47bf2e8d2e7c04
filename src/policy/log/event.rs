//! What an event of OPA's decision log has, as rules of `package system.log` are asked with it.

use crate::policy::contract::{Fact, INPUT, Shape};
use Shape::{List, OneOf, Open, Table, Text, Unknown, Whole};
use std::sync::LazyLock;

/// Fields that OPA's events may have and ours have not: rules that were made for OPA may look at them.
const OF_OPA: &[&str] = &[
    "batch_decision_id",
    "custom",
    "error",
    "intermediate_results",
    "mapped_result",
    "nd_builtin_cache",
    "query",
    "request_context",
    "span_id",
    "trace_id",
];

/// See the module. What was decided on is below `input`.
pub(super) static EVENT: LazyLock<Shape> = LazyLock::new(|| {
    let own = [
        ("labels", Open(&Text)),
        ("decision_id", Text),
        ("bundles", Open(&Open(&Text))),
        ("path", OneOf(&["partnergate/decision", "partnergate/malformed", "partnergate/handshake"])),
        ("requested_by", Text),
        ("input", recorded(&INPUT)),
        ("result", table([("allow", Unknown), ("reasons", List(&Text)), ("grant", Text), ("outcome", Unknown)])),
        ("erased", List(&Text)),
        ("masked", List(&Text)),
        ("timestamp", Text),
        ("metrics", Open(&Whole)),
        ("req_id", Whole),
    ];
    table(own.into_iter().chain(OF_OPA.iter().map(|name| (*name, Unknown))))
});

fn table(facts: impl IntoIterator<Item = (&'static str, Shape)>) -> Shape {
    let facts: Vec<Fact> = facts.into_iter().map(|(key, shape)| Fact::bare(key, shape)).collect();
    Table(facts.leak())
}

/// The same facts as a record has them: with times as text, and so by other names.
fn recorded(shape: &'static Shape) -> Shape {
    match shape {
        Table(facts) => table(facts.iter().map(|fact| match fact.key.strip_suffix("_ns") {
            Some(time) => (time, Text),
            None => (fact.key, recorded(&fact.shape)),
        })),
        List(item) => List(Box::leak(Box::new(recorded(item)))),
        other => *other,
    }
}
