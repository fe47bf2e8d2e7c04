//! Conditions of grants: which keys there are, of which types, and whether a value means something.
//!
//! In: `partnergate/conditions.yaml`, which is shipped, and every `conditions.yaml` of the security team's own. Out: for the
//! conditions of a grant, what is wrong with them. Must never: judge a request; that is policy's.

use super::declared::Declarations;
use crate::document::{Problems, nearest};
use crate::request::{SERVED, TlsFacts};
use serde_json::Value as Json;
use std::collections::BTreeMap;

/// The type of a grant condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionType {
    Text,
    Integer,
    Boolean,
    TextList,
    /// Windows such as `mon-fri 08:00-18:00`.
    Schedule,
    /// The lowest version of TLS.
    TlsVersion,
    /// IANA names of cipher suites.
    Ciphers,
    /// Methods of HTTP.
    Methods,
    /// A number of bytes.
    Size,
}

/// A condition of a grant that does not fit what is declared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongCondition {
    pub reason: String,
    pub fix: Option<String>,
}

/// Every declared key.
#[derive(Clone, Debug, Default)]
pub(super) struct Conditions {
    keys: Declarations<ConditionType>,
}

impl Conditions {
    /// Adds what one file declares.
    pub fn read(&mut self, path: &str, text: &str, problems: &mut Problems) {
        let known: Vec<&str> = ConditionType::NAMES.iter().map(|(name, _)| *name).collect();
        self.keys.read(path, text, "conditions", problems, |(key, value), problems| {
            let kind = value.text().and_then(|text| ConditionType::NAMES.iter().find(|(n, _)| *n == text));
            if kind.is_none() {
                let fix = value.text().and_then(|text| nearest(text, known.iter().copied()));
                let fix = fix.map(|near| format!("did you mean `{near}`?"));
                let reason = format!("must be a type: {}", known.join(", "));
                let key = format!("conditions.{}", key.text().unwrap_or_default());
                problems.push(value.error(key, reason, fix.as_deref()));
            }
            kind.map(|(_, kind)| *kind)
        });
    }

    /// What is wrong with the conditions of one grant.
    pub fn check(&self, conditions: &BTreeMap<String, Json>) -> Vec<WrongCondition> {
        conditions.iter().filter_map(|(key, value)| self.wrong(key, value)).collect()
    }

    fn wrong(&self, key: &str, value: &Json) -> Option<WrongCondition> {
        let Some(kind) = self.keys.get(key) else {
            let known: Vec<&str> = self.keys.names().collect();
            let reason = if known.is_empty() {
                format!("the condition `{key}` is not declared")
            } else {
                format!("the condition `{key}` is not declared; declared are {}", known.join(", "))
            };
            let fix = match nearest(key, known.into_iter()) {
                Some(near) => format!("did you mean `{near}`? otherwise declare it in `policies/conditions.yaml`"),
                None => "declare it in `policies/conditions.yaml`, and write a rule that looks at it".to_owned(),
            };
            return Some(WrongCondition { reason, fix: Some(fix) });
        };
        let (what, fix) = kind.judge(value).err()?;
        Some(WrongCondition { reason: format!("the condition `{key}` {what}"), fix })
    }
}

/// What is wrong, and how to mend it.
type Wrong = (String, Option<String>);

impl ConditionType {
    const NAMES: &'static [(&'static str, ConditionType)] = &[
        ("text", ConditionType::Text),
        ("integer", ConditionType::Integer),
        ("boolean", ConditionType::Boolean),
        ("text-list", ConditionType::TextList),
        ("schedule", ConditionType::Schedule),
        ("tls-version", ConditionType::TlsVersion),
        ("tls-ciphers", ConditionType::Ciphers),
        ("methods", ConditionType::Methods),
        ("size", ConditionType::Size),
    ];

    /// Whether a value means something.
    fn judge(self, value: &Json) -> Result<(), Wrong> {
        let must = |fits: bool, what: &str| if fits { Ok(()) } else { Err((format!("must be {what}"), None)) };
        match self {
            ConditionType::Text => must(value.is_string(), "text"),
            ConditionType::Integer => must(value.is_i64(), "a whole number"),
            ConditionType::Boolean => must(value.is_boolean(), "true or false"),
            ConditionType::TextList => must(texts(value).is_some(), "a list of text"),
            ConditionType::Size => must(value.as_i64().is_some_and(|n| n >= 0), "a whole number of bytes, 0 or more"),
            ConditionType::Schedule => each(value, "a list of windows", "write `[\"mon-fri 08:00-18:00\"]`", window),
            ConditionType::TlsVersion => match value.as_str() {
                Some("1.2" | "1.3") => Ok(()),
                Some(other) => Err((
                    format!("names no version of TLS that is served: `{}`", other.escape_debug()),
                    Some("write \"1.2\" or \"1.3\"".to_owned()),
                )),
                None => Err((
                    "must be text, so that no digit of it is lost".to_owned(),
                    Some("write \"1.2\" or \"1.3\", in quotes".to_owned()),
                )),
            },
            ConditionType::Ciphers => each(value, "a list of cipher suites", "write their IANA names", |text| {
                let known: Vec<String> = TlsFacts::ciphers().collect();
                one_of(text, "cipher suite that is served", known.iter().map(String::as_str))
            }),
            ConditionType::Methods => each(value, "a list of methods", "write `[GET, HEAD]`", |text| {
                one_of(text, "method that is served", SERVED.iter().map(http::Method::as_str))
            }),
        }
    }
}

