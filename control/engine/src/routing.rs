//! What Babel does with its route table: takes updates and requests, selects, tells the kernel, tells the neighbours
//! (RFC 8966 §3.5 – §3.8).

use crate::Engine;
use crate::config::{Babel, PrefixRule};
use crate::input::{Ifindex, Originated};
use crate::interface::{Interface, Message};
use crate::neighbour::Neighbour;
use crate::object::Objects;
use crate::output::{Event, Output, Route as KernelRoute, RouteAction};
use crate::rate::Limit;
use crate::receive::centiseconds;
use crate::route::{Destination, Distance, Known, Learnt, Route, Routes, Selected};
use crate::seqno::Requests;
use crate::sync::{BATCH, NeighbourKey};
use crate::time::{Instant, Now, UnixMillis};
use crate::timer::Timer;
use crate::view::RouteView;
use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;
use gemcast_proto::id::NodeId;
use gemcast_proto::wire::babel::{Announcement, INFINITY, Prefix, Seqno, Tlv};
use gemcast_proto::wire::gem::{ObjectKind, ObjectName};
use std::collections::BTreeMap;

/// Prefix of node routes: every gateway announces `fd67:656d:6361:7374:<node id>`, which tells the others by which way it
/// is reached. They are no routes of the kernel's.
const NODE_PREFIX: [u8; 8] = [0xfd, b'g', b'e', b'm', b'c', b'a', b's', b't'];
/// A change of metric that is told before the next periodic update: half a wired hop.
const METRIC_CHANGE: u16 = 48;
/// Transmissions of an update whose loss would hurt: a retraction, another origin, an awaited seqno.
pub(crate) const URGENT_SENDS: u8 = 3;
/// Full tables sent to one neighbour on request.
const DUMPS: Limit = Limit { interval: Duration::from_secs(2), burst: 2 };
/// Requests about single routes of one neighbour that are answered.
pub(crate) const ROUTE_REQUESTS: Limit = Limit { interval: Duration::from_millis(2), burst: 500 };
/// A gateway whose routes arrive is expected to be heard of in GEM objects within this time.
const OBJECTS_EXPECTED: Duration = Duration::from_secs(15);
/// How often that is checked, and old sources are forgotten.
pub(crate) const HOUSEKEEPING: Duration = Duration::from_secs(10);

/// Babel's state beyond links.
pub(crate) struct Routing {
    pub(crate) table: Routes,
    /// Destinations we announce as our own, with their metric.
    pub(crate) own: BTreeMap<Destination, u16>,
    pub(crate) seqno: Seqno,
    pub(crate) requests: Requests,
    /// What the kernel was told.
    kernel: BTreeMap<Destination, RouteAction>,
    /// Gateways with routes and without objects: since when, and whether that was reported.
    unheard: BTreeMap<NodeId, (Instant, bool)>,
}

impl Routing {
    pub(crate) fn new(id: NodeId, wall: UnixMillis) -> Self {
        // The seqno advances once in 8 s with the wall clock, which is faster than requests make it advance: after a
        // restart without state it is newer than the last one, for three days of absence.
        let seqno = Seqno(u16::try_from(wall.0 / 8000 % 0x1_0000).expect("16 bits"));
        Self {
            table: Routes::default(),
            own: BTreeMap::from([(node_route(id), 0)]),
            seqno,
            requests: Requests::default(),
            kernel: BTreeMap::new(),
            unheard: BTreeMap::new(),
        }
    }
}

/// The destination that stands for a gateway.
pub(crate) fn node_route(id: NodeId) -> Destination {
    let mut octets = [0; 16];
    octets[..8].copy_from_slice(&NODE_PREFIX);
    octets[8..].copy_from_slice(&id.0);
    Destination { prefix: Prefix::host(IpAddr::from(octets)), source: None }
}

/// The gateway that a destination stands for.
pub(crate) fn node_of(destination: Destination) -> Option<NodeId> {
    let IpAddr::V6(address) = destination.prefix.address() else { return None };
    let octets = address.octets();
    let (prefix, id) = octets.split_first_chunk::<8>()?;
    let node = destination.prefix.len() == 128 && destination.source.is_none() && *prefix == NODE_PREFIX;
    node.then(|| NodeId(id.try_into().expect("the other 8 of 16 bytes")))
}

