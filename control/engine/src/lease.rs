//! Several gateways on one trusted LAN: for each group one of them forwards, the others stand by.
//!
//! Each gateway announces a LEASE: the LAN segment it is on, its priority, whether it is ready, the Ethernet addresses it
//! delivers from. A ready gateway is a candidate as long as Babel reaches it, or as it is heard on the LAN itself. The
//! winner of a group ([`election`]) seals what comes from the LAN and delivers what goes there. All gateways of a segment
//! are taken to serve the same groups.
//!
//! Who holds the bootstrap key can announce a LEASE of any segment. It counts only from a node that has been vouched for,
//! by an administrator who listed it or by the operator who named it as a peer of the segment, or that has proven to be a
//! member: of the group in question, by a key which our group key unwraps, or, for a group that is not sealed, of any.
//!
//! A gateway that starts listens first: until its table equals its neighbours', so that it knows who is there. When there
//! is another one, it announces itself ready only after it was well for [`STABLE`]: one that comes and goes does not take
//! the groups along each time.

mod election;

use self::election::{Candidate, HANDOVER, Roles};
use crate::config::{GroupConfig, Protection};
use crate::input::{HeardGateway, Segment};
use crate::neighbour::Neighbour;
use crate::output::{Event, Output};
use crate::time::{Instant, Now};
use crate::timer::Timer;
use crate::view::{Election, Role};
use crate::{Engine, SIGNING_RETRY};
use core::time::Duration;
use gemcast_proto::id::{Group, NodeId};
use gemcast_proto::wire::gem::kmg::Rights;
use gemcast_proto::wire::gem::lease::LeasePayload;
use gemcast_proto::wire::gem::{ObjectKind, ObjectName, Range};
use ring::digest::{SHA256, digest};
use std::collections::{BTreeMap, BTreeSet};

/// Validity of a LEASE object; it is made anew halfway.
const LEASE_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// A gateway that starts listens at least this long for others, and for two and a half Hellos.
const LISTEN_MIN: Duration = Duration::from_millis(200);
/// It listens no longer than this, if a neighbour's table stays another one.
const LISTEN_MAX: Duration = Duration::from_secs(3);
/// How long a gateway is well until it takes groups from another one.
const STABLE: Duration = Duration::from_secs(5);
/// While we listen, a gateway whose LEASE is new here is taken to be there this long, until Babel reaches it.
const EXPECTED: Duration = Duration::from_secs(3);
/// A gateway that Babel reaches again counts after this long: what it says of itself since has come in by then.
const RETURNED: Duration = Duration::from_secs(1);
/// A gateway that Babel does not reach and that delivered what we deliver counts this long after it was last heard.
const HEARD: Duration = Duration::from_secs(3);
/// A conflict is another one when the one before is so long ago.
const CONFLICT_OVER: Duration = Duration::from_secs(10);
/// Other gateways of the segment that are known at a time; the LANs of this world have fewer.
const MAX_PEERS: usize = 64;
/// Members that come and go are gathered this long before that leads to an election.
const RECOUNT: Duration = Duration::from_millis(100);

/// Another gateway of our segment.
struct Peer {
    priority: u8,
    ready: bool,
    macs: Vec<[u8; 6]>,
    /// Until when it is taken to be there without being reached, at first.
    expected_until: Instant,
    /// Babel does not reach it any more.
    lost: bool,
    /// Babel reaches it, or again: from when on that counts.
    counts_from: Option<Instant>,
    /// Until when it counts because it is heard on the LAN.
    heard_until: Option<Instant>,
    /// When it last delivered what we deliver.
    conflict_at: Option<Instant>,
}

/// Everything about the segment that this gateway is on.
#[derive(Default)]
pub(crate) struct Leases {
    segment: Option<Segment>,
    /// SHA-256 of its name.
    hash: [u8; 32],
    peers: BTreeMap<NodeId, Peer>,
    data_plane: bool,
    stopping: bool,
    /// Since when nothing has kept us from forwarding.
    well_since: Option<Instant>,
    /// Since when we are ready to forward.
    ready_since: Option<Instant>,
    /// What our LEASE says, and when it is to be made anew.
    announced: Option<(Vec<u8>, Instant)>,
    /// The candidates of the last election; none before the first.
    candidates: Option<Vec<Candidate>>,
    roles: Roles,
    /// What the data plane was told.
    told: Option<(BTreeSet<Group>, bool)>,
    gateways: BTreeSet<[u8; 6]>,
    /// Changes of membership that the last election knew of, and when later ones lead to another.
    counted: u64,
    recount_at: Option<Instant>,
}

