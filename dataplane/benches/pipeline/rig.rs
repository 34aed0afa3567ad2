//! A pipeline with its maps and tables, and packets for it.

use gemcast_dataplane::aead::Aead;
use gemcast_dataplane::pipeline::{Now, Pipeline, Shared};
use gemcast_dataplane::replay::Windows;
use gemcast_dataplane::tables::{Flow, Tables};
use gemcast_lab::{Datagram, Mac};
use gemcast_proto::id::{Counter, Epoch, KeyId, NodeId, Suite, map_v4};
use gemcast_proto::wire::classify::{ETHERNET_LEN, IPV4_LEN, UDP_LEN};
use gemcast_proto::wire::frame::{HEADER_LEN, Header, INNER_LEN, Inner, Kind, OVERHEAD, PORT, ROOM, TAG_LEN};
use gemcast_xdp::counters::Counters;
use gemcast_xdp::layout::Mark;
use gemcast_xdp::seks::{Sek, SekRole, Seks};
use gemcast_xdp::sync::Sync;
use std::net::Ipv4Addr;
use std::sync::Arc;

const NOW: u64 = 1_800_000_000_000;
const EPOCH: Epoch = Epoch(1);
const KEY: [u8; 32] = [3; 32];
const SALT: [u8; 12] = [4; 12];
const SOURCE: [u8; 4] = [10, 0, 0, 1];
const UDP_AT: usize = ETHERNET_LEN + IPV4_LEN;
/// Offset of the sealed packet's header in a frame.
const HEADER_AT: usize = ETHERNET_LEN + IPV4_LEN + UDP_LEN;

/// The group with this number.
pub(crate) fn group(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(239, 1, (number >> 8) as u8, number as u8)
}

fn key_id(number: usize) -> KeyId {
    KeyId((number as u32 + 1).wrapping_mul(0x9e37_79b1))
}

/// What a rig is made for.
#[derive(Clone, Copy)]
pub(crate) struct Scale {
    /// Groups in the tables.
    pub(crate) groups: usize,
    /// Keys in the map: one of ours for each group to seal, this many of others to open.
    pub(crate) open_keys: usize,
    /// Whether the groups are sealed.
    pub(crate) sealed: bool,
    /// AEAD of every key.
    pub(crate) suite: Suite,
}

fn sek(key_id: KeyId, group: Ipv4Addr, suite: Suite, role: SekRole) -> Sek {
    let group = group.to_string().parse().expect("a group address");
    let (origin, not_after_ms) = (NodeId([1; 8]), NOW + 1000);
    Sek { key_id, origin, group, epoch: EPOCH, suite, role, not_after_ms, key: KEY, salt: SALT, gtag: [5; 16] }
}

/// A pipeline ready to process.
pub(crate) fn pipeline(scale: Scale) -> Pipeline {
    let slots = (2 * (scale.groups + scale.open_keys)).next_power_of_two().max(64);
    let seks = Arc::new(Seks::anonymous(slots).expect("memory"));
    let counters = Arc::new(Counters::anonymous(scale.groups).expect("memory"));
    let flow = |number| Flow {
        group: group(number).to_string().parse().expect("a group address"),
        sealed: scale.sealed,
        send: true,
        receive: true,
        transit: false,
        send_standby: false,
        receive_standby: false,
        ports: Vec::new(),
        sources: Vec::new(),
    };
    let mut tables = Tables::default().with_flows((0..scale.groups).map(flow).collect());
    tables.trusted.insert(0);
    tables.untrusted.insert(1);
    tables.replay_window = gemcast_dataplane::replay::DEFAULT_WINDOW;
    tables.outer_ttl = 64;
    if scale.sealed {
        for number in 0..scale.groups {
            let counter_block = counters.allocate(key_id(number)).expect("a block for each");
            let role = SekRole::Seal { counter_block, active: true };
            seks.insert(&sek(key_id(number), group(number), scale.suite, role)).expect("room");
        }
        for number in 0..scale.open_keys {
            seks.insert(&sek(key_id(number), group(0), scale.suite, SekRole::Open)).expect("room");
        }
    }
    let sync = Arc::new(Sync::anonymous().expect("memory"));
    let shared = Shared { seks, counters, sync, windows: Arc::new(Windows::new(1)) };
    let mut pipeline = Pipeline::new(shared, 0, 1);
    pipeline.set_tables(Arc::new(tables));
    pipeline.begin_batch(Now { wall_ms: NOW, mono_ms: 1 });
    pipeline
}

