//! What follows from a neighbour's coming, silence and return: routes, peers, and what the operator is told.

use crate::Engine;
use crate::detector::{Change, State};
use crate::input::Ifindex;
use crate::neighbour::Neighbour;
use crate::output::{Carried, Event};
use crate::route::{Destination, Entry};
use crate::routing::node_of;
use crate::sync::NeighbourKey;
use crate::time::Now;
use gemcast_proto::id::NodeId;
use std::collections::BTreeSet;

impl Engine {
    /// A neighbour is heard, for the first time or again.
    pub(crate) fn neighbour_up(&mut self, now: Now, key: NeighbourKey) {
        let Some(neighbour) = self.neighbours.get_mut(&key) else { return };
        neighbour.up_since = now.mono;
        let before = neighbour.detector.heard();
        let (ifindex, address) = key;
        match before {
            State::Dead(since) => self.event(Event::NeighbourBack { ifindex, address, away: Some(now.mono - since) }),
            _ => self.event(Event::NeighbourUp { ifindex, address }),
        }
        if let Some(interface) = self.interfaces.get_mut(&ifindex) {
            interface.deserted_since = None;
        }
        self.peer_answers(key);
        self.adjacency_returned(now, key);
    }

    /// A Hello of a neighbour that is up was taken in.
    pub(crate) fn clear_suspicion(&mut self, now: Now, key: NeighbourKey) {
        let Some(neighbour) = self.neighbours.get_mut(&key) else { return };
        if neighbour.detector.is_cleared_by(neighbour.missed()) {
            neighbour.detector.heard();
            neighbour.carried = BTreeSet::new();
            if core::mem::take(&mut neighbour.suspicion_told) {
                let (ifindex, address) = key;
                self.event(Event::NeighbourBack { ifindex, address, away: None });
            }
            self.apply_cost(now, key);
        }
    }

    /// A neighbour owes something, or something of it has run out.
    pub(crate) fn neighbour_timeout(&mut self, now: Now, key: NeighbourKey) {
        let Some(neighbour) = self.neighbours.get_mut(&key) else { return };
        let repeated = neighbour.freshness.repeat(now.mono);
        let change = neighbour.handle_timeout(now.mono, &self.config.detection);
        let calm = neighbour.detector.calm(now.mono, &self.config.detection);
        match change {
            Some(Change::Forgotten) => return self.neighbour_gone(now, key),
            Some(Change::Suspect) => self.neighbour_suspect(now, key),
            Some(Change::Dead { flapping }) => self.neighbour_dead(now, key, flapping),
            None => {}
        }
        if calm {
            self.event(Event::NeighbourCalm { ifindex: key.0, address: key.1 });
        }
        if let Some(nonce) = repeated {
            self.send_challenge(now, key, nonce);
        }
        self.retry_comparison(now, key);
        self.review_path(now, key);
        self.apply_cost(now, key);
    }

    fn neighbour_suspect(&mut self, now: Now, key: NeighbourKey) {
        let carried = self.carried_by(key);
        let Some(neighbour) = self.neighbours.get_mut(&key) else { return };
        neighbour.carried = carried;
        neighbour.suspicion_told = neighbour.detector.tells(now.mono);
        if neighbour.suspicion_told {
            let missed = neighbour.missed();
            let of = self.config.detection.dead_threshold.into();
            self.event(Event::NeighbourSuspect { ifindex: key.0, address: key.1, missed, of });
        }
    }

    /// A neighbour was silent for too long. Nothing goes by it any more. What it announced and proved stays for a while,
    /// should it return. A peer is tried again.
    fn neighbour_dead(&mut self, now: Now, key: NeighbourKey, flapping: bool) {
        let (ifindex, address) = key;
        let mut carried = self.carried_by(key);
        let Some(neighbour) = self.neighbours.get_mut(&key) else { return };
        neighbour.suspicion_told = false;
        carried.append(&mut core::mem::take(&mut neighbour.carried));
        let missed = neighbour.missed();
        let (deaths, calm_after) = (neighbour.detector.deaths(), neighbour.detector.calm_after());
        self.apply_cost(now, key);
        let moved = self.consequence(&carried, true);
        let lost = self.consequence(&carried, false);
        self.event(Event::NeighbourDead { ifindex, address, missed, moved, lost });
        if flapping {
            self.event(Event::NeighbourFlapping { ifindex, address, deaths, calm_after });
        }
        self.neighbour_away(now, key);
    }

    /// A neighbour is not kept any longer: silent beyond its grace, or out of reach with an interface or address of ours.
    pub(crate) fn neighbour_gone(&mut self, now: Now, key: NeighbourKey) {
        self.lose_routes(now, key);
        let state = self.neighbours.get(&key).map(|neighbour| neighbour.detector.state());
        if self.neighbours.get(&key).is_some_and(Neighbour::is_up) {
            self.neighbour_away(now, key);
        }
        self.neighbours.remove(&key);
        let banned = self.bans.neighbours.is_banned(&key);
        if let Some(state) = state.filter(|state| *state != State::Unproven && !banned) {
            let silent = matches!(state, State::Dead(_));
            self.event(Event::NeighbourForgotten { ifindex: key.0, address: key.1, silent });
        }
    }

    fn neighbour_away(&mut self, now: Now, key: NeighbourKey) {
        self.peer_silent(now, key);
        let others = self.neighbours.range(crate::neighbours_of(key.0));
        let deserted = !others.filter(|(other, _)| **other != key).any(|(_, other)| other.is_up());
        if let Some(interface) = self.interfaces.get_mut(&key.0).filter(|_| deserted) {
            interface.deserted_since.get_or_insert(now.mono);
        }
    }

    /// What is reached by way of a neighbour.
    fn carried_by(&self, key: NeighbourKey) -> BTreeSet<Destination> {
        let by_it = |entry: &Entry| entry.selected.is_some_and(|selected| selected.neighbour == key);
        let entries = self.routing.table.entries.iter();
        entries.filter(|(_, entry)| by_it(entry)).map(|(destination, _)| *destination).collect()
    }

    /// Of what was reached by way of a neighbour: what is reached another way now, or not any more.
    fn consequence(&self, carried: &BTreeSet<Destination>, reached: bool) -> Carried {
        let is_reached = |destination: &Destination| {
            let entry = self.routing.table.entries.get(destination);
            self.routing.own.contains_key(destination) || entry.is_some_and(|entry| entry.selected.is_some())
        };
        let meant: Vec<_> = carried.iter().filter(|one| is_reached(one) == reached).collect();
        let nodes: BTreeSet<_> = meant.iter().filter_map(|destination| node_of(**destination)).collect();
        let keys = self.keys().into_iter().filter(|key| nodes.contains(&key.origin));
        let groups: BTreeSet<_> = keys.map(|key| key.group).collect();
        Carried { groups: groups.len(), nodes: nodes.len(), routes: meant.len() - nodes.len() }
    }

    /// Whether a gateway is reached: by a route to it that is in use. We are, always.
    pub fn is_alive(&self, node: NodeId) -> bool {
        node == self.id || self.interface_towards(node).is_some()
    }

    /// Interfaces on which neighbours were up and none is any more, with the time since when.
    pub fn deserted(&self) -> impl Iterator<Item = (Ifindex, crate::time::Instant)> + '_ {
        self.interfaces.iter().filter_map(|(&ifindex, interface)| Some((ifindex, interface.deserted_since?)))
    }
}
