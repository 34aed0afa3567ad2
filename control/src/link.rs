//! The connection to the data plane: found again whenever it is lost, told the flows, asked for its counters.
//!
//! Each side opens with a hello; a data plane of another map layout or another instance is refused. Then control sends
//! one snapshot of everything the data plane shall do, and again after each change of the configuration.

use crate::config::{Config, Protection, Role};
use crate::interfaces::Interfaces;
use crate::stream::{MessageStream, StreamError};
use gemcast_proto::id::{self, Epoch, Group, KeyId};
use gemcast_proto::link::{self, to_control, to_dataplane};
use gemcast_proto::message::MAX_MESSAGE_LEN;
use gemcast_proto::wire::frame::PORT;
use gemcast_xdp::LAYOUT_VERSION;
use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// First wait after a lost connection; doubled each time, up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(50);
/// Longest wait between attempts.
const RETRY_MAX: Duration = Duration::from_secs(2);
/// How often counters are asked for; the answer is also the sign of life.
const STATS_INTERVAL: Duration = Duration::from_secs(1);
/// A data plane that answers nothing for this long is taken for dead.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// What the data plane said.
#[derive(Debug)]
pub enum LinkEvent {
    /// It is connected, of the right version and instance; the number names its set of maps.
    Up {
        /// Random number drawn when the maps were made.
        incarnation: u64,
    },
    /// The connection is lost.
    Down,
    /// It has put the current snapshot into force, but for these problems.
    Applied(Vec<String>),
    /// New counters are in [`DataPlaneLink::stats`].
    Stats,
    /// It holds packets whose key it does not know.
    MissingKey {
        /// The key.
        key_id: KeyId,
        /// The group the packets are for.
        group: Group,
        /// Their GAK epoch.
        epoch: Epoch,
    },
    /// Many packets under a key passed their group tag and did not decrypt.
    FailedOpens(FailedOpens),
}

/// Packets that passed their group tag and did not decrypt, since it was said last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FailedOpens {
    /// The key they name.
    pub key_id: KeyId,
    /// Packets that did not decrypt.
    pub failed: u64,
    /// Packets that nobody tried to decrypt any more.
    pub limited: u64,
    /// Source address of the last of them.
    pub source: IpAddr,
    /// Whether the key is to be banned for a while.
    pub ban: bool,
}

enum State {
    /// Not connected; why, and when to try again.
    Waiting { retry_at: Instant },
    /// Connected, its hello still to come.
    Greeting { stream: MessageStream, since: Instant },
    /// In use.
    Up { stream: MessageStream, peer: Peer },
}

/// What is known of a connected data plane.
struct Peer {
    version: String,
    incarnation: u64,
    heard_at: Instant,
    ask_at: Instant,
}

/// The connection, through all its losses.
pub struct DataPlaneLink {
    path: PathBuf,
    instance: String,
    token: Token,
    state: State,
    retry: Duration,
    /// Why it is not up; empty before the first attempt and while it is up.
    trouble: String,
    snapshot: link::Snapshot,
    /// Flows that another gateway of the LAN forwards; `None` until that is decided.
    standbys: Option<BTreeSet<Group>>,
    /// How long flows are forwarded without control, in milliseconds; 0 is for ever.
    lease_ms: u32,
    /// Ethernet addresses of other gateways on our trusted segments.
    gateways: BTreeSet<[u8; 6]>,
    applied: bool,
    problems: Vec<String>,
    stats: Option<(Instant, link::Stats)>,
    jitter: fn() -> f64,
}

impl DataPlaneLink {
    /// A connection to be made at the first [`DataPlaneLink::tick`].
    pub fn new(config: &Config, token: Token, now: Instant, jitter: fn() -> f64) -> Self {
        Self {
            path: config.instance_dir().join("dataplane.sock"),
            instance: config.node.instance.clone(),
            token,
            state: State::Waiting { retry_at: now },
            retry: RETRY_MIN,
            trouble: String::new(),
            snapshot: link::Snapshot::default(),
            standbys: Some(BTreeSet::new()),
            lease_ms: 0,
            gateways: BTreeSet::new(),
            applied: false,
            problems: Vec::new(),
            stats: None,
            jitter,
        }
    }

