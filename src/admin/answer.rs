//! Answers: of a type that the OpenAPI document describes, problems as RFC 9457 has them, and what is as long as the registry
//! is large.

use super::Shared;
use super::openapi::{answer_of, with_tag};
use crate::document::Problems;
use crate::gateway::Live;
use crate::name::PartnerId;
use crate::partner::PartnerRecord;
use crate::reload::{ChangeError, Switched, aside};
use crate::store::{PlanLine, StoreError};
use aide::generate::GenContext;
use aide::openapi::{Operation, Response as Description};
use aide::{OperationInput, OperationOutput};
use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fmt;
use std::io::{self, BufWriter, Write};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{Semaphore, mpsc};

/// The media type of problems.
pub(super) const PROBLEM: &str = "application/problem+json";
/// Answers are sent in pieces of this size, and so many wait for a caller that reads slowly.
const PIECE: usize = 64 * 1024;
const PIECES: usize = 4;
/// Answers that are being written; more wait.
static WRITERS: Semaphore = Semaphore::const_new(8);
/// How long a caller may take nothing of its answer.
const SEND_LIMIT: Duration = Duration::from_secs(5);

/// 200 with JSON of this type, as the document says; or whatever else there is to say.
pub(super) type Answer<T> = Result<Sent<T>, Response>;

/// The same, of a call that changes something and can be asked what it would come to.
pub(super) type Change<T> = Answer<Outcome<T>>;

/// The same, of a call that is live before it is saved.
pub(super) type Switch<T> = Change<WithSwitch<T>>;

/// 200 with JSON of this type.
pub(super) struct Sent<T> {
    response: Response,
    of: PhantomData<fn() -> T>,
}

impl<T> Sent<T> {
    fn new(response: Response) -> Self {
        Sent { response, of: PhantomData }
    }
}

impl<T> IntoResponse for Sent<T> {
    fn into_response(self) -> Response {
        self.response
    }
}

impl<T: JsonSchema> OperationOutput for Sent<T> {
    type Inner = T;

    fn inferred_responses(_: &mut GenContext, _: &mut Operation) -> Vec<(Option<u16>, Description)> {
        vec![(Some(200), answer_of::<T>())]
    }
}

/// The same, with the tag of what it is about.
pub(super) struct Tagged<T>(Sent<T>);

impl<T> IntoResponse for Tagged<T> {
    fn into_response(self) -> Response {
        self.0.into_response()
    }
}

impl<T: JsonSchema> OperationOutput for Tagged<T> {
    type Inner = T;

    fn inferred_responses(_: &mut GenContext, _: &mut Operation) -> Vec<(Option<u16>, Description)> {
        vec![(Some(200), with_tag(answer_of::<T>()))]
    }
}

/// What a change came to.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Outcome<T> {
    Done(T),
    DryRun(DryRun),
}

/// Nothing was changed: it was only to be seen what it would come to.
#[derive(Serialize, JsonSchema)]
pub(super) struct DryRun {
    #[schemars(extend("const" = true))]
    dry_run: bool,
    #[schemars(extend("const" = false))]
    changed: bool,
    /// What would be changed, one line for each thing.
    lines: Vec<PlanLine>,
}

/// What was switched, and what that came to.
#[derive(Serialize, JsonSchema)]
pub(super) struct WithSwitch<T> {
    #[serde(flatten)]
    what: T,
    #[serde(flatten)]
    switched: Switched,
    /// Whether it was not so before.
    changed: bool,
}

pub(super) fn sent<T: Serialize>(body: T) -> Answer<T> {
    Ok(Sent::new(Json(body).into_response()))
}

pub(super) fn tagged<T: Serialize>(body: T, tag: Option<String>) -> Result<Tagged<T>, Response> {
    let mut answer = Json(body).into_response();
    if let Some(tag) = tag.and_then(|tag| HeaderValue::try_from(tag).ok()) {
        answer.headers_mut().insert(header::ETAG, tag);
    }
    Ok(Tagged(Sent::new(answer)))
}

pub(super) fn done<T: Serialize>(what: T) -> Change<T> {
    sent(Outcome::Done(what))
}

pub(super) fn switched<T: Serialize>(what: T, switched: Switched, changed: bool) -> Switch<T> {
    done(WithSwitch { what, switched, changed })
}

/// Why nothing was changed; where that was asked for, what it would have come to.
pub(super) fn undone<T: Serialize>(e: ChangeError) -> Change<T> {
    match e {
        ChangeError::DryRun(lines) => sent(Outcome::DryRun(DryRun { dry_run: true, changed: false, lines })),
        e => Err(refused(e)),
    }
}

/// What requests are decided on now.
pub(super) fn live(shared: &Shared) -> Result<Arc<Live>, Response> {
    let none = || problem(StatusCode::SERVICE_UNAVAILABLE, "no snapshot is live", Vec::new());
    shared.publisher.live().ok_or_else(none)
}

