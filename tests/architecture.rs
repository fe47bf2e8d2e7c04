//! The direction of imports: a room of `src/` imports only from rooms to its left.
//!
//! In: the text of the sources, read as tokens, so that comments and strings do not count. Tests inside a room are held
//! to the same order. A room reaches another only as `crate::room`: whatever would hide that (a glob or an alias of
//! the crate, `super` out of the room, a module from another path) is refused as well.

use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Left to right.
const ROOMS: &[&str] = &[
    "document",
    "clock",
    "reason",
    "name",
    "jose",
    "identity",
    "request",
    "operation",
    "route",
    "partner",
    "operator",
    "history",
    "trust",
    "issue",
    "token",
    "registry",
    "approval",
    "policy",
    "snapshot",
    "decision",
    "record",
    "upstream",
    "gateway",
    "listen",
    "disk",
    "store",
    "fetch",
    "upload",
    "config",
    "material",
    "expiry",
    "reload",
    "admin",
    "enrol",
    "status",
    "server",
    "cli",
];
/// The doors of the house: they may see every room.
const EXEMPT: &[&str] = &["lib.rs", "main.rs"];

#[test]
fn every_room_imports_only_from_rooms_to_its_left() -> std::io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = sources(&root.join("src"))?;
    assert!(files.len() > 20, "only {} files found", files.len());
    let mut report = String::new();
    for path in files {
        let shown = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        let module = module_of(path.strip_prefix(root.join("src")).unwrap_or(&path));
        for (line, fault) in faults(&module, &std::fs::read_to_string(&path)?) {
            let _ = writeln!(report, "{shown}:{line}: {fault}");
        }
    }
    assert!(report.is_empty(), "\n{report}");
    Ok(())
}

/// All Rust files below `folder` except the exempt ones at its top.
fn sources(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let exempt: Vec<PathBuf> = EXEMPT.iter().map(|name| folder.join(name)).collect();
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && !exempt.contains(&path) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// `policy/evaluate.rs` is `policy::evaluate`, `policy/mod.rs` is `policy`.
fn module_of(path: &Path) -> Vec<String> {
    let mut parts: Vec<String> =
        path.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod") {
        parts.pop();
    }
    parts
}

/// Lines and what is wrong there, for a file that is `module`, counted from the crate.
fn faults(module: &[String], text: &str) -> Vec<(usize, String)> {
    let room = module.first().map_or("", String::as_str);
    let Some(place) = ROOMS.iter().position(|r| *r == room) else {
        return vec![(1, format!("`{room}` is no room: add it to the order in `tests/architecture.rs`"))];
    };
    let mut reader = Reader { tokens: tokens(text), at: 0, place, depth: module.len(), found: Vec::new() };
    reader.read();
    reader.found
}

struct Reader {
    tokens: Vec<Token>,
    at: usize,
    /// Of the room in [`ROOMS`].
    place: usize,
    /// Modules around the file's text, itself included.
    depth: usize,
    found: Vec<(usize, String)>,
}

impl Reader {
    fn read(&mut self) {
        // Brace depths at which an inline module opened: each puts the crate one `super` further away.
        let (mut braces, mut inline) = (0usize, Vec::new());
        while let Some(token) = self.tokens.get(self.at) {
            let (line, text) = (token.line, token.text.clone());
            self.at += 1;
            match text.as_str() {
                "{" => braces += 1,
                "}" => {
                    braces = braces.saturating_sub(1);
                    if inline.last() == Some(&braces) {
                        inline.pop();
                    }
                }
                "mod" if self.text(1) == "{" => inline.push(braces),
                "#" if self.text(0) == "[" && self.text(1) == "path" => {
                    self.fault(line, "a module from another path is not seen in its room");
                }
                "crate" => self.after_crate(line),
                "extern" if self.text(0) == "crate" && self.text(1) == "self" => {
                    self.fault(line, "an alias of the crate hides what is imported");
                }
                "super" if !self.is_continued() => self.after_super(line, inline.len()),
                _ => {}
            }
        }
    }

