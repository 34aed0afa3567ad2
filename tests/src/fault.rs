//! Faults: everything that can be done to a lab that is up, and undone again.
//!
//! [`Lab::inject`] and [`Lab::lift`] take a [`Fault`] by value and keep a list in the lab's directory, so a fault of one
//! process can be lifted by another: `cargo xtask lab fault`, tests, and the chaos run are the same code.

mod chaos;
mod clock;
mod link;
mod maps;
mod plan;
mod wire;

use std::fmt;
use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

pub use self::chaos::{Chaos, ChaosEvent, ChaosReport, ChaosStep};
pub(crate) use self::clock::{skew_from_the_start, stopped_first};
pub use self::link::{Effect, FrameClass, LinkFault};
pub use self::maps::MapFault;
pub use self::plan::{Plan, Step};
pub use self::wire::run_wire;
pub(crate) use self::wire::{BINARY as WIRE, Request, WireConfig, WireLink, ask};

use crate::error::{Error, Result};
use crate::gateway::{Daemon, Gateway};
use crate::lab::Lab;
use crate::wiring;

/// File that takes the room of a full disk.
const FILLER: &str = "filler";

/// Something that goes wrong.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// A daemon is killed with SIGKILL. Lifted, it is started again.
    Kill {
        /// The gateway.
        gateway: String,
        /// Which of its daemons.
        daemon: Daemon,
    },
    /// A daemon is stopped with SIGSTOP. Lifted, it continues.
    Stop {
        /// The gateway.
        gateway: String,
        /// Which of its daemons.
        daemon: Daemon,
    },
    /// A faulty segment's links treat frames badly.
    Link {
        /// The segment; the lab was raised with it as a faulty one.
        segment: String,
        /// Which frames meet what.
        #[serde(flatten)]
        fault: LinkFault,
    },
    /// These hosts and the others of a faulty segment do not hear each other.
    Partition {
        /// The segment.
        segment: String,
        /// One side of the cut.
        hosts: Vec<String>,
    },
    /// A gateway's state directory is full. The lab was raised with a small one.
    FillDisk {
        /// The gateway.
        gateway: String,
    },
    /// A gateway's control daemon sees a wall clock that is wrong, now and when it is started again.
    Skew {
        /// The gateway.
        gateway: String,
        /// How far ahead of the machine's clock; behind it, when negative.
        seconds: i64,
    },
    /// An interface is set down. Lifted, it is set up.
    Down {
        /// The host.
        host: String,
        /// Its interface.
        interface: String,
    },
    /// An interface is deleted. Lifted, there is another one of the same name and addresses.
    Remove {
        /// The host.
        host: String,
        /// Its interface.
        interface: String,
    },
    /// A gateway's maps are harmed, once. There is nothing to lift: the gateway puts them right by itself.
    Maps {
        /// The gateway.
        gateway: String,
        /// What is done to them.
        fault: MapFault,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill { gateway, daemon } => write!(f, "kill {} of {gateway}", daemon.name()),
            Self::Stop { gateway, daemon } => write!(f, "stop {} of {gateway}", daemon.name()),
            Self::Link { segment, fault } => write!(f, "{segment}: {fault}"),
            Self::Partition { segment, hosts } => write!(f, "{segment}: cut {} off", hosts.join(", ")),
            Self::FillDisk { gateway } => write!(f, "fill the state directory of {gateway}"),
            Self::Skew { gateway, seconds } => write!(f, "clock of {gateway} off by {seconds:+} s"),
            Self::Down { host, interface } => write!(f, "{interface} of {host} down"),
            Self::Remove { host, interface } => write!(f, "remove {interface} of {host}"),
            Self::Maps { gateway, fault } => write!(f, "{} the maps of {gateway}", fault.name()),
        }
    }
}

impl Fault {
    /// Whether it lasts until it is lifted.
    pub const fn lasts(&self) -> bool {
        !matches!(self, Self::Maps { .. })
    }
}

