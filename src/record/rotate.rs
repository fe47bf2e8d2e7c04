//! Files of records that are done with: what they are called, how many stay, and whether they are packed.
//!
//! In: that one more is done with. Out: `NAME.20261130T101500Z.1234`, where the number is that of the last checkpoint in
//! it, packed with gzip where that is asked for, and gone when there are too many, too much, or too old ones. Must never:
//! touch a file that is not called so; remove a file before its packed copy is on the disk.

use crate::clock::UnixNanos;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, SystemTime};

/// How often it is looked for what has become too old.
const AGE_INTERVAL: Duration = Duration::from_secs(600);
/// The end of a packed file, and of one that is being packed.
const PACKED: &str = ".gz";
const HALF: &str = ".gz.half";

/// When a file is done with, and how long it stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// Bytes.
    pub max_size: Option<u64>,
    /// In UTC, counted from 1970: a day ends at midnight.
    pub every: Option<Duration>,
    /// Files that are done with.
    pub keep: Option<usize>,
    pub keep_for: Option<Duration>,
    /// Bytes of all of them.
    pub keep_size: Option<u64>,
    pub compress: bool,
}

impl Rotation {
    pub(super) fn is_due(&self, size: u64, batch: usize, written: UnixNanos, now: UnixNanos) -> bool {
        let grown = size.saturating_add(u64::try_from(batch).unwrap_or(u64::MAX));
        let period = |at: UnixNanos, every: Duration| at.seconds() / every.as_secs().max(1);
        self.max_size.is_some_and(|max| grown > max)
            || self.every.is_some_and(|every| period(written, every) != period(now, every))
    }

    pub(super) fn name(&self, path: &Path, checkpoint: u64, now: UnixNanos) -> PathBuf {
        let time: String = now.to_string().chars().filter(|c| !matches!(c, '-' | ':')).take(15).collect();
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{time}Z.{checkpoint}"));
        path.with_file_name(name)
    }
}

/// A thread that packs and removes.
pub(super) struct Keeper {
    told: Sender<()>,
}

impl Keeper {
    pub(super) fn start(path: PathBuf, rotation: Rotation) -> io::Result<Keeper> {
        let (told, listen) = channel();
        std::thread::Builder::new().name("record-keeper".into()).spawn(move || {
            loop {
                if let Err(e) = keep(&path, &rotation, SystemTime::now()) {
                    tracing::error!(error = %e, "files of records cannot be packed or removed; it is tried again");
                }
                match listen.recv_timeout(AGE_INTERVAL) {
                    Ok(()) => while listen.try_recv().is_ok() {},
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        })?;
        Ok(Keeper { told })
    }

    /// One more file is done with.
    pub(super) fn look(&self) {
        // The thread ends only with this.
        let _ = self.told.send(());
    }
}

/// A file that is done with.
struct Done {
    path: PathBuf,
    checkpoint: u64,
    packed: bool,
}

fn keep(path: &Path, rotation: &Rotation, now: SystemTime) -> io::Result<()> {
    let mut files = done(path)?;
    let mut failed = None;
    if rotation.compress {
        for file in files.iter_mut().filter(|file| !file.packed) {
            match pack(&file.path) {
                Ok(packed) => (file.path, file.packed) = (packed, true),
                // What cannot be packed can be removed all the same.
                Err(e) => failed = failed.or(Some(e)),
            }
        }
    }
    let (mut count, mut size) = (0, 0_u64);
    for file in files.iter().rev() {
        let meta = std::fs::metadata(&file.path)?;
        count += 1;
        size = size.saturating_add(meta.len());
        let age = meta.modified().ok().and_then(|then| now.duration_since(then).ok()).unwrap_or_default();
        let too_many = rotation.keep.is_some_and(|most| count > most);
        let too_much = rotation.keep_size.is_some_and(|most| size > most);
        if too_many || too_much || rotation.keep_for.is_some_and(|most| age > most) {
            tracing::info!(file = %file.path.display(), "a file of records is removed, as record.rotate says");
            std::fs::remove_file(&file.path)?;
        }
    }
    failed.map_or(Ok(()), Err)
}

/// By the checkpoint that each ends with. What was left half packed is removed.
fn done(path: &Path) -> io::Result<Vec<Done>> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let prefix = format!("{}.", path.file_name().unwrap_or_default().to_string_lossy());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(&prefix) else { continue };
        if let Some(of) = rest.strip_suffix(HALF) {
            if checkpoint_of(of).is_some() {
                std::fs::remove_file(entry.path())?;
            }
            continue;
        }
        let (plain, packed) = rest.strip_suffix(PACKED).map_or((rest, false), |plain| (plain, true));
        if let Some(checkpoint) = checkpoint_of(plain) {
            found.push(Done { path: entry.path(), checkpoint, packed });
        }
    }
    found.sort_by_key(|file| (file.checkpoint, file.packed));
    Ok(found)
}

