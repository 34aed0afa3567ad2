//! Unicast peers: neighbours that an interface is configured with, and the way to any neighbour while multicast fails.
//!
//! A peer that does not answer gets a Hello after twice the time each time, for ever. One that answers gets unicast
//! Hellos at the regular interval, so that both sides notice when only multicast is lost; then all that goes to the
//! multicast group goes to it by unicast, too, until multicast is back.

use crate::Engine;
use crate::input::{self, Ifindex};
use crate::interface::{Interface, Message};
use crate::neighbour::Neighbour;
use crate::output::Event;
use crate::sync::NeighbourKey;
use crate::time::{Instant, Now};
use crate::timestamp::timestamp;
use crate::transmit::{ihu, to_centiseconds};
use crate::view::{PeerState, PeerView};
use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;
use gemcast_proto::wire::babel::{Seqno, Tlv};
use gemcast_proto::wire::gem::Range;
use rand_chacha::rand_core::RngCore;
use std::collections::BTreeMap;

/// Longest time between two tries.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// Hello intervals that a neighbour's multicast has to begin to arrive.
const GRACE_HELLOS: u32 = 3;

/// One configured peer of an interface.
pub(crate) struct Peer {
    /// Our unicast Hellos to it.
    seqno: Seqno,
    /// Tries since it was last heard.
    tries: u32,
    /// When it is tried next; `None` while it is heard.
    pub(crate) next_at: Option<Instant>,
}

/// An address as neighbours are named by it: IPv4 in its mapped form.
pub(crate) fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

impl input::Interface {
    /// Whether an address is ours, on this interface.
    pub(crate) fn owns(&self, address: Ipv6Addr) -> bool {
        let others = self.addresses.iter().map(|(address, _)| mapped(*address));
        others.chain([self.link_local]).chain(self.ipv4.map(|v4| v4.to_ipv6_mapped())).any(|own| own == address)
    }

    /// Our address to speak to another from: of its family, and of its prefix where we have one.
    pub(crate) fn source_towards(&self, address: Ipv6Addr) -> Option<Ipv6Addr> {
        if address.is_unicast_link_local() || address.is_multicast() {
            return Some(self.link_local);
        }
        let address = address.to_canonical();
        let family = || self.addresses.iter().filter(|(own, _)| own.is_ipv4() == address.is_ipv4());
        let near = family().find(|(_, prefix)| prefix.contains(address));
        near.or_else(|| family().next()).map(|(own, _)| mapped(*own))
    }
}

impl Interface {
    /// When a peer is to be tried.
    pub(crate) fn next_try(&self) -> Option<Instant> {
        self.peers.values().filter_map(|peer| peer.next_at).min()
    }
}

impl Engine {
    /// Time between the Hellos of an interface.
    pub(crate) fn hello_interval(&self, ifindex: Ifindex) -> Duration {
        let own = self.interfaces.get(&ifindex).and_then(|interface| interface.info.settings.hello_interval);
        own.unwrap_or(self.config.hello_interval)
    }

    /// The configured peers of an interface changed, or our addresses on it: those that stay go on as they are.
    pub(crate) fn configure_peers(&mut self, now: Now, ifindex: Ifindex) {
        let Some(interface) = self.interfaces.get_mut(&ifindex) else { return };
        let mut old = core::mem::take(&mut interface.peers);
        let mut peers = BTreeMap::new();
        for address in interface.info.settings.peers.iter().map(|address| mapped(*address)) {
            let heard = self.neighbours.get(&(ifindex, address)).is_some_and(Neighbour::is_up);
            let seqno = Seqno(u16::try_from(self.rng.next_u32() >> 16).expect("16 bits"));
            let new = Peer { seqno, tries: 0, next_at: (!heard).then_some(now.mono) };
            let mut peer = old.remove(&address).unwrap_or(new);
            if interface.info.owns(address) {
                peer.next_at = None;
            } else if !heard {
                peer.next_at = peer.next_at.or(Some(now.mono));
            }
            peers.insert(address, peer);
        }
        interface.peers = peers;
        // Neighbours that are heard from an address which only a peer may use.
        let strangers: Vec<_> = old.into_keys().filter(|address| !address.is_unicast_link_local()).collect();
        for address in strangers {
            self.neighbour_gone(now, (ifindex, address));
        }
        let all: Vec<_> = self.neighbours.range(crate::neighbours_of(ifindex)).map(|(key, _)| *key).collect();
        all.into_iter().for_each(|key| self.review_path(now, key));
    }

