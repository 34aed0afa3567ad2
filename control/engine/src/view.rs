//! Read-only pictures of the engine's state for the operator's API: plain values, copied out, without secrets.

use crate::input::Ifindex;
use crate::reputation::{Ban, Faults};
use crate::time::{Instant, UnixMillis};
use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;
use gemcast_proto::id::{Epoch, Group, KeyId, NodeId, Suite};
use gemcast_proto::wire::babel::Prefix;

/// A gateway known from its NODE object; ourselves included.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeView {
    /// Its id.
    pub id: NodeId,
    /// Name it gave itself.
    pub name: String,
    /// Whether this is the gateway asked.
    pub is_self: bool,
    /// Ed25519 public key.
    pub signing_key: [u8; 32],
    /// X25519 public key.
    pub agreement_key: [u8; 32],
    /// Version of its NODE object.
    pub version: u64,
    /// SEKs of it that are known and valid, whether or not this gateway may open them.
    pub seks: u32,
    /// Whether it is reached.
    pub reach: Reach,
}

/// A configured group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupView {
    /// The group.
    pub group: Group,
    /// AEAD of our own SEKs; `None` when the group is relayed in the clear.
    pub suite: Option<Suite>,
    /// GAK epochs accepted, ascending; the last one is used to send.
    pub epochs: Vec<Epoch>,
    /// Whether packets from trusted interfaces are sent.
    pub send: bool,
    /// Whether packets from untrusted interfaces are delivered.
    pub receive: bool,
    /// Key that seals now.
    pub active_key: Option<KeyId>,
    /// Key announced to take over, and when.
    pub next_key: Option<(KeyId, UnixMillis)>,
    /// Distinct other gateways whose keys for this group are installed.
    pub sources: u32,
}

/// Where a key stands in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyState {
    /// Ours, announced, not yet sealing.
    Announced,
    /// Ours, sealing.
    Active,
    /// Ours, replaced, still valid for packets on their way.
    Retiring,
    /// Ours, found in the maps after a restart, sealing until its replacement takes over.
    Adopted,
    /// Another gateway's, installed: opens packets.
    Opening,
    /// Another gateway's, known and verified, but not for this gateway to open.
    Relayed,
}

impl KeyState {
    /// The word used in output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Announced => "announced",
            Self::Active => "active",
            Self::Retiring => "retiring",
            Self::Adopted => "adopted",
            Self::Opening => "opening",
            Self::Relayed => "relayed",
        }
    }
}

/// A SEK, own or learnt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyView {
    /// The key.
    pub key_id: KeyId,
    /// Node that made it.
    pub origin: NodeId,
    /// Group it is for.
    pub group: Group,
    /// GAK epoch it is bound to.
    pub epoch: Epoch,
    /// Its AEAD; `None` when only its name is known (adopted from the maps).
    pub suite: Option<Suite>,
    /// Where it stands.
    pub state: KeyState,
    /// Start of its use.
    pub not_before: UnixMillis,
    /// End of its validity.
    pub not_after: UnixMillis,
    /// Packets sealed with it so far, for our own.
    pub packets: u64,
}

/// How a neighbour's table of GEM objects compares to ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyncState {
    /// Nothing heard yet, or a neighbour that does not speak GEM.
    Unknown,
    /// Its last digest equals ours.
    Equal,
    /// Its last digest differs.
    Differs {
        /// Objects it said it has.
        theirs: u32,
        /// Objects waiting to be sent to it.
        queued: u32,
        /// Comparisons in a row that brought nothing.
        tries: u32,
        /// When it is compared with again: the wait is doubled each time it brought nothing, up to a limit.
        next_at: Option<Instant>,
    },
}

/// Whether a gateway is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reach {
    /// It is the gateway asked.
    This,
    /// There is a route to it.
    Reached,
    /// There was a route to it.
    Lost {
        /// Since when there is none.
        since: Instant,
        /// Gateways that were lost at the same time, and are not back.
        with: Vec<NodeId>,
    },
    /// There was none since we started, or only a moment ago.
    Unknown,
}

impl Reach {
    /// The word used in output.
    pub fn name(&self) -> &'static str {
        match self {
            Self::This => "this",
            Self::Reached => "reached",
            Self::Lost { .. } => "lost",
            Self::Unknown => "unknown",
        }
    }
}