impl Leases {
    /// Other nodes may be candidates now.
    pub(crate) fn recount(&mut self) {
        self.candidates = None;
    }

    /// The configuration or the clock changed: everything is elected and announced anew.
    pub(crate) fn renew(&mut self) {
        self.candidates = None;
        self.announced = None;
    }

    pub(crate) fn set_data_plane(&mut self, up: bool) {
        self.data_plane = up;
    }

    fn id(&self) -> u64 {
        u64::from_be_bytes(*self.hash.first_chunk().expect("32 bytes"))
    }
}

impl Engine {
    /// The trusted segment is another one, or came up or down.
    pub(crate) fn set_segment(&mut self, now: Now, segment: Option<Segment>) {
        let named = self.leases.segment.as_ref().map(|segment| &segment.name);
        if segment.as_ref().map(|segment| &segment.name) == named {
            self.leases.segment = segment;
            return;
        }
        if named.is_some() {
            self.withdraw_lease(now, self.leases.id());
        }
        self.leases = Leases { segment, data_plane: self.leases.data_plane, ..Leases::default() };
        let Some(segment) = &self.leases.segment else {
            self.outputs.push_back(Output::StandBy { groups: BTreeSet::new(), substitute: false });
            self.outputs.push_back(Output::Gateways(BTreeSet::new()));
            return;
        };
        self.leases.hash.copy_from_slice(digest(&SHA256, segment.name.as_bytes()).as_ref());
        let known = self.objects.iter().map(|stored| stored.header.name);
        let known: Vec<_> = known.filter(|name| name.kind == ObjectKind::LEASE).collect();
        known.iter().for_each(|name| self.learn_lease(now, name));
    }

    /// A LEASE object is new.
    pub(crate) fn learn_lease(&mut self, now: Now, name: &ObjectName) {
        if self.leases.segment.is_none() && name.origin != self.id {
            return;
        }
        if name.origin == self.id {
            // Of ours from before a restart, or of another gateway with our key. Ours has to be the last word; not at once,
            // as the other may think the same.
            if let Some((_, renew_at)) = &mut self.leases.announced {
                *renew_at = (*renew_at).min(now.mono + SIGNING_RETRY);
            }
            let ours = self.leases.segment.is_some() && name.id == self.leases.id();
            let withdrawn = self.objects.get(name).is_none_or(|stored| stored.header.tombstone);
            if !ours && !withdrawn {
                self.withdraw_lease(now, name.id);
            }
            return;
        }
        let Some(stored) = self.objects.get(name) else { return self.forget_lease(name) };
        let payload = LeasePayload::parse(stored.payload());
        let payload = payload.ok().filter(|lease| !stored.header.tombstone && lease.segment == self.leases.hash);
        let Some(lease) = payload.filter(|lease| lease.id() == name.id) else { return self.forget_lease(name) };
        if self.leases.peers.len() >= MAX_PEERS && !self.leases.peers.contains_key(&name.origin) {
            // Strangers keep nobody out.
            let stranger = self.leases.peers.keys().copied().find(|&node| !self.is_of_segment(node));
            match stranger.filter(|_| self.is_of_segment(name.origin)) {
                Some(stranger) => drop(self.leases.peers.remove(&stranger)),
                None => return,
            }
        }
        let expected_until = now.mono + EXPECTED;
        let fresh = Peer {
            priority: 0,
            ready: false,
            macs: Vec::new(),
            expected_until,
            lost: false,
            counts_from: None,
            heard_until: None,
            conflict_at: None,
        };
        let peer = self.leases.peers.entry(name.origin).or_insert(fresh);
        (peer.priority, peer.ready, peer.macs) = (lease.priority, lease.ready, lease.macs.to_vec());
    }

    /// A LEASE object is withdrawn, or ran out.
    pub(crate) fn forget_lease(&mut self, name: &ObjectName) {
        if name.kind == ObjectKind::LEASE && name.id == self.leases.id() {
            self.leases.peers.remove(&name.origin);
        }
    }

