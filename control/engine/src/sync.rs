//! How GEM objects spread: a flood for what is new, digests for what a flood missed.
//!
//! A new object goes out at once by multicast (batched, repeated) and is passed on by everyone to whom it is new. Who
//! missed it, or was away, has another digest than its neighbours; the two then walk down the digest tree by unicast
//! until they know which objects differ, and send just those. What was learnt that way is not flooded on: the other
//! neighbours are told the new digest, and take what they lack. So a restarted gateway pulls the table over one link,
//! and no other link carries it again.

use crate::Engine;
use crate::input::Ifindex;
use crate::interface::Message;
use crate::neighbour::Neighbour;
use crate::object::{Offer, Refusal};
use crate::output::Event;
use crate::rate::{Bucket, Limit};
use crate::reputation::Fault;
use crate::time::{Instant, Now};
use crate::timer::Timer;
use core::net::Ipv6Addr;
use core::time::Duration;
use gemcast_proto::id::{KeyId, NodeId};
use gemcast_proto::wire::babel::Tlv;
use gemcast_proto::wire::gem::{self, Digest, Entry, ObjectHeader, ObjectKind, ObjectName, Range, Request, Summary};
use rand_chacha::rand_core::RngCore;
use std::collections::BTreeSet;

/// Changes are gathered this long before they are sent.
pub(crate) const BATCH: Duration = Duration::from_millis(100);
/// Time between the transmissions of one flooded object.
const REPEAT: Duration = Duration::from_millis(300);
/// Transmissions of a flooded object: once, and repeated twice.
const SENDS: u8 = 3;
/// Neighbours on one link whose tables differ from ours, from which on what one lacks is sent to all.
const MANY_LACKING: usize = 3;
/// Spread of such transmissions per neighbour, so that few send the same at the same time.
const SUPPRESSION: Duration = Duration::from_millis(10);
/// Hellos that carry the digest after a change.
const DIGEST_HELLOS: u8 = 3;
/// Objects sent to one neighbour, or flooded by one interface, in one go.
const DELIVERY_BATCH: usize = 64;
/// Time between two such goes.
const DELIVERY_PACE: Duration = Duration::from_millis(5);
/// After traffic with a neighbour about differences, its digest is not acted on for this long.
const SETTLE: Duration = Duration::from_millis(400);
/// Wait until the comparison with a neighbour that still differs is repeated; doubled each time it brought nothing.
const RETRY: Duration = Duration::from_millis(500);
/// The same on a link that lost one of the last Hellos: a comparison takes four packets, all of which have to arrive.
const RETRY_LOSSY: Duration = Duration::from_millis(150);
/// Doublings of that wait.
const RETRY_DOUBLINGS: u32 = 2;
/// For this long after a comparison began, went a step further or brought an object, the table is compared with that neighbour only, so
/// that differences come in once.
const SESSION: Duration = Duration::from_millis(200);
/// The same on a link whose round trips are longer.
const SESSION_MAX: Duration = Duration::from_secs(3);
/// The same for the wildcard request of the start, and the time until it is repeated.
const INITIAL_SESSION: Duration = Duration::from_secs(1);
/// After objects of a neighbour found no room, the comparison goes on for this long, for the sake of those that find some,
const REFUSED_WINDOW: Duration = Duration::from_secs(3);
/// and rests until this long after the first.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);
/// Tries of the wildcard request at the start.
const INITIAL_TRIES: u8 = 8;

/// Digests, summaries and requests of one neighbour that are answered: two tables of 10,000 objects that have nothing in
/// common ask each other 4,400.
const QUESTIONS: Limit = Limit { interval: Duration::from_micros(100), burst: 20_000 };
/// Objects whose walk costs as much as another question.
const WALK: u32 = 32;
/// Objects that a summary may have us walk without counting as a request for everything.
const CHEAP_RANGE: usize = 256;
/// Requests of one neighbour for everything that are answered.
const WILDCARDS: Limit = Limit { interval: Duration::from_secs(1), burst: 2 };
/// Objects of one neighbour that are looked at; each may cost a signature check.
const OBJECTS: Limit = Limit { interval: Duration::from_micros(200), burst: 20_000 };
/// Signatures of one interface's objects that are checked, all its neighbours together: there can be as many of those as
/// one likes to be.
const CHECKS: Limit = Limit { interval: Duration::from_micros(100), burst: 40_000 };
/// Requests sent for keys that packets wait for.
const MISSING: Limit = Limit { interval: Duration::from_millis(10), burst: 50 };