/// The partner that a list is asked of, where it is of one alone.
pub(super) fn of_partner(live: &Live, id: Option<&str>) -> Result<Option<Arc<PartnerRecord>>, Response> {
    let known = |id: &str| live.snapshot.registry.partner(&PartnerId::parse(id).ok()?).cloned();
    id.map(|id| known(id).ok_or_else(|| unknown("partner"))).transpose()
}

/// What the database answers, asked aside.
pub(super) async fn looked_up<T: Send + 'static>(
    work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
) -> Result<T, Response> {
    aside(work).await.map_err(failed)?.map_err(|e| refused(e.into()))
}

/// The gateway is at fault.
pub(super) fn failed(e: impl fmt::Display) -> Response {
    problem(StatusCode::INTERNAL_SERVER_ERROR, &e.to_string(), Vec::new())
}

/// There is no such thing.
pub(super) fn unknown(noun: &str) -> Response {
    problem(StatusCode::NOT_FOUND, &format!("there is no such {noun}"), Vec::new())
}

/// What the path of a call names, each part of it as the type that it is; what is no name is 422, as everywhere else.
pub(super) struct Named<T>(pub T);

impl<T> OperationInput for Named<T> {}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Named<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        let read = RawPathParams::from_request_parts(parts, state).await.map_err(|e| wrong(&e.to_string()))?;
        let mut names: Vec<Value> = read.iter().map(|(_, name)| name.into()).collect();
        let named = if names.len() == 1 { names.remove(0) } else { names.into() };
        serde_json::from_value(named).map(Named).map_err(|e| wrong(&e.to_string()))
    }
}

pub(super) fn refused(e: ChangeError) -> Response {
    match e {
        ChangeError::Invalid(problems) => {
            problem(StatusCode::UNPROCESSABLE_ENTITY, "nothing was changed", lines(&problems))
        }
        ChangeError::Store(StoreError::Conflict { .. } | StoreError::HasOperators) => {
            problem(StatusCode::CONFLICT, &e.to_string(), Vec::new())
        }
        ChangeError::DryRun(_) => wrong("this call has no dry run"),
        ChangeError::Stale => problem(StatusCode::PRECONDITION_FAILED, &e.to_string(), Vec::new()),
        ChangeError::Store(_) => failed(e),
    }
}

fn lines(problems: &Problems) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

/// What a problem says, kept with the answer for the history.
#[derive(Clone)]
pub(super) struct Said {
    pub title: String,
    pub problems: Vec<String>,
}

pub(super) fn problem(status: StatusCode, title: &str, problems: Vec<String>) -> Response {
    let body = json!({"type": "about:blank", "title": title, "status": status.as_u16(), "problems": problems});
    let mut answer = (status, [("content-type", PROBLEM)], body.to_string()).into_response();
    answer.extensions_mut().insert(Said { title: title.to_owned(), problems });
    answer
}

/// An answer in JSON that is sent while it is written, aside: it is never in memory as a whole. What is written has the
/// shape of `T`. A few at a time, since each has a thread, and no longer than its caller takes what is sent.
pub(super) async fn written<T>(
    write: impl FnOnce(&mut dyn Write) -> serde_json::Result<()> + Send + 'static,
) -> Answer<T> {
    let Ok(writing) = WRITERS.acquire().await else {
        return Err(problem(StatusCode::SERVICE_UNAVAILABLE, "the gateway is stopping", Vec::new()));
    };
    let (sender, receiver) = mpsc::channel(PIECES);
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || {
        let mut out = BufWriter::with_capacity(PIECE, Pieces { sender: sender.clone(), runtime });
        let done = write(&mut out).map_err(io::Error::from).and_then(|()| out.flush());
        drop(writing);
        // An answer that is not whole must not look as if it were. A caller that takes nothing is told nothing.
        if let Err(e) = done {
            drop(sender.try_send(Err(e)));
        }
    });
    let pieces = futures::stream::unfold(receiver, |mut receiver: mpsc::Receiver<io::Result<Bytes>>| async {
        receiver.recv().await.map(|piece| (piece, receiver))
    });
    Ok(Sent::new(([("content-type", "application/json")], Body::from_stream(pieces)).into_response()))
}

struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    runtime: Handle,
}

impl Write for Pieces {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let send = self.sender.send_timeout(Ok(Bytes::copy_from_slice(piece)), SEND_LIMIT);
        match self.runtime.block_on(send) {
            Ok(()) => Ok(piece.len()),
            Err(SendTimeoutError::Timeout(_)) => Err(io::ErrorKind::TimedOut.into()),
            Err(SendTimeoutError::Closed(_)) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Nothing was changed, for this reason.
pub(super) fn wrong(reason: &str) -> Response {
    problem(StatusCode::UNPROCESSABLE_ENTITY, "nothing was changed", vec![reason.to_owned()])
}
