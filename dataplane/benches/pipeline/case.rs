//! The cases: what is compared with what, and how one batch of each is made and run.

use crate::rig::{self, Peer, Scale};
use gemcast_dataplane::pipeline::Pipeline;
use gemcast_dataplane::tables::Role;
use gemcast_proto::id::Suite;
use gemcast_proto::wire::classify::{ETHERNET_LEN, IPV4_LEN, UDP_LEN};
use gemcast_proto::wire::frame::{AAD_V4_LEN, HEADER_LEN, INNER_LEN, NONCE_LEN, ROOM, TAG_LEN};
use ring::aead::{Aad, LessSafeKey, Nonce};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Packets of a batch, as many as a worker takes from a ring at a time.
pub(crate) const BATCH: usize = 64;
/// Distance of packets in memory: a chunk of the UMEM.
const CHUNK: usize = 4096;
/// Where a packet starts in its chunk: behind the kernel's headroom.
const HEADROOM: usize = 256;
/// UDP payloads: a small one, an audio one, seven MPEG-TS packets, and the largest that fits sealed into 1500 bytes, roughly.
const PAYLOADS: [usize; 4] = [64, 256, 1316, 1400];
/// Payload of the comparisons by scale.
const SCALE_PAYLOAD: usize = 1400;
const GROUPS: usize = 10_000;
const KEYS: usize = 100_000;
/// Of so many keys, those that packets arrive for when not all are in use.
const KEYS_IN_USE: usize = 100;

/// What a case does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    RingSeal,
    Seal,
    RingOpen,
    /// To another place, as the pipeline does it.
    RingOpenShifted,
    Open,
    Relay,
    SealOfMany {
        groups: usize,
    },
    OpenOfMany {
        keys: usize,
        in_use: usize,
    },
    RelayOfMany {
        groups: usize,
    },
}

impl Kind {
    /// What it is divided by.
    pub(crate) fn base(self) -> Option<Self> {
        match self {
            Self::RingSeal | Self::RingOpen | Self::Relay => None,
            Self::Seal => Some(Self::RingSeal),
            Self::Open | Self::RingOpenShifted => Some(Self::RingOpen),
            Self::SealOfMany { .. } => Some(Self::Seal),
            Self::OpenOfMany { .. } => Some(Self::Open),
            Self::RelayOfMany { .. } => Some(Self::Relay),
        }
    }
}

/// One thing to measure.
pub(crate) struct Case {
    pub(crate) kind: Kind,
    suite: Suite,
    payload_len: usize,
}

/// All cases, those that are compared with each other together.
pub(crate) fn comparisons() -> Vec<Vec<Case>> {
    let mut comparisons = Vec::new();
    for suite in [Suite::Aes256Gcm, Suite::ChaCha20Poly1305] {
        for payload_len in PAYLOADS {
            for kinds in [&[Kind::RingSeal, Kind::Seal][..], &[Kind::RingOpen, Kind::RingOpenShifted, Kind::Open]] {
                comparisons.push(kinds.iter().map(|&kind| Case { kind, suite, payload_len }).collect());
            }
        }
    }
    let aes = |payload_len| move |kind| Case { kind, suite: Suite::Aes256Gcm, payload_len };
    comparisons.extend(PAYLOADS.map(|payload_len| vec![aes(payload_len)(Kind::Relay)]));
    let many: [&[Kind]; 3] = [
        &[Kind::Seal, Kind::SealOfMany { groups: GROUPS }],
        &[
            Kind::Open,
            Kind::OpenOfMany { keys: KEYS, in_use: KEYS_IN_USE },
            Kind::OpenOfMany { keys: KEYS, in_use: KEYS },
        ],
        &[Kind::Relay, Kind::RelayOfMany { groups: GROUPS }],
    ];
    comparisons.extend(many.map(|kinds| kinds.iter().copied().map(aes(SCALE_PAYLOAD)).collect()));
    comparisons
}

impl Case {
    /// Its name, in output and on the command line.
    pub(crate) fn name(&self) -> String {
        let suite = match self.suite {
            Suite::Aes256Gcm => "aes-256-gcm",
            Suite::ChaCha20Poly1305 => "chacha20-poly1305",
        };
        let length = self.payload_len;
        match self.kind {
            Kind::RingSeal => format!("ring-seal/{suite}/{length}"),
            Kind::Seal => format!("seal/{suite}/{length}"),
            Kind::RingOpen => format!("ring-open/{suite}/{length}"),
            Kind::RingOpenShifted => format!("ring-open-shifted/{suite}/{length}"),
            Kind::Open => format!("open/{suite}/{length}"),
            Kind::Relay => format!("relay/{length}"),
            Kind::SealOfMany { groups } => format!("seal/{suite}/{length}/groups={groups}"),
            Kind::OpenOfMany { keys, in_use } => format!("open/{suite}/{length}/keys={keys}/in-use={in_use}"),
            Kind::RelayOfMany { groups } => format!("relay/{length}/groups={groups}"),
        }
    }

