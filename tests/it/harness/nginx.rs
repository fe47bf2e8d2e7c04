//! A real web server that can be stopped and started again on the same port.

use super::await_some;
use super::command::{Process, missing};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

/// nginx with a folder of files.
pub struct Nginx {
    process: Option<Process>,
    folder: PathBuf,
    port: u16,
    started: u32,
}

impl Nginx {
    /// `None` only where nginx may be missing. `locations` are more `location` blocks.
    #[track_caller]
    pub fn start(folder: &Path, locations: &str) -> Option<Self> {
        let there = Command::new("nginx").arg("-v").output();
        if !there.is_ok_and(|o| o.status.success()) {
            missing("nginx on PATH (Debian package `nginx`)");
            return None;
        }
        let folder = folder.join("nginx");
        std::fs::create_dir_all(folder.join("www")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut nginx = Nginx { process: None, folder, port, started: 0 };
        nginx.restart(locations);
        Some(nginx)
    }

    /// Host and port as URLs have them.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.host())
    }

    /// Puts a file in the place of another, whole.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        put(&self.folder.join("www").join(name), bytes);
    }

    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal("KILL");
            process.ended();
        }
    }

    /// Starts it, again where it runs, on its port.
    #[track_caller]
    pub fn restart(&mut self, locations: &str) {
        self.stop();
        let (folder, port) = (self.folder.display(), self.port);
        let config = format!(
            "daemon off;\nmaster_process off;\npid {folder}/pid;\nevents {{}}\nhttp {{\naccess_log {folder}/access.log;\n\
             client_body_temp_path {folder}/body;\nproxy_temp_path {folder}/proxy;\nfastcgi_temp_path {folder}/fastcgi;\n\
             uwsgi_temp_path {folder}/uwsgi;\nscgi_temp_path {folder}/scgi;\ndefault_type application/pkix-crl;\n\
             server {{\nlisten 127.0.0.1:{port};\nroot {folder}/www;\n{locations}\n}}\n}}\n"
        );
        let file = self.folder.join("nginx.conf");
        std::fs::write(&file, config).unwrap();
        self.started += 1;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(&self.folder).arg("-e").arg(self.folder.join("error.log")).arg("-c").arg(&file);
        self.process = Some(Process::start(&mut command, &self.folder, &format!("run-{}", self.started)));
        await_some("nginx", || TcpStream::connect(("127.0.0.1", port)).ok());
    }

    /// Status of each request for a path, in order.
    pub fn asked(&self, path: &str) -> Vec<u16> {
        let log = std::fs::read_to_string(self.folder.join("access.log")).unwrap_or_default();
        let asked = log.lines().filter(|l| l.contains(&format!("\"GET {path} ")));
        asked.filter_map(|l| l.split("\" ").nth(1)?.split(' ').next()?.parse().ok()).collect()
    }
}

/// Writes a file beside its place and renames it over what is there.
pub fn put(path: &Path, bytes: &[u8]) {
    let half = path.with_file_name(format!(".{}.new", path.file_name().unwrap().to_string_lossy()));
    std::fs::write(&half, bytes).unwrap();
    std::fs::rename(half, path).unwrap();
}
