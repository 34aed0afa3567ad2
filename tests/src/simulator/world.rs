//! The world: hosts, links, one clock, and the order of events that a seed decides.

use super::byzantine::PORT;
use super::faults::Faults;
use super::host::{Host, Maps, config, group, prefix_of, seed_of};
use super::shape::Shape;
use core::cmp::Reverse;
use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;
use gemcast_engine::Engine;
use gemcast_engine::config::Config;
use gemcast_engine::input::{HeardGateway, Ifindex, Input, Interface, Originated, Packet, Segment};
use gemcast_engine::output::{RouteAction, Transmit};
use gemcast_engine::time::{Instant, Now, UnixMillis};
use gemcast_engine::view::SyncState;
use gemcast_proto::id::{KeyId, NodeId};
use gemcast_proto::wire::babel::{self, Tlv};
use gemcast_proto::wire::gem::{self, ObjectKind, ObjectName};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use std::collections::{BTreeMap, BinaryHeap};
use std::rc::Rc;

/// Wall clock at the start of every world.
const START_MS: u64 = 1_800_000_000_000;
/// How often a story's condition is looked at, and loops are looked for.
const TICK: Duration = Duration::from_millis(20);

/// A link and its members.
struct Link {
    members: Vec<usize>,
    faults: Faults,
    cut: bool,
}

/// What happens next.
enum Event {
    /// A packet arrives at a host.
    Arrive { to: usize, ifindex: Ifindex, source: Ipv6Addr, destination: Ipv6Addr, payload: Rc<[u8]> },
    /// A host's deadline, if it is still the one it was when this was noted.
    Wake { host: usize, at: Instant },
}

/// Where packets to a destination end up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Path {
    Arrives,
    Ends,
    Circle,
}

/// What links carried.
#[derive(Clone, Default, Debug)]
pub struct Traffic {
    /// Packets sent.
    pub packets: u64,
    /// Their bytes, without UDP and IP headers.
    pub bytes: u64,
    /// SEK objects of each link, by name, with how often each was sent.
    pub seks: BTreeMap<usize, BTreeMap<ObjectName, u32>>,
    /// GEM objects of any kind.
    pub objects: u64,
}

/// The world.
pub struct World {
    now: Instant,
    /// The gateways.
    pub hosts: Vec<Host>,
    links: Vec<Link>,
    /// Hosts on one LAN, and whether it carries something.
    lan: Vec<usize>,
    /// Traffic since it was last reset.
    pub traffic: Traffic,
    /// Whether forwarding loops are looked for all the time. Babel promises that there are none, unless a node forgot
    /// what it had announced.
    pub watch_loops: bool,
    /// Changes the configuration of every host that starts.
    pub tune: fn(&mut Config),
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    events: BTreeMap<u64, Event>,
    sequence: u64,
    pub(super) rng: ChaCha8Rng,
    /// Every sealing key there ever was.
    pub(super) sealing: BTreeMap<KeyId, (NodeId, [u8; 32])>,
    /// Packets that were ever sealed with each key.
    pub(super) sealed: BTreeMap<KeyId, u64>,
}

impl World {
    /// A world of this shape in which everybody is a member, and nobody up yet.
    pub fn new(shape: &Shape, seed: u64) -> Self {
        Self::with_relays(shape, seed, &[])
    }

    /// The same with some hosts that are no members.
    pub fn with_relays(shape: &Shape, seed: u64, relays: &[usize]) -> Self {
        let links =
            shape.links.iter().map(|members| Link { members: members.clone(), faults: Faults::default(), cut: false });
        Self {
            now: Instant(1_000_000),
            hosts: (0..shape.hosts).map(|host| Host::new(!relays.contains(&host))).collect(),
            links: links.collect(),
            lan: Vec::new(),
            traffic: Traffic::default(),
            watch_loops: true,
            tune: |_| (),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            rng: ChaCha8Rng::seed_from_u64(seed),
            sealing: BTreeMap::new(),
            sealed: BTreeMap::new(),
        }
    }

