//! What `lab up` made, as a JSON file: enough to find everything again and to remove exactly that.
//!
//! ```text
//! /run/gemcast-lab/<instance>/state.json     this file
//!                            /keys/          group keys, one per group and epoch
//!                            /<host>/etc     configuration and keys of a gateway
//!                            /<host>/run     its run directory; its bpffs is mounted below, in its own namespace
//!                            /<host>/state   its state directory
//!                            /<host>/*.log   its daemons' logs, and *.pid: their pids and start times
//! ```

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::Group;
use crate::error::{Error, Result};
use crate::frame::Mac;
use crate::namespace::Namespace;
use crate::process::ProcessId;
use crate::topology::Role;

/// Where labs live, each in the directory of its instance.
pub const ROOT: &str = "/run/gemcast-lab";

/// Everything about a lab that does not change while it is up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// First part of the lab's names.
    pub prefix: String,
    /// Second part: tells labs on one machine apart.
    pub instance: String,
    /// Name of the topology.
    pub topology: String,
    /// Directory of the lab.
    pub directory: PathBuf,
    /// The process that removes it when done; nobody, when it is kept.
    pub owner: Option<ProcessId>,
    /// Groups the gateways are configured for.
    pub groups: Vec<Group>,
    /// Whether bridges deliver a group only to the ports that joined it.
    pub snooping: bool,
    /// Segments whose links can be made to lose, delay and bend frames.
    #[serde(default)]
    pub faulty: Vec<String>,
    /// Its hosts, the switch included.
    pub hosts: Vec<HostState>,
}

/// A host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostState {
    /// Name, unique in the lab.
    pub name: String,
    /// What it does.
    pub kind: HostKind,
    /// Its namespaces.
    pub namespace: Namespace,
    /// Its interfaces; those of the switch are left out.
    pub interfaces: Vec<InterfaceState>,
}

/// What a host does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostKind {
    /// Runs the daemons.
    Gateway,
    /// Sends and receives on a trusted segment.
    Host,
    /// Listens on untrusted segments.
    Observer,
    /// Holds the bridges.
    Switch,
}

/// An interface of a host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InterfaceState {
    /// Name inside the host's namespace.
    pub name: String,
    /// Side of the gateways it is on.
    pub role: Role,
    /// Segment it is on.
    pub segment: String,
    /// Bridge of the segment in the switch's namespace, if it has one.
    pub bridge: Option<String>,
    /// MTU.
    pub mtu: u32,
    /// Queues.
    pub queues: u32,
    /// Hardware address.
    pub mac: Mac,
    /// IPv4 address, of a /24.
    pub ipv4: Ipv4Addr,
    /// IPv6 address, of a /64.
    pub ipv6: Ipv6Addr,
}

impl InterfaceState {
    /// Its address of the same family as `like`.
    pub fn address(&self, like: IpAddr) -> IpAddr {
        if like.is_ipv4() { self.ipv4.into() } else { self.ipv6.into() }
    }
}

impl State {
    /// Directory of a lab.
    pub(crate) fn directory(instance: &str) -> PathBuf {
        Path::new(ROOT).join(instance)
    }

    /// Instances that are up, or that a crash left behind.
    pub(crate) fn instances() -> Vec<String> {
        let Ok(entries) = fs::read_dir(ROOT) else { return Vec::new() };
        let mut names: Vec<_> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// Whether a segment's links can be made to lose, delay and bend frames.
    pub fn is_faulty(&self, segment: &str) -> bool {
        self.faulty.iter().any(|one| one == segment)
    }

    /// Whether the process that should have removed the lab is gone.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.owner.is_some_and(|owner| !owner.is_alive())
    }

    /// Reads the state of a lab.
    pub(crate) fn load(instance: &str) -> Result<Self> {
        let path = Self::directory(instance).join("state.json");
        let text = match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(Error::NotUp(instance.into())),
            text => text.map_err(Error::file(&path))?,
        };
        serde_json::from_slice(&text)
            .map_err(|error| Error::Unreadable { what: path.display().to_string(), reason: error.to_string() })
    }

    /// Writes it, whole or not at all.
    pub(crate) fn save(&self) -> Result<()> {
        let path = self.directory.join("state.json");
        let new = self.directory.join("state.json.new");
        let text = serde_json::to_vec_pretty(self).expect("the state has string keys only");
        fs::write(&new, text).map_err(Error::file(&new))?;
        fs::rename(&new, &path).map_err(Error::file(&path))
    }
}
