//! The route table: what neighbours announce, what of it is feasible, what is selected (RFC 8966 §3.2, §3.5, §3.6).
//!
//! This part knows no packets and no timers: it takes announcements, costs and times, and says which route a destination
//! has. What follows from a change, for the kernel and for the neighbours, is in `routing`.

use crate::sync::NeighbourKey;
use crate::time::Instant;
use core::net::IpAddr;
use core::time::Duration;
use gemcast_proto::id::NodeId;
use gemcast_proto::wire::babel::{INFINITY, Prefix, Seqno};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;

/// Destinations; announcements of further ones are refused.
const MAX_DESTINATIONS: usize = 65_536;
/// Neighbours whose route to one destination is kept.
const MAX_ROUTES_PER_DESTINATION: usize = 64;
/// Routes of one neighbour; further ones are refused, so that none fills the table alone.
const MAX_ROUTES_PER_NEIGHBOUR: usize = MAX_DESTINATIONS / 2;
/// Sources whose best distance is remembered; routes of further ones are refused.
const MAX_SOURCES: usize = 2 * MAX_DESTINATIONS;
/// A source that nothing was announced of is forgotten after this long (RFC 8966 appendix B).
const SOURCE_LIFETIME: Duration = Duration::from_secs(180);

/// What a route leads to: a prefix, possibly only for packets from a source prefix (RFC 9079).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Destination {
    pub(crate) prefix: Prefix,
    pub(crate) source: Option<Prefix>,
}

/// How good an announcement is, for comparison with others of the same source (§3.5.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Distance {
    pub(crate) seqno: Seqno,
    pub(crate) metric: u16,
}

impl Distance {
    /// Strictly better: a newer seqno, or the same and a smaller metric.
    pub(crate) fn is_better_than(self, other: Self) -> bool {
        self.seqno.is_newer_than(other.seqno) || (self.seqno == other.seqno && self.metric < other.metric)
    }
}

/// A route as one neighbour announced it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    pub(crate) router_id: NodeId,
    pub(crate) distance: Distance,
    pub(crate) next_hop: IpAddr,
    pub(crate) lifetime: Duration,
    pub(crate) expires: Instant,
}

impl Route {
    /// Whether the other one differs in nothing but how long it is good.
    fn is_renewed_by(&self, other: &Self) -> bool {
        self.distance == other.distance && self.router_id == other.router_id && self.next_hop == other.next_hop
    }
}

/// A route in the table.
#[derive(Clone, Copy)]
pub(crate) struct Known {
    pub(crate) neighbour: NeighbourKey,
    pub(crate) route: Route,
    /// Whether it was feasible when it was announced last.
    feasible: bool,
}

/// Everything about one destination.
#[derive(Default)]
pub(crate) struct Entry {
    /// One of each neighbour, in their order.
    pub(crate) routes: Vec<Known>,
    pub(crate) selected: Option<Selected>,
    /// Lost at some time: announced as unreachable, and refused by the kernel, until then.
    pub(crate) unreachable_until: Option<Instant>,
}

impl Entry {
    /// Where a neighbour's route is, or would be.
    fn place(&self, neighbour: NeighbourKey) -> Result<usize, usize> {
        self.routes.binary_search_by_key(&neighbour, |known| known.neighbour)
    }

    /// A neighbour announced that it has no route any more, or has to be taken at that.
    pub(crate) fn retract(&mut self, neighbour: NeighbourKey) {
        if let Ok(place) = self.place(neighbour) {
            self.routes[place].route.distance.metric = INFINITY;
        }
    }
}

/// The route in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Selected {
    pub(crate) neighbour: NeighbourKey,
    pub(crate) router_id: NodeId,
    pub(crate) seqno: Seqno,
    pub(crate) metric: u16,
    pub(crate) next_hop: IpAddr,
}

/// The best distance ever announced by us for each source: no route that is not better can make a loop.
#[derive(Default)]
pub(crate) struct Sources(BTreeMap<(Destination, NodeId), (Distance, Instant)>);

impl Sources {
    /// §3.5.1.
    pub(crate) fn is_feasible(&self, destination: Destination, router_id: NodeId, distance: Distance) -> bool {
        distance.metric == INFINITY
            || self.0.get(&(destination, router_id)).is_none_or(|(best, _)| distance.is_better_than(*best))
    }

