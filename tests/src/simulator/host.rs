//! A simulated gateway: the engine, and the data plane's maps as far as the engine writes them.

use super::byzantine::Byzantine;
use core::time::Duration;
use gemcast_engine::Engine;
use gemcast_engine::config::{Babel, Config, GroupConfig, Membership, Node, Protection};
use gemcast_engine::input::{AdoptedKey, Floor, Ifindex};
use gemcast_engine::kmg::Administrator;
use gemcast_engine::output::{Event, Output, RouteAction, Transmit};
use gemcast_engine::secret::Secret;
use gemcast_proto::id::{Epoch, Group, KeyId, NodeId, Suite};
use gemcast_proto::wire::babel::Prefix;
use std::collections::{BTreeMap, BTreeSet};

/// What the data plane holds. It survives the control process, not the machine.
#[derive(Default)]
pub struct Maps {
    pub(super) incarnation: u64,
    /// Keys with their traffic keys.
    pub keys: BTreeMap<KeyId, (AdoptedKey, [u8; 32])>,
    /// Key that seals each group.
    pub active: BTreeMap<Group, KeyId>,
    /// Kernel routes.
    pub routes: BTreeMap<Prefix, RouteAction>,
    /// Interface that packets under a key are relayed from.
    pub transit: BTreeMap<KeyId, Ifindex>,
    /// Group tag keys: packets of other epochs are dropped.
    pub gtags: BTreeMap<(Group, Epoch), [u8; 16]>,
    /// Packets sealed with each key of our own.
    pub(super) counters: BTreeMap<KeyId, u64>,
    /// Whether it forwards the group between its LAN, shared with others, and the network.
    pub forwards: bool,
    /// Ethernet addresses of other gateways on its LAN.
    pub gateways: BTreeSet<[u8; 6]>,
}

/// One gateway.
pub struct Host {
    /// `None` while it is down.
    pub engine: Option<Engine>,
    /// Its data plane.
    pub maps: Maps,
    /// What it told its operator.
    pub events: Vec<Event>,
    /// Its wall clock, ahead of the true one.
    pub clock_ahead_ms: i64,
    /// Whether it seals and opens; else it only relays.
    pub member: bool,
    /// How it lies, if it does.
    pub byzantine: Option<Byzantine>,
    /// Whether it takes no notice of the administrator: who holds it replaced its software.
    pub captured: bool,
    /// What it kept on its disk: of what the administrator said, and which epochs are over.
    pub(super) kept: (Vec<Vec<u8>>, Vec<Floor>),
    /// Keys that ever sealed, with the map set they did it in: none may do it in two.
    sealed_in: BTreeMap<KeyId, u64>,
    /// Starts so far.
    pub(super) starts: u64,
    pub(super) id: NodeId,
}

/// The group that all members seal and open.
pub(super) fn group() -> Group {
    "239.1.1.1".parse().expect("a group")
}

/// The prefix that a host announces.
pub(super) fn prefix_of(host: usize) -> Prefix {
    let number = u16::try_from(host + 1).expect("at most 65,535 hosts");
    Prefix::new(core::net::Ipv6Addr::new(0x2001, 0xdb8, number, 0, 0, 0, 0, 0).into(), 48).expect("a prefix")
}

impl Host {
    pub(super) fn new(member: bool) -> Self {
        Self {
            engine: None,
            maps: Maps::default(),
            events: vec![],
            clock_ahead_ms: 0,
            member,
            byzantine: None,
            captured: false,
            kept: Default::default(),
            sealed_in: BTreeMap::new(),
            starts: 0,
            id: NodeId::default(),
        }
    }