/// Names a neighbour: interface and address, link-local or that of a unicast peer, an IPv4 one in its mapped form.
pub(crate) type NeighbourKey = (Ifindex, Ipv6Addr);

/// A neighbour's table, as far as it is known.
#[derive(Default)]
pub(crate) struct PeerTable {
    /// Its last digest.
    pub(crate) digest: Option<Digest>,
    /// Objects it lacks, to be sent.
    pub(crate) queue: BTreeSet<ObjectName>,
    settled_at: Instant,
    /// While the tables differ: when they are compared again, and how often that has brought nothing so far.
    pub(crate) retry_at: Option<Instant>,
    pub(crate) tries: u32,
    questions: Bucket,
    wildcards: Bucket,
    objects: Bucket,
    /// Since when what it has finds no room here.
    refused_at: Option<Instant>,
}

impl PeerTable {
    /// Until when the table is not compared with this one again, after what came of it found no room: those objects would
    /// only come again.
    fn paused_until(&mut self, now: Instant) -> Option<Instant> {
        self.refused_at = self.refused_at.filter(|&at| now < at + REFUSED_PAUSE);
        self.refused_at.filter(|&at| now >= at + REFUSED_WINDOW).map(|at| at + REFUSED_PAUSE)
    }

    /// The tables are equal: there is nothing to compare.
    fn settle(&mut self) {
        self.retry_at = None;
        self.tries = 0;
    }
}

/// Comparison of the whole table with one neighbour at a time.
#[derive(Default)]
pub(crate) struct Session {
    partner: Option<(NeighbourKey, Instant)>,
    initial_tries: u8,
    initial_done: bool,
    missing: Bucket,
}

impl Session {
    /// Whether another neighbour than `key` is being compared with.
    fn is_with_other(&self, now: Instant, key: NeighbourKey) -> bool {
        self.free_at(now, key).is_some()
    }

    /// Differences are looked for, or came in: for a while from this neighbour only.
    fn extend(&mut self, now: Instant, key: NeighbourKey, by: Duration) {
        if !self.is_with_other(now, key) {
            let until = self.partner.filter(|(partner, _)| *partner == key).map_or(now, |(_, until)| until);
            self.partner = Some((key, until.max(now + by)));
        }
    }

    /// When another neighbour than `key` may be compared with.
    fn free_at(&self, now: Instant, key: NeighbourKey) -> Option<Instant> {
        self.partner.filter(|(partner, until)| *partner != key && now < *until).map(|(_, until)| until)
    }
}

impl Engine {
    /// A neighbour proved that it is alive, or is heard again after a silence.
    pub(crate) fn adjacency_returned(&mut self, now: Now, key: NeighbourKey) {
        self.hasten_hello(now, key.0);
        // RFC 8966 §3.8.1.1: its routes are wanted now, not at its next periodic update.
        let routes = Message::Tlv(Tlv::RouteRequest { prefix: None, source: None, via_v6: false });
        self.push(key.0, Some(key.1), routes, now.mono);
        if !self.session.initial_done && self.session.initial_tries == 0 {
            self.request_everything(now.mono, key);
            return;
        }
        self.send_digest(now.mono, key, Range::WHOLE);
        self.table_differs(now.mono, key.0);
    }

    /// The start's wildcard request, to one neighbour.
    fn request_everything(&mut self, now: Instant, key: NeighbourKey) {
        self.session.initial_tries += 1;
        self.session.extend(now, key, INITIAL_SESSION);
        self.timers.set(Timer::InitialSync, now + INITIAL_SESSION);
        self.push(key.0, Some(key.1), Message::Bytes { kind: gem::REQUEST, body: Box::default() }, now);
    }

