//! The rig: nodes, segments that carry their packets with a delay, one clock.

use crate::Engine;
use crate::config::{Babel, Config, GroupConfig, Link, Membership, Node, Policy, Protection};
use crate::inject::{InjectError, Injected};
use crate::input::{AdoptedKey, Floor, Ifindex, Input, Interface, Packet};
use crate::output::{Event, Output, RouteAction};
use crate::secret::Secret;
use crate::time::{Instant, Now, UnixMillis};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::time::Duration;
use gemcast_proto::id::{Epoch, Group, KeyId, Suite};
use gemcast_proto::wire::babel::{self, Prefix, Tlv};
use gemcast_proto::wire::gem;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const START_MS: u64 = 1_800_000_000_000;
const PORT: u16 = 6696;

pub(super) fn group() -> Group {
    "239.1.1.1".parse().unwrap()
}

/// What a data plane would hold.
#[derive(Default)]
pub(super) struct Maps {
    pub(super) incarnation: u64,
    /// Key, and its traffic key, to compare both ends.
    pub(super) keys: BTreeMap<KeyId, (AdoptedKey, [u8; 32])>,
    pub(super) active: BTreeMap<Group, KeyId>,
    pub(super) gtags: BTreeMap<(Group, Epoch), [u8; 16]>,
    pub(super) routes: BTreeMap<(Prefix, Option<Prefix>), RouteAction>,
    pub(super) transit: BTreeMap<KeyId, Option<Ifindex>>,
    pub(super) bans: BTreeSet<KeyId>,
    /// Groups that stand by, once that was said.
    pub(super) standing_by: Option<BTreeSet<Group>>,
    pub(super) gateways: BTreeSet<[u8; 6]>,
}

pub(super) struct Host {
    pub(super) engine: Engine,
    pub(super) maps: Maps,
    pub(super) events: Vec<Event>,
    /// What it wrote to its disk at once.
    pub(super) kept: (Vec<Vec<u8>>, Vec<Floor>),
}

/// A packet on its way.
struct Flight {
    arrives: Instant,
    to: usize,
    ifindex: Ifindex,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    payload: Vec<u8>,
}

/// A packet that was sent, for tests that look at the wire.
pub(super) struct Sent {
    pub(super) at: Instant,
    pub(super) from: usize,
    pub(super) unicast: Option<Ipv6Addr>,
    pub(super) segment: usize,
    pub(super) payload: Vec<u8>,
}

impl Sent {
    /// Body of its first TLV of a type.
    pub(super) fn find(&self, kind: u8) -> Option<Vec<u8>> {
        let tlvs = babel::Packet::parse(&self.payload).unwrap().body().map(Result::unwrap);
        tlvs.filter(|tlv| tlv.kind == kind).map(|tlv| tlv.body.to_vec()).next()
    }

    /// Names of the SEK objects in it.
    pub(super) fn seks(&self) -> Vec<gem::ObjectName> {
        let tlvs = babel::Packet::parse(&self.payload).unwrap().body().map(|raw| Tlv::parse(raw.unwrap()).unwrap());
        let objects = tlvs.filter_map(|tlv| match tlv {
            Tlv::Other(raw) if raw.kind == gem::OBJECT => Some(gem::Object::parse(raw.body).unwrap().header.name),
            _ => None,
        });
        objects.filter(|name| name.kind == gem::ObjectKind::SEK).collect()
    }
}

pub(super) struct Rig {
    pub(super) now: Instant,
    /// How far everyone's wall clock was set forward.
    pub(super) clock_set: Duration,
    pub(super) hosts: Vec<Host>,
    /// Members of each segment; a host has one interface per segment, numbered by it.
    pub(super) segments: Vec<Vec<usize>>,
    links: BTreeMap<(usize, Ifindex), Link>,
    flights: VecDeque<Flight>,
    /// How long packets travel.
    pub(super) delay: Duration,
    pub(super) wire: Vec<Sent>,
    /// Decides which packets are lost: sender, receiver, time.
    pub(super) loses: Box<dyn FnMut(usize, usize, Instant) -> bool>,
    /// Sender and receiver between whom multicast does not pass.
    pub(super) no_multicast: Vec<(usize, usize)>,
}