    /// §3.7.3: an update is about to be sent.
    pub(crate) fn announced(&mut self, now: Instant, destination: Destination, router_id: NodeId, distance: Distance) {
        if distance.metric == INFINITY {
            return;
        }
        let expires = now + SOURCE_LIFETIME;
        let source = self.0.entry((destination, router_id)).or_insert((distance, expires));
        source.1 = expires;
        if distance.is_better_than(source.0) {
            source.0 = distance;
        }
    }

    /// Whether there is no room for another source.
    fn is_full_for(&self, destination: Destination, router_id: NodeId) -> bool {
        self.0.len() >= MAX_SOURCES && !self.0.contains_key(&(destination, router_id))
    }

    /// The seqno that makes a route of this source feasible again (§3.8.2.1).
    pub(crate) fn next_seqno(&self, destination: Destination, router_id: NodeId) -> Option<Seqno> {
        self.0.get(&(destination, router_id)).map(|(best, _)| best.seqno.next())
    }

    pub(crate) fn expire(&mut self, now: Instant) {
        self.0.retain(|_, (_, expires)| *expires > now);
    }
}

/// What became of an announcement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Learnt {
    /// Stored, or removed: the destination is to be selected anew.
    Changed,
    /// What is stored is good for longer; nothing else is new.
    Renewed,
    /// Not stored, of no consequence.
    Ignored,
    /// There is no room for it. What the neighbour announced before is not usable any more.
    Refused,
}

/// The table.
#[derive(Default)]
pub(crate) struct Routes {
    pub(crate) entries: BTreeMap<Destination, Entry>,
    pub(crate) sources: Sources,
    /// Routes of each neighbour that has any.
    per_neighbour: BTreeMap<NeighbourKey, usize>,
}

impl Routes {
    /// §3.5.3: an announcement of a neighbour. `unfeasible` tells the caller that it was.
    pub(crate) fn learn(
        &mut self,
        now: Instant,
        destination: Destination,
        neighbour: NeighbourKey,
        route: Route,
    ) -> (Learnt, bool) {
        let feasible = self.sources.is_feasible(destination, route.router_id, route.distance);
        let retracts = route.distance.metric == INFINITY;
        let full = self.entries.len() >= MAX_DESTINATIONS;
        let forgettable = !retracts && self.sources.is_full_for(destination, route.router_id);
        let over_quota =
            forgettable || self.per_neighbour.get(&neighbour).is_some_and(|&count| count >= MAX_ROUTES_PER_NEIGHBOUR);
        let entry = match self.entries.entry(destination) {
            Slot::Occupied(entry) => entry.into_mut(),
            Slot::Vacant(_) if retracts => return (Learnt::Ignored, false),
            Slot::Vacant(_) if full || over_quota => return (Learnt::Refused, !feasible),
            Slot::Vacant(slot) => slot.insert(Entry::default()),
        };
        let place = match entry.place(neighbour) {
            Ok(place) => place,
            Err(_) if retracts => return (Learnt::Ignored, false),
            Err(_) if over_quota || entry.routes.len() >= MAX_ROUTES_PER_DESTINATION => {
                return (Learnt::Refused, !feasible);
            }
            // An unfeasible one is kept, too: it is what to ask a newer seqno for when nothing else is left.
            Err(place) => {
                entry.routes.insert(place, Known { neighbour, route, feasible });
                *self.per_neighbour.entry(neighbour).or_default() += 1;
                return (if feasible { Learnt::Changed } else { Learnt::Ignored }, !feasible);
            }
        };
        let known = &mut entry.routes[place];
        let selected = entry.selected.is_some_and(|selected| selected.neighbour == neighbour);
        if selected && !feasible && known.route.router_id == route.router_id {
            // It MAY be ignored; the route stays until it expires or a newer seqno comes.
            return (Learnt::Ignored, true);
        }
        if forgettable {
            // What its source announces next could not be judged, and what it announced before is no more.
            known.route.distance.metric = INFINITY;
            return (Learnt::Refused, false);
        }
        let renewed = known.route.is_renewed_by(&route) && known.feasible == feasible;
        if retracts {
            known.route.distance.metric = INFINITY;
            known.route.expires = now + known.route.lifetime;
        } else {
            known.route = route;
        }
        known.feasible = feasible;
        (if renewed { Learnt::Renewed } else { Learnt::Changed }, !feasible)
    }

