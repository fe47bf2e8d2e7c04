//! What the tests are made of: certificates, an upstream, a gateway, clients. Everything here ends the test when
//! something that is not under test goes wrong.

mod ca;
mod client;
mod command;
mod gate;
pub mod http2;
mod nginx;
mod pki;
mod upstream;

pub use ca::OpensslCa;
pub use client::{Dial, Response, TlsConn, Tried};
pub use command::{Finished, Process, missing, node, node_with, python, run, skipped};
pub use gate::{Curl, Gate, HOST, Setup, copy_folder, count, program, resident, same, this_user};
pub use nginx::{Nginx, put};
pub use pki::{Authority, Identity, Pki, openssl_key, valid};
pub use upstream::Upstream;

use std::time::{Duration, Instant};

/// How long anything that is sure to happen may take on a machine that is busy with all the other tests.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Looks again and again until there is something to see, and fails at the deadline.
pub fn await_some<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited {DEADLINE:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Says that something is over when it is dropped, also by a test that fails: whoever goes on until then would do so for ever.
pub struct Over<'a>(pub &'a std::sync::atomic::AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::SeqCst);
    }
}

/// The block of a page in this language that begins so, as a reader copies it.
#[track_caller]
pub fn block(page: &str, language: &str, first: &str) -> String {
    let fence = format!("```{language}\n");
    let mut blocks = page.split(&fence).skip(1).filter_map(|rest| rest.split("```").next());
    blocks.find(|block| block.starts_with(first)).unwrap_or_else(|| panic!("no block begins with {first}")).to_owned()
}
