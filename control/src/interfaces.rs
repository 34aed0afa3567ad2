//! The configured interfaces and what the kernel says about each: the difference goes to the engine, the rest to the
//! operator.

use crate::config::{self, Config};
use crate::netlink::{Link, Netlink};
use gemcast_engine::input::{Input, Interface, Segment};
use gemcast_proto::wire::babel::Prefix;
use gemcast_xdp::layout::MAX_INTERFACES;
use std::collections::BTreeSet;
use std::path::Path;

const NO_ADDRESS: &str = "no usable IPv6 link-local address, which Babel needs";
const CHECKING: &str = "its IPv6 link-local address is being checked for duplicates";

/// One configured interface, or one that a configured pattern means.
pub struct Configured {
    /// As configured, under its own name.
    pub config: config::Interface,
    /// The kernel's link of that name, if there is one.
    pub link: Option<Link>,
    /// What the engine was told, for an interface that Babel speaks on.
    told: Option<Interface>,
    /// The state that was logged last.
    logged: Option<(State, &'static str)>,
}

/// Every configured interface, in the order of the configuration. Those that a pattern means are there as long as the
/// kernel has them.
#[derive(Default)]
pub struct Interfaces {
    rules: Vec<config::Interface>,
    configured: Vec<Configured>,
    left_out: usize,
}

/// What became of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Usable.
    Up,
    /// There, but not usable.
    Down,
    /// Not there.
    Missing,
}

impl State {
    /// The word used in output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Missing => "missing",
        }
    }
}

impl Configured {
    /// The state, and why it is not up.
    pub fn state(&self) -> (State, &'static str) {
        match &self.link {
            None => (State::Missing, "no such interface"),
            Some(link) if !link.up => (State::Down, "administratively down"),
            Some(link) if !link.running => (State::Down, "no carrier"),
            Some(link) if self.config.babel && link.link_local.is_empty() => {
                (State::Down, if link.tentative.is_empty() { NO_ADDRESS } else { CHECKING })
            }
            Some(_) => (State::Up, ""),
        }
    }

    /// Whether packets can arrive by it, as far as the kernel knows.
    pub fn has_link(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.up && link.running)
    }

    /// What an operator can do about a state that is not up.
    pub fn fix(&self) -> String {
        let name = &self.config.name;
        match &self.link {
            None => "create the interface, or correct its name in the configuration".into(),
            Some(link) if !link.up => format!("ip link set {name} up"),
            Some(link) if !link.running => "check the cable, or the other end of the link".into(),
            Some(link) if !link.tentative.is_empty() => "wait a second or two".into(),
            Some(_) => format!("sysctl net.ipv6.conf.{name}.disable_ipv6=0; ip -6 addr show dev {name}"),
        }
    }

    /// What the engine is to know: the interface, while Babel can be spoken on it.
    fn babel(&self) -> Option<Interface> {
        let link = self.link.as_ref().filter(|_| self.config.babel && self.state().0 == State::Up)?;
        Some(Interface {
            ifindex: link.ifindex,
            name: link.name.clone(),
            link_local: *link.link_local.first()?,
            ipv4: link.ipv4.first().copied(),
            addresses: link.addresses().collect(),
            mtu: link.mtu,
            // The kernel's wireless stack marks its interfaces there.
            wireless: self
                .config
                .wireless
                .unwrap_or_else(|| Path::new("/sys/class/net").join(&link.name).join("phy80211").exists()),
            settings: self.config.link.clone(),
        })
    }
}

impl Interfaces {
    /// Takes over a configuration; what is known of interfaces that stay is kept. Call [`Interfaces::update`] next.
    pub fn configure(&mut self, config: &Config) {
        self.rules.clone_from(&config.interfaces);
    }

    /// The interfaces that are meant now: a name stands for itself and goes before every pattern, an earlier pattern
    /// before a later one.
    fn meant(&mut self, netlink: &Netlink) -> Vec<config::Interface> {
        let mut taken: BTreeSet<&str> = BTreeSet::new();
        taken.extend(self.rules.iter().filter(|rule| !rule.is_pattern()).map(|rule| rule.name.as_str()));
        let mut names: Vec<_> = netlink.links().map(|link| link.name.as_str()).collect();
        names.sort_unstable();
        let mut meant = Vec::new();
        for rule in &self.rules {
            if rule.is_pattern() {
                let new = names.iter().filter(|name| rule.matches(name) && taken.insert(name));
                meant.extend(new.map(|name| config::Interface { name: (*name).to_owned(), ..rule.clone() }));
            } else {
                meant.push(rule.clone());
            }
        }
        self.left_out = meant.len().saturating_sub(MAX_INTERFACES as usize);
        meant.truncate(MAX_INTERFACES as usize);
        meant
    }

