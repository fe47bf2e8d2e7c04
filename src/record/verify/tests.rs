use super::super::checkpoint::Chain;
use super::*;
use crate::clock::UnixNanos;
use crate::history::Signer;
use std::path::{Path, PathBuf};

struct World {
    folder: tempfile::TempDir,
    key: Vec<u8>,
}

/// What one start of the gateway writes.
struct Boot {
    chain: Chain,
    boot: String,
    seq: u64,
    lost: Option<RecordsLost>,
}

impl World {
    fn new() -> Self {
        World { folder: tempfile::tempdir().unwrap(), key: Signer::generate().unwrap() }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("records.jsonl")
    }

    fn signer(&self) -> Signer {
        Signer::from_pkcs8(&self.key).unwrap()
    }

    fn start(&self, boot: &str) -> Boot {
        let kept = self.folder.path().join("record.end");
        let (chain, lost) = Chain::open(self.signer(), ("n", boot), &kept, Some(&self.file())).unwrap();
        let mut started = Boot { chain, boot: boot.into(), seq: 0, lost };
        if let Some(lost) = started.lost.clone() {
            let fields = serde_json::to_string(&lost).unwrap();
            let line = started.line(&format!("\"kind\":\"records-lost\",{}", &fields[1..fields.len() - 1]));
            started.batch(self, &line, false);
        }
        started
    }

    fn put(&self, text: &str) {
        use std::io::Write;
        let mut file = std::fs::File::options().create(true).append(true).open(self.file()).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn text(&self) -> String {
        std::fs::read_to_string(self.file()).unwrap()
    }

    fn end(&self) -> RecordEnd {
        RecordEnd::read(&self.folder.path().join("record.end")).unwrap()
    }

    fn verify(&self, text: &str) -> Result<NodeRecords, RecordFault> {
        self.verify_to(text, None)
    }

    fn verify_to(&self, text: &str, known: Option<&RecordEnd>) -> Result<NodeRecords, RecordFault> {
        let mut verifier = RecordVerifier::new(vec![self.signer().key()]);
        for (n, line) in text.split_inclusive('\n').enumerate() {
            let place = LinePlace { file: "f".into(), line: n as u64 + 1 };
            verifier.line(&place, line.as_bytes())?;
        }
        verifier.finish(known).map(|mut nodes| nodes.remove(0))
    }

    /// What is wrong with this text: kind, line and seq.
    fn fault(&self, text: &str) -> (RecordFaultKind, u64, Option<u64>) {
        let fault = self.verify(text).unwrap_err();
        (fault.kind, fault.line, fault.seq)
    }

    /// Three batches of three records each: lines 1 to 3 and a checkpoint, 5 to 7 and a checkpoint, …
    fn three_batches(&self) -> Vec<String> {
        let mut boot = self.start("b1");
        for _ in 0..3 {
            let lines: String = (0..3).map(|n| boot.line(&format!("\"kind\":\"request\",\"n\":{n}"))).collect();
            boot.batch(self, &lines, false);
        }
        self.text().split_inclusive('\n').map(str::to_owned).collect()
    }
}

impl Boot {
    fn line(&mut self, rest: &str) -> String {
        self.seq += 1;
        format!(
            "{{\"schema\":\"partnergate.record/1\",\"node\":\"n\",\"boot\":\"{}\",\"seq\":{},{rest}}}\n",
            self.boot, self.seq
        )
    }

