//! The control plane's decisions, without any IO: Babel and its neighbours, GEM objects, the life of keys.
//!
//! The engine is a state machine in the sans-IO style. Its owner (gemcastd, or the simulator) calls
//! [`Engine::handle`] with what happened and the time it happened, drains [`Engine::poll_output`], sleeps until
//! [`Engine::next_deadline`], then calls [`Engine::handle_timeout`]. Time, randomness, configuration and secrets come in as
//! arguments; nothing here reads a clock, opens a socket or draws a random number of its own. The same inputs at the
//! same times give the same outputs.
#![forbid(unsafe_code)]

pub mod ban;
pub mod config;
pub mod derive;
mod detector;
mod gak;
mod identity;
pub mod inject;
pub mod input;
mod interface;
pub mod kmg;
mod lease;
mod liveness;
mod mac;
mod neighbour;
mod object;
pub mod output;
mod partition;
mod peer;
mod rate;
mod receive;
pub mod reputation;
mod roster;
mod route;
mod routing;
pub mod secret;
mod sek;
mod seqno;
mod share;
mod stream;
mod sync;
pub mod time;
mod timer;
mod timestamp;
mod transmit;
pub mod view;
mod vote;

use crate::ban::Bans;
use crate::config::{Config, Protection};
use crate::detector::State;
use crate::gak::Gaks;
use crate::identity::Corrections;
use crate::input::{Ifindex, Input};
use crate::interface::Interface;
use crate::lease::Leases;
use crate::neighbour::Neighbour;
use crate::object::Objects;
use crate::output::{Event, Output};
use crate::partition::Partitions;
use crate::rate::{Bucket, Limit};
use crate::roster::Roster;
use crate::routing::{HOUSEKEEPING, Routing};
use crate::sek::Seks;
use crate::stream::Streams;
use crate::sync::{NeighbourKey, Session};
use crate::time::{Instant, Now, UnixMillis};
use crate::timer::{Timer, Timers};
use core::mem::Discriminant;
use core::net::Ipv6Addr;
use core::ops::RangeInclusive;
use core::time::Duration;
use gemcast_proto::id::{Group, KeyId, NodeId};
use gemcast_proto::wire::gem::{NodePayload, ObjectHeader, ObjectKind, ObjectName, Range};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use ring::signature::{Ed25519KeyPair, KeyPair};
use std::collections::{BTreeMap, HashMap, VecDeque};
use zeroize::Zeroizing;

/// Validity of our NODE object; it is made anew halfway.
const NODE_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Time between two goes at objects that run out.
const EXPIRE_PACE: Duration = Duration::from_millis(5);

/// When signing was refused, it is tried again after this.
const SIGNING_RETRY: Duration = Duration::from_secs(1);

/// Alarms of one kind told to the operator; all are counted.
const ALARMS: Limit = Limit { interval: Duration::from_millis(200), burst: 20 };

/// A wall clock that moved this far against the monotonic one was set.
const CLOCK_STEP_MS: u64 = 30_000;

/// The control plane of one gateway.
pub struct Engine {
    config: Config,
    /// Place of each group in the configuration.
    group_index: BTreeMap<Group, usize>,
    id: NodeId,
    signing_key: Ed25519KeyPair,
    agreement_key: [u8; 32],
    mac: mac::Keys,
    rng: ChaCha20Rng,
    interfaces: BTreeMap<Ifindex, Interface>,
    neighbours: BTreeMap<NeighbourKey, Neighbour>,
    objects: Objects,
    session: Session,
    seks: Seks,
    gaks: Gaks,
    roster: Roster,
    bans: Bans,
    /// Nothing is signed while the wall clock is too far behind this.
    clock_floor: UnixMillis,
    /// Whether the last object was not signed.
    signing_refused: bool,
    routing: Routing,
    partitions: Partitions,
    leases: Leases,
    streams: Streams,
    timers: Timers,
    /// Wall clock less monotonic clock, in milliseconds.
    clock_offset: i64,
    /// Limits how many alarms of each kind become events.
    alarms: HashMap<Discriminant<Event>, Bucket>,
    corrections: Corrections,
    outputs: VecDeque<Output>,
    /// What was counted since the start.
    pub counters: view::Counters,
}