    /// Carries out one output. Returns the packet to send, if it is one.
    ///
    /// # Panics
    /// When the output breaks a promise of the engine's.
    pub(super) fn apply(
        &mut self,
        output: Output,
        sealing: &mut BTreeMap<KeyId, (NodeId, [u8; 32])>,
    ) -> Option<Transmit> {
        match output {
            Output::Transmit(transmit) => return Some(transmit),
            Output::InstallKey(key) => {
                let traffic = *key.traffic_key.expose();
                if key.seals {
                    let before = sealing.insert(key.key_id, (key.origin, traffic));
                    let same = before.is_none_or(|before| before == (key.origin, traffic));
                    assert!(same, "key id {} was made twice", key.key_id);
                    // As in the map: counters that are there go on, those of a key that was removed are gone.
                    self.maps.counters.entry(key.key_id).or_insert(0);
                } else {
                    // Nothing opens that its origin did not make: a wrong or forged key is never installed.
                    assert_eq!(
                        sealing.get(&key.key_id),
                        Some(&(key.origin, traffic)),
                        "key {} is not its origin's",
                        key.key_id
                    );
                }
                let adopted = AdoptedKey {
                    key_id: key.key_id,
                    origin: key.origin,
                    group: key.group,
                    epoch: key.epoch,
                    seals: key.seals,
                    not_after: key.not_after,
                };
                self.maps.keys.insert(key.key_id, (adopted, traffic));
            }
            Output::Activate { group, key_id } => {
                let (key, _) = self.maps.keys.get(&key_id).expect("a key is installed before it is activated");
                assert!(key.seals, "only a key of our own seals");
                let incarnation = self.maps.incarnation;
                let sealed_in = *self.sealed_in.entry(key_id).or_insert(incarnation);
                assert_eq!(sealed_in, incarnation, "key {key_id} seals under counters that were lost");
                self.maps.active.insert(group, key_id);
            }
            Output::RemoveKey(key_id) => {
                self.maps.keys.remove(&key_id);
                self.maps.counters.remove(&key_id);
                let was_active = self.maps.active.extract_if(.., |_, active| *active == key_id).count() > 0;
                let seals = |engine: &Engine| engine.groups().iter().any(|group| group.active_key.is_some());
                let has_other = was_active && self.engine.as_ref().is_some_and(seals);
                assert!(!has_other, "an active key is not removed while there is another to take its place");
            }
            Output::Route(route) => match route.action {
                RouteAction::Withdraw => drop(self.maps.routes.remove(&route.prefix)),
                action => drop(self.maps.routes.insert(route.prefix, action)),
            },
            Output::Transit { key_id, ifindex: Some(ifindex) } => drop(self.maps.transit.insert(key_id, ifindex)),
            Output::Transit { key_id, ifindex: None } => drop(self.maps.transit.remove(&key_id)),
            Output::Event(event) => self.events.push(event),
            Output::InstallGtag { group, epoch, key } => {
                self.maps.gtags.insert((group, epoch), *key.expose());
            }
            Output::RemoveGtag { group, epoch } => drop(self.maps.gtags.remove(&(group, epoch))),
            Output::Persist { .. } => {
                self.kept =
                    self.engine.as_ref().map(|engine| (engine.administration(), engine.floors())).unwrap_or_default();
            }
            Output::StandBy { groups, .. } => self.maps.forwards = !groups.contains(&group()),
            Output::Gateways(gateways) => self.maps.gateways = gateways,
            Output::Ban { .. } => {}
        }
        None
    }

    /// The engine's own bounds, and that it has names for what it holds.
    pub(super) fn check(&self) {
        let Some(engine) = &self.engine else { return };
        let opening = self.maps.keys.values().filter(|(key, _)| !key.seals).count();
        assert!(opening == 0 || self.member, "a relay holds no key");
        let neighbours = engine.neighbours();
        let distinct: BTreeSet<_> = neighbours.iter().map(|neighbour| (neighbour.ifindex, neighbour.address)).collect();
        assert_eq!(distinct.len(), neighbours.len());
    }
}

/// The administrator of every world.
pub(super) fn administrator() -> Administrator {
    Administrator::new(&Secret::new([0xad; 32]))
}

/// Seed of both keys of host number `host`.
pub(super) fn seed_of(host: usize) -> [u8; 32] {
    let mut seed = [0x5a; 32];
    seed[..8].copy_from_slice(&(host as u64).to_be_bytes());
    seed
}

/// Configuration of host number `host`.
pub(super) fn config(host: usize, member: bool, captured: bool) -> Config {
    let seed = seed_of(host);
    let gaks = vec![(Epoch(1), Secret::new([7; 32]))];
    let sealed = GroupConfig {
        group: group(),
        protection: Protection::Sealed { suite: Suite::Aes256Gcm, gaks },
        send: true,
        receive: true,
    };
    Config {
        node: Node { name: format!("h{host}"), signing_seed: Secret::new(seed), agreement_key: Secret::new(seed) },
        bootstrap_keys: vec![Secret::new(super::byzantine::BOOTSTRAP_KEY)],
        groups: if member { vec![sealed] } else { vec![] },
        administrators: if captured { vec![] } else { vec![administrator().public_key()] },
        membership: Membership::Open,
        clock_floor: gemcast_engine::time::UnixMillis(0),
        hello_interval: Duration::from_secs(1),
        update_interval: Duration::from_secs(10),
        detection: Default::default(),
        policy: Default::default(),
        sek_lifetime: Duration::from_secs(3600),
        announce_lead: Duration::from_secs(30),
        overlap: Duration::from_secs(10),
        babel: Babel::default(),
    }
}