    fn batch(&mut self, world: &World, lines: &str, last: bool) {
        self.seq += 1;
        let checkpoint = self.chain.close(lines.as_bytes(), self.seq, UnixNanos(0), last);
        world.put(lines);
        world.put(std::str::from_utf8(&checkpoint).unwrap());
        self.chain.keep();
    }
}

#[test]
fn records_as_they_were_written_are_good_and_the_end_is_known() {
    let world = World::new();
    let mut boot = world.start("b1");
    let lines = boot.line("\"kind\":\"request\"") + &boot.line("\"kind\":\"request\"");
    boot.batch(&world, &lines, false);
    boot.batch(&world, "", true);
    let mut boot = world.start("b2");
    assert_eq!(boot.lost, None);
    let lines = boot.line("\"kind\":\"request\"");
    boot.batch(&world, &lines, false);
    world.put(&boot.line("\"kind\":\"request\""));
    let found = world.verify_to(&world.text(), Some(&world.end())).unwrap();
    assert_eq!((found.lines, found.checkpoints, found.first, found.unfinished), (3, 3, 1, 1), "{found:?}");
    assert_eq!(found.end.unwrap().seq, 2);
}

#[test]
fn first_line_that_is_not_as_it_was_written_is_named() {
    use RecordFaultKind::{Altered, Inserted, Missing, Moved};
    let world = World::new();
    let good = world.three_batches();
    world.verify(&good.concat()).unwrap();
    let with = |change: &dyn Fn(&mut Vec<String>)| {
        let mut lines = good.clone();
        change(&mut lines);
        world.fault(&lines.concat())
    };
    let altered = |line: &str| line.replace("request", "handshake");
    assert_eq!(with(&|l| l[5] = altered(&l[5])), (Altered, 6, Some(6)));
    assert_eq!(with(&|l| l[5] = l[5].replace("\"seq\":6", "\"seq\":7")), (Altered, 6, Some(6)));
    assert_eq!(with(&|l| l[5] = "not JSON\n".into()), (Altered, 6, Some(6)));
    assert_eq!(with(&|l| drop(l.remove(5))), (Missing, 6, Some(6)));
    assert_eq!(with(&|l| drop(l.remove(6))), (Missing, 7, Some(7)));
    assert_eq!(with(&|l| l.swap(4, 5)), (Moved, 5, Some(6)));
    assert_eq!(with(&|l| l.insert(5, l[5].clone().replace("request", "x"))), (Inserted, 6, Some(6)));
    assert_eq!(with(&|l| l.insert(7, l[5].clone().replace("request", "x"))), (Inserted, 8, Some(6)));
    assert_eq!(with(&|l| l.insert(5, "not JSON\n".into())), (Inserted, 6, None));
    // Both: the first is named.
    assert_eq!(
        with(&|l| {
            l[4] = altered(&l[4]);
            l.remove(6);
        }),
        (Altered, 5, Some(5))
    );
    // A batch and its checkpoint, or the checkpoint alone.
    assert_eq!(with(&|l| drop(l.drain(4..8))), (Missing, 8, Some(5)));
    assert_eq!(with(&|l| drop(l.remove(7))), (Missing, 11, Some(8)));
    assert_eq!(with(&|l| l[7] = l[7].replace("\"first\":5", "\"first\":6")), (Altered, 8, Some(8)));
    assert_eq!(with(&|l| l.rotate_left(4)), (Moved, 12, Some(4)));
    // Of another boot, at the beginning of a batch and within.
    let other = |line: &str| line.replace("b1", "b2");
    assert_eq!(with(&|l| l.insert(4, other(&l[4]))), (Inserted, 5, Some(5)));
    assert_eq!(with(&|l| l.insert(5, other(&l[4]))), (Inserted, 6, Some(5)));
    // Behind the last checkpoint only numbers can tell.
    assert_eq!(with(&|l| l.push(l[0].clone())), (Inserted, 13, Some(1)));
    assert_eq!(with(&|l| l.push(l[0].replace("\"seq\":1,", "\"seq\":14,"))), (Missing, 13, Some(13)));
}

#[test]
fn line_that_stands_twice_is_named_with_where_it_stands_first() {
    let world = World::new();
    let (good, first) = (world.three_batches().concat(), world.text());
    let of = |text: &str, n: usize| text.split_inclusive('\n').nth(n).unwrap().to_owned();
    let fault = world.verify(&(good + &of(&first, 5))).unwrap_err();
    assert_eq!((fault.kind, fault.line, fault.seq), (RecordFaultKind::Inserted, 13, Some(6)));
    assert!(fault.detail.contains("it stands twice, first in f:6"), "{fault}");
    // Of an earlier start too, its very first line among them; and of what no checkpoint is for yet.
    let mut boot = world.start("b2");
    let lines = boot.line("\"kind\":\"request\"");
    boot.batch(&world, &lines, false);
    world.put(&(boot.line("\"kind\":\"request\"") + &boot.line("\"kind\":\"request\"")));
    let text = world.text();
    world.verify(&text).unwrap();
    let count = text.lines().count();
    for (n, line) in [(0, 1), (12, 13), (count - 2, count - 1)] {
        let fault = world.verify(&(text.clone() + &of(&text, n))).unwrap_err();
        assert!(fault.detail.contains(&format!("it stands twice, first in f:{line}")), "{fault}");
    }
}

#[test]
fn what_is_no_record_is_not_good_behind_the_last_checkpoint_either() {
    let world = World::new();
    let good = world.three_batches().concat();
    for tail in ["garbage\n", "garbage\ngarbage", "{}\n"] {
        let fault = world.verify(&format!("{good}{tail}")).unwrap_err();
        assert_eq!((fault.kind, fault.line), (RecordFaultKind::Inserted, 13), "{tail}: {fault}");
        assert!(fault.detail.contains("is no record"), "{fault}");
    }
    // What a gateway that was killed has left of its last line is nobody's fault.
    let cut = "{\"schema\":\"partnergate.record/1\",\"no";
    assert_eq!(world.verify(&format!("{good}{cut}")).unwrap().unfinished, 1);
    let next =
        "{\"schema\":\"partnergate.record/1\",\"node\":\"n\",\"boot\":\"b2\",\"seq\":1,\"kind\":\"records-lost\"}\n";
    assert_eq!(world.verify(&format!("{good}{cut}\n{next}")).unwrap().unfinished, 2);
}

#[test]
fn end_that_was_taken_away_is_missed_by_whoever_knows_how_far_it_came() {
    let world = World::new();
    let good = world.three_batches();
    let short = good[..8].concat();
    assert_eq!(world.verify(&short).unwrap().checkpoints, 2, "nothing in the files tells");
    let fault = world.verify_to(&short, Some(&world.end())).unwrap_err();
    assert_eq!((fault.kind, fault.seq), (RecordFaultKind::Missing, Some(12)), "{fault}");
}

#[test]
fn nothing_that_another_key_has_signed_counts_and_nothing_that_no_key_has() {
    let (world, other) = (World::new(), World::new());
    let good = world.three_batches();
    let fault = other.verify(&good.concat()).unwrap_err();
    assert_eq!((fault.kind, fault.line), (RecordFaultKind::Unsigned, 4), "{fault}");
    let bare: String = good.iter().filter(|l| !l.contains("checkpoint")).cloned().collect();
    assert_eq!(world.verify(&bare).unwrap_err().kind, RecordFaultKind::Unsigned);
}

#[test]
fn files_may_begin_later_than_the_records_did() {
    let world = World::new();
    let good = world.three_batches();
    let found = world.verify(&good[4..].concat()).unwrap();
    assert_eq!((found.first, found.before, found.lines), (2, 0, 6));
    // In the middle of a batch.
    let found = world.verify(&good[5..].concat()).unwrap();
    assert_eq!((found.first, found.before, found.lines), (2, 2, 3));
    let mut lines = good[5..].to_vec();
    lines[0] = lines[0].replace("request", "x");
    assert_eq!(world.fault(&lines.concat()).0, RecordFaultKind::Altered);
}

#[test]
fn start_after_a_kill_tells_what_it_found_and_nobody_alters_that_afterwards() {
    let world = World::new();
    let mut boot = world.start("b1");
    let lines = boot.line("\"kind\":\"request\"");
    boot.batch(&world, &lines, false);
    let whole = boot.line("\"kind\":\"request\"");
    let cut = boot.line("\"kind\":\"request\"");
    world.put(&(whole + &cut[..40]));

    let mut file = std::fs::File::options().append(true).open(world.file()).unwrap();
    let before = world.start_alone();
    let lost = before.1.unwrap();
    assert_eq!((lost.since.boot.as_str(), lost.since.seq, lost.ended), ("b1", 2, false));
    let tail = lost.found.as_ref().unwrap();
    assert_eq!((tail.lines, tail.partial), (2, true));
    super::super::checkpoint::end_line(&mut file, &world.file()).unwrap();
    let mut boot = world.start_with(before.0, "b2", lost);
    let lines = boot.line("\"kind\":\"request\"");
    boot.batch(&world, &lines, false);

    let good = world.text();
    let found = world.verify(&good).unwrap();
    assert_eq!(found.lost, [LostRecords { boot: "b1".into(), seq: 2, unsigned: 2, checkpoints: 0 }]);
    let lines: Vec<&str> = good.split_inclusive('\n').collect();
    let altered = good.replace(lines[2], &lines[2].replace("request", "x"));
    assert_eq!(world.fault(&altered), (RecordFaultKind::Altered, 3, Some(3)));
    let without = [&lines[..2], &lines[4..]].concat().concat();
    assert_eq!(world.fault(&without).0, RecordFaultKind::Missing);
    let more = [&lines[..4], &lines[2..3], &lines[4..]].concat().concat();
    assert_eq!(world.fault(&more), (RecordFaultKind::Altered, 3, Some(3)));
}

#[test]
fn checkpoints_that_are_gone_at_a_start_are_told_of_and_are_a_fault_after_an_orderly_end() {
    for ended in [false, true] {
        let world = World::new();
        let good = world.three_batches();
        if ended {
            let mut chain = world.start("b2");
            chain.batch(&world, "", true);
        }
        std::fs::write(world.file(), good[..8].concat()).unwrap();
        let mut boot = world.start("b3");
        let lost = boot.lost.clone().unwrap();
        assert_eq!((lost.since.checkpoint, lost.ended), (2, ended), "{lost:?}");
        let lines = boot.line("\"kind\":\"request\"");
        boot.batch(&world, &lines, false);
        match world.verify(&world.text()) {
            Ok(found) => assert_eq!((ended, found.lost[0].checkpoints), (false, 1)),
            Err(fault) => {
                assert_eq!((ended, fault.kind, fault.seq), (true, RecordFaultKind::Missing, Some(9)), "{fault}")
            }
        }
    }
}

#[test]
fn records_of_a_version_without_checkpoints_stay_and_are_counted() {
    let world = World::new();
    world.put("{\"schema\":\"partnergate.record/1\",\"node\":\"n\",\"boot\":\"b0\",\"seq\":1,\"kind\":\"request\"}\n");
    let mut boot = world.start("b1");
    assert_eq!(boot.lost, None);
    let lines = boot.line("\"kind\":\"request\"");
    boot.batch(&world, &lines, false);
    let found = world.verify(&world.text()).unwrap();
    assert_eq!((found.before, found.lines, found.first), (1, 1, 1));
}

#[test]
fn records_of_several_nodes_in_one_file_are_told_apart() {
    let world = World::new();
    let good = world.three_batches();
    let other = World { folder: tempfile::tempdir().unwrap(), key: world.key.clone() };
    let kept = other.folder.path().join("record.end");
    let (mut chain, _) = Chain::open(other.signer(), ("m", "b9"), &kept, None).unwrap();
    let line = "{\"schema\":\"partnergate.record/1\",\"node\":\"m\",\"boot\":\"b9\",\"seq\":1,\"kind\":\"request\"}\n";
    let checkpoint = String::from_utf8(chain.close(line.as_bytes(), 2, UnixNanos(0), false)).unwrap();
    let mut lines = good.clone();
    lines.insert(2, line.into());
    lines.insert(6, checkpoint);
    let mut verifier = RecordVerifier::new(vec![world.signer().key()]);
    for (n, line) in lines.iter().enumerate() {
        verifier.line(&LinePlace { file: "f".into(), line: n as u64 + 1 }, line.as_bytes()).unwrap();
    }
    let nodes: Vec<(String, u64)> = verifier.finish(None).unwrap().into_iter().map(|n| (n.node, n.lines)).collect();
    assert_eq!(nodes, [("m".to_owned(), 1), ("n".to_owned(), 9)]);
}

impl World {
    /// A start up to where it has written nothing yet.
    fn start_alone(&self) -> (Chain, Option<RecordsLost>) {
        let kept: &Path = &self.folder.path().join("record.end");
        Chain::open(self.signer(), ("n", "b2"), kept, Some(&self.file())).unwrap()
    }

    fn start_with(&self, chain: Chain, boot: &str, lost: RecordsLost) -> Boot {
        let mut started = Boot { chain, boot: boot.into(), seq: 0, lost: None };
        let fields = serde_json::to_string(&lost).unwrap();
        let line = started.line(&format!("\"kind\":\"records-lost\",{}", &fields[1..fields.len() - 1]));
        started.batch(self, &line, false);
        started
    }
}