    /// Replaces what the data plane shall do, if it is anything new, and tells the data plane if it is there.
    ///
    /// `transit` are groups whose sealed packets are relayed and that are not configured.
    pub fn configure(
        &mut self,
        config: &Config,
        interfaces: &Interfaces,
        transit: &BTreeSet<Group>,
        registry: &Registry,
        now: Instant,
    ) -> Vec<LinkEvent> {
        let generation = self.snapshot.generation;
        let mut snapshot = snapshot(config, interfaces, transit, generation);
        for flow in &mut snapshot.flows {
            let standby = self.stands_by(flow);
            (flow.send_standby, flow.receive_standby) = (standby, standby);
        }
        (snapshot.undecided, snapshot.lease_ms) = (self.standbys.is_none(), self.lease_ms);
        snapshot.gateways = self.gateways.iter().map(|mac| mac.to_vec()).collect();
        if snapshot == self.snapshot && generation > 0 {
            return Vec::new();
        }
        self.snapshot = link::Snapshot { generation: generation + 1, ..snapshot };
        self.applied = false;
        let mut events = Vec::new();
        let message = to_dataplane::Body::Snapshot(self.snapshot.clone());
        if let State::Up { stream, .. } = &mut self.state
            && let Err(error) = stream.send(&link::ToDataplane { body: Some(message) })
        {
            self.lose(registry, now, error.to_string(), &mut events);
        }
        events
    }

    /// Whether another gateway forwards a flow.
    fn stands_by(&self, flow: &link::Flow) -> bool {
        let standbys = self.standbys.as_ref();
        standbys.zip(group(&flow.group, flow.prefix_len)).is_some_and(|(standbys, group)| standbys.contains(&group))
    }

    /// Who forwards the flows is to be decided anew: until then those that there are go on as they are, and new ones
    /// stand by.
    pub fn undecide(&mut self) {
        self.standbys = None;
        self.snapshot.undecided = true;
    }

    /// Has these flows stand by and all others forward: at once, and with nothing else changed. It lasts until the next
    /// call, through restarts of the data plane too. `lease` is how long flows are forwarded without control; zero is
    /// for ever.
    pub fn stand_by(
        &mut self,
        groups: BTreeSet<Group>,
        lease: Duration,
        registry: &Registry,
        now: Instant,
    ) -> Vec<LinkEvent> {
        // What is undecided here may be anything there.
        let all = self.standbys.replace(groups).is_none();
        let lease_ms = u32::try_from(lease.as_millis()).unwrap_or(u32::MAX);
        let wanted: Vec<_> = self.snapshot.flows.iter().map(|flow| self.stands_by(flow)).collect();
        let mut flows = Vec::new();
        for (flow, standby) in self.snapshot.flows.iter_mut().zip(wanted) {
            if all || flow.send_standby != standby {
                (flow.send_standby, flow.receive_standby) = (standby, standby);
                flows.push(link::FlowGate {
                    group: flow.group.clone(),
                    prefix_len: flow.prefix_len,
                    send_standby: standby,
                    receive_standby: standby,
                });
            }
        }
        if flows.is_empty() && !all && self.lease_ms == lease_ms {
            return Vec::new();
        }
        self.lease_ms = lease_ms;
        (self.snapshot.undecided, self.snapshot.lease_ms) = (false, lease_ms);
        self.snapshot.generation += 1;
        self.applied = false;
        let gate = link::Gate { generation: self.snapshot.generation, flows, lease_ms };
        let mut events = Vec::new();
        if let State::Up { stream, .. } = &mut self.state
            && let Err(error) = stream.send(&link::ToDataplane { body: Some(to_dataplane::Body::Gate(gate)) })
        {
            self.lose(registry, now, error.to_string(), &mut events);
        }
        events
    }

    /// Names the Ethernet addresses of other gateways on our trusted segments; the next [`DataPlaneLink::configure`]
    /// tells the data plane.
    pub fn set_gateways(&mut self, gateways: BTreeSet<[u8; 6]>) {
        self.gateways = gateways;
    }

