//! SEKs of other nodes: learnt from their objects, installed while they are good, crowded out, wiped.

use super::wrap::unwrap;
use super::{Learnt, MAX_KEYS_PER_SOURCE, Seks};
use crate::Engine;
use crate::derive::{self, Traffic};
use crate::input::Ifindex;
use crate::object::{SKEW, Stored};
use crate::output::{Event, InstallKey, Output};
use crate::time::{Instant, Now, UnixMillis};
use crate::timer::Timer;
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
                self.drop_key(name.origin, key_id);
            }
            return;
        }
        let Ok(payload) = SekPayload::parse(stored.payload()) else { return };
        let (not_after, version) = (stored.not_after(), stored.header.version);
        let (origin, key_id, group, epoch) = (name.origin, payload.key_id, payload.group, payload.epoch);
        if origin == self.id || u64::from(key_id.0) != name.id {
            return;
        }
        if self.seks.own_ids.contains_key(&key_id)
            || self.seks.transit.get(&key_id).is_some_and(|(first, _)| *first != origin)
        {
            self.counters.conflicts += 1;
            self.alarm(now, Event::KeyIdTaken { origin, key_id });
            return;
        }
        if !self.rights(origin).send {
            self.counters.not_entitled += 1;
            self.ban_key(origin, key_id);
            return self.drop_key(origin, key_id);
        }
        self.clear_key(key_id);
        self.open_transit(origin, key_id);
        let (true, Some(suite)) = (self.delivers(group, epoch), Suite::from_wire(payload.suite)) else { return };
        if now.wall > not_after + SKEW {
            return;
        }
        let not_before = UnixMillis(payload.not_before_ms);
        let learnt = Learnt { origin, version, group, epoch, suite, not_before, not_after };
        if self.seks.is_crowded_out(key_id, &learnt) {
            return self.wipe(key_id);
        }
        let is_learnt = self.seks.learnt.get(&key_id).is_some_and(|known| *known == learnt);
        if is_learnt || self.seks.unopened.get(&key_id) == Some(&(origin, version)) {
            return;
        }
        let Some(key) = self.opening_key(key_id, &learnt) else {
            self.counters.unwrap_failed += 1;
            self.wipe(key_id);
            self.seks.unopened.insert(key_id, (origin, version));
            return;
        };
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
        for (&key_id, (_, from)) in self.seks.transit.iter_mut().filter(|(_, (of, _))| *of == origin) {
            if *from != towards {
                *from = towards;
                self.outputs.push_back(Output::Transit { key_id, ifindex: towards });
            }
        }
    }

    /// Interface that packets of a node's keys are relayed from; none if this gateway may not relay.
    fn relays_from(&self, origin: NodeId) -> Option<Ifindex> {
        self.interface_towards(origin).filter(|_| self.rights(self.id).relay)
    }

    /// A SEK object of another node came.
    fn open_transit(&mut self, origin: NodeId, key_id: KeyId) {
        let towards = self.relays_from(origin);
        let (_, from) = self.seks.transit.entry(key_id).or_insert((origin, None));
        if self.seks.incarnation.is_some() && *from != towards {
            *from = towards;
            self.outputs.push_back(Output::Transit { key_id, ifindex: towards });
        }
    }

    /// A SEK object of another node went.
    fn close_transit(&mut self, origin: NodeId, key_id: KeyId) {
        if self.seks.transit.get(&key_id).is_some_and(|(of, _)| *of == origin)
            && let Some((_, Some(_))) = self.seks.transit.remove(&key_id)
        {
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

    /// An object ran out of validity.
    pub(crate) fn forget_object(&mut self, stored: &Stored) {
        let name = stored.header.name;
        self.forget_lease(&name);
        if name.kind == ObjectKind::SUCCESSOR {
            self.await_succession(Instant(0));
        }
        let Ok(key_id) = u32::try_from(name.id).map(KeyId) else { return };
        if name.kind == ObjectKind::SEK {
            self.drop_key(name.origin, key_id);
        }
    }

    /// Neither opens nor relays packets under a key of a node's any more.
    pub(crate) fn drop_key(&mut self, origin: NodeId, key_id: KeyId) {
        if self.seks.unopened.get(&key_id).is_some_and(|(of, _)| *of == origin) {
            self.seks.unopened.remove(&key_id);
        }
        self.close_transit(origin, key_id);
        if self.seks.learnt.get(&key_id).is_some_and(|learnt| learnt.origin == origin) {
            self.wipe(key_id);
        } else if self.seks.adopted.get(&key_id).is_some_and(|key| key.origin == origin) {
            self.seks.adopted.remove(&key_id);
            self.outputs.push_back(Output::RemoveKey(key_id));
        }
    }
}