    /// Behind `crate`, wherever a path may stand.
    fn after_crate(&mut self, line: usize) {
        if self.text(0) == "as" {
            self.fault(line, "an alias of the crate hides what is imported");
        } else if self.text(0) == "::" {
            self.at += 1;
            self.root_members(line);
        }
    }

    /// What is named directly under the crate: a name, `*`, or a group of such.
    fn root_members(&mut self, line: usize) {
        match self.text(0) {
            "{" => {
                let mut open = 1usize;
                self.at += 1;
                // A member starts behind the group's own brace or comma; deeper ones belong to its room.
                let mut starts = true;
                while let Some(token) = self.tokens.get(self.at) {
                    let (line, text) = (token.line, token.text.clone());
                    match text.as_str() {
                        "{" => open += 1,
                        "}" => open -= 1,
                        "," if open == 1 => starts = true,
                        _ if starts => {
                            starts = false;
                            self.root_member(line, &text);
                        }
                        _ => {}
                    }
                    self.at += 1;
                    if open == 0 {
                        break;
                    }
                }
            }
            _ => {
                let text = self.text(0).to_owned();
                let line = self.tokens.get(self.at).map_or(line, |t| t.line);
                self.root_member(line, &text);
            }
        }
    }

    fn root_member(&mut self, line: usize, name: &str) {
        let room = ROOMS.get(self.place).copied().unwrap_or_default();
        match ROOMS.iter().position(|r| *r == name) {
            Some(other) if other > self.place => {
                self.fault(line, &format!("`{room}` imports `{name}`, which is to its right"));
            }
            Some(_) => {}
            None if name == "*" => self.fault(line, "a glob of the crate hides what is imported"),
            None if name == "self" => self.fault(line, "an alias of the crate hides what is imported"),
            None => self.fault(line, &format!("`crate::{name}` is in no room")),
        }
    }

    /// Behind a first `super`: counts how far up the path goes.
    fn after_super(&mut self, line: usize, inline: usize) {
        let mut ups = 1;
        while self.text(0) == "::" && self.text(1) == "super" {
            ups += 1;
            self.at += 2;
        }
        // A group behind it could climb further.
        let grouped = self.text(0) == "::" && self.text(1) == "{" && self.group_climbs();
        if grouped || ups >= self.depth + inline {
            self.fault(line, "`super` leads out of the room: write `crate::` and the other room's name");
        }
    }

    /// Whether the group that follows contains `super`.
    fn group_climbs(&self) -> bool {
        let ahead = self.tokens.get(self.at..).unwrap_or_default().iter().map(|t| t.text.as_str());
        ahead.take_while(|text| *text != ";").any(|text| text == "super")
    }

    /// Whether the token that was just read goes on with a path that began earlier, as in `self::super`.
    fn is_continued(&self) -> bool {
        let before = |n: usize| self.at.checked_sub(n).and_then(|at| self.tokens.get(at)).map(|t| t.text.as_str());
        before(2) == Some("::") && before(3) != Some("self")
    }

    /// The token `n` places ahead, or nothing.
    fn text(&self, n: usize) -> &str {
        self.tokens.get(self.at + n).map_or("", |t| t.text.as_str())
    }

    fn fault(&mut self, line: usize, what: &str) {
        self.found.push((line, what.to_owned()));
    }
}

#[derive(Debug, PartialEq)]
struct Token {
    /// From 1.
    line: usize,
    /// A word, `::`, or one character.
    text: String,
}

