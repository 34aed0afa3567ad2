//! What can happen to the engine.

use crate::config::{Config, Link};
use crate::time::UnixMillis;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use gemcast_proto::id::{Epoch, Group, KeyId, NodeId};
use gemcast_proto::wire::babel::Prefix;
use std::collections::BTreeSet;

/// Kernel interface index.
pub type Ifindex = u32;

/// One event, handed to [`crate::Engine::handle`] with the time it happened.
pub enum Input<'a> {
    /// A Babel interface is usable, or its addresses or settings changed.
    InterfaceUp(Interface),
    /// A Babel interface is gone or down.
    InterfaceDown(Ifindex),
    /// A datagram arrived on the Babel port.
    Packet(Packet<'a>),
    /// The data plane is connected. `incarnation` names its map set: another one than before means that the maps were
    /// made anew and that counters have no history.
    DataPlaneUp {
        /// Random number in the `SYNC` map.
        incarnation: u64,
        /// Keys found in the maps, for adoption after a restart of the control process.
        keys: Vec<AdoptedKey>,
    },
    /// The connection to the data plane is lost; forwarding goes on there with the keys it has.
    DataPlaneDown,
    /// The data plane holds packets whose key it does not know (F02).
    MissingKey {
        /// The key.
        key_id: KeyId,
        /// The group the packets are for.
        group: Group,
        /// Their GAK epoch.
        epoch: Epoch,
    },
    /// The data plane sealed this many packets with a key so far (for rekeying by packets).
    Sealed {
        /// The key.
        key_id: KeyId,
        /// Packets, all lanes together.
        packets: u64,
    },
    /// How far the data plane has come in opening: of each key, the highest sequence numbers it accepted, all lanes added
    /// up. Told every second or so.
    Opened(Vec<(KeyId, u64)>),
    /// The operator wants a new SEK for a group.
    RotateSek(Group),
    /// The operator wants a new SEK for a group at once, and the ones before never to be accepted again.
    ReplaceSek(Group),
    /// The operator vouches for the wall clock: it may be behind [`Config::clock_floor`].
    AcceptClock,
    /// The prefixes that this gateway announces as its own, all of them: configured, or found in the kernel's table.
    Originate(Vec<Originated>),
    /// A new configuration, checked and complete.
    Reconfigure(Box<Config>),
    /// The data plane has room for so many keys whose packets are relayed. Said before [`Input::DataPlaneUp`].
    TransitRoom(usize),
    /// The LAN segment that this gateway may share with others; `None`: it shares none.
    Segment(Option<Segment>),
    /// Other gateways that delivered frames on the segment since this was said last.
    GatewaysHeard(Vec<HeardGateway>),
    /// The process is about to end in order.
    Stop,
}

/// The LAN segment of this gateway's trusted interfaces.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Its name, the same on every gateway of the segment.
    pub name: String,
    /// Who has the highest is elected to forward.
    pub priority: u8,
    /// Other gateways of the segment that the operator vouches for.
    pub peers: BTreeSet<NodeId>,
    /// Ethernet addresses of our interfaces there; the first four are told.
    pub macs: Vec<[u8; 6]>,
    /// Whether those interfaces are up.
    pub up: bool,
}

/// Another gateway, heard on the segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeardGateway {
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Whether it delivered packets of a group that this gateway forwards.
    pub conflict: bool,
}

/// A Babel interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    /// Kernel index.
    pub ifindex: Ifindex,
    /// Kernel name.
    pub name: String,
    /// Our link-local address on it.
    pub link_local: Ipv6Addr,
    /// Our first IPv4 address, next hop of IPv4 routes.
    pub ipv4: Option<Ipv4Addr>,
    /// Its other addresses, each with the prefix of the link that it is of; unicast peers are spoken to from these.
    pub addresses: Vec<(IpAddr, Prefix)>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Wired (2-out-of-3 link cost) or wireless (ETX), RFC 8966 appendix A.2.
    pub wireless: bool,
    /// What is configured for it.
    pub settings: Link,
}

/// A datagram received on the Babel port.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Interface it came in by.
    pub ifindex: Ifindex,
    /// Sender; link-local, or a configured unicast peer, an IPv4 one in its mapped form.
    pub source: Ipv6Addr,
    /// Sender's UDP port.
    pub source_port: u16,
    /// Address it was sent to: `ff02::1:6` or ours, an IPv4 one in its mapped form.
    pub destination: Ipv6Addr,
    /// UDP payload: the whole Babel packet with its trailer.
    pub payload: &'a [u8],
}

/// A prefix announced as our own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Originated {
    /// Destination.
    pub prefix: Prefix,
    /// Source prefix it is limited to (RFC 9079).
    pub source: Option<Prefix>,
    /// Metric it starts with.
    pub metric: u16,
}

/// A key that a previous control process left in the maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AdoptedKey {
    /// The key.
    pub key_id: KeyId,
    /// Node that made it.
    pub origin: NodeId,
    /// Group it is for.
    pub group: Group,
    /// GAK epoch it is bound to.
    pub epoch: Epoch,
    /// Whether it seals (ours) or opens.
    pub seals: bool,
    /// End of its validity.
    pub not_after: UnixMillis,
}

/// Epochs of a group that are over, whatever the configuration has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Floor {
    /// The group.
    pub group: Group,
    /// The lowest epoch that is not over.
    pub epoch: Epoch,
    /// Since when those below it are.
    pub since: UnixMillis,
}
