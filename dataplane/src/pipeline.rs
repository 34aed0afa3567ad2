//! What happens to one packet: a frame and the tables in, a verdict out. No ring, no clock, no syscall.
//!
//! The pipeline owns the expanded keys of one worker. They are read from the shared map when they are first needed and
//! checked again only when the map's generation has changed, one load of shared state per batch.

use crate::open::{self, OpenKey};
use crate::police::{Notice, Police};
use crate::replay::Windows;
use crate::seal::{self, SealKey};
use crate::tables::{Flow, PortSet, Role, Tables};
use gemcast_proto::id::{Group, KeyId};
use gemcast_proto::reason::Reason;
use gemcast_proto::wire::classify::{
    Class, Datagram, ETHERNET_LEN, Family, Frame as _, IPV4_LEN, classify, ipv4_checksum,
};
use gemcast_proto::wire::frame::{HEADER_LEN, Header, PORT, ROOM, TAG_LEN, group_mac};
use gemcast_xdp::counters::Counters;
use gemcast_xdp::layout::Mark;
use gemcast_xdp::seks::Seks;
use gemcast_xdp::sync::Sync;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

/// Keys whose absence is remembered until the map changes.
const MISSING_LIMIT: usize = 64;

/// What was done to a forwarded packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Encrypted.
    Sealed,
    /// Decrypted.
    Opened,
    /// Forwarded in the clear, as it was.
    Relayed,
    /// Forwarded sealed, as it was.
    Transited,
}

/// A packet to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Emit {
    /// Length of the frame; its Ethernet source is the egress's to write.
    pub length: usize,
    /// Interfaces to send it by.
    pub egress: PortSet,
    /// Position of its flow.
    pub flow: u32,
    /// What was done to it.
    pub action: Action,
}

/// Why a packet is not sent now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// It never will be.
    Drop(Reason),
    /// Its key is not known yet.
    Hold {
        /// The key.
        key_id: KeyId,
        /// Position of its flow.
        flow: u32,
        /// The GAK epoch it names.
        epoch: u16,
    },
}

impl From<Reason> for Stop {
    fn from(reason: Reason) -> Self {
        Self::Drop(reason)
    }
}

/// What is known of a key that is not in the map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Absent {
    /// Nothing yet.
    New,
    /// It is nobody's we know.
    Unknown,
    /// It is one of our own.
    Own,
    /// It was wiped not long ago.
    Retired,
}

/// The seal key of a flow, as last looked up.
#[derive(Default)]
struct Seal {
    key: Option<SealKey>,
    checked: Option<u64>,
}

/// What the workers share.
#[derive(Clone)]
pub struct Shared {
    /// Keys.
    pub seks: Arc<Seks>,
    /// Reserved counters of our own keys.
    pub counters: Arc<Counters>,
    /// Generation of the keys, those removed last, heartbeats.
    pub sync: Arc<Sync>,
    /// Replay windows.
    pub windows: Arc<Windows>,
}

/// The time of a batch.
#[derive(Clone, Copy, Default, Debug)]
pub struct Now {
    /// Milliseconds since the Unix epoch: for the validity of keys.
    pub wall_ms: u64,
    /// Milliseconds of a clock that never goes back: for limits.
    pub mono_ms: u64,
}

/// The packet path of one worker, without its IO.
pub struct Pipeline {
    seks: Arc<Seks>,
    counters: Arc<Counters>,
    sync: Arc<Sync>,
    windows: Arc<Windows>,
    police: Police,
    tables: Arc<Tables>,
    lane: u8,
    workers: u8,
    seals: Vec<Seal>,
    opens: Vec<(KeyId, OpenKey)>,
    open_index: HashMap<KeyId, usize, KeyIdHasher>,
    /// Keys looked for in vain at this generation.
    missing: Vec<(KeyId, Absent)>,
    generation: u64,
    now: Now,
    sweep: usize,
}

