//! A packet's way in: address and port, frame, MAC, freshness, then its TLVs in order.

use crate::Engine;
use crate::input::Packet;
use crate::interface::Message;
use crate::mac::{Freshness, NONCE_LEN, Preparsed, PseudoHeader, Verdict};
use crate::neighbour::Neighbour;
use crate::output::Event;
use crate::peer::mapped;
use crate::rate::Limit;
use crate::reputation::Fault;
use crate::route::Destination;
use crate::seqno::SeqnoRequest;
use crate::sync::NeighbourKey;
use crate::time::Now;
use core::time::Duration;
use gemcast_proto::wire::babel::{self, Context, RawTlv, Seqno, Tlv, kind};
use gemcast_proto::wire::gem::{self, Digest, Request, Summary};
use rand_chacha::rand_core::RngCore;

/// Neighbours on one interface. A packet of a further one is refused; silent ones make room after a while.
const MAX_NEIGHBOURS: usize = 1024;

/// Longest time an acknowledgement waits for company, so that none of them pile up.
const MAX_ACK_DELAY: Duration = Duration::from_secs(1);
/// Acknowledgements of one neighbour's requests.
const ACKS: Limit = Limit { interval: Duration::from_millis(10), burst: 100 };

impl Engine {
    pub(crate) fn process_packet(&mut self, now: Now, packet: &Packet<'_>) {
        let Some(interface) = self.interfaces.get(&packet.ifindex) else { return };
        if interface.info.owns(packet.source) {
            return; // our own multicast, looped back
        }
        self.counters.packets_received += 1;
        let key = (packet.ifindex, packet.source);
        // RFC 8966 §4: from a link-local address and the well-known port, or silently ignored. A unicast peer has the
        // address that it is configured with.
        let from_peer = interface.peers.contains_key(&packet.source) && interface.info.owns(packet.destination);
        let known_source = packet.source.is_unicast_link_local() || from_peer;
        if !known_source || packet.source_port != self.config.babel.port {
            self.counters.refused_malformed += 1;
            return;
        }
        if self.bans.neighbours.ignores(&key) {
            self.counters.refused_banned += 1;
            return;
        }
        let babel = match babel::Packet::parse(packet.payload) {
            Ok(babel) => babel,
            Err(error) => {
                self.counters.refused_malformed += 1;
                self.blame_known(now, key, Fault::Unproven);
                return self.refused(now, key, error.to_string());
            }
        };
        let header = PseudoHeader {
            source: packet.source,
            source_port: packet.source_port,
            destination: packet.destination,
            destination_port: self.config.babel.port,
        };
        if !interface.info.settings.unauthenticated && !self.mac.verify(&header, &babel) {
            self.counters.refused_mac += 1;
            self.blame_known(now, key, Fault::Unproven);
            return;
        }
        let unicast = !packet.destination.is_multicast();
        if self.is_fresh(now, key, preparse(&babel, unicast)) {
            self.process_tlvs(now, key, unicast, &babel);
        }
    }

    /// RFC 8967 §4.3: answers challenges, and refuses what is not proven fresh.
    fn is_fresh(&mut self, now: Now, key: NeighbourKey, preparsed: Preparsed<'_>) -> bool {
        let Some(interface) = self.interfaces.get(&key.0) else { return false };
        let (wireless, unchecked) = (interface.info.wireless, interface.info.settings.unauthenticated);
        let known = self.neighbours.contains_key(&key);
        if !known && self.neighbours.range(crate::neighbours_of(key.0)).count() >= MAX_NEIGHBOURS {
            self.counters.refused_quota += 1;
            return false;
        }
        let mut nonce = [0; NONCE_LEN];
        self.rng.fill_bytes(&mut nonce);
        let neighbour = self.neighbours.entry(key).or_insert_with(|| {
            let freshness = if unchecked { Freshness::unchecked() } else { Freshness::default() };
            Neighbour::new(now.mono, wireless, freshness)
        });
        let reply = preparsed.challenge.filter(|_| neighbour.freshness.may_reply(now.mono));
        let verdict = neighbour.freshness.check(now.mono, preparsed, nonce);
        if let Some(nonce) = reply {
            let message = Message::Bytes { kind: kind::CHALLENGE_REPLY, body: nonce.into() };
            self.push(key.0, Some(key.1), message, now.mono);
        }
        match verdict {
            Verdict::Fresh => true,
            Verdict::NewlyFresh => {
                self.neighbours.entry(key).and_modify(Neighbour::restarted);
                self.neighbour_up(now, key);
                true
            }
            Verdict::Challenge(nonce) => {
                self.counters.refused_replay += 1;
                self.send_challenge(now, key, nonce);
                false
            }
            Verdict::Refused => {
                self.counters.refused_replay += 1;
                false
            }
        }
    }

