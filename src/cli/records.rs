//! Files of records, as `audit verify` is given them: in the order in which they were written, whether rotated or packed.

use super::{Exit, complain};
use crate::record::{LinePlace, RecordCheckpoint};
use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a line of records begins with; what does not may be the rest of one.
const BEGINNING: &[u8] = b"{\"schema\":\"partnergate.record/";
/// Longest line: a checkpoint of a great batch has 8 bytes for each line.
const MAX_LINE: usize = 256 << 20;
/// Bytes between two parts that are read.
const BUFFER: usize = 1 << 20;
/// Lines at the beginning of a file of which one has to be a record.
const LOOKED_AT: usize = 100;
/// Files that are held open.
const HELD: usize = 500;
/// Times that folders are looked at.
const TRIES: usize = 5;

/// Files in order.
pub(super) struct RecordFiles {
    files: Vec<Opened>,
}

/// A file. The newest are held open: they stay the same ones whatever they are called meanwhile.
struct Opened {
    path: PathBuf,
    file: Option<File>,
}

/// What a file begins with.
struct Beginning {
    path: PathBuf,
    boot: String,
    seq: u64,
    node: String,
    /// Of its first checkpoint.
    number: Option<u64>,
}

#[derive(Deserialize)]
struct Head {
    node: String,
    boot: String,
    seq: u64,
}

impl RecordFiles {
    /// Of files, and of folders all files that have records in them.
    ///
    /// # Errors
    /// One of them cannot be read, or there is none.
    pub fn find(given: &[PathBuf]) -> Result<RecordFiles, Exit> {
        // A gateway that runs may begin its file anew meanwhile, or pack one.
        for _ in 0..TRIES {
            let before = names(given);
            let found = Self::find_once(given);
            if names(given) != before {
                continue;
            }
            let (files, skipped) = found?;
            for path in skipped {
                complain(&format!("{}: left out, since no record is in it", path.display()));
            }
            return Ok(RecordFiles { files });
        }
        complain("the files of records change while they are looked at: try again, or name single files");
        Err(Exit::Failed)
    }

    /// The files, and of folders what has no records in it.
    fn find_once(given: &[PathBuf]) -> Result<(Vec<Opened>, Vec<PathBuf>), Exit> {
        let fail = |path: &Path, e: &dyn std::fmt::Display| {
            complain(&format!("{}: {e}", path.display()));
            Exit::Failed
        };
        let (mut found, mut skipped) = (Vec::new(), Vec::new());
        for path in given {
            if !path.is_dir() {
                let unreadable = || fail(path, &"no record is in it");
                let beginning = beginning(path).map_err(|e| fail(path, &e))?;
                // A file that was begun just now has none.
                if std::fs::metadata(path).is_ok_and(|meta| meta.len() > 0) || beginning.is_some() {
                    found.push(beginning.ok_or_else(unreadable)?);
                }
                continue;
            }
            let entries = std::fs::read_dir(path).map_err(|e| fail(path, &e))?;
            for entry in entries {
                let path = entry.map_err(|e| fail(path, &e))?.path();
                if path.is_file() {
                    match beginning(&path) {
                        Ok(Some(beginning)) => found.push(beginning),
                        Ok(None) | Err(_) => skipped.push(path),
                    }
                }
            }
        }
        // Named twice, by itself and with its folder, say.
        let mut known = BTreeSet::new();
        found.retain(|b| {
            let is_new = known.insert(std::fs::canonicalize(&b.path).unwrap_or_else(|_| b.path.clone()));
            if !is_new {
                complain(&format!("{}: is named twice, and read once", b.path.display()));
            }
            is_new
        });
        // Packed just now: its copy is whole, and it will be gone.
        let packed =
            |path: &Path| path.with_extension(format!("{}.gz", path.extension().unwrap_or_default().display()));
        let there: BTreeSet<PathBuf> = found.iter().map(|b| b.path.clone()).collect();
        found.retain(|b| !there.contains(&packed(&b.path)));
        if found.is_empty() {
            complain("there are no records in what --records names");
            return Err(Exit::Failed);
        }
        skipped.sort();
        Ok((in_order(found)?, skipped))
    }

    pub fn paths(self) -> impl Iterator<Item = PathBuf> {
        self.files.into_iter().map(|opened| opened.path)
    }