fn texts(value: &Json) -> Option<Vec<&str>> {
    value.as_array()?.iter().map(Json::as_str).collect()
}

/// A list of one text or more, each of which means something. An empty list would permit nothing, ever.
fn each(value: &Json, what: &str, fix: &str, judge: impl Fn(&str) -> Result<(), Wrong>) -> Result<(), Wrong> {
    let Some(list) = texts(value) else { return Err((format!("must be {what}"), Some(fix.to_owned()))) };
    if list.is_empty() {
        let fix = format!("{fix}, or leave the condition out");
        return Err((format!("must be {what}; an empty one would never permit anything"), Some(fix)));
    }
    list.into_iter().try_for_each(judge)
}

fn one_of<'a>(text: &str, what: &str, known: impl Iterator<Item = &'a str>) -> Result<(), Wrong> {
    let known: Vec<&str> = known.collect();
    if known.contains(&text) {
        return Ok(());
    }
    let fix = match nearest(text, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("write one of {}", known.join(", ")),
    };
    Err((format!("names no {what}: `{}`", text.escape_debug()), Some(fix)))
}

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// `DAY HH:MM-HH:MM` or `DAY-DAY HH:MM-HH:MM`, as `partnergate/schedule.rego` reads it.
fn window(text: &str) -> Result<(), Wrong> {
    let wrong = |why: &str| {
        let fix = "write it like `mon-fri 08:00-18:00` or `sat 22:00-02:00`, a whole day as `sun 00:00-24:00`";
        Err((format!("has a window that cannot be read: `{}`: {why}", text.escape_debug()), Some(fix.to_owned())))
    };
    let Some((days, hours)) = text.split_once(' ') else {
        return wrong("days and hours belong together, with one space between them");
    };
    let (first, last) = days.split_once('-').unwrap_or((days, days));
    if let Some(day) = [first, last].into_iter().find(|day| !DAYS.contains(day)) {
        return wrong(&format!("`{}` is none of {}", day.escape_debug(), DAYS.join(", ")));
    }
    let Some((from, until)) = hours.split_once('-') else { return wrong("it has no end") };
    let (Some(begins), Some(ends)) = (minute(from), minute(until)) else {
        return wrong("times are from 00:00 to 24:00, always five characters");
    };
    if begins == 24 * 60 {
        return wrong("a window does not begin at 24:00; that is 00:00 of the next day");
    }
    if begins == ends {
        return wrong("it is empty, since its end is no longer in it");
    }
    Ok(())
}

