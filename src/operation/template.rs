//! A path template such as `/v1/orders/{id}.json`, taken apart into segments that match or are compared.

use super::shown;
use std::fmt;
use std::sync::Arc;

/// Longest template, in bytes; it also bounds how deep a table of paths can be.
const MAX_TEMPLATE: usize = 1000;
/// Longest name of a parameter, in bytes.
const MAX_NAME: usize = 64;

/// A valid path template: what it looks like, its segments and the names of its parameters.
#[derive(Clone, PartialEq, Eq)]
pub struct Template {
    text: Arc<str>,
    segments: Vec<Segment>,
    params: Vec<Arc<str>>,
}

impl Template {
    /// Reads a full path from `/`. A segment is fixed text or holds one `{name}` with fixed text around it.
    ///
    /// # Errors
    /// What could never match a canonical path, or could be read in two ways; the sentence says what to write.
    pub fn parse(text: &str) -> Result<Template, String> {
        if text.len() > MAX_TEMPLATE {
            return Err(format!("the path `{}` is longer than {MAX_TEMPLATE} bytes", shown(text)));
        }
        let wrong = |reason: &str| format!("`{}` {reason}", shown(text));
        let Some(rest) = text.strip_prefix('/') else {
            return Err(wrong("does not start with `/`"));
        };
        if text.contains("//") {
            return Err(wrong("contains `//`: the gateway refuses such paths, write one `/`"));
        }
        let mut segments = Vec::new();
        let mut params: Vec<Arc<str>> = Vec::new();
        for part in rest.split('/') {
            let (segment, name) = Segment::parse(part).map_err(|reason| wrong(&reason))?;
            segments.push(segment);
            let Some(name) = name else { continue };
            if params.iter().any(|p| **p == *name) {
                return Err(wrong(&format!("has the parameter `{name}` twice: give each its own name")));
            }
            params.push(name.into());
        }
        Ok(Template { text: text.into(), segments, params })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Names of the parameters, in order.
    pub fn params(&self) -> &[Arc<str>] {
        &self.params
    }

    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

/// A base path as it stands in front of templates: empty, or `/v1` without a slash at its end.
///
/// # Errors
/// Parameters, and all that [`Template::parse`] refuses.
pub fn parse_base_path(text: &str) -> Result<&str, String> {
    if text.is_empty() {
        return Ok(text);
    }
    if !Template::parse(text)?.params().is_empty() {
        return Err(format!("`{}` has a parameter: a base path is fixed text", shown(text)));
    }
    Ok(text.strip_suffix('/').unwrap_or(text))
}

/// What stands between two slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    Fixed(Box<str>),
    Param(Affix),
}

/// The fixed text around a parameter; both are empty for a bare `{name}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Affix {
    pub prefix: Box<str>,
    pub suffix: Box<str>,
}

/// How the set of paths that one template matches lies to that of another which it meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overlap {
    Same,
    /// Every path of the first is one of the second, so that the first is the more specific.
    Narrower,
    Wider,
    /// Each has paths of its own besides the common ones.
    Crossing,
}

impl Overlap {
    /// The overlap of two paths of which one part lies like `self` and the next like `other`.
    pub fn and(self, other: Overlap) -> Overlap {
        match (self, other) {
            (Overlap::Same, x) | (x, Overlap::Same) => x,
            (x, y) if x == y => x,
            _ => Overlap::Crossing,
        }
    }
}