    /// Makes it ready to run.
    pub(crate) fn start(self) -> Run {
        let (groups, open_keys, in_use) = match self.kind {
            Kind::SealOfMany { groups } | Kind::RelayOfMany { groups } => (groups, 1, groups),
            Kind::OpenOfMany { keys, in_use } => (1, keys, in_use),
            _ => (1, 1, 1),
        };
        let sealed = !matches!(self.kind, Kind::Relay | Kind::RelayOfMany { .. });
        let pipeline = rig::pipeline(Scale { groups, open_keys, sealed, suite: self.suite });
        let flows = (0..in_use)
            .map(|number| pipeline.tables().find(&gemcast_proto::id::map_v4(rig::group(number).octets())).unwrap_or(0))
            .collect();
        let mut run = Run {
            pipeline,
            ring: rig::ring_key(self.suite),
            peer: Peer::new(self.suite, self.payload_len),
            memory: vec![0; (BATCH + 1) * CHUNK],
            lengths: [0; BATCH],
            packet: 0,
            in_use,
            flows,
            case: self,
        };
        // Every key is expanded before the first packet that counts.
        for _ in 0..in_use.div_ceil(BATCH) {
            run.timed_batch();
        }
        run
    }
}

/// A case under way.
pub(crate) struct Run {
    case: Case,
    pipeline: Pipeline,
    ring: LessSafeKey,
    peer: Peer,
    memory: Vec<u8>,
    lengths: [usize; BATCH],
    packet: usize,
    in_use: usize,
    flows: Vec<u32>,
}

impl Run {
    /// Makes a batch of packets, runs it, and says how long the running took.
    pub(crate) fn timed_batch(&mut self) -> Duration {
        // Chunks of a UMEM lie on pages.
        let aligned = self.memory.as_ptr().align_offset(CHUNK);
        let mut memory = std::mem::take(&mut self.memory);
        for (at, chunk) in memory[aligned..].chunks_exact_mut(CHUNK).take(BATCH).enumerate() {
            self.lengths[at] = self.prepare(&mut chunk[HEADROOM..]);
        }
        let start = Instant::now();
        self.process_batch(&mut memory[aligned..]);
        let spent = start.elapsed();
        self.memory = memory;
        spent
    }

    /// What is measured; a function of its own for `callgrind --toggle-collect`.
    #[inline(never)]
    fn process_batch(&mut self, memory: &mut [u8]) {
        for (chunk, length) in memory.chunks_exact_mut(CHUNK).zip(self.lengths) {
            self.process(&mut chunk[HEADROOM..], length);
        }
    }

    /// Packets take keys and groups in an order that no prefetcher guesses, but each equally often.
    fn prepare(&mut self, frame: &mut [u8]) -> usize {
        const STRIDE: usize = 7919;
        let number = self.packet.wrapping_mul(STRIDE) % self.in_use;
        let seq = (self.packet / self.in_use) as u64 + 1;
        self.packet += 1;
        let payload_len = self.case.payload_len;
        match self.case.kind {
            Kind::RingSeal => AEAD_AT + INNER_LEN + payload_len + TAG_LEN,
            Kind::RingOpen | Kind::RingOpenShifted => self.ring_seal(frame),
            Kind::Seal | Kind::SealOfMany { .. } => {
                place(frame, &rig::to_seal(number, self.flows[number], payload_len))
            }
            Kind::Open | Kind::OpenOfMany { .. } => self.peer.seal(number, seq, frame),
            Kind::Relay | Kind::RelayOfMany { .. } => {
                place(frame, &rig::to_relay(number, self.flows[number], payload_len))
            }
        }
    }

    #[inline]
    fn process(&mut self, frame: &mut [u8], length: usize) {
        let role = match self.case.kind {
            Kind::RingSeal => {
                self.ring_seal(frame);
                return;
            }
            Kind::RingOpen => return self.ring_open(&mut frame[AEAD_AT..length], 0),
            Kind::RingOpenShifted => {
                return self.ring_open(&mut frame[AEAD_AT - UDP_LEN - HEADER_LEN..length], UDP_LEN + HEADER_LEN);
            }
            Kind::Seal | Kind::SealOfMany { .. } => Role::Trusted,
            Kind::Open | Kind::OpenOfMany { .. } | Kind::Relay | Kind::RelayOfMany { .. } => Role::Untrusted,
        };
        let emit = self.pipeline.process(role, frame, length);
        black_box(emit.expect("every packet is good").length);
    }

    #[inline]
    fn ring_seal(&self, frame: &mut [u8]) -> usize {
        let end = AEAD_AT + INNER_LEN + self.case.payload_len;
        let tag = self
            .ring
            .seal_in_place_separate_tag(nonce(), Aad::from(AAD), &mut frame[AEAD_AT..end])
            .expect("short enough");
        frame[end..end + TAG_LEN].copy_from_slice(tag.as_ref());
        end + TAG_LEN
    }

    #[inline]
    fn ring_open(&self, buffer: &mut [u8], at: usize) {
        black_box(self.ring.open_within(nonce(), Aad::from(AAD), buffer, at..).expect("authentic").len());
    }
}

fn place(frame: &mut [u8], bytes: &[u8]) -> usize {
    frame[..bytes.len()].copy_from_slice(bytes);
    bytes.len()
}

/// Where the AEAD's text starts in a sealed frame.
const AEAD_AT: usize = ETHERNET_LEN + IPV4_LEN + UDP_LEN + HEADER_LEN;
/// Additional data of the right length, for ring alone.
const AAD: [u8; AAD_V4_LEN] = [7; AAD_V4_LEN];

fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([1; NONCE_LEN])
}

const _: () = assert!(HEADROOM + ROOM + 1500 < CHUNK);