    /// Tries the peers of an interface that are due.
    pub(crate) fn try_peers(&mut self, now: Now, ifindex: Ifindex) {
        let first = self.hello_interval(ifindex);
        let longest = MAX_WAIT.max(first);
        let Some(interface) = self.interfaces.get(&ifindex) else { return };
        let due = |(_, peer): &(&Ipv6Addr, &Peer)| peer.next_at.is_some_and(|at| at <= now.mono);
        let due: Vec<_> = interface.peers.iter().filter(due).map(|(address, _)| *address).collect();
        for address in due {
            let wait_after = |tries: u32| first.saturating_mul(1 << tries.min(16)).min(longest);
            let tries = self.peer_mut((ifindex, address)).map_or(0, |peer| peer.tries);
            let wait = wait_after(tries);
            let next = wait - self.jitter(wait / 8);
            if let Some(peer) = self.peer_mut((ifindex, address)) {
                peer.tries = tries.saturating_add(1);
                peer.next_at = Some(now.mono + next);
            }
            // Once the time does not grow any more, there is nothing new to tell.
            if tries > 0 && wait_after(tries - 1) < longest {
                let (address, tries) = (address.to_canonical(), tries + 1);
                self.event(Event::PeerWaiting { ifindex, address, tries, next });
            }
            // An unscheduled Hello: when the next one comes is not what its history should go by.
            self.send_unicast_hello(now, (ifindex, address), 0);
        }
    }

    fn peer_mut(&mut self, key: NeighbourKey) -> Option<&mut Peer> {
        self.interfaces.get_mut(&key.0)?.peers.get_mut(&key.1)
    }

    pub(crate) fn is_peer(&self, key: NeighbourKey) -> bool {
        self.interfaces.get(&key.0).is_some_and(|interface| interface.peers.contains_key(&key.1))
    }

    /// A Hello of its own, at its regular time, to every neighbour that is to have one.
    pub(crate) fn send_unicast_hellos(&mut self, now: Now, ifindex: Ifindex) {
        let Some(interface) = self.interfaces.get(&ifindex) else { return };
        let everyone = interface.info.settings.unicast_hellos.unwrap_or(self.config.babel.unicast_hellos);
        let spoken_to = |(key, neighbour): &(&NeighbourKey, &Neighbour)| match interface.peers.get(&key.1) {
            Some(peer) => peer.next_at.is_none(),
            None => everyone || neighbour.is_deaf(now.mono),
        };
        let neighbours = self.neighbours.range(crate::neighbours_of(ifindex));
        let keys: Vec<_> = neighbours.filter(spoken_to).map(|(key, _)| *key).collect();
        let interval = to_centiseconds(self.hello_interval(ifindex));
        for key in keys {
            // Who is silent altogether gives no other occasion.
            self.review_path(now, key);
            self.send_unicast_hello(now, key, interval);
        }
    }

    fn send_unicast_hello(&mut self, now: Now, key: NeighbourKey, interval: u16) {
        let hello_interval = to_centiseconds(self.hello_interval(key.0));
        let Some(interface) = self.interfaces.get_mut(&key.0).filter(|interface| !interface.info.owns(key.1)) else {
            return;
        };
        let mut neighbour = self.neighbours.get_mut(&key);
        let series = match (interface.peers.get_mut(&key.1), &mut neighbour) {
            (Some(peer), _) => &mut peer.seqno,
            (None, Some(neighbour)) => &mut neighbour.unicast_seqno,
            (None, None) => return,
        };
        *series = series.next();
        let hello = Tlv::Hello { unicast: true, seqno: *series, interval, sent_us: Some(timestamp(now.mono)) };
        let ihu = neighbour.filter(|neighbour| neighbour.freshness.is_proven()).map(|neighbour| {
            let address = key.1.is_unicast_link_local().then_some(key.1.into());
            let multicast_lost = interface.peers.contains_key(&key.1) && neighbour.misses_multicast;
            ihu(now, neighbour, address, hello_interval, multicast_lost)
        });
        for tlv in [Some(hello), ihu].into_iter().flatten() {
            self.push(key.0, Some(key.1), Message::Tlv(tlv), now.mono);
        }
    }

