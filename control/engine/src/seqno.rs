//! Seqno requests: how a node that has only unfeasible routes left gets a feasible one (RFC 8966 §3.8.1.2, §3.8.2).

use crate::Engine;
use crate::interface::Message;
use crate::route::Destination;
use crate::sync::NeighbourKey;
use crate::time::{Instant, Now};
use crate::timer::Timer;
use core::time::Duration;
use gemcast_proto::id::NodeId;
use gemcast_proto::wire::babel::{Seqno, Tlv};
use std::collections::BTreeMap;

/// Hops that our own requests may travel (appendix B).
const HOP_COUNT: u8 = 64;
/// Time until an unanswered request is sent again; doubled each time (appendix B).
const RESEND: Duration = Duration::from_millis(500);
/// Times a request is sent again.
const RESENDS: u8 = 3;
/// Requests pending; further ones are not made.
const MAX_PENDING: usize = 4096;

/// A request that waits for its answer.
struct Pending {
    router_id: NodeId,
    seqno: Seqno,
    hop_count: u8,
    neighbour: NeighbourKey,
    /// It came from a neighbour, which waits for the answer, too.
    forwarded: bool,
    resends: u8,
    at: Instant,
    backoff: Duration,
}

/// The table of pending requests (§3.2.7), one per destination.
#[derive(Default)]
pub(crate) struct Requests(BTreeMap<Destination, Pending>);

impl Requests {
    /// An update came in. Returns whether a neighbour waits for it.
    pub(crate) fn satisfy(&mut self, destination: Destination, router_id: NodeId, seqno: Seqno) -> bool {
        let Some(pending) = self.0.get(&destination) else { return false };
        if pending.router_id != router_id || pending.seqno.is_newer_than(seqno) {
            return false;
        }
        self.0.remove(&destination).is_some_and(|pending| pending.forwarded)
    }

    /// A destination is reachable again: our own need for it is met.
    pub(crate) fn forget(&mut self, destination: Destination) {
        if self.0.get(&destination).is_some_and(|pending| !pending.forwarded) {
            self.0.remove(&destination);
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy)]
pub(crate) struct SeqnoRequest {
    pub(crate) destination: Destination,
    pub(crate) router_id: NodeId,
    pub(crate) seqno: Seqno,
    pub(crate) hop_count: u8,
}

impl Engine {
    /// Asks, through a neighbour, the source of a route for a seqno that makes it feasible.
    pub(crate) fn request_seqno(
        &mut self,
        now: Now,
        destination: Destination,
        router_id: NodeId,
        neighbour: NeighbourKey,
    ) {
        let Some(seqno) = self.routing.table.sources.next_seqno(destination, router_id) else { return };
        let request = SeqnoRequest { destination, router_id, seqno, hop_count: HOP_COUNT };
        self.add_request(now, request, neighbour, false);
    }

    fn add_request(&mut self, now: Now, request: SeqnoRequest, neighbour: NeighbourKey, forwarded: bool) {
        let SeqnoRequest { destination, router_id, seqno, hop_count } = request;
        let pending = &mut self.routing.requests.0;
        // §3.8.1.2: a request that is pending in this or a newer seqno is not sent twice.
        let covered = pending.get_mut(&destination).is_some_and(|pending| {
            let same = pending.router_id == router_id && !seqno.is_newer_than(pending.seqno);
            pending.forwarded |= same && forwarded;
            same
        });
        if covered {
            return;
        }
        if pending.len() >= MAX_PENDING && !pending.contains_key(&destination) {
            self.counters.refused_requests += 1;
            return;
        }
        let (resends, backoff) = (if forwarded { 0 } else { RESENDS }, RESEND);
        let at = now.mono + backoff;
        let pending = Pending { router_id, seqno, hop_count, neighbour, forwarded, resends, at, backoff };
        self.routing.requests.0.insert(destination, pending);
        self.timers.set_by(Timer::Requests, at);
        self.send_request(now.mono, request, neighbour);
    }

    fn send_request(&mut self, now: Instant, request: SeqnoRequest, to: NeighbourKey) {
        let SeqnoRequest { destination: Destination { prefix, source }, router_id, seqno, hop_count } = request;
        self.counters.seqno_requests_sent += 1;
        let tlv = Tlv::SeqnoRequest { prefix, source, via_v6: false, seqno, hop_count, router_id };
        self.push(to.0, Some(to.1), Message::Tlv(tlv), now);
    }

    /// Sends unanswered requests again, and gives up on old ones.
    pub(crate) fn resend_requests(&mut self, now: Now) {
        let mut due = Vec::new();
        self.routing.requests.0.retain(|&destination, pending| {
            if pending.at > now.mono {
                return true;
            }
            if pending.resends == 0 {
                return false;
            }
            pending.resends -= 1;
            pending.backoff *= 2;
            pending.at = now.mono + pending.backoff;
            let Pending { router_id, seqno, hop_count, neighbour, .. } = *pending;
            due.push((SeqnoRequest { destination, router_id, seqno, hop_count }, neighbour));
            true
        });
        for (request, neighbour) in due {
            self.send_request(now.mono, request, neighbour);
        }
        if let Some(at) = self.routing.requests.0.values().map(|pending| pending.at).min() {
            self.timers.set_by(Timer::Requests, at);
        }
    }

    /// A Seqno Request TLV (§3.8.1.2).
    pub(crate) fn process_seqno_request(&mut self, now: Now, key: NeighbourKey, request: SeqnoRequest) {
        let SeqnoRequest { destination, router_id, seqno, hop_count } = request;
        let limit = crate::routing::ROUTE_REQUESTS;
        if !self.neighbours.get_mut(&key).is_some_and(|n| n.route_requests.take(now.mono, limit)) {
            return;
        }
        let answer = Message::Update(destination);
        if self.routing.own.contains_key(&destination) {
            // The standard's step is one. To the seqno that is asked for is as safe, since only we announce under it,
            // and spares the neighbours of a gateway that lost its seqno up to 65,535 requests.
            if router_id == self.id && seqno.is_newer_than(self.routing.seqno) {
                self.advance_seqno(now, seqno);
            }
            return self.push(key.0, Some(key.1), answer, now.mono);
        }
        let Some(entry) = self.routing.table.entries.get(&destination) else { return };
        if let Some(selected) = entry.selected
            && (selected.router_id != router_id || !seqno.is_newer_than(selected.seqno))
        {
            return self.push(key.0, Some(key.1), answer, now.mono);
        }
        if router_id == self.id || hop_count < 2 {
            return;
        }
        // Towards the source: by the selected route, or by any other that does not lead back.
        let selected = entry.selected.map(|selected| selected.neighbour);
        let others =
            entry.routes.iter().filter(|known| known.route.distance.metric != u16::MAX).map(|known| known.neighbour);
        let next = selected.into_iter().chain(others).find(|&neighbour| neighbour != key);
        if let Some(neighbour) = next {
            self.add_request(now, SeqnoRequest { hop_count: hop_count - 1, ..request }, neighbour, true);
        }
    }
}
