//! What a bad link does to frames: decided here from a seed, without sockets or clocks, and carried out by the wire.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::capture::SEALED_PORT;
use crate::frame::Mac;
use crate::gem::BABEL_PORT;

/// Frames that may wait for their time; further ones are lost, as in a full queue.
const MAX_WAITING: usize = 100_000;
/// Bytes in front of these are left alone by corruption: it is to meet the receiver's checks, not to lose the way there.
const ETHERNET_LEN: usize = 14;

/// Frames that belong together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FrameClass {
    /// Every frame.
    #[default]
    Any,
    /// Frames to more than one host, broadcast too.
    Multicast,
    /// Babel, to the group and to one neighbour.
    Babel,
    /// Babel to the group.
    BabelMulticast,
    /// Babel to one neighbour.
    BabelUnicast,
    /// Sealed packets.
    Sealed,
}

impl FrameClass {
    /// Every class.
    pub const ALL: [Self; 6] =
        [Self::Any, Self::Multicast, Self::Babel, Self::BabelMulticast, Self::BabelUnicast, Self::Sealed];

    /// Name, as on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Multicast => "multicast",
            Self::Babel => "babel",
            Self::BabelMulticast => "babel-multicast",
            Self::BabelUnicast => "babel-unicast",
            Self::Sealed => "sealed",
        }
    }

    /// Whether a frame is of it.
    pub fn has(self, frame: &[u8]) -> bool {
        let port = udp_port(frame);
        let multicast = frame.first().is_some_and(|first| first & 1 != 0);
        match self {
            Self::Any => true,
            Self::Multicast => multicast,
            Self::Babel => port == Some(BABEL_PORT),
            Self::BabelMulticast => port == Some(BABEL_PORT) && multicast,
            Self::BabelUnicast => port == Some(BABEL_PORT) && !multicast,
            Self::Sealed => port == Some(SEALED_PORT),
        }
    }
}

/// Destination port of an untagged UDP frame.
fn udp_port(frame: &[u8]) -> Option<u16> {
    let (protocol, udp) = match frame.get(12..14)? {
        [0x08, 0x00] => (frame.get(23)?, ETHERNET_LEN + usize::from(frame.get(14)? & 0xf) * 4),
        [0x86, 0xdd] => (frame.get(20)?, ETHERNET_LEN + 40),
        _ => return None,
    };
    let port = frame.get(udp + 2..udp + 4)?;
    (*protocol == 17).then(|| u16::from_be_bytes([port[0], port[1]]))
}

/// What happens to frames. Shares are of a whole: 0.05 is one in twenty.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// That share is lost; with 1, all.
    Loss(f64),
    /// Each arrives that much later, give or take up to the jitter, and so out of order when the jitter is large.
    Delay {
        /// Milliseconds.
        delay_ms: u32,
        /// Milliseconds, at most the delay.
        jitter_ms: u32,
    },
    /// A bit of that share is flipped, behind the Ethernet header.
    Corrupt(f64),
    /// That share arrives twice.
    Duplicate(f64),
    /// That share arrives 20 ms later, behind what was sent after it.
    Reorder(f64),
    /// The latest frame is repeated so many times a second.
    Flood {
        /// Frames per second.
        per_second: u32,
        /// Whether each repetition has flipped bits, else it is the frame itself.
        forged: bool,
    },
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // To a tenth, which rounds away what floating point adds.
        let percent = |share: f64| (share * 1000.0).round() / 10.0;
        match *self {
            Self::Loss(1.0) => write!(f, "cut"),
            Self::Loss(share) => write!(f, "lose {} %", percent(share)),
            Self::Delay { delay_ms, jitter_ms } => write!(f, "delay {delay_ms} ± {jitter_ms} ms"),
            Self::Corrupt(share) => write!(f, "corrupt {} %", percent(share)),
            Self::Duplicate(share) => write!(f, "duplicate {} %", percent(share)),
            Self::Reorder(share) => write!(f, "reorder {} %", percent(share)),
            Self::Flood { per_second, forged: false } => write!(f, "repeat {per_second}/s"),
            Self::Flood { per_second, forged: true } => write!(f, "forge {per_second}/s"),
        }
    }
}

