//! MAC authentication of Babel packets (RFC 8967): who does not hold a key is not heard, and what was sent before is
//! not heard again.
//!
//! A MAC covers a pseudo-header and the packet without its trailer. Freshness is a packet counter under an index that
//! names the sender's incarnation; an unknown index has to be proven alive by answering a challenge. Counters are kept
//! apart for unicast and multicast and checked in a window, as RFC 9467 allows, because the two travel at different
//! speeds.

use crate::config::MacAlgorithm;
use crate::rate::{Bucket, Limit};
use crate::secret::Secret;
use crate::time::Instant;
use blake2::Blake2sMac;
use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput, KeyInit};
use core::net::Ipv6Addr;
use core::time::Duration;
use gemcast_proto::wire::babel::{Packet, kind};
use ring::hmac;
use subtle::ConstantTimeEq;

/// Bytes of our index.
pub(crate) const INDEX_LEN: usize = 8;
/// Bytes of our nonces.
pub(crate) const NONCE_LEN: usize = 16;
/// RFC 8967 §4.3.1.1: "the limit SHOULD default to one challenge request every 300 ms".
const CHALLENGE_INTERVAL: Duration = Duration::from_millis(300);
/// Challenges of one neighbour that are answered: with a replayed one in between, the real one still is.
const REPLIES: Limit = Limit { interval: CHALLENGE_INTERVAL, burst: 4 };
/// RFC 8967 §4.3.1.1: a nonce is good for 30 s.
const CHALLENGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Repetitions of an unanswered challenge, at that interval.
const CHALLENGE_REPEATS: u8 = 5;
/// Counters accepted behind the highest one (RFC 9467 §3.2).
const WINDOW: u32 = 64;
/// Most keys in use, and most MACs looked at in one trailer, so that the smallest packet has room for it; more keys than that on one link are not of this world.
const MAX_MACS: usize = 8;

/// Who sent a packet to whom (RFC 8967 §4.1).
pub(crate) struct PseudoHeader {
    pub(crate) source: Ipv6Addr,
    pub(crate) source_port: u16,
    pub(crate) destination: Ipv6Addr,
    pub(crate) destination_port: u16,
}

impl PseudoHeader {
    /// The bytes, and how many there are: an IPv4 address, which comes in its mapped form, has four of its sixteen.
    fn to_bytes(&self) -> ([u8; 36], usize) {
        let (mut bytes, mut len) = ([0; 36], 0);
        for (address, port) in [(self.source, self.source_port), (self.destination, self.destination_port)] {
            let (octets, start) = (address.octets(), if address.to_ipv4_mapped().is_some() { 12 } else { 0 });
            for part in [&octets[start..], &port.to_be_bytes()] {
                bytes[len..len + part.len()].copy_from_slice(part);
                len += part.len();
            }
        }
        (bytes, len)
    }
}

/// One key, ready for use.
enum Key {
    HmacSha256(hmac::Key),
    Blake2s(Blake2sMac<U16>),
}

/// A MAC.
enum Mac {
    HmacSha256(hmac::Tag),
    Blake2s([u8; 16]),
}

impl AsRef<[u8]> for Mac {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::HmacSha256(tag) => tag.as_ref(),
            Self::Blake2s(bytes) => bytes,
        }
    }
}

impl Key {
    fn new(algorithm: MacAlgorithm, key: &Secret<32>) -> Self {
        match algorithm {
            MacAlgorithm::HmacSha256 => Self::HmacSha256(hmac::Key::new(hmac::HMAC_SHA256, key.expose())),
            MacAlgorithm::Blake2s => {
                Self::Blake2s(Blake2sMac::new_from_slice(key.expose()).expect("BLAKE2s takes up to 32 bytes"))
            }
        }
    }

    fn mac_len(&self) -> usize {
        match self {
            Self::HmacSha256(_) => 32,
            Self::Blake2s(_) => 16,
        }
    }

    /// The MAC over the concatenation of two parts.
    fn compute(&self, parts: [&[u8]; 2]) -> Mac {
        match self {
            Self::HmacSha256(key) => {
                let mut context = hmac::Context::with_key(key);
                parts.into_iter().for_each(|part| context.update(part));
                Mac::HmacSha256(context.sign())
            }
            Self::Blake2s(keyed) => {
                let mut context = keyed.clone();
                parts.into_iter().for_each(|part| blake2::digest::Mac::update(&mut context, part));
                Mac::Blake2s(context.finalize_fixed().into())
            }
        }
    }
}