/// Words and punctuation, without comments, strings and characters.
fn tokens(source: &str) -> Vec<Token> {
    let mut found = Vec::new();
    let (mut line, mut rest) = (1, source);
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let length = if let Some(length) = skipped(rest) {
            length
        } else if word > 0 {
            // A raw identifier is the word behind its `r#`.
            let raw = rest.strip_prefix("r#").filter(|r| r.starts_with(|c: char| c.is_alphabetic() || c == '_'));
            match raw {
                Some(_) => 2,
                None => {
                    found.push(Token { line, text: rest.get(..word).unwrap_or_default().to_owned() });
                    word
                }
            }
        } else if rest.starts_with("::") {
            found.push(Token { line, text: "::".to_owned() });
            2
        } else {
            if !first.is_whitespace() {
                found.push(Token { line, text: first.to_string() });
            }
            first.len_utf8()
        };
        let (passed, left) = rest.split_at(length);
        line += passed.matches('\n').count();
        rest = left;
    }
    found
}

/// How long the comment, string or character is that `rest` starts with.
fn skipped(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(block_comment(rest));
    }
    let marked = ["br", "cr", "r", "b", "c"].iter().find_map(|mark| rest.strip_prefix(mark).map(|r| (r, mark.len())));
    let (body, mark) = match marked {
        Some((body, mark)) if body.starts_with(['"', '#', '\'']) => (body, mark),
        _ => (rest, 0),
    };
    let hashes = body.len() - body.trim_start_matches('#').len();
    let raw = mark > 0 && rest.get(..mark).is_some_and(|m| m.ends_with('r'));
    let inner = body.get(hashes..).unwrap_or_default();
    if raw && inner.starts_with('"') {
        let end = format!("\"{}", "#".repeat(hashes));
        let start = mark + hashes + 1;
        let length = rest.get(start..).and_then(|r| r.find(&end)).map(|at| start + at + end.len());
        return Some(length.unwrap_or(rest.len()));
    }
    if body.starts_with('"') && !raw {
        return Some(mark + quoted(body, '"'));
    }
    // A lifetime has no closing quote behind its first character.
    let character = body.starts_with('\'') && (body.starts_with("'\\") || body.chars().nth(2) == Some('\''));
    (character && !raw).then(|| mark + quoted(body, '\''))
}

