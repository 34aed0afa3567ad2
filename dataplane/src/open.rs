//! Opening: a sealed packet becomes the datagram its sender sent, in place.
//!
//! ```text
//! before: Ethernet 14 | IP | UDP 8 | header 24 | ciphertext { inner 8 | payload } | tag 16
//! after:  Ethernet 14 | IP | UDP 8 | payload
//! ```
//! Decryption moves the plaintext to where the outer UDP header was; the inner header lands on it exactly.

use crate::aead::Aead;
use crate::pipeline::Now;
use crate::police::{Police, Record};
use crate::replay::{KeyWindows, Windows};
use crate::seal::write_headers;
use gemcast_proto::id::{Epoch, Group, KeyId};
use gemcast_proto::reason::Reason;
use gemcast_proto::wire::classify::{Datagram, ETHERNET_LEN, Family, UDP_LEN};
use gemcast_proto::wire::frame::{HEADER_LEN, Header, INNER_LEN, Inner};
use gemcast_xdp::seks::{Seks, SlotIndex};
use std::sync::Arc;

const ECN_MASK: u8 = 0b11;
const ECN_CE: u8 = 0b11;

/// A key of another gateway, ready to open, with its replay windows.
pub struct OpenKey {
    slot: SlotIndex,
    sequence: u32,
    /// The map's generation at which this was last found unchanged.
    pub checked: u64,
    /// Position of the group's flow in the tables.
    pub flow: u32,
    group: Group,
    epoch: Epoch,
    aead: Aead,
    not_after_ms: u64,
    windows: Arc<KeyWindows>,
    /// Its packets that did not decrypt.
    pub record: Record,
}

impl OpenKey {
    /// Finds and expands a key. Its windows go on where an earlier data plane stopped.
    pub fn find(seks: &Seks, windows: &Windows, key_id: KeyId, replay_window: usize) -> Option<Self> {
        let (slot, sequence, sek) = seks.find_open(key_id)?;
        let tops = std::array::from_fn(|lane| seks.top(slot, lane));
        Some(Self {
            slot,
            sequence,
            checked: 0,
            flow: u32::MAX,
            group: sek.group,
            epoch: sek.epoch,
            aead: Aead::new(sek.suite, &sek.key, sek.salt),
            not_after_ms: sek.not_after_ms,
            windows: windows.of(key_id, replay_window, tops),
            record: Record::default(),
        })
    }

    /// The group the key protects.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// Whether the map still holds what this was expanded from.
    #[inline]
    pub fn is_current(&self, seks: &Seks) -> bool {
        seks.is_unchanged(self.slot, self.sequence)
    }

    /// Takes over what is known of the same key from before its slot was rewritten.
    pub fn adopt(&mut self, old: Self) {
        self.record = old.record;
    }

    /// The windows, of a key that is gone.
    pub fn into_windows(self) -> Arc<KeyWindows> {
        self.windows
    }
}

/// What was inside.
#[derive(Clone, Copy, Debug)]
pub struct Opened {
    /// Length of the frame.
    pub length: usize,
    /// Destination port of the datagram.
    pub destination_port: u16,
}

/// Opens the sealed packet in `frame`, which `datagram` and `header` describe. The frame's Ethernet source is left to the
/// egress.
#[inline]
pub fn open(
    key: &mut OpenKey,
    seks: &Seks,
    police: &mut Police,
    frame: &mut [u8],
    datagram: &Datagram,
    header: &Header,
    now: Now,
) -> Result<Opened, Reason> {
    if header.epoch != key.epoch || !key.group.contains(&datagram.group) {
        return Err(Reason::WrongGroup);
    }
    if now.wall_ms >= key.not_after_ms {
        return Err(Reason::KeyExpired);
    }
    if datagram.source_port != header.source_port() {
        return Err(Reason::SourcePort);
    }
    let lane = usize::from(header.ctr.lane());
    let seq = header.ctr.seq();
    key.windows.check(lane, seq)?;
    if key.record.is_watched(now.mono_ms)
        && !police.admit(&mut key.record, header.key_id, &datagram.source, now.mono_ms)
    {
        return Err(Reason::AeadLimited);
    }
    let udp = ETHERNET_LEN + datagram.family.header_len();
    let end = udp + UDP_LEN + datagram.payload_len;
    let buffer = frame.get_mut(udp..end).ok_or(Reason::Truncated)?;
    let ciphertext_at = UDP_LEN + HEADER_LEN;
    let (source, group) = (&datagram.source, &datagram.group);
    let plaintext_len = match datagram.family {
        Family::V4 => key.aead.open(header.ctr, &header.aad_v4(source, group), buffer, ciphertext_at),
        Family::V6 => key.aead.open(header.ctr, &header.aad_v6(source, group), buffer, ciphertext_at),
    };
    let Some(plaintext_len) = plaintext_len else {
        police.failed(&mut key.record, header.key_id, source, now.mono_ms);
        return Err(Reason::Aead);
    };
    police.opened(&mut key.record, header.key_id, source, now.mono_ms);
    key.windows.claim(lane, seq)?;
    seks.raise_top(key.slot, lane, seq, key.windows.is_exclusive());
    let inner = Inner::parse(buffer.first_chunk::<INNER_LEN>().ok_or(Reason::InnerTooShort)?);
    if plaintext_len < INNER_LEN {
        return Err(Reason::InnerTooShort);
    }
    // Congestion marked on the way is shown to the receiver (RFC 6040 §4.2); the rest comes from inside.
    let congested = datagram.tos & ECN_MASK == ECN_CE && inner.tos & ECN_MASK != 0;
    let tos = if congested { inner.tos | ECN_CE } else { inner.tos };
    let udp_len = plaintext_len as u16;
    buffer[0..2].copy_from_slice(&inner.source_port.to_be_bytes());
    buffer[2..4].copy_from_slice(&inner.destination_port.to_be_bytes());
    buffer[4..6].copy_from_slice(&udp_len.to_be_bytes());
    buffer[6..8].copy_from_slice(&inner.checksum.to_be_bytes());
    write_headers(frame, datagram, tos, inner.ttl, udp_len, 0);
    Ok(Opened { length: udp + plaintext_len, destination_port: inner.destination_port })
}

const _: () = assert!(INNER_LEN == UDP_LEN, "the inner header lands on the UDP header");