impl Pipeline {
    /// The pipeline of worker `lane` of `workers`.
    pub fn new(shared: Shared, lane: u8, workers: u8) -> Self {
        let Shared { seks, counters, sync, windows } = shared;
        Self {
            seks,
            counters,
            sync,
            windows,
            police: Police::default(),
            tables: Arc::default(),
            lane,
            workers,
            seals: Vec::new(),
            opens: Vec::new(),
            open_index: HashMap::default(),
            missing: Vec::with_capacity(MISSING_LIMIT),
            generation: 0,
            now: Now::default(),
            sweep: 0,
        }
    }

    /// Swaps in new tables.
    pub fn set_tables(&mut self, tables: Arc<Tables>) {
        for (index, seal) in self.seals.iter_mut().enumerate() {
            let unchanged = match (self.tables.flows.get(index), tables.flows.get(index)) {
                (Some(Some(old)), Some(Some(new))) => old.group == new.group,
                _ => false,
            };
            if !unchanged {
                *seal = Seal::default();
            }
        }
        self.seals.resize_with(tables.flows.len(), Seal::default);
        for (_, key) in &mut self.opens {
            key.flow = tables.find_group(key.group()).unwrap_or(u32::MAX);
        }
        self.missing.clear();
        self.tables = tables;
    }

    /// The tables in force.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Begins a batch: the time and the key map's generation, read once. `true` when the map has changed since the last
    /// batch.
    #[inline]
    pub fn begin_batch(&mut self, now: Now) -> bool {
        self.now = now;
        let generation = self.sync.generation();
        let changed = self.generation != generation;
        if changed {
            self.generation = generation;
            self.missing.clear();
        }
        changed
    }

    /// Decides about one frame, and rewrites it when it is to be sent. `frame` reaches to the end of its buffer, `length`
    /// bytes of it were received; it starts with the XDP program's mark. What comes from the untrusted side is never
    /// sealed, what comes from the trusted side never opened, whatever the mark says.
    #[inline]
    pub fn process(&mut self, role: Role, frame: &mut [u8], length: usize) -> Result<Emit, Stop> {
        let mark = Mark::parse(&frame[..length]).ok_or(Reason::StaleFlow)?;
        match role {
            Role::Trusted if mark.has(Mark::SEAL) => self.seal(mark.flow, frame, length),
            Role::Untrusted if mark.has(Mark::OPEN) => self.open(mark.flow, frame, length),
            Role::Untrusted if mark.has(Mark::TRANSIT) => self.transit(mark.flow, frame, length),
            Role::Trusted => self.relay(mark.flow, self.tables.untrusted, frame, length),
            Role::Untrusted => self.relay(mark.flow, self.tables.trusted, frame, length),
        }
    }

    /// The flow a mark names, if the datagram is in it.
    #[inline]
    fn flow(&self, index: u32, datagram: &Datagram) -> Result<&Flow, Reason> {
        let flow = self.tables.flow(index).ok_or(Reason::StaleFlow)?;
        if flow.group.contains(&datagram.group) { Ok(flow) } else { Err(Reason::StaleFlow) }
    }

    #[inline]
    fn seal(&mut self, index: u32, frame: &mut [u8], length: usize) -> Result<Emit, Stop> {
        let datagram = datagram(frame.get(ROOM..length).ok_or(Reason::Truncated)?)?;
        let flow = self.flow(index, &datagram)?;
        if !flow.sealed || !flow.send {
            return Err(Reason::StaleFlow.into());
        }
        let slot = &mut self.seals[index as usize];
        if slot.checked != Some(self.generation) {
            let group = self.tables.flow(index).expect("looked up above").group;
            slot.refresh(&self.seks, &group, self.lane, self.workers);
            slot.checked = Some(self.generation);
        }
        let key = slot.key.as_mut().ok_or(Reason::NoSealKey)?;
        let length = seal::seal(key, &self.counters, frame, &datagram, self.tables.outer_ttl, self.now.wall_ms)?;
        Ok(Emit { length, egress: self.tables.untrusted, flow: index, action: Action::Sealed })
    }

