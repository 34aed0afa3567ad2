//! The life of source encryption keys: ours are made, announced, switched to, retired and wiped; those of others are
//! learnt from their objects, installed while they are good, and wiped.
//!
//! ```text
//!  made, announced      switch (not_before)          wiped
//!  |---- lead ----------|------- lifetime ... -------|
//!                                  next made |-- lead -|-- overlap --|
//! ```
//! The first key of a start seals at once: there is none that it could replace. A key is made anew whenever the
//! continuity of its packet counters is not certain. Keys of others are held while their objects are valid, replaced or
//! not: their origin's data plane seals on with the old one when its control process dies before the switch. Secrets of
//! others are not kept: they are unwrapped from their object whenever they have to be installed.

mod learnt;
mod picture;
mod ways;
mod wrap;

use self::wrap::wrap;
use crate::config::{GroupConfig, Protection};
use crate::derive::{self, Traffic};
use crate::input::{AdoptedKey, Ifindex};
use crate::object::{self, SKEW};
use crate::output::{Event, InstallKey, Output};
use crate::secret::Secret;
use crate::time::{Instant, Now, UnixMillis};
use crate::timer::Timer;
use crate::{Engine, SIGNING_RETRY, earliest, gak};
use core::time::Duration;
use gemcast_proto::id::{Epoch, Group, KeyId, NodeId, Suite};
use gemcast_proto::wire::gem::{ObjectHeader, ObjectKind, ObjectName, SekPayload};
use rand_chacha::rand_core::RngCore;
use std::collections::{BTreeMap, BTreeSet};

/// Packets after which a key is replaced.
const SOFT_LIMIT_PACKETS: u64 = 1 << 32;
/// Packets after which a key is replaced without notice: halfway to the hard stop of 2³⁴.
const URGENT_LIMIT_PACKETS: u64 = 1 << 33;
/// Keys of one source that are held; of more, the oldest are wiped.
pub(crate) const MAX_KEYS_PER_SOURCE: usize = 8;
/// Share of the lifetime by which replacements are spread, as a divisor, so that not all groups change at once.
const SPREAD: u32 = 10;

/// A SEK of ours.
pub(crate) struct OwnSek {
    pub(crate) key_id: KeyId,
    secret: Secret<32>,
    pub(crate) epoch: Epoch,
    pub(crate) suite: Suite,
    pub(crate) not_before: UnixMillis,
    pub(crate) not_after: UnixMillis,
    switch_at: Instant,
    replace_at: Instant,
    pub(crate) packets: u64,
}

/// Our keys for one group.
#[derive(Default)]
pub(crate) struct OwnGroup {
    pub(crate) active: Option<OwnSek>,
    pub(crate) next: Option<OwnSek>,
    /// Replaced keys, to be wiped at a time; they keep their end of validity for display.
    pub(crate) retiring: Vec<(KeyId, Epoch, Instant)>,
    /// Keys of a control process before us; one of them may be sealing.
    pub(crate) adopted: Vec<AdoptedKey>,
}

/// A SEK of another node, for a group that this gateway delivers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Learnt {
    pub(crate) origin: NodeId,
    /// Of its object.
    pub(crate) version: u64,
    pub(crate) group: Group,
    pub(crate) epoch: Epoch,
    pub(crate) suite: Suite,
    pub(crate) not_before: UnixMillis,
    pub(crate) not_after: UnixMillis,
}

