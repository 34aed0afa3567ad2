//! Bans that bind the whole domain: signed votes, and the quorum that makes a decision of them.
//!
//! Every vote is an object of its voter and spreads like any other, so that all tables hold the same votes after a while
//! and everyone counts to the same result. More than half of all members must have voted: of all that are on the roster, or
//! where there is none of all that are known, the unreachable ones included until they run out. So of two sides of a
//! partition at most one can decide. Who cannot reach more than half has no quorum: it neither votes nor takes votes back
//! until it does, and keeps to what was decided before. The administrator needs no quorum: see REVOKE.
//!
//! Where there is no roster, whoever holds the bootstrap key can be as many nodes as it likes, and votes would be its to
//! give. There they count only if the configuration says so.

use crate::Engine;
use crate::ban::BanError;
use crate::config::Membership;
use crate::output::Event;
use crate::time::{Instant, Now, UnixMillis};
use crate::view::{Culprit, Quorum};
use core::time::Duration;
use gemcast_proto::id::NodeId;
use gemcast_proto::wire::gem::vote::{Reason, VotePayload};
use gemcast_proto::wire::gem::{ObjectHeader, ObjectKind, ObjectName};
use std::collections::{BTreeMap, BTreeSet};

/// Validity of a lasting vote; it is made anew halfway.
const VOTE_LIFETIME: Duration = Duration::from_secs(24 * 3600);

impl Engine {
    /// Members, and how many of them are reached.
    pub fn quorum(&self) -> Quorum {
        let members = self.members();
        let seats = self.objects.nodes().map(|(node, _)| *node).filter(|node| self.is_alive(*node));
        let reached: BTreeSet<_> = seats.filter_map(|node| self.seat(node)).collect();
        let count = |set: &BTreeSet<NodeId>| u32::try_from(set.len()).unwrap_or(u32::MAX);
        Quorum { members: count(&members), reached: count(&reached.intersection(&members).copied().collect()) }
    }

    /// Who has a vote, one for each member: whether or not it is reached, or there already.
    fn members(&self) -> BTreeSet<NodeId> {
        let members: BTreeSet<_> = match self.config.membership {
            Membership::Roster => self.listed().collect(),
            Membership::Open => self.objects.nodes().filter_map(|(node, _)| self.seat(*node)).collect(),
        };
        members.into_iter().filter(|node| !self.objects.is_revoked(*node)).collect()
    }

    /// Whose vote a node gives: its own, or that of the node whose place it took.
    fn seat(&self, node: NodeId) -> Option<NodeId> {
        match self.config.membership {
            Membership::Roster => self.listed_as(node),
            Membership::Open => {
                // An administrator is an origin and no gateway: it has no key to agree on.
                self.objects.node(node).filter(|keys| keys.agreement_key != [0; 32]).map(|_| node)
            }
        }
    }

    /// Valid votes: culprit, and who voted against it.
    pub(crate) fn votes(&self, now: UnixMillis) -> BTreeMap<NodeId, BTreeSet<NodeId>> {
        let mut votes = BTreeMap::<_, BTreeSet<_>>::new();
        for stored in self.objects.votes().filter(|stored| !stored.header.tombstone && now <= stored.not_after()) {
            if let Some(seat) = self.seat(stored.header.name.origin) {
                votes.entry(NodeId(stored.header.name.id.to_be_bytes())).or_default().insert(seat);
            }
        }
        votes
    }

    /// Nodes that more than half of the members voted against.
    pub(crate) fn condemned(&self, now: UnixMillis) -> BTreeSet<NodeId> {
        if !self.config.policy.obey_votes {
            return BTreeSet::new();
        }
        let votes = self.votes(now);
        if votes.is_empty() {
            return BTreeSet::new();
        }
        let members = self.members();
        let decided = |voters: &BTreeSet<NodeId>| voters.intersection(&members).count() * 2 > members.len();
        votes.into_iter().filter(|(_, voters)| decided(voters)).map(|(culprit, _)| culprit).collect()
    }