    /// Link-local address of a host.
    pub fn address_of(&self, host: usize) -> Ipv6Addr {
        address(host)
    }

    /// Time on a host's clocks.
    pub fn time(&self, host: usize) -> Now {
        let wall = (START_MS + self.now.0 / 1000).saturating_add_signed(self.hosts[host].clock_ahead_ms);
        Now { mono: self.now, wall: UnixMillis(wall) }
    }

    /// The wall clock of someone outside whose clock is right.
    pub(super) fn true_time(&self) -> UnixMillis {
        UnixMillis(START_MS + self.now.0 / 1000)
    }

    /// Time since the world began.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Everybody starts, within the first second.
    pub fn start(&mut self) {
        for host in 0..self.hosts.len() {
            self.start_host(host);
            if self.hosts.len() <= 100 {
                let pause = Duration::from_micros(self.rng.next_u64() % 10_000);
                self.run(pause);
            }
        }
    }

    /// A host comes up, with the data plane that it has.
    pub fn start_host(&mut self, host: usize) {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let now = self.time(host);
        let Host { member, captured, .. } = self.hosts[host];
        let mut config = config(host, member, captured);
        (self.tune)(&mut config);
        let engine = Engine::new(config, seed, now);
        self.hosts[host].id = engine.node_id();
        self.hosts[host].engine = Some(engine);
        self.hosts[host].starts += 1;
        let (kept, floors) = self.hosts[host].kept.clone();
        if let Some(engine) = self.hosts[host].engine.as_mut().filter(|_| !captured) {
            engine.end_epochs(now, &floors);
            self.inject(host, &kept);
        }
        if self.hosts[host].maps.incarnation == 0 {
            self.hosts[host].maps.incarnation = self.rng.next_u64() | 1;
        }
        for link in 0..self.links.len() {
            if self.links[link].members.contains(&host) {
                let info = Interface {
                    ifindex: ifindex(link),
                    name: format!("wan{link}"),
                    link_local: address(host),
                    ipv4: None,
                    addresses: vec![],
                    mtu: 1500,
                    wireless: false,
                    settings: Default::default(),
                };
                self.handle(host, Input::InterfaceUp(info));
            }
        }
        let maps = &self.hosts[host].maps;
        let (incarnation, keys) = (maps.incarnation, maps.keys.values().map(|(key, _)| *key).collect());
        self.handle(host, Input::DataPlaneUp { incarnation, keys });
        // What is not wanted any more goes.
        let wanted = self.epochs(host);
        self.hosts[host].maps.gtags.retain(|(_, epoch), _| wanted.contains(&epoch.0));
        let own = Originated { prefix: prefix_of(host), source: None, metric: 0 };
        self.handle(host, Input::Originate(vec![own]));
        if self.lan.contains(&host) {
            self.handle(host, Input::Segment(Some(segment(host))));
        }
    }

    /// These hosts share a LAN from when they start, or from now on.
    pub fn share_lan(&mut self, hosts: &[usize]) {
        self.lan = hosts.to_vec();
        hosts.iter().for_each(|&host| self.handle(host, Input::Segment(Some(segment(host)))));
    }

    /// Hosts of the shared LAN that forward the group.
    pub fn forwarders(&self) -> Vec<usize> {
        self.lan.iter().copied().filter(|&host| self.hosts[host].maps.forwards).collect()
    }

    /// What a second of the group's traffic tells the hosts of the shared LAN of each other.
    pub fn hear_on_lan(&mut self) {
        let forwarders = self.forwarders();
        for host in self.lan.clone() {
            let known = &self.hosts[host].maps.gateways;
            let others = forwarders.iter().filter(|&&other| other != host && known.contains(&mac(other)));
            let conflict = forwarders.contains(&host);
            let heard: Vec<_> = others.map(|&other| HeardGateway { mac: mac(other), conflict }).collect();
            if !heard.is_empty() {
                self.handle(host, Input::GatewaysHeard(heard));
            }
        }
    }

