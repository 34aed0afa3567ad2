//! A gateway of the lab: its two daemons, started, stopped and killed, and what `gemctl` says about them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::fault::{skew_from_the_start, stopped_first};
use crate::host::Host;
use crate::lab::Lab;
use crate::process::ProcessId;

/// One of the two daemons.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Daemon {
    /// `gemcast-dataplane`.
    DataPlane,
    /// `gemcastd`.
    Control,
}

impl Daemon {
    /// Both, in the order they are started.
    pub const BOTH: [Self; 2] = [Self::DataPlane, Self::Control];

    /// Name of the binary.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DataPlane => "gemcast-dataplane",
            Self::Control => "gemcastd",
        }
    }
}

/// How long a daemon may take to end after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a state that cannot be waited for is looked at.
pub(crate) const POLL: Duration = Duration::from_millis(25);

/// A gateway. What belongs to its namespaces is its [`Host`].
#[derive(Clone, Copy)]
pub struct Gateway<'a> {
    host: Host<'a>,
    lab: &'a Lab,
}

impl<'a> Gateway<'a> {
    pub(crate) fn new(lab: &'a Lab, host: Host<'a>) -> Self {
        Self { host, lab }
    }

    /// Its namespaces, addresses and interfaces.
    pub fn host(&self) -> Host<'a> {
        self.host
    }

    /// Its directory in the lab's.
    pub fn directory(&self) -> PathBuf {
        self.lab.state().directory.join(self.host.name())
    }

    /// Its configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.directory().join("etc/gemcast.toml")
    }

    /// Its run directory.
    pub fn run_dir(&self) -> PathBuf {
        self.directory().join("run")
    }

    /// Its API socket, which can be reached from outside the namespaces too.
    pub fn api_socket(&self) -> PathBuf {
        self.run_dir().join("default/api.sock")
    }

    /// A daemon's log file, which its later runs append to.
    pub fn log_file(&self, daemon: Daemon) -> PathBuf {
        self.directory().join(format!("{}.log", daemon.name()))
    }

    /// The daemon's process, if it runs.
    pub fn process(&self, daemon: Daemon) -> Option<ProcessId> {
        let text = fs::read(self.pid_file(daemon)).ok()?;
        serde_json::from_slice::<ProcessId>(&text).ok().filter(|process| process.is_alive())
    }

    /// The end of a daemon's log.
    pub fn log_tail(&self, daemon: Daemon) -> String {
        let text = fs::read(self.log_file(daemon)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// The command line a daemon is started with.
    pub fn command(&self, daemon: Daemon) -> Result<Command> {
        let mut command = self.host.command(self.lab.binaries().path(daemon.name())?);
        match daemon {
            Daemon::DataPlane => command.arg("--run-dir").arg(self.run_dir()).args(["--instance", "default"]),
            Daemon::Control => command.arg("--config").arg(self.config_file()),
        };
        command.env("RUST_LOG", self.lab.log_filter());
        Ok(command)
    }

    /// Starts a daemon; returns without waiting for it to be ready.
    pub fn start(&self, daemon: Daemon) -> Result<ProcessId> {
        let path = self.log_file(daemon);
        let log = File::options().create(true).append(true).open(&path).map_err(Error::file(&path))?;
        let log_too = log.try_clone().map_err(Error::file(&path))?;
        // In a process group of its own, so that an interrupt typed at the terminal ends the lab in order.
        let skew = self.clock_skew().filter(|_| daemon == Daemon::Control);
        let mut command = self.command(daemon)?;
        if skew.is_some() {
            command = stopped_first(&command);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(log_too)
            .process_group(0)
            .current_dir("/")
            .spawn()
            .map_err(Error::io(format!("starting {}", daemon.name())))?;
        let process = ProcessId::of(child.id()).map_err(Error::io("reading a daemon's start time"))?;
        if let Some(seconds) = skew {
            skew_from_the_start(process, daemon.name(), seconds)?;
        }
        let pid_file = self.pid_file(daemon);
        let text = serde_json::to_vec(&process).expect("plain numbers");
        fs::write(&pid_file, text).map_err(Error::file(&pid_file))?;
        Ok(process)
    }

    /// Ends a daemon in order, with SIGTERM.
    pub fn stop(&self, daemon: Daemon) -> Result<()> {
        self.end(daemon, Signal::TERM)
    }

    /// Ends a daemon with SIGKILL.
    pub fn kill(&self, daemon: Daemon) -> Result<()> {
        self.end(daemon, Signal::KILL)
    }

    /// Kills the data plane.
    pub fn kill_dataplane(&self) -> Result<()> {
        self.kill(Daemon::DataPlane)
    }

    /// Kills the control daemon.
    pub fn kill_control(&self) -> Result<()> {
        self.kill(Daemon::Control)
    }

    /// Sends a daemon a signal, if it runs.
    pub fn signal(&self, daemon: Daemon, signal: Signal) -> Result<()> {
        match self.process(daemon) {
            Some(process) => process.signal(signal).map_err(Error::io(format!("signalling {}", daemon.name()))),
            None => Ok(()),
        }
    }

    fn end(&self, daemon: Daemon, signal: Signal) -> Result<()> {
        let Some(process) = self.process(daemon) else { return Ok(()) };
        self.signal(daemon, signal)?;
        if process.wait_exit(STOP_TIMEOUT).map_err(Error::io("waiting for a daemon to end"))? {
            return Ok(());
        }
        Err(Error::Timeout {
            what: format!(
                "{} of {} has not ended; the end of its log:\n{}",
                daemon.name(),
                self.host.name(),
                self.log_tail(daemon)
            ),
            waited: STOP_TIMEOUT,
        })
    }

    /// Runs `gemctl` against this gateway.
    pub fn gemctl_output(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(self.lab.binaries().path("gemctl")?);
        command.arg("--socket").arg(self.api_socket()).args(arguments).stdin(Stdio::null());
        command.output().map_err(Error::io("starting gemctl"))
    }

    /// Runs `gemctl -o json` against this gateway.
    pub fn gemctl(&self, arguments: &[&str]) -> Result<Value> {
        let output = self.gemctl_output(&[&["-o", "json"], arguments].concat())?;
        let command = || format!("gemctl -o json {} (gateway {})", arguments.join(" "), self.host.name());
        // 3 is its answer about a gateway that serves, but not as configured.
        if !matches!(output.status.code(), Some(0 | 3)) {
            return Err(Error::Command {
                command: command(),
                outcome: output.status.to_string(),
                stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            });
        }
        serde_json::from_slice(&output.stdout)
            .map_err(|error| Error::Unreadable { what: command(), reason: error.to_string() })
    }

    /// Its interfaces, with their counters.
    pub fn interfaces(&self) -> Result<Vec<Interface>> {
        let mut answer = self.gemctl(&["iface", "list"])?;
        serde_json::from_value(answer["interfaces"].take())
            .map_err(|error| Error::Unreadable { what: "gemctl iface list".into(), reason: error.to_string() })
    }

    /// One of its interfaces.
    pub fn interface(&self, name: &str) -> Result<Interface> {
        self.interfaces()?.into_iter().find(|interface| interface.name == name).ok_or_else(|| Error::Unreadable {
            what: "gemctl iface list".into(),
            reason: format!("`{name}` is not in it"),
        })
    }

    /// Whether both daemons serve, on every interface. `Err` says what is missing.
    pub fn readiness(&self) -> Result<(), String> {
        let status = self.gemctl(&["status"]).map_err(|error| error.to_string())?;
        let plane = &status["data_plane"];
        if plane["connected"] != true || plane["applied"] != true {
            return Err(format!("the data plane is not connected or has not applied its flows: {plane}"));
        }
        let interfaces = self.interfaces().map_err(|error| error.to_string())?;
        match interfaces.iter().find(|interface| interface.state != "up") {
            Some(interface) => Err(format!("{} is {}: {}", interface.name, interface.state, interface.reason)),
            None => Ok(()),
        }
    }

    /// Waits until both daemons serve; answers after how long they did.
    pub fn wait_ready(&self, timeout: Duration) -> Result<Duration> {
        self.wait_for("to be ready", timeout, || self.readiness())
    }

    /// Waits until it can seal, and open what every other member seals.
    pub fn wait_keys(&self, timeout: Duration) -> Result<Duration> {
        self.wait_for("to have every key", timeout, || self.key_readiness())
    }

    fn key_readiness(&self) -> Result<(), String> {
        let answer = self.gemctl(&["group", "list"]).map_err(|error| error.to_string())?;
        let listed = answer["groups"].as_array().map(Vec::as_slice).unwrap_or_default();
        let gateways = self.lab.gateway_names();
        for group in self.lab.state().groups.iter().filter(|group| group.is_sealed_for(self.host.name())) {
            let Some(entry) = listed.iter().find(|entry| entry["group"] == group.address.as_str()) else {
                return Err(format!("group {} is not listed", group.address));
            };
            if entry["send"] == true && entry["active_key"].as_str().is_none_or(str::is_empty) {
                return Err(format!("group {} has no active key", group.address));
            }
            let members = gateways.iter().filter(|name| group.has_member(name)).count() as u64;
            let sources = entry["source_nodes"].as_u64().unwrap_or(0);
            if sources + 1 < members {
                return Err(format!("group {}: keys of {sources} of {} other members", group.address, members - 1));
            }
        }
        Ok(())
    }

    fn wait_for(
        &self,
        what: &str,
        timeout: Duration,
        mut ready: impl FnMut() -> Result<(), String>,
    ) -> Result<Duration> {
        let start = Instant::now();
        loop {
            let missing = match ready() {
                Ok(()) => return Ok(start.elapsed()),
                Err(missing) => missing,
            };
            for daemon in Daemon::BOTH {
                if self.process(daemon).is_none() {
                    return Err(Error::DaemonEnded {
                        daemon: daemon.name(),
                        gateway: self.host.name().into(),
                        log: self.log_file(daemon),
                        tail: self.log_tail(daemon),
                    });
                }
            }
            if start.elapsed() > timeout {
                let what = format!("gateway {} {what}: {missing}", self.host.name());
                return Err(Error::Timeout { what, waited: timeout });
            }
            std::thread::sleep(POLL);
        }
    }

    fn pid_file(&self, daemon: Daemon) -> PathBuf {
        self.directory().join(format!("{}.pid", daemon.name()))
    }
}

/// An interface with its counters, as `gemctl iface list -o json` tells it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// "trusted" or "untrusted".
    pub role: String,
    /// "up", or what keeps it from that.
    pub state: String,
    /// Why it is not up.
    pub reason: String,
    /// "driver" or "skb".
    pub xdp_mode: String,
    /// "zerocopy" or "copy".
    pub bind_mode: String,
    /// Frames that reached the XDP program.
    pub received: u64,
    /// Frames given to a worker.
    pub redirected: u64,
    /// Frames that left by at least one interface.
    pub forwarded: u64,
    /// Sealed frames that were opened.
    pub opened: u64,
    /// Sealed frames whose packet had been opened before.
    pub copies: u64,
    /// Frames that wait for a key.
    pub held: u64,
    /// Frames left to the kernel.
    pub passed_total: u64,
    /// Frames dropped.
    pub dropped_total: u64,
    /// Frames left to the kernel, by reason.
    pub passed: BTreeMap<String, u64>,
    /// Frames dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Frames sent by it.
    pub sent: u64,
    /// Frames that could not be sent by it, by reason.
    pub unsent: BTreeMap<String, u64>,
}

impl Interface {
    /// Frames dropped for this reason.
    pub fn dropped_for(&self, reason: &str) -> u64 {
        self.dropped.get(reason).copied().unwrap_or(0)
    }

    /// Where every received frame ended, summed up: equal to `received` when no frame is on its way.
    pub fn accounted(&self) -> u64 {
        self.passed.values().sum::<u64>() + self.dropped.values().sum::<u64>() + self.forwarded + self.held
    }
}