/// Whether a prefix may be routed at all.
fn is_routable(prefix: Prefix) -> bool {
    let whole = prefix.len() == 0;
    match prefix.address() {
        IpAddr::V4(v4) => whole || !(v4.is_loopback() || v4.is_multicast() || v4.is_link_local()),
        IpAddr::V6(v6) => whole || !(v6.is_loopback() || v6.is_multicast() || v6.is_unicast_link_local()),
    }
}

fn accepts(rules: &[PrefixRule], destination: Destination) -> bool {
    let decisive = rules.iter().find(|rule| rule.within.covers(&destination.prefix));
    node_of(destination).is_some() || decisive.is_none_or(|rule| rule.accept)
}

/// Whether the settings allow a route to be learnt.
fn admits(settings: &Babel, destination: Destination, next_hop: Option<IpAddr>) -> bool {
    let via_ipv6 = destination.prefix.is_ipv4() && next_hop.is_some_and(|hop| hop.is_ipv6());
    let known = destination.source.is_none() || settings.source_specific;
    known && (!via_ipv6 || settings.ipv4_via_ipv6) && accepts(&settings.import, destination)
}

/// Where an update is written for.
pub(crate) struct Egress<'a> {
    pub(crate) ifindex: Ifindex,
    pub(crate) next_hop_v6: Ipv6Addr,
    pub(crate) next_hop_v4: Option<core::net::Ipv4Addr>,
    pub(crate) wireless: bool,
    pub(crate) settings: &'a Babel,
    pub(crate) id: NodeId,
    /// Centiseconds.
    pub(crate) interval: u16,
    /// Whether neighbours there may hold the destination through us.
    pub(crate) announced: bool,
}

impl Routing {
    /// The update that describes a destination now; `None` when there is nothing to say by that interface.
    pub(crate) fn announcement(&self, destination: Destination, egress: &Egress<'_>) -> Option<Announcement> {
        let next_hop = if !destination.prefix.is_ipv4() {
            Some(IpAddr::V6(egress.next_hop_v6))
        } else if let Some(ipv4) = egress.next_hop_v4 {
            Some(IpAddr::V4(ipv4))
        } else {
            egress.settings.ipv4_via_ipv6.then_some(IpAddr::V6(egress.next_hop_v6))
        };
        let retraction = Announcement {
            prefix: Some(destination.prefix),
            source: destination.source,
            // A retraction needs neither (§4.6.9), but FRR's babeld refuses packets where one comes without.
            router_id: Some(egress.id),
            next_hop,
            interval: egress.interval,
            seqno: Seqno(0),
            metric: INFINITY,
        };
        let Some(next_hop) = next_hop.filter(|_| accepts(&egress.settings.export, destination)) else {
            // What was announced before the settings changed is taken back.
            return egress.announced.then_some(retraction);
        };
        if let Some(&metric) = self.own.get(&destination) {
            return Some(Announcement { next_hop: Some(next_hop), seqno: self.seqno, metric, ..retraction });
        }
        let selected = self.table.entries.get(&destination).and_then(|entry| entry.selected);
        let Some(selected) = selected else { return Some(retraction) };
        // §3.7.4: on a link where everyone hears everyone, nobody needs the route back that came from there. What was
        // announced before it came from there, is taken back.
        if selected.neighbour.0 == egress.ifindex && !egress.wireless {
            return egress.announced.then_some(retraction);
        }
        let (router_id, next_hop) = (Some(selected.router_id), Some(next_hop));
        Some(Announcement { router_id, next_hop, seqno: selected.seqno, metric: selected.metric, ..retraction })
    }
}