    /// The control process of a host dies. Its state is lost; its maps stay.
    pub fn kill_control(&mut self, host: usize) {
        self.hosts[host].engine = None;
        self.hosts[host].maps.routes.clear();
    }

    /// A host loses power: everything is lost, its disk included.
    pub fn crash(&mut self, host: usize) {
        self.kill_control(host);
        self.hosts[host].maps = Maps::default();
        self.hosts[host].kept = Default::default();
    }

    /// A host makes a new key.
    pub fn rotate(&mut self, host: usize) {
        self.handle(host, Input::RotateSek(group()));
    }

    /// All links behave like this.
    pub fn faults_everywhere(&mut self, faults: Faults) {
        self.links.iter_mut().for_each(|link| link.faults = faults);
    }

    /// Links between the two sides carry nothing. A link with members on both sides is cut as a whole.
    pub fn split(&mut self, side: &[usize]) {
        for link in &mut self.links {
            let inside = link.members.iter().filter(|member| side.contains(member)).count();
            link.cut = inside != 0 && inside != link.members.len();
        }
    }

    /// One link carries nothing.
    pub fn cut(&mut self, link: usize) {
        self.links[link].cut = true;
    }

    /// All links carry again.
    pub fn heal(&mut self) {
        self.links.iter_mut().for_each(|link| link.cut = false);
    }

    pub(super) fn handle(&mut self, host: usize, input: Input<'_>) {
        let now = self.time(host);
        let Some(engine) = &mut self.hosts[host].engine else { return };
        engine.handle(now, input);
        self.drain(host);
    }

    /// Carries out what a host wants, and notes its next deadline.
    pub(super) fn drain(&mut self, host: usize) {
        while let Some(output) = self.hosts[host].engine.as_mut().and_then(Engine::poll_output) {
            if let Some(transmit) = self.hosts[host].apply(output, &mut self.sealing) {
                self.transmit(host, transmit);
            }
        }
        if let Some(at) = self.hosts[host].engine.as_ref().and_then(Engine::next_deadline) {
            self.schedule(at.max(self.now), Event::Wake { host, at });
        }
    }

    fn schedule(&mut self, at: Instant, event: Event) {
        self.sequence += 1;
        self.events.insert(self.sequence, event);
        self.queue.push(Reverse((at, self.sequence)));
    }

    fn transmit(&mut self, host: usize, transmit: Transmit) {
        assert!(transmit.payload.len() <= 1500 - 48, "a packet exceeds the MTU");
        let Transmit { ifindex, unicast, payload, .. } = transmit;
        let link = usize::try_from(ifindex).expect("small") - 1;
        let payload = match self.hosts[host].byzantine {
            Some(byzantine) => byzantine.lie(&mut self.rng, seed_of(host), address(host), unicast, payload),
            None => payload,
        };
        self.account(link, &payload);
        if self.links[link].cut {
            return;
        }
        let faults = self.links[link].faults;
        for to in self.links[link].members.clone() {
            if to == host || unicast.is_some_and(|unicast| unicast != address(to)) {
                continue;
            }
            for delay in faults.copies(&mut self.rng) {
                let mut payload = payload.clone();
                faults.damage(&mut self.rng, &mut payload);
                let destination = unicast.unwrap_or(babel::GROUP);
                let arrive = Event::Arrive { to, ifindex, source: address(host), destination, payload: payload.into() };
                self.schedule(self.now + delay, arrive);
            }
        }
    }