/// All keys.
#[derive(Default)]
pub(crate) struct Seks {
    pub(crate) own: BTreeMap<Group, OwnGroup>,
    pub(crate) learnt: BTreeMap<KeyId, Learnt>,
    /// The learnt keys of each source in the order of their use.
    by_source: BTreeSet<(NodeId, Group, UnixMillis, KeyId)>,
    /// Versions of SEK objects that no group key of ours opened.
    unopened: BTreeMap<KeyId, (NodeId, u64)>,
    /// Every key of ours that the maps may hold, with its group.
    own_ids: BTreeMap<KeyId, Group>,
    /// Opening keys found in the maps whose objects have not come back yet.
    pub(crate) adopted: BTreeMap<KeyId, AdoptedKey>,
    /// Every live SEK of other nodes: who made it, and the interface its packets are relayed from. Packets name their key
    /// without its origin, so an id belongs to the first node that announced it.
    pub(crate) transit: BTreeMap<KeyId, (NodeId, Option<Ifindex>)>,
    pub(crate) ways: ways::Ways,
    /// Who else announced an id that was another's.
    contested: BTreeSet<(KeyId, NodeId)>,
    /// Keys of other nodes that our group keys unwrap: of whom they prove that they are members, and of what.
    proofs: BTreeMap<KeyId, (NodeId, Group, Epoch)>,
    /// How many such keys each member has of each group.
    pub(crate) members: BTreeMap<NodeId, BTreeMap<Group, u32>>,
    /// How often members came and went.
    pub(crate) membership_changes: u64,
    /// Map set of the data plane, once it is known.
    pub(crate) incarnation: Option<u64>,
}

impl Seks {
    fn forget(&mut self, key_id: KeyId) -> bool {
        let Some(learnt) = self.learnt.remove(&key_id) else { return false };
        self.by_source.remove(&(learnt.origin, learnt.group, learnt.not_before, key_id));
        true
    }

    fn remember(&mut self, key_id: KeyId, learnt: Learnt) {
        self.forget(key_id);
        self.by_source.insert((learnt.origin, learnt.group, learnt.not_before, key_id));
        self.learnt.insert(key_id, learnt);
    }

    /// How many nodes' keys are learnt for each group.
    pub(crate) fn sources(&self) -> BTreeMap<Group, u32> {
        let mut sources = BTreeMap::new();
        let mut last = None;
        for &(origin, group, ..) in &self.by_source {
            if last.replace((origin, group)) != Some((origin, group)) {
                *sources.entry(group).or_default() += 1;
            }
        }
        sources
    }
}

impl Engine {
    /// What a SEK of ours for a group is made with when it is to be used at a time: its suite, the GAK's epoch, and since
    /// when that is the one to send with.
    fn sealing(&self, group: Group, at: UnixMillis) -> Option<(Suite, Epoch, UnixMillis)> {
        let config = self.group_config(group).filter(|config| config.send && self.rights(self.id).send)?;
        let Protection::Sealed { suite, .. } = &config.protection else { return None };
        self.gaks.sending(group, at.max(self.clock_floor)).map(|(epoch, starts)| (*suite, epoch, starts))
    }

    /// Whether this gateway delivers packets of a group under an epoch.
    fn delivers(&self, group: Group, epoch: Epoch) -> bool {
        let wanted = self.group_config(group).is_some_and(|config| config.receive);
        wanted && self.gaks.get(group, epoch).is_some() && self.rights(self.id).receive
    }

    pub(crate) fn group_config(&self, group: Group) -> Option<&GroupConfig> {
        self.group_index.get(&group).map(|&index| &self.config.groups[index])
    }

    /// The data plane is there, with these keys in its maps.
    pub(crate) fn data_plane_up(&mut self, now: Now, incarnation: u64, keys: Vec<AdoptedKey>) {
        if self.seks.incarnation.is_none() {
            self.end_epochs_before(now, &keys);
        }
        let known = self.seks.incarnation.replace(incarnation);
        if known.is_some_and(|known| known != incarnation) {
            // The maps were made anew: what our keys counted is lost, so none of them may seal again.
            self.seks.own.clear();
            self.seks.own_ids.clear();
            self.seks.adopted.clear();
        }
        self.install_gtags();
        let useless = self.sort_found_keys(now, known, keys);
        self.reinstall_own();
        // The maps may be new: every way is told again.
        self.seks.transit.values_mut().for_each(|(_, from)| *from = None);
        self.seks.ways.clear();
        let learnt: Vec<_> = self.seks.learnt.keys().copied().collect();
        learnt.into_iter().for_each(|key_id| self.reinstall_learnt(key_id));
        self.learn_all(now);
        self.tend_own(now);
        self.tend_adopted(now);
        // What may not seal any more goes when what takes its place is there.
        self.outputs.extend(useless.into_iter().map(Output::RemoveKey));
    }

