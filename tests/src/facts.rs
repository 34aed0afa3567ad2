//! Everything an outside script needs to send, capture, kill and measure: what `cargo xtask lab up --json` prints.
//!
//! Field names are stable.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::Serialize;

use crate::config::Group;
use crate::gateway::{Daemon, Gateway};
use crate::lab::Lab;
use crate::state::{HostState, InterfaceState};
use crate::topology::Role;

/// A lab, as it is now.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    /// First part of the lab's names.
    pub prefix: String,
    /// Second part: tells labs on one machine apart.
    pub instance: String,
    /// Name of the topology.
    pub topology: String,
    /// Directory with everything of the lab.
    pub directory: PathBuf,
    /// Groups the gateways are configured for.
    pub groups: Vec<Group>,
    /// The hosts, the switch included.
    pub hosts: Vec<HostFacts>,
}

/// A host, as it is now.
#[derive(Clone, Debug, Serialize)]
pub struct HostFacts {
    /// Name, kind, namespaces and interfaces.
    #[serde(flatten)]
    pub host: HostState,
    /// Whether its namespaces exist.
    pub alive: bool,
    /// The words to put before a command so that it runs in the host.
    pub enter: Vec<String>,
    /// The daemons, in a gateway.
    pub gateway: Option<GatewayFacts>,
}

/// What runs in a gateway.
#[derive(Clone, Debug, Serialize)]
pub struct GatewayFacts {
    /// Configuration file.
    pub config: PathBuf,
    /// Run directory.
    pub run_dir: PathBuf,
    /// Socket that `gemctl --socket` talks to.
    pub api_socket: PathBuf,
    /// Socket between the daemons.
    pub dataplane_socket: PathBuf,
    /// Data plane and control.
    pub daemons: Vec<DaemonFacts>,
}

/// A daemon.
#[derive(Clone, Debug, Serialize)]
pub struct DaemonFacts {
    /// Name of its binary.
    pub name: &'static str,
    /// Its pid, if it runs.
    pub pid: Option<i32>,
    /// Its log file.
    pub log: PathBuf,
}

impl Lab {
    /// Everything about the lab, as it is now.
    pub fn facts(&self) -> Facts {
        let state = self.state();
        let gateways = self.gateway_names();
        let hosts = state.hosts.iter().map(|host| HostFacts {
            alive: host.namespace.holder.is_alive(),
            enter: host.namespace.enter_command(),
            gateway: gateways.contains(&host.name.as_str()).then(|| gateway_facts(&self.gateway(&host.name))),
            host: host.clone(),
        });
        Facts {
            prefix: state.prefix.clone(),
            instance: state.instance.clone(),
            topology: state.topology.clone(),
            directory: state.directory.clone(),
            groups: state.groups.clone(),
            hosts: hosts.collect(),
        }
    }
}

fn gateway_facts(gateway: &Gateway<'_>) -> GatewayFacts {
    let daemons = Daemon::BOTH.into_iter().map(|daemon| DaemonFacts {
        name: daemon.name(),
        pid: gateway.process(daemon).map(|process| process.pid),
        log: gateway.log_file(daemon),
    });
    GatewayFacts {
        config: gateway.config_file(),
        run_dir: gateway.run_dir(),
        api_socket: gateway.api_socket(),
        dataplane_socket: gateway.run_dir().join("default/dataplane.sock"),
        daemons: daemons.collect(),
    }
}

impl Facts {
    /// The same for a person: one line per host, and one per daemon.
    pub fn to_text(&self) -> String {
        let mut text = format!("lab {} ({}), {}\n", self.instance, self.topology, self.directory.display());
        for HostFacts { host, alive, gateway, .. } in &self.hosts {
            let state = if *alive { format!("pid {}", host.namespace.holder.pid) } else { "gone".into() };
            let places: Vec<_> = host.interfaces.iter().map(place).collect();
            text += &format!("{:<9} {:<9} {state:<11} {}\n", host.name, kind(host), places.join("  "));
            for daemon in gateway.iter().flat_map(|gateway| &gateway.daemons) {
                let state = daemon.pid.map_or("not running".into(), |pid| format!("pid {pid}"));
                text += &format!("{:<9} {:<9} {state:<11} {}, {}\n", "", "", daemon.name, daemon.log.display());
            }
        }
        let groups: Vec<_> = self.groups.iter().map(|group| group.address.as_str()).collect();
        text + &format!("groups    {}\n", groups.join(" "))
    }
}

fn kind(host: &HostState) -> String {
    format!("{:?}", host.kind).to_lowercase()
}

fn place(interface: &InterfaceState) -> String {
    let role = match interface.role {
        Role::Trusted => "trusted",
        Role::Untrusted => "untrusted",
    };
    let addresses: [IpAddr; 2] = [interface.ipv4.into(), interface.ipv6.into()];
    format!("{} {role} {} {} {}", interface.name, interface.segment, addresses[0], addresses[1])
}
