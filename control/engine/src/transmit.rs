//! A packet's way out: messages wait in outboxes, are packed together up to the MTU, counted, signed and handed over.

use crate::Engine;
use crate::input::{self, Ifindex};
use crate::interface::{Interface, Message, Outbox, Repeats};
use crate::mac::{INDEX_LEN, NONCE_LEN, PseudoHeader};
use crate::neighbour::Neighbour;
use crate::output::{Output, Transmit};
use crate::rate::Bucket;
use crate::route::Distance;
use crate::routing::{Egress, URGENT_SENDS};
use crate::sync::{BATCH, NeighbourKey};
use crate::time::{Instant, Now};
use crate::timestamp::timestamp;
use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;
use gemcast_proto::wire::babel::{self, Full, INFINITY, RawTlv, Seqno, Tlv, Writer};
use rand_chacha::rand_core::RngCore;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// An IHU goes out with every third Hello (RFC 8966 appendix B), and at once when it says something new.
const IHU_HELLOS: u16 = 3;
/// Packets sent to one address in one go.
const BURST: usize = 16;
/// Time between two such goes.
const PACE: Duration = Duration::from_millis(5);
/// Time between the transmissions of an urgent update.
const REPEAT: Duration = Duration::from_millis(300);

impl Engine {
    /// An interface is usable, or changed. A changed one starts over, except that its neighbours stay.
    pub(crate) fn interface_up(&mut self, now: Now, info: input::Interface) {
        if let Some(interface) = self.interfaces.get_mut(&info.ifindex) {
            let authentication = |info: &input::Interface| info.settings.unauthenticated;
            if interface.info.link_local == info.link_local && authentication(&interface.info) == authentication(&info)
            {
                let ifindex = info.ifindex;
                interface.info = info;
                return self.interface_changed(now, ifindex);
            }
            self.interface_down(now, info.ifindex);
        }
        let mut index = [0; INDEX_LEN];
        self.rng.fill_bytes(&mut index);
        let ifindex = info.ifindex;
        let update_interval = info.settings.update_interval.unwrap_or(self.config.update_interval);
        let update_at = now.mono + update_interval / 2 + self.jitter(update_interval / 2);
        let hello_seqno = Seqno(u16::try_from(self.rng.next_u32() >> 16).expect("16 bits"));
        self.interfaces.insert(
            ifindex,
            Interface {
                info,
                hello_seqno,
                hello_at: now.mono,
                update_at,
                index,
                counter: 0,
                multicast: Outbox::default(),
                unicast: Default::default(),
                peers: BTreeMap::new(),
                copies: BTreeSet::new(),
                checks: Bucket::default(),
                flood: Repeats::default(),
                updates: Repeats::default(),
                announced: BTreeMap::new(),
                digest_at: None,
                digests_left: 0,
                deserted_since: None,
            },
        );
        self.configure_peers(now, ifindex);
    }

    /// Addresses or settings of an interface are others; its neighbours stay.
    pub(crate) fn interface_changed(&mut self, now: Now, ifindex: Ifindex) {
        let (hello, update) = (self.hello_interval(ifindex), self.update_interval(ifindex));
        if let Some(interface) = self.interfaces.get_mut(&ifindex) {
            interface.hello_at = interface.hello_at.min(now.mono + hello);
            interface.update_at = interface.update_at.min(now.mono + update);
        }
        self.configure_peers(now, ifindex);
        let all: Vec<_> = self.neighbours.range(crate::neighbours_of(ifindex)).map(|(key, _)| *key).collect();
        all.into_iter().for_each(|key| self.apply_cost(now, key));
    }

    /// An interface is gone, and everyone behind it.
    pub(crate) fn interface_down(&mut self, now: Now, ifindex: Ifindex) {
        self.interfaces.remove(&ifindex);
        let gone: Vec<_> = self.neighbours.range(crate::neighbours_of(ifindex)).map(|(key, _)| *key).collect();
        for key in gone {
            self.neighbour_gone(now, key);
        }
    }

    /// RFC 8967 §4.3.1.1.
    pub(crate) fn send_challenge(&mut self, now: Now, key: NeighbourKey, nonce: [u8; NONCE_LEN]) {
        self.counters.challenges_sent += 1;
        let message = Message::Bytes { kind: babel::kind::CHALLENGE_REQUEST, body: nonce.into() };
        self.push(key.0, Some(key.1), message, now.mono);
    }

