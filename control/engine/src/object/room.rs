//! Who finds room in the table of objects when it is full, and who gives way.
//!
//! Who holds the bootstrap key makes as many identities as it likes, each with as many objects as one may have. Therefore
//! room is kept for whom this gateway has reason to prefer: its own node, administrators and who they listed before anyone
//! else, then who has been here for a while, then newcomers. When the table is full, an object of a better kind takes the
//! place of one of the worst kind there is: of the origin with the most objects, of equal ones the youngest. Among origins
//! of one kind an object finds room only while another one has at least two more, so that the two come to share what
//! there is, and what gave way is refused when it is offered again: the same objects never push each other out in turns.

use super::{Objects, Position, SKEW};
use crate::time::UnixMillis;
use core::time::Duration;
use gemcast_proto::id::NodeId;
use gemcast_proto::wire::gem::{ObjectHeader, ObjectKind};
use std::collections::BTreeSet;

/// Objects of one origin; more are refused.
pub(super) const MAX_OBJECTS_PER_ORIGIN: usize = 32_768;
/// The same of a newcomer that nobody listed, once the table is half full.
const MAX_OBJECTS_PER_NEWCOMER: usize = 4_096;
/// The same of an origin with objects that mean nothing here.
const MAX_IDLE_PER_ORIGIN: usize = 4_096;
/// The same of an origin that is not listed, where only listed ones count: it can be seen, and listed.
const MAX_OBJECTS_PER_STRANGER: usize = 16;
/// Objects of other nodes altogether; more are refused.
const MAX_OBJECTS: usize = 262_144;
/// Of these, objects that mean nothing here: of kinds that this version does not know, and what administrators made that
/// this gateway was not told of.
pub(super) const MAX_IDLE: usize = 65_536;
/// After so long here an origin is no newcomer any more.
const ESTABLISHED: Duration = Duration::from_secs(3600);

/// How far an origin is preferred, the best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) enum Standing {
    /// Our own node, an administrator that this gateway was told of, or one that is listed.
    Favoured,
    /// Known for a while.
    Established,
    /// Neither.
    #[default]
    Newcomer,
}

/// What an origin that is not favoured takes up: the greatest gives way.
pub(super) type Weight = (Standing, usize, UnixMillis, NodeId);

/// How much room there is, and for whom.
pub(super) struct Room {
    pub(super) capacity: usize,
    /// Nodes that an administrator listed, or that have the place of one.
    pub(super) listed: BTreeSet<NodeId>,
    /// Whether only those count.
    pub(super) strict: bool,
    pub(super) weights: BTreeSet<Weight>,
}

impl Default for Room {
    fn default() -> Self {
        Self { capacity: MAX_OBJECTS, listed: BTreeSet::new(), strict: false, weights: BTreeSet::new() }
    }
}

impl Objects {
    /// Tells which nodes administrators listed, and whether only those count; whether that is news.
    pub(crate) fn set_listed(&mut self, listed: BTreeSet<NodeId>, strict: bool) -> bool {
        let news = self.room.listed != listed || self.room.strict != strict;
        if news {
            (self.room.listed, self.room.strict) = (listed, strict);
            self.weigh_all();
        }
        news
    }

    /// Whether an administrator listed a node, or it has the place of one.
    pub(crate) fn is_listed(&self, node: NodeId) -> bool {
        self.room.listed.contains(&node)
    }

    /// How far an origin is preferred.
    pub(crate) fn standing(&self, origin: NodeId) -> Standing {
        if origin == self.own || self.is_administrator(origin) || self.is_listed(origin) {
            return Standing::Favoured;
        }
        self.per_origin.get(&origin).map_or(Standing::Newcomer, |origin| origin.age)
    }

    /// Time passed: newcomers that have been here for long enough are none any more.
    pub(crate) fn mature(&mut self, now: UnixMillis) {
        let grown = self.per_origin.iter_mut().filter_map(|(&id, origin)| {
            let grown = origin.age == Standing::Newcomer && now >= origin.first_seen + ESTABLISHED;
            grown.then(|| {
                origin.age = Standing::Established;
                id
            })
        });
        let grown: Vec<_> = grown.collect();
        grown.into_iter().for_each(|origin| self.weigh(origin));
        self.buried.retain(|_, stored| now <= UnixMillis(u64::from(stored.keep_until) * 1000) + SKEW);
    }

    /// The number of an origin's objects or its standing changed.
    pub(super) fn weigh(&mut self, origin: NodeId) {
        let standing = self.standing(origin);
        let Some(of_origin) = self.per_origin.get_mut(&origin) else { return };
        if let Some(before) = of_origin.weight.take() {
            self.room.weights.remove(&before);
        }
        let count = of_origin.positions.len();
        if standing != Standing::Favoured && count > 0 {
            let weight = (standing, count, of_origin.first_seen, origin);
            of_origin.weight = Some(weight);
            self.room.weights.insert(weight);
        }
    }

    pub(super) fn weigh_all(&mut self) {
        let origins: Vec<_> = self.per_origin.keys().copied().collect();
        origins.into_iter().for_each(|origin| self.weigh(origin));
    }

    /// Whether there is room for an object that is not known yet, and if something has to give way for it, what.
    pub(super) fn room_for(&self, header: &ObjectHeader) -> Option<Option<Position>> {
        let (origin, idle) = (header.name.origin, self.is_idle(header));
        let standing = self.standing(origin);
        let held = self.per_origin.get(&origin).map_or(0, |origin| origin.positions.len());
        let quota = match standing {
            // What the administrator says has to find room whatever the others did.
            Standing::Favoured if self.is_administrator(origin) => usize::MAX,
            Standing::Favoured => MAX_OBJECTS_PER_ORIGIN,
            _ if idle => MAX_IDLE_PER_ORIGIN,
            _ if self.room.strict && matches!(header.name.kind, ObjectKind::SEK | ObjectKind::LEASE) => 0,
            _ if self.room.strict => MAX_OBJECTS_PER_STRANGER,
            Standing::Newcomer if self.len() >= self.room.capacity / 2 => MAX_OBJECTS_PER_NEWCOMER,
            _ => MAX_OBJECTS_PER_ORIGIN,
        };
        if held >= quota || (idle && self.idle >= MAX_IDLE) {
            return None;
        }
        if self.len() < self.room.capacity {
            return Some(None);
        }
        let gives = self.room.weights.last().filter(|(other, count, _, id)| {
            *id != origin && (*other > standing || (*other == standing && *count > held + 1))
        });
        match gives {
            Some((.., id)) => self.least(*id).map(Some),
            None if self.is_administrator(origin) && self.len() < 2 * self.room.capacity => Some(None),
            None => None,
        }
    }

    /// What an origin gives up first: its NODE last.
    fn least(&self, origin: NodeId) -> Option<Position> {
        let positions = &self.per_origin.get(&origin)?.positions;
        let other = positions.iter().rev().find(|position| position.1.kind != ObjectKind::NODE);
        other.or(positions.last()).copied()
    }
}
