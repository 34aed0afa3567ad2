//! SEKs of other nodes: learnt from their objects, installed while they are good, crowded out, wiped.

use super::wrap::unwrap;
use super::{Learnt, MAX_KEYS_PER_SOURCE, Seks};
use crate::Engine;
use crate::derive::{self, Traffic};
use crate::input::Ifindex;
use crate::object::{SKEW, Standing, Stored};
use crate::output::{Event, InstallKey, Output};
use crate::time::{Instant, Now, UnixMillis};
use crate::timer::Timer;
use core::cmp::Reverse;
use core::time::Duration;
use gemcast_proto::id::{Group, KeyId, NodeId, Suite};
use gemcast_proto::wire::gem::{ObjectKind, ObjectName, SekPayload};

impl Seks {
    /// The keys of a source in the order of their use.
    fn of_source(&self, origin: NodeId, group: Group) -> impl DoubleEndedIterator<Item = (UnixMillis, KeyId)> {
        let first = (origin, group, UnixMillis(0), KeyId(0));
        let last = (origin, group, UnixMillis(u64::MAX), KeyId(u32::MAX));
        self.by_source.range(first..=last).map(|&(.., begins, key_id)| (begins, key_id))
    }

    /// Whether as many keys of its source as are held begin later: it was wiped for them, and installed again it would
    /// accept again what it accepted before.
    fn is_crowded_out(&self, key_id: KeyId, learnt: &Learnt) -> bool {
        let of_source = self.of_source(learnt.origin, learnt.group);
        let younger = of_source.filter(|&pair| pair > (learnt.not_before, key_id));
        younger.filter(|&(_, other)| other != key_id).count() >= MAX_KEYS_PER_SOURCE
    }

    /// Who announced an id that was another's at the time.
    fn claimants(&self, key_id: KeyId) -> impl Iterator<Item = NodeId> {
        let all = (key_id, NodeId([0; 8]))..=(key_id, NodeId([0xff; 8]));
        self.contested.range(all).map(|(_, origin)| *origin)
    }

    /// A key proves nothing any more.
    pub(super) fn forget_proof(&mut self, key_id: KeyId) {
        let Some((origin, group, _)) = self.proofs.remove(&key_id) else { return };
        let Some(groups) = self.members.get_mut(&origin) else { return };
        if let Some(keys) = groups.get_mut(&group).filter(|keys| **keys > 1) {
            *keys -= 1;
            return;
        }
        groups.remove(&group);
        if groups.is_empty() {
            self.members.remove(&origin);
        }
        self.membership_changes += 1;
    }

    /// The oldest key of a source that has too many.
    fn excess(&self, origin: NodeId, group: Group) -> Option<KeyId> {
        self.of_source(origin, group).rev().nth(MAX_KEYS_PER_SOURCE).map(|(_, key_id)| key_id)
    }
}

impl Engine {
    /// Looks at every SEK object anew, after the configuration or the data plane changed.
    pub(crate) fn learn_all(&mut self, now: Now) {
        let names: Vec<_> = self.objects.iter().map(|stored| stored.header.name).collect();
        for name in names.into_iter().filter(|name| name.kind == ObjectKind::SEK) {
            self.learn(now, &name);
        }
    }