    /// Does what an interface has due.
    pub(crate) fn interface_timeout(&mut self, now: Now, ifindex: Ifindex) {
        let Some(interface) = self.interfaces.get_mut(&ifindex) else { return };
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now.mono);
        let (hello, update) = (interface.hello_at <= now.mono, interface.update_at <= now.mono);
        let (flood, digest) = (due(interface.flood.at), due(interface.digest_at));
        let (changes, tries) = (due(interface.updates.at), due(interface.next_try()));
        if hello {
            self.send_hello(now, ifindex);
            self.send_unicast_hellos(now, ifindex);
        }
        if tries {
            self.try_peers(now, ifindex);
        }
        if update {
            self.periodic_update(now, ifindex);
        }
        if changes {
            self.send_changes(now, ifindex);
        }
        if flood {
            self.send_flood(now, ifindex);
        }
        let carried = hello && self.hello_carries_digest(ifindex);
        if digest || carried || update {
            self.send_digest_to_all(now.mono, ifindex);
            if let Some(interface) = self.interfaces.get_mut(&ifindex) {
                interface.digest_at = None;
            }
        }
        let Some(interface) = self.interfaces.get(&ifindex) else { return };
        let multicast = due(interface.multicast.at).then_some(None);
        let unicast = interface.unicast.iter().filter(|(_, outbox)| due(outbox.at)).map(|(address, _)| Some(*address));
        // Copies first: a retraction that went to everyone need not be told any more.
        let destinations: Vec<_> = unicast.chain(multicast).collect();
        for destination in destinations {
            self.flush(now, ifindex, destination);
        }
    }

    /// Hello and IHUs, in one packet so that round trips can be measured (RFC 9616 §3.2).
    fn send_hello(&mut self, now: Now, ifindex: Ifindex) {
        // Up to an eighth earlier than announced, so that neighbours do not fall into step.
        let interval = self.hello_interval(ifindex);
        let early = self.jitter(interval / 8);
        let Some(interface) = self.interfaces.get_mut(&ifindex) else { return };
        interface.hello_seqno = interface.hello_seqno.next();
        interface.hello_at = now.mono + (interval - early);
        let seqno = interface.hello_seqno;
        let interval = to_centiseconds(interval);
        let sent_us = Some(timestamp(now.mono));
        let hello = Message::Tlv(Tlv::Hello { unicast: false, seqno, interval, sent_us });
        let mut messages = VecDeque::from([hello]);
        let turn = seqno.0.is_multiple_of(IHU_HELLOS);
        for ((_, address), neighbour) in self.neighbours.range_mut(crate::neighbours_of(ifindex)) {
            let here = neighbour.is_up() && address.is_unicast_link_local();
            if here && (turn || core::mem::take(&mut neighbour.ihu_wanted)) {
                let address = Some(IpAddr::V6(*address));
                messages.push_back(Message::Tlv(ihu(now, neighbour, address, interval, false)));
            }
        }
        let Some(interface) = self.interfaces.get_mut(&ifindex) else { return };
        // The Hello leads its packet: its timestamp is of now.
        messages.append(&mut interface.multicast.messages);
        interface.multicast = Outbox { messages, at: Some(now.mono) };
    }

    /// A neighbour came, or came back: it is to hear us soon.
    pub(crate) fn hasten_hello(&mut self, now: Now, ifindex: Ifindex) {
        let interval = self.hello_interval(ifindex);
        if let Some(interface) = self.interfaces.get_mut(&ifindex) {
            interface.hello_at = interface.hello_at.min(now.mono + BATCH.min(interval));
        }
    }

    /// The update that repairs what triggered ones missed (RFC 8966 §3.7.1).
    fn periodic_update(&mut self, now: Now, ifindex: Ifindex) {
        let interval = self.update_interval(ifindex);
        let early = self.jitter(interval / 8);
        if let Some(interface) = self.interfaces.get_mut(&ifindex) {
            interface.update_at = now.mono + (interval - early);
        }
        if self.neighbours.range(crate::neighbours_of(ifindex)).next().is_some() {
            self.send_table(now.mono, ifindex, None);
        }
    }

    /// Triggered updates that are due.
    fn send_changes(&mut self, now: Now, ifindex: Ifindex) {
        let heard = self.neighbours.range(crate::neighbours_of(ifindex)).next().is_some();
        let Some(interface) = self.interfaces.get_mut(&ifindex) else { return };
        for destination in interface.updates.take(now.mono, usize::MAX, PACE, REPEAT) {
            if heard {
                self.push(ifindex, None, Message::Update(destination), now.mono);
            }
        }
    }

    /// Queues a message for a neighbour, or for all of them; it leaves by `at`.
    pub(crate) fn push(&mut self, ifindex: Ifindex, destination: Option<Ipv6Addr>, message: Message, at: Instant) {
        if let Some(interface) = self.interfaces.get_mut(&ifindex) {
            self.counters.messages_dropped += interface.push(destination, message, at);
        }
    }

    /// Packs and sends what waits for an address, at most a burst of packets; the rest follows at a pace.
    fn flush(&mut self, now: Now, ifindex: Ifindex, address: Option<Ipv6Addr>) {
        let Some(interface) = self.interfaces.get_mut(&ifindex) else { return };
        let mut outbox = match address {
            None => core::mem::take(&mut interface.multicast),
            Some(address) => interface.unicast.remove(&address).unwrap_or_default(),
        };
        for _ in 0..BURST {
            if outbox.messages.is_empty() {
                return;
            }
            self.send_packet(now, ifindex, address, &mut outbox.messages);
        }
        let Some(interface) = self.interfaces.get_mut(&ifindex).filter(|_| !outbox.messages.is_empty()) else { return };
        outbox.at = Some(now.mono + PACE);
        *interface.outbox(address) = outbox;
    }

    /// Fills one packet from the front of `messages`; takes at least one.
    fn send_packet(&mut self, now: Now, ifindex: Ifindex, address: Option<Ipv6Addr>, messages: &mut VecDeque<Message>) {
        let interval = to_centiseconds(self.update_interval(ifindex));
        let Some(interface) = self.interfaces.get_mut(&ifindex) else { return };
        let authenticated = !interface.info.settings.unauthenticated;
        let trailer_len = if authenticated { self.mac.trailer_len() } else { 0 };
        let Some(source) = interface.info.source_towards(address.unwrap_or(babel::GROUP)) else {
            return messages.clear(); // without an address of the peer's family there is no way to it
        };
        let mut egress = Egress {
            ifindex,
            next_hop_v4: source.to_ipv4_mapped().or(interface.info.ipv4),
            next_hop_v6: interface.next_hop_v6(source),
            wireless: interface.info.wireless,
            settings: &self.config.babel,
            id: self.id,
            interval,
            announced: false,
        };
        let mut payload = vec![0; interface.packet_len() - trailer_len];
        let mut writer = Writer::new(&mut payload, source);
        // RFC 8967 §4.2: a counter never repeats under one index.
        if interface.counter == u32::MAX {
            self.rng.fill_bytes(&mut interface.index);
            interface.counter = 0;
        }
        interface.counter += 1;
        if authenticated {
            let counter = Tlv::Pc { counter: interface.counter, index: &interface.index };
            writer.push(&counter).expect("512 bytes hold a PC TLV");
        }
        let mut taken = 0;
        while let Some(message) = messages.front() {
            let written = match message {
                Message::Tlv(tlv) => writer.push(tlv),
                Message::Bytes { kind, body } => writer.push(&Tlv::Other(RawTlv { kind: *kind, body })),
                Message::Update(destination) => {
                    let left = interface.announced.get(destination).copied();
                    egress.announced = left.is_some();
                    let update = self.routing.announcement(*destination, &egress);
                    let written = update.map_or(Ok(()), |update| writer.announce(&update));
                    if let (Ok(()), Some(update)) = (written, update) {
                        let distance = Distance { seqno: update.seqno, metric: update.metric };
                        match update.router_id.filter(|_| update.metric != INFINITY) {
                            Some(id) => {
                                self.routing.table.sources.announced(now.mono, *destination, id, distance);
                                if left != Some(URGENT_SENDS) {
                                    interface.announced.insert(*destination, URGENT_SENDS);
                                }
                            }
                            // A single neighbour that asked is told; the others are still to be.
                            None if address.is_none() => interface.retracted(destination),
                            None => {}
                        }
                    }
                    written
                }
            };
            match written {
                Err(Full) if taken > 0 => break,
                // What fits into no packet is dropped: TLVs of ours do fit, but standing still would be worse.
                Ok(()) | Err(Full) => drop(messages.pop_front()),
            }
            taken += 1;
        }
        let len = writer.finish();
        payload.truncate(len);
        let port = self.config.babel.port;
        let header = PseudoHeader {
            source,
            source_port: port,
            destination: address.unwrap_or(babel::GROUP),
            destination_port: port,
        };
        if authenticated {
            self.mac.sign(&header, &mut payload);
        }
        self.counters.packets_sent += 1;
        self.counters.bytes_sent += u64::try_from(payload.len()).expect("a packet's length");
        self.outputs.push_back(Output::Transmit(Transmit { ifindex, source, unicast: address, payload }));
    }
}

/// What a neighbour is told about itself; without its address in a packet to it alone.
pub(crate) fn ihu(
    now: Now,
    neighbour: &Neighbour,
    address: Option<IpAddr>,
    hello_interval: u16,
    multicast_lost: bool,
) -> Tlv<'static> {
    Tlv::Ihu {
        address,
        rxcost: neighbour.rxcost(),
        interval: hello_interval.saturating_mul(IHU_HELLOS),
        echo_us: neighbour.round_trip.echo(now.mono),
        multicast_lost,
    }
}

/// An interval as it goes on the wire.
pub(crate) fn to_centiseconds(interval: Duration) -> u16 {
    u16::try_from(interval.as_millis() / 10).unwrap_or(u16::MAX).max(1)
}