    fn account(&mut self, link: usize, payload: &[u8]) {
        self.traffic.packets += 1;
        self.traffic.bytes += payload.len() as u64;
        let Ok(packet) = babel::Packet::parse(payload) else { return };
        for tlv in packet.body().flatten().filter_map(|raw| Tlv::parse(raw).ok()) {
            if let Tlv::Other(raw) = tlv
                && let (gem::OBJECT, Ok(object)) = (raw.kind, gem::Object::parse(raw.body))
            {
                self.traffic.objects += 1;
                if object.header.name.kind == ObjectKind::SEK {
                    *self.traffic.seks.entry(link).or_default().entry(object.header.name).or_default() += 1;
                }
            }
        }
    }

    /// Lets time pass.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(&Reverse((at, sequence))) = self.queue.peek()
            && at <= end
        {
            self.queue.pop();
            self.now = at;
            match self.events.remove(&sequence).expect("queued with its event") {
                Event::Arrive { to, ifindex, source, destination, payload } => {
                    let packet = Packet { ifindex, source, source_port: PORT, destination, payload: &payload };
                    self.handle(to, Input::Packet(packet));
                }
                Event::Wake { host, at } => self.wake(host, at),
            }
        }
        self.now = end;
    }

    fn wake(&mut self, host: usize, at: Instant) {
        let now = self.time(host);
        let Some(engine) = &mut self.hosts[host].engine else { return };
        if engine.next_deadline() == Some(at) {
            engine.handle_timeout(now);
            let next = engine.next_deadline();
            assert!(next.is_none_or(|next| next > self.now), "a deadline that was handled is due again: {next:?}");
            self.drain(host);
            self.hosts[host].check();
        }
    }

    /// Runs until `condition` holds, and returns how long that took.
    ///
    /// # Panics
    /// When it does not hold within `limit`.
    pub fn eventually(&mut self, limit: Duration, what: &str, condition: impl Fn(&Self) -> bool) -> Duration {
        let start = self.now;
        while !condition(self) {
            assert!(self.now - start < limit, "not within {limit:?}: {what}\n{}", self.report());
            self.run(TICK);
            self.look_for_loops();
        }
        self.now - start
    }

    /// Who lacks what, for a failed story.
    fn report(&self) -> String {
        use core::fmt::Write as _;
        let mut report = format!("at {:?}:", self.now);
        for host in self.up() {
            let closed = self.up().filter(|&sender| sender != host && !self.opens(host, sender));
            let away = self.up().filter(|&to| !self.follow(host, to));
            let (closed, away): (Vec<_>, Vec<_>) = (closed.collect(), away.collect());
            let engine = self.engine(host);
            let _ = write!(
                report,
                "\nhost {host} does not open {closed:?}, does not reach {away:?}; {} nodes",
                engine.nodes().len()
            );
            for neighbour in engine.neighbours() {
                let other = host_of(neighbour.address);
                let _ = write!(
                    report,
                    "\n  link {} to {other}: up {}, cost {}, {:?}",
                    neighbour.ifindex, neighbour.up, neighbour.cost, neighbour.sync
                );
            }
        }
        report
    }

    /// Lets time pass while `condition` holds all along.
    ///
    /// # Panics
    /// When it does not.
    pub fn always(&mut self, duration: Duration, what: &str, condition: impl Fn(&Self) -> bool) {
        let end = self.now + duration;
        while self.now < end {
            self.run(TICK);
            self.look_for_loops();
            assert!(condition(self), "at {:?} no longer: {what}", self.now);
        }
    }

    fn look_for_loops(&self) {
        if self.watch_loops {
            for origin in 0..self.hosts.len() {
                for from in 0..self.hosts.len() {
                    let path = self.path(from, origin);
                    assert!(path != Path::Circle, "packets from host {from} to host {origin} run in a circle");
                }
            }
        }
    }

    /// Whether packets from a host reach another's prefix.
    pub fn follow(&self, from: usize, origin: usize) -> bool {
        self.path(from, origin) == Path::Arrives
    }

    fn path(&self, from: usize, origin: usize) -> Path {
        let mut at = from;
        for _ in 0..=self.hosts.len() {
            if at == origin {
                return Path::Arrives;
            }
            match self.hosts[at].maps.routes.get(&prefix_of(origin)) {
                Some(RouteAction::Install { next_hop: IpAddr::V6(hop), .. }) => at = host_of(*hop),
                _ => return Path::Ends,
            }
        }
        Path::Circle
    }

    /// Hosts that are up.
    pub fn up(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.hosts.len()).filter(|&host| self.hosts[host].engine.is_some())
    }

    /// Whether `receiver` opens what `sender` seals now.
    pub fn opens(&self, receiver: usize, sender: usize) -> bool {
        let sent = &self.hosts[sender].maps;
        sent.active.get(&group()).is_some_and(|key_id| {
            let key = self.hosts[receiver].maps.keys.get(key_id);
            key.is_some_and(|(found, traffic)| !found.seals && *traffic == sent.keys[key_id].1)
        })
    }

    /// Whether all of these members open what all of these seal.
    pub fn all_open(&self, hosts: &[usize]) -> bool {
        let members = || hosts.iter().copied().filter(|&host| self.hosts[host].member);
        members().all(|sender| members().all(|receiver| sender == receiver || self.opens(receiver, sender)))
    }

    /// Whether everybody who is up reaches everybody.
    pub fn all_reach(&self) -> bool {
        self.up().all(|from| self.up().all(|to| self.follow(from, to)))
    }

    /// The same, by ways that do not use a link.
    pub fn all_reach_without(&self, link: usize) -> bool {
        let avoids = |host: usize| {
            let mut routes = self.hosts[host].maps.routes.values();
            routes.all(|route| !matches!(route, RouteAction::Install { ifindex: by, .. } if *by == ifindex(link)))
        };
        self.links[link].members.iter().all(|&member| avoids(member)) && self.all_reach()
    }

    /// Whether each neighbour's digest equals the other's, everywhere.
    pub fn all_synchronised(&self) -> bool {
        self.up().all(|host| {
            let neighbours = self.engine(host).neighbours();
            !neighbours.is_empty() && neighbours.iter().all(|neighbour| neighbour.sync == SyncState::Equal)
        })
    }

    /// Numbers of all hosts.
    pub fn everyone(&self) -> Vec<usize> {
        (0..self.hosts.len()).collect()
    }

    /// Engine of a host that is up.
    ///
    /// # Panics
    /// When it is down.
    pub fn engine(&self, host: usize) -> &Engine {
        self.hosts[host].engine.as_ref().expect("the host is up")
    }

    /// Key that a host seals with.
    pub fn active(&self, host: usize) -> Option<KeyId> {
        self.hosts[host].maps.active.get(&group()).copied()
    }

    /// Node id of a host that was started.
    pub fn id(&self, host: usize) -> NodeId {
        self.hosts[host].id
    }

    /// Host number of a node id.
    pub fn host_with(&self, id: NodeId) -> Option<usize> {
        self.hosts.iter().position(|host| host.id == id)
    }

    /// Forgets the traffic so far.
    pub fn reset_traffic(&mut self) {
        self.traffic = Traffic::default();
    }
}

/// The LAN of a host that shares it.
fn segment(host: usize) -> Segment {
    Segment { name: "studio".into(), priority: 100, peers: Default::default(), macs: vec![mac(host)], up: true }
}

fn mac(host: usize) -> [u8; 6] {
    let [high, low] = u16::try_from(host).expect("at most 65,535 hosts").to_be_bytes();
    [2, 0, 0, 0, high, low]
}

fn ifindex(link: usize) -> Ifindex {
    Ifindex::try_from(link + 1).expect("few links")
}

fn address(host: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, u16::try_from(host + 1).expect("at most 65,535 hosts"))
}

fn host_of(address: Ipv6Addr) -> usize {
    usize::from(address.segments()[7]) - 1
}