    /// Gives the lines of all files one after another, each with its line feed where it has one. A line that goes on in the
    /// next file is given whole.
    ///
    /// # Errors
    /// What `take` says, or that a file cannot be read.
    pub fn each<E>(
        &self,
        mut take: impl FnMut(&LinePlace, &[u8]) -> Result<(), E>,
        fail: impl Fn(&Path, &io::Error) -> E,
    ) -> Result<(), E> {
        let mut cut: Option<(LinePlace, Vec<u8>)> = None;
        for Opened { path, file } in &self.files {
            let name: Arc<str> = path.display().to_string().into();
            let file = file.as_ref().map_or_else(|| File::open(path), File::try_clone);
            let mut reader = file.and_then(reader_of).map_err(|e| fail(path, &e))?;
            let (mut line, mut number) = (Vec::new(), 0);
            while read_line(&mut reader, &mut line).map_err(|e| fail(path, &e))? {
                number += 1;
                let place = LinePlace { file: name.clone(), line: number };
                match cut.take() {
                    Some((place, mut beginning)) if !line.starts_with(BEGINNING) => {
                        beginning.append(&mut line);
                        take(&place, &beginning)?;
                        continue;
                    }
                    Some((place, beginning)) => take(&place, &beginning)?,
                    None => {}
                }
                if line.ends_with(b"\n") {
                    take(&place, &line)?;
                } else {
                    cut = Some((place, std::mem::take(&mut line)));
                }
            }
        }
        cut.map_or(Ok(()), |(place, line)| take(&place, &line))
    }
}

/// By the first checkpoint of each. A file without any stands behind the one that its beginning follows.
fn in_order(mut found: Vec<Beginning>) -> Result<Vec<Opened>, Exit> {
    let numbered: Vec<(String, String, u64, u64)> =
        found.iter().filter_map(|b| Some((b.node.clone(), b.boot.clone(), b.seq, b.number?))).collect();
    found.sort_by_cached_key(|b| {
        let of_boot = numbered.iter().filter(|(node, boot, ..)| *node == b.node && *boot == b.boot);
        let before = of_boot.filter(|(.., seq, _)| *seq < b.seq).map(|(.., number)| *number).max();
        let number = b.number.or(before).unwrap_or(u64::MAX);
        (b.node.clone(), number, b.number.is_none(), b.boot.clone(), b.seq, b.path.clone())
    });
    let old = found.len().saturating_sub(HELD);
    let open = |(n, Beginning { path, .. }): (usize, Beginning)| {
        let file = (n >= old).then(|| File::open(&path)).transpose().map_err(|e| {
            complain(&format!("{}: {e}", path.display()));
            Exit::Failed
        })?;
        Ok(Opened { path, file })
    };
    found.into_iter().enumerate().map(open).collect()
}

/// Everything in folders that are named.
fn names(given: &[PathBuf]) -> BTreeSet<PathBuf> {
    let folders = given.iter().filter_map(|path| std::fs::read_dir(path).ok());
    folders.flatten().flatten().map(|entry| entry.path()).collect()
}

/// `None` where there is no record among the first lines.
fn beginning(path: &Path) -> io::Result<Option<Beginning>> {
    let mut reader = reader_of(File::open(path)?)?;
    let (mut line, mut lines) = (Vec::new(), 0);
    let mut found: Option<Beginning> = None;
    while read_line(&mut reader, &mut line)? {
        lines += 1;
        match &mut found {
            None if lines > LOOKED_AT => return Ok(None),
            None => {
                if let Ok(Head { node, boot, seq }) = serde_json::from_slice(&line) {
                    found = Some(Beginning { path: path.to_owned(), boot, seq, node, number: None });
                }
            }
            Some(_) => {}
        }
        if let (Some(found), Some(number)) = (&mut found, number(&line)) {
            found.number = Some(number);
            break;
        }
    }
    Ok(found)
}

/// Of a checkpoint.
fn number(line: &[u8]) -> Option<u64> {
    const KIND: &[u8] = b"\"kind\":\"checkpoint\"";
    line.windows(KIND.len()).take(1024).find(|at| *at == KIND)?;
    serde_json::from_slice::<RecordCheckpoint>(line).ok().map(|checkpoint| checkpoint.number)
}

fn reader_of(mut file: File) -> io::Result<Box<dyn BufRead>> {
    file.rewind()?;
    unpacked(file)
}

/// What was packed with gzip is told by its first bytes.
pub(super) fn unpacked(file: File) -> io::Result<Box<dyn BufRead>> {
    let mut reader = BufReader::with_capacity(BUFFER, file);
    let packed = reader.fill_buf()?.starts_with(&[0x1f, 0x8b]);
    Ok(if packed { Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(reader))) } else { Box::new(reader) })
}

fn read_line(reader: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
    let read = reader.take(limit).read_until(b'\n', line)?;
    if read == MAX_LINE {
        return Err(io::Error::other(format!("a line has more than {MAX_LINE} bytes")));
    }
    Ok(read > 0)
}
