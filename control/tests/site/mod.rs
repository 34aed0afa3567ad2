//! A gateway's site for tests: keys, a configuration, the daemon as a process, and the test's end of its data plane.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use gemcast_proto::link::{self, to_control, to_dataplane};
use gemcast_proto::message::{self, FrameReader};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::UdpSocket;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

pub const GEMCASTD: &str = env!("CARGO_BIN_EXE_gemcastd");
pub const GEMCTL: &str = env!("CARGO_BIN_EXE_gemctl");
/// Longer than anything here takes; reached only when something is broken.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A directory with keys and a configuration.
pub struct Site {
    pub dir: tempfile::TempDir,
    pub port: u16,
}

impl Site {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // A port nobody uses now; tests run side by side.
        let port = UdpSocket::bind("[::]:0").unwrap().local_addr().unwrap().port();
        let site = Self { dir, port };
        for (kind, name) in [("node", "node.key"), ("bk", "bk.key"), ("gak", "gak.key")] {
            let out = site.path(name);
            let output = Command::new(GEMCTL).args(["key", "generate", kind, "--out"]).arg(out).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        }
        site.configure("");
        site
    }

    /// Writes the configuration: a missing untrusted interface, loopback as the trusted one, one group, and more.
    pub fn configure(&self, more: &str) {
        let text = format!(
            r#"
            [node]
            name = "a"
            identity = "node.key"
            run_dir = "{run}"
            state_dir = "{state}"
            [domain]
            bootstrap_key = "bk.key"
            babel_port = {port}
            [[interface]]
            name = "lo"
            role = "trusted"
            [[interface]]
            name = "wan-absent"
            role = "untrusted"
            [[group]]
            address = "239.1.1.1"
            ports = [5000]
            sources = ["10.0.0.1"]
            gak = [{{ epoch = 7, file = "gak.key" }}]
            {more}
            "#,
            run = self.path("run").display(),
            state = self.path("state").display(),
            port = self.port,
        );
        fs::write(self.path("gemcast.toml"), text).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.path("run/default/api.sock")
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(GEMCASTD);
        command.arg("--config").arg(self.path("gemcast.toml"));
        command
    }

    pub fn start(&self) -> Daemon {
        let mut child = self.command().env("RUST_LOG", "debug").stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut daemon = Daemon { child, lines, log: Vec::new() };
        daemon.await_line("started");
        daemon
    }

    pub fn gemctl(&self, arguments: &[&str]) -> Output {
        Command::new(GEMCTL).arg("--run-dir").arg(self.path("run")).args(arguments).output().unwrap()
    }

    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let output = self.gemctl(&[&["-o", "json"], arguments].concat());
        let value: serde_json::Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
        assert_eq!(value["schema"], 1);
        value
    }

    pub fn data_plane(&self) -> UnixListener {
        fs::create_dir_all(self.path("run/default")).unwrap();
        UnixListener::bind(self.path("run/default/dataplane.sock")).unwrap()
    }
}

/// A running gemcastd and its log.
pub struct Daemon {
    pub child: Child,
    lines: Receiver<String>,
    pub log: Vec<String>,
}

impl Daemon {
    pub fn await_line(&mut self, part: &str) -> String {
        loop {
            let Ok(line) = self.lines.recv_timeout(PATIENCE) else {
                panic!("\"{part}\" not in the log:\n{}", self.log.join("\n"));
            };
            self.log.push(line.clone());
            if line.contains(part) {
                return line;
            }
        }
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub fn stop(mut self) -> i32 {
        self.signal(rustix::process::Signal::TERM);
        self.child.wait().unwrap().code().expect("an exit, not a signal")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The test's end of a data plane's connection.
pub struct Peer {
    stream: UnixStream,
    reader: FrameReader,
}

impl Peer {
    pub fn accept(listener: &UnixListener) -> Self {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, reader: FrameReader::default() }
    }

    pub fn receive(&mut self) -> to_dataplane::Body {
        loop {
            if let Some(message) = self.reader.message::<link::ToDataplane>().unwrap() {
                return message.body.unwrap();
            }
            let mut chunk = [0; 4096];
            let length = self.stream.read(&mut chunk).unwrap();
            assert!(length > 0, "hung up");
            self.reader.push(&chunk[..length]);
        }
    }

    pub fn hang_up(&self) {
        self.stream.shutdown(std::net::Shutdown::Both).unwrap();
    }

    pub fn send(&mut self, body: to_control::Body) {
        let mut bytes = Vec::new();
        message::encode(&link::ToControl { body: Some(body) }, &mut bytes);
        self.stream.write_all(&bytes).unwrap();
    }

    /// Exchanges hellos.
    pub fn greet(&mut self, layout_version: u32) {
        self.greet_with(layout_version, 0xabc);
    }

    /// Exchanges hellos, as a data plane with the maps of this incarnation.
    pub fn greet_with(&mut self, layout_version: u32, incarnation: u64) {
        let to_dataplane::Body::Hello(hello) = self.receive() else { panic!("a hello comes first") };
        assert_eq!((hello.layout_version, hello.instance.as_str()), (gemcast_xdp::LAYOUT_VERSION, "default"));
        let instance = "default".into();
        let hello = link::Hello { layout_version, instance, version: "9.9".into(), incarnation };
        self.send(to_control::Body::Hello(hello));
    }

    pub fn snapshot(&mut self) -> link::Snapshot {
        loop {
            if let to_dataplane::Body::Snapshot(snapshot) = self.receive() {
                return snapshot;
            }
        }
    }
}