    /// Nothing came of the wildcard request: asks the next neighbour.
    pub(crate) fn retry_initial_sync(&mut self, now: Now) {
        if self.session.initial_done || self.session.initial_tries >= INITIAL_TRIES {
            return;
        }
        let last = self.session.partner.take().map(|(key, _)| key);
        let proven = |(_, neighbour): &(&NeighbourKey, &Neighbour)| neighbour.freshness.is_proven();
        let after = self.neighbours.iter().filter(proven).map(|(key, _)| *key).find(|&key| Some(key) > last);
        let next = after.or_else(|| self.neighbours.iter().find(proven).map(|(key, _)| *key));
        match next {
            Some(key) => self.request_everything(now.mono, key),
            None => self.session.initial_tries = 0,
        }
    }

    /// An object of ours is new: it is flooded everywhere.
    pub(crate) fn flood_own(&mut self, now: Instant, name: ObjectName) {
        self.flood(now, name, None);
        self.table_changed(now);
    }

    fn flood(&mut self, now: Instant, name: ObjectName, except: Option<Ifindex>) {
        for (&ifindex, interface) in &mut self.interfaces {
            let heard = self.neighbours.range(crate::neighbours_of(ifindex)).any(|(_, n)| n.freshness.is_proven());
            if Some(ifindex) != except && heard {
                interface.flood.add(name, SENDS, now + BATCH);
            }
        }
    }

    fn table_changed(&mut self, now: Instant) {
        // Whoever has not said by its next Hello that it has the same now, is asked.
        let differing = |(_, neighbour): &(&NeighbourKey, &mut Neighbour)| neighbour.peer_table.digest.is_some();
        for (key, neighbour) in self.neighbours.iter_mut().filter(differing) {
            let own = self.interfaces.get(&key.0).and_then(|interface| interface.info.settings.hello_interval);
            let at = now + own.unwrap_or(self.config.hello_interval) + 2 * BATCH;
            let retry_at = &mut neighbour.peer_table.retry_at;
            *retry_at = Some(retry_at.map_or(at, |old| old.min(at)));
        }
        for interface in self.interfaces.values_mut() {
            interface.digests_left = DIGEST_HELLOS;
        }
    }

    fn table_differs(&mut self, now: Instant, ifindex: Ifindex) {
        if let Some(interface) = self.interfaces.get_mut(&ifindex) {
            interface.digests_left = DIGEST_HELLOS;
            interface.digest_at = interface.digest_at.or(Some(now + BATCH));
        }
    }

    /// Sends what an interface floods and is due.
    pub(crate) fn send_flood(&mut self, now: Now, ifindex: Ifindex) {
        let whole = self.objects.digest(Range::WHOLE);
        let mut neighbours = self.neighbours.range(crate::neighbours_of(ifindex)).map(|(_, neighbour)| neighbour);
        let all_equal = neighbours.all(|neighbour| neighbour.peer_table.digest == Some(whole));
        let Some(interface) = self.interfaces.get_mut(&ifindex) else { return };
        let flood = &mut interface.flood;
        if all_equal {
            // Everyone here has the table that we have: a repetition tells nobody anything.
            flood.sends_left.retain(|_, left| *left == SENDS);
        }
        for name in flood.take(now.mono, DELIVERY_BATCH, DELIVERY_PACE, REPEAT) {
            self.push_object(now, ifindex, None, &name);
        }
    }

    fn push_object(&mut self, now: Now, ifindex: Ifindex, to: Option<Ipv6Addr>, name: &ObjectName) {
        let Some(stored) = self.objects.get(name).filter(|stored| now.wall <= stored.not_after()) else { return };
        let message = Message::Bytes { kind: gem::OBJECT, body: stored.body.clone() };
        self.counters.objects_sent += 1;
        self.push(ifindex, to, message, now.mono);
    }

    /// Tells a neighbour what we have in a subtree.
    pub(crate) fn send_digest(&mut self, now: Instant, key: NeighbourKey, range: Range) {
        let body = self.objects.digest(range).to_bytes().into();
        self.push(key.0, Some(key.1), Message::Bytes { kind: gem::DIGEST, body }, now);
    }

    /// Tells all neighbours of an interface what we have.
    pub(crate) fn send_digest_to_all(&mut self, now: Instant, ifindex: Ifindex) {
        let body = self.objects.digest(Range::WHOLE).to_bytes().into();
        self.push(ifindex, None, Message::Bytes { kind: gem::DIGEST, body }, now);
    }