/// The keys of the domain: one, or two while it is being replaced. What is sent is authenticated by one algorithm; what
/// is authenticated by the other is accepted, too, so that gateways may change theirs one after the other.
pub(crate) struct Keys {
    sent: Vec<Key>,
    other: Vec<Key>,
}

impl Keys {
    pub(crate) fn new<'a>(algorithm: MacAlgorithm, keys: impl IntoIterator<Item = &'a Secret<32>>) -> Self {
        let other = match algorithm {
            MacAlgorithm::HmacSha256 => MacAlgorithm::Blake2s,
            MacAlgorithm::Blake2s => MacAlgorithm::HmacSha256,
        };
        let keys = keys.into_iter().take(MAX_MACS);
        let (sent, other) = keys.map(|key| (Key::new(algorithm, key), Key::new(other, key))).unzip();
        Self { sent, other }
    }

    /// Room that the trailer takes.
    pub(crate) fn trailer_len(&self) -> usize {
        self.sent.iter().map(|key| 2 + key.mac_len()).sum()
    }

    /// Appends a MAC under every key to a packet that is complete but for its trailer.
    pub(crate) fn sign(&self, header: &PseudoHeader, packet: &mut Vec<u8>) {
        let signed = packet.len();
        let (pseudo, len) = header.to_bytes();
        for key in &self.sent {
            let mac = key.compute([&pseudo[..len], &packet[..signed]]);
            packet.extend([kind::MAC, u8::try_from(key.mac_len()).expect("16 or 32")]);
            packet.extend(mac.as_ref());
        }
    }

    /// Whether any MAC of the trailer is right under any key. Each key is computed with once for each algorithm that the
    /// length of a MAC there tells of, and compared in constant time.
    pub(crate) fn verify(&self, header: &PseudoHeader, packet: &Packet<'_>) -> bool {
        let macs = || packet.trailer().flatten().filter(|tlv| tlv.kind == kind::MAC).map(|tlv| tlv.body).take(MAX_MACS);
        let (pseudo, len) = header.to_bytes();
        self.sent.iter().chain(&self.other).any(|key| {
            if macs().all(|mac| mac.len() != key.mac_len()) {
                return false;
            }
            let expected = key.compute([&pseudo[..len], packet.signed()]);
            macs().any(|mac| mac.ct_eq(expected.as_ref()).into())
        })
    }
}

/// Counters seen under one index: the highest, and which of the 64 up to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Window {
    highest: u32,
    seen: u64,
}

impl Window {
    /// Nothing at or below `counter` is new.
    fn starting_at(counter: u32) -> Self {
        Self { highest: counter, seen: u64::MAX }
    }

    /// Takes a counter if it is new.
    fn accept(&mut self, counter: u32) -> bool {
        if counter > self.highest {
            let shift = counter - self.highest;
            self.seen = self.seen.checked_shl(shift).unwrap_or(0) | 1;
            self.highest = counter;
            return true;
        }
        let behind = self.highest - counter;
        let bit = 1u64.checked_shl(behind).filter(|_| behind < WINDOW);
        match bit {
            Some(bit) if self.seen & bit == 0 => {
                self.seen |= bit;
                true
            }
            _ => false,
        }
    }
}

/// What is known about the freshness of one neighbour's packets.
#[derive(Default)]
pub(crate) struct Freshness {
    /// Nothing is asked: the interface is one without MACs.
    unchecked: bool,
    proven: Option<Proven>,
    challenge: Option<Challenge>,
    next_challenge: Instant,
    replies: Bucket,
}

struct Proven {
    index: Vec<u8>,
    unicast: Window,
    multicast: Window,
}

struct Challenge {
    nonce: [u8; NONCE_LEN],
    expires: Instant,
    /// Repetitions that are left, should the first one or its answer be lost.
    repeats: u8,
}

