//! The election itself: who forwards which group on a LAN, and when a gateway starts and stops.
//!
//! Every gateway computes the winner of each group from the same candidates, so nobody has to be told. Among those of the
//! highest priority each group goes to the one with the highest hash over node, segment and group (rendezvous hashing):
//! the load is shared, and who leaves or joins moves no group but its own.

use crate::time::Instant;
use core::time::Duration;
use gemcast_proto::id::{Group, NodeId};
use ring::digest::{SHA256, digest};
use std::collections::{BTreeMap, BTreeSet};

/// How long a gateway that takes a group from a living one waits for it to hear of it and stop: a batch of flooded objects
/// and the way. Nothing is forwarded meanwhile, so nothing is forwarded twice.
pub(crate) const HANDOVER: Duration = Duration::from_millis(300);

/// A gateway that can forward on the LAN.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Candidate {
    pub(crate) node: NodeId,
    pub(crate) priority: u8,
}

/// Who forwards a group.
pub(crate) fn winner(segment: &[u8; 32], group: &Group, candidates: &[Candidate]) -> Option<NodeId> {
    let weight = |node: NodeId| {
        let hash = digest(&SHA256, &[&node.0[..], segment, &group.to_bytes()].concat());
        u64::from_be_bytes(*hash.as_ref().first_chunk().expect("SHA-256 has 32 bytes"))
    };
    let best = candidates.iter().map(|candidate| candidate.priority).max()?;
    let nodes = candidates.iter().filter(|candidate| candidate.priority == best).map(|candidate| candidate.node);
    nodes.max_by_key(|&node| (weight(node), node))
}

/// What the elections so far brought.
#[derive(Default)]
pub(crate) struct Roles {
    /// Winner of each group.
    pub(crate) winners: BTreeMap<Group, NodeId>,
    /// Groups that are ours.
    forwarding: BTreeSet<Group>,
    /// Groups that will be: who is to let go of each, and when it has had the time for it.
    starting: BTreeMap<Group, (NodeId, Instant)>,
}

impl Roles {
    /// Elects anew. Groups that go to another are let go at once; groups that come from another who is still a candidate
    /// are taken up after [`HANDOVER`], all others at once. `counts`: whether a candidate can have a group. A group that
    /// nobody can have stays where it was.
    pub(crate) fn elect(
        &mut self,
        now: Instant,
        own: NodeId,
        segment: &[u8; 32],
        groups: impl Iterator<Item = Group>,
        candidates: &[Candidate],
        counts: impl Fn(NodeId, &Group) -> bool,
    ) {
        let winner = |group: &Group| {
            let able: Vec<_> = candidates.iter().filter(|candidate| counts(candidate.node, group)).copied().collect();
            winner(segment, group, &able).or_else(|| self.winners.get(group).copied())
        };
        let winners: BTreeMap<_, _> = groups.filter_map(|group| Some((group, winner(&group)?))).collect();
        let ours = |group: &Group| winners.get(group) == Some(&own);
        self.forwarding.retain(ours);
        self.starting.retain(|group, _| ours(group));
        for &group in winners.keys().filter(|group| ours(group)) {
            if self.forwarding.contains(&group) {
                continue;
            }
            let waiting = self.starting.remove(&group);
            let from = waiting.map(|(from, _)| from).or_else(|| self.winners.get(&group).copied());
            let from = from.filter(|&from| from != own && candidates.iter().any(|candidate| candidate.node == from));
            match from {
                Some(from) => {
                    let at = waiting.map_or(now + HANDOVER, |(_, at)| at);
                    self.starting.insert(group, (from, at));
                }
                None => drop(self.forwarding.insert(group)),
            }
        }
        self.winners = winners;
    }

    /// Takes up the groups whose time has come; whether there are any.
    pub(crate) fn advance(&mut self, now: Instant) -> bool {
        let before = self.forwarding.len();
        self.forwarding.extend(self.starting.extract_if(.., |_, (_, at)| *at <= now).map(|(group, _)| group));
        self.forwarding.len() > before
    }

    /// When [`Roles::advance`] is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.starting.values().map(|(_, at)| *at).min()
    }

    /// Whether a group is ours to forward now.
    pub(crate) fn forwards(&self, group: &Group) -> bool {
        self.forwarding.contains(group)
    }

    /// Number of groups that are ours to forward now.
    pub(crate) fn forwarded(&self) -> usize {
        self.forwarding.len()
    }
}

#[cfg(test)]
mod tests;
