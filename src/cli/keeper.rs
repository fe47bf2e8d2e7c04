//! A secret that is shown once, written into a file instead.

use super::{Exit, complain};
use crate::disk;
use serde_json::Value;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The file that a secret is to be written into, made before there is one: nobody could be given it afterwards.
pub(super) struct Keeper(Option<(PathBuf, Option<File>)>);

impl Keeper {
    pub(super) fn new(path: Option<&Path>) -> Result<Self, Exit> {
        let Some(path) = path else { return Ok(Keeper(None)) };
        match disk::create(path) {
            Ok(file) => Ok(Keeper(Some((path.to_owned(), Some(file))))),
            Err(e) => {
                complain(&format!("`{}`: {}; name a new file. Nothing was changed", path.display(), disk::plain(&e)));
                Err(Exit::Problems)
            }
        }
    }

    /// Takes the secret, which is under `key`, out of an answer and writes it; `KEY_file` then says where it is.
    pub(super) fn keep(mut self, key: &str, answer: &mut Value) -> Result<(), Exit> {
        let Some((path, file)) = &mut self.0 else { return Ok(()) };
        let secret = answer.as_object_mut().and_then(|answer| answer.remove(key));
        let Some(Value::String(secret)) = secret else { return Ok(()) };
        let Some(mut open) = file.take() else { return Ok(()) };
        if let Err(e) = open.write_all(secret.as_bytes()).and_then(|()| open.sync_all()) {
            complain(&format!("`{}`: {}", path.display(), disk::plain(&e)));
            // Better seen by whoever stands here than lost.
            answer.as_object_mut().map(|answer| answer.insert(key.into(), secret.into()));
            return Err(Exit::Failed);
        }
        if let Some(answer) = answer.as_object_mut() {
            answer.insert(format!("{key}_file"), path.display().to_string().into());
        }
        Ok(())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // There was no secret for it.
        if let Some((path, Some(_))) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}
