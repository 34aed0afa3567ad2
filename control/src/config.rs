//! The configuration: a TOML file in, a checked [`Config`] out, or every error in it with its place and its fix.
//!
//! A `Config` that exists is complete and consistent, key files included. Relative paths of key files are taken from the
//! directory of the configuration file.

mod check;
mod file;

use crate::keyfile::Identity;
use crate::routes;
use gemcast_engine::config as engine;
use gemcast_engine::input::Originated;
use gemcast_engine::secret::Secret;
use gemcast_engine::time::UnixMillis;
use gemcast_proto::id::{Epoch, Group, NodeId, Suite};
use gemcast_proto::wire::babel::Prefix;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the configuration is unless told otherwise.
pub const DEFAULT_PATH: &str = "/etc/gemcast/gemcast.toml";
/// Where sockets and maps are unless told otherwise.
pub const DEFAULT_RUN_DIR: &str = "/run/gemcast";
/// Name of the instance unless told otherwise.
pub const DEFAULT_INSTANCE: &str = "default";
/// Where state that outlives a restart is unless told otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/gemcast";
/// Babel's UDP port (RFC 8966 §5).
pub const DEFAULT_BABEL_PORT: u16 = 6696;
/// The data port; the XDP program of this version knows no other.
pub const DATA_PORT: u16 = 48623;

/// Number of the kernel's main table (RT_TABLE_MAIN).
pub const DEFAULT_TABLE: u32 = 254;
/// The kernel's metric of Babel's routes: behind those of the kernel, an operator or DHCP to the same prefix.
pub const DEFAULT_ROUTE_METRIC: u32 = 4096;

/// A larger file is no configuration.
const FILE_LEN_MAX: u64 = 4 << 20;

/// Everything gemcastd is told.
pub struct Config {
    /// This gateway.
    pub node: Node,
    /// Bootstrap keys, the first one used to send.
    pub bootstrap_keys: Vec<Secret<32>>,
    /// Ed25519 public keys of the administrators (KMG) whose packages, revocations and rosters count.
    pub kmg: Vec<[u8; 32]>,
    /// Whose keys are accepted.
    pub membership: engine::Membership,
    /// UDP port of the Babel domain.
    pub babel_port: u16,
    /// Interfaces, each name once, in the order of the file.
    pub interfaces: Vec<Interface>,
    /// Groups, no two overlapping, in the order of the file.
    pub groups: Vec<GroupRule>,
    /// Interval of hellos on every Babel interface.
    pub hello_interval: Duration,
    /// Interval of periodic updates and digests.
    pub update_interval: Duration,
    /// When a neighbour counts as dead, and what becomes of it.
    pub detection: engine::Detection,
    /// Bans of nodes that are shared.
    pub policy: engine::Policy,
    /// Life of a source encryption key.
    pub sek_lifetime: Duration,
    /// Time between a key's announcement and its first use.
    pub announce_lead: Duration,
    /// Time a replaced key still opens.
    pub overlap: Duration,
    /// How long a key stays banned whose packets do not decrypt.
    pub ban_time: Duration,
    /// The routing protocol.
    pub babel: Babel,
}

/// The routing protocol.
pub struct Babel {
    /// What becomes of learnt routes.
    pub routes: routes::Settings,
    /// Prefixes announced as our own.
    pub announce: Vec<Prefix>,
    /// Whether the prefixes of trusted interfaces are announced, too.
    pub redistribute_connected: bool,
    /// How packets are authenticated (RFC 8967 §4.1).
    pub mac: engine::MacAlgorithm,
    /// IPv4 routes with an IPv6 next hop (RFC 9229).
    pub ipv4_via_ipv6: bool,
    /// Routes limited to a source prefix (RFC 9079).
    pub source_specific: bool,
    /// Hellos to every neighbour by unicast, too.
    pub unicast_hellos: bool,
    /// How round-trip times count (RFC 9616).
    pub delay: Option<engine::DelayMetric>,
    /// What is accepted from neighbours; the first rule that matches decides, and without one all is.
    pub import: Vec<engine::PrefixRule>,
    /// What is announced to neighbours, likewise.
    pub export: Vec<engine::PrefixRule>,
}

