//! What the engine wants done. Outputs are values; the owner carries them out in order.

use crate::input::Ifindex;
use crate::secret::Secret;
use crate::time::UnixMillis;
use crate::view::Culprit;
use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;
use gemcast_proto::id::{Epoch, Group, KeyId, NodeId, Suite};
use gemcast_proto::wire::babel::Prefix;
use gemcast_proto::wire::gem::ObjectKind;
use std::collections::BTreeSet;

/// One effect.
pub enum Output {
    /// Send a Babel packet from the Babel port.
    Transmit(Transmit),
    /// Write a key into `SEKS`. A seal key stays unused until [`Output::Activate`].
    InstallKey(InstallKey),
    /// Seal a group with this (installed, own) key from now on, instead of any other.
    Activate {
        /// The group.
        group: Group,
        /// The key.
        key_id: KeyId,
    },
    /// Wipe a key from `SEKS`.
    RemoveKey(KeyId),
    /// Write a gtag key into `GTAG`.
    InstallGtag {
        /// The group.
        group: Group,
        /// The GAK epoch.
        epoch: Epoch,
        /// SipHash key.
        key: Secret<16>,
    },
    /// Remove a gtag key from `GTAG`.
    RemoveGtag {
        /// The group.
        group: Group,
        /// The GAK epoch.
        epoch: Epoch,
    },
    /// Change the kernel's routing table.
    Route(Route),
    /// Relay packets under a key, between untrusted interfaces, only when they come in by this interface: it is the one
    /// of the route to the key's origin (reverse path). `None`: relay them no more.
    Transit {
        /// The key.
        key_id: KeyId,
        /// Interface they are accepted from.
        ifindex: Option<Ifindex>,
    },
    /// Drop packets under a key, whatever else is known of it, or do so no more.
    Ban {
        /// The key.
        key_id: KeyId,
        /// Why. A key that is banned for several causes stays so until the last one is gone.
        cause: BanCause,
        /// Whether it is banned.
        banned: bool,
    },
    /// What [`crate::Engine::administration`] and [`crate::Engine::floors`] return has changed, and is to be kept for the next
    /// start.
    Persist {
        /// Whether that comes before the outputs that follow: they act upon it.
        at_once: bool,
    },
    /// Forward all groups but some. Until this is said first, what was forwarded before is forwarded on.
    StandBy {
        /// Groups that another gateway of the LAN forwards.
        groups: BTreeSet<Group>,
        /// Whether another gateway takes over the rest when it misses this one: then nothing is to be forwarded without
        /// control.
        substitute: bool,
    },
    /// Ethernet addresses of other gateways on our LAN: what comes from them is never sealed.
    Gateways(BTreeSet<[u8; 6]>),
    /// Something an operator wants to know.
    Event(Event),
}

/// Why packets under a key are dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BanCause {
    /// The administrator revoked the node that made it.
    Revoked,
    /// The node that made it is banned.
    Node,
}

/// A route in the kernel's table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// Destination.
    pub prefix: Prefix,
    /// Source prefix it is limited to (RFC 9079).
    pub source: Option<Prefix>,
    /// What becomes of it.
    pub action: RouteAction,
}

/// What becomes of a route in the kernel's table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RouteAction {
    /// Packets go to a neighbour; replaces what was there.
    Install {
        /// Next hop; IPv6 for an IPv4 destination with RFC 9229.
        next_hop: IpAddr,
        /// Interface.
        ifindex: Ifindex,
        /// Babel metric.
        metric: u16,
        /// Whether the neighbour is on the link, whatever prefixes are: it was heard by a link-local address. A peer
        /// behind routers is not, and whether it can be a next hop is for the kernel to judge.
        on_link: bool,
    },
    /// Packets are refused; replaces what was there. The route was lost a moment ago, and a less specific one must not
    /// take its packets before the neighbours know (RFC 8966 §2.8, §3.5.4).
    Unreachable,
    /// The route is removed.
    Withdraw,
}

/// A packet to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transmit {
    /// Interface to send it by.
    pub ifindex: Ifindex,
    /// Our address to send it from: link-local, or another one towards a unicast peer; an IPv4 one in its mapped form.
    pub source: Ipv6Addr,
    /// `None`: the Babel multicast group `ff02::1:6`; otherwise a neighbour's address.
    pub unicast: Option<Ipv6Addr>,
    /// The whole Babel packet with its trailer.
    pub payload: Vec<u8>,
}