impl Lab {
    /// Makes a fault happen.
    pub fn inject(&self, fault: &Fault) -> Result<()> {
        self.apply(fault)?;
        if fault.lasts() {
            let mut faults = self.faults()?;
            faults.push(fault.clone());
            self.save_faults(&faults)?;
        }
        Ok(())
    }

    /// Ends a fault that was injected.
    pub fn lift(&self, fault: &Fault) -> Result<()> {
        self.undo(fault)?;
        let mut faults = self.faults()?;
        faults.retain(|one| one != fault);
        self.save_faults(&faults)
    }

    /// Ends all faults, the latest first.
    pub fn lift_all(&self) -> Result<()> {
        self.faults()?.iter().rev().try_for_each(|fault| self.lift(fault))
    }

    /// The faults there are now.
    pub fn faults(&self) -> Result<Vec<Fault>> {
        let path = self.faults_file();
        let text = match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            text => text.map_err(Error::file(&path))?,
        };
        serde_json::from_slice(&text)
            .map_err(|error| Error::Unreadable { what: path.display().to_string(), reason: error.to_string() })
    }

    /// Makes the random decisions of a faulty segment follow from this seed from now on.
    pub fn seed_links(&self, segment: &str, seed: u64) -> Result<()> {
        self.ask_wire(segment, &Request::Seed(seed))
    }

    fn apply(&self, fault: &Fault) -> Result<()> {
        match fault {
            Fault::Kill { gateway, daemon } => self.find_gateway(gateway)?.kill(*daemon),
            Fault::Stop { gateway, daemon } => self.find_gateway(gateway)?.signal(*daemon, Signal::STOP),
            Fault::Link { segment, fault } => self.ask_wire(segment, &Request::Add(fault.clone())),
            Fault::Partition { segment, hosts } => {
                let cuts = self.cuts(segment, hosts)?;
                cuts.into_iter().try_for_each(|cut| self.ask_wire(segment, &Request::Add(cut)))
            }
            Fault::FillDisk { gateway } => self.find_gateway(gateway)?.fill_disk(),
            Fault::Skew { gateway, seconds } => self.find_gateway(gateway)?.skew_clock(*seconds),
            Fault::Down { host, interface } => self.set_link(host, interface, "down"),
            Fault::Remove { host, interface } => {
                self.remade_by(host, interface)?;
                self.find_host(host)?.run(&["ip", "link", "delete", interface]).map(drop)
            }
            Fault::Maps { gateway, fault } => self.find_gateway(gateway)?.harm_maps(*fault),
        }
    }

    fn undo(&self, fault: &Fault) -> Result<()> {
        match fault {
            Fault::Kill { gateway, daemon } => {
                let gateway = self.find_gateway(gateway)?;
                if gateway.process(*daemon).is_none() { gateway.start(*daemon).map(drop) } else { Ok(()) }
            }
            Fault::Stop { gateway, daemon } => self.find_gateway(gateway)?.signal(*daemon, Signal::CONT),
            Fault::Link { segment, fault } => self.ask_wire(segment, &Request::Remove(fault.clone())),
            Fault::Partition { segment, hosts } => {
                let cuts = self.cuts(segment, hosts)?;
                cuts.into_iter().try_for_each(|cut| self.ask_wire(segment, &Request::Remove(cut)))
            }
            Fault::FillDisk { gateway } => self.find_gateway(gateway)?.empty_disk(),
            Fault::Skew { gateway, .. } => self.find_gateway(gateway)?.skew_clock(0),
            Fault::Down { host, interface } => self.set_link(host, interface, "up"),
            Fault::Remove { host, interface } => {
                let script = self.remade_by(host, interface)?;
                wiring::remake(&script, self.find_host(host)?.namespace(), self.find_host(wiring::SWITCH)?.namespace())
            }
            Fault::Maps { .. } => Ok(()),
        }
    }

    /// Losses between each host of one side and each of the other.
    fn cuts(&self, segment: &str, hosts: &[String]) -> Result<Vec<LinkFault>> {
        let all = self.state().hosts.iter().filter(|host| host.interfaces.iter().any(|one| one.segment == segment));
        let (near, far): (Vec<_>, Vec<_>) = all.map(|host| host.name.clone()).partition(|name| hosts.contains(name));
        if let Some(stranger) = hosts.iter().find(|host| !near.contains(host)) {
            return Err(Error::NoHost { name: stranger.clone(), known: [near, far].concat().join(", ") });
        }
        let cut = |from: &String, to: &String| LinkFault::new(Effect::Loss(1.0)).from(from).to(to);
        Ok(near.iter().flat_map(|one| far.iter().flat_map(move |other| [cut(one, other), cut(other, one)])).collect())
    }

    fn set_link(&self, host: &str, interface: &str, state: &str) -> Result<()> {
        self.find_host(host)?.run(&["ip", "link", "set", interface, state])?;
        if state == "up" {
            // The kernel takes a link's IPv6 addresses away when it goes down.
            let script = wiring::addresses(self.find_host(host)?.find_interface(interface)?);
            self.find_host(host)?.namespace().script(&script)?;
        }
        Ok(())
    }

    fn remade_by(&self, host: &str, interface: &str) -> Result<wiring::Remake> {
        let interface = self.find_host(host)?.find_interface(interface)?;
        wiring::Remake::of(self.state(), host, interface)
    }

    fn ask_wire(&self, segment: &str, request: &Request) -> Result<()> {
        if !self.state().faulty.iter().any(|one| one == segment) {
            let known = if self.state().faulty.is_empty() { "none".into() } else { self.state().faulty.join(", ") };
            return Err(Error::NoFaultySegment { segment: segment.into(), known });
        }
        ask(&wiring::wire_socket(&self.state().directory, segment), request)
    }

    fn find_gateway(&self, name: &str) -> Result<Gateway<'_>> {
        let names = self.gateway_names();
        if !names.contains(&name) {
            return Err(Error::NoHost { name: name.into(), known: names.join(", ") });
        }
        Ok(self.gateway(name))
    }

    fn faults_file(&self) -> PathBuf {
        self.state().directory.join("faults.json")
    }

    fn save_faults(&self, faults: &[Fault]) -> Result<()> {
        let path = self.faults_file();
        fs::write(&path, serde_json::to_vec_pretty(faults).expect("faults have string keys only"))
            .map_err(Error::file(&path))
    }
}

