//! Records for somebody elsewhere: events of OPA's decision log, in batches that are packed, over HTTP.
//!
//! In: what waits in the spool. Out: `POST` with a JSON array, gzip; what was answered with 2xx has arrived and leaves the
//! spool, everything else is sent again, after a while that grows. So each decision arrives at least once and in order; one
//! whose answer was lost arrives again, with the same `decision_id`. Must never: hold up a request; show the token.

use crate::clock::{Clock, UnixNanos};
use crate::document::parse_time;
use crate::fetch::{Http, HttpTls};
use crate::record::{Labels, Metrics, Spool, Waiting, backoff, opa_event};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, StatusCode};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

const NAME: &str = "upload";

/// Where decisions go, and how.
#[derive(Clone, PartialEq, Eq)]
pub struct UploadSettings {
    pub url: String,
    pub tls: HttpTls,
    /// Sent as `Authorization`.
    pub token: Option<HeaderValue>,
    pub labels: Labels,
    /// Bytes of records in one batch, before they are packed.
    pub batch_size: usize,
    /// How long a batch waits until it is full.
    pub interval: Duration,
    pub timeout: Duration,
    pub spool_size: u64,
    pub on_failure: crate::decision::WhenFull,
}

impl fmt::Debug for UploadSettings {
    /// Without token and key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UploadSettings").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Sends what waits.
pub struct Uploader {
    settings: UploadSettings,
    spool: Arc<Spool>,
    http: Http,
    head: HeaderMap,
    clock: Arc<Clock>,
    metrics: Arc<Metrics>,
    jitter: RandomState,
}

/// Why a batch has not arrived.
enum Failed {
    /// The server takes none that is so large.
    TooLarge,
    Other(String),
}

impl Uploader {
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(
        settings: UploadSettings,
        spool: Arc<Spool>,
        clock: Arc<Clock>,
        metrics: Arc<Metrics>,
    ) -> io::Result<Uploader> {
        let http = Http::with(&settings.tls)?;
        let mut head = HeaderMap::new();
        head.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        head.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        if let Some(token) = &settings.token {
            head.insert(AUTHORIZATION, token.clone());
        }
        Ok(Uploader { settings, spool, http, head, clock, metrics, jitter: RandomState::new() })
    }

    /// Goes on until it is told to stop; a batch that is on its way then is waited for, so that it does not come twice.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut failures = 0_u32;
        let mut most = self.settings.batch_size;
        loop {
            let pause = match failures {
                0 if self.spool.used() >= self.settings.batch_size as u64 => Duration::ZERO,
                0 => self.settings.interval,
                _ => self.pause(failures),
            };
            let ready = async {
                self.spool.wait().await;
                tokio::time::sleep(pause).await;
            };
            tokio::select! {
                () = ready => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            match self.send(most).await {
                Ok(()) => {
                    if failures > 0 {
                        tracing::info!(url = self.settings.url, "decisions are uploaded again");
                    }
                    (failures, most) = (0, self.settings.batch_size);
                }
                // One that is too large by itself has been dropped.
                Err(Failed::TooLarge) => most = (most / 2).max(1),
                Err(Failed::Other(reason)) => {
                    failures = failures.saturating_add(1);
                    if failures == 1 {
                        let url = &self.settings.url;
                        tracing::error!(url, reason, "decisions cannot be uploaded; they wait in the spool");
                    }
                }
            }
        }
    }

    /// Sends what waits until nothing does, or something fails.
    pub async fn finish(&self) {
        while self.spool.used() > 0 && self.send(self.settings.batch_size).await.is_ok() {}
    }

    /// Sends one batch.
    async fn send(&self, most: usize) -> Result<(), Failed> {
        let other = |e: io::Error| Failed::Other(e.to_string());
        let waiting = tokio::task::block_in_place(|| self.spool.next(most)).map_err(other)?;
        let Some(waiting) = waiting else {
            self.lag(None);
            return Ok(());
        };
        let (body, first) = tokio::task::block_in_place(|| packed(&waiting, &self.settings.labels)).map_err(other)?;
        self.lag(first);
        let sent = self.http.post(&self.settings.url, self.head.clone(), body);
        let answer = match tokio::time::timeout(self.settings.timeout, sent).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {:?}", self.settings.timeout)),
        };
        match answer {
            Ok(status) if status.is_success() => {
                tokio::task::block_in_place(|| self.spool.arrived(&waiting));
                if self.spool.used() == 0 {
                    self.lag(None);
                }
                Ok(())
            }
            Ok(StatusCode::PAYLOAD_TOO_LARGE) => {
                let lines = waiting.lines.iter().filter(|b| **b == b'\n').count();
                if lines == 1 {
                    tracing::error!(
                        url = self.settings.url,
                        "a decision is larger than the server takes: it is dropped"
                    );
                    self.spool.refuse(&waiting);
                }
                self.failed();
                Err(Failed::TooLarge)
            }
            Ok(status) => Err(self.other(format!("answered {status}"))),
            Err(reason) => Err(self.other(reason)),
        }
    }

    fn other(&self, reason: String) -> Failed {
        self.failed();
        Failed::Other(reason)
    }

    fn failed(&self) {
        self.metrics.record_sink_errors.with_label_values(&[NAME]).inc();
    }

    /// The time of the oldest decision that waits.
    fn lag(&self, oldest: Option<UnixNanos>) {
        let lag = oldest.map_or(0, |oldest| self.clock.now().0.saturating_sub(oldest.0).max(0));
        self.metrics.record_sink_lag.with_label_values(&[NAME]).set(lag as f64 / 1e9);
    }

    /// Between half and all of what the failures come to, by chance, so that gateways do not come all at once.
    fn pause(&self, failures: u32) -> Duration {
        let whole = backoff(failures);
        let chance = self.jitter.hash_one((failures, self.clock.now().0)) % 1_000;
        whole / 2 + (whole / 2).mul_f64(chance as f64 / 1e3)
    }
}

/// The body, and when the first decision in it was.
fn packed(waiting: &Waiting, labels: &Labels) -> io::Result<(Bytes, Option<UnixNanos>)> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let mut first = None;
    let mut before: &[u8] = b"[";
    for line in waiting.lines.split_inclusive(|b| *b == b'\n') {
        let Some(event) = opa_event(line, labels) else { continue };
        if first.is_none() {
            first = event.get("timestamp").and_then(|t| t.as_str()).and_then(|t| parse_time(t).ok()).map(UnixNanos);
        }
        encoder.write_all(before)?;
        serde_json::to_writer(&mut encoder, &event)?;
        before = b",";
    }
    encoder.write_all(if before == b"[" { b"[]" } else { b"]" })?;
    Ok((encoder.finish()?.into(), first))
}
