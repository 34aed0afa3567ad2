//! A Babel interface: its Hello series, its packet counter, and what waits to be sent by it.

use crate::input;
use crate::mac::INDEX_LEN;
use crate::peer::Peer;
use crate::rate::Bucket;
use crate::route::Destination;
use crate::time::Instant;
use core::cmp::Reverse;
use core::net::{IpAddr, Ipv6Addr};
use core::time::Duration;
use gemcast_proto::wire::babel::{Seqno, Tlv};
use gemcast_proto::wire::gem::ObjectName;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// IPv6 and UDP headers.
const UNDERLYING_HEADERS: usize = 40 + 8;
/// Largest packet, whatever the MTU.
const MAX_PACKET_LEN: usize = 9000;
/// TLVs waiting for one destination; what is more, is dropped, and repaired by the next periodic update.
const MAX_PENDING: usize = 65_536;

/// Something to be put into a packet.
#[derive(Clone)]
pub(crate) enum Message {
    /// A TLV that borrows nothing.
    Tlv(Tlv<'static>),
    /// Any other TLV.
    Bytes {
        /// Type.
        kind: u8,
        /// Body.
        body: Box<[u8]>,
    },
    /// What there then is to be said of a destination.
    Update(Destination),
}

/// What waits for one address.
#[derive(Default)]
pub(crate) struct Outbox {
    pub(crate) messages: VecDeque<Message>,
    pub(crate) at: Option<Instant>,
}

impl Outbox {
    /// Adds a message that is to leave at `at` at the latest. Returns whether there was room.
    pub(crate) fn push(&mut self, message: Message, at: Instant) -> bool {
        let room = self.messages.len() < MAX_PENDING;
        if room {
            self.messages.push_back(message);
            self.at = Some(self.at.map_or(at, |old| old.min(at)));
        }
        room
    }
}

/// Things to be sent several times: an object that is flooded, an update that is urgent.
pub(crate) struct Repeats<K> {
    /// How many times each is still to be sent.
    pub(crate) sends_left: BTreeMap<K, u8>,
    pub(crate) at: Option<Instant>,
}

impl<K> Default for Repeats<K> {
    fn default() -> Self {
        Self { sends_left: BTreeMap::new(), at: None }
    }
}

impl<K: Ord + Copy> Repeats<K> {
    /// Adds something to be sent `sends` times, first at `at`.
    pub(crate) fn add(&mut self, key: K, sends: u8, at: Instant) {
        let left = self.sends_left.entry(key).or_default();
        *left = sends.max(*left);
        self.at = Some(self.at.map_or(at, |old| old.min(at)));
    }

    /// Somebody else sent it.
    pub(crate) fn heard(&mut self, key: &K) {
        if let Some(left) = self.sends_left.get_mut(key) {
            *left -= 1;
            if *left == 0 {
                self.sends_left.remove(key);
            }
        }
    }

    /// Takes up to `most` things that are due now, those sent less often first, so that a long list cannot starve its
    /// tail. The rest follows after `pace`, repetitions after `repeat`.
    pub(crate) fn take(&mut self, now: Instant, most: usize, pace: Duration, repeat: Duration) -> Vec<K> {
        let mut due: Vec<_> = self.sends_left.iter().map(|(key, left)| (Reverse(*left), *key)).collect();
        due.sort_unstable();
        let more = due.len() > most;
        due.truncate(most);
        for (_, key) in &due {
            let left = self.sends_left.get_mut(key).expect("listed above");
            *left -= 1;
            if *left == 0 {
                self.sends_left.remove(key);
            }
        }
        let wait = if more { pace } else { repeat };
        self.at = (!self.sends_left.is_empty()).then(|| now + wait);
        due.into_iter().map(|(_, key)| key).collect()
    }
}

/// One interface.
pub(crate) struct Interface {
    pub(crate) info: input::Interface,
    pub(crate) hello_seqno: Seqno,
    pub(crate) hello_at: Instant,
    pub(crate) update_at: Instant,
    /// Names our incarnation to the neighbours (RFC 8967 §3.1).
    pub(crate) index: [u8; INDEX_LEN],
    /// Last packet counter used.
    pub(crate) counter: u32,
    pub(crate) multicast: Outbox,
    pub(crate) unicast: BTreeMap<Ipv6Addr, Outbox>,
    /// Configured unicast peers.
    pub(crate) peers: BTreeMap<Ipv6Addr, Peer>,
    /// Neighbours that get by unicast what goes to the multicast group.
    pub(crate) copies: BTreeSet<Ipv6Addr>,
    /// Limits the signatures that are checked for it.
    pub(crate) checks: Bucket,
    /// Objects being flooded.
    pub(crate) flood: Repeats<ObjectName>,
    /// Destinations whose change is being told.
    pub(crate) updates: Repeats<Destination>,
    /// Destinations that neighbours here may hold through us, and how often a retraction is told to all of them.
    pub(crate) announced: BTreeMap<Destination, u8>,
    /// When the digest is to be told, ahead of the next Hello.
    pub(crate) digest_at: Option<Instant>,
    /// Hellos that still carry the digest, because the table changed a moment ago.
    pub(crate) digests_left: u8,
    /// Since when no neighbour is up here any more.
    pub(crate) deserted_since: Option<Instant>,
}

impl Interface {
    /// Room for a packet with its trailer.
    pub(crate) fn packet_len(&self) -> usize {
        let mtu = usize::try_from(self.info.mtu).unwrap_or(MAX_PACKET_LEN);
        // RFC 8966 §4: MUST NOT send packets larger than the interface MTU or 512 octets, whichever is larger.
        mtu.saturating_sub(UNDERLYING_HEADERS).clamp(512, MAX_PACKET_LEN)
    }

    /// Next hop of IPv6 routes in packets from one of our addresses: itself, or in packets over IPv4 a routable one if
    /// there is any.
    pub(crate) fn next_hop_v6(&self, source: Ipv6Addr) -> Ipv6Addr {
        if source.to_ipv4_mapped().is_none() {
            return source;
        }
        let routable = self.info.addresses.iter().find_map(|(address, _)| match address {
            IpAddr::V6(v6) => Some(*v6),
            IpAddr::V4(_) => None,
        });
        routable.unwrap_or(self.info.link_local)
    }

    /// A retraction went to all neighbours; after some, none of them can hold the route any more.
    pub(crate) fn retracted(&mut self, destination: &Destination) {
        if let Some(left) = self.announced.get_mut(destination) {
            *left -= 1;
            if *left == 0 {
                self.announced.remove(destination);
            }
        }
    }

    pub(crate) fn outbox(&mut self, destination: Option<Ipv6Addr>) -> &mut Outbox {
        match destination {
            None => &mut self.multicast,
            Some(address) => self.unicast.entry(address).or_default(),
        }
    }

    /// Queues a message for a neighbour, or for all of them; it leaves by `at`. Returns how many had no room for it.
    pub(crate) fn push(&mut self, destination: Option<Ipv6Addr>, message: Message, at: Instant) -> u64 {
        let mut dropped = 0;
        if destination.is_none() {
            for &copy in &self.copies {
                dropped += u64::from(!self.unicast.entry(copy).or_default().push(message.clone(), at));
            }
        }
        dropped + u64::from(!self.outbox(destination).push(message, at))
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let unicast = self.unicast.values().filter_map(|outbox| outbox.at).min();
        let periodic = [Some(self.hello_at), Some(self.update_at)];
        let fixed = periodic.into_iter().chain([self.digest_at, self.multicast.at, self.flood.at, self.updates.at]);
        fixed.flatten().chain(unicast).chain(self.next_try()).min()
    }
}