impl Gateway<'_> {
    /// Fills the file system of the state directory, if it is one of its own.
    fn fill_disk(&self) -> Result<()> {
        let state = self.directory().join("state");
        // A disk that is not small is the machine's: it is not to be filled.
        let script = format!(
            "cd {state:?}; mountpoint -q . || {{ echo 'not raised with a small state directory' >&2; exit 1; }}\n\
             dd if=/dev/zero of={FILLER} bs=4096 2>/dev/null || true"
        );
        self.host().namespace().script(&script)
    }

    fn empty_disk(&self) -> Result<()> {
        self.host().namespace().script(&format!("rm -f {:?}", self.directory().join("state").join(FILLER)))
    }

    /// Sets the control daemon's wall clock off, now and at its later starts.
    fn skew_clock(&self, seconds: i64) -> Result<()> {
        let path = self.skew_file();
        fs::write(&path, seconds.to_string()).map_err(Error::file(&path))?;
        self.process(Daemon::Control).map_or(Ok(()), |process| clock::skew(process, seconds))
    }

    /// How far off its wall clock is, when it is.
    pub(crate) fn clock_skew(&self) -> Option<i64> {
        let text = fs::read_to_string(self.skew_file()).ok()?;
        text.trim().parse().ok().filter(|seconds| *seconds != 0)
    }

    fn skew_file(&self) -> PathBuf {
        self.directory().join("clock-skew")
    }
}