/// The gateway itself.
pub struct Node {
    /// Name shown to operators.
    pub name: String,
    /// Its private keys.
    pub identity: Identity,
    /// Why the identity is the one of the backup file, when it is.
    pub on_backup: Option<String>,
    /// State that outlives a restart.
    pub state_dir: PathBuf,
    /// Sockets and maps, of every instance.
    pub run_dir: PathBuf,
    /// Name of this instance.
    pub instance: String,
    /// Whether sealed packets are relayed between untrusted interfaces, member of their group or not.
    pub transit: bool,
}

/// Which side of the gateway an interface is on.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Cleartext.
    Trusted,
    /// Ciphertext.
    Untrusted,
}

impl Role {
    /// The name used in configuration and output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trusted => "trusted",
            Self::Untrusted => "untrusted",
        }
    }
}

/// One interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    /// Kernel name, or a pattern of such names with `*` and `?`.
    pub name: String,
    /// Its side.
    pub role: Role,
    /// The LAN that it shares with other gateways, if it does.
    pub segment: Option<Segment>,
    /// Whether Babel is spoken on it.
    pub babel: bool,
    /// Whether Babel takes it for a lossy radio link; `None`: as the kernel says.
    pub wireless: Option<bool>,
    /// What differs from the domain's settings, and its unicast peers.
    pub link: engine::Link,
}

/// A LAN that several gateways are on, one of which forwards each group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Its name, the same on all of them.
    pub name: String,
    /// Who has the highest forwards; among equals each has its share of the groups.
    pub priority: u8,
    /// Other gateways that are on it, for certain; others have to prove that they are members of the groups.
    pub peers: BTreeSet<NodeId>,
}

impl Interface {
    /// Whether the name is a pattern.
    pub fn is_pattern(&self) -> bool {
        self.name.contains(['*', '?'])
    }

    /// Whether the name, or pattern, is that of an interface. A pattern never means the loopback interface.
    pub fn matches(&self, name: &str) -> bool {
        if self.is_pattern() { name != "lo" && glob(self.name.as_bytes(), name.as_bytes()) } else { self.name == name }
    }
}

/// `*` stands for any characters, `?` for one. Names are at most 15 bytes, so that the recursion is shallow.
fn glob(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => glob(rest, name) || (!name.is_empty() && glob(pattern, &name[1..])),
        (Some((b'?', pattern)), Some((_, name))) => glob(pattern, name),
        (Some((a, pattern)), Some((b, name))) => a == b && glob(pattern, name),
        _ => false,
    }
}

/// One group, or prefix of groups, and what happens to its packets.
pub struct GroupRule {
    /// The unit of protection.
    pub group: Group,
    /// UDP destination ports; empty: every port.
    pub ports: Vec<u16>,
    /// Sources (SSM), of the group's family; empty: any source.
    pub sources: Vec<IpAddr>,
    /// How its packets cross untrusted interfaces.
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
    /// Encrypted under the source gateway's key.
    Sealed {
        /// AEAD of the keys this gateway makes.
        suite: Suite,
        /// Group authorization keys in ascending order of epoch; at least one where there is no administrator.
        gaks: Vec<(Epoch, Secret<32>)>,
    },
}