impl Segment {
    fn parse(part: &str) -> Result<(Segment, Option<&str>), String> {
        let unbalanced = || format!("has an unbalanced brace in `{}`: write a parameter as `{{name}}`", shown(part));
        if part == "." || part == ".." {
            return Err(format!(
                "contains the segment `{part}`: the gateway refuses such paths, write the path without it"
            ));
        }
        let Some((prefix, after)) = part.split_once('{') else {
            if part.contains('}') {
                return Err(unbalanced());
            }
            check_fixed(part)?;
            return Ok((Segment::Fixed(part.into()), None));
        };
        let (name, suffix) = after.split_once('}').ok_or_else(unbalanced)?;
        if prefix.contains('}') || name.contains('{') {
            return Err(unbalanced());
        }
        if suffix.contains('{') {
            return Err(format!(
                "has two parameters in the segment `{}`: where one ends is ambiguous, put a `/` between them",
                shown(part)
            ));
        }
        if suffix.contains('}') {
            return Err(unbalanced());
        }
        check_name(name)?;
        check_fixed(prefix)?;
        check_fixed(suffix)?;
        Ok((Segment::Param(Affix { prefix: prefix.into(), suffix: suffix.into() }), Some(name)))
    }

    /// How `self` lies to a parameter; nothing when no text matches both.
    pub fn overlap(&self, other: &Affix) -> Option<Overlap> {
        match self {
            Segment::Fixed(text) => other.value(text).map(|_| Overlap::Narrower),
            Segment::Param(affix) => affix.overlap(other),
        }
    }
}

impl Affix {
    /// The value of the parameter when `segment` matches; never empty.
    pub fn value<'p>(&self, segment: &'p str) -> Option<&'p str> {
        // Most parameters are bare, and a comparison with the empty text is not free: glibc's `memcmp` of no bytes at
        // the address of an empty `Box<str>` was three quarters of the time of a lookup.
        let value = if self.prefix.is_empty() { segment } else { segment.strip_prefix(&*self.prefix)? };
        let value = if self.suffix.is_empty() { value } else { value.strip_suffix(&*self.suffix)? };
        (!value.is_empty()).then_some(value)
    }

    fn overlap(&self, other: &Affix) -> Option<Overlap> {
        let narrower = self.prefix.starts_with(&*other.prefix) && self.suffix.ends_with(&*other.suffix);
        let wider = other.prefix.starts_with(&*self.prefix) && other.suffix.ends_with(&*self.suffix);
        // Two prefixes go together when one continues the other: a long enough value then fits both templates.
        let prefixes = self.prefix.starts_with(&*other.prefix) || other.prefix.starts_with(&*self.prefix);
        let suffixes = self.suffix.ends_with(&*other.suffix) || other.suffix.ends_with(&*self.suffix);
        match (narrower, wider) {
            (true, true) => Some(Overlap::Same),
            (true, false) => Some(Overlap::Narrower),
            (false, true) => Some(Overlap::Wider),
            (false, false) => (prefixes && suffixes).then_some(Overlap::Crossing),
        }
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'$');
    if !name.is_empty() && name.len() <= MAX_NAME && name.bytes().all(good) {
        return Ok(());
    }
    Err(format!(
        "has a parameter named `{}`: a name is 1 to {MAX_NAME} of a-z, A-Z, 0-9, `_`, `-`, `.`, `$`, and stands for one \
         segment of the path",
        shown(name)
    ))
}

/// Fixed text is `pchar` of RFC 3986, in the one spelling that a canonical path has.
fn check_fixed(text: &str) -> Result<(), String> {
    let mut rest = text.bytes();
    while let Some(b) = rest.next() {
        match b {
            b'%' => {
                let high = rest.next().and_then(hex_digit);
                let low = rest.next().and_then(hex_digit);
                let (Some(high), Some(low)) = (high, low) else {
                    return Err(format!("has a `%` without two upper-case hex digits in `{}`", shown(text)));
                };
                check_encoded(high << 4 | low)?;
            }
            b'?' | b'#' => {
                return Err(format!("contains `{}`: a path ends before the query and the fragment", char::from(b)));
            }
            _ if b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&b) => {}
            _ => {
                return Err(format!("has a character in `{}` that a path cannot hold: percent-encode it", shown(text)));
            }
        }
    }
    Ok(())
}

