//! A host's namespaces: network and mounts, held by a process that sleeps.
//!
//! Not `ip netns`: that gives every command its own mount namespace with a fresh /sys, while the two daemons of a gateway
//! must share one, in which a bpffs gets mounted. Mounts made inside do not propagate out.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::process::ProcessId;

/// Environment variable that marks every process the lab starts with the lab's directory.
const MARK: &str = "GEMCAST_LAB";

/// The mark of a lab's processes.
pub(crate) fn mark(lab_dir: &Path) -> String {
    format!("{MARK}={}", lab_dir.display())
}

/// Network and mount namespace of one host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Namespace {
    /// The process that keeps them alive.
    pub holder: ProcessId,
    /// The network namespace, for `nsenter --net=` and the like.
    pub net: PathBuf,
    /// The mount namespace.
    pub mnt: PathBuf,
    lab_dir: PathBuf,
}

impl Namespace {
    /// Makes the namespaces.
    pub(crate) fn create(lab_dir: &Path) -> Result<Self> {
        // The line says that `unshare` has done its work; the holder must not keep the pipe.
        let mut child = Command::new("setsid")
            .args(["unshare", "--net", "--mount", "--propagation", "private"])
            .args(["sh", "-c", "echo ready && exec sleep infinity >/dev/null 2>&1"])
            .env(MARK, lab_dir)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(Error::io("starting `setsid unshare`"))?;
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut line).map_err(Error::io("reading from the namespace holder"))?;
        if line != "ready\n" {
            let status = child.wait().map_err(Error::io("waiting for the namespace holder"))?;
            return Err(Error::Command {
                command: "unshare --net --mount".into(),
                outcome: status.to_string(),
                stderr: String::new(),
            });
        }
        let holder = ProcessId::of(child.id()).map_err(Error::io("reading the namespace holder's start time"))?;
        let ns = Path::new("/proc").join(holder.pid.to_string()).join("ns");
        Ok(Self { holder, net: ns.join("net"), mnt: ns.join("mnt"), lab_dir: lab_dir.into() })
    }

    /// The words to put before a command so that it runs inside.
    pub fn enter_command(&self) -> Vec<String> {
        vec![
            "nsenter".into(),
            format!("--net={}", self.net.display()),
            format!("--mount={}", self.mnt.display()),
            "--".into(),
        ]
    }

    /// A command that will run inside. Its pid is the program's own.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let words = self.enter_command();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(program).env(MARK, &self.lab_dir);
        command
    }

    /// Runs a shell script inside; any failing command fails it.
    pub(crate) fn script(&self, script: &str) -> Result<()> {
        let mut child = self
            .command("sh")
            .args(["-eu"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(Error::io("starting `nsenter`"))?;
        child
            .stdin
            .take()
            .expect("stdin is piped")
            .write_all(script.as_bytes())
            .map_err(Error::io("writing a script to `sh`"))?;
        let output = child.wait_with_output().map_err(Error::io("waiting for `sh`"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(Error::Command {
            command: script.trim().into(),
            outcome: output.status.to_string(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs `work` on a thread inside the network namespace. Sockets it opens stay there, whoever uses them later.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let net = File::open(&self.net).map_err(Error::file(&self.net))?;
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                move_into_link_name_space(std::os::fd::AsFd::as_fd(&net), Some(LinkNameSpaceType::Network))
                    .map_err(|error| Error::io("entering the network namespace")(error.into()))?;
                Ok(work())
            });
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}