    /// Keeps keys found in the maps that are of use, wipes the others. Returns those of our own that are to be wiped, too.
    fn sort_found_keys(&mut self, now: Now, known: Option<u64>, keys: Vec<AdoptedKey>) -> Vec<KeyId> {
        let (first, new_maps) = (known.is_none(), known != self.seks.incarnation);
        let mut useless = vec![];
        for key in keys {
            let valid = now.wall <= key.not_after + SKEW;
            let usable = valid && self.is_accepted(&key);
            let send = usable && self.group_config(key.group).is_some_and(|config| config.send);
            // Its node may have been revoked while we were away.
            let receive = valid && self.delivers(key.group, key.epoch) && self.rights(key.origin).send;
            let seks = &self.seks;
            if seks.learnt.contains_key(&key.key_id)
                || seks.own_ids.contains_key(&key.key_id)
                || seks.adopted.contains_key(&key.key_id)
            {
                continue;
            }
            if first && key.seals && send && key.origin == self.id {
                self.seks.own_ids.insert(key.key_id, key.group);
                self.seks.own.entry(key.group).or_default().adopted.push(key);
            } else if new_maps && !key.seals && receive && key.origin != self.id {
                self.seks.adopted.insert(key.key_id, key);
            } else if key.seals && key.origin == self.id {
                useless.push(key.key_id);
            } else {
                self.outputs.push_back(Output::RemoveKey(key.key_id));
                if self.objects.is_revoked(key.origin) {
                    self.ban_revoked(now, key.key_id, key.not_after);
                }
            }
        }
        useless
    }

    fn reinstall_own(&mut self) {
        let groups: Vec<_> = self.seks.own.keys().copied().collect();
        for group in groups {
            let own = &self.seks.own[&group];
            let installs: Vec<_> =
                [&own.active, &own.next].into_iter().flatten().filter_map(|sek| self.own_key(group, sek)).collect();
            let active = own.active.as_ref().map(|sek| sek.key_id);
            self.outputs.extend(installs.into_iter().map(Output::InstallKey));
            self.outputs.extend(active.map(|key_id| Output::Activate { group, key_id }));
        }
    }

    /// Makes, switches to, retires and wipes our keys as their times come.
    pub(crate) fn tend_own(&mut self, now: Now) {
        if self.seks.incarnation.is_none() {
            return;
        }
        if let Some(refusal) = self.signing_refusal(now) {
            // What cannot be announced is not made; what seals already goes on.
            self.refuse_signing(refusal);
            self.timers.set(Timer::Seks, now.mono + SIGNING_RETRY);
            return;
        }
        let soon = now.wall + self.config.announce_lead;
        let groups = self.config.groups.iter().map(|config| config.group);
        let sealed: Vec<_> = groups.filter_map(|group| Some((group, self.sealing(group, soon)?))).collect();
        let mut next = None;
        for (group, (_, epoch, starts)) in sealed {
            self.follow_epoch(now, group, epoch, starts);
            let own = self.seks.own.entry(group).or_default();
            if own.next.as_ref().is_some_and(|sek| sek.switch_at <= now.mono) {
                self.switch(now, group);
            }
            let own = &self.seks.own[&group];
            let worn = own.active.as_ref().is_some_and(|sek| sek.replace_at <= now.mono);
            let orphaned = own.active.is_none();
            if own.next.is_none() && (worn || orphaned) && self.sealing(group, now.wall).is_some() {
                // With nothing sealing there is no one to warn.
                let lead = if orphaned && own.adopted.is_empty() { Duration::ZERO } else { self.config.announce_lead };
                self.make_sek(now, group, lead);
            }
            next = earliest(next, self.wipe_retired(now, group));
            let own = &self.seks.own[&group];
            next = earliest(next, own.next.as_ref().map(|sek| sek.switch_at));
            let replace_at = own.active.as_ref().filter(|_| own.next.is_none()).map(|sek| sek.replace_at);
            next = earliest(next, replace_at);
        }
        if let Some(at) = next {
            self.timers.set_by(Timer::Seks, at);
        }
    }