    /// Frames that other gateways delivered on the LAN. Who delivers a group that we deliver, and is not reached by Babel,
    /// is there nevertheless, and takes part (the network between us is cut, the LAN is not).
    pub(crate) fn gateways_heard(&mut self, now: Now, heard: &[HeardGateway]) {
        let mut conflicts = Vec::new();
        for heard in heard {
            let mut known = self.leases.peers.iter().filter(|(node, _)| self.is_of_segment(**node));
            let Some((&node, _)) = known.find(|(_, peer)| peer.macs.contains(&heard.mac)) else { continue };
            let may_forward = self.may_forward(node);
            let peer = self.leases.peers.get_mut(&node).expect("found just now");
            let reached = peer.ready && peer.counts_from.is_some_and(|from| from <= now.mono);
            let counts = peer.heard_until.is_some_and(|until| until > now.mono);
            if may_forward && !reached && (counts || heard.conflict) {
                peer.heard_until = Some(now.mono + HEARD);
            }
            if heard.conflict {
                let before = peer.conflict_at.replace(now.mono);
                if before.is_none_or(|at| now.mono >= at + CONFLICT_OVER) {
                    conflicts.push(node);
                }
            }
        }
        conflicts.into_iter().for_each(|node| self.event(Event::ForwarderConflict { node }));
    }

    /// The process is about to end in order: others take over now, not when they miss us.
    pub(crate) fn stop(&mut self, now: Now) {
        if self.leases.segment.is_none() {
            return;
        }
        self.leases.stopping = true;
        self.tend_lease(now);
        for interface in self.interfaces.values_mut() {
            interface.flood.at = interface.flood.at.map(|_| now.mono);
        }
        let interfaces: Vec<_> = self.interfaces.keys().copied().collect();
        interfaces.into_iter().for_each(|ifindex| self.interface_timeout(now, ifindex));
    }

    /// Looks at who is there, and does what follows: after every event, since any may have changed it.
    pub(crate) fn tend_lease(&mut self, now: Now) {
        let Some(segment) = self.leases.segment.clone() else { return };
        let (others, expected) = self.others(now.mono);
        self.judge_own(now.mono, &segment, expected || !others.is_empty());
        self.announce_lease(now, &segment);
        let own = Candidate { node: self.id, priority: segment.priority };
        let own = Some(own).filter(|_| self.stands(now.mono, others.is_empty()));
        let candidates: Vec<_> = others.into_iter().chain(own).collect();
        let groups = self.config.groups.iter().map(|config| config.group);
        let recount = self.leases.counted != self.seks.membership_changes && {
            let at = *self.leases.recount_at.get_or_insert(now.mono + RECOUNT);
            self.timers.set_by(Timer::Lease, at);
            at <= now.mono
        };
        // With nobody to elect things stay as they are: a data plane that lost its control goes on.
        let elects = !candidates.is_empty() && (recount || self.leases.candidates.as_ref() != Some(&candidates));
        if elects {
            let mut roles = core::mem::take(&mut self.leases.roles);
            let counts = |node, group: &Group| node == self.id || self.counts_for(node, group);
            roles.elect(now.mono, self.id, &self.leases.hash, groups, &candidates, counts);
            self.leases.roles = roles;
            self.leases.candidates = Some(candidates);
        }
        if elects || recount {
            self.leases.counted = self.seks.membership_changes;
            self.leases.recount_at = None;
        }
        let leases = &mut self.leases;
        let advanced = leases.roles.advance(now.mono);
        if let Some(at) = leases.roles.deadline() {
            self.timers.set_by(Timer::Lease, at);
        }
        self.tell_gateways();
        if elects || advanced {
            self.tell_roles();
        }
    }

    /// Whether a node can be elected: what it seals is opened somewhere.
    fn may_forward(&self, node: NodeId) -> bool {
        self.rights(node) != Rights::NONE && !self.is_banned(node)
    }

    /// Whether a node has been vouched for: an administrator listed it, or the operator named it as one of the segment.
    fn is_vouched_for(&self, node: NodeId) -> bool {
        let named = self.leases.segment.as_ref().is_some_and(|segment| segment.peers.contains(&node));
        named || self.objects.is_listed(node)
    }

    /// Whether a node has been vouched for, or proved to be a member of a group of ours.
    fn is_of_segment(&self, node: NodeId) -> bool {
        self.is_vouched_for(node) || self.seks.members.contains_key(&node)
    }