    /// When [`DataPlaneLink::tick`] is due.
    pub fn deadline(&self) -> Instant {
        match &self.state {
            State::Waiting { retry_at } => *retry_at,
            State::Greeting { since, .. } => *since + SILENCE_MAX,
            State::Up { peer, .. } => peer.ask_at.min(peer.heard_at + SILENCE_MAX),
        }
    }

    /// Connects, asks for counters, or gives up on a silent data plane, whatever is due.
    pub fn tick(&mut self, registry: &Registry, now: Instant) -> Vec<LinkEvent> {
        let mut events = Vec::new();
        match &mut self.state {
            State::Waiting { retry_at } if *retry_at <= now => {
                if let Err(error) = self.connect(registry, now) {
                    self.lose(registry, now, error.to_string(), &mut events);
                }
            }
            State::Greeting { since, .. } if *since + SILENCE_MAX <= now => {
                self.lose(registry, now, format!("no answer for {SILENCE_MAX:?}"), &mut events);
            }
            State::Up { peer, .. } if peer.heard_at + SILENCE_MAX <= now => {
                self.lose(registry, now, format!("no answer for {SILENCE_MAX:?}"), &mut events);
            }
            State::Up { peer, .. } if peer.ask_at <= now => events = self.ask_stats(registry, now),
            _ => {}
        }
        events
    }

    /// Asks for counters now, for a client that waits for them.
    pub fn ask_stats(&mut self, registry: &Registry, now: Instant) -> Vec<LinkEvent> {
        let mut events = Vec::new();
        if let State::Up { stream, peer } = &mut self.state {
            peer.ask_at = now + STATS_INTERVAL;
            let message = to_dataplane::Body::Stats(link::StatsRequest {});
            if let Err(error) = stream.send(&link::ToDataplane { body: Some(message) }) {
                self.lose(registry, now, error.to_string(), &mut events);
            }
        }
        events
    }

    fn connect(&mut self, registry: &Registry, now: Instant) -> Result<(), StreamError> {
        let mut socket = UnixStream::connect(&self.path)?;
        registry.register(&mut socket, self.token, Interest::READABLE | Interest::WRITABLE)?;
        let mut stream = MessageStream::new(socket, MAX_MESSAGE_LEN, 2 * MAX_MESSAGE_LEN);
        let hello = link::Hello {
            layout_version: LAYOUT_VERSION,
            instance: self.instance.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            incarnation: 0,
        };
        stream.send(&link::ToDataplane { body: Some(to_dataplane::Body::Hello(hello)) })?;
        self.state = State::Greeting { stream, since: now };
        Ok(())
    }

    /// Takes what the socket has.
    pub fn ready(&mut self, registry: &Registry, now: Instant) -> Vec<LinkEvent> {
        let mut events = Vec::new();
        if let Err(error) = self.exchange(now, &mut events) {
            self.lose(registry, now, error.to_string(), &mut events);
        }
        events
    }

    fn exchange(&mut self, now: Instant, events: &mut Vec<LinkEvent>) -> Result<(), LinkError> {
        loop {
            let stream = match &mut self.state {
                State::Waiting { .. } => return Ok(()),
                State::Greeting { stream, .. } | State::Up { stream, .. } => stream,
            };
            stream.flush()?;
            let Some(message) = stream.receive::<link::ToControl>()? else { return Ok(()) };
            match (message.body, &mut self.state) {
                (Some(to_control::Body::Hello(hello)), _) => events.push(self.greet(hello, now)?),
                (Some(body), State::Up { peer, .. }) => {
                    peer.heard_at = now;
                    events.extend(self.take_in(body, now)?);
                }
                _ => return Err(LinkError::NoHello),
            }
        }
    }

    /// Checks a hello and answers with the flows.
    fn greet(&mut self, hello: link::Hello, now: Instant) -> Result<LinkEvent, LinkError> {
        if hello.layout_version != LAYOUT_VERSION {
            return Err(LinkError::Layout { theirs: hello.layout_version, version: hello.version });
        }
        if hello.instance != self.instance {
            return Err(LinkError::Instance { theirs: hello.instance, ours: self.instance.clone() });
        }
        let waiting = State::Waiting { retry_at: now };
        let State::Greeting { mut stream, .. } = std::mem::replace(&mut self.state, waiting) else {
            return Err(LinkError::NoHello);
        };
        let snapshot = to_dataplane::Body::Snapshot(self.snapshot.clone());
        stream.send(&link::ToDataplane { body: Some(snapshot) })?;
        let incarnation = hello.incarnation;
        let peer = Peer { version: hello.version, incarnation, heard_at: now, ask_at: now };
        tracing::info!(version = %peer.version, incarnation = format!("{incarnation:016x}"), "data plane connected");
        self.state = State::Up { stream, peer };
        self.applied = false;
        self.trouble.clear();
        Ok(LinkEvent::Up { incarnation })
    }