    /// Has a key of another epoch announced in time for when that becomes the one to send with.
    fn follow_epoch(&mut self, now: Now, group: Group, epoch: Epoch, starts: UnixMillis) {
        let Some(own) = self.seks.own.get(&group) else { return };
        let seals = own.active.as_ref().map(|sek| sek.epoch).or_else(|| own.adopted.last().map(|key| key.epoch));
        if seals.is_none_or(|seals| seals == epoch) || own.next.as_ref().is_some_and(|sek| sek.epoch == epoch) {
            return;
        }
        let lead = if starts == UnixMillis(0) {
            // Configured here; who knows when it will be elsewhere.
            self.config.announce_lead
        } else {
            Duration::from_millis(starts.0.saturating_sub(self.latest(now).0))
                .max(gak::CHANGE.min(self.config.announce_lead))
        };
        self.replace_after(now, group, lead);
    }

    /// The announced key takes over.
    fn switch(&mut self, now: Now, group: Group) {
        let overlap_until = now.mono + self.config.overlap;
        let Some(own) = self.seks.own.get_mut(&group) else { return };
        let Some(next) = own.next.take() else { return };
        self.outputs.push_back(Output::Activate { group, key_id: next.key_id });
        let replaced = own.active.replace(next).map(|sek| (sek.key_id, sek.epoch));
        let adopted = own.adopted.drain(..).map(|key| (key.key_id, key.epoch));
        own.retiring.extend(replaced.into_iter().chain(adopted).map(|(id, epoch)| (id, epoch, overlap_until)));
    }

    fn wipe_retired(&mut self, now: Now, group: Group) -> Option<Instant> {
        let own = self.seks.own.get_mut(&group)?;
        let over: Vec<_> =
            own.retiring.extract_if(.., |(_, _, at)| *at <= now.mono).map(|(key_id, ..)| key_id).collect();
        let next = own.retiring.iter().map(|&(_, _, at)| at).min();
        for key_id in over {
            self.remove_own(key_id);
            self.withdraw_ahead(now, key_id);
        }
        next
    }

    /// A key of ours that was made when our clock was ahead, and is not in use, is withdrawn: others refuse it, and their
    /// tables would not be equal to ours until the time comes.
    pub(crate) fn withdraw_ahead(&mut self, now: Now, key_id: KeyId) {
        let name = ObjectName { origin: self.id, kind: ObjectKind::SEK, id: u64::from(key_id.0) };
        let header = self.objects.get(&name).map(|stored| stored.header);
        let ahead = header.is_some_and(|one| !one.tombstone && UnixMillis(one.version) > now.wall + SKEW);
        if ahead && !self.seks.own_ids.contains_key(&key_id) {
            self.withdraw(now, name);
        }
    }

    /// Wipes a key of ours.
    fn remove_own(&mut self, key_id: KeyId) {
        self.seks.own_ids.remove(&key_id);
        self.outputs.push_back(Output::RemoveKey(key_id));
    }