    /// A SEK object is new: installs it if it is for us.
    pub(crate) fn learn(&mut self, now: Now, name: &ObjectName) {
        let Some(stored) = self.objects.get(name) else { return };
        if stored.header.tombstone {
            let key_id = u32::try_from(name.id).map(KeyId).ok();
            if let Some(key_id) = key_id {
                self.drop_key(now, name.origin, key_id);
            }
            return;
        }
        let Ok(payload) = SekPayload::parse(stored.payload()) else { return };
        let (not_after, version) = (stored.not_after(), stored.header.version);
        let (origin, key_id, group, epoch) = (name.origin, payload.key_id, payload.group, payload.epoch);
        if origin == self.id || u64::from(key_id.0) != name.id {
            return;
        }
        let holder = self.seks.transit.get(&key_id).map(|(holder, _)| *holder).filter(|&holder| holder != origin);
        if self.seks.own_ids.contains_key(&key_id) || holder.is_some() {
            self.counters.conflicts += 1;
            self.alarm(now, Event::KeyIdTaken { origin, key_id });
        }
        if self.seks.own_ids.contains_key(&key_id) {
            return;
        }
        if let Some(holder) = holder {
            self.seks.contested.extend([(key_id, origin), (key_id, holder)]);
            if !self.rights(origin).send || self.claim(origin, key_id) <= self.claim(holder, key_id) {
                return;
            }
            self.close_transit(holder, key_id);
            self.wipe(key_id);
        }
        if !self.rights(origin).send {
            self.counters.not_entitled += 1;
            self.ban_key(origin, key_id);
            return self.drop_key(now, origin, key_id);
        }
        self.clear_key(key_id);
        self.open_transit(origin, key_id);
        let known_epoch = self.gaks.get(group, epoch).is_some();
        let (true, Some(suite)) = (known_epoch, Suite::from_wire(payload.suite)) else {
            return self.seks.forget_proof(key_id);
        };
        if now.wall > not_after + SKEW {
            return;
        }
        let not_before = UnixMillis(payload.not_before_ms);
        let learnt = Learnt { origin, version, group, epoch, suite, not_before, not_after };
        let is_learnt = self.seks.learnt.get(&key_id).is_some_and(|known| *known == learnt);
        if is_learnt || self.seks.unopened.get(&key_id) == Some(&(origin, version)) {
            return;
        }
        let Some(key) = self.opening_key(key_id, &learnt) else {
            self.counters.unwrap_failed += 1;
            self.seks.forget_proof(key_id);
            self.wipe(key_id);
            self.seks.unopened.insert(key_id, (origin, version));
            return;
        };
        self.prove(now, key_id, &learnt);
        if !self.delivers(group, epoch) {
            return;
        }
        if self.seks.is_crowded_out(key_id, &learnt) {
            return self.wipe(key_id);
        }
        self.lift_revocation(key_id);
        let new = !self.seks.learnt.contains_key(&key_id);
        self.seks.remember(key_id, learnt);
        self.install(key);
        self.seks.adopted.remove(&key_id);
        while let Some(oldest) = self.seks.excess(origin, group) {
            self.wipe(oldest);
        }
        if new {
            self.counters.seks_installed += 1;
            self.event(Event::SekLearnt { origin, group, key_id });
        }
    }

    /// The way to a gateway changed, or its keys did: packets under them are relayed from that side only.
    pub(crate) fn steer_transit(&mut self, origin: NodeId) {
        if self.seks.incarnation.is_none() {
            return;
        }
        let towards = self.relays_from(origin);
        let of_origin = self.seks.transit.iter().filter(|(_, (of, _))| *of == origin);
        let keys: Vec<_> = of_origin.map(|(&key_id, _)| key_id).collect();
        keys.into_iter().for_each(|key_id| self.set_way(key_id, towards));
    }

    /// Interface that packets of a node's keys are relayed from; none if this gateway may not relay.
    pub(super) fn relays_from(&self, origin: NodeId) -> Option<Ifindex> {
        self.interface_towards(origin).filter(|_| self.rights(self.id).relay)
    }

    /// A SEK object of another node came.
    fn open_transit(&mut self, origin: NodeId, key_id: KeyId) {
        let towards = self.relays_from(origin);
        self.seks.transit.entry(key_id).or_insert((origin, None));
        self.set_way(key_id, towards);
    }

    /// A SEK object of another node went.
    fn close_transit(&mut self, origin: NodeId, key_id: KeyId) {
        if self.seks.transit.get(&key_id).is_some_and(|(of, _)| *of == origin)
            && let Some((_, Some(_))) = self.seks.transit.remove(&key_id)
        {
            self.note_way(key_id, origin, false);
            self.outputs.push_back(Output::Transit { key_id, ifindex: None });
        }
    }

    /// Unwraps a key from its object, if it is one of our group key's.
    fn opening_key(&self, key_id: KeyId, learnt: &Learnt) -> Option<InstallKey> {
        let &Learnt { origin, group, epoch, suite, not_after, .. } = learnt;
        let stored = self.objects.get(&ObjectName { origin, kind: ObjectKind::SEK, id: u64::from(key_id.0) })?;
        let payload = SekPayload::parse(stored.payload()).ok()?;
        let gak = self.gaks.get(group, epoch)?;
        let wrap_key = derive::wrap_key(gak, origin, stored.header.version, key_id, &payload.salt);
        let sek = unwrap(&wrap_key, &payload.wrapped)?;
        let (traffic_key, salt) = Traffic { sek: &sek, gak, suite, group, origin, key_id, epoch }.derive();
        Some(InstallKey { key_id, origin, group, epoch, suite, seals: false, traffic_key, salt, not_after })
    }

    fn install(&mut self, key: InstallKey) {
        if self.seks.incarnation.is_some() {
            self.outputs.push_back(Output::InstallKey(key));
        }
    }

    /// Installs a learnt key again.
    pub(super) fn reinstall_learnt(&mut self, key_id: KeyId) {
        let learnt = self.seks.learnt.get(&key_id);
        if let Some(key) = learnt.and_then(|learnt| self.opening_key(key_id, learnt)) {
            self.install(key);
        }
    }

