//! Topologies as data: segments, and the hosts on each. Everything else follows from it: a host on trusted and
//! untrusted segments is a gateway; names, MAC and IP addresses come from the positions in the table.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::frame::Mac;

/// Which side of a gateway a segment is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Cleartext side.
    Trusted,
    /// Ciphertext side.
    Untrusted,
}

/// A link: a veth pair between two hosts, or a bridge between more.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Name, at most 10 characters; part of interface names.
    pub name: &'static str,
    /// Which side of the gateways it is on.
    pub role: Role,
    /// The hosts on it.
    pub hosts: Vec<&'static str>,
}

/// A network of the lab.
#[derive(Clone, Debug)]
pub struct Topology {
    /// Name, as on the command line.
    pub name: &'static str,
    /// Its links.
    pub segments: Vec<Segment>,
}

/// A host's place on a segment.
#[derive(Clone, Debug)]
pub struct Attachment<'a> {
    /// The segment.
    pub segment: &'a Segment,
    /// Name of the interface inside the host.
    pub interface: String,
    /// Its hardware address.
    pub mac: Mac,
    /// Its IPv4 address, of a /24.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address, of a /64.
    pub ipv6: Ipv6Addr,
}

/// Name of the host that listens on untrusted segments.
pub(crate) const OBSERVER: &str = "observer";

impl Topology {
    /// source – gateway a – untrusted segment – gateway b – receiver, and an observer on the untrusted segment.
    pub fn pair() -> Self {
        Self {
            name: "pair",
            segments: vec![
                Segment { name: "lan-a", role: Role::Trusted, hosts: vec!["a", "source"] },
                Segment { name: "lan-b", role: Role::Trusted, hosts: vec!["b", "receiver"] },
                Segment { name: "wan", role: Role::Untrusted, hosts: vec!["a", "b", OBSERVER] },
            ],
        }
    }

    /// Three gateways on one untrusted segment, each with a LAN host, and an observer.
    pub fn trio() -> Self {
        let mut segments = lans();
        segments.push(Segment { name: "wan", role: Role::Untrusted, hosts: vec!["a", "b", "c", OBSERVER] });
        Self { name: "trio", segments }
    }

    /// Gateways a – b – c over two untrusted links, each with a LAN host, and an observer on both links.
    pub fn line() -> Self {
        let mut segments = lans();
        segments.push(Segment { name: "wan-ab", role: Role::Untrusted, hosts: vec!["a", "b", OBSERVER] });
        segments.push(Segment { name: "wan-bc", role: Role::Untrusted, hosts: vec!["b", "c", OBSERVER] });
        Self { name: "line", segments }
    }

    /// source – gateway a = two untrusted segments = gateway b – receiver, and an observer on both.
    pub fn dual() -> Self {
        Self {
            name: "dual",
            segments: vec![
                Segment { name: "lan-a", role: Role::Trusted, hosts: vec!["a", "source"] },
                Segment { name: "lan-b", role: Role::Trusted, hosts: vec!["b", "receiver"] },
                Segment { name: "wan-1", role: Role::Untrusted, hosts: vec!["a", "b", OBSERVER] },
                Segment { name: "wan-2", role: Role::Untrusted, hosts: vec!["a", "b", OBSERVER] },
            ],
        }
    }

    /// Gateways a and b, each on the same LAN and the same untrusted segment, gateway c on the other side with a LAN of
    /// its own, and an observer on the untrusted segment.
    pub fn redundant() -> Self {
        Self {
            name: "redundant",
            segments: vec![
                Segment { name: "studio", role: Role::Trusted, hosts: vec!["a", "b", "host-ab"] },
                Segment { name: "lan-c", role: Role::Trusted, hosts: vec!["c", "host-c"] },
                Segment { name: "wan", role: Role::Untrusted, hosts: vec!["a", "b", "c", OBSERVER] },
            ],
        }
    }

    /// The topology of that name.
    pub fn named(name: &str) -> Result<Self> {
        match name {
            "pair" => Ok(Self::pair()),
            "trio" => Ok(Self::trio()),
            "line" => Ok(Self::line()),
            "dual" => Ok(Self::dual()),
            "redundant" => Ok(Self::redundant()),
            _ => Err(Error::NoTopology(name.into())),
        }
    }

    /// Every host, in the order of first mention.
    pub fn hosts(&self) -> Vec<&'static str> {
        let mut hosts = Vec::new();
        for host in self.segments.iter().flat_map(|segment| &segment.hosts) {
            if !hosts.contains(host) {
                hosts.push(host);
            }
        }
        hosts
    }

    /// Whether the host stands between trusted and untrusted segments.
    pub fn is_gateway(&self, host: &str) -> bool {
        let on = |role| self.segments.iter().any(|segment| segment.role == role && segment.hosts.contains(&host));
        on(Role::Trusted) && on(Role::Untrusted)
    }

    /// The gateways.
    pub fn gateways(&self) -> Vec<&'static str> {
        self.hosts().into_iter().filter(|host| self.is_gateway(host)).collect()
    }

    /// Every place the host has: `lan0`, `wan0`, … in a gateway, `eth0`, … elsewhere.
    pub fn attachments(&self, host: &str) -> Vec<Attachment<'_>> {
        let gateway = self.is_gateway(host);
        let mut named = [0; 2];
        let mut attachments = Vec::new();
        for (index, segment) in self.segments.iter().enumerate() {
            let Some(position) = segment.hosts.iter().position(|name| *name == host) else { continue };
            let (prefix, count) = match (gateway, segment.role) {
                (true, Role::Trusted) => ("lan", &mut named[0]),
                (true, Role::Untrusted) => ("wan", &mut named[1]),
                (false, _) => ("eth", &mut named[0]),
            };
            let (link, place) = (index as u8 + 1, position as u8 + 1);
            attachments.push(Attachment {
                segment,
                interface: format!("{prefix}{count}"),
                mac: Mac([0x02, 0x47, 0x43, 0x00, link, place]),
                ipv4: Ipv4Addr::new(10, 77, link, place),
                ipv6: Ipv6Addr::new(0xfd77, 0, 0, link.into(), 0, 0, 0, place.into()),
            });
            *count += 1;
        }
        attachments
    }
}

fn lans() -> Vec<Segment> {
    vec![
        Segment { name: "lan-a", role: Role::Trusted, hosts: vec!["a", "host-a"] },
        Segment { name: "lan-b", role: Role::Trusted, hosts: vec!["b", "host-b"] },
        Segment { name: "lan-c", role: Role::Trusted, hosts: vec!["c", "host-c"] },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_follow_from_the_segments() {
        let line = Topology::line();
        assert_eq!(line.gateways(), ["a", "b", "c"]);
        assert!(!line.is_gateway(OBSERVER));
        let b: Vec<_> = line.attachments("b").into_iter().map(|place| place.interface).collect();
        assert_eq!(b, ["lan0", "wan0", "wan1"]);
        let observer: Vec<_> = line.attachments(OBSERVER).into_iter().map(|place| place.interface).collect();
        assert_eq!(observer, ["eth0", "eth1"]);
    }

    #[test]
    fn addresses_are_unique_and_names_fit_the_kernel() {
        for topology in [Topology::pair(), Topology::trio(), Topology::line(), Topology::redundant(), Topology::dual()]
        {
            let mut seen = std::collections::HashSet::new();
            for host in topology.hosts() {
                for place in topology.attachments(host) {
                    assert!(seen.insert(place.ipv4), "{} twice in {}", place.ipv4, topology.name);
                    assert!(place.segment.name.len() + 1 + host.len().min(4) <= 15);
                }
            }
        }
    }
}
