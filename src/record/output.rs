//! Where lines go: stdout, or a file that is begun anew when it is large or old enough, or when somebody has moved it away.
//!
//! In: batches of whole lines. Out: bytes in their order, each batch in one file. Must never: lose a line to a file that
//! was begun anew.

use super::checkpoint::end_line;
use super::rotate::{Keeper, Rotation};
use crate::clock::UnixNanos;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often it is looked whether the file was moved away.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    Stdout,
    /// Opened for appending, mode 0600; opened again when it was moved or removed, so that logrotate works.
    File(PathBuf),
}

impl Sink {
    pub fn as_str(&self) -> &'static str {
        match self {
            Sink::Stdout => "stdout",
            Sink::File(_) => "file",
        }
    }
}

/// One sink, and how far it has come with the batch that is written now.
pub(super) struct Output {
    sink: Sink,
    file: Option<File>,
    rotation: Option<(Rotation, Keeper)>,
    /// Bytes of the file, and when it was written last.
    size: u64,
    written: UnixNanos,
    looked: Instant,
    pub(super) failing: bool,
    /// Bytes of the batch that are written.
    pub(super) done: usize,
}

impl Output {
    /// # Errors
    /// The file cannot be opened.
    pub(super) fn open(sink: Sink, rotation: Option<Rotation>) -> io::Result<Output> {
        let rotation = match (&sink, rotation) {
            (Sink::File(path), Some(rotation)) => Some((rotation.clone(), Keeper::start(path.clone(), rotation)?)),
            _ => None,
        };
        let mut output = Output {
            sink,
            file: None,
            rotation,
            size: 0,
            written: UnixNanos(0),
            looked: Instant::now(),
            failing: false,
            done: 0,
        };
        output.open_file()?;
        Ok(output)
    }

    pub(super) fn name(&self) -> &'static str {
        self.sink.as_str()
    }

    /// Before the first byte of a batch: begins the file anew where that is due. `checkpoint` is the number of the last one
    /// in the file. What goes wrong keeps the file that is there.
    ///
    /// # Errors
    /// Why it was not begun anew.
    pub(super) fn begin(&mut self, batch: usize, checkpoint: u64, now: UnixNanos) -> io::Result<()> {
        self.done = 0;
        let Sink::File(path) = self.sink.clone() else { return Ok(()) };
        let Some((rotation, _)) = &self.rotation else { return Ok(()) };
        let due = self.size > 0 && rotation.is_due(self.size, batch, self.written, now);
        // What has no checkpoint yet was written before there were any.
        if due && self.is_in_its_place(&path) {
            let name = rotation.name(&path, checkpoint, now);
            if name.exists() {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("`{}` exists", name.display())));
            }
            std::fs::rename(&path, name)?;
            self.file = None;
            if let Some((_, keeper)) = &self.rotation {
                keeper.look();
            }
            self.open_file()?;
        }
        self.written = now;
        Ok(())
    }

    /// Writes some of what is left of the batch.
    ///
    /// # Errors
    /// Nothing was written.
    pub(super) fn write(&mut self, batch: &[u8]) -> io::Result<()> {
        let rest = batch.get(self.done..).unwrap_or_default();
        let n = match &self.sink {
            Sink::Stdout => {
                let mut out = io::stdout().lock();
                let n = out.write(rest)?;
                out.flush()?;
                n
            }
            Sink::File(path) => {
                if self.looked.elapsed() > LOOK_INTERVAL || self.file.is_none() {
                    self.looked = Instant::now();
                    if !self.is_in_its_place(path) {
                        self.file = None;
                        self.open_file()?;
                    }
                }
                match &mut self.file {
                    Some(file) => file.write(rest)?,
                    None => 0,
                }
            }
        };
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.done += n;
        self.size += n as u64;
        Ok(())
    }

    fn open_file(&mut self) -> io::Result<()> {
        let Sink::File(path) = &self.sink else { return Ok(()) };
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        end_line(&mut file, path)?;
        let meta = file.metadata()?;
        self.size = if meta.is_file() { meta.len() } else { 0 };
        self.written = UnixNanos(meta.mtime().saturating_mul(1_000_000_000));
        self.file = Some(file);
        Ok(())
    }

    fn is_in_its_place(&self, path: &Path) -> bool {
        let place = |meta: Metadata| (meta.dev(), meta.ino());
        match (&self.file, std::fs::metadata(path)) {
            (Some(file), Ok(there)) => file.metadata().is_ok_and(|here| place(here) == place(there)),
            _ => false,
        }
    }
}
