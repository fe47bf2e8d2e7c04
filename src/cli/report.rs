//! The report of a partner that has ended, for people: on the terminal, and as a page that stands by itself.

use super::client::{Gateway, ask};
use super::edit::id;
use super::{Exit, Form, complain, say};
use crate::disk;
use http::Method;
use serde_json::Value;
use std::fmt::Write;
use std::path::Path;

pub(super) async fn run(gateway: &Gateway, partner: &str, page: Option<&Path>, form: Form) -> Result<Exit, Exit> {
    let path = format!("/v1/partners/{}/report", id("partner", partner)?);
    let answer = ask(gateway, Method::GET, &path, None).await?;
    if let Some(page) = page {
        write(&answer, page)?;
    }
    Ok(form.show(Ok(answer), show))
}

/// Writes the page.
pub(super) fn write(report: &Value, file: &Path) -> Result<(), Exit> {
    std::fs::write(file, page(report)).map_err(|e| {
        complain(&format!("--page: `{}`: {}", file.display(), disk::plain(&e)));
        Exit::Failed
    })
}

/// What is in a report, as headings with lines.
fn sections(report: &Value) -> Vec<(&'static str, Vec<String>)> {
    let text = |v: &Value| v.as_str().map_or_else(String::new, str::to_owned);
    let ids = |v: &Value| v.as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
    let existed = &report["existed"];
    let ticket = report["ticket"].as_str().map(|ticket| format!(" [{ticket}]")).unwrap_or_default();
    let mut about = vec![
        format!("{} — {}", text(&report["partner"]), text(&report["name"])),
        format!("owner: {}", text(&report["owner"])),
        format!("ended by {}{ticket}: {}", text(&report["author"]), text(&report["reason"])),
        format!("asked for at {}, closed at {}", text(&report["asked"]), text(&report["closed_at"])),
    ];
    let engagement = &existed["engagement"];
    about.push(format!(
        "engagement from {} to {}",
        engagement["starts"].as_str().unwrap_or("ever"),
        engagement["ends"].as_str().unwrap_or("open")
    ));
    let mut there = Vec::new();
    for (id, credential) in existed["credentials"].as_object().into_iter().flatten() {
        let (state, anchor) = (text(&credential["state"]), text(&credential["anchor"]));
        there.push(format!("credential {id}: {state}, under {anchor}, {}", credential["match"]));
    }
    for (id, grant) in existed["grants"].as_object().into_iter().flatten() {
        let until = grant["ends"].as_str().unwrap_or("the end of the engagement");
        there.push(format!("grant {id}: {} until {until}", ids(&grant["operations"]).join(", ")));
    }
    for c in report["certificates"].as_array().into_iter().flatten() {
        let serial = c["serial"].as_str().unwrap_or("unknown");
        let (credential, until, last) = (text(&c["credential"]), text(&c["not_after"]), text(&c["last_seen"]));
        there.push(format!("certificate of {credential}: serial {serial}, valid until {until}, last seen {last}"));
    }
    let closed = &report["closed"];
    let mut ended = Vec::new();
    for (noun, key) in [("credential", "credentials"), ("grant", "grants")] {
        ended.extend(ids(&closed[key]).into_iter().map(|id| format!("{noun} {id}: revoked")));
    }
    ended.extend(ids(&closed["approvals"]).into_iter().map(|id| format!("approval {id}: void")));
    ended.extend(ids(&closed["enrolments"]).into_iter().map(|id| format!("enrolment code {id}: void")));
    if ended.is_empty() {
        ended.push("nothing was left".into());
    }
    let enforced = &report["enforced"];
    let mut when = Vec::new();
    match enforced["at"].as_str() {
        Some(at) => {
            when.push(format!("no request that came after {at} was allowed"));
            let open = enforced["open_connections"].as_u64().unwrap_or_default();
            when.push(match enforced["all_closed_at"].as_str() {
                _ if open == 0 => "no connection was open".to_owned(),
                Some(closed) => format!("{open} connections were open; the last was closed at {closed}"),
                None => format!("{open} connections were open, and some had not ended when this was written"),
            });
        }
        None => when.push("the report could not be completed: see the records".into()),
    }
    let last = &report["last_allowed"];
    when.push(match last["last"].as_str() {
        Some(at) => format!(
            "last request that was allowed: {at}, {} by {} under {}",
            text(&last["operation"]),
            text(&last["credential"]),
            text(&last["grant"])
        ),
        None => "no request was ever allowed".into(),
    });
    let first = &report["first_denied"];
    when.push(match (first["at"].as_str(), first["request"].as_str()) {
        (Some(at), Some(request)) => {
            format!("first request that was denied: {at}, {} (request {request})", text(&first["reason"]))
        }
        (Some(at), None) => format!("first handshake that was refused: {at}, {}", text(&first["reason"])),
        (None, _) => "no request has been denied since: nothing came".into(),
    });
    vec![
        ("Partner", about),
        ("What there was", there),
        ("What was closed", ended),
        ("When it was enforced", when),
        ("What is left to do elsewhere", ids(&report["left_to_do"])),
    ]
}

pub(super) fn show(report: &Value) {
    for (heading, lines) in sections(report) {
        say(heading);
        lines.iter().for_each(|line| say(&format!("  {line}")));
    }
}

/// A page without scripts, fonts or anything from elsewhere.
fn page(report: &Value) -> String {
    let title = format!("Offboarding of {}", report["partner"].as_str().unwrap_or_default());
    let title = escaped(&title);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>{title}</title>\n<style>\n\
         body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}\n\
         li {{ overflow-wrap: anywhere; }}\n@media print {{ body {{ margin: 0; }} }}\n</style>\n</head>\n<body>\n\
         <h1>{title}</h1>\n"
    );
    for (heading, lines) in sections(report) {
        let _ = writeln!(out, "<h2>{heading}</h2>\n<ul>");
        for line in lines {
            let _ = writeln!(out, "<li>{}</li>", escaped(&line));
        }
        out.push_str("</ul>\n");
    }
    out.push_str("</body>\n</html>\n");
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn page_says_what_the_terminal_says_and_runs_nothing_that_a_partner_has_written() {
        let report = json!({
            "partner": "acme", "name": "<script>alert(1)</script>", "author": "alice", "reason": "contract & all",
            "existed": {"credentials": {"acme-1": {"state": "active", "anchor": "ca", "match": {"dns": "a"}}}},
            "closed": {"credentials": ["acme-1"], "grants": [], "approvals": ["a-1"]},
            "enforced": {"at": "T", "open_connections": 2, "all_closed_at": "U"},
            "left_to_do": ["remove it"],
        });
        let page = page(&report);
        assert!(!page.contains("<script"), "{page}");
        for (_, lines) in sections(&report) {
            for line in lines {
                assert!(page.contains(&format!("<li>{}</li>", escaped(&line))), "{line}");
            }
        }
        for said in
            ["credential acme-1: revoked", "approval a-1: void", "2 connections were open; the last was closed at U"]
        {
            assert!(page.contains(said), "no `{said}` in {page}");
        }
    }
}
