//! Which gateways are reached, which were lost together, and when they came back.
//!
//! A gateway is reached while there is a route to it. When a link or a gateway in the middle fails, everything behind it
//! is lost at about the same time: what is lost within [`GATHER`] of one another counts as one loss. From here nobody can
//! tell a gateway that died from one that was cut off, so a loss of one is told as a lost gateway and a loss of several as
//! a partition: we are on the one side with those that are still reached, they are on the other.
//!
//! A gateway that returns leaves its loss; when all have, the partition is healed. One that is forgotten, because what it
//! announced ran out or it was revoked, is not waited for.

use crate::Engine;
use crate::output::{Event, NodeName};
use crate::time::{Instant, Now};
use crate::timer::Timer;
use crate::view::Reach;
use core::time::Duration;
use gemcast_proto::id::NodeId;
use std::collections::{BTreeMap, BTreeSet};

/// Losses within this time of one another are one; longer than Hellos of neighbours are apart.
const GATHER: Duration = Duration::from_secs(2);
/// A loss is told after this long, whatever goes on.
const GATHER_MOST: Duration = Duration::from_secs(6);

/// Gateways that were lost together.
struct Loss {
    since: Instant,
    nodes: BTreeSet<NodeId>,
    /// Those of them that are reached again, not told yet.
    returned: BTreeSet<NodeId>,
}

/// What is to be told.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Change {
    Lost(BTreeSet<NodeId>),
    Back { nodes: BTreeSet<NodeId>, away: Duration, missing: BTreeSet<NodeId> },
}

/// The losses.
#[derive(Default)]
pub(crate) struct Partitions {
    /// Lost a moment ago, not told yet.
    fresh: BTreeMap<NodeId, Instant>,
    losses: Vec<Loss>,
    /// The first change that is not told yet.
    untold_since: Option<Instant>,
}

impl Partitions {
    /// A gateway is reached from now on, or not any more. Returns when to tell.
    fn note(&mut self, now: Instant, node: NodeId, reached: bool) -> Instant {
        let loss = self.losses.iter_mut().find(|loss| loss.nodes.contains(&node));
        match (loss, reached) {
            (Some(loss), true) => drop(loss.returned.insert(node)),
            (Some(loss), false) => drop(loss.returned.remove(&node)),
            (None, true) => drop(self.fresh.remove(&node)),
            (None, false) => drop(self.fresh.entry(node).or_insert(now)),
        }
        let first = *self.untold_since.get_or_insert(now);
        (now + GATHER).min(first + GATHER_MOST)
    }

    /// What there is to tell now.
    fn tell(&mut self, now: Instant) -> Vec<Change> {
        self.untold_since = None;
        let mut changes = Vec::new();
        for loss in self.losses.iter_mut().filter(|loss| !loss.returned.is_empty()) {
            let nodes = core::mem::take(&mut loss.returned);
            loss.nodes.retain(|node| !nodes.contains(node));
            changes.push(Change::Back { nodes, away: now - loss.since, missing: loss.nodes.clone() });
        }
        self.losses.retain(|loss| !loss.nodes.is_empty());
        let fresh = core::mem::take(&mut self.fresh);
        if let Some(&since) = fresh.values().min() {
            let nodes: BTreeSet<_> = fresh.into_keys().collect();
            changes.push(Change::Lost(nodes.clone()));
            self.losses.push(Loss { since, nodes, returned: BTreeSet::new() });
        }
        changes
    }

    /// Waits no longer for those that are not known any more.
    fn retain(&mut self, known: impl Fn(NodeId) -> bool) {
        self.fresh.retain(|node, _| known(*node));
        for loss in &mut self.losses {
            loss.nodes.retain(|node| known(*node));
            loss.returned.retain(|node| known(*node));
        }
        self.losses.retain(|loss| !loss.nodes.is_empty());
    }

    /// The loss that a gateway is part of.
    fn loss_of(&self, node: NodeId) -> Option<&Loss> {
        self.losses.iter().find(|loss| loss.nodes.contains(&node) && !loss.returned.contains(&node))
    }
}

impl Engine {
    /// There is a route to a gateway from now on, or none any more.
    pub(crate) fn note_reach(&mut self, now: Now, node: NodeId, reached: bool) {
        if node != self.id {
            let at = self.partitions.note(now.mono, node, reached);
            self.timers.set(Timer::Partitions, at);
        }
    }