/// A fault of a segment's links: to which frames what happens.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LinkFault {
    /// Only frames that this host sent.
    pub from: Option<String>,
    /// Only on the way to this host. Without it, a frame meets the fault once, before it is copied to its receivers.
    pub to: Option<String>,
    /// Only frames of this class.
    pub class: FrameClass,
    /// What happens to them.
    pub effect: Effect,
}

impl LinkFault {
    /// A fault that every frame of the segment meets.
    pub fn new(effect: Effect) -> Self {
        Self { from: None, to: None, class: FrameClass::Any, effect }
    }

    /// Only frames that this host sent.
    #[must_use]
    pub fn from(mut self, host: &str) -> Self {
        self.from = Some(host.into());
        self
    }

    /// Only on the way to this host.
    #[must_use]
    pub fn to(mut self, host: &str) -> Self {
        self.to = Some(host.into());
        self
    }

    /// Only frames of this class.
    #[must_use]
    pub fn class(mut self, class: FrameClass) -> Self {
        self.class = class;
        self
    }
}

impl fmt::Display for LinkFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.effect, self.class.name())?;
        self.from.as_ref().map_or(Ok(()), |host| write!(f, " from {host}"))?;
        self.to.as_ref().map_or(Ok(()), |host| write!(f, " to {host}"))
    }
}

/// A place on the segment where frames go by: a host's link, and which way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    /// Index of the host.
    pub(crate) host: usize,
    /// Towards the host; else from it.
    pub(crate) inward: bool,
}

/// A frame that goes on at a place.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Passing {
    pub(crate) place: Place,
    pub(crate) frame: Vec<u8>,
}

struct Active {
    fault: LinkFault,
    /// What a flood repeats.
    latest: Option<(Place, Vec<u8>)>,
    next_flood_ns: u64,
}

/// The faults of a segment and the frames they hold back.
pub(crate) struct Links {
    hosts: Vec<(String, Mac)>,
    active: Vec<Active>,
    waiting: BinaryHeap<Reverse<Waiting>>,
    order: u64,
    rng: ChaCha8Rng,
}

struct Waiting {
    due_ns: u64,
    order: u64,
    passing: Passing,
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due_ns, self.order).cmp(&(other.due_ns, other.order))
    }
}

const REORDER_NS: u64 = 20_000_000;

impl Links {
    pub(crate) fn new(hosts: Vec<(String, Mac)>) -> Self {
        let rng = ChaCha8Rng::seed_from_u64(0);
        Self { hosts, active: Vec::new(), waiting: BinaryHeap::new(), order: 0, rng }
    }

    /// Starts the random decisions anew.
    pub(crate) fn seed(&mut self, seed: u64) {
        self.rng = ChaCha8Rng::seed_from_u64(seed);
    }

    /// Adds a fault. `Err` says which host there is none of.
    pub(crate) fn add(&mut self, fault: LinkFault) -> Result<(), String> {
        let named = [&fault.from, &fault.to].into_iter().flatten();
        let known = |name: &String| self.hosts.iter().any(|(host, _)| host == name);
        if let Some(stranger) = named.into_iter().find(|name| !known(name)) {
            return Err(format!("no host `{stranger}` on this segment"));
        }
        self.active.push(Active { fault, latest: None, next_flood_ns: 0 });
        Ok(())
    }

    /// Ends a fault; answers whether there was one like it.
    pub(crate) fn remove(&mut self, fault: &LinkFault) -> bool {
        let found = self.active.iter().position(|one| one.fault == *fault);
        found.map(|index| self.active.remove(index)).is_some()
    }

    /// Ends all faults. Frames that are held back still arrive when it is their time.
    pub(crate) fn clear(&mut self) {
        self.active.clear();
    }