    /// Whether the Hello about to leave an interface is to carry the digest.
    pub(crate) fn hello_carries_digest(&mut self, ifindex: Ifindex) -> bool {
        let whole = self.objects.digest(Range::WHOLE);
        let mut digests = self.neighbours.range(crate::neighbours_of(ifindex)).map(|(_, n)| n.peer_table.digest);
        let differs = digests.any(|digest| digest.is_some_and(|digest| digest != whole));
        let Some(interface) = self.interfaces.get_mut(&ifindex) else { return false };
        let changed = interface.digests_left > 0;
        interface.digests_left = interface.digests_left.saturating_sub(1);
        differs || changed
    }

    /// GEM-OBJECT.
    pub(crate) fn process_object(&mut self, now: Now, key: NeighbourKey, unicast: bool, body: &[u8]) {
        let Some(neighbour) = self.neighbours.get_mut(&key) else { return };
        if !neighbour.peer_table.objects.take(now.mono, OBJECTS) {
            self.counters.refused_quota += 1;
            self.blame(now, key, Fault::Excess);
            return;
        }
        let checked = self.objects.is_news(body);
        if checked && !self.objects.may_change(now.mono, body) {
            self.counters.refused_quota += 1;
            return;
        }
        if checked && !self.objects.has_room(body) {
            self.counters.refused_quota += 1;
            if unicast {
                neighbour.peer_table.refused_at.get_or_insert(now.mono);
                neighbour.peer_table.settled_at = now.mono + SETTLE;
            }
            return;
        }
        if checked && !self.interfaces.get_mut(&key.0).is_some_and(|one| one.checks.take(now.mono, CHECKS)) {
            self.counters.refused_checks += 1;
            return;
        }
        let offer = self.objects.offer(now.wall, body);
        let current = matches!(offer, Ok(Offer::Accepted | Offer::Repeated | Offer::Conflict { replaced: true }));
        if unicast {
            neighbour.peer_table.settled_at = now.mono + SETTLE;
        } else if let (true, Some(interface)) = (current, self.interfaces.get_mut(&key.0)) {
            // Everyone on the link heard it: one transmission less for us.
            interface.flood.heard(&gem::Object::parse(body).expect("accepted").header.name);
        }
        match offer {
            Ok(offer @ (Offer::Accepted | Offer::Conflict { replaced: true })) => {
                let header = gem::Object::parse(body).expect("accepted").header;
                self.counters.objects_accepted += 1;
                self.objects.changed(now.mono, header.name.origin);
                neighbour.peer_table.tries = 0;
                self.timers.set_by(Timer::Expiry, now.mono);
                if unicast {
                    self.keep_session(now.mono, key);
                    self.session.initial_done = true;
                    let others: Vec<_> = self.interfaces.keys().copied().filter(|&ifindex| ifindex != key.0).collect();
                    for ifindex in others {
                        self.table_differs(now.mono, ifindex);
                    }
                } else {
                    self.flood(now.mono, header.name, Some(key.0));
                }
                self.table_changed(now.mono);
                if offer != Offer::Accepted {
                    self.conflict(now, &header);
                }
                self.object_changed(now, Some(key), &header);
                self.forget_evicted(now);
            }
            Ok(Offer::Conflict { replaced: false }) => {
                let header = gem::Object::parse(body).expect("accepted").header;
                self.conflict(now, &header);
                if unicast {
                    // In a comparison it is the other side's turn to send: it has to hear the one that wins, too.
                    self.enqueue(now.mono, key, BTreeSet::from([header.name]));
                }
            }
            Ok(Offer::Repeated | Offer::Outdated) => self.counters.objects_repeated += 1,
            Err(Refusal::UnknownOrigin) => {
                self.counters.refused_object += 1;
                let name = gem::Object::parse(body).expect("its origin was looked up").header.name;
                let node = ObjectName { origin: name.origin, kind: ObjectKind::NODE, id: 0 };
                self.request(now.mono, key, [node, name].map(|name| Entry { name, version: 0 }));
            }
            Err(Refusal::Revoked) => self.counters.refused_revoked += 1,
            Err(Refusal::Quota) => self.counters.refused_quota += 1,
            // A neighbour whose clock is behind ours still has what ran out here; no fault of its.
            Err(Refusal::Expired) => self.counters.objects_repeated += 1,
            // Nor whose fault it is that a clock is ahead of ours, or ours behind.
            Err(Refusal::Ahead(ahead)) => {
                self.counters.refused_object += 1;
                let origin = gem::Object::parse(body).expect("its signature was verified").header.name.origin;
                self.alarm(now, Event::ClockAhead { origin, ahead });
            }
            Err(refusal) => {
                self.counters.refused_object += 1;
                self.refused(now, key, format!("GEM object: {refusal}"));
                self.blame_for_object(now, key, refusal, body);
            }
        }
    }

