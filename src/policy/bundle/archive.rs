//! A gzipped tar as a list of files by name, and back.
//!
//! In: bytes of anybody, or files. Out: [`Archive`], whose every name is a plain path below one folder and is there
//! once. Nothing is ever unpacked to a disk. Must never: hold more than the limits while it reads; take a link, a device
//! or whatever else is no file; go on behind the end of what it has read.

use super::BundleError;
use flate2::bufread::GzDecoder;
use flate2::{Compression, GzBuilder};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use tar::{Builder, EntryType, Header};

/// How much of a bundle is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BundleLimits {
    /// Bytes of the whole, unpacked; packed it may not be larger either.
    pub size: usize,
    /// Bytes of one file.
    pub file: usize,
    /// Files, and as many folders.
    pub files: usize,
    /// Folders above a file.
    pub depth: usize,
}

impl BundleLimits {
    /// Most files and the deepest folder of any bundle; of its bytes as many as `size`.
    pub const fn of(size: usize) -> Self {
        BundleLimits { size, file: size, files: 2_000, depth: 16 }
    }
}

impl Default for BundleLimits {
    fn default() -> Self {
        Self::of(64 * 1024 * 1024)
    }
}

/// Longest name, in bytes.
const LONGEST_NAME: usize = 512;

/// Files by name, such as `custom/data.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Archive {
    files: BTreeMap<String, Vec<u8>>,
}

impl Archive {
    /// Reads a gzipped tar.
    ///
    /// # Errors
    /// It is broken or cut off, over a limit, or holds what is no file of a bundle.
    pub fn read(bytes: &[u8], limits: BundleLimits) -> Result<Archive, BundleError> {
        let tar = unpack(bytes, limits.size)?;
        let mut archive = tar::Archive::new(tar.as_slice());
        let mut files = BTreeMap::new();
        let mut folders = 0;
        let broken = |e: std::io::Error| BundleError::Archive(format!("the tar is broken or cut off: {e}"));
        for entry in archive.entries().map_err(broken)? {
            let mut entry = entry.map_err(broken)?;
            let raw = entry.path_bytes().into_owned();
            match entry.header().entry_type() {
                EntryType::Regular | EntryType::Continuous => {}
                EntryType::Directory => {
                    // What lies in it has the folder in its name.
                    folder_name(&raw)?;
                    folders += 1;
                    if folders > limits.files {
                        return Err(BundleError::Limit(format!("more than {} folders", limits.files)));
                    }
                    continue;
                }
                other => return Err(BundleError::Entry { name: shown(&raw), what: what(other) }),
            }
            let name = file_name(&raw, limits.depth)?;
            let size = usize::try_from(entry.size()).unwrap_or(usize::MAX);
            if size > limits.file {
                return Err(BundleError::Limit(format!("`{name}` has more than {} bytes", limits.file)));
            }
            let mut content = Vec::new();
            entry.read_to_end(&mut content).map_err(broken)?;
            if content.len() != size {
                return Err(BundleError::Archive(format!("cut off in `{name}`")));
            }
            if files.len() >= limits.files {
                return Err(BundleError::Limit(format!("more than {} files", limits.files)));
            }
            if files.insert(name.clone(), content).is_some() {
                return Err(BundleError::Name { name, why: "is there twice" });
            }
        }
        // The first of the two empty blocks that end a tar was read; what comes behind is never looked at by anybody.
        let rest = archive.into_inner();
        if rest.len() < 512 {
            return Err(BundleError::Archive("the tar is cut off: its end is missing".into()));
        }
        if rest.iter().any(|byte| *byte != 0) {
            return Err(BundleError::Archive("something lies behind the end of the tar".into()));
        }
        Ok(Archive { files })
    }

    /// Of files that lie in a folder, say.
    ///
    /// # Errors
    /// A name that no bundle may have, or one that is there twice.
    pub fn of(list: impl IntoIterator<Item = (String, Vec<u8>)>) -> Result<Archive, BundleError> {
        let depth = BundleLimits::default().depth;
        let mut files = BTreeMap::new();
        for (name, content) in list {
            let name = file_name(name.as_bytes(), depth)?;
            if files.insert(name.clone(), content).is_some() {
                return Err(BundleError::Name { name, why: "is there twice" });
            }
        }
        Ok(Archive { files })
    }

