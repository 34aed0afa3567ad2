//! Who is one of us: what the administrator revoked, listed, and which node took whose place.

use crate::config::Membership;
use crate::gak::GATHER;
use crate::output::{BanCause, Event, Output};
use crate::time::{Instant, Now, UnixMillis};
use crate::timer::Timer;
use crate::{Engine, object};
use core::time::Duration;
use gemcast_proto::id::{KeyId, NodeId};
use gemcast_proto::wire::gem::kmg::{Rights, RosterPayload, SuccessorPayload};
use gemcast_proto::wire::gem::{ObjectKind, ObjectName};
use std::collections::{BTreeMap, BTreeSet};

/// Predecessors of a node that are looked through.
const MAX_SUCCESSIONS: usize = 8;
/// Anyone may name a successor as often as it likes; what follows from it is looked at this often at most.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Keys of revoked nodes that are banned by their id at a time; packets under others find no key.
const MAX_BANS: usize = 4096;

/// The administrator's list, and who stands for whom.
#[derive(Default)]
pub(crate) struct Roster {
    listed: BTreeMap<NodeId, Rights>,
    predecessors: BTreeMap<NodeId, NodeId>,
    /// When successions may be looked at again.
    next_look: Instant,
    /// Banned key ids, until their objects would have run out.
    pub(crate) bans: BTreeMap<KeyId, Instant>,
}

impl Engine {
    /// What a node may do. A successor has the rights of the node whose place it took, unless it is listed itself.
    pub(crate) fn rights(&self, node: NodeId) -> Rights {
        if self.objects.is_revoked(node) || self.is_banned(node) {
            return Rights::NONE;
        }
        if let Some(listed) = self.listed_as(node) {
            return self.roster.listed[&listed];
        }
        if self.config.membership == Membership::Open { Rights::ALL } else { Rights::NONE }
    }

    /// The node on the roster whose place this one has: itself, or one before it.
    pub(crate) fn listed_as(&self, node: NodeId) -> Option<NodeId> {
        let before = |node: &NodeId| self.roster.predecessors.get(node).copied();
        let line = core::iter::successors(Some(node), before).take(MAX_SUCCESSIONS + 1);
        line.into_iter().find(|node| self.roster.listed.contains_key(node))
    }

    /// Everyone on the roster.
    pub(crate) fn listed(&self) -> impl Iterator<Item = NodeId> {
        self.roster.listed.keys().copied()
    }

    /// Which administrators count has changed, or is told for the first time.
    pub(crate) fn set_administrators(&mut self, now: Now) {
        self.objects.set_administrators(&self.config.administrators);
        self.reread_revocations(now);
        self.reread_roster(now);
    }

    /// An administrative object, or a successor, is new.
    pub(crate) fn administer(&mut self, now: Now, name: &ObjectName) {
        let trusted = name.kind.is_administrative() && self.objects.is_administrator(name.origin);
        if trusted && name.kind == ObjectKind::REVOKE {
            self.reread_revocations(now);
        }
        if trusted {
            self.timers.set_by(Timer::Administration, now.mono + GATHER);
        } else if name.kind == ObjectKind::SUCCESSOR {
            self.await_succession(now.mono + GATHER);
        }
    }

    /// A SUCCESSOR came, went, begins or runs out at this time.
    pub(crate) fn await_succession(&mut self, at: Instant) {
        self.timers.set_by(Timer::Successions, at.max(self.roster.next_look));
    }

    /// Who stands for whom may have changed. Rights that follow from it are given and taken; nothing else is touched.
    pub(crate) fn follow_successions(&mut self, now: Now) {
        self.roster.next_look = now.mono + LOOK_INTERVAL;
        let rights = |engine: &Self| -> BTreeMap<NodeId, Rights> {
            engine.objects.nodes().map(|(&node, _)| (node, engine.rights(node))).collect()
        };
        let before = rights(self);
        self.reread_roster(now);
        let after = rights(self);
        if before == after {
            return;
        }
        self.drop_without_right(now);
        if before.get(&self.id) != after.get(&self.id) {
            self.refresh_gaks(now, true);
        } else {
            self.learn_all(now);
        }
        self.review_bans(now);
    }

    /// Drops the keys of nodes that may not send.
    fn drop_without_right(&mut self, now: Now) {
        let transit = self.seks.transit.iter().map(|(&key_id, (origin, _))| (key_id, *origin, None));
        let adopted = self.seks.adopted.iter().map(|(&key_id, key)| (key_id, key.origin, Some(key.not_after)));
        let dropped: Vec<_> = transit.chain(adopted).filter(|(_, origin, _)| !self.rights(*origin).send).collect();
        for (key_id, origin, adopted) in dropped {
            let anothers =
                self.origin_of(key_id).is_some_and(|whose| whose != origin) || self.is_contested(key_id, origin);
            if let Some(not_after) = adopted.filter(|_| self.objects.is_revoked(origin) && !anothers) {
                self.ban_revoked(now, key_id, not_after);
            }
            self.drop_key(now, origin, key_id);
        }
    }

    /// What administrative objects that came say, all together.
    pub(crate) fn govern(&mut self, now: Now) {
        self.reread_roster(now);
        self.drop_without_right(now);
        self.survey_packages(now);
        self.refresh_gaks(now, true);
        self.review_bans(now);
        self.outputs.push_back(Output::Persist { at_once: false });
    }