    /// Takes a frame that comes by; what goes on of it is due at once or later.
    pub(crate) fn offer(&mut self, now_ns: u64, place: Place, frame: &[u8]) {
        let mut frame = frame.to_vec();
        let (mut due_ns, mut copies) = (now_ns, 1);
        for index in 0..self.active.len() {
            if !self.meets(&self.active[index].fault, place, &frame) {
                continue;
            }
            let effect = self.active[index].fault.effect;
            match effect {
                Effect::Loss(share) if self.happens(share) => return,
                Effect::Delay { delay_ms, jitter_ms } => {
                    let spread = u64::from(jitter_ms.min(delay_ms)) * 2_000_000;
                    let least = u64::from(delay_ms - jitter_ms.min(delay_ms)) * 1_000_000;
                    due_ns += least + if spread == 0 { 0 } else { self.rng.next_u64() % (spread + 1) };
                }
                Effect::Corrupt(share) if self.happens(share) => self.flip(&mut frame),
                Effect::Duplicate(share) if self.happens(share) => copies += 1,
                Effect::Reorder(share) if self.happens(share) => due_ns += REORDER_NS,
                Effect::Flood { .. } => {
                    let one = &mut self.active[index];
                    one.next_flood_ns = if one.latest.is_none() { now_ns } else { one.next_flood_ns };
                    one.latest = Some((place, frame.clone()));
                }
                _ => {}
            }
        }
        for _ in 1..copies {
            self.wait(due_ns, Passing { place, frame: frame.clone() });
        }
        self.wait(due_ns, Passing { place, frame });
    }

    /// A frame that is due.
    pub(crate) fn due(&mut self, now_ns: u64) -> Option<Passing> {
        self.flood(now_ns);
        if self.waiting.peek().is_none_or(|Reverse(first)| first.due_ns > now_ns) {
            return None;
        }
        self.waiting.pop().map(|Reverse(first)| first.passing)
    }

    /// When the next frame is due.
    pub(crate) fn next_due_ns(&self) -> Option<u64> {
        let floods = self.active.iter().filter(|one| one.latest.is_some()).map(|one| one.next_flood_ns);
        self.waiting.peek().map(|Reverse(first)| first.due_ns).into_iter().chain(floods).min()
    }

    fn flood(&mut self, now_ns: u64) {
        for index in 0..self.active.len() {
            let Effect::Flood { per_second, forged } = self.active[index].fault.effect else { continue };
            let interval_ns = 1_000_000_000 / u64::from(per_second.max(1));
            let Some((place, frame)) = self.active[index].latest.clone() else { continue };
            // A wire that was kept from running does not make up for more than a moment.
            let first = self.active[index].next_flood_ns.max(now_ns.saturating_sub(10_000_000));
            let mut next = first;
            while next <= now_ns {
                let mut copy = frame.clone();
                if forged {
                    self.flip(&mut copy);
                }
                self.wait(next, Passing { place, frame: copy });
                next += interval_ns;
            }
            self.active[index].next_flood_ns = next;
        }
    }

    fn meets(&self, fault: &LinkFault, place: Place, frame: &[u8]) -> bool {
        let sender = || frame.get(6..12).and_then(|mac| self.hosts.iter().find(|(_, host)| host.0 == mac));
        let here = match &fault.to {
            Some(to) => place.inward && self.hosts[place.host].0 == *to,
            None => !place.inward,
        };
        here && fault.from.as_ref().is_none_or(|from| sender().is_some_and(|(host, _)| host == from))
            && fault.class.has(frame)
    }

    fn happens(&mut self, share: f64) -> bool {
        f64::from(self.rng.next_u32()) < share * (f64::from(u32::MAX) + 1.0)
    }

    fn flip(&mut self, frame: &mut [u8]) {
        let bits = frame.len().saturating_sub(ETHERNET_LEN) as u64 * 8;
        if bits > 0 {
            let bit = (self.rng.next_u64() % bits) as usize;
            frame[ETHERNET_LEN + bit / 8] ^= 1 << (bit % 8);
        }
    }

