//! What the engine is configured with. gemcastd builds it from the TOML file, the simulator from a scenario.

use crate::secret::Secret;
use core::time::Duration;
use gemcast_proto::id::{Epoch, Group, Suite};

/// Everything the engine is told at start and on reload.
pub struct Config {
    /// This gateway.
    pub node: Node,
    /// Bootstrap keys, at least one; two while it is replaced. What we send is authenticated under each (RFC 8967 §4.2),
    /// what is authenticated under any is accepted.
    pub bootstrap_keys: Vec<Secret<32>>,
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
    /// The routing protocol; the default is what most domains want.
    pub babel: Babel,
}

/// Settings of the Babel speaker.
pub struct Babel {
    /// UDP port of the domain, source and destination of every packet (RFC 8966 §4).
    pub port: u16,
}

impl Default for Babel {
    fn default() -> Self {
        Self { port: 6696 }
    }
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
        /// Group authorization keys by epoch: the highest is used to send, every one is accepted. At least one.
        gaks: Vec<(Epoch, Secret<32>)>,
    },
}