    /// A neighbour is heard, for the first time or again: if it is a peer, it need not be tried any more.
    pub(crate) fn peer_answers(&mut self, key: NeighbourKey) {
        if let Some(peer) = self.peer_mut(key).filter(|peer| peer.next_at.is_some()) {
            peer.next_at = None;
            let tries = core::mem::take(&mut peer.tries);
            self.event(Event::PeerReached { ifindex: key.0, address: key.1.to_canonical(), tries });
        }
    }

    /// A neighbour was silent for too long, or is gone. A peer is tried again.
    pub(crate) fn peer_silent(&mut self, now: Now, key: NeighbourKey) {
        if let Some(neighbour) = self.neighbours.get_mut(&key) {
            neighbour.by_unicast = false;
        }
        let Some(interface) = self.interfaces.get_mut(&key.0) else { return };
        interface.copies.remove(&key.1);
        if let Some(peer) = interface.peers.get_mut(&key.1) {
            (peer.tries, peer.next_at) = (0, Some(now.mono));
        }
    }

    /// Decides whether a neighbour is to get by unicast what goes to the multicast group.
    pub(crate) fn review_path(&mut self, now: Now, key: NeighbourKey) {
        let link_local = key.1.is_unicast_link_local();
        let grace = self.hello_interval(key.0) * GRACE_HELLOS;
        let is_peer = self.is_peer(key);
        let reached_otherwise = !link_local && self.is_reached_otherwise(key);
        let Some(neighbour) = self.neighbours.get_mut(&key) else { return };
        neighbour.review_multicast(now.mono, grace);
        let ours = neighbour.is_deaf(now.mono);
        let lost = ours || (is_peer && neighbour.misses_multicast);
        let by_unicast = neighbour.is_up() && if link_local { lost } else { !reached_otherwise };
        if core::mem::replace(&mut neighbour.by_unicast, by_unicast) == by_unicast {
            return;
        }
        let up = neighbour.is_up();
        let (ifindex, address) = key;
        let Some(interface) = self.interfaces.get_mut(&ifindex) else { return };
        if by_unicast {
            interface.copies.insert(address);
            if link_local {
                self.event(Event::MulticastLost { ifindex, address, ours });
            }
            // What it missed until this was noticed.
            self.send_table(now.mono, ifindex, Some(address));
            self.send_digest(now.mono, key, Range::WHOLE);
        } else {
            interface.copies.remove(&address);
            if link_local && up {
                self.event(Event::MulticastReturned { ifindex, address });
            }
        }
    }

    /// Whether the gateway behind a routable address is also a neighbour by its link-local one, both ways: the index of
    /// its packets is the same (RFC 8967 §3.1).
    fn is_reached_otherwise(&self, key: NeighbourKey) -> bool {
        let index = self.neighbours.get(&key).and_then(|neighbour| neighbour.freshness.index());
        index.is_some_and(|index| {
            let mut others = self.neighbours.range(crate::neighbours_of(key.0)).filter(|(other, _)| **other != key);
            others.any(|(other, neighbour)| {
                other.1.is_unicast_link_local()
                    && neighbour.is_linked_both_ways()
                    && neighbour.freshness.index() == Some(index)
            })
        })
    }

    /// Configured unicast peers of the interfaces that are up.
    pub fn peers(&self) -> Vec<PeerView> {
        let peers = self.interfaces.iter().flat_map(|(&ifindex, interface)| {
            interface.peers.iter().map(move |(&address, peer)| PeerView {
                ifindex,
                interface: interface.info.name.clone(),
                address: address.to_canonical(),
                state: match peer.next_at {
                    _ if interface.info.owns(address) => PeerState::OwnAddress,
                    None => PeerState::Reached,
                    Some(_) if interface.info.source_towards(address).is_none() => PeerState::NoAddress,
                    Some(next_at) => PeerState::Waiting { tries: peer.tries, next_at },
                },
            })
        });
        peers.collect()
    }
}