    fn take_in(&mut self, body: to_control::Body, now: Instant) -> Result<Option<LinkEvent>, LinkError> {
        match body {
            to_control::Body::Hello(_) => Err(LinkError::NoHello),
            to_control::Body::Applied(applied) if applied.generation == self.snapshot.generation => {
                self.retry = RETRY_MIN;
                self.applied = true;
                self.problems.clone_from(&applied.problems);
                Ok(Some(LinkEvent::Applied(applied.problems)))
            }
            // The answer to a snapshot that has been replaced since.
            to_control::Body::Applied(_) => Ok(None),
            to_control::Body::Stats(stats) => {
                self.stats = Some((now, stats));
                Ok(Some(LinkEvent::Stats))
            }
            to_control::Body::MissingKey(missing) => {
                let group = group(&missing.group, missing.prefix_len).ok_or(LinkError::Group)?;
                let epoch = Epoch(u16::try_from(missing.epoch).map_err(|_| LinkError::Group)?);
                Ok(Some(LinkEvent::MissingKey { key_id: KeyId(missing.key_id), group, epoch }))
            }
            to_control::Body::FailedOpens(message) => {
                let source: [u8; 16] = message.source.as_slice().try_into().map_err(|_| LinkError::Source)?;
                Ok(Some(LinkEvent::FailedOpens(FailedOpens {
                    key_id: KeyId(message.key_id),
                    failed: message.failed,
                    limited: message.limited,
                    source: id::unmap(&source),
                    ban: message.ban,
                })))
            }
        }
    }

    /// Closes the connection, whatever its state, and plans the next attempt.
    fn lose(&mut self, registry: &Registry, now: Instant, why: String, events: &mut Vec<LinkEvent>) {
        let wait = self.retry.mul_f64(0.75 + 0.5 * (self.jitter)());
        self.retry = (self.retry * 2).min(RETRY_MAX);
        let lost = std::mem::replace(&mut self.state, State::Waiting { retry_at: now + wait });
        let path = self.path.display();
        match lost {
            State::Waiting { .. } => {
                if self.trouble != why {
                    tracing::warn!("data plane not reachable at {path}: {why}; is gemcast-dataplane running?");
                }
            }
            State::Greeting { mut stream, .. } => {
                // Deregistering fails only for a socket that was never registered.
                let _ = registry.deregister(stream.socket());
                if self.trouble != why {
                    tracing::warn!("data plane at {path} refused: {why}");
                }
            }
            State::Up { mut stream, .. } => {
                let _ = registry.deregister(stream.socket());
                tracing::warn!("data plane lost: {why}; it goes on with the keys it has");
                events.push(LinkEvent::Down);
            }
        }
        self.trouble = why;
        self.applied = false;
        self.stats = None;
    }

    /// Whether it is connected.
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Up { .. })
    }

    /// Whether the data plane runs the current flows.
    pub fn is_applied(&self) -> bool {
        self.applied
    }

    /// What the data plane could not do of the current flows.
    pub fn problems(&self) -> &[String] {
        if self.applied { &self.problems } else { &[] }
    }

    /// Why it is not connected.
    pub fn trouble(&self) -> &str {
        &self.trouble
    }

    /// Where the data plane should listen.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Version and map set of the connected data plane.
    pub fn peer(&self) -> Option<(&str, u64)> {
        match &self.state {
            State::Up { peer, .. } => Some((&peer.version, peer.incarnation)),
            _ => None,
        }
    }

    /// The latest counters and when they came.
    pub fn stats(&self) -> Option<(Instant, &link::Stats)> {
        self.stats.as_ref().map(|(at, stats)| (*at, stats))
    }
}