    fn conflict(&mut self, now: Now, header: &ObjectHeader) {
        let name = header.name;
        self.counters.conflicts += 1;
        self.alarm(now, Event::Conflict { origin: name.origin, kind: name.kind, id: name.id });
        self.blame_contradiction(now, header);
    }

    /// GEM-DIGEST.
    pub(crate) fn process_digest(&mut self, now: Now, key: NeighbourKey, unicast: bool, theirs: Digest) {
        let Some(neighbour) = self.neighbours.get_mut(&key) else { return };
        let peer = &mut neighbour.peer_table;
        let whole = theirs.range == Range::WHOLE;
        // The digest of the whole is at hand; any other is a walk, which is paid for first.
        if !whole && !peer.questions.take(now.mono, QUESTIONS) {
            return;
        }
        let mine = self.objects.digest(theirs.range);
        if whole {
            peer.digest = Some(theirs);
        } else {
            peer.questions.charge(now.mono, QUESTIONS, mine.count / WALK);
        }
        if theirs == mine {
            if whole {
                peer.queue.clear();
                peer.settle();
                self.session.initial_done = true;
            }
            return;
        }
        if let Some(until) = peer.paused_until(now.mono) {
            peer.retry_at = Some(until);
            return;
        }
        if whole {
            peer.retry_at = peer.retry_at.or(Some(now.mono + RETRY));
        }
        let unsettled = whole && (now.mono < peer.settled_at || !peer.queue.is_empty());
        if unsettled || self.session.is_with_other(now.mono, key) {
            return;
        }
        if whole && !peer.questions.take(now.mono, QUESTIONS) {
            return;
        }
        if !whole {
            self.keep_session(now.mono, key);
            self.ask(now.mono, key, theirs.range);
        } else if self.asks(key) || !unicast {
            self.compare(now.mono, key);
        }
    }

    /// Of two neighbours that differ, the one with the lower address asks, so that it is asked once.
    fn asks(&self, key: NeighbourKey) -> bool {
        let ours = self.interfaces.get(&key.0).and_then(|interface| interface.info.source_towards(key.1));
        ours.is_some_and(|ours| ours < key.1)
    }

    /// The comparison with a neighbour goes on: it takes several round trips, each of which may be long.
    fn keep_session(&mut self, now: Instant, key: NeighbourKey) {
        let round_trip = self.neighbours.get(&key).and_then(|neighbour| neighbour.round_trip.smoothed());
        let by = SESSION.max(2 * round_trip.unwrap_or_default()).min(SESSION_MAX);
        self.session.extend(now, key, by);
    }

    /// Starts the comparison with a neighbour, or has it start.
    fn compare(&mut self, now: Instant, key: NeighbourKey) {
        self.keep_session(now, key);
        if !self.asks(key) {
            return self.send_digest(now, key, Range::WHOLE);
        }
        if let Some(neighbour) = self.neighbours.get_mut(&key) {
            neighbour.peer_table.settled_at = now + SETTLE;
        }
        self.ask(now, key, Range::WHOLE);
    }

    /// One step down the digest tree: the digests of the subtrees below, or what a small one holds.
    fn ask(&mut self, now: Instant, key: NeighbourKey, range: Range) {
        let mine = self.objects.digest(range);
        if usize::try_from(mine.count).is_ok_and(|count| count <= gem::MAX_SUMMARY_ENTRIES) {
            let mut body = [0; gem::MAX_BODY_LEN];
            let entries = self.objects.range(range).map(|stored| stored.entry());
            let len = Summary::emit(range, entries, &mut body);
            self.push(key.0, Some(key.1), Message::Bytes { kind: gem::SUMMARY, body: body[..len].into() }, now);
        } else {
            // Each time from another one on: what the peer's limit leaves unanswered this time comes first some other time.
            let mut children: Vec<_> = range.children().collect();
            let first = self.rng.next_u32() as usize % children.len().max(1);
            children.rotate_left(first);
            for child in children {
                self.send_digest(now, key, child);
            }
        }
    }