    /// §3.6: the best of the feasible routes; among equals the selected one, then the first.
    pub(crate) fn best(&self, destination: Destination, cost: impl Fn(NeighbourKey) -> u16) -> Option<Selected> {
        let entry = self.entries.get(&destination)?;
        let current = entry.selected.map(|selected| selected.neighbour);
        let usable = entry.routes.iter().filter_map(|&Known { neighbour, route, .. }| {
            let metric = metric(cost(neighbour), route.distance.metric);
            let feasible = self.sources.is_feasible(destination, route.router_id, route.distance);
            let selected = Selected {
                neighbour,
                router_id: route.router_id,
                seqno: route.distance.seqno,
                metric,
                next_hop: route.next_hop,
            };
            (metric != INFINITY && feasible).then_some(selected)
        });
        usable.min_by_key(|route| (route.metric, Some(route.neighbour) != current, route.neighbour))
    }

    /// The best of the routes that are reachable but not feasible.
    pub(crate) fn best_unfeasible(
        &self,
        destination: Destination,
        cost: impl Fn(NeighbourKey) -> u16,
    ) -> Option<(NeighbourKey, NodeId)> {
        let entry = self.entries.get(&destination)?;
        let reachable = entry.routes.iter().filter_map(|&Known { neighbour, route, .. }| {
            let metric = metric(cost(neighbour), route.distance.metric);
            (metric != INFINITY).then_some((metric, neighbour, route.router_id))
        });
        reachable.min().map(|(_, neighbour, router_id)| (neighbour, router_id))
    }

    /// Routes that were not renewed: first unreachable, then gone (§3.5.3). Returns the destinations concerned, and when
    /// to look again.
    pub(crate) fn expire(&mut self, now: Instant) -> (Vec<Destination>, Option<Instant>) {
        let (mut changed, mut next) = (Vec::new(), None);
        for (&destination, entry) in &mut self.entries {
            let before = entry.routes.len();
            let mut lost = false;
            entry.routes.retain_mut(|Known { neighbour, route, .. }| {
                if route.expires > now {
                    return true;
                }
                let flush = route.distance.metric == INFINITY;
                route.distance.metric = INFINITY;
                route.expires = now + route.lifetime;
                lost |= !flush;
                if flush {
                    discount(&mut self.per_neighbour, *neighbour);
                }
                !flush
            });
            if lost || entry.routes.len() != before || entry.unreachable_until.is_some_and(|until| until <= now) {
                changed.push(destination);
            }
            let expiries = entry.routes.iter().map(|known| known.route.expires).chain(entry.unreachable_until);
            next = crate::earliest(next, expiries.filter(|&at| at > now).min());
        }
        (changed, next)
    }

    /// A neighbour's route is of no use to anybody.
    pub(crate) fn forget(&mut self, destination: Destination, neighbour: NeighbourKey) {
        self.retain(destination, |known| known.neighbour != neighbour);
    }

    /// Forgets routes of a destination that are not to be kept. Returns whether there were any.
    pub(crate) fn retain(&mut self, destination: Destination, keep: impl Fn(&Known) -> bool) -> bool {
        let Some(entry) = self.entries.get_mut(&destination) else { return false };
        let before = entry.routes.len();
        entry.routes.retain(|known| {
            let kept = keep(known);
            if !kept {
                discount(&mut self.per_neighbour, known.neighbour);
            }
            kept
        });
        entry.routes.len() != before
    }

    /// Destinations that a neighbour announced.
    pub(crate) fn through(&self, neighbour: NeighbourKey) -> Vec<Destination> {
        let through = self.entries.iter().filter(|(_, entry)| entry.place(neighbour).is_ok());
        through.map(|(destination, _)| *destination).collect()
    }
}

fn discount(per_neighbour: &mut BTreeMap<NeighbourKey, usize>, neighbour: NeighbourKey) {
    if let Some(count) = per_neighbour.get_mut(&neighbour) {
        *count -= 1;
        if *count == 0 {
            per_neighbour.remove(&neighbour);
        }
    }
}

/// §3.5.2: additive, and infinite when a part is.
pub(crate) fn metric(cost: u16, refmetric: u16) -> u16 {
    cost.saturating_add(refmetric)
}

#[cfg(test)]
mod tests;