impl Engine {
    /// The prefixes that are ours.
    pub(crate) fn originate(&mut self, now: Now, prefixes: Vec<Originated>) {
        let own = prefixes.into_iter().filter(|own| is_routable(own.prefix)).map(|own| {
            let destination = Destination { prefix: own.prefix, source: own.source };
            (destination, own.metric.min(INFINITY - 1))
        });
        let own: BTreeMap<_, _> = own.chain([(node_route(self.id), 0)]).collect();
        let old = core::mem::replace(&mut self.routing.own, own);
        let new = self.routing.own.iter().filter(|(destination, metric)| old.get(destination) != Some(metric));
        let new: Vec<_> = new.map(|(destination, _)| *destination).collect();
        let gone: Vec<_> = old.into_keys().filter(|destination| !self.routing.own.contains_key(destination)).collect();
        for destination in new {
            self.reselect(now, destination);
            self.trigger(now, destination, 1);
        }
        for destination in gone {
            self.reselect(now, destination);
            self.trigger(now, destination, URGENT_SENDS);
        }
    }

    /// An Update TLV, resolved.
    pub(crate) fn process_update(&mut self, now: Now, key: NeighbourKey, update: Announcement) {
        let lifetime = centiseconds(update.interval) * 7 / 2;
        let Some(prefix) = update.prefix else { return self.retract_all(now, key) };
        let destination = Destination { prefix, source: update.source };
        if !is_routable(prefix) || !admits(&self.config.babel, destination, update.next_hop) {
            return;
        }
        if update.router_id == Some(self.id) && update.metric != INFINITY {
            // An echo of ours. A newer seqno than ours is one from before we lost our state.
            if self.routing.own.contains_key(&destination) && update.seqno.is_newer_than(self.routing.seqno) {
                self.advance_seqno(now, update.seqno.next());
            }
            return;
        }
        let distance = Distance { seqno: update.seqno, metric: update.metric };
        let (router_id, next_hop) = match (update.router_id, update.next_hop) {
            (Some(router_id), Some(next_hop)) => (router_id, next_hop),
            // Only a retraction lacks them, and it needs them not.
            _ => (NodeId::default(), IpAddr::V6(key.1)),
        };
        let route = Route { router_id, distance, next_hop, lifetime, expires: now.mono + lifetime };
        let (learnt, unfeasible) = self.routing.table.learn(now.mono, destination, key, route);
        self.counters.unfeasible_updates += u64::from(unfeasible);
        self.counters.refused_routes += u64::from(learnt == Learnt::Refused);
        self.timers.set_by(Timer::Routes, now.mono + lifetime);
        if matches!(learnt, Learnt::Changed | Learnt::Refused) {
            self.reselect(now, destination);
        }
        if unfeasible && learnt != Learnt::Refused {
            self.ask_for_feasibility(now, destination, key, router_id, distance.metric);
        }
        if distance.metric != INFINITY && self.routing.requests.satisfy(destination, router_id, distance.seqno) {
            self.trigger(now, destination, URGENT_SENDS);
        }
    }

    /// §3.8.2.2: an unfeasible route would be better than what we have: its source is asked for a newer seqno.
    fn ask_for_feasibility(
        &mut self,
        now: Now,
        destination: Destination,
        key: NeighbourKey,
        router_id: NodeId,
        refmetric: u16,
    ) {
        let cost = self.cost_of(key);
        let metric = crate::route::metric(cost, refmetric);
        let selected = self.routing.table.entries.get(&destination).and_then(|entry| entry.selected);
        let better = selected.is_none_or(|selected| selected.neighbour == key || metric < selected.metric);
        if metric != INFINITY && better && !self.routing.own.contains_key(&destination) {
            self.request_seqno(now, destination, router_id, key);
        }
    }