pub(super) struct Options {
    pub(super) gak: u8,
    pub(super) send: bool,
    pub(super) receive: bool,
    pub(super) member: bool,
    /// Public keys of administrators.
    pub(super) administrators: Vec<[u8; 32]>,
    pub(super) membership: Membership,
    pub(super) clock_floor: UnixMillis,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            gak: 7,
            send: true,
            receive: true,
            member: true,
            administrators: vec![],
            membership: Membership::Open,
            clock_floor: UnixMillis(0),
        }
    }
}

pub(super) fn config(number: usize, options: &Options) -> Config {
    let byte = u8::try_from(number + 1).unwrap();
    let gaks = vec![(Epoch(1), Secret::new([options.gak; 32]))];
    let sealed = GroupConfig {
        group: group(),
        protection: Protection::Sealed { suite: Suite::Aes256Gcm, gaks },
        send: options.send,
        receive: options.receive,
    };
    Config {
        node: Node {
            name: format!("n{number}"),
            signing_seed: Secret::new([byte; 32]),
            agreement_key: Secret::new([byte; 32]),
        },
        bootstrap_keys: vec![Secret::new([9; 32])],
        groups: if options.member { vec![sealed] } else { vec![] },
        administrators: options.administrators.clone(),
        membership: options.membership,
        clock_floor: options.clock_floor,
        hello_interval: Duration::from_secs(1),
        update_interval: Duration::from_secs(10),
        sek_lifetime: Duration::from_secs(3600),
        announce_lead: Duration::from_secs(30),
        overlap: Duration::from_secs(10),
        detection: Default::default(),
        policy: Policy { obey_votes: options.membership == Membership::Roster, share_bans: false },
        babel: Babel::default(),
    }
}

pub(super) fn address(host: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, u16::try_from(host + 1).unwrap())
}

fn is_routable(address: &IpAddr) -> bool {
    !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// A host's routable address of the family of another.
pub(super) fn peer_address(host: usize, like: Ipv6Addr) -> Ipv6Addr {
    let number = u8::try_from(host + 1).unwrap();
    let v4 = Ipv4Addr::new(192, 0, 2, number).to_ipv6_mapped();
    if like.to_ipv4_mapped().is_some() { v4 } else { Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()) }
}

impl Rig {
    pub(super) fn new(hosts: impl IntoIterator<Item = Options>, segments: &[&[usize]]) -> Self {
        let mut rig = Self {
            now: Instant(1_000_000),
            clock_set: Duration::ZERO,
            hosts: vec![],
            segments: segments.iter().map(|members| members.to_vec()).collect(),
            links: BTreeMap::new(),
            flights: VecDeque::new(),
            delay: Duration::from_millis(1),
            wire: vec![],
            loses: Box::new(|_, _, _| false),
            no_multicast: vec![],
        };
        for (number, options) in hosts.into_iter().enumerate() {
            let engine = Engine::new(config(number, &options), [u8::try_from(number).unwrap(); 32], rig.time());
            let maps = Maps { incarnation: 1, ..Maps::default() };
            rig.hosts.push(Host { engine, maps, events: vec![], kept: Default::default() });
            rig.plug(number);
        }
        rig
    }

    pub(super) fn time(&self) -> Now {
        Now { mono: self.now, wall: UnixMillis(START_MS + self.now.0 / 1000) + self.clock_set }
    }

    /// Interfaces and data plane come up.
    fn plug(&mut self, host: usize) {
        for segment in 0..self.segments.len() {
            if self.segments[segment].contains(&host) {
                let ifindex = u32::try_from(segment).unwrap();
                let info = self.interface(host, ifindex);
                self.handle(host, Input::InterfaceUp(info));
            }
        }
        self.data_plane_up(host);
    }