/// What a gateway sends to a group, as far as it is opened here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamView {
    /// The gateway.
    pub origin: NodeId,
    /// The group.
    pub group: Group,
    /// Whether nothing of it comes any more.
    pub silent: bool,
    /// When packets of it came last.
    pub last_at: Instant,
}

/// Where a neighbour stands with the failure detector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Liveness {
    /// Nothing accepted from it yet.
    Unproven,
    /// Heard.
    Heard,
    /// Two Hellos in a row, or more, did not come.
    Suspect,
    /// Silent for too long since then; what it proved is kept for a while.
    Dead(Instant),
}

impl Liveness {
    /// The word used in output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unproven => "unproven",
            Self::Heard => "up",
            Self::Suspect => "suspect",
            Self::Dead(_) => "dead",
        }
    }
}

/// A Babel neighbour.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NeighbourView {
    /// Interface.
    pub ifindex: Ifindex,
    /// Interface name.
    pub interface: String,
    /// Its address.
    pub address: Ipv6Addr,
    /// Whether it proved freshness (RFC 8967 challenge) and is heard.
    pub up: bool,
    /// The same in detail.
    pub state: Liveness,
    /// Hellos in a row that did not come.
    pub missed: u32,
    /// How much later than promised its Hellos came lately; their deadlines are stretched by it.
    pub lateness: Duration,
    /// Whether its link is given a high cost because it died over and over.
    pub flapping: bool,
    /// How often it died since it is known.
    pub deaths: u32,
    /// Multicast hello history, most recent in the highest bit (RFC 8966 appendix A.1).
    pub hello_history: u16,
    /// Unicast hello history, likewise.
    pub unicast_history: u16,
    /// Whether it is a configured unicast peer.
    pub peer: bool,
    /// Whether it gets by unicast what goes to the multicast group: multicast is lost in one direction or both, or it
    /// is a peer behind routers.
    pub by_unicast: bool,
    /// When the last accepted packet came in.
    pub last_heard: Instant,
    /// Cost of receiving from it, 65535 infinite.
    pub rxcost: u16,
    /// Cost it has receiving from us, 65535 infinite.
    pub txcost: u16,
    /// Link cost.
    pub cost: u16,
    /// Round-trip time, when measured (RFC 9616).
    pub rtt: Option<Duration>,
    /// Comparison of GEM tables.
    pub sync: SyncState,
}

/// A configured unicast peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerView {
    /// Interface.
    pub ifindex: Ifindex,
    /// Interface name.
    pub interface: String,
    /// Its address.
    pub address: IpAddr,
    /// How it stands.
    pub state: PeerState,
}

/// How a unicast peer stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerState {
    /// It answers.
    Reached,
    /// It does not answer, or not yet.
    Waiting {
        /// Tries so far.
        tries: u32,
        /// When the next one is.
        next_at: Instant,
    },
    /// Not tried: the address is our own.
    OwnAddress,
    /// Not reachable: the interface has no address of its family.
    NoAddress,
}

/// Something announces our own identity, over and over: another gateway runs with our node key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdentityConflict {
    /// Interface of the neighbour that passed the last contradiction on.
    pub ifindex: Ifindex,
    /// That neighbour, which need not be the culprit.
    pub address: Ipv6Addr,
    /// Corrections made so far.
    pub corrections: u32,
}

/// A route of the Babel table, selected or not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RouteView {
    /// Destination.
    pub prefix: Prefix,
    /// Source prefix it is limited to (RFC 9079).
    pub source: Option<Prefix>,
    /// Node it comes from.
    pub router_id: NodeId,
    /// Neighbour that announced it: interface and address; `None` for our own.
    pub neighbour: Option<(Ifindex, Ipv6Addr)>,
    /// Next hop; `None` for our own.
    pub next_hop: Option<IpAddr>,
    /// Seqno of its source.
    pub seqno: u16,
    /// Metric the neighbour announced.
    pub refmetric: u16,
    /// Metric here, 65535 unreachable.
    pub metric: u16,
    /// Whether it is the one in use.
    pub selected: bool,
    /// Whether using it is proven to make no loop (RFC 8966 §3.5.1).
    pub feasible: bool,
}

/// One that something may be held against.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Culprit {
    /// A neighbour: interface and address.
    Neighbour(Ifindex, Ipv6Addr),
    /// A node.
    Node(NodeId),
}

/// How many members there are to decide something for all of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Quorum {
    /// All of them: of the roster, or known.
    pub members: u32,
    /// Those that are reached, this gateway included if it is one.
    pub reached: u32,
}

