//! The sample upstream as a witness: what it has received is what left the gateway.

use super::command::Process;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A running `examples/upstream`.
pub struct Upstream {
    pub process: Process,
    address: SocketAddr,
    records: PathBuf,
}

impl Upstream {
    /// Starts one that records into `DIR/NAME`, with more arguments as `examples/upstream --help` lists them.
    #[track_caller]
    pub fn start(dir: &Path, name: &str, arguments: &[&str]) -> Self {
        Self::start_at(dir, name, "127.0.0.1:0", arguments)
    }

    /// The same on a chosen address, for one that comes back.
    #[track_caller]
    pub fn start_at(dir: &Path, name: &str, listen: &str, arguments: &[&str]) -> Self {
        let records = dir.join(name);
        let mut command = Command::new(program());
        command.arg("--listen").arg(listen).arg("--record-dir").arg(&records).args(arguments);
        let mut process = Process::start(&mut command, dir, name);
        let address = process.await_output("the upstream's address", |p| {
            let out = p.out();
            out.split_once('\n')?.0.strip_prefix("listening on ")?.parse().ok()
        });
        Upstream { process, address, records }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The bytes of each connection, in the order of acceptance; connections that sent none are left out.
    pub fn connections(&self) -> Vec<Vec<u8>> {
        (1..)
            .map(|n| std::fs::read(self.records.join(format!("conn-{n}.raw"))))
            .take_while(Result::is_ok)
            .map(Result::unwrap)
            .filter(|bytes| !bytes.is_empty())
            .collect()
    }

    /// All bytes of all connections.
    pub fn bytes(&self) -> Vec<u8> {
        self.connections().concat()
    }

    /// All bytes as text, for messages and for looking for words.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// The decoded HTTP/2 requests of all connections.
    pub fn h2_events(&self) -> Vec<serde_json::Value> {
        let read = |n: usize| std::fs::read_to_string(self.records.join(format!("conn-{n}.h2.jsonl"))).ok();
        let connections = (1..).take_while(|n| self.records.join(format!("conn-{n}.raw")).exists());
        let lines = connections.filter_map(read).flat_map(|t| t.lines().map(str::to_owned).collect::<Vec<_>>());
        lines.filter_map(|l| serde_json::from_str(&l).ok()).collect()
    }

    /// Fails when anything at all has arrived.
    #[track_caller]
    pub fn assert_untouched(&self) {
        assert_eq!(self.text(), "", "the upstream has received this");
    }
}

/// Cargo builds the examples of a package with its integration tests, beside its binaries.
fn program() -> PathBuf {
    let path = super::gate::program().with_file_name("examples").join("upstream");
    assert!(path.exists(), "`{}` is not there: run `cargo build --example upstream`", path.display());
    path
}