/// Why a data plane is refused.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(
        "its map layout is version {theirs} (gemcast {version}), this is {LAYOUT_VERSION}; run both in the same version"
    )]
    Layout { theirs: u32, version: String },
    #[error("it is instance \"{theirs}\", this is \"{ours}\"")]
    Instance { theirs: String, ours: String },
    #[error("it did not begin with one hello")]
    NoHello,
    #[error("it named no group")]
    Group,
    #[error("it named no source address")]
    Source,
    #[error(transparent)]
    Stream(#[from] StreamError),
}

impl From<io::Error> for LinkError {
    fn from(error: io::Error) -> Self {
        Self::Stream(error.into())
    }
}

/// A group from a message.
pub fn group(address: &[u8], prefix_len: u32) -> Option<Group> {
    Group::from_mapped(address.try_into().ok()?, u8::try_from(prefix_len).ok()?).ok()
}

/// Everything the data plane shall do.
fn snapshot(config: &Config, interfaces: &Interfaces, transit: &BTreeSet<Group>, generation: u64) -> link::Snapshot {
    let interfaces = interfaces.iter().map(|interface| link::Interface {
        name: interface.config.name.clone(),
        role: match interface.config.role {
            Role::Trusted => link::Role::Trusted.into(),
            Role::Untrusted => link::Role::Untrusted.into(),
        },
    });
    let configured = config.groups.iter().map(|rule| {
        let sealed = matches!(rule.protection, Protection::Sealed { .. });
        link::Flow {
            ports: rule.ports.iter().map(|&port| port.into()).collect(),
            sources: rule.sources.iter().map(|&source| id::map(source).to_vec()).collect(),
            send: rule.send,
            receive: rule.receive,
            transit: sealed && config.node.transit,
            ..flow(&rule.group, sealed)
        }
    });
    // Only sealed packets: whatever else is sent to a group that others announced is not ours to judge.
    let sealed_only = vec![u32::from(PORT)];
    let relayed =
        transit.iter().map(|group| link::Flow { transit: true, ports: sealed_only.clone(), ..flow(group, true) });
    link::Snapshot {
        generation,
        interfaces: interfaces.collect(),
        flows: configured.chain(relayed).collect(),
        ..link::Snapshot::default()
    }
}

fn flow(group: &Group, sealed: bool) -> link::Flow {
    let prefix_len = group.mapped_prefix_len().into();
    link::Flow { group: group.mapped().to_vec(), prefix_len, sealed, ..link::Flow::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyfile;

    #[test]
    fn groups_to_relay_are_flows_that_neither_send_nor_receive() {
        let dir = tempfile::tempdir().unwrap();
        keyfile::generate_identity(&dir.path().join("node.key")).unwrap();
        for name in ["bk.key", "gak.key"] {
            keyfile::generate_key(&dir.path().join(name)).unwrap();
        }
        let config = |transit: bool| {
            let text = format!(
                r#"
                node = {{ name = "a", identity = "node.key", transit = {transit} }}
                domain = {{ bootstrap_key = "bk.key" }}
                interface = [{{ name = "lan0", role = "trusted" }}, {{ name = "wan0", role = "untrusted" }}]
                group = [
                    {{ address = "239.1.1.1", gak = [{{ epoch = 1, file = "gak.key" }}] }},
                    {{ address = "239.1.1.2", protection = "none" }},
                ]"#
            );
            Config::parse(&dir.path().join("gemcast.toml"), &text).unwrap()
        };
        let other = BTreeSet::from(["239.9.0.0/16".parse().unwrap()]);
        let flows = |transit, groups| snapshot(&config(transit), &Interfaces::default(), groups, 1).flows;
        let [member, clear, relayed] = &flows(true, &other)[..] else { panic!("three") };
        assert!(member.transit && member.sealed && member.send && member.receive);
        assert!(!clear.transit && !clear.sealed);
        assert!(relayed.transit && relayed.sealed && !relayed.send && !relayed.receive);
        assert_eq!((&relayed.group[..14], relayed.prefix_len), (&id::map_v4([239, 9, 0, 0])[..14], 112));
        assert!(flows(false, &BTreeSet::new()).iter().all(|flow| !flow.transit));
    }
}