impl Engine {
    /// A gateway with this configuration. `seed` feeds the generator behind every key, nonce and jitter.
    ///
    /// # Panics
    /// When the configuration breaks what [`Config`] promises: a bootstrap key, a name of at most 63 bytes.
    pub fn new(config: Config, seed: [u8; 32], now: Now) -> Self {
        let signing_key = Ed25519KeyPair::from_seed_unchecked(config.node.signing_seed.expose())
            .expect("every 32 bytes are an Ed25519 seed");
        let public_key = signing_key.public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes");
        let id = object::node_id_of(public_key);
        let mut engine = Self {
            group_index: index(&config),
            routing: Routing::new(id, now.wall),
            partitions: Partitions::default(),
            streams: Streams::default(),
            id,
            signing_key,
            agreement_key: derive::agreement_public_key(&config.node.agreement_key),
            mac: mac_keys(&config),
            rng: ChaCha20Rng::from_seed(seed),
            interfaces: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            objects: Objects::new(id),
            session: Session::default(),
            seks: Seks::default(),
            gaks: Gaks::default(),
            roster: Roster::default(),
            bans: Bans::default(),
            clock_floor: config.clock_floor,
            signing_refused: false,
            leases: Leases::default(),
            timers: Timers::default(),
            clock_offset: now.clock_offset(),
            alarms: HashMap::new(),
            corrections: Corrections::default(),
            outputs: VecDeque::new(),
            counters: view::Counters::default(),
            config,
        };
        engine.set_administrators(now);
        engine.refresh_gaks(now, true);
        engine.announce_node(now, now.wall.0);
        engine.timers.set(Timer::Housekeeping, now.mono + HOUSEKEEPING);
        engine
    }

    /// Mixes fresh randomness into the generator behind every key. An owner that runs where memory may be put back to what
    /// it was, as that of a virtual machine, does so whenever keys may be made: none is then made twice.
    pub fn reseed(&mut self, fresh: &[u8; 32]) {
        let mut seed = Zeroizing::new([0; 32]);
        self.rng.fill_bytes(&mut *seed);
        seed.iter_mut().zip(fresh).for_each(|(byte, fresh)| *byte ^= fresh);
        self.rng = ChaCha20Rng::from_seed(*seed);
    }

    /// Takes one event.
    pub fn handle(&mut self, now: Now, input: Input<'_>) {
        self.watch_clock(now);
        match input {
            Input::InterfaceUp(info) => self.interface_up(now, info),
            Input::InterfaceDown(ifindex) => self.interface_down(now, ifindex),
            Input::Packet(packet) => self.process_packet(now, &packet),
            Input::DataPlaneUp { incarnation, keys } => {
                self.leases.set_data_plane(true);
                self.data_plane_up(now, incarnation, keys);
            }
            // Forwarding goes on there with the keys it has, and the maps stay. A substitute takes over, if there is one.
            Input::DataPlaneDown => {
                self.leases.set_data_plane(false);
                self.forget_streams();
            }
            Input::MissingKey { key_id, .. } => self.missing_key(now, key_id),
            Input::Sealed { key_id, packets } => self.sealed(now, key_id, packets),
            Input::Opened(keys) => self.opened(now, &keys),
            Input::RotateSek(group) => self.rotate(now, group),
            Input::ReplaceSek(group) => self.replace_at_once(now, group),
            Input::AcceptClock => self.accept_clock(now),
            Input::Originate(prefixes) => self.originate(now, prefixes),
            Input::Reconfigure(config) => self.reconfigure(now, *config),
            Input::TransitRoom(room) => self.set_transit_room(room),
            Input::Segment(segment) => self.set_segment(now, segment),
            Input::GatewaysHeard(heard) => self.gateways_heard(now, &heard),
            Input::Stop => self.stop(now),
        }
        self.tend_lease(now);
    }

    /// The next effect to carry out, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Engine::handle_timeout`] wants to be called next.
    pub fn next_deadline(&self) -> Option<Instant> {
        let interfaces = self.interfaces.values().filter_map(Interface::next_deadline).min();
        let neighbours = self.neighbours.values().filter_map(|one| one.next_deadline(&self.config.detection)).min();
        [self.timers.next(), interfaces, neighbours].into_iter().flatten().min()
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Now) {
        self.watch_clock(now);
        self.run_timers(now);
        let overdue = |(key, neighbour): (&NeighbourKey, &Neighbour)| {
            neighbour.next_deadline(&self.config.detection).is_some_and(|deadline| deadline <= now.mono).then_some(*key)
        };
        let overdue: Vec<_> = self.neighbours.iter().filter_map(overdue).collect();
        for key in overdue {
            self.neighbour_timeout(now, key);
        }
        let due = |(&ifindex, interface): (&Ifindex, &Interface)| {
            interface.next_deadline().is_some_and(|deadline| deadline <= now.mono).then_some(ifindex)
        };
        let due: Vec<_> = self.interfaces.iter().filter_map(due).collect();
        for ifindex in due {
            self.interface_timeout(now, ifindex);
        }
        self.tend_lease(now);
        // What was announced just now has a time to expire.
        self.run_timers(now);
    }

