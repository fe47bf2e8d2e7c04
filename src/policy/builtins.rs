//! The builtins that policy may use on a request.
//!
//! Neither the time limit nor the instruction limit reaches inside a builtin, so this list is the bound on what one
//! can allocate, compute or reach: output in proportion to the arguments, no I/O, no clock, no randomness. A name
//! that is not here is refused when the policy is loaded; what some of these may be given, and how large it may be, is in
//! `bounds`.

/// Allowed, sorted. The two internal names are what `&` and `|` on sets compile to.
pub(super) const ALLOWED: &[&str] = &[
    "__builtin_sets.intersection",
    "__builtin_sets.union",
    "abs",
    "array.concat",
    "array.reverse",
    "array.slice",
    "base64.decode",
    "base64.encode",
    "base64.is_valid",
    "base64url.decode",
    "base64url.encode",
    "base64url.encode_no_pad",
    "bits.and",
    "bits.negate",
    "bits.or",
    "bits.rsh",
    "bits.xor",
    "ceil",
    "concat",
    "contains",
    "count",
    "endswith",
    "floor",
    "glob.match",
    "glob.quote_meta",
    "hex.decode",
    "hex.encode",
    "indexof",
    "intersection",
    "is_array",
    "is_boolean",
    "is_null",
    "is_number",
    "is_object",
    "is_set",
    "is_string",
    "json.filter",
    "json.is_valid",
    "json.remove",
    "json.unmarshal",
    "lower",
    "max",
    "min",
    "net.cidr_contains",
    "net.cidr_is_valid",
    "object.filter",
    "object.get",
    "object.keys",
    "object.remove",
    "object.subset",
    "object.union",
    "object.union_n",
    "regex.is_valid",
    "regex.match",
    "round",
    "semver.compare",
    "semver.is_valid",
    "sort",
    "split",
    "startswith",
    "strings.any_prefix_match",
    "strings.any_suffix_match",
    "strings.reverse",
    "substring",
    "sum",
    "time.parse_duration_ns",
    "time.parse_rfc3339_ns",
    "to_number",
    "trim",
    "trim_left",
    "trim_prefix",
    "trim_right",
    "trim_space",
    "trim_suffix",
    "type_name",
    "union",
    "upper",
];

/// What some of them take, argument by argument: `t` a text, `n` a number, `*` something else or one of several. Sorted.
const TAKES: &[(&str, &str)] = &[
    ("abs", "n"),
    ("ceil", "n"),
    ("concat", "t*"),
    ("contains", "tt"),
    ("endswith", "tt"),
    ("floor", "n"),
    ("glob.match", "t**"),
    ("indexof", "tt"),
    ("json.unmarshal", "t"),
    ("lower", "t"),
    ("net.cidr_contains", "tt"),
    ("regex.match", "tt"),
    ("round", "n"),
    ("semver.compare", "tt"),
    ("split", "tt"),
    ("startswith", "tt"),
    ("strings.reverse", "t"),
    ("substring", "tnn"),
    ("time.parse_duration_ns", "t"),
    ("time.parse_rfc3339_ns", "t"),
    ("trim", "tt"),
    ("trim_left", "tt"),
    ("trim_prefix", "tt"),
    ("trim_right", "tt"),
    ("trim_space", "t"),
    ("trim_suffix", "tt"),
    ("upper", "t"),
];

/// Why a name is refused, for those that people reach for.
const REFUSED: &[(&str, &str)] = &[
    ("numbers.range", "it allocates as many values as its arguments say and can end the process"),
    ("numbers.range_step", "it allocates as many values as its arguments say and can end the process"),
    ("bits.lsh", "its result has as many bits as its argument says"),
    ("units.parse", "an exponent in the text can take seconds"),
    ("units.parse_bytes", "an exponent in the text can take seconds"),
    ("sprintf", "width and precision are data; reasons are declared codes, not sentences"),
    ("replace", "repeated, its result grows without bound; use `trim_prefix` or `split`"),
    ("strings.replace_n", "repeated, its result grows without bound"),
    ("regex.replace", "repeated, its result grows without bound"),
    (
        "json.marshal",
        "a value in which another stands twice, and so on, is small, and its text is not; compare the values",
    ),
    ("net.cidr_expand", "it lists every address of the network; use `net.cidr_contains` or `input.source.networks`"),
    ("rand.intn", "a decision that depends on chance cannot be replayed"),
    ("uuid.rfc4122", "a decision that depends on chance cannot be replayed"),
    ("time.now_ns", "use `input.time.now_ns`, which is recorded with the decision"),
    ("time.clock", "use `input.time`, which is recorded with the decision"),
    ("time.date", "use `input.time`, which is recorded with the decision"),
    ("time.weekday", "use `input.time.weekday`, which is recorded with the decision"),
    ("http.send", "policy does no I/O; put what it needs into a data file"),
    ("opa.runtime", "a decision may not depend on the process's environment"),
    ("print", "it is not available on the request path"),
    ("trace", "it is not available on the request path"),
];

pub(super) fn is_allowed(name: &str) -> bool {
    ALLOWED.binary_search(&name).is_ok()
}

/// What a builtin takes, argument by argument, where that is known.
pub(super) fn takes(name: &str) -> Option<&'static str> {
    TAKES.iter().find(|(of, _)| *of == name).map(|(_, takes)| *takes)
}

/// Names of those that are.
pub(super) fn allowed() -> impl Iterator<Item = &'static str> {
    ALLOWED.iter().copied()
}

/// The sentence that refuses `name`.
pub(super) fn refusal(name: &str) -> String {
    match REFUSED.iter().find(|(n, _)| *n == name) {
        Some((_, why)) => format!("the builtin `{name}` is refused: {why}"),
        None => format!("the builtin `{name}` is not on the list of builtins that are safe on every request"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_refused_names_are_not_on_it() {
        assert!(ALLOWED.is_sorted());
        assert!(TAKES.is_sorted() && TAKES.iter().all(|(name, _)| is_allowed(name)));
        for (name, _) in REFUSED {
            assert!(!is_allowed(name), "{name}");
        }
    }
}