impl Config {
    /// Reads and checks a file and the key files it names.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let text = read(path).map_err(|message| ConfigErrors(vec![ConfigError::whole(path, message)]))?;
        Self::parse(path, &text)
    }

    /// Checks the text of a file, and the key files it names.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigErrors> {
        let source = check::Source { path, text };
        let file = toml::from_str(text).map_err(|error| ConfigErrors(vec![source.syntax(&error)]))?;
        check::check(&source, file)
    }

    /// Puts the instance elsewhere than the file says.
    pub fn relocate(&mut self, run_dir: Option<PathBuf>, instance: Option<String>) -> Result<(), String> {
        if let Some(run_dir) = run_dir {
            self.node.run_dir = run_dir;
        }
        if let Some(instance) = instance {
            self.node.instance = instance;
        }
        check::check_place(&self.node.run_dir, &self.node.instance)
    }

    /// The LAN that this gateway shares with others.
    pub fn segment(&self) -> Option<&Segment> {
        self.interfaces.iter().find_map(|interface| interface.segment.as_ref())
    }

    /// Directory of this instance's sockets and maps.
    pub fn instance_dir(&self) -> PathBuf {
        self.node.run_dir.join(&self.node.instance)
    }

    /// The part the engine wants, but for what the clock is known to have been. It owns its secrets, so they are duplicated here.
    pub fn engine(&self) -> engine::Config {
        engine::Config {
            node: engine::Node {
                name: self.node.name.clone(),
                signing_seed: self.node.identity.signing_seed.duplicate(),
                agreement_key: self.node.identity.agreement_key.duplicate(),
            },
            bootstrap_keys: self.bootstrap_keys.iter().map(Secret::duplicate).collect(),
            administrators: self.kmg.clone(),
            membership: self.membership,
            clock_floor: UnixMillis(0),
            groups: self.groups.iter().map(GroupRule::engine).collect(),
            hello_interval: self.hello_interval,
            update_interval: self.update_interval,
            detection: self.detection,
            policy: self.policy,
            sek_lifetime: self.sek_lifetime,
            announce_lead: self.announce_lead,
            overlap: self.overlap,
            babel: engine::Babel {
                port: self.babel_port,
                mac: self.babel.mac,
                ipv4_via_ipv6: self.babel.ipv4_via_ipv6,
                source_specific: self.babel.source_specific,
                delay: self.babel.delay,
                unicast_hellos: self.babel.unicast_hellos,
                import: self.babel.import.clone(),
                export: self.babel.export.clone(),
            },
        }
    }

    /// The prefixes announced as our own: the configured ones, and those of these prefixes of trusted interfaces if they
    /// are wanted.
    pub fn originated(&self, connected: impl Iterator<Item = Prefix>) -> Vec<Originated> {
        let connected = connected.filter(|_| self.babel.redistribute_connected);
        let mut prefixes: Vec<_> = self.babel.announce.iter().copied().chain(connected).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        prefixes.into_iter().map(|prefix| Originated { prefix, source: None, metric: 0 }).collect()
    }
}

impl GroupRule {
    fn engine(&self) -> engine::GroupConfig {
        engine::GroupConfig {
            group: self.group,
            protection: match &self.protection {
                Protection::None => engine::Protection::None,
                Protection::Sealed { suite, gaks } => engine::Protection::Sealed {
                    suite: *suite,
                    gaks: gaks.iter().map(|(epoch, gak)| (*epoch, gak.duplicate())).collect(),
                },
            },
            send: self.send,
            receive: self.receive,
        }
    }
}

/// A length of time as configuration has it: `100ms`, `1s`, `5m`, `1h`, `2d`.
pub fn duration(text: &str) -> Result<Duration, &'static str> {
    text.parse::<file::Span>().map(|span| span.0)
}

/// Reads the file, or says why not.
fn read(path: &Path) -> Result<String, String> {
    let metadata = std::fs::metadata(path).map_err(|error| {
        let fix = if error.kind() == std::io::ErrorKind::NotFound { "; name the file with --config" } else { "" };
        format!("cannot read the configuration: {error}{fix}")
    })?;
    if !metadata.is_file() {
        return Err("not a regular file; expected a TOML configuration".into());
    }
    if metadata.len() > FILE_LEN_MAX {
        return Err(format!("{} bytes long; expected a TOML configuration of at most 4 MiB", metadata.len()));
    }
    let bytes = std::fs::read(path).map_err(|error| format!("cannot read the configuration: {error}"))?;
    String::from_utf8(bytes).map_err(|error| {
        let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|&&b| b == b'\n').count();
        format!("not UTF-8 text (line {line}); expected a TOML configuration")
    })
}

/// One thing wrong with a configuration.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub path: String,
    /// Line and column, from 1; `None` for the file as a whole.
    pub place: Option<(usize, usize)>,
    /// What is wrong, what was expected, how to fix it: one line.
    pub message: String,
    /// Whether it is this gateway's identity that is missing or broken (F26).
    pub identity: bool,
}

impl ConfigError {
    fn whole(path: &Path, message: String) -> Self {
        Self { path: path.display().to_string(), place: None, message, identity: false }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Some((line, column)) => write!(f, "{}:{line}:{column}: {}", self.path, self.message),
            None => write!(f, "{}: {}", self.path, self.message),
        }
    }
}

/// Everything wrong with a configuration, in the order of the file; never empty.
#[derive(Debug)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl ConfigErrors {
    /// Whether the identity is among what is wrong.
    pub fn of_identity(&self) -> bool {
        self.0.iter().any(|error| error.identity)
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