fn clear(group_number: usize, payload_len: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..payload_len).map(|at| at as u8).collect();
    let (source, group) = (Ipv4Addr::from(SOURCE).into(), group(group_number).into());
    Datagram::new(Mac([2, 0, 0, 0, 0, 1]), source, group, 5000, payload).to_frame()
}

/// A cleartext frame to a group, marked to be relayed as it is.
pub(crate) fn to_relay(group_number: usize, flow: u32, payload_len: usize) -> Vec<u8> {
    let mut frame = clear(group_number, payload_len);
    frame[..size_of::<Mark>()].copy_from_slice(&Mark::new(0, flow).emit());
    frame
}

/// A cleartext frame to a group, marked to be sealed, with room in front.
pub(crate) fn to_seal(group_number: usize, flow: u32, payload_len: usize) -> Vec<u8> {
    let mut frame = vec![0; ROOM];
    frame[..size_of::<Mark>()].copy_from_slice(&Mark::new(Mark::SEAL, flow).emit());
    frame.extend_from_slice(&clear(group_number, payload_len));
    frame
}

/// What other gateways send: sealed frames to group 0, each with a counter of its own, marked to be opened.
pub(crate) struct Peer {
    aead: Aead,
    frame: Vec<u8>,
    payload_len: usize,
}

impl Peer {
    pub(crate) fn new(suite: Suite, payload_len: usize) -> Self {
        let mut frame = clear(0, payload_len + OVERHEAD);
        frame[..size_of::<Mark>()].copy_from_slice(&Mark::new(Mark::OPEN, 0).emit());
        Self { aead: Aead::new(suite, &KEY, SALT), frame, payload_len }
    }

    /// Writes the packet with this number of this key into `out` and returns its length.
    pub(crate) fn seal(&mut self, key: usize, seq: u64, out: &mut [u8]) -> usize {
        let ctr = Counter::new(0, seq);
        let header = Header { kind: Kind::Native, epoch: EPOCH, key_id: key_id(key), ctr, gtag: 0 };
        let out = &mut out[..self.frame.len()];
        out.copy_from_slice(&self.frame);
        out[UDP_AT..UDP_AT + 2].copy_from_slice(&header.source_port().to_be_bytes());
        out[UDP_AT + 2..UDP_AT + 4].copy_from_slice(&PORT.to_be_bytes());
        out[HEADER_AT..HEADER_AT + HEADER_LEN].copy_from_slice(&header.emit());
        let inner = Inner { source_port: 5000, destination_port: 5000, ttl: 16, tos: 0, checksum: 0 };
        let at = HEADER_AT + HEADER_LEN;
        out[at..at + INNER_LEN].copy_from_slice(&inner.emit());
        let end = at + INNER_LEN + self.payload_len;
        let aad = header.aad_v4(&map_v4(SOURCE), &map_v4(group(0).octets()));
        let tag = self.aead.seal(ctr, &aad, &mut out[at..end]);
        out[end..end + TAG_LEN].copy_from_slice(&tag);
        out.len()
    }
}

/// ring's key, without anything of ours around it.
pub(crate) fn ring_key(suite: Suite) -> ring::aead::LessSafeKey {
    let algorithm = match suite {
        Suite::Aes256Gcm => &ring::aead::AES_256_GCM,
        Suite::ChaCha20Poly1305 => &ring::aead::CHACHA20_POLY1305,
    };
    ring::aead::LessSafeKey::new(ring::aead::UnboundKey::new(algorithm, &KEY).expect("32 bytes"))
}