    /// As a gzipped tar: sorted, of no time and nobody, so that equal files are equal bytes.
    ///
    /// # Errors
    /// A name or a file is too long for the format.
    pub fn write(&self) -> std::io::Result<Vec<u8>> {
        let gzip = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::new(6));
        let mut tar = Builder::new(gzip);
        for (name, content) in &self.files {
            let mut header = Header::new_gnu();
            header.set_entry_type(EntryType::Regular);
            header.set_size(u64::try_from(content.len()).unwrap_or(u64::MAX));
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            tar.append_data(&mut header, name, content.as_slice())?;
        }
        let mut gzip = tar.into_inner()?;
        gzip.flush()?;
        gzip.finish()
    }

    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.files.get(name).map(Vec::as_slice)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files.iter().map(|(name, content)| (name.as_str(), content.as_slice()))
    }

    pub(super) fn set(&mut self, name: &str, content: Vec<u8>) {
        self.files.insert(name.to_owned(), content);
    }
}

fn unpack(bytes: &[u8], most: usize) -> Result<Vec<u8>, BundleError> {
    let too_large = || BundleError::Limit(format!("larger than {most} bytes"));
    if bytes.len() > most {
        return Err(too_large());
    }
    let limit = u64::try_from(most).unwrap_or(u64::MAX);
    let mut gzip = GzDecoder::new(bytes).take(limit.saturating_add(1));
    let mut tar = Vec::new();
    gzip.read_to_end(&mut tar).map_err(|e| BundleError::Archive(format!("the gzip is broken or cut off: {e}")))?;
    if tar.len() > most {
        return Err(too_large());
    }
    // Where the tar has exactly as many bytes as there may be, its checksum has not been looked at yet.
    let mut gzip = gzip.into_inner();
    match gzip.read(&mut [0]) {
        Ok(0) => {}
        Ok(_) => return Err(too_large()),
        Err(e) => return Err(BundleError::Archive(format!("the gzip is broken or cut off: {e}"))),
    }
    if !gzip.into_inner().is_empty() {
        return Err(BundleError::Archive("something lies behind the end of the gzip".into()));
    }
    Ok(tar)
}

/// A file's name without the `/` or `./` that it may begin with.
fn file_name(raw: &[u8], depth: usize) -> Result<String, BundleError> {
    let name = plain(raw)?;
    let refuse = |why| Err(BundleError::Name { name: shown(raw), why });
    for part in name.split('/') {
        match part {
            "" => return refuse("has an empty part"),
            "." | ".." => return refuse("leads out of its folder"),
            _ => {}
        }
    }
    if name.matches('/').count() > depth {
        return refuse("lies too deep");
    }
    Ok(name.to_owned())
}

/// Of a folder nothing is kept; a bad one is still a sign of a bad archive.
fn folder_name(raw: &[u8]) -> Result<(), BundleError> {
    let name = plain(raw)?.trim_end_matches('/');
    if name.split('/').any(|part| part == "..") {
        return Err(BundleError::Name { name: shown(raw), why: "leads out of its folder" });
    }
    Ok(())
}

fn plain(raw: &[u8]) -> Result<&str, BundleError> {
    let refuse = |why| BundleError::Name { name: shown(raw), why };
    if raw.len() > LONGEST_NAME {
        return Err(refuse("is too long"));
    }
    let name = std::str::from_utf8(raw).map_err(|_| refuse("is not UTF-8"))?;
    if name.chars().any(char::is_control) {
        return Err(refuse("holds a control character"));
    }
    if name.contains('\\') {
        return Err(refuse("holds a backslash"));
    }
    Ok(name.strip_prefix("./").or_else(|| name.strip_prefix('/')).unwrap_or(name))
}

/// A name of anybody, for a message.
fn shown(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(raw.get(..LONGEST_NAME.min(raw.len())).unwrap_or_default());
    text.chars().take(100).collect::<String>().escape_debug().to_string()
}

fn what(kind: EntryType) -> &'static str {
    match kind {
        EntryType::Link => "a hard link",
        EntryType::Symlink => "a symbolic link",
        EntryType::Char | EntryType::Block => "a device",
        EntryType::Fifo => "a pipe",
        EntryType::GNUSparse => "a sparse file",
        EntryType::XGlobalHeader => "a header for everything behind it",
        _ => "an entry of an unknown kind",
    }
}

#[cfg(test)]
impl Archive {
    pub(super) fn files_mut(&mut self) -> &mut BTreeMap<String, Vec<u8>> {
        &mut self.files
    }
}
