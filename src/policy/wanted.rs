//! Which facts a policy can look at, so that the others need not be put together for each request.
//!
//! Read from the text: `input` is a reserved word of Rego, so that every way to a fact begins with it. What is not
//! certain counts as wanted; a mention in a comment or a text does too.

use super::PolicySource;
use std::collections::BTreeSet;

/// Paths of the input document, as far as they need to be told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// `None`: everything.
    paths: Option<BTreeSet<(String, Option<String>)>>,
}

impl Wanted {
    pub fn everything() -> Self {
        Wanted { paths: None }
    }

    /// What the policy files mention; tests are no part of a policy.
    pub fn by(source: &PolicySource) -> Self {
        let rego = |path: &str| path.ends_with(".rego") && !path.ends_with("_test.rego");
        let mut paths = BTreeSet::new();
        for (_, text) in source.files.iter().filter(|(path, _)| rego(path)) {
            for at in mentions(text) {
                let Some((first, rest)) = text.get(at..).and_then(key) else { return Wanted::everything() };
                paths.insert((first.to_owned(), key(rest).map(|(second, _)| second.to_owned())));
            }
        }
        Wanted { paths: Some(paths) }
    }

    /// Whether `input.first.second` may be looked at.
    pub fn has(&self, first: &str, second: &str) -> bool {
        self.paths
            .as_ref()
            .is_none_or(|paths| paths.iter().any(|(a, b)| a == first && b.as_deref().is_none_or(|b| b == second)))
    }
}

/// Where the text goes on behind each word `input`.
fn mentions(text: &str) -> impl Iterator<Item = usize> {
    let part_of_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices("input").filter_map(move |(at, word)| {
        let end = at + word.len();
        let before = text.get(..at).and_then(|t| t.chars().next_back());
        let after = text.get(end..).and_then(|t| t.chars().next());
        (!part_of_word(before) && !part_of_word(after)).then_some(end)
    })
}

/// `.name` at the start of the text, and what follows. Anything else could be any key.
fn key(text: &str) -> Option<(&str, &str)> {
    let text = text.strip_prefix('.')?;
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    (!name.is_empty()).then_some((name, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(text: &str) -> Wanted {
        Wanted::by(&PolicySource { files: vec![("a.rego".into(), text.into())] })
    }

    #[test]
    fn what_is_mentioned_is_wanted_and_nothing_else() {
        let wanted =
            wanted("x if input.request.path == \"/a\"\ny if { r := input.time; r.hour > 3 }\nz if input.tls[k]");
        assert!(wanted.has("request", "path") && !wanted.has("request", "query"));
        assert!(wanted.has("time", "local") && wanted.has("tls", "sni"));
        assert!(!wanted.has("source", "ip"));
    }

    #[test]
    fn what_is_uncertain_wants_everything() {
        for text in
            ["x := input", "x := input[\"tls\"]", "f(input)", "x if input [k]", "input\n.tls", "x := input.\ntls"]
        {
            assert_eq!(wanted(text), Wanted::everything(), "{text}");
        }
        for text in ["y := my_input.a", "y := data.inputs.a", "y := inputs"] {
            assert!(!wanted(text).has("tls", "sni"), "{text}");
        }
    }

    #[test]
    fn tests_of_a_policy_want_nothing() {
        let files = vec![("a_test.rego".into(), "x := input".into()), ("data.yaml".into(), "input: 1".into())];
        assert!(!Wanted::by(&PolicySource { files }).has("tls", "sni"));
    }
}