/// A key to install.
pub struct InstallKey {
    /// The key.
    pub key_id: KeyId,
    /// Node that made it.
    pub origin: NodeId,
    /// Group it is for.
    pub group: Group,
    /// GAK epoch it is bound to.
    pub epoch: Epoch,
    /// Its AEAD.
    pub suite: Suite,
    /// Whether it seals (ours) or opens.
    pub seals: bool,
    /// Traffic key, 32 bytes.
    pub traffic_key: Secret<32>,
    /// Nonce salt, 12 bytes.
    pub salt: Secret<12>,
    /// End of its validity.
    pub not_after: UnixMillis,
}

/// What goes by way of a neighbour, counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Carried {
    /// Groups that gateways among them have keys for.
    pub groups: usize,
    /// Gateways.
    pub nodes: usize,
    /// Prefixes.
    pub routes: usize,
}

/// A gateway, as operators know it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeName {
    /// Its id.
    pub id: NodeId,
    /// Its name; empty when it is not known.
    pub name: String,
}

/// Something an operator wants to know. Never holds a secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// First packet accepted from a neighbour, or from a new incarnation of it.
    NeighbourUp {
        /// Interface.
        ifindex: Ifindex,
        /// Its address.
        address: Ipv6Addr,
    },
    /// Hellos of a neighbour in a row did not come.
    NeighbourSuspect {
        /// Interface.
        ifindex: Ifindex,
        /// Its address.
        address: Ipv6Addr,
        /// How many.
        missed: u32,
        /// How many make it dead.
        of: u32,
    },
    /// A neighbour was silent for too long. What it proved and announced is kept for a while, should it return.
    NeighbourDead {
        /// Interface.
        ifindex: Ifindex,
        /// Its address.
        address: Ipv6Addr,
        /// Hellos that did not come.
        missed: u32,
        /// What was reached by way of it, and is reached another way now.
        moved: Carried,
        /// What was reached by way of it, and is not reached any more.
        lost: Carried,
    },
    /// A neighbour is heard again.
    NeighbourBack {
        /// Interface.
        ifindex: Ifindex,
        /// Its address.
        address: Ipv6Addr,
        /// How long it was dead; `None`: it was only suspect.
        away: Option<Duration>,
    },
    /// A neighbour dies over and over: its link has a high cost from now on.
    NeighbourFlapping {
        /// Interface.
        ifindex: Ifindex,
        /// Its address.
        address: Ipv6Addr,
        /// Deaths since it is known.
        deaths: u32,
        /// Time after which it counts as calm, if it does not die again.
        calm_after: Duration,
    },
    /// A neighbour has not died for long enough: its link costs what it costs.
    NeighbourCalm {
        /// Interface.
        ifindex: Ifindex,
        /// Its address.
        address: Ipv6Addr,
    },
    /// Nothing of a neighbour is kept any longer.
    NeighbourForgotten {
        /// Interface.
        ifindex: Ifindex,
        /// Its address.
        address: Ipv6Addr,
        /// Because it was silent; else its interface or address is gone.
        silent: bool,
    },
    /// There is no route any more to gateways that were reached: they died, or the network is partitioned.
    NodesLost {
        /// Those that were lost together.
        nodes: Vec<NodeName>,
        /// Other gateways that are still reached.
        reached: usize,
    },
    /// Gateways that were lost are reached again.
    NodesBack {
        /// Those that are.
        nodes: Vec<NodeName>,
        /// How long they were away.
        away: Duration,
        /// Those that were lost with them and are not back.
        missing: Vec<NodeName>,
    },
    /// Nothing of a stream comes any more: what a gateway sends to a group, as far as it is opened here.
    StreamSilent {
        /// The gateway.
        origin: NodeId,
        /// The group.
        group: Group,
        /// Whether the gateway is still reached.
        reached: bool,
    },
    /// A stream that was silent comes again.
    StreamBack {
        /// The gateway.
        origin: NodeId,
        /// The group.
        group: Group,
        /// How long nothing came.
        away: Duration,
    },
    /// A unicast peer does not answer; it is tried again, after twice the time each time.
    PeerWaiting {
        /// Interface.
        ifindex: Ifindex,
        /// The peer.
        address: IpAddr,
        /// Tries so far.
        tries: u32,
        /// Time to the next one.
        next: Duration,
    },
    /// A unicast peer answers.
    PeerReached {
        /// Interface.
        ifindex: Ifindex,
        /// The peer.
        address: IpAddr,
        /// Tries that it took.
        tries: u32,
    },
    /// Multicast between us and a neighbour is lost in one direction or both; all goes to it by unicast, too.
    MulticastLost {
        /// Interface.
        ifindex: Ifindex,
        /// The neighbour.
        address: Ipv6Addr,
        /// Whether it is ours that does not arrive there; else its own does not arrive here.
        ours: bool,
    },
    /// Multicast between us and a neighbour arrives again both ways.
    MulticastReturned {
        /// Interface.
        ifindex: Ifindex,
        /// The neighbour.
        address: Ipv6Addr,
    },
    /// Alarm: something announces our own identity, over and over: another gateway runs with our node key.
    IdentityConflict {
        /// Interface of the neighbour that passes it on.
        ifindex: Ifindex,
        /// That neighbour, which need not be the culprit.
        address: Ipv6Addr,
        /// Corrections made so far.
        corrections: u32,
    },
    /// A SEK of ours was made.
    SekMade {
        /// Group.
        group: Group,
        /// Key.
        key_id: KeyId,
    },
    /// A SEK of another node was learnt and installed.
    SekLearnt {
        /// Origin.
        origin: NodeId,
        /// Group.
        group: Group,
        /// Key.
        key_id: KeyId,
    },
    /// Alarm: a node signed two different objects under one name and version.
    Conflict {
        /// The node.
        origin: NodeId,
        /// Kind of the object.
        kind: ObjectKind,
        /// Its number.
        id: u64,
    },
    /// Alarm: a node announced a key under an id that another one has, which was kept.
    KeyIdTaken {
        /// The node.
        origin: NodeId,
        /// The id.
        key_id: KeyId,
    },
    /// Alarm: an object of ours did not fit the table and was not announced.
    OwnObjectRefused {
        /// Kind of the object.
        kind: ObjectKind,
        /// Its number.
        id: u64,
        /// Why.
        what: String,
    },
    /// A package of a group key is whole and will be changed to.
    PackageWhole {
        /// Group.
        group: Group,
        /// Epoch of the key.
        epoch: Epoch,
        /// When senders change to it.
        starts: UnixMillis,
        /// Whether this gateway was given a share of it.
        member: bool,
        /// Whether the epochs before it end at once.
        emergency: bool,
    },
    /// Alarm: our share of a group key does not open: it was made for another X25519 key.
    ShareNotOpened {
        /// Group.
        group: Group,
        /// Epoch of the key.
        epoch: Epoch,
    },
    /// Somebody's reputation fell far.
    Suspected {
        /// Who.
        who: Culprit,
    },
    /// A neighbour is not listened to, or a node's keys count for nothing, from now on.
    Banned {
        /// Who.
        who: Culprit,
        /// Whether an operator said so; else it is for faults.
        by_operator: bool,
        /// For how long; `None`: until an operator ends it.
        lasts: Option<Duration>,
    },
    /// A member voted to ban a node, or took that back.
    Voted {
        /// Who voted.
        voter: NodeId,
        /// Against whom.
        culprit: NodeId,
        /// Whether it was taken back.
        withdrawn: bool,
        /// Votes against it now.
        votes: usize,
        /// Of so many members.
        members: usize,
    },
    /// More than half of the members voted to ban a node, perhaps ourselves; or not any more.
    Condemned {
        /// The node.
        node: NodeId,
        /// Whether it is banned from now on; else it is not any more.
        banned: bool,
    },
    /// A ban is over.
    Unbanned {
        /// Whose.
        who: Culprit,
        /// Whether an operator ended it; else its time was over.
        by_operator: bool,
    },
    /// The administrator revoked a node.
    Revoked {
        /// The node.
        node: NodeId,
    },
    /// Alarm: nothing is signed, hence nothing announced.
    SigningRefused {
        /// Why.
        what: String,
    },
    /// Alarm: a key is refused, because by our clock it was made in the future.
    ClockAhead {
        /// The gateway that made it.
        origin: NodeId,
        /// How far from now.
        ahead: Duration,
    },
    /// A gateway announces routes, but none of its objects arrive: a router between us and it does not pass GEM on.
    ObjectsMissing {
        /// The gateway.
        node: NodeId,
    },
    /// Groups of the LAN went to another forwarder.
    ForwarderChanged {
        /// Groups that this gateway forwards from now on.
        taken: usize,
        /// Groups that it stands by for from now on.
        left: usize,
    },
    /// Alarm: another gateway delivered on our LAN what we deliver there. One of the two stands by from now on.
    ForwarderConflict {
        /// The other gateway.
        node: NodeId,
    },
    /// A packet or object was refused.
    Refused {
        /// Interface it came in by.
        ifindex: Ifindex,
        /// Sender.
        source: Ipv6Addr,
        /// What was wrong with it.
        what: String,
    },
}
