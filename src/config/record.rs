//! `record`: which sinks there are, and what is shown in them.

use super::files::{At, Reader};
use crate::decision::WhenFull;
use crate::document::{Problems, Section};
use crate::fetch::HttpTls;
use crate::record::{Include, Rotation, Sink};
use crate::upload::UploadSettings;
use http::Uri;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordConfig {
    pub sinks: Vec<Sink>,
    pub rotation: Option<Rotation>,
    pub upload: Option<UploadSettings>,
    pub buffer: usize,
    pub buffer_size: usize,
    pub when_full: WhenFull,
    /// Of refused handshakes, and as many of malformed requests.
    pub per_second: u32,
    pub include: Include,
}

pub(super) fn read(section: Section<'_>, reader: &mut Reader, problems: &mut Problems) -> Option<RecordConfig> {
    let include = section.section("include");
    let sink = match section.text("output")?.split_once(':') {
        None if section.text("output") == Some("stdout") => Sink::Stdout,
        Some(("file", path)) if !path.is_empty() => Sink::File(reader.resolve(Path::new(path))),
        _ => {
            let reason = "is neither `stdout` nor `file:PATH`";
            problems.push(section.node("output")?.error("record.output", reason, None));
            return None;
        }
    };
    if let Sink::File(path) = &sink {
        // Whoever opens a pipe for writing waits until somebody reads it.
        let kind = std::fs::metadata(path).map(|meta| meta.file_type());
        if kind.is_ok_and(|kind| kind.is_dir() || kind.is_fifo() || kind.is_socket()) {
            let reason = format!("`{}` is no file: it is a folder, a pipe or a socket", path.display());
            problems.push(section.node("output")?.error(
                "record.output",
                reason,
                Some("name a file, or write `stdout`"),
            ));
        }
    }
    let on_file = matches!(sink, Sink::File(_));
    let also = section.boolean("stdout").then_some(Sink::Stdout).filter(|_| on_file);
    let upload = match section.node("upload") {
        None => None,
        Some(_) => Some(upload(section.section("upload"), reader, problems)?),
    };
    Some(RecordConfig {
        upload,
        sinks: [sink].into_iter().chain(also).collect(),
        rotation: rotation(section, on_file, problems),
        buffer: section.count("buffer"),
        buffer_size: section.size("buffer_size"),
        when_full: when_full(section.text("when_full")),
        per_second: u32::try_from(section.integer("handshakes_per_second")).unwrap_or(1),
        include: Include {
            query: include.texts("query").into_iter().collect(),
            params: include.texts("params").into_iter().collect(),
            email: include.boolean("email"),
            full_address: section.text("address") == Some("full"),
        },
    })
}

fn rotation(record: Section<'_>, on_file: bool, problems: &mut Problems) -> Option<Rotation> {
    let node = record.node("rotate")?;
    let section = record.section("rotate");
    let mut wrong = |reason: &str, fix: &str| problems.push(node.error("record.rotate", reason, Some(fix)));
    if !on_file {
        wrong("is only for records in a file", "set `record.output` to `file:PATH`, or remove it");
    }
    if !section.has("max_size") && !section.has("every") {
        wrong("does not say when a file is done with", "set `max_size`, `every` or both");
    }
    let size = |key: &str| section.has(key).then(|| u64::try_from(section.size(key)).unwrap_or(u64::MAX));
    let time = |key: &str| section.has(key).then(|| section.duration(key));
    Some(Rotation {
        max_size: size("max_size"),
        every: time("every"),
        keep: section.has("keep").then(|| section.count("keep")),
        keep_for: time("keep_for"),
        keep_size: size("keep_size"),
        compress: section.boolean("compress"),
    })
}

fn upload(section: Section<'_>, reader: &mut Reader, problems: &mut Problems) -> Option<UploadSettings> {
    let at = |key: &str| Some(At { node: section.node(key)?, key: format!("record.upload.{key}") });
    let url = section.text("url")?.to_owned();
    let parsed = url.parse::<Uri>().ok();
    let scheme = parsed.as_ref().and_then(Uri::scheme_str).filter(|scheme| matches!(*scheme, "http" | "https"));
    let whole = parsed.as_ref().and_then(Uri::authority).is_some_and(|authority| !authority.as_str().contains('@'));
    if scheme.is_none() || !whole {
        let fix = Some("write it as `https://collector.example/logs`; a token goes into `token`");
        problems.push(at("url")?.error(format!("`{url}` is no URL of a server"), fix));
        return None;
    }
    let tls = reader.client_tls(section, "record.upload", problems)?;
    let token = reader.bearer(section, "record.upload", problems)?;
    if scheme == Some("http") && (token.is_some() || tls != HttpTls::default()) {
        let reason = "`http` sends what is in records, and the token, for everybody to read";
        problems.push(at("url")?.error(reason, Some("write `https`")));
        return None;
    }
    Some(UploadSettings {
        url,
        tls,
        token,
        labels: section.labels("labels").into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        batch_size: section.size("batch_size"),
        interval: section.duration("interval"),
        timeout: section.duration("timeout"),
        spool_size: u64::try_from(section.size("spool_size")).unwrap_or(u64::MAX),
        on_failure: when_full(section.text("on_failure")),
    })
}

fn when_full(text: Option<&str>) -> WhenFull {
    if text == Some("count") { WhenFull::Count } else { WhenFull::Deny }
}
