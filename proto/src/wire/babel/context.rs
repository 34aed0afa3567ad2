//! The state a parser carries from TLV to TLV of one packet (RFC 8966 §4.5), and what it makes of an update.

use super::prefix::{ae, decode_prefix};
use super::{Error, INFINITY, Prefix, Seqno, Update, kind};
use crate::id::NodeId;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Default prefix of one address encoding.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct DefaultPrefix(Option<[u8; 16]>);

/// Parser state; made anew for every packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Context {
    router_id: Option<NodeId>,
    next_hop_v4: Option<Ipv4Addr>,
    next_hop_v6: Option<Ipv6Addr>,
    default_v4: DefaultPrefix,
    default_v6: DefaultPrefix,
    default_v4_via_v6: DefaultPrefix,
}

/// A route announced or retracted, every field in its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Announcement {
    /// Destination; `None` retracts every route of the sender.
    pub prefix: Option<Prefix>,
    /// Source prefix it is limited to (RFC 9079).
    pub source: Option<Prefix>,
    /// Where the route comes from; may be absent from a retraction only.
    pub router_id: Option<NodeId>,
    /// Where to send packets; may be absent from a retraction only. IPv6 for an IPv4 prefix with RFC 9229.
    pub next_hop: Option<IpAddr>,
    /// Bound on the time to the next update, centiseconds.
    pub interval: u16,
    /// Seqno of the source.
    pub seqno: Seqno,
    /// Metric.
    pub metric: u16,
}

impl Context {
    /// State at the start of a packet from `source`, which is the next hop of routes of its family until a TLV says
    /// otherwise. An IPv4 source is given in its mapped form, `::ffff:192.0.2.1`.
    pub fn new(source: Ipv6Addr) -> Self {
        let next_hop_v4 = source.to_ipv4_mapped();
        Self {
            router_id: None,
            next_hop_v4,
            next_hop_v6: Some(source).filter(|_| next_hop_v4.is_none()),
            default_v4: DefaultPrefix(None),
            default_v6: DefaultPrefix(None),
            default_v4_via_v6: DefaultPrefix(None),
        }
    }

    /// A Router-Id TLV.
    pub fn set_router_id(&mut self, id: NodeId) {
        self.router_id = Some(id);
    }

    /// A Next Hop TLV.
    pub fn set_next_hop(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.next_hop_v4 = Some(v4),
            IpAddr::V6(v6) => self.next_hop_v6 = Some(v6),
        }
    }

    pub(super) fn router_id(&self) -> Option<NodeId> {
        self.router_id
    }

    pub(super) fn next_hop(&self, address: IpAddr) -> Option<IpAddr> {
        match address {
            IpAddr::V4(_) => self.next_hop_v4.map(IpAddr::V4),
            IpAddr::V6(_) => self.next_hop_v6.map(IpAddr::V6),
        }
    }

    pub(super) fn default_prefix(&self, encoding: u8) -> Option<[u8; 16]> {
        match encoding {
            ae::IPV4 => self.default_v4.0,
            ae::IPV6 => self.default_v6.0,
            ae::IPV4_VIA_IPV6 => self.default_v4_via_v6.0,
            _ => None,
        }
    }

    /// Applies an update to the state, also when it is then refused, and resolves it (RFC 8966 §4.6.9).
    pub fn update(&mut self, update: &Update<'_>) -> Result<Announcement, Error> {
        let octets = self.octets(update)?;
        if update.sets_prefix {
            match update.ae {
                ae::IPV4 => self.default_v4 = DefaultPrefix(Some(octets)),
                ae::IPV6 => self.default_v6 = DefaultPrefix(Some(octets)),
                ae::IPV4_VIA_IPV6 => self.default_v4_via_v6 = DefaultPrefix(Some(octets)),
                _ => {}
            }
        }
        if update.sets_router_id {
            self.router_id = router_id_of(update.ae, &octets);
        }
        if let Some(sub) = update.mandatory {
            return Err(Error::Mandatory { kind: kind::UPDATE, sub });
        }
        let retracts = update.metric == INFINITY;
        let prefix = match update.ae {
            ae::WILDCARD if !retracts => return Err(Error::WildcardUpdate),
            ae::WILDCARD => None,
            ae::LINK_LOCAL => return Err(Error::AddressEncoding { kind: kind::UPDATE, ae: update.ae }),
            ae => {
                let prefix = decode_prefix(ae, update.plen, &octets);
                Some(prefix.map_err(|error| Error::Prefix { kind: kind::UPDATE, error })?)
            }
        };
        let next_hop = match update.ae {
            ae::IPV4 => self.next_hop_v4.map(IpAddr::V4),
            _ => self.next_hop_v6.map(IpAddr::V6),
        };
        if !retracts && self.router_id.is_none() {
            return Err(Error::NoRouterId);
        }
        if !retracts && next_hop.is_none() {
            return Err(Error::NoNextHop);
        }
        Ok(Announcement {
            prefix,
            source: update.source,
            router_id: self.router_id,
            next_hop,
            interval: update.interval,
            seqno: update.seqno,
            metric: update.metric,
        })
    }

    /// The whole prefix: omitted octets from the default, the others from the TLV, the rest zero.
    fn octets(&self, update: &Update<'_>) -> Result<[u8; 16], Error> {
        let omitted = usize::from(update.omitted);
        let mut octets = [0; 16];
        if omitted > 0 {
            let default = self.default_prefix(update.ae).ok_or(Error::NoDefaultPrefix)?;
            octets[..omitted].copy_from_slice(&default[..omitted]);
        }
        octets[omitted..omitted + update.octets.len()].copy_from_slice(update.octets);
        Ok(octets)
    }
}

/// Router-id that an update with the R flag sets: the last 8 octets of its address, or all of a shorter one behind zeros.
fn router_id_of(encoding: u8, octets: &[u8; 16]) -> Option<NodeId> {
    let mut id = [0; 8];
    match encoding {
        ae::IPV4 | ae::IPV4_VIA_IPV6 => id[4..].copy_from_slice(&octets[..4]),
        ae::IPV6 => id.copy_from_slice(&octets[8..]),
        ae::LINK_LOCAL => id.copy_from_slice(&octets[..8]),
        _ => return None,
    }
    (id != [0; 8] && id != [0xff; 8]).then_some(NodeId(id))
}