    /// Makes a SEK for a group, announces it, and switches to it after `lead`. Whether one was made.
    fn make_sek(&mut self, now: Now, group: Group, lead: Duration) -> bool {
        if let Some(refusal) = self.signing_refusal(now) {
            self.refuse_signing(refusal);
            return false;
        }
        let key_id = self.unused_key_id();
        let secret = Secret::filled(|bytes| self.rng.fill_bytes(bytes));
        let mut salt = [0; 16];
        self.rng.fill_bytes(&mut salt);
        let lifetime = self.config.sek_lifetime;
        let spread = lifetime / SPREAD;
        let life = lifetime - self.jitter(spread);
        let Some((suite, epoch, _)) = self.sealing(group, now.wall + lead) else { return false };
        let Some(gak) = self.gaks.get(group, epoch) else { return false };

        let (not_before, version) = (now.wall + lead, now.wall.0);
        // Valid for twice its planned life: it goes on sealing while this process is away.
        let not_after = not_before + lifetime * 2 + self.config.overlap;
        let wrapped = wrap(&derive::wrap_key(gak, self.id, version, key_id, &salt), &secret);
        let payload =
            SekPayload { group, epoch, key_id, suite: suite as u8, not_before_ms: not_before.0, salt, wrapped };
        let sek = OwnSek {
            key_id,
            secret,
            epoch,
            suite,
            not_before,
            not_after,
            switch_at: now.mono + lead,
            replace_at: now.mono + lead + life.saturating_sub(self.config.announce_lead),
            packets: 0,
        };
        self.outputs.extend(self.own_key(group, &sek).map(Output::InstallKey));
        self.seks.own_ids.insert(key_id, group);
        self.seks.own.entry(group).or_default().next = Some(sek);
        self.counters.seks_made += 1;
        self.event(Event::SekMade { group, key_id });
        let name = ObjectName { origin: self.id, kind: ObjectKind::SEK, id: u64::from(key_id.0) };
        self.announce(now, name, version, not_after, &payload.to_bytes());
        if lead.is_zero() {
            self.switch(now, group);
        }
        self.timers.set_by(Timer::Seks, now.mono);
        true
    }

    /// Signs an object of ours, stores and floods it.
    /// Whether that worked.
    pub(crate) fn announce(
        &mut self,
        now: Now,
        name: ObjectName,
        version: u64,
        end: UnixMillis,
        payload: &[u8],
    ) -> bool {
        let not_after = u32::try_from(end.0.div_ceil(1000)).unwrap_or(u32::MAX);
        self.publish(now, &ObjectHeader { tombstone: false, name, version, not_after }, payload)
    }

    /// Withdraws an object of ours. The tombstone stays for as long as what it withdraws could be valid.
    pub(crate) fn withdraw(&mut self, now: Now, name: ObjectName) {
        let Some(stored) = self.objects.get(&name) else { return };
        let header = ObjectHeader {
            tombstone: true,
            version: stored.header.version.saturating_add(1).max(now.wall.0),
            ..stored.header
        };
        self.publish(now, &header, &[]);
    }

    /// The one place where this gateway signs.
    fn publish(&mut self, now: Now, header: &ObjectHeader, payload: &[u8]) -> bool {
        let name = header.name;
        if let Some(refusal) = self.signing_refusal(now) {
            self.counters.unsigned += 1;
            self.refuse_signing(refusal);
            return false;
        }
        self.signing_refused = false;
        let body = object::sign(&self.signing_key, header, payload);
        match self.objects.publish(now.wall, &body) {
            Ok(_) => {
                self.forget_evicted(now);
                self.timers.set_by(Timer::Expiry, now.mono);
                self.flood_own(now.mono, name);
                true
            }
            Err(refusal) => {
                // Only a table full of others' objects does this; the next digest cannot help, the operator can.
                self.counters.refused_object += 1;
                self.event(Event::OwnObjectRefused { kind: name.kind, id: name.id, what: refusal.to_string() });
                false
            }
        }
    }

    /// Why nothing may be signed now.
    pub fn signing_refusal(&self, now: Now) -> Option<String> {
        let behind_ms = self.clock_floor.0.saturating_sub(now.wall.0);
        if self.is_revoked() {
            Some("this node is revoked".into())
        } else if u128::from(behind_ms) > SKEW.as_millis() {
            Some("the wall clock is more than 30 s behind what it is known to have been".into())
        } else {
            None
        }
    }

    /// Whether an administrator revoked our node.
    pub fn is_revoked(&self) -> bool {
        self.objects.is_revoked(self.id)
    }

    /// Says so, once.
    fn refuse_signing(&mut self, what: String) {
        if !core::mem::replace(&mut self.signing_refused, true) {
            self.event(Event::SigningRefused { what });
        }
    }

    /// The operator vouches for the wall clock.
    pub(crate) fn accept_clock(&mut self, now: Now) {
        self.clock_floor = self.clock_floor.min(now.wall);
        self.take_back_epochs(now);
        self.announce_node(now, now.wall.0);
        self.redate_own(now);
        self.tend_own(now);
    }

