//! Talking to the running gateway over its admin socket.

#![expect(clippy::indexing_slicing, reason = "a JSON value answers null for a key that it does not have")]

use super::{Exit, complain};
use crate::config::Config;
use crate::server::socket_path;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::path::Path;
use tokio::net::UnixStream;

/// Sends one call to the gateway of a config. What it says against it goes to stderr.
pub(super) async fn ask(path: &Path, method: Method, target: &str, body: Option<&Value>) -> Result<Value, Exit> {
    let state_dir = Config::state_dir(path).map_err(|problems| {
        complain(&problems.to_string());
        Exit::Problems
    })?;
    let answer: Result<Answer, String> = call(&socket_path(&state_dir), method, target, body).await;
    match answer.map(Answer::accepted) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err((problems, text))) => {
            complain(&text);
            Err(if problems { Exit::Problems } else { Exit::Failed })
        }
        Err(text) => {
            complain(&text);
            Err(Exit::Failed)
        }
    }
}

/// An answer: status and JSON body.
struct Answer {
    status: u16,
    body: Value,
}

/// Sends one call.
///
/// # Errors
/// A sentence for the operator.
async fn call(socket: &Path, method: Method, path: &str, body: Option<&Value>) -> Result<Answer, String> {
    let stream = UnixStream::connect(socket).await.map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
            format!(
                "no gateway is running on `{}`; start it, or use --offline where the command has it",
                socket.display()
            )
        }
        std::io::ErrorKind::PermissionDenied => {
            format!("`{}` belongs to another user: call as the gateway's user or as root", socket.display())
        }
        _ => format!("`{}`: {e}", socket.display()),
    })?;
    let failed = |e: &dyn std::fmt::Display| format!("the gateway did not answer: {e}");
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(&e))?;
    let driver = tokio::spawn(connection);
    let text = body.map(Value::to_string).unwrap_or_default();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "admin")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(text)))
        .map_err(|e| failed(&e))?;
    let response = sender.send_request(request).await.map_err(|e| failed(&e))?;
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.map_err(|e| failed(&e))?.to_bytes();
    driver.abort();
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    Ok(Answer { status, body })
}

impl Answer {
    /// The body, or what the gateway said against it.
    fn accepted(self) -> Result<Value, (bool, String)> {
        if self.status < 300 {
            return Ok(self.body);
        }
        let problems: Vec<&str> =
            self.body["problems"].as_array().map(|l| l.iter().filter_map(Value::as_str).collect()).unwrap_or_default();
        let title = self.body["title"].as_str().unwrap_or("refused");
        let text = if problems.is_empty() { title.to_owned() } else { format!("{}\n{title}", problems.join("\n")) };
        Err((self.status == 422, text))
    }
}