    /// Compares with the kernel's table and says what the engine must hear.
    pub fn update(&mut self, netlink: &Netlink) -> Vec<Input<'static>> {
        let mut old = std::mem::take(&mut self.configured);
        for config in self.meant(netlink) {
            let known = old.iter().position(|known| known.config.name == config.name);
            self.configured.push(match known {
                Some(at) => Configured { config, ..old.swap_remove(at) },
                None => Configured { config, link: None, told: None, logged: None },
            });
        }
        let gone = old.into_iter().inspect(|gone| tracing::info!(interface = %gone.config.name, "interface is gone"));
        let told = gone.filter_map(|gone| gone.told);
        let mut inputs: Vec<_> = told.map(|told| Input::InterfaceDown(told.ifindex)).collect();
        for interface in &mut self.configured {
            interface.link = netlink.find(&interface.config.name).cloned();
            let state = interface.state();
            let name = &interface.config.name;
            if interface.logged.replace(state) != Some(state) {
                match state {
                    (State::Up, _) => tracing::info!(interface = %name, "interface is up"),
                    // Every interface goes through this when it comes up.
                    (_, CHECKING) => tracing::info!(interface = %name, "{CHECKING}"),
                    (state, why) => {
                        let fix = interface.fix();
                        tracing::warn!(interface = %name, "interface is {}: {why}; fix: {fix}", state.name());
                    }
                }
            }
            let now = interface.babel();
            if interface.told == now {
                continue;
            }
            match (&interface.told, &now) {
                // The same name on another interface: the old one is gone.
                (Some(old), Some(new)) if old.ifindex != new.ifindex => {
                    inputs.push(Input::InterfaceDown(old.ifindex));
                }
                (Some(old), None) => inputs.push(Input::InterfaceDown(old.ifindex)),
                _ => {}
            }
            inputs.extend(now.clone().map(Input::InterfaceUp));
            interface.told = now;
        }
        inputs
    }

    /// Interfaces that patterns mean and that are too many for a data plane.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// Prefixes on the links of trusted interfaces that are up.
    pub fn connected(&self) -> impl Iterator<Item = Prefix> {
        let trusted = self.configured.iter().filter(|interface| interface.config.role == config::Role::Trusted);
        let up = trusted.filter(|interface| interface.state().0 == State::Up);
        up.filter_map(|interface| interface.link.as_ref()).flat_map(Link::prefixes)
    }

    /// The LAN shared with other gateways: up, when one of the interfaces there is.
    pub fn segment(&self) -> Option<Segment> {
        let mut shared = self.configured.iter().filter_map(|one| Some((one.config.segment.as_ref()?, one))).peekable();
        // Patterns that mean nothing now leave the segment without an interface.
        let rules = self.rules.iter().find_map(|rule| rule.segment.as_ref());
        let config::Segment { name, priority, peers } = shared.peek().map(|(segment, _)| *segment).or(rules)?;
        let links: Vec<_> = shared.filter_map(|(_, one)| Some((one.link.as_ref()?, one.state().0))).collect();
        Some(Segment {
            name: name.clone(),
            priority: *priority,
            peers: peers.clone(),
            macs: links.iter().filter_map(|(link, _)| link.mac).collect(),
            up: links.iter().any(|(_, state)| *state == State::Up),
        })
    }

    /// Every configured interface.
    pub fn iter(&self) -> impl Iterator<Item = &Configured> {
        self.configured.iter()
    }

    /// Name of the interface of an index, for people.
    pub fn name(&self, ifindex: u32) -> &str {
        let is_it = |interface: &&Configured| interface.link.as_ref().is_some_and(|link| link.ifindex == ifindex);
        self.configured.iter().find(is_it).map_or("?", |interface| &interface.config.name)
    }
}