    fn own_key(&self, group: Group, sek: &OwnSek) -> Option<InstallKey> {
        let gak = self.gaks.get(group, sek.epoch)?;
        let (suite, origin, key_id, epoch) = (sek.suite, self.id, sek.key_id, sek.epoch);
        let (traffic_key, salt) = Traffic { sek: &sek.secret, gak, suite, group, origin, key_id, epoch }.derive();
        let not_after = sek.not_after;
        Some(InstallKey { key_id, origin, group, epoch, suite, seals: true, traffic_key, salt, not_after })
    }

    /// The node that a key is of.
    pub(crate) fn origin_of(&self, key_id: KeyId) -> Option<NodeId> {
        let own = self.seks.own_ids.contains_key(&key_id).then_some(self.id);
        own.or_else(|| self.seks.transit.get(&key_id).map(|(origin, _)| *origin))
    }

    /// A random id that names no key known here.
    fn unused_key_id(&mut self) -> KeyId {
        loop {
            let key_id = KeyId(self.rng.next_u32());
            let known = self.seks.transit.contains_key(&key_id) || self.seks.adopted.contains_key(&key_id);
            if key_id.0 != 0 && !known && !self.seks.own_ids.contains_key(&key_id) {
                return key_id;
            }
        }
    }

    /// The operator wants a new key.
    pub(crate) fn rotate(&mut self, now: Now, group: Group) {
        let pending = self.seks.own.get(&group).is_some_and(|own| own.next.is_some());
        if self.seks.incarnation.is_some() && !pending {
            self.make_sek(now, group, self.config.announce_lead);
            self.tend_own(now);
        }
    }

    /// The operator wants a new key now, and those before never to be accepted again.
    pub(crate) fn replace_at_once(&mut self, now: Now, group: Group) {
        if self.seks.incarnation.is_none() || self.signing_refusal(now).is_some() {
            return;
        }
        self.replace_after(now, group, Duration::ZERO);
        let Some(own) = self.seks.own.get_mut(&group) else { return };
        let replaced: Vec<_> = own.retiring.drain(..).map(|(key_id, ..)| key_id).collect();
        for key_id in replaced {
            self.withdraw(now, ObjectName { origin: self.id, kind: ObjectKind::SEK, id: u64::from(key_id.0) });
            self.remove_own(key_id);
        }
    }

    /// The data plane reports how much a key sealed.
    pub(crate) fn sealed(&mut self, now: Now, key_id: KeyId, packets: u64) {
        let Some(&group) = self.seks.own_ids.get(&key_id) else { return };
        let active = self.seks.own.get_mut(&group).and_then(|own| own.active.as_mut());
        let Some(sek) = active.filter(|sek| sek.key_id == key_id) else { return };
        sek.packets = packets;
        if packets >= SOFT_LIMIT_PACKETS {
            sek.replace_at = now.mono;
            if packets >= URGENT_LIMIT_PACKETS {
                self.replace_after(now, group, Duration::ZERO);
            }
            self.tend_own(now);
        }
    }

    /// A new key is announced in place of one that is announced already. Whether one was made.
    fn replace_after(&mut self, now: Now, group: Group, lead: Duration) -> bool {
        if let Some(refusal) = self.signing_refusal(now) {
            self.refuse_signing(refusal);
            return false;
        }
        let next = self.seks.own.get_mut(&group).and_then(|own| own.next.take());
        if let Some(sek) = next {
            self.remove_own(sek.key_id);
            self.withdraw_ahead(now, sek.key_id);
        }
        self.make_sek(now, group, lead)
    }

    /// The wall clock was set: every key gets a successor with a validity by the new time, at once where the old one is
    /// over by it.
    pub(crate) fn redate_own(&mut self, now: Now) {
        let sealing = self.seks.own.iter().filter_map(|(&group, own)| Some((group, own.active.as_ref()?.not_after)));
        for (group, not_after) in sealing.collect::<Vec<_>>() {
            let lead = if now.wall > not_after { Duration::ZERO } else { self.config.announce_lead };
            self.replace_after(now, group, lead);
        }
    }