    /// The settings are others now. What neighbours announced and may not any more is forgotten, and what they may now is
    /// asked for; what we may not announce any more is retracted, and what we may now is announced.
    pub(crate) fn refilter(&mut self, now: Now, old: &Babel) {
        let new = &self.config.babel;
        let learning = |babel: &Babel| (babel.import.clone(), babel.source_specific, babel.ipv4_via_ipv6);
        if learning(old) != learning(new) {
            let all: Vec<_> = self.routing.table.entries.keys().copied().collect();
            let keep =
                |destination: Destination| move |known: &Known| admits(new, destination, Some(known.route.next_hop));
            let table = &mut self.routing.table;
            let refused = all.into_iter().filter(|&destination| table.retain(destination, keep(destination)));
            let refused: Vec<_> = refused.collect();
            refused.into_iter().for_each(|destination| self.reselect(now, destination));
            let up: Vec<_> = self.neighbours.iter().filter(|(_, one)| one.is_up()).map(|(key, _)| *key).collect();
            for key in up {
                let all = Message::Tlv(Tlv::RouteRequest { prefix: None, source: None, via_v6: false });
                self.push(key.0, Some(key.1), all, now.mono);
            }
        }
        let announcing = |babel: &Babel| (babel.export.clone(), babel.ipv4_via_ipv6);
        let new = &self.config.babel;
        if announcing(old) != announcing(new) {
            let via_ipv6 = old.ipv4_via_ipv6 != new.ipv4_via_ipv6;
            let all = self.routing.own.keys().chain(self.routing.table.entries.keys());
            let changed = all.filter(|&&destination| {
                let v4 = destination.prefix.is_ipv4();
                via_ipv6 && v4 || accepts(&old.export, destination) != accepts(&new.export, destination)
            });
            let changed: Vec<_> = changed.copied().collect();
            for destination in changed {
                self.trigger(now, destination, URGENT_SENDS);
            }
        }
    }

    /// A wildcard retraction: everything that a neighbour announced is unreachable.
    fn retract_all(&mut self, now: Now, key: NeighbourKey) {
        for destination in self.routing.table.through(key) {
            self.routing.table.entries.get_mut(&destination).expect("listed").retract(key);
            self.reselect(now, destination);
        }
    }

    /// A neighbour is gone, and its routes with it.
    pub(crate) fn lose_routes(&mut self, now: Now, key: NeighbourKey) {
        for destination in self.routing.table.through(key) {
            self.routing.table.forget(destination, key);
            self.reselect(now, destination);
        }
    }

    /// Cost of the link to a neighbour.
    pub(crate) fn cost_of(&self, key: NeighbourKey) -> u16 {
        cost(&self.neighbours, &self.interfaces, &self.config.babel, key)
    }

    /// The cost of a link may have changed: all routes over it are weighed anew.
    pub(crate) fn apply_cost(&mut self, now: Now, key: NeighbourKey) {
        let cost = self.cost_of(key);
        let Some(neighbour) = self.neighbours.get_mut(&key) else { return };
        let old = core::mem::replace(&mut neighbour.applied_cost, cost);
        if old != cost {
            for destination in self.routing.table.through(key) {
                self.reselect(now, destination);
            }
        }
    }

    /// Selects the route of a destination anew, and does what follows from a change.
    pub(crate) fn reselect(&mut self, now: Now, destination: Destination) {
        let own = self.routing.own.contains_key(&destination);
        let cost = |key| cost(&self.neighbours, &self.interfaces, &self.config.babel, key);
        let best = if own { None } else { self.routing.table.best(destination, cost) };
        let unfeasible = if own { None } else { self.routing.table.best_unfeasible(destination, cost) };
        let Some(entry) = self.routing.table.entries.get_mut(&destination) else { return };
        let old = core::mem::replace(&mut entry.selected, best);
        let lost = old.is_some() && best.is_none() && !own;
        if lost {
            let hold = self.config.update_interval * 7 / 2;
            entry.unreachable_until = Some(now.mono + hold);
            self.timers.set_by(Timer::Routes, now.mono + hold);
        } else if best.is_some() || own || entry.unreachable_until.is_some_and(|until| until <= now.mono) {
            entry.unreachable_until = None;
        }
        let unreachable = entry.unreachable_until.is_some();
        if entry.routes.is_empty() && !unreachable {
            self.routing.table.entries.remove(&destination);
        }
        self.tell_kernel(destination, best, unreachable);
        if let Some(node) = node_of(destination).filter(|_| old.is_some() != best.is_some()) {
            self.note_reach(now, node, best.is_some());
        }
        if best.is_some() {
            self.routing.requests.forget(destination);
        }
        match significance(old, best) {
            0 => {}
            _ if own => {}
            sends => self.trigger(now, destination, sends),
        }
        if let Some((neighbour, router_id)) = unfeasible.filter(|_| lost) {
            // §3.8.2.1: starved of feasible routes.
            self.request_seqno(now, destination, router_id, neighbour);
        }
        if let Some(node) = node_of(destination).filter(|_| old.map(|s| s.neighbour.0) != best.map(|s| s.neighbour.0)) {
            self.steer_transit(node);
        }
    }