    fn run_timers(&mut self, now: Now) {
        while let Some(timer) = self.timers.pop(now.mono) {
            match timer {
                Timer::Expiry => self.expire_objects(now),
                Timer::NodeRefresh => self.announce_node(now, now.wall.0),
                Timer::Seks => self.tend_own(now),
                Timer::Adopted => self.tend_adopted(now),
                Timer::Delivery => self.deliver(now),
                Timer::InitialSync => self.retry_initial_sync(now),
                Timer::Routes => self.expire_routes(now),
                Timer::Requests => self.resend_requests(now),
                Timer::Identity => self.correct_identity(now),
                Timer::Partitions => self.tell_partitions(now),
                Timer::Streams => self.expire_streams(now),
                Timer::Housekeeping => self.housekeep(now),
                Timer::Administration => self.govern(now),
                Timer::Successions => self.follow_successions(now),
                Timer::Gaks => self.refresh_gaks(now, false),
                Timer::Bans => self.lift_bans(now),
                // Looked after with every event.
                Timer::Lease => {}
            }
        }
    }

    /// What we announced is valid by the wall clock and renewed by the monotonic one: when they part, all of it is made
    /// anew.
    fn watch_clock(&mut self, now: Now) {
        self.clock_floor = self.latest(now);
        let offset = now.clock_offset();
        if self.clock_offset.abs_diff(offset) > CLOCK_STEP_MS {
            self.clock_offset = offset;
            self.announce_node(now, now.wall.0);
            self.redate_own(now);
            self.refresh_gaks(now, false);
            self.leases.renew();
        }
    }

    /// Announces our keys and name.
    fn announce_node(&mut self, now: Now, at_least: u64) {
        let name = ObjectName { origin: self.id, kind: ObjectKind::NODE, id: 0 };
        let known = self.objects.get(&name).map_or(0, |stored| stored.header.version.saturating_add(1));
        let mut payload = [0; NodePayload::MAX_LEN];
        let signing_key = self.signing_key.public_key().as_ref().try_into().expect("32 bytes");
        let node = NodePayload { signing_key, agreement_key: self.agreement_key, name: &self.config.node.name };
        let len = node.emit(&mut payload);
        let made = self.announce(now, name, at_least.max(known), now.wall + NODE_LIFETIME, &payload[..len]);
        let again = if made { NODE_LIFETIME / 2 } else { SIGNING_RETRY };
        self.timers.set(Timer::NodeRefresh, now.mono + again);
    }

    /// An object that came in, from a neighbour or from the operator, changed the table.
    fn object_changed(&mut self, now: Now, by: Option<NeighbourKey>, header: &ObjectHeader) {
        let name = header.name;
        if let (Some(by), ObjectKind::NODE) = (by.filter(|_| name.origin == self.id), name.kind) {
            self.identity_contested(now, by);
        }
        match name.kind {
            ObjectKind::SEK => {
                self.learn(now, &name);
                if let (true, Ok(key_id)) = (name.origin == self.id, u32::try_from(name.id)) {
                    self.withdraw_ahead(now, KeyId(key_id));
                }
            }
            ObjectKind::NODE => {}
            ObjectKind::LEASE => self.learn_lease(now, &name),
            ObjectKind::BAN_VOTE => self.learn_vote(now, header),
            _ => self.administer(now, &name),
        }
    }

    fn expire_objects(&mut self, now: Now) {
        for stored in self.objects.expire(now.wall) {
            self.forget_object(now, &stored);
        }
        if let Some(at) = self.objects.next_expiry() {
            // The wall clock may be set while we wait: looked at again every minute.
            let wait =
                Duration::from_millis(at.0.saturating_sub(now.wall.0)).clamp(EXPIRE_PACE, Duration::from_secs(60));
            self.timers.set(Timer::Expiry, now.mono + wait);
        }
    }

    fn reconfigure(&mut self, now: Now, config: Config) {
        let renamed = self.config.node.name != config.node.name;
        self.mac = mac_keys(&config);
        self.group_index = index(&config);
        let old = core::mem::replace(&mut self.config, config);
        self.refilter(now, &old.babel);
        let changed: Vec<_> = self.interfaces.keys().copied().collect();
        changed.into_iter().for_each(|ifindex| self.interface_changed(now, ifindex));
        if renamed {
            self.announce_node(now, now.wall.0);
        }
        self.set_administrators(now);
        // Groups may be new that packages were there for.
        self.govern(now);
        self.leases.renew();
    }

    /// Tells something that a neighbour can cause at will, unless too much of its kind is told already.
    fn alarm(&mut self, now: Now, event: Event) {
        if self.alarms.entry(core::mem::discriminant(&event)).or_default().take(now.mono, ALARMS) {
            self.event(event);
        }
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// A random duration below `bound`.
    fn jitter(&mut self, bound: Duration) -> Duration {
        let bound_us = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX).max(1);
        Duration::from_micros(self.rng.next_u64() % bound_us)
    }

    /// Our node id.
    pub fn node_id(&self) -> NodeId {
        self.id
    }