/// Block comments nest.
fn block_comment(rest: &str) -> usize {
    let (mut open, mut at) = (0usize, 0usize);
    while let Some(here) = rest.get(at..).filter(|r| !r.is_empty()) {
        if here.starts_with("/*") {
            open += 1;
            at += 2;
        } else if here.starts_with("*/") {
            open -= 1;
            at += 2;
            if open == 0 {
                break;
            }
        } else {
            at += here.chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

fn quoted(body: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in body.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    body.len()
}

mod the_checker {
    use super::faults;

    /// `line: fault`, one a line.
    fn check(module: &str, text: &str) -> String {
        let module: Vec<String> = module.split("::").map(str::to_owned).collect();
        faults(&module, text).iter().map(|(line, fault)| format!("{line}: {fault}")).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn finds_imports_of_rooms_to_the_right() {
        let right = "`policy` imports `decision`, which is to its right";
        for (text, line) in [
            ("use crate::decision::decide;", 1),
            ("use crate::decision;", 1),
            ("\n\nuse crate::decision as d;", 3),
            ("pub(crate) use crate :: decision :: *;", 1),
            ("use crate::{clock::UnixNanos, decision::{self, Permit}};", 1),
            ("use crate::{\n    name::{PartnerId, GrantId},\n    decision,\n};", 3),
            ("use {\n    std::fmt,\n    crate::decision::Permit,\n};", 3),
            ("use crate::{clock,\n decision as clock_too};", 2),
            ("fn f() { let _ = crate::decision::decide; }", 1),
            ("fn f(p: &crate::decision::Permit<'_>) {}", 1),
            ("macro_rules! m { () => { $crate::decision::decide() }; }", 1),
            ("mod inner {\n    use crate::decision::Slot;\n}", 2),
            ("#[cfg(test)]\nmod tests {\n    use crate::decision::Slot;\n}", 3),
            ("use crate::r#decision::Slot;", 1),
            ("const C: char = '\"'; use crate::decision::Slot; const D: char = '\"';", 1),
            ("fn f<'a>(x: &'a str) {} use crate::decision::Slot; fn g<'a>() {}", 1),
            ("const S: &str = \"\\\\\"; use crate::decision::Slot;", 1),
            ("const S: &str = r#\"\"#; use crate::decision::Slot; // \"#", 1),
            ("/* /* */ */ use crate::decision::Slot;", 1),
            ("use crate::\n    // between\n    decision::Slot;", 3),
        ] {
            assert_eq!(check("policy::input", text), format!("{line}: {right}"), "{text}");
        }
    }

    #[test]
    fn lets_pass_what_lies_left_or_within() {
        for text in [
            "use crate::clock::UnixNanos;",
            "use crate::{document::{self, Problems}, registry::Registry};",
            "use crate::policy::Verdict;",
            "use super::Policy; use super::super::policy_is_not_reached::X as Y;",
            "pub(crate) fn f() {} pub(super) fn g() {} pub(in crate::policy) fn h() {}",
            "use std::{fmt, decision};",
            "use serde::decision; fn decision() {}",
            "// use crate::decision;\n//! [`crate::decision`]\n/* use crate::decision; */",
            "const S: &str = \"use crate::decision; \\\" crate::decision\";",
            "const S: &str = r##\"use crate::decision; \"# crate::decision\"##;",
            "const S: &[u8] = b\"crate::decision\"; const T: &[u8] = br\"crate::decision\\\";",
        ] {
            assert_eq!(check("policy::input::deep", text), "", "{text}");
        }
    }

    #[test]
    fn reads_a_group_only_down_to_the_rooms() {
        assert_eq!(check("policy", "use crate::{clock::{decision, x}, name::decision};"), "");
        assert_eq!(
            check("document", "use crate::{clock, name};"),
            "1: `document` imports `clock`, which is to its right\n1: `document` imports `name`, which is to its right"
        );
    }

    #[test]
    fn refuses_ways_out_of_a_room_that_do_not_name_the_other() {
        let out = "`super` leads out of the room: write `crate::` and the other room's name";
        for (module, text) in [
            ("policy", "use super::decision::Permit;"),
            ("policy", "use super::clock::UnixNanos;"),
            ("policy", "use super::{decision, clock};"),
            ("policy::input", "use super::super::decision::Permit;"),
            ("policy::input", "use self::super::super::decision::Permit;"),
            ("policy::input", "mod tests { use super::super::super::decision; }"),
            ("policy", "mod tests { fn f() { super::super::decision::decide(); } }"),
            ("policy", "mod tests { use super::*; } fn f() { super::decision::decide() }"),
            ("policy::input", "use super::{super::decision};"),
        ] {
            assert_eq!(check(module, text), format!("1: {out}"), "{module}: {text}");
        }
        for (module, text) in [
            ("policy", "mod tests { use super::*; mod deeper { use super::super::Policy; } }"),
            ("policy::input", "use super::Policy; mod tests { use super::super::Policy; }"),
            ("policy::input::tests", "use super::super::Policy; fn f() { { super::g() } }"),
        ] {
            assert_eq!(check(module, text), "", "{module}: {text}");
        }
    }

    #[test]
    fn refuses_what_hides_an_import() {
        for (text, fault) in [
            ("use crate::*;", "a glob of the crate hides what is imported"),
            ("use crate::{*};", "a glob of the crate hides what is imported"),
            ("use crate as house;", "an alias of the crate hides what is imported"),
            ("extern crate self as house;", "an alias of the crate hides what is imported"),
            ("use crate::{self as house};", "an alias of the crate hides what is imported"),
            ("#[path = \"../decision.rs\"]\nmod d;", "a module from another path is not seen in its room"),
            ("use crate::Permit;", "`crate::Permit` is in no room"),
        ] {
            assert_eq!(check("policy", text), format!("1: {fault}"), "{text}");
        }
    }

    #[test]
    fn refuses_a_room_that_has_no_place_in_the_order() {
        assert_eq!(check("utils", ""), "1: `utils` is no room: add it to the order in `tests/architecture.rs`");
    }
}