    pub(super) fn wipe(&mut self, key_id: KeyId) {
        if self.seks.forget(key_id) && self.seks.incarnation.is_some() {
            self.outputs.push_back(Output::RemoveKey(key_id));
        }
    }

    /// Wipes keys found in the maps that ran out before their objects came back. The wall clock may be set while we wait:
    /// looked at again every minute.
    pub(crate) fn tend_adopted(&mut self, now: Now) {
        let over: Vec<_> = self.seks.adopted.extract_if(.., |_, key| now.wall > key.not_after + SKEW).collect();
        self.outputs.extend(over.into_iter().map(|(key_id, _)| Output::RemoveKey(key_id)));
        if let Some(at) = self.seks.adopted.values().map(|key| key.not_after + SKEW).min() {
            let wait = Duration::from_millis(at.0.saturating_sub(now.wall.0) + 1).min(Duration::from_secs(60));
            self.timers.set_by(Timer::Adopted, now.mono + wait);
        }
    }

    /// An object left the table.
    pub(crate) fn forget_object(&mut self, now: Now, stored: &Stored) {
        let name = stored.header.name;
        self.forget_lease(&name);
        if name.kind == ObjectKind::SUCCESSOR {
            self.await_succession(Instant(0));
        }
        let Ok(key_id) = u32::try_from(name.id).map(KeyId) else { return };
        if name.kind == ObjectKind::SEK {
            self.drop_key(now, name.origin, key_id);
        }
    }

    /// Neither opens nor relays packets under a key of a node's any more. Who announced its id, too, has it now.
    pub(crate) fn drop_key(&mut self, now: Now, origin: NodeId, key_id: KeyId) {
        if self.seks.unopened.get(&key_id).is_some_and(|(of, _)| *of == origin) {
            self.seks.unopened.remove(&key_id);
        }
        self.close_transit(origin, key_id);
        if self.seks.proofs.get(&key_id).is_some_and(|(of, ..)| *of == origin) {
            self.seks.forget_proof(key_id);
        }
        if self.seks.learnt.get(&key_id).is_some_and(|learnt| learnt.origin == origin) {
            self.wipe(key_id);
        } else if self.seks.adopted.get(&key_id).is_some_and(|key| key.origin == origin) {
            self.seks.adopted.remove(&key_id);
            self.outputs.push_back(Output::RemoveKey(key_id));
        }
        self.seks.contested.remove(&(key_id, origin));
        if !self.seks.transit.contains_key(&key_id) {
            let others: Vec<_> = self.seks.claimants(key_id).collect();
            for origin in others {
                self.learn(now, &ObjectName { origin, kind: ObjectKind::SEK, id: u64::from(key_id.0) });
            }
        }
    }

    /// What speaks for it that an id is that of an origin's key: that our group key unwraps it, which nobody can bring
    /// about who is no member, then how far the origin is preferred.
    fn claim(&self, origin: NodeId, key_id: KeyId) -> (bool, Reverse<Standing>) {
        let unwraps = || {
            let stored = self.objects.get(&ObjectName { origin, kind: ObjectKind::SEK, id: u64::from(key_id.0) })?;
            let payload = SekPayload::parse(stored.payload()).ok()?;
            let suite = Suite::from_wire(payload.suite)?;
            let (not_before, not_after) = (UnixMillis(payload.not_before_ms), stored.not_after());
            let version = stored.header.version;
            let learnt =
                Learnt { origin, version, group: payload.group, epoch: payload.epoch, suite, not_before, not_after };
            self.opening_key(key_id, &learnt)
        };
        (unwraps().is_some(), Reverse(self.objects.standing(origin)))
    }

    /// Whether another node than this one announced the id, too.
    pub(crate) fn is_contested(&self, key_id: KeyId, origin: NodeId) -> bool {
        self.seks.claimants(key_id).any(|other| other != origin)
    }

    /// A key of another node is one of a group of ours: who made it is a member.
    fn prove(&mut self, now: Now, key_id: KeyId, learnt: &Learnt) {
        let &Learnt { origin, group, epoch, .. } = learnt;
        if self.seks.proofs.get(&key_id) == Some(&(origin, group, epoch)) {
            return;
        }
        self.seks.forget_proof(key_id);
        self.seks.proofs.insert(key_id, (origin, group, epoch));
        let keys = self.seks.members.entry(origin).or_default().entry(group).or_default();
        *keys += 1;
        if *keys == 1 {
            self.seks.membership_changes += 1;
            self.member_proven(now, origin);
        }
    }
}