    /// Known gateways, ourselves first.
    pub fn nodes(&self) -> Vec<view::NodeView> {
        let mut seks = BTreeMap::<NodeId, u32>::new();
        let live = self.objects.iter().filter(|s| s.header.name.kind == ObjectKind::SEK && !s.header.tombstone);
        for stored in live {
            *seks.entry(stored.header.name.origin).or_default() += 1;
        }
        let view = |(id, keys): (&NodeId, &object::NodeKeys)| view::NodeView {
            id: *id,
            name: keys.name.clone(),
            is_self: *id == self.id,
            signing_key: keys.signing_key,
            agreement_key: keys.agreement_key,
            version: keys.version,
            seks: seks.get(id).copied().unwrap_or(0),
            reach: self.reach(*id),
        };
        // An administrator is an origin and no gateway: it has no key to agree on.
        let gateways = self.objects.nodes().filter(|(_, keys)| keys.agreement_key != [0; 32]);
        let mut nodes: Vec<_> = gateways.map(view).collect();
        nodes.sort_by_key(|node| !node.is_self);
        nodes
    }

    /// Configured groups.
    pub fn groups(&self) -> Vec<view::GroupView> {
        let sources = self.seks.sources();
        let groups = self.config.groups.iter().map(|config| {
            let suite = match &config.protection {
                Protection::None => None,
                Protection::Sealed { suite, .. } => Some(*suite),
            };
            let epochs = self.gaks.epochs(config.group);
            let own = self.seks.own.get(&config.group);
            // A key found in the maps after a restart seals until the new one takes over.
            let active = own.and_then(|own| {
                own.active.as_ref().map(|sek| sek.key_id).or_else(|| own.adopted.last().map(|key| key.key_id))
            });
            view::GroupView {
                group: config.group,
                suite,
                epochs,
                send: config.send,
                receive: config.receive,
                active_key: active,
                next_key: own.and_then(|own| own.next.as_ref()).map(|sek| (sek.key_id, sek.not_before)),
                sources: sources.get(&config.group).copied().unwrap_or(0),
            }
        });
        groups.collect()
    }

    /// Number of GEM objects known, ours included.
    pub fn objects(&self) -> u32 {
        self.objects.digest(Range::WHOLE).count
    }

    /// Babel neighbours.
    pub fn neighbours(&self) -> Vec<view::NeighbourView> {
        let whole = self.objects.digest(Range::WHOLE);
        let view = |(key, neighbour): (&NeighbourKey, &Neighbour)| view::NeighbourView {
            ifindex: key.0,
            interface: self.interfaces.get(&key.0).map(|interface| interface.info.name.clone()).unwrap_or_default(),
            address: key.1,
            up: neighbour.is_up(),
            state: match neighbour.detector.state() {
                State::Unproven => view::Liveness::Unproven,
                State::Heard => view::Liveness::Heard,
                State::Suspect => view::Liveness::Suspect,
                State::Dead(since) => view::Liveness::Dead(since),
            },
            missed: neighbour.missed(),
            lateness: neighbour.lateness(),
            flapping: neighbour.detector.is_damped(),
            deaths: neighbour.detector.deaths(),
            hello_history: neighbour.multicast.bits,
            unicast_history: neighbour.unicast.bits,
            peer: self.is_peer(*key),
            by_unicast: neighbour.by_unicast,
            last_heard: neighbour.last_heard,
            rxcost: neighbour.rxcost(),
            txcost: neighbour.txcost,
            cost: self.cost_of(*key),
            rtt: neighbour.round_trip.smoothed(),
            sync: match neighbour.peer_table.digest {
                None => view::SyncState::Unknown,
                Some(digest) if digest == whole => view::SyncState::Equal,
                Some(digest) => view::SyncState::Differs {
                    theirs: digest.count,
                    queued: u32::try_from(neighbour.peer_table.queue.len()).unwrap_or(u32::MAX),
                    tries: neighbour.peer_table.tries,
                    next_at: neighbour.peer_table.retry_at,
                },
            },
        };
        self.neighbours.iter().map(view).collect()
    }
}

fn index(config: &Config) -> BTreeMap<Group, usize> {
    config.groups.iter().enumerate().map(|(index, config)| (config.group, index)).collect()
}

fn mac_keys(config: &Config) -> mac::Keys {
    let keys: Vec<_> = config.bootstrap_keys.iter().map(derive::babel_mac_key).collect();
    mac::Keys::new(config.babel.mac, &keys)
}

/// Every neighbour key of an interface.
fn neighbours_of(ifindex: Ifindex) -> RangeInclusive<NeighbourKey> {
    (ifindex, Ipv6Addr::UNSPECIFIED)..=(ifindex, Ipv6Addr::from([0xff; 16]))
}

/// The earlier of two deadlines.
fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    a.into_iter().chain(b).min()
}

#[cfg(test)]
mod tests;