/// The TLVs of a packet that matter here, found before it is processed (RFC 8967 §4.3, "preparse").
#[derive(Clone, Copy, Default)]
pub(crate) struct Preparsed<'a> {
    pub(crate) counter: Option<(u32, &'a [u8])>,
    pub(crate) challenge: Option<&'a [u8]>,
    pub(crate) reply: Option<&'a [u8]>,
    pub(crate) unicast: bool,
}

/// What to do with a packet whose MAC is right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Process it; it comes from an incarnation of the neighbour that was known before.
    Fresh,
    /// Process it; it proved a new incarnation.
    NewlyFresh,
    /// Drop it and send a challenge with this nonce.
    Challenge([u8; NONCE_LEN]),
    /// Drop it.
    Refused,
}

impl Freshness {
    /// Of a neighbour on an interface without MACs, whose packets prove nothing.
    pub(crate) fn unchecked() -> Self {
        Self { unchecked: true, ..Self::default() }
    }

    pub(crate) fn is_proven(&self) -> bool {
        self.unchecked || self.proven.is_some()
    }

    /// The index of its packets, once it is proven.
    pub(crate) fn index(&self) -> Option<&[u8]> {
        self.proven.as_ref().map(|proven| &proven.index[..])
    }

    /// Whether a challenge of the neighbour may be answered now.
    pub(crate) fn may_reply(&mut self, now: Instant) -> bool {
        self.replies.take(now, REPLIES)
    }

    /// When an unanswered challenge is to be repeated.
    pub(crate) fn next_repeat(&self) -> Option<Instant> {
        self.challenge.as_ref().filter(|challenge| challenge.repeats > 0).map(|_| self.next_challenge)
    }

    /// The nonce of a challenge that is to be repeated now.
    pub(crate) fn repeat(&mut self, now: Instant) -> Option<[u8; NONCE_LEN]> {
        self.next_repeat().filter(|&at| at <= now)?;
        let challenge = self.challenge.as_mut()?;
        challenge.repeats -= 1;
        self.next_challenge = now + CHALLENGE_INTERVAL;
        Some(challenge.nonce)
    }

