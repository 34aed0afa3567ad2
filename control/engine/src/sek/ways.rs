//! Which keys' packets are relayed, and from which side: the data plane has room for so many, and each origin its share.

use crate::Engine;
use crate::input::Ifindex;
use crate::object::Standing;
use crate::output::Output;
use gemcast_proto::id::{KeyId, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// Keys that a data plane has room for unless it says otherwise.
const ROOM: usize = 16_384;
/// Origins whose standing changed that are weighed anew in one go.
const REWEIGHED: usize = 8;

/// The keys that the data plane was told the way of.
pub(crate) struct Ways {
    room: usize,
    len: usize,
    by_origin: BTreeMap<NodeId, (Standing, BTreeSet<KeyId>)>,
    /// The greatest gives way.
    weights: BTreeSet<(Standing, usize, NodeId)>,
    /// Keys were left out.
    starved: bool,
}

impl Default for Ways {
    fn default() -> Self {
        Self { room: ROOM, len: 0, by_origin: BTreeMap::new(), weights: BTreeSet::new(), starved: false }
    }
}

impl Ways {
    /// Nothing was told yet.
    pub(super) fn clear(&mut self) {
        *self = Self { room: self.room, starved: self.starved, ..Self::default() };
    }

    fn held(&self, origin: NodeId) -> usize {
        self.by_origin.get(&origin).map_or(0, |(_, keys)| keys.len())
    }

    fn change(&mut self, origin: NodeId, standing: Standing, change: impl FnOnce(&mut BTreeSet<KeyId>)) {
        let (weighed, keys) = self.by_origin.entry(origin).or_default();
        let before = keys.len();
        self.weights.remove(&(*weighed, before, origin));
        change(keys);
        (*weighed, self.len) = (standing, self.len + keys.len() - before);
        if keys.is_empty() {
            self.by_origin.remove(&origin);
        } else {
            self.weights.insert((standing, keys.len(), origin));
        }
    }
}

impl Engine {
    /// The data plane has room for so many keys to relay.
    pub(crate) fn set_transit_room(&mut self, room: usize) {
        self.seks.ways.room = room;
    }

    /// Tells the data plane where packets under a key are relayed from, if there is room.
    pub(super) fn set_way(&mut self, key_id: KeyId, towards: Option<Ifindex>) {
        let Some(&(origin, from)) = self.seks.transit.get(&key_id) else { return };
        if self.seks.incarnation.is_none() || from == towards || (from.is_none() && !self.make_way(origin)) {
            return;
        }
        self.write_way(key_id, origin, towards);
    }

    fn write_way(&mut self, key_id: KeyId, origin: NodeId, towards: Option<Ifindex>) {
        let Some((_, from)) = self.seks.transit.get_mut(&key_id) else { return };
        *from = towards;
        self.note_way(key_id, origin, towards.is_some());
        self.outputs.push_back(Output::Transit { key_id, ifindex: towards });
    }

    /// A key has a way now, or has none.
    pub(super) fn note_way(&mut self, key_id: KeyId, origin: NodeId, has_one: bool) {
        let standing = self.objects.standing(origin);
        self.seks.ways.change(origin, standing, |keys| {
            if has_one {
                keys.insert(key_id)
            } else {
                keys.remove(&key_id)
            };
        });
    }

    /// Makes room for a key of an origin, in the way in which the table of objects does; whether there is some.
    fn make_way(&mut self, origin: NodeId) -> bool {
        if self.seks.ways.len < self.seks.ways.room {
            return true;
        }
        self.seks.ways.starved = true;
        let (standing, held) = (self.objects.standing(origin), self.seks.ways.held(origin));
        for _ in 0..REWEIGHED {
            let Some(&(weighed, count, other)) = self.seks.ways.weights.last() else { return false };
            let now = self.objects.standing(other);
            if now != weighed {
                self.seks.ways.change(other, now, |_| {});
                continue;
            }
            let gives = other != origin && (now > standing || (now == standing && count > held + 1));
            let least = self.seks.ways.by_origin.get(&other).and_then(|(_, keys)| keys.first().copied());
            let Some(least) = least.filter(|_| gives) else { return false };
            self.write_way(least, other, None);
            return true;
        }
        false
    }

    /// Keys that were left out find room, if there is some now.
    pub(crate) fn fill_ways(&mut self) {
        if !self.seks.ways.starved || self.seks.ways.len >= self.seks.ways.room {
            return;
        }
        self.seks.ways.starved = false;
        let without = self.seks.transit.iter().filter(|(_, (_, from))| from.is_none());
        let without: Vec<_> = without.map(|(&key_id, (origin, _))| (key_id, *origin)).collect();
        for (key_id, origin) in without {
            let towards = self.relays_from(origin);
            self.set_way(key_id, towards);
        }
    }
}