impl Quorum {
    /// Whether more than half are reached.
    pub fn is_there(self) -> bool {
        self.reached > self.members / 2
    }
}

/// How far a neighbour or a node is trusted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReputationView {
    /// Who.
    pub who: Culprit,
    /// Name of the neighbour's interface, or of the node.
    pub name: String,
    /// 100 when nothing is held against it, 0 at worst.
    pub score: u8,
    /// Whether it fell far, and has not recovered yet.
    pub suspected: bool,
    /// The ban in force, if there is one.
    pub ban: Option<Ban>,
    /// Bans in a row for faults.
    pub bans: u32,
    /// Members that voted to ban it.
    pub votes: u32,
    /// Whether that is more than half of them, and is obeyed here.
    pub condemned: bool,
    /// What was counted.
    pub faults: Faults,
}

/// What the engine counted since it was made. Every refused packet or object is in exactly one of the `refused` ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Babel packets sent.
    pub packets_sent: u64,
    /// Bytes of Babel packets sent, without UDP and IP headers.
    pub bytes_sent: u64,
    /// Babel packets handed in.
    pub packets_received: u64,
    /// Refused: no Babel packet, or from an address or port that no Babel speaker uses.
    pub refused_malformed: u64,
    /// Refused: no MAC verifies under a key of ours.
    pub refused_mac: u64,
    /// Refused: replayed, or not yet proven fresh by a challenge.
    pub refused_replay: u64,
    /// Refused unread: from a neighbour that is banned.
    pub refused_banned: u64,
    /// TLVs refused for what is in them.
    pub refused_tlv: u64,
    /// GEM objects refused: signature, origin or content.
    pub refused_object: u64,
    /// GEM objects refused: over a quota.
    pub refused_quota: u64,
    /// GEM objects that gave way to others when the table was full.
    pub objects_evicted: u64,
    /// GEM objects not looked at: more signatures to check on one interface than there is time for.
    pub refused_checks: u64,
    /// Routes refused: over a limit of the table, of its neighbour, or of sources.
    pub refused_routes: u64,
    /// Seqno requests not made or passed on: too many are pending.
    pub refused_requests: u64,
    /// Acknowledgements not sent: a neighbour asks for too many.
    pub refused_acks: u64,
    /// Messages dropped: too many wait for one neighbour, or for one interface.
    pub messages_dropped: u64,
    /// Corrections of what is said about us that were put off: another gateway may have our identity.
    pub delayed_corrections: u64,
    /// Updates that were unfeasible (RFC 8966 §3.5.1).
    pub unfeasible_updates: u64,
    /// Seqno requests sent, forwarded ones included.
    pub seqno_requests_sent: u64,
    /// Challenges sent.
    pub challenges_sent: u64,
    /// GEM objects accepted: new, or newer than before.
    pub objects_accepted: u64,
    /// GEM objects received that were known already.
    pub objects_repeated: u64,
    /// GEM objects sent, each transmission counted.
    pub objects_sent: u64,
    /// GEM objects that disagreed with one of the same version (an origin that contradicts itself).
    pub conflicts: u64,
    /// SEKs made.
    pub seks_made: u64,
    /// SEKs of others installed.
    pub seks_installed: u64,
    /// SEKs of others that did not unwrap under our group key.
    pub unwrap_failed: u64,
    /// Shares of group keys made for us that did not open.
    pub shares_not_opened: u64,
    /// SEKs of others that were not installed because their origin may not send.
    pub not_entitled: u64,
    /// Objects of ours that were not made because nothing may be signed.
    pub unsigned: u64,
    /// Objects refused because their origin is revoked.
    pub refused_revoked: u64,
}

/// Who forwards a group on a shared LAN, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Election {
    /// What this gateway is to the group.
    pub role: Role,
    /// Gateways that were ready when it was decided, this one included.
    pub candidates: usize,
    /// The highest priority among them.
    pub priority: u8,
    /// Those of this priority: they share the groups.
    pub equals: usize,
}

/// What a gateway is to a group on a LAN that it shares with others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// It has not decided yet, or waits for the one before to stop.
    Listening,
    /// It forwards.
    Forwarder,
    /// This one forwards.
    Standby(NodeId),
}

impl Role {
    /// The word used in output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Listening => "listening",
            Self::Forwarder => "forwarder",
            Self::Standby(_) => "standby",
        }
    }
}