    fn reread_roster(&mut self, now: Now) {
        let mut listed = BTreeMap::<NodeId, (u64, Option<Rights>)>::new();
        for administrator in self.objects.administrators() {
            for stored in self.objects.of(administrator, ObjectKind::ROSTER) {
                let (node, version) = (NodeId(stored.header.name.id.to_be_bytes()), stored.header.version);
                let rights = RosterPayload::parse(stored.payload()).ok().filter(|_| !stored.header.tombstone);
                let latest = listed.entry(node).or_default();
                if version >= latest.0 {
                    *latest = (version, rights.map(|entry| entry.rights));
                }
            }
        }
        let entry = |(node, (_, rights)): (NodeId, (u64, Option<Rights>))| Some((node, rights?));
        self.roster.listed = listed.into_iter().filter_map(entry).collect();
        let successors = self.objects.successors().filter(|stored| !stored.header.tombstone).filter_map(|stored| {
            let successor = SuccessorPayload::parse(stored.payload()).ok()?;
            let successor_id = object::node_id_of(&successor.signing_key);
            Some((UnixMillis(successor.not_before_ms), successor_id, stored.header.name.origin))
        });
        let (current, to_come): (Vec<_>, Vec<_>) =
            successors.partition(|(not_before, ..)| *not_before <= now.wall + object::SKEW);
        self.roster.predecessors = current.into_iter().map(|(_, node, predecessor)| (node, predecessor)).collect();
        if let Some(first) = to_come.into_iter().map(|(not_before, ..)| not_before).min() {
            // The wall clock may be set while we wait: looked at again every minute.
            let wait = Duration::from_millis(first.0.saturating_sub((now.wall + object::SKEW).0));
            self.await_succession(now.mono + wait.min(Duration::from_secs(60)));
        }
        let nodes = self.roster.listed.keys().chain(self.roster.predecessors.keys()).copied();
        let listed = nodes
            .filter(|&node| self.listed_as(node).is_some_and(|listed| self.roster.listed[&listed] != Rights::NONE));
        if self.objects.set_listed(listed.collect(), self.config.membership == Membership::Roster) {
            self.retry_refused(now.mono);
            self.leases.recount();
        }
    }

    /// Drops everything of nodes that are revoked now and were not before.
    fn reread_revocations(&mut self, now: Now) {
        let mut latest = BTreeMap::<NodeId, (u64, bool)>::new();
        for administrator in self.objects.administrators() {
            for stored in self.objects.of(administrator, ObjectKind::REVOKE) {
                let state = (stored.header.version, !stored.header.tombstone);
                let node = NodeId(stored.header.name.id.to_be_bytes());
                let known = latest.entry(node).or_default();
                *known = state.max(*known);
            }
        }
        let revoked: BTreeSet<_> = latest.iter().filter(|(_, (_, revoked))| *revoked).map(|(node, _)| *node).collect();
        let was_revoked = self.objects.is_revoked(self.id);
        let new: Vec<_> = revoked.iter().copied().filter(|&node| !self.objects.is_revoked(node)).collect();
        for stored in self.objects.set_revoked(revoked) {
            if stored.header.name.kind == ObjectKind::SEK
                && let Ok(key_id) = u32::try_from(stored.header.name.id).map(KeyId)
                && self.origin_of(key_id) == Some(stored.header.name.origin)
                && !self.is_contested(key_id, stored.header.name.origin)
            {
                self.ban_revoked(now, key_id, stored.not_after());
            }
            self.forget_object(now, &stored);
        }
        if !new.is_empty() {
            self.drop_without_right(now);
        }
        new.into_iter().for_each(|node| self.event(Event::Revoked { node }));
        if was_revoked && !self.objects.is_revoked(self.id) {
            self.announce_node(now, now.wall.0);
        }
    }

    /// Has the data plane drop every packet under a key, as long as one could be valid.
    pub(crate) fn ban_revoked(&mut self, now: Now, key_id: KeyId, not_after: UnixMillis) {
        if self.roster.bans.len() < MAX_BANS {
            let left = Duration::from_millis(not_after.0.saturating_sub(now.wall.0));
            let until = now.mono + left + object::SKEW;
            self.roster.bans.insert(key_id, until);
            self.outputs.push_back(Output::Ban { key_id, cause: BanCause::Revoked, banned: true });
            self.timers.set_by(Timer::Bans, until);
        }
    }

    /// An id that was that of a revoked node's key is that of a member's.
    pub(crate) fn lift_revocation(&mut self, key_id: KeyId) {
        if self.roster.bans.remove(&key_id).is_some() {
            self.outputs.push_back(Output::Ban { key_id, cause: BanCause::Revoked, banned: false });
        }
    }

    /// Lifts bans that no packet could be valid without.
    pub(crate) fn lift_bans(&mut self, now: Now) {
        let over: Vec<_> = self.roster.bans.extract_if(.., |_, until| *until <= now.mono).collect();
        let lifted = |(key_id, _)| Output::Ban { key_id, cause: BanCause::Revoked, banned: false };
        self.outputs.extend(over.into_iter().map(lifted));
        if let Some(&at) = self.roster.bans.values().min() {
            self.timers.set(Timer::Bans, at);
        }
        self.age_bans(now);
    }
}