    #[inline]
    fn open(&mut self, mark_flow: u32, frame: &mut [u8], length: usize) -> Result<Emit, Stop> {
        let datagram = datagram(&frame[..length])?;
        let header = header(&frame[..length], &datagram)?;
        let index = match self.open_index.get(&header.key_id) {
            Some(&index) if self.opens[index].1.checked == self.generation => index,
            _ => match self.refresh_open(header.key_id) {
                Ok(index) => index,
                Err(absent) => {
                    let group = self.flow(mark_flow, &datagram)?.group;
                    return Err(match self.absence(header.key_id, absent, &group) {
                        Absent::Own => Stop::Drop(Reason::OwnKey),
                        Absent::Retired => Stop::Drop(Reason::KeyRetired),
                        _ => Stop::Hold { key_id: header.key_id, flow: mark_flow, epoch: header.epoch.0 },
                    });
                }
            },
        };
        let key = &mut self.opens[index].1;
        let flow_index = key.flow;
        let flow = self.tables.flow(flow_index).ok_or(Reason::WrongGroup)?;
        if !flow.receive || !flow.sealed {
            return Err(Reason::StaleFlow.into());
        }
        let opened = open::open(key, &self.seks, &mut self.police, frame, &datagram, &header, self.now)?;
        if !flow.covers_port(opened.destination_port) {
            return Err(Reason::InnerPort.into());
        }
        Ok(Emit { length: opened.length, egress: self.tables.trusted, flow: flow_index, action: Action::Opened })
    }

    /// Relays a sealed packet as it is, one hop further. It can still be opened afterwards.
    pub fn transit(&mut self, index: u32, frame: &mut [u8], length: usize) -> Result<Emit, Stop> {
        let datagram = datagram(&frame[..length])?;
        let flow = self.flow(index, &datagram)?;
        if !flow.transit || !flow.sealed || datagram.destination_port != PORT {
            return Err(Reason::StaleFlow.into());
        }
        header(&frame[..length], &datagram)?;
        decrement_ttl(frame, &datagram)?;
        frame[..6].copy_from_slice(&group_mac(datagram.family, &datagram.group));
        let length = datagram.family.payload_offset() + datagram.payload_len;
        Ok(Emit { length, egress: self.tables.untrusted, flow: index, action: Action::Transited })
    }

    fn relay(&mut self, index: u32, egress: PortSet, frame: &mut [u8], length: usize) -> Result<Emit, Stop> {
        let datagram = datagram(&frame[..length])?;
        // A sealed group never leaves as it came, whatever the program in front of us thought of it.
        let sealed = self.flow(index, &datagram)?.sealed;
        if sealed || self.tables.find(&datagram.group) != Some(index) {
            return Err(Reason::StaleFlow.into());
        }
        decrement_ttl(frame, &datagram)?;
        frame[..6].copy_from_slice(&group_mac(datagram.family, &datagram.group));
        let length = datagram.family.payload_offset() + datagram.payload_len;
        Ok(Emit { length, egress, flow: index, action: Action::Relayed })
    }

    /// Why a key that is not in the map is not there, found out once per generation.
    #[cold]
    fn absence(&mut self, key_id: KeyId, absent: Absent, group: &Group) -> Absent {
        if absent != Absent::New {
            return absent;
        }
        let absent = if self.seks.is_own(group, key_id) {
            Absent::Own
        } else if self.sync.was_removed(key_id) {
            Absent::Retired
        } else {
            Absent::Unknown
        };
        if self.missing.len() < MISSING_LIMIT {
            self.missing.push((key_id, absent));
        }
        absent
    }

    /// Reads a key from the map, again or for the first time. Its position, or what is known of its absence.
    #[cold]
    fn refresh_open(&mut self, key_id: KeyId) -> Result<usize, Absent> {
        let known = self.open_index.get(&key_id).copied();
        if let Some(index) = known
            && self.opens[index].1.is_current(&self.seks)
        {
            self.opens[index].1.checked = self.generation;
            return Ok(index);
        }
        if let Some((_, absent)) = self.missing.iter().find(|(missing, _)| *missing == key_id) {
            return Err(*absent);
        }
        let Some(mut key) = OpenKey::find(&self.seks, &self.windows, key_id, self.tables.replay_window) else {
            if let Some(index) = known {
                self.forget(index);
            }
            return Err(Absent::New);
        };
        key.checked = self.generation;
        key.flow = self.tables.find_group(key.group()).unwrap_or(u32::MAX);
        match known {
            Some(index) => {
                let old = std::mem::replace(&mut self.opens[index].1, key);
                self.opens[index].1.adopt(old);
                Ok(index)
            }
            None => {
                self.opens.push((key_id, key));
                self.open_index.insert(key_id, self.opens.len() - 1);
                Ok(self.opens.len() - 1)
            }
        }
    }

