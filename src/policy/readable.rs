//! What no parser is given: regorus' takes a NUL for the end of a file, takes exponential time for deep brackets, and says of one
//! that is not closed only where the file ends.
//!
//! In: the text of a file. Out: a problem with its place, where there is one.

use super::at;
use crate::document::Problems;

/// Deepest brackets of a file. regorus' parser looks at what is in brackets more than once at each depth.
const DEEPEST: usize = 12;

/// Whether the parser may be given a text.
pub(super) fn look(path: &str, text: &str, problems: &mut Problems) {
    let place = |at: usize| {
        let before = text.get(..at).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
    };
    let mut refuse = |from: usize, reason: &str, fix: &str| {
        let (line, column) = place(from);
        problems.push(at(path, line, column, reason.to_owned(), Some(fix)));
    };
    if text.starts_with('\u{feff}') {
        return refuse(0, "begins with a byte order mark", "save it as UTF-8 without one");
    }
    if let Some(at) = text.find('\0') {
        return refuse(at, "holds a NUL, behind which nothing would be read", "take it out");
    }
    let mut open: Vec<(usize, char)> = Vec::new();
    let mut signs = text.char_indices();
    while let Some((at, sign)) = signs.next() {
        match sign {
            '#' => drop(signs.find(|(_, sign)| *sign == '\n')),
            '`' => drop(signs.find(|(_, sign)| *sign == '`')),
            '"' => {
                while let Some((_, sign)) = signs.next() {
                    match sign {
                        '\\' => drop(signs.next()),
                        '"' | '\n' => break,
                        _ => {}
                    }
                }
            }
            '(' | '[' | '{' => {
                open.push((at, sign));
                if open.len() > DEEPEST {
                    return refuse(at, "brackets lie too deep in each other", "give what is inside a name of its own");
                }
            }
            ')' | ']' | '}' => match open.pop() {
                Some((_, opened)) if closing(opened) == sign => {}
                Some((from, opened)) => {
                    let reason =
                        format!("this `{sign}` comes before the `{opened}` of line {} is closed", place(from).0);
                    return refuse(at, &reason, &format!("write `{}` before it", closing(opened)));
                }
                None => return refuse(at, &format!("there is nothing that this `{sign}` closes"), "take it out"),
            },
            _ => {}
        }
    }
    if let Some((at, opened)) = open.pop() {
        let fix = format!("write `{}` where it ends", closing(opened));
        refuse(at, &format!("this `{opened}` is not closed"), &fix);
    }
}

fn closing(opened: char) -> char {
    match opened {
        '(' => ')',
        '[' => ']',
        _ => '}',
    }
}