    /// Whether a node can be elected to forward a group.
    fn counts_for(&self, node: NodeId, group: &Group) -> bool {
        let config = self.group_config(*group);
        let sealed = config.is_some_and(|config| matches!(config.protection, Protection::Sealed { .. }));
        let of_groups = self.seks.members.get(&node);
        self.is_vouched_for(node) || of_groups.is_some_and(|groups| !sealed || groups.contains_key(group))
    }

    /// A node proved to be a member of a group of ours: its LEASE may not have counted before.
    pub(crate) fn member_proven(&mut self, now: Now, node: NodeId) {
        if self.leases.segment.is_some() && !self.leases.peers.contains_key(&node) {
            self.learn_lease(now, &ObjectName { origin: node, kind: ObjectKind::LEASE, id: self.leases.id() });
        }
    }

    /// Other gateways that can forward, in the order of their ids; and whether there may be more.
    fn others(&mut self, now: Instant) -> (Vec<Candidate>, bool) {
        let reached = |node| self.interface_towards(node).is_some() && self.may_forward(node);
        let reached: BTreeSet<_> = self.leases.peers.keys().copied().filter(|&node| reached(node)).collect();
        let (mut others, mut expected, mut next) = (Vec::new(), false, None);
        let of_segment: BTreeSet<_> =
            self.leases.peers.keys().copied().filter(|&node| self.is_of_segment(node)).collect();
        for (&node, peer) in self.leases.peers.iter_mut().filter(|(node, _)| of_segment.contains(node)) {
            if reached.contains(&node) {
                let wait = if peer.lost { RETURNED } else { Duration::ZERO };
                peer.counts_from.get_or_insert(now + wait);
            } else {
                peer.lost |= peer.counts_from.take().is_some();
            }
            peer.heard_until = peer.heard_until.filter(|&until| until > now);
            let later = [peer.counts_from, peer.heard_until, Some(peer.expected_until)];
            next = crate::earliest(next, later.into_iter().flatten().filter(|&at| at > now).min());
            // Who delivers is ready, even if we were not told.
            let counts = peer.ready && peer.counts_from.is_some_and(|from| from <= now);
            if counts {
                // Babel tells sooner when it dies.
                peer.heard_until = None;
            }
            if counts || peer.heard_until.is_some() {
                others.push(Candidate { node, priority: peer.priority });
            }
            expected |= peer.ready && peer.expected_until > now;
        }
        if let Some(at) = next {
            self.timers.set_by(Timer::Lease, at);
        }
        (others, expected)
    }

    /// Whether we can forward, and have listened for long enough.
    fn judge_own(&mut self, now: Instant, segment: &Segment, others: bool) {
        if !(segment.up && self.leases.data_plane && !self.leases.stopping) {
            self.leases.well_since = None;
            self.leases.ready_since = None;
            return;
        }
        let since = *self.leases.well_since.get_or_insert(now);
        if self.leases.ready_since.is_some() {
            return;
        }
        let whole = self.objects.digest(Range::WHOLE);
        let equal = |neighbour: &Neighbour| neighbour.peer_table.digest.is_none_or(|digest| digest == whole);
        let proven = |neighbour: &&Neighbour| neighbour.is_up() && neighbour.freshness.is_proven();
        let settled = self.neighbours.values().filter(proven).all(equal);
        let listen = (self.config.hello_interval * 5 / 2).max(LISTEN_MIN);
        let wait = match (others, settled) {
            (true, _) => STABLE.max(listen),
            (false, true) => listen,
            (false, false) => LISTEN_MAX.max(listen),
        };
        if now >= since + wait {
            self.leases.ready_since = Some(now);
        } else {
            self.timers.set_by(Timer::Lease, since + wait);
        }
    }

    /// Whether we stand for election. Gateways that start together hear that the others are ready before one forwards.
    fn stands(&mut self, now: Instant, alone: bool) -> bool {
        let Some(ready_since) = self.leases.ready_since.filter(|_| self.may_forward(self.id)) else {
            return false;
        };
        let from = if alone && !self.leases.peers.is_empty() { ready_since + HANDOVER } else { ready_since };
        if from > now {
            self.timers.set_by(Timer::Lease, from);
        }
        from <= now
    }

