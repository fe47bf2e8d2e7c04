//! The walk-through of `docs/policy.md`, word for word.

use crate::harness::{HOST, Setup, program, run};
use serde_json::json;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Blocks of a page behind its last heading: commands, and what is expected of all that came before.
enum Block {
    Commands(String),
    Expected(Vec<String>),
}

fn blocks(heading: &str) -> Vec<Block> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/policy.md")).unwrap();
    let (_, section) = page.split_once(heading).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let mut found = Vec::new();
    let mut lines = section.lines();
    while let Some(line) = lines.next() {
        let Some(kind) = line.strip_prefix("```") else { continue };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        found.push(match kind {
            "sh" => Block::Commands(block.join("\n")),
            "text" => Block::Expected(block.into_iter().map(str::to_owned).collect()),
            other => panic!("a block of `{other}`"),
        });
    }
    found
}

/// Whether a line is as it is expected; `…` stands for anything in it.
fn is_like(line: &str, expected: &str) -> bool {
    let mut rest = line;
    let mut parts = expected.split('…');
    match parts.next().and_then(|first| rest.strip_prefix(first)) {
        Some(behind) => rest = behind,
        None => return false,
    }
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Whether lines are as expected; a line of `…` alone stands for any number of them.
fn are_like(lines: &[&str], expected: &[&str]) -> bool {
    match (lines.split_first(), expected.split_first()) {
        (None, None) => true,
        (_, Some((&"…", rest))) => (0..=lines.len()).any(|n| are_like(&lines[n..], rest)),
        (Some((line, lines)), Some((wanted, expected))) => is_like(line, wanted) && are_like(lines, expected),
        _ => false,
    }
}

#[test]
fn walk_through_of_the_workbench_is_what_happens_word_for_word() {
    let (setup, _) = Setup::new().set("reload.interval", "1h").own_policies();
    let next = setup.dir.path().join("policies-next");
    let gate = setup.set("policy.candidate", json!({"dir": next})).start();
    let folder = gate.dir.path();
    let (address, acme) = (gate.address(), &gate.acme);
    let curl = format!(
        "silent\nnoproxy = \"*\"\noutput = /dev/null\nwrite-out = \"%{{http_code}}\\n\"\nresolve = \"{HOST}:443:{}\"\n\
         connect-to = \"{HOST}:443:{address}\"\ncacert = \"{}\"\ncert = \"{}\"\nkey = \"{}\"\n",
        address.ip(),
        gate.server_ca.pem_file.display(),
        acme.chain_file.display(),
        acme.key_file.display()
    );
    fs::write(folder.join("acme.curl"), curl).unwrap();
    let mark = |n: usize| format!("=== {n} ===");
    let blocks = blocks("\n## From the first line to live\n");
    let mut script = String::from("set -euo pipefail\n");
    for (n, block) in blocks.iter().enumerate() {
        if let Block::Commands(commands) = block {
            writeln!(script, "echo '{}'\n{commands}", mark(n)).unwrap();
        }
    }
    let path = format!("{}:{}", Path::new(&program()).parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut bash = Command::new("bash");
    bash.args(["-c", &script]).current_dir(folder).env("PATH", path).env("PARTNERGATE_CONFIG", gate.config_file());
    let done = run(&mut bash, b"");
    let all = done.text();
    assert_eq!(done.exit, Some(0), "{all}\n{}", done.stderr);
    let (mut said, mut compared) = (Vec::new(), 0);
    for (n, block) in blocks.iter().enumerate() {
        match block {
            Block::Commands(_) => {
                let (_, behind) = all.split_once(&format!("{}\n", mark(n))).unwrap();
                said = behind.split("=== ").next().unwrap().lines().collect();
            }
            Block::Expected(expected) => {
                let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
                assert!(are_like(&said, &expected), "expected:\n{}\n\ngot:\n{}", expected.join("\n"), said.join("\n"));
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 6);
}