/// Of `20261130T101500Z.1234`.
fn checkpoint_of(rest: &str) -> Option<u64> {
    let (time, number) = rest.split_once('.')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (day, second) = time.strip_suffix('Z')?.split_once('T')?;
    (day.len() == 8 && second.len() == 6 && digits(day) && digits(second) && digits(number))
        .then(|| number.parse().ok())
        .flatten()
}

fn pack(path: &Path) -> io::Result<PathBuf> {
    let with = |end: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    let (half, packed) = (with(HALF), with(PACKED));
    let mut from = File::open(path)?;
    let to = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&half)?;
    let mut encoder = GzEncoder::new(to, Compression::default());
    io::copy(&mut from, &mut encoder)?;
    let to = encoder.finish()?;
    // How old it is, is how old its records are.
    to.set_modified(from.metadata()?.modified()?)?;
    to.sync_all()?;
    std::fs::rename(&half, &packed)?;
    std::fs::remove_file(path)?;
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).unwrap().flatten();
        let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn file_is_done_with_when_it_would_be_too_large_or_a_new_period_begins() {
        let size = Rotation { max_size: Some(100), ..Rotation::default() };
        let at = UnixNanos(1_700_000_000_000_000_000);
        assert!(!size.is_due(60, 40, at, at) && size.is_due(60, 41, at, at));
        let day = Rotation { every: Some(DAY), ..Rotation::default() };
        let midnight = UnixNanos(19_700 * 86_400 * 1_000_000_000);
        assert!(day.is_due(1, 1, UnixNanos(midnight.0 - 1), midnight));
        assert!(!day.is_due(1, 1, midnight, midnight.saturating_add(DAY - Duration::from_secs(1))));
        let name = day.name(Path::new("/x/records.jsonl"), 7, UnixNanos(midnight.0 + 1));
        assert_eq!(name, Path::new("/x/records.jsonl.20231209T000000Z.7"));
    }

    #[test]
    fn only_files_that_are_called_so_are_packed_and_removed_oldest_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.jsonl");
        let others = ["r.jsonl", "r.jsonl.1", "r.jsonl.gz", "r.jsonl.20261130T101500Z.x", "other.20261130T101500Z.1"];
        for name in others {
            std::fs::write(folder.path().join(name), "x").unwrap();
        }
        for n in [9_u64, 10, 11] {
            std::fs::write(folder.path().join(format!("r.jsonl.20261130T1015{n:02}Z.{n}")), "line\n".repeat(1000))
                .unwrap();
        }
        std::fs::write(folder.path().join("r.jsonl.20261130T101500Z.8.gz.half"), "x").unwrap();
        let rotation = Rotation { keep: Some(2), compress: true, ..Rotation::default() };
        keep(&path, &rotation, SystemTime::now()).unwrap();
        let mut left: Vec<String> = others.map(str::to_owned).to_vec();
        left.extend(["r.jsonl.20261130T101510Z.10.gz".into(), "r.jsonl.20261130T101511Z.11.gz".into()]);
        left.sort();
        assert_eq!(names(folder.path()), left);

        let packed = File::open(folder.path().join("r.jsonl.20261130T101511Z.11.gz")).unwrap();
        let mut text = String::new();
        io::Read::read_to_string(&mut flate2::read::GzDecoder::new(packed), &mut text).unwrap();
        assert_eq!(text, "line\n".repeat(1000));

        let by_size = Rotation { keep_size: Some(1), ..Rotation::default() };
        keep(&path, &by_size, SystemTime::now()).unwrap();
        assert_eq!(names(folder.path()).len(), others.len());
        std::fs::write(folder.path().join("r.jsonl.20261130T101512Z.12"), "x").unwrap();
        let by_age = Rotation { keep_for: Some(DAY), ..Rotation::default() };
        keep(&path, &by_age, SystemTime::now() + DAY / 2).unwrap();
        assert_eq!(names(folder.path()).len(), others.len() + 1);
        keep(&path, &by_age, SystemTime::now() + DAY * 2).unwrap();
        assert_eq!(names(folder.path()).len(), others.len());
    }
}
