//! The router under test, of either make.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use gemcast_control::keyfile;
use gemcast_engine::derive::babel_mac_key;
use gemcast_lab::{Daemon, Gateway};
use rustix::process::{Pid, Signal, kill_process};

use super::UPDATE_INTERVAL;
use crate::error::{Error, Result};

/// Who made it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Make {
    Gemcastd,
    Babeld,
}

impl Make {
    /// Name in tables and in JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gemcastd => "gemcastd",
            Self::Babeld => "babeld",
        }
    }
}

/// A running router. It ends when it is dropped.
pub(crate) struct Router<'a> {
    gateway: Gateway<'a>,
    babeld: Option<Child>,
    pub(crate) pid: u32,
}

impl<'a> Router<'a> {
    pub(crate) fn start(make: Make, gateway: Gateway<'a>) -> Result<Self> {
        if make == Make::Gemcastd {
            let process = gateway.start(Daemon::Control)?;
            return Ok(Self { gateway, babeld: None, pid: process.pid.unsigned_abs() });
        }
        let directory = gateway.directory();
        let (config, pid_file) = (directory.join("babeld.conf"), directory.join("babeld.pid"));
        let interfaces: Vec<_> = untrusted(gateway).collect();
        write(&config, &babeld_config(gateway, &interfaces)?)?;
        let _ = fs::remove_file(&pid_file);
        let log = fs::File::create(directory.join("babeld.log"))
            .map_err(|error| Error::Io("making babeld's log".into(), error))?;
        let mut command = gateway.host().command("babeld");
        command.arg("-I").arg(pid_file).arg("-S").arg("").arg("-c").arg(config).args(interfaces);
        let started = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let child = started.map_err(|error| Error::Io("starting babeld".into(), error))?;
        Ok(Self { gateway, pid: child.id(), babeld: Some(child) })
    }
}

impl Drop for Router<'_> {
    fn drop(&mut self) {
        match &mut self.babeld {
            // In order, so that both take their routes out of the kernel.
            Some(child) => {
                let _ = kill_process(Pid::from_child(child), Signal::TERM);
                let _ = child.wait();
            }
            None => drop(self.gateway.stop(Daemon::Control)),
        }
    }
}

/// Interfaces towards the neighbours.
fn untrusted(gateway: Gateway<'_>) -> impl Iterator<Item = &str> {
    gateway.host().interfaces().iter().map(|interface| interface.name.as_str()).filter(|name| name.starts_with("wan"))
}

/// The same settings that gemcastd gets: authenticated, wired, nothing of its own to announce.
fn babeld_config(gateway: Gateway<'_>, interfaces: &[&str]) -> Result<String> {
    let bootstrap = keyfile::read_key(&bootstrap_key(gateway)).map_err(std::io::Error::other);
    let bootstrap = bootstrap.map_err(|error| Error::Io("reading the bootstrap key".into(), error))?;
    let key: String = babel_mac_key(&bootstrap).expose().iter().map(|byte| format!("{byte:02x}")).collect();
    let update = UPDATE_INTERVAL.as_secs();
    let interfaces = interfaces
        .iter()
        .map(|name| format!("interface {name} type wired key k rxcost 96 hello-interval 1 update-interval {update}\n"));
    Ok(format!(
        "key id k type hmac-sha256 value {key}\n{}redistribute local deny\nredistribute deny\n",
        interfaces.collect::<String>()
    ))
}

/// Where the lab put the bootstrap key.
pub(crate) fn bootstrap_key(gateway: Gateway<'_>) -> PathBuf {
    gateway.directory().join("etc/bk.key")
}

pub(crate) fn write(path: &std::path::Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(|error| Error::Io(path.display().to_string(), error))
}