    fn process_tlvs(&mut self, now: Now, key: NeighbourKey, unicast: bool, packet: &babel::Packet<'_>) {
        if let Some(neighbour) = self.neighbours.get_mut(&key) {
            neighbour.last_heard = now.mono;
        }
        let mut hello_sent_us = None;
        let mut context = Context::new(key.1);
        for raw in packet.body() {
            if self.bans.neighbours.is_banned(&key) {
                return; // for what came before this in the packet
            }
            let tlv = match raw.and_then(Tlv::parse) {
                Ok(tlv) => tlv,
                Err(error) => {
                    self.refused_babel(now, key, error);
                    continue;
                }
            };
            match tlv {
                Tlv::AckRequest { opaque, interval } => {
                    if !self.neighbours.get_mut(&key).is_some_and(|one| one.acks.take(now.mono, ACKS)) {
                        self.counters.refused_acks += 1;
                        self.blame(now, key, Fault::ExcessRequest);
                        continue;
                    }
                    let within = (centiseconds(interval) / 2).min(MAX_ACK_DELAY);
                    self.push(key.0, Some(key.1), Message::Tlv(Tlv::Ack { opaque }), now.mono + within);
                }
                Tlv::Hello { unicast, seqno, interval, sent_us } => {
                    self.process_hello(now, key, unicast, seqno, interval);
                    if let (Some(neighbour), Some(sent_us)) = (self.neighbours.get_mut(&key), sent_us) {
                        neighbour.round_trip.received_hello(now.mono, sent_us);
                        hello_sent_us = Some(sent_us);
                    }
                }
                Tlv::Ihu { address, rxcost, interval, echo_us, multicast_lost } => {
                    let owns = |address| self.interfaces.get(&key.0).is_some_and(|one| one.info.owns(mapped(address)));
                    if address.map_or(unicast, owns) {
                        if let Some(neighbour) = self.neighbours.get_mut(&key).filter(|_| unicast) {
                            neighbour.received_deafness(now.mono, multicast_lost, centiseconds(interval));
                        }
                        self.process_ihu(now, key, rxcost, interval, echo_us.zip(hello_sent_us));
                    }
                }
                Tlv::RouterId(id) => context.set_router_id(id),
                Tlv::NextHop(address) => context.set_next_hop(address),
                Tlv::Update(update) => match context.update(&update) {
                    Ok(announcement) => self.process_update(now, key, announcement),
                    Err(error) => self.refused_babel(now, key, error),
                },
                Tlv::RouteRequest { prefix, source, .. } => {
                    let destination = prefix.map(|prefix| Destination { prefix, source });
                    self.process_route_request(now, key, destination);
                }
                Tlv::SeqnoRequest { prefix, source, seqno, hop_count, router_id, .. } => {
                    let destination = Destination { prefix, source };
                    let request = SeqnoRequest { destination, router_id, seqno, hop_count };
                    self.process_seqno_request(now, key, request);
                }
                Tlv::Other(RawTlv { kind, body }) => self.process_gem(now, key, unicast, kind, body),
                _ => {}
            }
        }
    }