/// `HH:MM` as the minute of the day, up to 24:00.
fn minute(text: &str) -> Option<u32> {
    let (hour, minute) = text.split_once(':')?;
    let two = |part: &str| (part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit())).then(|| part.parse().ok())?;
    let (hour, minute): (u32, u32) = (two(hour)?, two(minute)?);
    let of_day = hour * 60 + minute;
    (minute < 60 && of_day <= 24 * 60).then_some(of_day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn conditions(text: &str) -> Conditions {
        let (mut conditions, mut problems) = (Conditions::default(), Problems::new());
        conditions.read("conditions.yaml", text, &mut problems);
        assert_eq!(problems.to_string(), "");
        conditions
    }

    /// What is said about one condition of a grant; empty when nothing is wrong.
    fn said(key: &str, value: Json) -> String {
        let declared = conditions(
            "conditions: {schedule: schedule, tls_min: tls-version, tls_ciphers: tls-ciphers, methods: methods, \
             max_content_length: size, amount: integer, tenants: text-list, dry: boolean, note: text}",
        );
        let wrong = declared.check(&BTreeMap::from([(key.to_owned(), value)]));
        wrong.iter().map(|w| format!("{} / {}", w.reason, w.fix.as_deref().unwrap_or("-"))).collect()
    }

    #[test]
    fn values_that_mean_something_fit() {
        for (key, value) in [
            ("schedule", json!(["mon-fri 08:00-18:00", "sat 22:00-02:00", "sun 00:00-24:00", "sat-mon 23:59-00:00"])),
            ("tls_min", json!("1.2")),
            ("tls_min", json!("1.3")),
            ("tls_ciphers", json!(["TLS_AES_256_GCM_SHA384", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"])),
            ("methods", json!(["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])),
            ("max_content_length", json!(0)),
            ("max_content_length", json!(i64::MAX)),
            ("amount", json!(-5)),
            ("tenants", json!([])),
            ("dry", json!(false)),
            ("note", json!("")),
        ] {
            assert_eq!(said(key, value.clone()), "", "{key}: {value}");
        }
    }

    #[test]
    fn values_that_mean_nothing_are_refused_with_what_to_write() {
        for (key, value, expected) in [
            ("amount", json!(1.5), "must be a whole number"),
            ("amount", json!("5"), "must be a whole number"),
            ("tenants", json!(["a", 1]), "must be a list of text"),
            ("dry", json!("yes"), "must be true or false"),
            ("note", json!(3), "must be text"),
            ("max_content_length", json!(-1), "a whole number of bytes, 0 or more"),
            ("max_content_length", json!("1MiB"), "a whole number of bytes, 0 or more"),
            ("max_content_length", json!(u64::MAX), "a whole number of bytes, 0 or more"),
            ("max_content_length", Json::Null, "a whole number of bytes, 0 or more"),
            (
                "tls_min",
                json!(1.3),
                "must be text, so that no digit of it is lost / write \"1.2\" or \"1.3\", in quotes",
            ),
            ("tls_min", json!("1.1"), "no version of TLS that is served: `1.1` / write \"1.2\" or \"1.3\""),
            ("tls_min", json!("TLSv1.3"), "no version of TLS that is served"),
            ("tls_ciphers", json!([]), "an empty one would never permit anything"),
            ("tls_ciphers", json!(["TLS13_AES_256_GCM_SHA384"]), "did you mean `TLS_AES_256_GCM_SHA384`?"),
            ("tls_ciphers", json!(["RC4"]), "write one of TLS_AES_"),
            ("tls_ciphers", json!("TLS_AES_256_GCM_SHA384"), "must be a list of cipher suites"),
            ("methods", json!(["get"]), "names no method that is served: `get` / write one of GET, HEAD"),
            ("methods", json!(["GTE"]), "did you mean `GET`?"),
            ("methods", json!(["TRACE"]), "names no method that is served: `TRACE`"),
            ("methods", json!("GET"), "must be a list of methods / write `[GET, HEAD]`"),
            ("methods", json!([]), "an empty one would never permit anything / write `[GET, HEAD]`, or leave"),
            ("schedule", json!([]), "an empty one would never permit anything"),
            ("schedule", json!("mon 08:00-18:00"), "must be a list of windows"),
            ("schedule", json!(["mon 08:00-18:00", 5]), "must be a list of windows"),
            ("schedule", json!(["08:00-18:00"]), "days and hours belong together"),
            ("schedule", json!(["mon"]), "days and hours belong together"),
            ("schedule", json!(["Mon 08:00-18:00"]), "`Mon` is none of mon, tue"),
            ("schedule", json!(["mon-fry 08:00-18:00"]), "`fry` is none of mon, tue"),
            ("schedule", json!(["mon- 08:00-18:00"]), "`` is none of mon, tue"),
            ("schedule", json!(["mon-fri-sun 08:00-18:00"]), "`fri-sun` is none of"),
            ("schedule", json!(["mon 08:00"]), "it has no end"),
            ("schedule", json!(["mon 8:00-18:00"]), "always five characters"),
            ("schedule", json!(["mon  08:00-18:00"]), "always five characters"),
            ("schedule", json!(["mon 08:00-18:00 "]), "always five characters"),
            ("schedule", json!(["mon 08:00-18:00-19:00"]), "always five characters"),
            ("schedule", json!(["mon 08:60-18:00"]), "always five characters"),
            ("schedule", json!(["mon 08:00-24:01"]), "always five characters"),
            ("schedule", json!(["mon +8:00-18:00"]), "always five characters"),
            ("schedule", json!(["mon 24:00-18:00"]), "does not begin at 24:00"),
            ("schedule", json!(["mon 08:00-08:00"]), "it is empty, since its end is no longer in it"),
            ("shedule", json!([]), "is not declared; declared are amount, dry"),
            ("shedule", json!([]), "did you mean `schedule`?"),
            ("unheard-of", json!([]), "declare it in `policies/conditions.yaml`, and write a rule"),
        ] {
            let found = said(key, value.clone());
            assert!(found.contains(expected), "{key}: {value}: {found}");
        }
    }

    #[test]
    fn mistakes_in_a_declaration_are_named_with_their_place() {
        let (mut conditions, mut problems) = (Conditions::default(), Problems::new());
        conditions.read("partnergate/conditions.yaml", "conditions:\n  schedule: schedule\n", &mut problems);
        assert!(problems.is_empty());
        conditions.read(
            "conditions.yaml",
            "conditions:\n  schedule: text-list\n  a: integr\n  b: [x]\nmore: 1\n",
            &mut problems,
        );
        let found = problems.to_string();
        for expected in [
            "conditions.yaml:2:3: `conditions.schedule`: is declared in `partnergate/conditions.yaml`, line 2, already",
            "fix: choose another name",
            "conditions.yaml:3:6: `conditions.a`: must be a type: text, integer",
            "fix: did you mean `integer`?",
            "conditions.yaml:4:6: `conditions.b`: must be a type",
            "conditions.yaml:5:1: `more`: unknown key",
        ] {
            assert!(found.contains(expected), "{expected}: {found}");
        }
    }
}
