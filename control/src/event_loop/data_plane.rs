//! The daemon's dealings with the data plane: its connection, the maps, and the flows it is told.

use super::{Daemon, TRANSIT_BATCH};
use crate::bans::Cause;
use crate::clock;
use crate::events::{Entry, Severity};
use crate::legs::Change;
use crate::link::{FailedOpens, LinkEvent};
use crate::maps::{MapError, Maps, Repairs, Transits};
use gemcast_engine::input::{HeardGateway, Input, Segment};
use gemcast_proto::id::{Group, KeyId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// A worker without a sign of life for this long is stuck.
const SILENCE_MS: u64 = 3_000;
/// Groups that are relayed without a rule of this gateway's own.
const TRANSIT_GROUPS_MAX: usize = 1024;
const NO_TRANSITS: Transits = Transits::new();

impl Daemon {
    pub(super) fn on_link(&mut self, heard: Vec<LinkEvent>) {
        for event in heard {
            match event {
                LinkEvent::Up { incarnation } => {
                    self.record(Entry::new(Severity::Info, "data_plane_up", "data plane connected").quietly());
                    self.on_data_plane(incarnation);
                }
                LinkEvent::Down => {
                    self.record(Entry::new(Severity::Warning, "data_plane_down", "data plane lost").quietly());
                    self.engine.handle(clock::now(), Input::DataPlaneDown);
                }
                LinkEvent::Applied(problems) => {
                    problems.iter().for_each(|problem| tracing::warn!("data plane: {problem}"));
                }
                LinkEvent::MissingKey { key_id, group, epoch } => {
                    self.engine.handle(clock::now(), Input::MissingKey { key_id, group, epoch });
                }
                LinkEvent::FailedOpens(failed) => self.on_failed_opens(&failed),
                LinkEvent::Stats => {
                    self.watch_legs();
                    self.watch_own_keys();
                    self.note_gateways();
                    let waiting = std::mem::take(&mut self.waiting);
                    waiting.into_iter().for_each(|waiting| self.reply(waiting.client, &waiting.request));
                }
            }
        }
    }

    /// Opens the maps of the data plane that just connected, unless they are open, and has the engine fill them.
    fn on_data_plane(&mut self, incarnation: u64) {
        let opened = match self.maps.take().filter(|maps| maps.keys.incarnation() == incarnation) {
            Some(maps) => Ok(maps),
            None => Maps::open(self.instance.path()),
        };
        let maps = match opened {
            Ok(maps) => maps,
            Err(error) => return self.begin_trouble("maps", "key maps", &error, "see the log of gemcast-dataplane"),
        };
        self.end_trouble("maps");
        let (incarnation, keys) = (maps.keys.incarnation(), maps.keys.adoptable());
        tracing::info!(keys = keys.len(), "key maps in use");
        self.engine.handle(clock::now(), Input::TransitRoom(maps.transit_room()));
        self.maps = Some(maps);
        self.engine.handle(clock::now(), Input::DataPlaneUp { incarnation, keys });
        // Only once everything wanted is there does the rest go: no packet misses a key in between.
        self.settle();
        if let Some(maps) = &self.maps {
            maps.tidy();
        }
        self.restore_maps();
        if self.config.node.transit && !self.maps.as_ref().is_some_and(Maps::has_transit) {
            let text = "the data plane has no map for transit; sealed packets are not relayed";
            self.begin_trouble("transit", "TRANSIT", &text, "run gemcast-dataplane and gemcastd of one version");
        } else {
            self.end_trouble("transit");
        }
    }

    /// Heartbeat, packet counts, signs of life: once a second.
    pub(super) fn attend_data_plane(&mut self) {
        if self.maps.is_none()
            && let Some((_, incarnation)) = self.link.peer()
        {
            self.on_data_plane(incarnation);
        }
        let Some(maps) = &self.maps else { return };
        let now = clock::now();
        let now_ms = now.mono.0 / 1_000;
        maps.keys.heartbeat(now_ms);
        if self.link.is_up() {
            self.engine.handle(now, Input::Opened(maps.keys.opened()));
        }
        for (key_id, packets) in maps.keys.sealed() {
            self.engine.handle(now, Input::Sealed { key_id, packets });
        }
        let silent = if self.link.is_up() { maps.keys.silent_workers(now_ms, SILENCE_MS) } else { Vec::new() };
        match silent.first() {
            Some((worker, _)) => {
                let text = format!(
                    "{} of its workers, worker {worker} first, left no sign of life for {} s",
                    silent.len(),
                    SILENCE_MS / 1_000
                );
                self.begin_trouble("dataplane_stalled", "data plane", &text, "restart gemcast-dataplane; see its log");
            }
            None => self.end_trouble("dataplane_stalled"),
        }
    }

    /// Maps are a cache: what is in them is compared with what was written, and put right (F13).
    pub(super) fn repair_maps(&mut self) {
        let transits = if self.config.node.transit { &self.transits } else { &NO_TRANSITS };
        let Some(maps) = &mut self.maps else { return };
        let (mut repairs, written) = maps.repair(&self.gtags, transits, &self.bans.key_ids(), self.link.is_up());
        maps.keys.publish();
        match written {
            Ok(()) => self.end_trouble("maps"),
            refused => self.check_written(refused),
        }
        match std::mem::take(&mut repairs.keys.unfit) {
            0 => self.end_trouble("keys_unfit"),
            unfit => {
                let text = format!("no room for {unfit} keys; packets under them are dropped");
                let fix = "fewer groups or sources, or a data plane with more slots";
                self.begin_trouble("keys_unfit", "key maps", &text, fix);
            }
        }
        if repairs == Repairs::default() {
            return;
        }
        let mut entry = Entry::new(Severity::Warning, "maps_repaired", "the maps were changed by another; put right");
        let counts = [
            ("keys_written", repairs.keys.written),
            ("slots_wiped", repairs.keys.wiped),
            ("counters_lost", repairs.keys.uncounted),
            ("group_tags", repairs.gtags),
            ("transits", repairs.transits),
            ("bans", repairs.bans),
            ("sync", usize::from(repairs.sync)),
            ("pins", repairs.pins),
        ];
        for (name, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            entry = entry.with(name, count);
        }
        self.record(entry);
        if repairs.keys.uncounted > 0 {
            self.replace_own_keys();
        }
    }

    /// Writes what is wanted where something else may be expected to be: not worth a word.
    pub(super) fn restore_maps(&mut self) {
        let transits = if self.config.node.transit { &self.transits } else { &NO_TRANSITS };
        let Some(maps) = &mut self.maps else { return };
        let (repairs, written) = maps.repair(&self.gtags, transits, &self.bans.key_ids(), false);
        maps.keys.publish();
        self.check_written(written);
        if repairs.keys.uncounted > 0 {
            self.replace_own_keys();
        }
    }

    /// Counters are lost: every own key ends here, new ones take over at once.
    fn replace_own_keys(&mut self) {
        let (Some(maps), Ok(random)) = (&mut self.maps, clock::seed()) else { return };
        let incarnation = u64::from_ne_bytes(std::array::from_fn(|i| random[i]));
        maps.forget_own(incarnation);
        let keys = maps.keys.adoptable();
        tracing::warn!("packet counters are lost, so new keys replace every own one");
        self.engine.handle(clock::now(), Input::DataPlaneUp { incarnation, keys });
        self.settle();
    }

    /// Relays packets under a key when they come in by this interface.
    pub(super) fn steer_transit(&mut self, key_id: KeyId, ifindex: Option<u32>) {
        match ifindex {
            Some(ifindex) => self.transits.insert(key_id, ifindex),
            None => self.transits.remove(&key_id),
        };
        self.transit_at.get_or_insert_with(|| Instant::now() + TRANSIT_BATCH);
        if self.config.node.transit {
            let written = self.maps.as_ref().map_or(Ok(()), |maps| maps.set_transit(key_id, ifindex));
            self.check_written(written);
        }
    }

    /// Packets under our own keys that come in are ours come back, or a member's that misuses our key ids (R9).
    fn watch_own_keys(&mut self) {
        let Some((_, stats)) = self.link.stats() else { return };
        let now = Instant::now();
        let heard = self.echo.look(stats, now);
        if let Some((interface, packets)) = heard {
            let text = "packets under a key of this gateway come in: a member of the group sends under our key ids, or the \
                        network brings our own packets back";
            if !self.troubles.iter().any(|trouble| trouble.code == "own_key") {
                let entry = Entry::new(Severity::Error, "own_key", text).quietly();
                self.record(entry.with("interface", &interface).with("packets", packets));
            }
            let fix = "look for a loop between untrusted interfaces; without one, find who sends them (tcpdump) and give the \
                       group a GAK without that member";
            self.begin_trouble("own_key", &interface, &text, fix);
        } else if self.echo.is_quiet(now) {
            self.end_trouble("own_key");
        }
    }

    /// Tells the data plane its interfaces and flows, if they changed.
    pub(super) fn update_flows(&mut self) {
        self.transit_groups = if self.config.node.transit { self.groups_to_relay() } else { BTreeSet::new() };
        let (registry, now) = (self.poll.registry(), Instant::now());
        let heard = self.link.configure(&self.config, &self.interfaces, &self.transit_groups, registry, now);
        self.on_link(heard);
    }

    /// Tells the engine of the LAN that this gateway shares with others.
    pub(super) fn update_segment(&mut self) {
        let segment = self.interfaces.segment();
        if segment == self.segment {
            return;
        }
        let name = |segment: &Option<Segment>| segment.as_ref().map(|segment| segment.name.clone());
        if segment.is_some() && name(&segment) != name(&self.segment) {
            self.link.undecide();
        }
        self.segment.clone_from(&segment);
        self.engine.handle(clock::now(), Input::Segment(segment));
    }

    /// Has the data plane stand by for these groups. Where another gateway takes over, it stops by itself soon after this
    /// process does: before the other misses us, which is after two and a half Hellos at the earliest.
    pub(super) fn stand_by(&mut self, groups: BTreeSet<Group>, substitute: bool) {
        let lease = if substitute { self.config.hello_interval * 3 / 2 } else { Duration::ZERO };
        let heard = self.link.stand_by(groups, lease, self.poll.registry(), Instant::now());
        self.on_link(heard);
    }

    /// Tells the engine which other gateways delivered on the LAN since the counters came last.
    fn note_gateways(&mut self) {
        let Some((_, stats)) = self.link.stats() else { return };
        let mut heard = Vec::new();
        let mut counts = BTreeMap::new();
        for gateway in &stats.gateways {
            let Ok(mac) = gateway.mac.as_slice().try_into() else { continue };
            let now = (gateway.frames, gateway.conflicts);
            // New maps count from zero.
            let before = self.heard.get(&mac).copied().filter(|before| *before <= now).unwrap_or_default();
            if now.0 > before.0 {
                heard.push(HeardGateway { mac, conflict: now.1 > before.1 });
            }
            counts.insert(mac, now);
        }
        self.heard = counts;
        if !heard.is_empty() {
            self.engine.handle(clock::now(), Input::GatewaysHeard(heard));
        }
    }

    /// Groups of known keys that this gateway has no rule for.
    fn groups_to_relay(&self) -> BTreeSet<Group> {
        // Rules do not overlap: what contains a group is the last one in front of it, what it contains the next one.
        let rules: BTreeSet<Group> = self.config.groups.iter().map(|rule| rule.group).collect();
        let has_rule = |group: &Group| {
            let before = rules.range(..=group).next_back().is_some_and(|rule| rule.contains(group.mapped()));
            before || rules.range(group..).next().is_some_and(|rule| group.contains(rule.mapped()))
        };
        let relayed = self.engine.keys().into_iter().filter(|key| self.transits.contains_key(&key.key_id));
        let wanted: BTreeSet<_> =
            relayed.filter(|key| !has_rule(&key.group)).map(|key| (key.origin, key.group)).collect();
        let groups = share_out(&wanted, &self.transit_groups, TRANSIT_GROUPS_MAX);
        let all: BTreeSet<_> = wanted.iter().map(|(_, group)| group).collect();
        if all.len() > groups.len() {
            tracing::warn!(groups = all.len(), "more groups to relay than {TRANSIT_GROUPS_MAX}; the rest is not");
        }
        groups
    }

    /// Notices redundant uplinks that fail and come back.
    fn watch_legs(&mut self) {
        let changes = self.link.stats().map(|(at, stats)| self.legs.observe(at, &stats.interfaces)).unwrap_or_default();
        self.announce_legs(changes);
    }

    /// The kernel said that links went up or down: a leg among them is not waited for.
    pub(super) fn watch_links(&mut self) {
        let down = self.interfaces.iter().filter(|interface| !interface.has_link());
        let down: BTreeSet<_> = down.map(|interface| interface.config.name.as_str()).collect();
        let changes = self.legs.observe_links(Instant::now(), &down);
        self.announce_legs(changes);
    }

    fn announce_legs(&mut self, changes: Vec<Change>) {
        for change in changes {
            self.record(match change {
                Change::Lost(interface) => {
                    let text = "no copies of streams arrive by this uplink any more, only by another: no redundancy";
                    Entry::new(Severity::Warning, "leg_lost", text).with("interface", interface)
                }
                Change::Returned(interface) => {
                    Entry::new(Severity::Info, "leg_returned", "copies of streams arrive by this uplink again")
                        .with("interface", interface)
                }
            });
        }
    }

    /// A member of the group floods with packets that name another's key: the workers hold back what they can, and a
    /// ban ends it for a while.
    fn on_failed_opens(&mut self, failed: &FailedOpens) {
        let key_id = failed.key_id;
        if !failed.ban {
            let Some(held_back) = self.refusals.permit(Instant::now()) else { return };
            let text = "packets with a right group tag do not decrypt; those of their source are held back";
            let entry = Entry::new(Severity::Warning, "source_limited", text).with("key", key_id);
            let entry = entry.with("source", failed.source).with("failed", failed.failed);
            return self.record(entry.with("limited", failed.limited).with("held_back", held_back));
        }
        let Some(key) = self.engine.keys().into_iter().find(|key| key.key_id == key_id) else { return };
        let ban_time = self.config.ban_time;
        if self.ban(key_id, Cause::Garbage, Some(Instant::now() + ban_time)) {
            let text = "packets with a right group tag do not decrypt; their key is banned for a while";
            let entry = Entry::new(Severity::Error, "source_banned", text).with("key", key_id);
            let entry = entry.with("origin", key.origin).with("group", key.group).with("source", failed.source);
            self.record(
                entry
                    .with("failed", failed.failed)
                    .with("limited", failed.limited)
                    .with("for", format_args!("{ban_time:?}")),
            );
        }
    }

    /// Lifts the bans whose time is over.
    pub(super) fn end_bans(&mut self) {
        for (key_id, cause) in self.bans.expired(Instant::now()) {
            self.lift_ban(key_id, cause);
            let entry = Entry::new(Severity::Info, "ban_ended", "ban ended").with("key", key_id);
            self.record(entry.with("cause", cause.name()));
        }
    }

    /// Drops packets under a key, until then or for good. `true` when it was not banned for this cause before.
    pub(super) fn ban(&mut self, key_id: KeyId, cause: Cause, until: Option<Instant>) -> bool {
        let new = self.bans.add(key_id, cause, until);
        let written = self.maps.as_ref().map_or(Ok(()), |maps| maps.ban(key_id));
        self.check_written(written);
        new
    }

    /// Takes a ban back.
    pub(super) fn lift_ban(&mut self, key_id: KeyId, cause: Cause) {
        if self.bans.lift(key_id, cause) {
            let written = self.maps.as_ref().map_or(Ok(()), |maps| maps.unban(key_id));
            self.check_written(written);
        }
    }

    pub(super) fn check_written(&mut self, written: Result<(), MapError>) {
        if let Err(error) = written {
            self.begin_trouble("maps", "key maps", &error, "see the log of gemcastd");
        }
    }
}

/// Chooses `max` of the groups that origins have keys of: each origin has its turn, with the groups that are relayed
/// already first, and in each turn those go first, too.
fn share_out(wanted: &BTreeSet<(NodeId, Group)>, relayed: &BTreeSet<Group>, max: usize) -> BTreeSet<Group> {
    let mut by_origin = BTreeMap::<NodeId, Vec<(bool, Group)>>::new();
    for (origin, group) in wanted {
        by_origin.entry(*origin).or_default().push((!relayed.contains(group), *group));
    }
    let mut turns = Vec::with_capacity(wanted.len());
    for groups in by_origin.values_mut() {
        groups.sort_unstable();
        turns.extend(groups.iter().enumerate().map(|(turn, (new, group))| (turn, *new, *group)));
    }
    turns.sort_unstable();
    let mut chosen = BTreeSet::new();
    for (.., group) in turns {
        if chosen.len() == max {
            break;
        }
        chosen.insert(group);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r5_who_has_keys_of_many_groups_leaves_others_their_share_of_what_is_relayed() {
        let group = |number: u16| -> Group { format!("239.1.{}.{}", number >> 8, number & 0xff).parse().unwrap() };
        let (honest, flooder) = (NodeId([1; 8]), NodeId([9; 8]));
        let flood: BTreeSet<_> = (0..500).map(|number| (flooder, group(number))).collect();
        let relayed = share_out(&flood, &BTreeSet::new(), 10);
        assert_eq!(relayed.len(), 10);
        // The flooder came first, with the lowest addresses.
        let mut wanted = flood;
        wanted.extend((600..604).map(|number| (honest, group(number))));
        let relayed = share_out(&wanted, &relayed, 10);
        assert!((600..604).all(|number| relayed.contains(&group(number))) && relayed.len() == 10);
        // What is relayed goes first.
        wanted.extend((0..4).map(|number| (NodeId([5; 8]), group(700 + number))));
        let later = share_out(&wanted, &relayed, 10);
        assert!((600..603).all(|number| later.contains(&group(number))), "{later:?}");
        let identities =
            (0..100).map(|number| (NodeId([0, 0, 0, 0, 0, 0, 0, number]), group(0x300 + u16::from(number))));
        wanted.extend(identities);
        assert!(share_out(&wanted, &relayed, 10).contains(&group(600)), "throw-away identities come after it");
    }
}