    fn process_hello(&mut self, now: Now, key: NeighbourKey, unicast: bool, seqno: Seqno, interval: u16) {
        let Some(neighbour) = self.neighbours.get_mut(&key) else { return };
        let history = if unicast { &neighbour.unicast } else { &neighbour.multicast };
        // Two Hellos missed and now one heard: the link was away for a while, and our tables may have parted.
        let returned = history.bits != 0 && history.bits & 0xc000 == 0;
        let (up, rxcost) = (neighbour.is_up(), neighbour.rxcost());
        let history = if unicast { &mut neighbour.unicast } else { &mut neighbour.multicast };
        history.received(now.mono, seqno, centiseconds(interval), self.config.detection.dead_threshold);
        if neighbour.rxcost() != rxcost {
            // It is to know soon what it costs to reach us.
            neighbour.ihu_wanted = true;
            self.hasten_hello(now, key.0);
        }
        if !up {
            self.neighbour_up(now, key);
        } else if returned {
            self.adjacency_returned(now, key);
        }
        self.clear_suspicion(now, key);
        self.review_path(now, key);
        self.apply_cost(now, key);
    }

    fn process_ihu(
        &mut self,
        now: Now,
        key: NeighbourKey,
        rxcost: u16,
        interval: u16,
        echo: Option<((u32, u32), u32)>,
    ) {
        let Some(neighbour) = self.neighbours.get_mut(&key) else { return };
        neighbour.received_ihu(now.mono, rxcost, centiseconds(interval));
        if let Some((echo_us, hello_sent_us)) = echo {
            neighbour.round_trip.received_echo(now.mono, echo_us, hello_sent_us);
        }
        self.review_path(now, key);
        self.apply_cost(now, key);
    }

    fn process_gem(&mut self, now: Now, key: NeighbourKey, unicast: bool, kind: u8, body: &[u8]) {
        let result = match kind {
            gem::OBJECT => {
                self.process_object(now, key, unicast, body);
                Ok(())
            }
            gem::DIGEST => Digest::parse(body).map(|digest| self.process_digest(now, key, unicast, digest)),
            gem::SUMMARY => Summary::parse(body).map(|summary| self.process_summary(now, key, &summary)),
            gem::REQUEST => Request::parse(body).map(|request| self.process_request(now, key, &request)),
            _ => Ok(()),
        };
        if let Err(error) = result {
            self.refused_tlv(now, key, error.to_string());
        }
    }

    /// What a router of another make may say in good faith, and we do not understand, is refused and held against nobody.
    fn refused_babel(&mut self, now: Now, key: NeighbourKey, error: babel::Error) {
        if matches!(error, babel::Error::Mandatory { .. } | babel::Error::AddressEncoding { .. }) {
            self.counters.refused_tlv += 1;
            return self.refused(now, key, error.to_string());
        }
        self.refused_tlv(now, key, error.to_string());
    }

    fn refused_tlv(&mut self, now: Now, key: NeighbourKey, what: String) {
        self.counters.refused_tlv += 1;
        self.refused(now, key, what);
        self.blame(now, key, Fault::Malformed);
    }

    /// Tells what was refused, unless too much is.
    pub(crate) fn refused(&mut self, now: Now, key: NeighbourKey, what: String) {
        self.alarm(now, Event::Refused { ifindex: key.0, source: key.1, what });
    }
}

/// Finds the TLVs that prove freshness; of each the first counts.
fn preparse<'a>(packet: &babel::Packet<'a>, unicast: bool) -> Preparsed<'a> {
    let mut found = Preparsed { unicast, ..Preparsed::default() };
    for tlv in packet.body().flatten().filter_map(|raw| Tlv::parse(raw).ok()) {
        match tlv {
            Tlv::Pc { counter, index } if found.counter.is_none() => found.counter = Some((counter, index)),
            Tlv::ChallengeRequest(nonce) if found.challenge.is_none() => found.challenge = Some(nonce),
            Tlv::ChallengeReply(nonce) if found.reply.is_none() => found.reply = Some(nonce),
            _ => {}
        }
    }
    found
}

/// An interval as it is on the wire.
pub(crate) fn centiseconds(interval: u16) -> Duration {
    Duration::from_millis(u64::from(interval) * 10)
}