    fn wait(&mut self, due_ns: u64, passing: Passing) {
        if self.waiting.len() < MAX_WAITING {
            self.order += 1;
            self.waiting.push(Reverse(Waiting { due_ns, order: self.order, passing }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Datagram;

    const A: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const OUT: Place = Place { host: 0, inward: false };
    const IN_B: Place = Place { host: 1, inward: true };
    const IN_C: Place = Place { host: 2, inward: true };

    fn links(faults: &[LinkFault]) -> Links {
        let hosts = [("a", A), ("b", Mac([2, 0, 0, 0, 0, 2])), ("c", Mac([2, 0, 0, 0, 0, 3]))];
        let mut links = Links::new(hosts.map(|(name, mac)| (name.to_owned(), mac)).into());
        faults.iter().for_each(|fault| links.add(fault.clone()).unwrap());
        links
    }

    fn frame(port: u16, byte: u8) -> Vec<u8> {
        Datagram::new(A, "10.0.0.1".parse().unwrap(), "224.0.0.111".parse().unwrap(), port, [byte; 20]).to_frame()
    }

    fn all(links: &mut Links, now_ns: u64) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| links.due(now_ns)).map(|passing| passing.frame).collect()
    }

    #[test]
    fn without_faults_frames_go_on_as_they_came() {
        let mut links = links(&[]);
        let frames: Vec<_> = (0..10).map(|byte| frame(SEALED_PORT, byte)).collect();
        frames.iter().for_each(|frame| links.offer(5, OUT, frame));
        assert_eq!(links.next_due_ns(), Some(5));
        assert_eq!(all(&mut links, 5), frames);
        assert_eq!(links.next_due_ns(), None);
    }

    #[test]
    fn a_fault_meets_the_frames_it_names_and_each_once() {
        let cut = || LinkFault::new(Effect::Loss(1.0));
        let babel = frame(BABEL_PORT, 0);
        for (fault, out, to_b, to_c) in [
            (cut(), 0, 1, 1),
            (cut().from("a"), 0, 1, 1),
            (cut().from("b"), 1, 1, 1),
            (cut().from("a").to("b"), 1, 0, 1),
            (cut().from("c").to("b"), 1, 1, 1),
            (cut().to("c").class(FrameClass::BabelMulticast), 1, 1, 0),
            (cut().class(FrameClass::BabelUnicast), 1, 1, 1),
            (cut().class(FrameClass::Multicast), 0, 1, 1),
            (cut().class(FrameClass::Sealed), 1, 1, 1),
        ] {
            let mut links = links(std::slice::from_ref(&fault));
            let mut passes = |place| {
                links.offer(0, place, &babel);
                all(&mut links, 0).len()
            };
            assert_eq!([passes(OUT), passes(IN_B), passes(IN_C)], [out, to_b, to_c], "{fault}");
        }
        assert!(links(&[]).add(cut().to("d")).is_err());
    }

    #[test]
    fn shares_and_delays_are_what_they_say_and_the_same_from_the_same_seed() {
        let delay = LinkFault::new(Effect::Delay { delay_ms: 200, jitter_ms: 100 });
        let run = |seed| {
            let mut links = links(&[LinkFault::new(Effect::Loss(0.05)), delay.clone()]);
            links.seed(seed);
            (0..2000).for_each(|_| links.offer(0, OUT, &frame(SEALED_PORT, 1)));
            let early = all(&mut links, 100_000_000 - 1).len();
            let half = all(&mut links, 200_000_000).len();
            (early, half, half + all(&mut links, 300_000_000).len())
        };
        let (early, half, whole) = run(1);
        assert!(early == 0 && (800..1100).contains(&half) && (1850..1950).contains(&whole), "{half} {whole}");
        assert_eq!(run(1), (early, half, whole));
        assert_ne!(run(2), (early, half, whole));
    }

    #[test]
    fn corruption_flips_a_bit_behind_the_ethernet_header() {
        let mut links = links(&[LinkFault::new(Effect::Corrupt(1.0))]);
        let sent = frame(SEALED_PORT, 1);
        links.offer(0, OUT, &sent);
        let got = links.due(0).unwrap().frame;
        let bits: u32 = sent.iter().zip(&got).map(|(one, other)| (one ^ other).count_ones()).sum();
        assert_eq!((bits, &got[..14]), (1, &sent[..14]));
    }

    #[test]
    fn copies_and_floods_are_counted_out() {
        let duplicate = LinkFault::new(Effect::Duplicate(1.0));
        let flood = LinkFault::new(Effect::Flood { per_second: 1000, forged: false }).class(FrameClass::Sealed);
        let mut links = links(&[duplicate, flood.clone()]);
        links.offer(0, OUT, &frame(BABEL_PORT, 1));
        assert_eq!((all(&mut links, 0).len(), links.next_due_ns()), (2, None), "nothing to flood with yet");
        links.offer(0, OUT, &frame(SEALED_PORT, 1));
        assert_eq!(all(&mut links, 5_000_000).len(), 2 + 6);
        assert!(links.remove(&flood) && !links.remove(&flood));
        assert_eq!(links.next_due_ns(), None);
    }
}