fn check_encoded(byte: u8) -> Result<(), String> {
    if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
        return Err(format!("has `%{byte:02X}`: write `{}`, it needs no encoding", char::from(byte)));
    }
    if byte.is_ascii_control() || matches!(byte, b'/' | b'\\') {
        return Err(format!("has `%{byte:02X}`: the gateway refuses such paths"));
    }
    Ok(())
}

/// Upper case only: `%c3` and `%C3` are the same octet but not the same bytes, and RFC 3986 6.2.2.1 prefers upper case.
fn hex_digit(b: u8) -> Option<u8> {
    match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'A'..=b'F' => Some(b - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        Template::parse(text).unwrap_err()
    }

    #[test]
    fn parameters_are_named_in_order() {
        let template = Template::parse("/v{n}/orders/{order-id}.json/").unwrap();
        assert_eq!(template.params().iter().map(|p| &**p).collect::<Vec<_>>(), ["n", "order-id"]);
        assert_eq!(template.to_string(), "/v{n}/orders/{order-id}.json/");
    }

    #[test]
    fn a_template_that_cannot_match_or_is_ambiguous_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "does not start with `/`"),
            ("orders", "does not start with `/`"),
            ("/a//b", "contains `//`"),
            ("/a/../b", "the segment `..`"),
            ("/a/.", "the segment `.`"),
            ("/a?b=1", "contains `?`"),
            ("/a#b", "contains `#`"),
            ("/a/{id", "unbalanced"),
            ("/a/id}", "unbalanced"),
            ("/a/{{id}}", "unbalanced"),
            ("/a/}{", "unbalanced"),
            ("/{a/b}", "unbalanced"),
            ("/{from}-{to}", "two parameters in the segment"),
            ("/{id}/x/{id}", "the parameter `id` twice"),
            ("/{}", "a parameter named ``"),
            ("/{*rest}", "a parameter named `*rest`"),
            ("/größe", "percent-encode it"),
            ("/a b", "percent-encode it"),
            ("/a%41", "write `A`"),
            ("/a%2e%2e", "upper-case hex"),
            ("/a%2E", "write `.`"),
            ("/a%2Fb", "the gateway refuses"),
            ("/a%0", "upper-case hex"),
            ("/a%00", "the gateway refuses"),
        ] {
            let err = refusal(text);
            assert!(err.contains(reason), "{text:?}: {err}");
        }
        assert!(refusal(&format!("/{}", "x".repeat(1000))).contains("longer than 1000 bytes"));
    }

    #[test]
    fn encoded_text_that_needs_encoding_is_kept() {
        assert!(Template::parse("/gr%C3%B6%C3%9Fe/a%20b;x=1").is_ok());
    }

    #[test]
    fn a_base_path_is_fixed_and_ends_without_a_slash() {
        assert_eq!(parse_base_path(""), Ok(""));
        assert_eq!(parse_base_path("/"), Ok(""));
        assert_eq!(parse_base_path("/v1/"), Ok("/v1"));
        assert!(parse_base_path("v1").is_err() && parse_base_path("/{v}").is_err() && parse_base_path("//").is_err());
    }

    #[test]
    fn overlaps_are_told_apart() {
        let overlap = |a: &str, b: &str| match Segment::parse(b).unwrap() {
            (Segment::Param(b), _) => Segment::parse(a).unwrap().0.overlap(&b),
            _ => panic!("`{b}` has no parameter"),
        };
        assert_eq!(overlap("search", "{id}"), Some(Overlap::Narrower));
        assert_eq!(overlap("{id}", "{id}.json"), Some(Overlap::Wider));
        assert_eq!(overlap("{a}", "{b}"), Some(Overlap::Same));
        assert_eq!(overlap("{a}.json", "{b}"), Some(Overlap::Narrower));
        assert_eq!(overlap("v{a}", "{b}.json"), Some(Overlap::Crossing));
        assert_eq!(overlap("v{a}", "w{b}"), None);
        assert_eq!(overlap("v", "v{a}"), None);
    }
}