    /// Tells who was lost and who is back.
    pub(crate) fn tell_partitions(&mut self, now: Now) {
        self.forget_lost();
        for change in self.partitions.tell(now.mono) {
            let event = match change {
                Change::Lost(nodes) => {
                    let reached = self.nodes().iter().filter(|node| node.reach == Reach::Reached).count();
                    Event::NodesLost { nodes: self.named(&nodes), reached }
                }
                Change::Back { nodes, away, missing } => {
                    Event::NodesBack { nodes: self.named(&nodes), away, missing: self.named(&missing) }
                }
            };
            self.event(event);
        }
    }

    /// Waits no longer for gateways that are not known any more.
    pub(crate) fn forget_lost(&mut self) {
        let known: BTreeSet<NodeId> = self.objects.nodes().map(|(node, _)| *node).collect();
        self.partitions.retain(|node| known.contains(&node));
    }

    fn named(&self, nodes: &BTreeSet<NodeId>) -> Vec<NodeName> {
        let name = |node: &NodeId| {
            let keys = self.objects.nodes().find(|(id, _)| *id == node).map(|(_, keys)| keys.name.clone());
            NodeName { id: *node, name: keys.unwrap_or_default() }
        };
        nodes.iter().map(name).collect()
    }

    /// Whether a gateway is reached, and if not, since when.
    pub(crate) fn reach(&self, node: NodeId) -> Reach {
        if node == self.id {
            Reach::This
        } else if self.is_alive(node) {
            Reach::Reached
        } else if let Some(loss) = self.partitions.loss_of(node) {
            let with = loss.nodes.iter().copied().filter(|&other| other != node && !loss.returned.contains(&other));
            Reach::Lost { since: loss.since, with: with.collect() }
        } else {
            Reach::Unknown
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId([number; 8])
    }

    fn nodes<const N: usize>(numbers: [u8; N]) -> BTreeSet<NodeId> {
        numbers.map(node).into()
    }

    fn at(ms: u64) -> Instant {
        Instant(ms * 1000)
    }

    #[test]
    fn f11_what_is_lost_together_is_one_loss_and_heals_as_one() {
        let mut partitions = Partitions::default();
        assert_eq!(partitions.note(at(0), node(1), false), at(2000));
        assert_eq!(partitions.note(at(1500), node(2), false), at(3500));
        assert_eq!(partitions.tell(at(3500)), [Change::Lost(nodes([1, 2]))]);
        partitions.note(at(60_000), node(3), false);
        assert_eq!(partitions.tell(at(62_000)), [Change::Lost(nodes([3]))]);
        assert_eq!(partitions.loss_of(node(2)).map(|loss| loss.since), Some(at(0)));

        partitions.note(at(70_000), node(2), true);
        assert!(partitions.loss_of(node(2)).is_none(), "reached is reached, told or not");
        let seconds = Duration::from_secs;
        let back = |of: [u8; 1], away, missing| Change::Back { nodes: nodes(of), away, missing };
        assert_eq!(partitions.tell(at(72_000)), [back([2], seconds(72), nodes([1]))]);
        partitions.note(at(80_000), node(1), true);
        assert_eq!(partitions.tell(at(82_000)), [back([1], seconds(82), nodes([]))]);
        assert_eq!(partitions.losses.len(), 1);
    }

    #[test]
    fn f11_a_moment_without_a_route_is_no_loss_and_a_moment_with_one_no_return() {
        let mut partitions = Partitions::default();
        partitions.note(at(0), node(1), false);
        partitions.note(at(500), node(1), true);
        assert_eq!(partitions.tell(at(2500)), []);
        partitions.note(at(10_000), node(1), false);
        assert_eq!(partitions.tell(at(12_000)).len(), 1);
        partitions.note(at(20_000), node(1), true);
        partitions.note(at(20_500), node(1), false);
        assert_eq!(partitions.tell(at(22_500)), []);
    }

    #[test]
    fn f11_a_loss_is_told_however_much_goes_on() {
        let mut partitions = Partitions::default();
        let told = (0..10).map(|second| partitions.note(at(second * 1000), node(1), second % 2 == 1));
        assert_eq!(told.last(), Some(at(6000)));
    }

    #[test]
    fn f11_who_is_forgotten_is_not_waited_for() {
        let mut partitions = Partitions::default();
        partitions.note(at(0), node(1), false);
        partitions.note(at(0), node(2), false);
        partitions.tell(at(2000));
        partitions.retain(|known| known != node(1));
        assert_eq!(partitions.losses[0].nodes, nodes([2]));
        partitions.retain(|_| false);
        assert!(partitions.losses.is_empty());
    }
}