    /// Packets wait for a key.
    pub(crate) fn missing_key(&mut self, now: Now, key_id: KeyId) {
        if self.seks.learnt.contains_key(&key_id) {
            // It was installed; the map lost it.
            self.reinstall_learnt(key_id);
        } else {
            self.request_missing(now.mono, u64::from(key_id.0));
        }
    }

    /// Wipes keys of ours whose epoch is over.
    fn drop_stale(&mut self, group: Group, stale: impl Fn(Epoch) -> bool) {
        let Some(own) = self.seks.own.get_mut(&group) else { return };
        let made = [&mut own.active, &mut own.next].map(|sek| sek.take_if(|sek| stale(sek.epoch)));
        let retiring = own.retiring.extract_if(.., |(_, epoch, _)| stale(*epoch)).map(|(key_id, ..)| key_id);
        let adopted = own.adopted.extract_if(.., |key| stale(key.epoch)).map(|key| key.key_id);
        let over: Vec<_> = made.into_iter().flatten().map(|sek| sek.key_id).chain(retiring).chain(adopted).collect();
        over.into_iter().for_each(|key_id| self.remove_own(key_id));
    }

    /// The configuration changed: keys of groups that are gone or may no longer be used are wiped, others are made. Where
    /// an epoch has another GAK than before, no key made under the old one stays in use.
    pub(crate) fn regroup(&mut self, now: Now, rekeyed: &[(Group, Epoch)]) {
        let gone: Vec<_> = self
            .seks
            .learnt
            .iter()
            .filter(|(_, learnt)| {
                !self.delivers(learnt.group, learnt.epoch) || rekeyed.contains(&(learnt.group, learnt.epoch))
            })
            .map(|(&key_id, _)| key_id)
            .collect();
        for key_id in gone {
            self.wipe(key_id);
        }
        // What did not open may do so now.
        self.seks.unopened.clear();
        let is_unwanted =
            |key: &AdoptedKey| !self.delivers(key.group, key.epoch) || rekeyed.contains(&(key.group, key.epoch));
        let adopted = self.seks.adopted.iter();
        let unwanted: Vec<_> = adopted.filter(|(_, key)| is_unwanted(key)).map(|(&key_id, _)| key_id).collect();
        for key_id in unwanted {
            self.seks.adopted.remove(&key_id);
            self.outputs.push_back(Output::RemoveKey(key_id));
        }
        let groups: Vec<Group> = self.seks.own.keys().copied().collect();
        for group in groups {
            let sends = self.sealing(group, now.wall).is_some();
            let accepted = self.gaks.epochs(group);
            let own = self.seks.own.get_mut(&group).expect("listed above");
            match sends {
                false => {
                    let seks = [own.active.take(), own.next.take()].into_iter().flatten().map(|sek| sek.key_id);
                    let retired = own.retiring.drain(..).map(|(key_id, ..)| key_id);
                    let adopted = own.adopted.drain(..).map(|key| key.key_id);
                    let gone: Vec<_> = seks.chain(retired).chain(adopted).collect();
                    gone.into_iter().for_each(|key_id| self.remove_own(key_id));
                    self.seks.own.remove(&group);
                }
                true => {
                    let stale = |of: Epoch| rekeyed.contains(&(group, of)) || !accepted.contains(&of);
                    if own.active.as_ref().is_some_and(|sek| stale(sek.epoch))
                        || own.adopted.iter().any(|key| stale(key.epoch))
                    {
                        if !self.replace_after(now, group, Duration::ZERO) {
                            // Better nothing than what those who are left out can read.
                            self.drop_stale(group, stale);
                        }
                        continue;
                    }
                    self.drop_stale(group, stale);
                }
            }
        }
        let gone: Vec<_> = self
            .seks
            .proofs
            .iter()
            .filter(|(_, (_, group, epoch))| self.gaks.get(*group, *epoch).is_none())
            .map(|(&key_id, _)| key_id)
            .collect();
        gone.into_iter().for_each(|key_id| self.seks.forget_proof(key_id));
        self.learn_all(now);
        self.tend_own(now);
    }
}
