//! Text from anywhere, for people: what a terminal would obey, turn round or not show at all is written out.

use std::cmp::Ordering::{Equal, Greater, Less};

/// Categories Cf, Zl and Zp, and what else is nothing to see (`Default_Ignorable_Code_Point`); sorted.
const HIDDEN: &[(char, char)] = &[
    ('\u{ad}', '\u{ad}'),
    ('\u{34f}', '\u{34f}'),
    ('\u{600}', '\u{605}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{6dd}', '\u{6dd}'),
    ('\u{70f}', '\u{70f}'),
    ('\u{890}', '\u{891}'),
    ('\u{8e2}', '\u{8e2}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{2028}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{fe00}', '\u{fe0f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{fff0}', '\u{fffb}'),
    ('\u{110bd}', '\u{110bd}'),
    ('\u{110cd}', '\u{110cd}'),
    ('\u{13430}', '\u{1343f}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0000}', '\u{e0fff}'),
];

/// Whether a terminal shows a character and nothing else: no control, bidirectional or invisible one.
fn is_plain(c: char) -> bool {
    let hidden = |c| {
        HIDDEN.binary_search_by(|(from, to)| {
            if *to < c {
                Less
            } else if *from > c {
                Greater
            } else {
                Equal
            }
        })
    };
    (' '..='~').contains(&c) || !(c.is_control() || hidden(c).is_ok())
}

/// A character as people are shown it: itself, or as `\u{…}` where it is not plain.
pub fn shown(c: char) -> impl Iterator<Item = char> + Clone {
    let hidden = !is_plain(c);
    (!hidden).then_some(c).into_iter().chain(hidden.then(|| c.escape_unicode()).into_iter().flatten())
}

/// A text in which all that is not plain is written as `\u{…}`, but for `kept`.
pub fn plain(text: &str, kept: &[char]) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if kept.contains(&c) {
            out.push(c);
        } else {
            out.extend(shown(c));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_a_control_or_a_format_character_or_a_filler_is_written_out() {
        let hidden = regex::Regex::new(r"^[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]$").unwrap();
        for c in '\0'..=char::MAX {
            assert_eq!(is_plain(c), !hidden.is_match(c.encode_utf8(&mut [0; 4])), "{:?}", c.escape_unicode());
        }
        assert!(HIDDEN.is_sorted());
        assert_eq!(plain("a\u{1b}[2K\r\nb\u{202e}\u{9b}ü", &['\n']), "a\\u{1b}[2K\\u{d}\nb\\u{202e}\\u{9b}ü");
        assert_eq!(plain("x\u{3164}\n", &[]), "x\\u{3164}\\u{a}");
    }
}
