//! Files on this machine: read within a bound, replaced whole, and noticed when they change.
//!
//! In: paths. Out: bytes, or why there are none, for the operator. Must never: wait for somebody else, as opening a
//! pipe would; leave half a file where a whole one was.

use crate::document::SecretRef;
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The end of the name of a file that is not whole yet.
const HALF: &str = "half";

/// The bytes of a file, at most `max`.
///
/// # Errors
/// Why it cannot be read, without its name.
pub fn read(path: &Path, max: usize) -> Result<Vec<u8>, String> {
    let meta = std::fs::metadata(path).map_err(|e| plain(&e))?;
    if meta.is_dir() {
        return Err("is a folder".into());
    }
    if !meta.is_file() {
        return Err("is not a file".into());
    }
    let limit = u64::try_from(max).unwrap_or(u64::MAX);
    let mut bytes = Vec::with_capacity(usize::try_from(meta.len().min(limit)).unwrap_or(0));
    // One byte more than there may be, since it may have grown meanwhile.
    let file = File::open(path).map_err(|e| plain(&e))?;
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| plain(&e))?;
    if bytes.len() > max {
        return Err(format!("has more than {max} bytes"));
    }
    Ok(bytes)
}

/// Why there is no secret, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoSecret {
    pub reason: String,
    pub fix: Option<String>,
}

/// The secret that a reference names, at most `max` bytes, and where it came from, for messages.
///
/// # Errors
/// It is not there, or others may read it.
pub fn secret(reference: &SecretRef, max: usize) -> Result<(String, Vec<u8>), NoSecret> {
    let refuse = |reason: String, fix: Option<&str>| NoSecret { reason, fix: fix.map(str::to_owned) };
    match reference {
        SecretRef::File(path) => {
            let shown = path.display().to_string();
            let meta = std::fs::metadata(path);
            let meta = meta.map_err(|e| {
                refuse(format!("`{shown}`: {}", plain(&e)), Some("put the file there, or write where it is"))
            })?;
            if meta.mode() & 0o077 != 0 {
                let reason = format!("`{shown}` can be read by others (mode {:04o})", meta.mode() & 0o7777);
                return Err(refuse(reason, Some(&format!("chmod 0600 {shown}"))));
            }
            match read(path, max) {
                Ok(bytes) => Ok((shown, bytes)),
                Err(reason) => Err(refuse(format!("`{shown}`: {reason}"), None)),
            }
        }
        SecretRef::Env(name) => match std::env::var(name) {
            Ok(value) => Ok((format!("env:{name}"), value.into_bytes())),
            Err(_) => Err(refuse(format!("the environment variable `{name}` is not set"), None)),
        },
        SecretRef::Credential(name) => {
            let path = credential_path(name).ok_or_else(|| {
                let fix = Some("use `LoadCredential=` in the systemd unit");
                refuse("`$CREDENTIALS_DIRECTORY` is not set".into(), fix)
            })?;
            match read(&path, max) {
                Ok(bytes) => Ok((format!("credential:{name}"), bytes)),
                Err(reason) => Err(refuse(format!("credential `{name}`: {reason}"), None)),
            }
        }
    }
}

/// The file of a systemd credential.
pub fn credential_path(name: &str) -> Option<PathBuf> {
    std::env::var_os("CREDENTIALS_DIRECTORY").map(|folder| Path::new(&folder).join(name))
}

/// Puts a file in the place of what was there, whole or not at all, for this user only. Its folder is made where it
/// does not exist.
///
/// # Errors
/// It cannot be written.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let half = half_of(path);
    let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&half)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(half, path)
}

/// Where a file is written before it takes its place: beside it, and in the way of no other.
pub fn half_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(HALF);
    name.into()
}

/// Whether a file has yet to take its place, or never did.
pub fn is_half(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == HALF)
}

/// Makes a new file, for this user only.
///
/// # Errors
/// There is one already, or it cannot be made.
pub fn create(path: &Path) -> io::Result<File> {
    File::options().create_new(true).write(true).mode(0o600).open(path)
}

/// What an error of the system is called in front of an operator.
pub fn plain(e: &io::Error) -> String {
    match e.kind() {
        ErrorKind::NotFound => "does not exist".into(),
        ErrorKind::PermissionDenied => "permission denied".into(),
        _ => e.to_string(),
    }
}

/// What distinguishes a file from its last state: changed in place, renamed over, or a link that points elsewhere. A file
/// that is gone has a stamp too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    size: u64,
}

impl Stamp {
    pub fn of(path: &Path) -> Self {
        std::fs::metadata(path).map_or_else(
            |_| Stamp::default(),
            |m| Stamp {
                device: m.dev(),
                inode: m.ino(),
                modified: (m.mtime(), m.mtime_nsec()),
                changed: (m.ctime(), m.ctime_nsec()),
                size: m.size(),
            },
        )
    }
}

/// Files and folders, and the state in which they were read.
pub type Watched = BTreeMap<PathBuf, Stamp>;

/// The same files as they are now.
pub fn look_again(watched: &Watched) -> Watched {
    watched.keys().map(|path| (path.clone(), Stamp::of(path))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_within_the_bound_are_read_and_nobody_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        replace(&at("new/file"), b"12345").unwrap();
        assert_eq!(read(&at("new/file"), 5).unwrap(), b"12345");
        assert_eq!(read(&at("new/file"), 4).unwrap_err(), "has more than 4 bytes");
        assert_eq!(read(&at("new"), 4).unwrap_err(), "is a folder");
        assert_eq!(read(&at("none"), 4).unwrap_err(), "does not exist");
        assert!(std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
        assert_eq!(read(&at("pipe"), 4).unwrap_err(), "is not a file");
        let modes = [at("new"), at("new/file")].map(|path| std::fs::metadata(path).unwrap().mode() & 0o777);
        assert_eq!(modes, [0o700, 0o600]);
    }

    #[test]
    fn a_file_that_was_replaced_by_one_of_the_same_size_has_another_stamp() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let gone = Stamp::of(&path);
        replace(&path, b"one").unwrap();
        let before: Watched = [(path.clone(), Stamp::of(&path))].into();
        assert_ne!(before[&path], gone);
        assert_eq!(look_again(&before), before);
        replace(&path, b"two").unwrap();
        assert_ne!(look_again(&before), before);
    }
}