    fn tell_kernel(&mut self, destination: Destination, best: Option<Selected>, unreachable: bool) {
        if node_of(destination).is_some() {
            return;
        }
        let action = match best {
            Some(Selected { next_hop, neighbour, metric, .. }) => {
                let on_link = neighbour.1.is_unicast_link_local();
                RouteAction::Install { next_hop, ifindex: neighbour.0, metric, on_link }
            }
            None if unreachable => RouteAction::Unreachable,
            None => RouteAction::Withdraw,
        };
        let told = if action == RouteAction::Withdraw {
            self.routing.kernel.remove(&destination).is_some()
        } else {
            self.routing.kernel.insert(destination, action) != Some(action)
        };
        if told {
            let Destination { prefix, source } = destination;
            self.outputs.push_back(Output::Route(KernelRoute { prefix, source, action }));
        }
    }

    /// A triggered update by every interface (§3.7.2).
    pub(crate) fn trigger(&mut self, now: Now, destination: Destination, sends: u8) {
        for interface in self.interfaces.values_mut() {
            interface.updates.add(destination, sends, now.mono + BATCH);
        }
    }

    /// Everything there is to announce; same origins together, which compresses better.
    pub(crate) fn send_table(&mut self, now: Instant, ifindex: Ifindex, to: Option<Ipv6Addr>) {
        let routing = &self.routing;
        let own = routing.own.keys().map(|destination| (self.id, *destination));
        let learnt = routing.table.entries.iter().filter(|(destination, _)| !routing.own.contains_key(destination));
        let learnt = learnt.filter_map(|(destination, entry)| match entry.selected {
            Some(selected) => Some((selected.router_id, *destination)),
            None => entry.unreachable_until.map(|_| (NodeId::default(), *destination)),
        });
        let mut all: Vec<_> = own.chain(learnt).collect();
        all.sort_unstable();
        for (_, destination) in all {
            self.push(ifindex, to, Message::Update(destination), now);
        }
    }

    /// A Route Request TLV (§3.8.1.1).
    pub(crate) fn process_route_request(&mut self, now: Now, key: NeighbourKey, destination: Option<Destination>) {
        let Some(neighbour) = self.neighbours.get_mut(&key) else { return };
        match destination {
            None if neighbour.dumps.take(now.mono, DUMPS) => self.send_table(now.mono, key.0, Some(key.1)),
            Some(destination) if neighbour.route_requests.take(now.mono, ROUTE_REQUESTS) => {
                self.push(key.0, Some(key.1), Message::Update(destination), now.mono);
            }
            _ => {}
        }
    }

    /// Takes a newer seqno for our own routes and tells everyone.
    pub(crate) fn advance_seqno(&mut self, now: Now, seqno: Seqno) {
        self.routing.seqno = seqno;
        let own: Vec<_> = self.routing.own.keys().copied().collect();
        for destination in own {
            self.trigger(now, destination, 1);
        }
    }

    pub(crate) fn expire_routes(&mut self, now: Now) {
        let (changed, next) = self.routing.table.expire(now.mono);
        for destination in changed {
            self.reselect(now, destination);
        }
        if let Some(at) = next {
            self.timers.set_by(Timer::Routes, at);
        }
    }