    fn forget(&mut self, index: usize) {
        let (gone, key) = self.opens.swap_remove(index);
        self.open_index.remove(&gone);
        self.windows.give_back(gone, key.into_windows());
        if let Some((moved, _)) = self.opens.get(index) {
            self.open_index.insert(*moved, index);
        }
    }

    /// Whether control is to be told of packets that do not decrypt.
    #[inline]
    pub fn has_notices(&self) -> bool {
        self.police.has_notices()
    }

    /// Takes what control is to be told of packets that do not decrypt.
    pub fn notices(&mut self) -> impl Iterator<Item = Notice> {
        self.police.notices()
    }

    /// Lets go of keys that are no longer in the map, a few at a time. Called now and then, off the packet path.
    pub fn sweep(&mut self) {
        for _ in 0..self.opens.len().min(256) {
            if self.sweep >= self.opens.len() {
                self.sweep = 0;
            }
            if self.opens[self.sweep].1.is_current(&self.seks) {
                self.sweep += 1;
            } else {
                let key_id = self.opens[self.sweep].0;
                // Read again, or let go of; either is fine.
                let _ = self.refresh_open(key_id);
            }
        }
        for seal in &mut self.seals {
            if seal.key.as_ref().is_some_and(|key| !key.is_current(&self.seks)) {
                seal.checked = None;
            }
        }
    }
}

impl Seal {
    #[cold]
    fn refresh(&mut self, seks: &Seks, group: &Group, lane: u8, workers: u8) {
        match &self.key {
            Some(key) if key.is_current(seks) => {}
            Some(key) => self.key = key.find_again(seks, group, workers),
            None => self.key = SealKey::find(seks, group, lane, workers),
        }
    }
}

#[inline]
fn datagram(frame: &[u8]) -> Result<Datagram, Reason> {
    match classify(frame) {
        Class::Datagram(datagram) => Ok(datagram),
        Class::Pass(_) => Err(Reason::StaleFlow),
        Class::Defective { reason, .. } => Err(reason),
    }
}

#[inline]
fn header(frame: &[u8], datagram: &Datagram) -> Result<Header, Reason> {
    if datagram.payload_len < ROOM + TAG_LEN {
        return Err(Reason::Truncated);
    }
    Header::parse(&frame.load::<HEADER_LEN>(datagram.family.payload_offset()).ok_or(Reason::Truncated)?)
}

/// One hop less to live, the IPv4 checksum adjusted (RFC 1624).
fn decrement_ttl(frame: &mut [u8], datagram: &Datagram) -> Result<(), Reason> {
    if datagram.ttl <= 1 {
        return Err(Reason::TtlExpired);
    }
    match datagram.family {
        Family::V6 => frame[ETHERNET_LEN + 7] -= 1,
        Family::V4 => {
            let ip = frame[ETHERNET_LEN..].first_chunk_mut::<IPV4_LEN>().ok_or(Reason::Truncated)?;
            ip[8] -= 1;
            ip[10..12].fill(0);
            let checksum = ipv4_checksum(ip);
            ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
    }
    Ok(())
}

/// Hashes key ids, which are random already.
#[derive(Clone, Copy, Default)]
pub struct KeyIdHasher(u64);

impl BuildHasher for KeyIdHasher {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        Self(0)
    }
}

impl Hasher for KeyIdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 << 8) ^ u64::from(*byte);
        }
    }

    #[inline]
    fn write_u32(&mut self, value: u32) {
        self.0 = u64::from(value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 32;
    }
}