    /// The comparison with a neighbour did not end in equality yet: again, each time after twice the time.
    pub(crate) fn retry_comparison(&mut self, now: Now, key: NeighbourKey) {
        let whole = self.objects.digest(Range::WHOLE);
        let Some(neighbour) = self.neighbours.get_mut(&key) else { return };
        let peer = &mut neighbour.peer_table;
        if peer.retry_at.is_none_or(|at| at > now.mono) {
            return;
        }
        if peer.digest == Some(whole) {
            return peer.settle();
        }
        if let Some(at) = self.session.free_at(now.mono, key).max(peer.paused_until(now.mono)) {
            peer.retry_at = Some(at);
            return;
        }
        let wait = if neighbour.multicast.is_lossy() { RETRY_LOSSY } else { RETRY };
        peer.retry_at = Some(now.mono + wait * (1 << peer.tries.min(RETRY_DOUBLINGS)));
        peer.tries = peer.tries.saturating_add(1);
        if peer.queue.is_empty() {
            self.compare(now.mono, key);
        }
    }

    /// GEM-SUMMARY.
    pub(crate) fn process_summary(&mut self, now: Now, key: NeighbourKey, summary: &Summary<'_>) {
        let Some(neighbour) = self.neighbours.get_mut(&key) else { return };
        let peer = &mut neighbour.peer_table;
        if peer.paused_until(now.mono).is_some() {
            return;
        }
        let costly = self.objects.range(summary.range).nth(CHEAP_RANGE).is_some();
        let limited =
            !peer.questions.take(now.mono, QUESTIONS) || (costly && !peer.wildcards.take(now.mono, WILDCARDS));
        if limited || self.session.is_with_other(now.mono, key) {
            return;
        }
        self.keep_session(now.mono, key);
        let mut lacking: BTreeSet<ObjectName> = self.objects.range(summary.range).map(|s| s.header.name).collect();
        let mut needed = Vec::new();
        for entry in summary.entries() {
            match self.objects.get(&entry.name).map(|stored| stored.header.version) {
                Some(version) if version > entry.version => {}
                Some(version) if version == entry.version => drop(lacking.remove(&entry.name)),
                _ => {
                    lacking.remove(&entry.name);
                    needed.push(entry);
                }
            }
        }
        if lacking.is_empty() && needed.is_empty() {
            // The digests differ and the names do not: an origin signed two objects of one version. Each side sends
            // its own, and both keep the winner.
            lacking = self.objects.range(summary.range).map(|stored| stored.header.name).collect();
        }
        self.enqueue(now.mono, key, lacking);
        self.request(now.mono, key, needed);
    }

    /// What found no room may find some now.
    pub(crate) fn retry_refused(&mut self, now: Instant) {
        for neighbour in self.neighbours.values_mut() {
            if neighbour.peer_table.refused_at.take().is_some() {
                neighbour.peer_table.tries = 0;
                neighbour.peer_table.retry_at = Some(now);
            }
        }
    }

    /// What gave way to an object that is new.
    pub(crate) fn forget_evicted(&mut self, now: Now) {
        for stored in self.objects.take_evicted() {
            self.counters.objects_evicted += 1;
            self.forget_object(now, &stored);
        }
    }

    /// GEM-REQUEST.
    pub(crate) fn process_request(&mut self, now: Now, key: NeighbourKey, request: &Request<'_>) {
        let Some(neighbour) = self.neighbours.get_mut(&key) else { return };
        let peer = &mut neighbour.peer_table;
        let limited = if request.is_wildcard() {
            !peer.wildcards.take(now.mono, WILDCARDS)
        } else {
            !peer.questions.take(now.mono, QUESTIONS)
        };
        if limited {
            return;
        }
        let names: BTreeSet<ObjectName> = if request.is_wildcard() {
            self.objects.iter().map(|stored| stored.header.name).collect()
        } else {
            request.entries().flat_map(|entry| self.known_since(entry)).collect()
        };
        self.enqueue(now.mono, key, names);
    }

