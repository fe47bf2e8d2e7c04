//! Other programs: bounded in time, stopped by their handle.

use super::{DEADLINE, await_some};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What a program came to.
#[derive(Debug)]
pub struct Finished {
    /// `None` when a signal ended it.
    pub exit: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Finished {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// The output of a program that is expected to succeed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.exit, Some(0), "stdout: {}\nstderr: {}", self.text(), self.stderr);
        self.text()
    }
}

/// Runs a program to its end, with `input` on its stdin; a program that takes longer than a minute fails the test.
#[track_caller]
pub fn run(command: &mut Command, input: &[u8]) -> Finished {
    // Files instead of pipes: nothing can block because nobody reads.
    let (mut stdin, stdout, stderr) = (scratch(), scratch(), scratch());
    stdin.write_all(input).unwrap();
    std::io::Seek::rewind(&mut stdin).unwrap();
    let shown = format!("{command:?}");
    let mut child = without_proxies(command)
        .stdin(stdin)
        .stdout(stdout.try_clone().unwrap())
        .stderr(stderr.try_clone().unwrap())
        .spawn()
        .unwrap_or_else(|e| panic!("{shown}: {e}"));
    let end = Instant::now() + Duration::from_secs(60);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{shown} did not end\n{}", String::from_utf8_lossy(&contents(stderr)));
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let stderr = String::from_utf8_lossy(&contents(stderr)).into_owned();
    Finished { exit: status.code(), stdout: contents(stdout), stderr }
}

fn scratch() -> File {
    tempfile::tempfile().unwrap()
}

fn contents(mut file: File) -> Vec<u8> {
    use std::io::{Read, Seek};
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

/// A proxy of the machine that runs the tests has no part in them.
fn without_proxies(command: &mut Command) -> &mut Command {
    for name in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "no_proxy"] {
        command.env_remove(name);
    }
    command
}

/// A program that runs beside the test and is killed when this is dropped.
pub struct Process {
    child: Child,
    pub stdout: PathBuf,
    pub stderr: PathBuf,
}

impl Process {
    /// Starts a program whose output goes to `DIR/NAME.out` and `DIR/NAME.log`.
    #[track_caller]
    pub fn start(command: &mut Command, dir: &Path, name: &str) -> Self {
        let (stdout, stderr) = (dir.join(format!("{name}.out")), dir.join(format!("{name}.log")));
        let child = without_proxies(command)
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Process { child, stdout, stderr }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn out(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.stdout).unwrap()).into_owned()
    }

    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.stderr).unwrap()).into_owned()
    }

    /// Sends a signal by name, such as `TERM`.
    #[track_caller]
    pub fn signal(&self, name: &str) {
        // The child has not been waited for, so its id is still its own.
        let told = Command::new("sh").args(["-c", "kill -\"$0\" \"$1\"", name, &self.id().to_string()]).status();
        assert!(told.unwrap().success(), "kill -{name}");
    }

    /// Whether it still runs.
    pub fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn ended(&mut self) -> std::process::ExitStatus {
        await_some("the end of a process", || self.child.try_wait().unwrap())
    }

    /// What `look` finds in a text of the process; fails when the process ends before.
    #[track_caller]
    pub fn await_output<T>(&mut self, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        let end = Instant::now() + DEADLINE;
        loop {
            let lives = self.lives();
            if let Some(found) = look(self) {
                return found;
            }
            let why = if lives { "waited in vain" } else { "the process has ended; waited" };
            assert!(lives && Instant::now() < end, "{why} for {what}\n{}\n{}", self.out(), self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A tool that a test needs is not there: the test fails, or is left out where `PARTNERGATE_TEST_SKIP=1` permits that.
#[track_caller]
pub fn missing(what: &str) {
    if std::env::var("PARTNERGATE_TEST_SKIP").is_ok_and(|v| v == "1") {
        skipped(what);
        return;
    }
    panic!("no {what}: scripts/test gets it; PARTNERGATE_TEST_SKIP=1 leaves out what needs it");
}

/// Says that a test, or a part of it, was left out, whatever becomes of the test's own output.
pub fn skipped(why: &str) {
    let name = std::thread::current().name().unwrap_or_default().to_owned();
    let _ = writeln!(std::io::stderr(), "SKIPPED: {name}: no {why}");
}

/// A Python that has the packages (`scripts/test` makes it). `None` only where it may be missing.
#[track_caller]
pub fn python(packages: &[&str]) -> Option<PathBuf> {
    let venv = target().join("test-venv/bin/python");
    let python = if venv.exists() { venv } else { PathBuf::from("python3") };
    let imports = format!("import {}", packages.join(", "));
    let mut missing = String::new();
    let there = match Command::new(&python).args(["-c", &imports]).output() {
        Ok(output) => {
            missing = String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned();
            output.status.success()
        }
        Err(_) => false,
    };
    if there {
        return Some(python);
    }
    self::missing(&format!("Python with {} ({missing})", packages.join(", ")));
    None
}

/// Where a script of Node finds these packages, besides Node itself (`scripts/test` gets both). `None` only where something may
/// be missing.
#[track_caller]
pub fn node_with(packages: &[&str]) -> Option<(PathBuf, PathBuf)> {
    let modules = target().join("test-node/node_modules");
    match packages.iter().find(|package| !modules.join(package).is_dir()) {
        Some(package) => {
            missing(&format!("package `{package}` of Node"));
            None
        }
        None => Some((node()?, modules)),
    }
}

/// Node.js. `None` only where it may be missing.
#[track_caller]
pub fn node() -> Option<PathBuf> {
    let venv = target().join("test-venv/bin/node");
    let node = if venv.exists() { venv } else { PathBuf::from("node") };
    let there = Command::new(&node).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if there.is_ok_and(|s| s.success()) {
        return Some(node);
    }
    missing("Node.js");
    None
}

fn target() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}