    fn interface(&self, host: usize, ifindex: Ifindex) -> Interface {
        let name = format!("wan{ifindex}");
        let link_local = address(host);
        let settings = self.links.get(&(host, ifindex)).cloned().unwrap_or_default();
        let addresses = ["::ffff:0:0", "::"].map(|like| {
            let address = peer_address(host, like.parse().unwrap()).to_canonical();
            (address, Prefix::new(address, if address.is_ipv4() { 24 } else { 64 }).unwrap())
        });
        let addresses = if settings.peers.iter().any(is_routable) { addresses.to_vec() } else { vec![] };
        Interface { ifindex, name, link_local, ipv4: None, addresses, mtu: 1500, wireless: false, settings }
    }

    /// Configures an interface. It has routable addresses as soon as it has a peer with one.
    pub(super) fn configure(&mut self, host: usize, ifindex: Ifindex, settings: Link) {
        self.links.insert((host, ifindex), settings);
        let info = self.interface(host, ifindex);
        self.handle(host, Input::InterfaceUp(info));
    }

    pub(super) fn data_plane_up(&mut self, host: usize) {
        let maps = &self.hosts[host].maps;
        let keys = maps.keys.values().map(|(key, _)| *key).collect();
        let incarnation = maps.incarnation;
        self.handle(host, Input::DataPlaneUp { incarnation, keys });
    }

    /// The control process dies and starts again without state; the data plane stays.
    pub(super) fn restart_control(&mut self, host: usize, options: &Options) {
        let seed = [u8::try_from(host + 100).unwrap(); 32];
        self.hosts[host].engine = Engine::new(config(host, options), seed, self.time());
        self.flights.retain(|flight| flight.to != host);
        self.plug(host);
    }

    /// As before, with what it wrote to its disk.
    pub(super) fn restart_with_state(&mut self, host: usize, options: &Options) {
        let seed = [u8::try_from(host + 150).unwrap(); 32];
        self.hosts[host].engine = Engine::new(config(host, options), seed, self.time());
        self.flights.retain(|flight| flight.to != host);
        let (bodies, floors) = self.hosts[host].kept.clone();
        let now = self.time();
        self.hosts[host].engine.end_epochs(now, &floors);
        self.inject(host, &bodies).unwrap();
        self.plug(host);
    }

    /// Hands objects to a host's engine, as its operator does.
    pub(super) fn inject(&mut self, host: usize, bodies: &[Vec<u8>]) -> Result<Injected, InjectError> {
        let now = self.time();
        let injected = self.hosts[host].engine.inject(now, bodies);
        self.drain(host);
        injected
    }

    pub(super) fn handle(&mut self, host: usize, input: Input<'_>) {
        let now = self.time();
        self.hosts[host].engine.handle(now, input);
        self.drain(host);
    }