    /// Objects that satisfy an entry of a request, with the NODE needed to verify them when the origin was not known.
    fn known_since(&self, entry: Entry) -> Vec<ObjectName> {
        if entry.name.origin != NodeId::default() {
            let known = self.objects.get(&entry.name).filter(|stored| stored.header.version >= entry.version);
            return known.map(|stored| stored.header.name).into_iter().collect();
        }
        // Who misses a key knows its id and not its origin.
        let origin = u32::try_from(entry.name.id).ok().and_then(|id| self.origin_of(KeyId(id)));
        let Some(origin) = origin.filter(|_| entry.name.kind == ObjectKind::SEK) else { return vec![] };
        let node = ObjectName { origin, kind: ObjectKind::NODE, id: 0 };
        vec![node, ObjectName { origin, ..entry.name }]
    }

    /// Asks a neighbour for objects by name.
    fn request(&mut self, now: Instant, key: NeighbourKey, entries: impl IntoIterator<Item = Entry>) {
        let entries: Vec<_> = entries.into_iter().collect();
        for entries in entries.chunks(gem::MAX_REQUEST_ENTRIES) {
            let mut body = [0; gem::MAX_BODY_LEN];
            let len = Request::emit(entries.iter().copied(), &mut body);
            self.push(key.0, Some(key.1), Message::Bytes { kind: gem::REQUEST, body: body[..len].into() }, now);
        }
    }

    /// Asks all neighbours for a key that packets wait for.
    pub(crate) fn request_missing(&mut self, now: Instant, id: u64) {
        if !self.session.missing.take(now, MISSING) {
            return;
        }
        let name = ObjectName { origin: NodeId::default(), kind: ObjectKind::SEK, id };
        let proven: Vec<_> =
            self.neighbours.iter().filter(|(_, n)| n.freshness.is_proven()).map(|(key, _)| *key).collect();
        for key in proven {
            self.request(now, key, [Entry { name, version: 0 }]);
        }
    }

    fn enqueue(&mut self, now: Instant, key: NeighbourKey, names: BTreeSet<ObjectName>) {
        let whole = self.objects.digest(Range::WHOLE);
        let others = self.neighbours.range(crate::neighbours_of(key.0)).map(|(_, neighbour)| neighbour);
        let lacking = others.filter(|other| other.peer_table.digest.is_some_and(|digest| digest != whole)).count();
        if lacking >= MANY_LACKING {
            // Most of a segment is behind, as when power comes back: telling everyone is cheaper than telling each. Who
            // happens to be first spares the others the same (see `process_object`).
            let at = now + BATCH + self.jitter(SUPPRESSION * u32::try_from(lacking).unwrap_or(u32::MAX));
            if let Some(interface) = self.interfaces.get_mut(&key.0) {
                names.into_iter().for_each(|name| interface.flood.add(name, 1, at));
            }
            return;
        }
        let Some(neighbour) = self.neighbours.get_mut(&key).filter(|_| !names.is_empty()) else { return };
        neighbour.peer_table.queue.extend(names);
        self.timers.set_by(Timer::Delivery, now);
    }

    /// Sends each neighbour a batch of what is queued for it, and the digest when that was all.
    pub(crate) fn deliver(&mut self, now: Now) {
        let waiting = self.neighbours.iter().filter(|(_, neighbour)| !neighbour.peer_table.queue.is_empty());
        let keys: Vec<_> = waiting.map(|(key, _)| *key).collect();
        let mut more = false;
        for key in keys {
            let Some(neighbour) = self.neighbours.get_mut(&key) else { continue };
            let peer = &mut neighbour.peer_table;
            let batch: Vec<_> = (0..DELIVERY_BATCH).map_while(|_| peer.queue.pop_first()).collect();
            peer.settled_at = now.mono + SETTLE;
            let done = peer.queue.is_empty();
            more |= !done;
            for name in batch {
                self.push_object(now, key.0, Some(key.1), &name);
            }
            if done {
                self.send_digest(now.mono, key, Range::WHOLE);
            }
        }
        if more {
            self.timers.set(Timer::Delivery, now.mono + DELIVERY_PACE);
        }
    }
}