    /// Forgets old sources, and looks for gateways that are reachable but unheard of: somewhere on the way a router
    /// passes routes and drops GEM TLVs.
    pub(crate) fn housekeep(&mut self, now: Now) {
        self.timers.set(Timer::Housekeeping, now.mono + HOUSEKEEPING);
        self.routing.table.sources.expire(now.mono);
        self.forget_lost();
        self.age_bans(now);
        self.objects.mature(now.wall);
        self.fill_ways();
        let reachable = self.routing.table.entries.iter().filter(|(_, entry)| entry.selected.is_some());
        let nodes: Vec<_> = reachable.filter_map(|(destination, _)| node_of(*destination)).collect();
        let unheard = &mut self.routing.unheard;
        unheard.retain(|node, _| nodes.contains(node) && !knows(&self.objects, *node));
        let mut missing = Vec::new();
        for node in nodes.into_iter().filter(|node| !knows(&self.objects, *node)) {
            let (since, reported) = unheard.entry(node).or_insert((now.mono, false));
            if now.mono - *since >= OBJECTS_EXPECTED && !*reported {
                *reported = true;
                missing.push(node);
            }
        }
        missing.into_iter().for_each(|node| self.alarm(now, Event::ObjectsMissing { node }));
    }

    /// Interface by which a gateway is reached.
    pub(crate) fn interface_towards(&self, node: NodeId) -> Option<Ifindex> {
        let entry = self.routing.table.entries.get(&node_route(node))?;
        entry.selected.map(|selected| selected.neighbour.0)
    }

    /// Time between the periodic updates of an interface.
    pub(crate) fn update_interval(&self, ifindex: Ifindex) -> Duration {
        let own = self.interfaces.get(&ifindex).and_then(|interface| interface.info.settings.update_interval);
        own.unwrap_or(self.config.update_interval)
    }

    /// The route table, own routes first.
    pub fn routes(&self) -> Vec<RouteView> {
        let own = self.routing.own.iter().map(|(destination, &metric)| RouteView {
            prefix: destination.prefix,
            source: destination.source,
            router_id: self.id,
            neighbour: None,
            next_hop: None,
            seqno: self.routing.seqno.0,
            refmetric: 0,
            metric,
            selected: true,
            feasible: true,
        });
        let learnt = self.routing.table.entries.iter().flat_map(|(&destination, entry)| {
            entry.routes.iter().map(move |&Known { neighbour, route, .. }| RouteView {
                prefix: destination.prefix,
                source: destination.source,
                router_id: route.router_id,
                neighbour: Some(neighbour),
                next_hop: Some(route.next_hop),
                seqno: route.distance.seqno.0,
                refmetric: route.distance.metric,
                metric: crate::route::metric(self.cost_of(neighbour), route.distance.metric),
                selected: entry.selected.is_some_and(|selected| selected.neighbour == neighbour),
                feasible: self.routing.table.sources.is_feasible(destination, route.router_id, route.distance),
            })
        });
        own.chain(learnt).collect()
    }
}

/// Cost of the link to a neighbour.
fn cost(
    neighbours: &BTreeMap<NeighbourKey, Neighbour>,
    interfaces: &BTreeMap<Ifindex, Interface>,
    settings: &Babel,
    key: NeighbourKey,
) -> u16 {
    let own = interfaces.get(&key.0).and_then(|interface| interface.info.settings.delay);
    neighbours.get(&key).map_or(INFINITY, |neighbour| neighbour.cost(own.unwrap_or(settings.delay)))
}

fn knows(objects: &Objects, node: NodeId) -> bool {
    objects.get(&ObjectName { origin: node, kind: ObjectKind::NODE, id: 0 }).is_some()
}

/// How often a change of selection is to be told before the next periodic update.
fn significance(old: Option<Selected>, new: Option<Selected>) -> u8 {
    match (old, new) {
        (None, None) => 0,
        (None, Some(_)) => 1,
        (Some(_), None) => URGENT_SENDS,
        (Some(old), Some(new)) if old.router_id != new.router_id => URGENT_SENDS,
        (Some(old), Some(new)) => {
            u8::from(old.neighbour.0 != new.neighbour.0 || old.metric.abs_diff(new.metric) >= METRIC_CHANGE)
        }
    }
}