    /// A vote came in, from a neighbour.
    pub(crate) fn learn_vote(&mut self, now: Now, header: &ObjectHeader) {
        let (voter, culprit) = (header.name.origin, NodeId(header.name.id.to_be_bytes()));
        self.timers.set_by(crate::timer::Timer::Bans, now.mono + crate::gak::GATHER);
        if voter != self.id {
            let (votes, members) = (self.votes(now.wall), self.members().len());
            let votes = votes.get(&culprit).map_or(0, BTreeSet::len);
            self.alarm(now, Event::Voted { voter, culprit, withdrawn: header.tombstone, votes, members });
        } else if !header.tombstone && culprit != self.id && !self.bans.nodes.is_banned(&culprit) {
            // Our own word from before a restart.
            let stored = self.objects.get(&header.name).and_then(|stored| VotePayload::parse(stored.payload()).ok());
            let Some(vote) = stored else { return };
            let left = Duration::from_millis((u64::from(header.not_after) * 1000).saturating_sub(now.wall.0));
            let until = (!vote.lasting).then(|| now.mono + left);
            self.bans.nodes.ban(now.mono, culprit, until);
            self.bans.voted.insert(culprit);
        }
    }

    /// An operator wants a node banned everywhere.
    pub fn vote(&mut self, now: Now, culprit: NodeId, lasts: Option<Duration>) -> Result<(), BanError> {
        let quorum = self.quorum();
        if !quorum.is_there() {
            return Err(BanError::NoQuorum(quorum));
        }
        self.ban(now, Culprit::Node(culprit), lasts)?;
        self.bans.voted.insert(culprit);
        self.tend_votes(now);
        self.review_bans(now);
        Ok(())
    }

    /// Makes our votes what our bans are, as far as there is a quorum to tell.
    pub(crate) fn tend_votes(&mut self, now: Now) {
        self.bans.voted.retain(|culprit| self.bans.nodes.is_banned(culprit));
        let share = self.config.policy.share_bans;
        let bans = self.bans.nodes.banned().filter(|(culprit, _)| share || self.bans.voted.contains(culprit));
        let wanted: BTreeMap<_, _> = bans.collect();
        let ours = self.objects.of(self.id, ObjectKind::BAN_VOTE).filter(|stored| !stored.header.tombstone);
        let ours: BTreeMap<_, _> = ours.map(|stored| (NodeId(stored.header.name.id.to_be_bytes()), stored)).collect();
        let fresh = |culprit: &NodeId, until: Option<Instant>| {
            let halfway = now.wall + VOTE_LIFETIME / 2;
            ours.get(culprit).is_some_and(|vote| until.is_some() || vote.not_after() > halfway)
        };
        let due: Vec<_> = wanted.iter().filter(|(culprit, ban)| !fresh(culprit, ban.until)).collect();
        let over: Vec<_> = ours.keys().filter(|culprit| !wanted.contains_key(culprit)).copied().collect();
        let due: Vec<_> = due.into_iter().map(|(culprit, ban)| (*culprit, *ban)).collect();
        if (due.is_empty() && over.is_empty()) || !self.quorum().is_there() {
            return;
        }
        let name = |culprit: NodeId| ObjectName {
            origin: self.id,
            kind: ObjectKind::BAN_VOTE,
            id: u64::from_be_bytes(culprit.0),
        };
        let over: Vec<_> = over.into_iter().map(name).collect();
        let due: Vec<_> = due.into_iter().map(|(culprit, ban)| (name(culprit), culprit, ban)).collect();
        over.into_iter().for_each(|name| self.withdraw(now, name));
        for (name, culprit, ban) in due {
            let reason = if ban.by_operator { Reason::OPERATOR } else { Reason::EQUIVOCATION };
            let payload = VotePayload { culprit, reason, lasting: ban.until.is_none() }.to_bytes();
            let end = now.wall + ban.until.map_or(VOTE_LIFETIME, |until| (until - now.mono).min(VOTE_LIFETIME));
            let known = self.objects.get(&name).map_or(0, |stored| stored.header.version.saturating_add(1));
            self.announce(now, name, known.max(now.wall.0), end, &payload);
        }
    }
}
