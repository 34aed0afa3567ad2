//! What the engine is configured with. gemcastd builds it from the TOML file, the simulator from a scenario.

use crate::secret::Secret;
use crate::time::UnixMillis;
use core::net::IpAddr;
use core::time::Duration;
use gemcast_proto::id::{Epoch, Group, Suite};
use gemcast_proto::wire::babel::Prefix;

/// Everything the engine is told at start and on reload.
pub struct Config {
    /// This gateway.
    pub node: Node,
    /// Bootstrap keys, at least one; two while it is replaced; what is beyond eight is not used. What we send is authenticated under each (RFC 8967 §4.2),
    /// what is authenticated under any is accepted.
    pub bootstrap_keys: Vec<Secret<32>>,
    /// Ed25519 public keys of the administrators whose packages, revocations and rosters count; none where there is no
    /// administrator, two while one is replaced.
    pub administrators: Vec<[u8; 32]>,
    /// Whose keys are accepted.
    pub membership: Membership,
    /// Nothing is signed while the wall clock is more than 30 s behind this: the latest time known to have been.
    pub clock_floor: UnixMillis,
    /// Groups, no two overlapping.
    pub groups: Vec<GroupConfig>,
    /// Hello interval on every Babel interface (RFC 8966 §3.4.1).
    pub hello_interval: Duration,
    /// Interval of periodic updates and digests (RFC 8966 §3.7.1); the time after which a lost announcement is repaired.
    pub update_interval: Duration,
    /// Life of a SEK until it is replaced.
    pub sek_lifetime: Duration,
    /// How long before its first use a SEK is announced (not the first SEK of a start, which is used at once).
    pub announce_lead: Duration,
    /// How long a replaced SEK still opens packets.
    pub overlap: Duration,
    /// When a neighbour counts as dead, and what becomes of it.
    pub detection: Detection,
    /// How far other nodes have a say in whom this one bans, and it in whom they do.
    pub policy: Policy,
    /// The routing protocol; the default is what most domains want.
    pub babel: Babel,
}

/// Settings of the failure detector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Detection {
    /// Hellos in a row that a neighbour may miss until it is dead, 2 to 15.
    pub dead_threshold: u8,
    /// How long what a dead neighbour proved and announced is kept, should it return.
    pub removal_grace: Duration,
    /// Whether a neighbour that dies over and over is given a high cost until it is calm.
    pub flap_damping: bool,
}

impl Default for Detection {
    fn default() -> Self {
        Self { dead_threshold: 3, removal_grace: Duration::from_secs(30), flap_damping: true }
    }
}

/// Bans of nodes that are shared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Policy {
    /// Every ban of a node made here is a vote to have it banned everywhere; else only those that an operator says so of.
    pub share_bans: bool,
    /// A node that more than half of the members voted against is banned here. Without a roster, whoever holds the
    /// bootstrap key can be as many members as it likes.
    pub obey_votes: bool,
}

/// Whose keys are accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Membership {
    /// Every node's that speaks Babel here and holds the group key, as far as the roster does not say otherwise.
    #[default]
    Open,
    /// Only those of nodes on the administrator's roster, and of their successors.
    Roster,
}

/// Settings of the Babel speaker.
pub struct Babel {
    /// UDP port of the domain, source and destination of every packet (RFC 8966 §4).
    pub port: u16,
    /// How the bootstrap keys authenticate packets (RFC 8967 §4.1).
    pub mac: MacAlgorithm,
    /// Announce IPv4 routes with an IPv6 next hop where an interface has no IPv4 address, and accept such (RFC 9229).
    pub ipv4_via_ipv6: bool,
    /// Accept routes limited to a source prefix (RFC 9079).
    pub source_specific: bool,
    /// Let round-trip times count (RFC 9616).
    pub delay: Option<DelayMetric>,
    /// Send Hellos to every neighbour by unicast, too (RFC 8966 §3.4.1), for links that lose multicast.
    pub unicast_hellos: bool,
    /// What is accepted from neighbours: the first rule that matches decides, and without one all is.
    pub import: Vec<PrefixRule>,
    /// What is announced to neighbours, likewise.
    pub export: Vec<PrefixRule>,
}

impl Default for Babel {
    fn default() -> Self {
        Self {
            port: 6696,
            mac: MacAlgorithm::HmacSha256,
            ipv4_via_ipv6: true,
            source_specific: true,
            delay: None,
            unicast_hellos: false,
            import: Vec::new(),
            export: Vec::new(),
        }
    }
}

/// Settings of one Babel interface. What is `None` is as the domain's [`Config`] has it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Link {
    /// Hello interval.
    pub hello_interval: Option<Duration>,
    /// Interval of periodic updates and digests.
    pub update_interval: Option<Duration>,
    /// Whether Hellos go to every neighbour by unicast, too.
    pub unicast_hellos: Option<bool>,
    /// How round-trip times count; `Some(None)`: not at all.
    pub delay: Option<Option<DelayMetric>>,
    /// Packets go out without a MAC, and are accepted without: only to meet a router that knows no RFC 8967.
    pub unauthenticated: bool,
    /// Neighbours that are spoken to by unicast: on the link, or behind routers.
    pub peers: Vec<IpAddr>,
}

/// Algorithm of the Babel MAC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MacAlgorithm {
    /// HMAC-SHA256, 32 bytes.
    HmacSha256,
    /// Keyed BLAKE2s, 16 bytes.
    Blake2s,
}

/// How round-trip times raise the cost of a link: not below `min`, linearly up to `penalty` at `max`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DelayMetric {
    /// Round-trip time that costs nothing.
    pub min: Duration,
    /// Round-trip time from which on the whole penalty is due.
    pub max: Duration,
    /// Added to the cost.
    pub penalty: u16,
}

/// Accepts or refuses the routes inside a prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrefixRule {
    /// Matches this prefix and every longer one inside it.
    pub within: Prefix,
    /// Whether they are accepted.
    pub accept: bool,
}

/// The gateway's own identity.
pub struct Node {
    /// Name shown to operators, at most 63 bytes.
    pub name: String,
    /// Ed25519 seed (RFC 8032 §5.1.5); the node id follows from its public key.
    pub signing_seed: Secret<32>,
    /// X25519 private key (RFC 7748), for shares of group keys.
    pub agreement_key: Secret<32>,
}

/// One rule for a group or a prefix of groups.
pub struct GroupConfig {
    /// The unit of protection.
    pub group: Group,
    /// Sealed, or relayed in the clear.
    pub protection: Protection,
    /// Whether packets from trusted interfaces are sent.
    pub send: bool,
    /// Whether packets from untrusted interfaces are delivered.
    pub receive: bool,
}

/// How a group's packets cross untrusted interfaces.
pub enum Protection {
    /// Plain relay.
    None,
    /// Encrypted under the source gateway's SEK.
    Sealed {
        /// AEAD of the SEKs this gateway makes.
        suite: Suite,
        /// Group authorization keys by epoch: the highest is used to send, every one is accepted. More come
        /// from the administrator's packages; at least one where there is no administrator.
        gaks: Vec<(Epoch, Secret<32>)>,
    },
}