    fn drain(&mut self, host: usize) {
        let time = self.time();
        while let Some(output) = self.hosts[host].engine.poll_output() {
            let maps = &mut self.hosts[host].maps;
            match output {
                Output::Transmit(transmit) => {
                    let segment = usize::try_from(transmit.ifindex).unwrap();
                    assert!(transmit.payload.len() <= 1500 - 48);
                    let destination = transmit.unicast.unwrap_or(babel::GROUP);
                    for &to in &self.segments[segment] {
                        let meant = match transmit.unicast {
                            None => !self.no_multicast.contains(&(host, to)),
                            Some(unicast) => unicast == address(to) || unicast == peer_address(to, unicast),
                        };
                        if to != host && meant && !(self.loses)(host, to, self.now) {
                            self.flights.push_back(Flight {
                                arrives: self.now + self.delay,
                                to,
                                ifindex: transmit.ifindex,
                                source: transmit.source,
                                destination,
                                payload: transmit.payload.clone(),
                            });
                        }
                    }
                    let unicast = transmit.unicast;
                    self.wire.push(Sent { at: self.now, from: host, segment, unicast, payload: transmit.payload });
                }
                Output::InstallKey(key) => {
                    let adopted = AdoptedKey {
                        key_id: key.key_id,
                        origin: key.origin,
                        group: key.group,
                        epoch: key.epoch,
                        seals: key.seals,
                        not_after: key.not_after,
                    };
                    assert!(key.not_after > time.wall);
                    maps.keys.insert(key.key_id, (adopted, *key.traffic_key.expose()));
                }
                Output::Activate { group, key_id } => {
                    assert!(maps.keys[&key_id].0.seals, "activated before it was installed");
                    maps.active.insert(group, key_id);
                }
                Output::RemoveKey(key_id) => {
                    assert!(maps.keys.remove(&key_id).is_some(), "removed and never installed");
                    let seals = self.hosts[host].engine.groups().iter().any(|group| group.active_key.is_some());
                    let maps = &mut self.hosts[host].maps;
                    let active = maps.active.extract_if(.., |_, active| *active == key_id).count();
                    assert!(active == 0 || !seals, "removed while active, with another to take its place");
                }
                Output::InstallGtag { group, epoch, key } => {
                    maps.gtags.insert((group, epoch), *key.expose());
                }
                Output::RemoveGtag { group, epoch } => {
                    maps.gtags.remove(&(group, epoch));
                }
                Output::Route(route) => {
                    maps.routes.insert((route.prefix, route.source), route.action);
                }
                Output::Transit { key_id, ifindex } => {
                    maps.transit.insert(key_id, ifindex);
                }
                Output::Ban { key_id, banned, .. } => {
                    if banned {
                        maps.bans.insert(key_id)
                    } else {
                        maps.bans.remove(&key_id)
                    };
                }
                Output::Persist { at_once } => {
                    let engine = &self.hosts[host].engine;
                    if at_once {
                        self.hosts[host].kept = (engine.administration(), engine.floors());
                    }
                }
                Output::StandBy { groups, .. } => maps.standing_by = Some(groups),
                Output::Gateways(gateways) => maps.gateways = gateways,
                Output::Event(event) => self.hosts[host].events.push(event),
            }
        }
    }

    pub(super) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let flight = self.flights.front().map(|flight| flight.arrives);
            let deadlines = self.hosts.iter().enumerate().filter_map(|(n, h)| Some((h.engine.next_deadline()?, n)));
            let deadline = deadlines.min();
            let next = flight.into_iter().chain(deadline.map(|(at, _)| at)).min().filter(|&at| at <= end);
            let Some(next) = next else { break };
            self.now = self.now.max(next);
            if flight == Some(next) {
                let flight = self.flights.pop_front().unwrap();
                self.handle(
                    flight.to,
                    Input::Packet(Packet {
                        ifindex: flight.ifindex,
                        source: flight.source,
                        source_port: PORT,
                        destination: flight.destination,
                        payload: &flight.payload,
                    }),
                );
            } else if let Some((_, host)) = deadline {
                let now = self.time();
                self.hosts[host].engine.handle_timeout(now);
                self.drain(host);
            }
        }
        self.now = end;
    }

    /// Runs until `condition` holds; panics when it does not within `limit`. Returns how long it took.
    pub(super) fn run_until(&mut self, limit: Duration, condition: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now;
        while !condition(self) {
            assert!(self.now - start < limit, "not within {limit:?}");
            self.run(Duration::from_millis(10));
        }
        self.now - start
    }

    /// Whether `receiver` opens what `sender` seals now.
    pub(super) fn opens(&self, receiver: usize, sender: usize) -> bool {
        let sent = &self.hosts[sender].maps;
        sent.active.get(&group()).is_some_and(|key_id| {
            let key = self.hosts[receiver].maps.keys.get(key_id);
            key.is_some_and(|(found, traffic)| !found.seals && *traffic == sent.keys[key_id].1)
        })
    }

    pub(super) fn active(&self, host: usize) -> KeyId {
        self.hosts[host].maps.active[&group()]
    }

    pub(super) fn objects(&self, host: usize) -> u32 {
        self.hosts[host].engine.objects.digest(gem::Range::WHOLE).count
    }

    pub(super) fn tables_equal(&self) -> bool {
        let digests = self.hosts.iter().map(|host| host.engine.objects.digest(gem::Range::WHOLE));
        let digests: Vec<_> = digests.collect();
        digests.windows(2).all(|pair| pair[0] == pair[1])
    }
}

/// `n` hosts with everything on.
pub(super) fn members(n: usize) -> impl Iterator<Item = Options> {
    (0..n).map(|_| Options::default())
}