    /// Says what changed about us, and says it again before it runs out.
    fn announce_lease(&mut self, now: Now, segment: &Segment) {
        if !segment.up || self.leases.stopping {
            self.leases.announced = None;
            return self.withdraw_lease(now, self.leases.id());
        }
        let (hash, priority, ready) = (self.leases.hash, segment.priority, self.leases.ready_since.is_some());
        let lease = LeasePayload { segment: hash, priority, ready, macs: &segment.macs };
        let mut payload = [0; LeasePayload::MAX_LEN];
        let len = lease.emit(&mut payload);
        if let Some((said, renew_at)) = &self.leases.announced
            && said[..] == payload[..len]
            && *renew_at > now.mono
        {
            return self.timers.set_by(Timer::Lease, *renew_at);
        }
        let name = ObjectName { origin: self.id, kind: ObjectKind::LEASE, id: self.leases.id() };
        let known = self.objects.get(&name).map_or(0, |stored| stored.header.version.saturating_add(1));
        let made = self.announce(now, name, now.wall.0.max(known), now.wall + LEASE_LIFETIME, &payload[..len]);
        let renew_at = now.mono + if made { LEASE_LIFETIME / 2 } else { SIGNING_RETRY };
        self.leases.announced = Some((payload[..len].to_vec(), renew_at));
        self.timers.set_by(Timer::Lease, renew_at);
    }

    /// Takes a LEASE of ours back, if there is one.
    fn withdraw_lease(&mut self, now: Now, id: u64) {
        let name = ObjectName { origin: self.id, kind: ObjectKind::LEASE, id };
        if self.objects.get(&name).is_some_and(|stored| !stored.header.tombstone) {
            self.withdraw(now, name);
        }
    }

    /// Tells the data plane whose frames on the LAN are no host's.
    fn tell_gateways(&mut self) {
        let known = self.leases.peers.iter().filter(|(node, _)| self.is_of_segment(**node));
        let gateways: BTreeSet<_> = known.flat_map(|(_, peer)| &peer.macs).copied().collect();
        if gateways != self.leases.gateways {
            self.outputs.push_back(Output::Gateways(gateways.clone()));
            self.leases.gateways = gateways;
        }
    }

    /// Tells the data plane which groups stand by.
    fn tell_roles(&mut self) {
        let Some(candidates) = &self.leases.candidates else { return };
        let others: Vec<_> = candidates.iter().map(|one| one.node).filter(|&node| node != self.id).collect();
        let has_other = |config: &GroupConfig| others.iter().any(|&node| self.counts_for(node, &config.group));
        let substitute = !others.is_empty() && self.config.groups.iter().all(has_other);
        let groups = self.config.groups.iter().map(|config| config.group);
        let groups: BTreeSet<_> = groups.filter(|group| !self.leases.roles.forwards(group)).collect();
        let (taken, left) = match &self.leases.told {
            Some((before, told)) if *before == groups && *told == substitute => return,
            Some((before, _)) => (before.difference(&groups).count(), groups.difference(before).count()),
            None => (self.leases.roles.forwarded(), 0),
        };
        self.leases.told = Some((groups.clone(), substitute));
        self.outputs.push_back(Output::StandBy { groups, substitute });
        if taken + left > 0 {
            self.event(Event::ForwarderChanged { taken, left });
        }
    }

    /// Who forwards a group on this gateway's LAN, and why; `None` where it shares the LAN with nobody, by configuration.
    pub fn election(&self, group: &Group) -> Option<Election> {
        let role = self.role(group)?;
        let candidates = self.leases.candidates.as_deref().unwrap_or_default();
        let priority = candidates.iter().map(|candidate| candidate.priority).max().unwrap_or(0);
        let equals = candidates.iter().filter(|candidate| candidate.priority == priority).count();
        Some(Election { role, candidates: candidates.len(), priority, equals })
    }

    /// What this gateway is to a group on its LAN, if it shares that.
    pub(crate) fn role(&self, group: &Group) -> Option<Role> {
        self.leases.segment.as_ref()?;
        Some(match self.leases.roles.winners.get(group) {
            None => Role::Listening,
            Some(_) if self.leases.roles.forwards(group) => Role::Forwarder,
            Some(winner) if *winner == self.id => Role::Listening,
            Some(winner) => Role::Standby(*winner),
        })
    }
}