    /// RFC 8967 §4.3, after the MAC is verified. `nonce` is used if a challenge is to be sent.
    pub(crate) fn check(&mut self, now: Instant, packet: Preparsed<'_>, nonce: [u8; NONCE_LEN]) -> Verdict {
        if self.unchecked {
            return Verdict::Fresh;
        }
        let Some((counter, index)) = packet.counter else { return Verdict::Refused };
        let answered = packet.reply.is_some_and(|reply| {
            self.challenge.as_ref().is_some_and(|challenge| now < challenge.expires && reply == challenge.nonce)
        });
        let proven = self.proven.as_ref().is_some_and(|proven| proven.index == index);
        if answered {
            self.challenge = None;
        }
        // A replayed packet of an earlier incarnation had us challenge one that is proven already: nothing begins anew.
        if answered && !proven {
            let window = Window::starting_at(counter);
            self.proven = Some(Proven { index: index.to_vec(), unicast: window, multicast: window });
            return Verdict::NewlyFresh;
        }
        match &mut self.proven {
            Some(proven) if proven.index == index => {
                let window = if packet.unicast { &mut proven.unicast } else { &mut proven.multicast };
                if window.accept(counter) { Verdict::Fresh } else { Verdict::Refused }
            }
            _ if now >= self.next_challenge => {
                self.next_challenge = now + CHALLENGE_INTERVAL;
                // A nonce on its way stays good, or a peer slower than our limit could never answer.
                let challenge = match self.challenge.take() {
                    Some(pending) if now < pending.expires => pending,
                    _ => Challenge { nonce, expires: now + CHALLENGE_TIMEOUT, repeats: CHALLENGE_REPEATS },
                };
                let nonce = challenge.nonce;
                self.challenge = Some(challenge);
                Verdict::Challenge(nonce)
            }
            _ => Verdict::Refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gemcast_proto::wire::babel::GROUP;

    fn header() -> PseudoHeader {
        PseudoHeader {
            source: "fe80::1".parse().unwrap(),
            source_port: 6696,
            destination: GROUP,
            destination_port: 6696,
        }
    }

    fn packet(keys: &Keys) -> Vec<u8> {
        let mut packet = vec![42, 2, 0, 2, 1, 0];
        keys.sign(&header(), &mut packet);
        packet
    }

    const ALGORITHMS: [MacAlgorithm; 2] = [MacAlgorithm::HmacSha256, MacAlgorithm::Blake2s];

    fn hex(bytes: impl AsRef<[u8]>) -> String {
        bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn macs_are_the_published_ones() {
        // RFC 4231 test case 1 and 2, through the call that makes our MACs; the data is what the parts concatenate to.
        let hmac = |key: &[u8], parts| hex(Key::HmacSha256(hmac::Key::new(hmac::HMAC_SHA256, key)).compute(parts));
        assert_eq!(
            hmac(&[0x0b; 20], [b"Hi ", b"There"]),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
        );
        assert_eq!(
            hmac(b"Jefe", [b"what do ya want ", b"for nothing?"]),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        // Keyed BLAKE2s-128 of 0, 1, … 62 under the key 0, 1, … 31, as Python's hashlib computes it.
        let bytes: Vec<u8> = (0..63).collect();
        let key = Key::new(MacAlgorithm::Blake2s, &Secret::new(core::array::from_fn(|n| n as u8)));
        assert_eq!(hex(key.compute([&bytes[..20], &bytes[20..]])), "ece382a8bd5018f1de5da44b72cea75b");
    }

    #[test]
    fn the_pseudo_header_lies_as_the_rfc_draws_it() {
        let (bytes, len) = header().to_bytes();
        assert_eq!(len, 36);
        assert_eq!(bytes[..2], [0xfe, 0x80]);
        assert_eq!(bytes[15..20], [1, 0x1a, 0x28, 0xff, 0x02]);
        assert_eq!(bytes[33..], [6, 0x1a, 0x28]);
        let [source, destination] = ["::ffff:192.0.2.1", "::ffff:192.0.2.7"].map(|text| text.parse().unwrap());
        let (bytes, len) = PseudoHeader { source, destination, ..header() }.to_bytes();
        assert_eq!(bytes[..len], [192, 0, 2, 1, 0x1a, 0x28, 192, 0, 2, 7, 0x1a, 0x28]);
    }

    #[test]
    fn a_packet_is_heard_by_who_shares_a_key() {
        let (old, new) = (Secret::new([1; 32]), Secret::new([2; 32]));
        for algorithm in ALGORITHMS {
            let keys = |keys: &[&Secret<32>]| Keys::new(algorithm, keys.iter().copied());
            let (only_old, both, only_new) = (keys(&[&old]), keys(&[&new, &old]), keys(&[&new]));
            let verify = |by: &Keys, packet: &[u8]| by.verify(&header(), &Packet::parse(packet).unwrap());
            assert!(verify(&only_old, &packet(&only_old)));
            assert!(verify(&only_old, &packet(&both)) && verify(&only_new, &packet(&both)));
            assert!(verify(&both, &packet(&only_old)) && verify(&both, &packet(&only_new)));
            assert!(!verify(&only_new, &packet(&only_old)));
            assert_eq!(packet(&both).len(), 6 + both.trailer_len());
            let elsewhere = ALGORITHMS.into_iter().find(|other| *other != algorithm).unwrap();
            let changed = Keys::new(elsewhere, [&old]);
            assert!(verify(&changed, &packet(&only_old)) && verify(&only_old, &packet(&changed)), "one by one");
            assert!(!verify(&changed, &packet(&only_new)));
        }
    }

    #[test]
    fn a_trailer_leaves_room_in_the_smallest_packet() {
        let secrets: Vec<_> = (0..100).map(|n| Secret::new([n; 32])).collect();
        assert!(Keys::new(MacAlgorithm::HmacSha256, &secrets).trailer_len() < 512 / 2 + 32);
    }

    #[test]
    fn every_bit_and_both_addresses_count() {
        for algorithm in ALGORITHMS {
            let keys = Keys::new(algorithm, [&Secret::new([1; 32])]);
            let good = packet(&keys);
            for bit in 0..8 * good.len() {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(!Packet::parse(&bad).is_ok_and(|packet| keys.verify(&header(), &packet)), "bit {bit}");
            }
            let elsewhere = PseudoHeader { destination: "fe80::2".parse().unwrap(), ..header() };
            assert!(!keys.verify(&elsewhere, &Packet::parse(&good).unwrap()));
        }
    }

    fn preparsed(counter: u32, index: &[u8]) -> Preparsed<'_> {
        Preparsed { counter: Some((counter, index)), ..Preparsed::default() }
    }

    #[test]
    fn an_incarnation_is_heard_after_it_answered_a_challenge() {
        let (mut state, now) = (Freshness::default(), Instant(1));
        assert_eq!(state.check(now, preparsed(9, b"first"), [7; NONCE_LEN]), Verdict::Challenge([7; NONCE_LEN]));
        assert_eq!(
            state.check(now, preparsed(10, b"first"), [8; NONCE_LEN]),
            Verdict::Refused,
            "one challenge per 300 ms"
        );
        let wrong = Preparsed { reply: Some(&[8; NONCE_LEN]), ..preparsed(11, b"first") };
        assert_eq!(state.check(now, wrong, [9; NONCE_LEN]), Verdict::Refused);
        let right = Preparsed { reply: Some(&[7; NONCE_LEN]), ..preparsed(12, b"first") };
        assert_eq!(state.check(now, right, [9; NONCE_LEN]), Verdict::NewlyFresh);
        assert_eq!(state.check(now, right, [9; NONCE_LEN]), Verdict::Refused, "a reply counts once");
        assert_eq!(state.check(now, preparsed(13, b"first"), [9; NONCE_LEN]), Verdict::Fresh);
        assert_eq!(state.check(now, preparsed(13, b"first"), [9; NONCE_LEN]), Verdict::Refused, "replayed");
        let later = now + CHALLENGE_INTERVAL;
        assert_eq!(state.check(later, preparsed(1, b"next"), [6; NONCE_LEN]), Verdict::Challenge([6; NONCE_LEN]));
    }

    #[test]
    fn replayed_packets_of_an_earlier_incarnation_change_nothing() {
        let (mut state, now) = (Freshness::default(), Instant(1));
        state.check(now, preparsed(1, b"next"), [7; NONCE_LEN]);
        let reply = Preparsed { reply: Some(&[7; NONCE_LEN]), ..preparsed(2, b"next") };
        assert_eq!(state.check(now, reply, [7; NONCE_LEN]), Verdict::NewlyFresh);
        let later = now + CHALLENGE_INTERVAL;
        assert_eq!(state.check(later, preparsed(9, b"first"), [8; NONCE_LEN]), Verdict::Challenge([8; NONCE_LEN]));
        let reply = Preparsed { reply: Some(&[8; NONCE_LEN]), ..preparsed(3, b"next") };
        assert_eq!(state.check(later, reply, [9; NONCE_LEN]), Verdict::Fresh);
        assert_eq!(state.check(later, preparsed(3, b"next"), [9; NONCE_LEN]), Verdict::Refused, "replayed");
        assert!(state.next_repeat().is_none());
        assert!(state.may_reply(later) && state.may_reply(later), "a replayed challenge leaves room for the real one");
        assert_eq!((0..10).filter(|_| state.may_reply(later)).count(), 2);
    }

    #[test]
    fn overtaken_packets_are_heard_once_and_old_ones_never() {
        let mut window = Window::starting_at(10);
        assert!(!window.accept(10) && !window.accept(9));
        assert!(window.accept(100) && window.accept(40) && !window.accept(40));
        assert!(!window.accept(36), "too far behind");
        assert!(window.accept(u32::MAX) && !window.accept(u32::MAX) && !window.accept(0));
    }

    #[test]
    fn unicast_and_multicast_count_apart() {
        let (mut state, now) = (Freshness::default(), Instant(1));
        state.check(now, preparsed(1, b"i"), [7; NONCE_LEN]);
        state.check(now, Preparsed { reply: Some(&[7; NONCE_LEN]), ..preparsed(2, b"i") }, [0; NONCE_LEN]);
        let unicast = Preparsed { unicast: true, ..preparsed(500, b"i") };
        assert_eq!(state.check(now, unicast, [0; NONCE_LEN]), Verdict::Fresh);
        assert_eq!(state.check(now, preparsed(3, b"i"), [0; NONCE_LEN]), Verdict::Fresh);
    }
}
