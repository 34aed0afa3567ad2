//! The XDP program and its maps, through aya: loaded, pinned, attached, and taken over by the next data plane.
//!
//! Everything is pinned under `<run dir>/<instance>/bpf/v<layout version>`: the maps by name, and for each interface its
//! program and its link, by interface index. A restarted data plane adopts the maps and replaces the program behind the
//! link in one step, so that no packet meets an interface without a program.

use crate::tables::{Flow, MAX_PORTS_SERVED, Role};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap as BpfHashMap, Map, MapData, MapError, PerCpuArray, XskMap};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use gemcast_proto::reason::Reason;
use gemcast_xdp::counters::Counters;
use gemcast_xdp::layout::{
    FlowRule, GatewayCount, GatewayKey, MAX_QUEUES, STATS_PER_INTERFACE, SourceKey, Stat, gateway_key, stat_index,
    xsk_index,
};
use gemcast_xdp::seks::Seks;
use gemcast_xdp::sync::Sync;
use gemcast_xdp::{LAYOUT_VERSION, name};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The program, compiled for BPF. aya wants it aligned.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("GEMCAST_XDP_OBJECT"));

const MAPS: [&str; 12] = [
    name::SEKS,
    name::SYNC,
    name::COUNTERS,
    name::FLOWS,
    name::FLOW_PREFIXES,
    name::SOURCES,
    name::GTAG,
    name::BANS,
    name::GATEWAYS,
    name::TRANSIT,
    name::XSKS,
    name::STATS,
];
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
const ENOLINK: i32 = 67;

/// Sizes of maps that are made anew.
#[derive(Clone, Copy, Debug)]
pub struct MapSizes {
    /// Slots for keys, a power of two.
    pub keys: u32,
    /// Keys of our own.
    pub own_keys: u32,
    /// Groups.
    pub flows: u32,
}

/// Why the program or its maps are not usable.
#[derive(Debug, thiserror::Error)]
pub enum XdpError {
    /// The bpffs could not be mounted.
    #[error("cannot mount a bpffs at {path}: {source}; run as root or with CAP_SYS_ADMIN, or mount one there")]
    Mount {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The pin directory holds another version's pins.
    #[error(
        "{path} holds pins of another layout version, expected only v{LAYOUT_VERSION}; stop what uses them and run \
         `gemcast-dataplane --clean`"
    )]
    OtherVersion {
        /// Where.
        path: PathBuf,
    },
    /// A directory could not be made.
    #[error("cannot make the directory {path}: {source}; {fix}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
        /// What helps.
        fix: String,
    },
    /// A file operation failed.
    #[error("{path}: {source}")]
    File {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program did not load.
    #[error("cannot load the XDP program: {0}; it needs root or CAP_BPF and CAP_NET_ADMIN, and a kernel with BTF")]
    Load(String),
    /// The program could not be attached.
    #[error("cannot attach the XDP program to {interface}: {reason}")]
    Attach {
        /// Interface.
        interface: String,
        /// Why.
        reason: String,
    },
    /// A map operation failed.
    #[error("map {map}: {reason}")]
    Map {
        /// Its name.
        map: &'static str,
        /// Why.
        reason: String,
    },
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> XdpError {
    let path = path.to_owned();
    move |source| XdpError::File { path, source }
}

/// Says what is in the way of a directory that could not be made or changed, and what to do about it.
pub fn no_directory(path: &Path) -> impl FnOnce(io::Error) -> XdpError {
    let path = path.to_owned();
    move |source| {
        let in_the_way = path.ancestors().find(|place| fs::symlink_metadata(place).is_ok_and(|found| !found.is_dir()));
        let fix = match in_the_way {
            Some(place) => {
                format!("{} is there and no directory: remove it, or give another --run-dir", place.display())
            }
            None => "run as root, or give a --run-dir that may be written to".into(),
        };
        XdpError::Directory { path, source, fix }
    }
}

fn map_error(map: &'static str) -> impl Fn(MapError) -> XdpError {
    move |error| XdpError::Map { map, reason: chain(&error) }
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text.replace('\n', " ")
}

/// The pinned maps.
pub struct Maps {
    directory: PathBuf,
    sizes: MapSizes,
    /// Which half of the slots this data plane uses.
    half: u32,
    /// Keys.
    pub seks: Arc<Seks>,
    /// Reserved counters.
    pub counters: Arc<Counters>,
    /// Versions, generation, heartbeats.
    pub sync: Arc<Sync>,
    flows: BpfHashMap<MapData, [u8; 16], FlowRule>,
    prefixes: LpmTrie<MapData, [u8; 16], FlowRule>,
    sources: BpfHashMap<MapData, SourceKey, u8>,
    gateways: BpfHashMap<MapData, GatewayKey, GatewayCount>,
    xsks: XskMap<MapData>,
    stats: PerCpuArray<MapData, u64>,
}

impl Maps {
    /// Opens the pinned maps under `bpffs`, mounting it and making the maps where they are absent.
    pub fn open(bpffs: &Path, sizes: MapSizes) -> Result<Self, XdpError> {
        mount(bpffs)?;
        let directory = bpffs.join(format!("v{LAYOUT_VERSION}"));
        refuse_other_versions(bpffs, &directory)?;
        fs::create_dir_all(&directory).map_err(file(&directory))?;
        let mut ebpf = load(&directory, sizes, 0)?;
        let mut take = |map: &'static str| {
            ebpf.take_map(map).ok_or_else(|| XdpError::Map { map, reason: "not in the program's object".into() })
        };
        let data = |map: &Map, name| match map {
            Map::Array(data) => data
                .fd()
                .as_fd()
                .try_clone_to_owned()
                .map_err(|error| XdpError::Map { map: name, reason: error.to_string() }),
            _ => Err(XdpError::Map { map: name, reason: "not an array".into() }),
        };
        let mapped = |map: &'static str| move |error: io::Error| XdpError::Map { map, reason: error.to_string() };
        let sync = Sync::new(data(&take(name::SYNC)?, name::SYNC)?.as_fd()).map_err(mapped(name::SYNC))?;
        if !sync.is_current() {
            sync.set_hash_key([random()?, random()?]);
            sync.initialize(random()?, u64::from(sizes.keys), u64::from(sizes.own_keys));
        }
        let page = sync.page();
        let (slots, blocks) =
            (page.sek_slots.load(Ordering::Relaxed) as usize, page.counter_blocks.load(Ordering::Relaxed) as usize);
        if !slots.is_power_of_two() {
            return Err(XdpError::Map {
                map: name::SYNC,
                reason: format!("{slots} key slots, expected a power of two"),
            });
        }
        let half = (page.lives.fetch_add(1, Ordering::Relaxed) % 2) as u32;
        let seks = Seks::new(data(&take(name::SEKS)?, name::SEKS)?.as_fd(), slots).map_err(mapped(name::SEKS))?;
        let seks = seks.under(sync.hash_key());
        let counters = Counters::new(data(&take(name::COUNTERS)?, name::COUNTERS)?.as_fd(), blocks)
            .map_err(mapped(name::COUNTERS))?;
        let maps = Self {
            directory,
            sizes,
            half,
            seks: Arc::new(seks),
            counters: Arc::new(counters),
            sync: Arc::new(sync),
            flows: take(name::FLOWS)?.try_into().map_err(map_error(name::FLOWS))?,
            prefixes: take(name::FLOW_PREFIXES)?.try_into().map_err(map_error(name::FLOW_PREFIXES))?,
            sources: take(name::SOURCES)?.try_into().map_err(map_error(name::SOURCES))?,
            gateways: take(name::GATEWAYS)?.try_into().map_err(map_error(name::GATEWAYS))?,
            xsks: take(name::XSKS)?.try_into().map_err(map_error(name::XSKS))?,
            stats: take(name::STATS)?.try_into().map_err(map_error(name::STATS))?,
        };
        Ok(maps)
    }

    /// The random number drawn when the maps were made.
    pub fn incarnation(&self) -> u64 {
        self.sync.page().incarnation.load(Ordering::Relaxed)
    }

    /// The slots of this data plane: `number` counts from 0 to [`MAX_PORTS_SERVED`].
    pub fn slot(&self, number: u32) -> u32 {
        self.half * MAX_PORTS_SERVED as u32 + number
    }

    /// Loads the program for a port and attaches it, or puts it behind the link that is there. Driver mode where the driver
    /// has it, else SKB mode.
    pub fn attach(&self, slot: u32, interface: &str, ifindex: u32, role: Role) -> Result<Attached, XdpError> {
        let failed = |reason: String| XdpError::Attach { interface: interface.to_owned(), reason };
        let mut ebpf = load(&self.directory, self.sizes, slot)?;
        let logger = aya_log::EbpfLogger::init(&mut ebpf).ok();
        let entry = match role {
            Role::Trusted => "gemcast_trusted",
            Role::Untrusted => "gemcast_untrusted",
        };
        let program: &mut Xdp = ebpf
            .program_mut(entry)
            .ok_or_else(|| failed(format!("no program {entry} in the object")))?
            .try_into()
            .map_err(|error: ProgramError| failed(chain(&error)))?;
        program.load().map_err(|error| XdpError::Load(chain(&error)))?;
        let program_pin = self.directory.join(format!("program-{ifindex}"));
        remove_pin(&program_pin)?;
        program.pin(&program_pin).map_err(|error| failed(chain(&error)))?;
        let link_pin = self.directory.join(format!("link-{ifindex}"));
        if !self.take_over(program, &link_pin).map_err(|error| failed(chain(&error)))? {
            let link_id = program
                .attach_to_if_index(ifindex, XdpMode::Driver)
                .or_else(|driver| match driver {
                    ProgramError::SyscallError(error) if is_busy(&error.io_error) => {
                        Err(ProgramError::SyscallError(error))
                    }
                    _ => program.attach_to_if_index(ifindex, XdpMode::Skb),
                })
                .map_err(|error| failed(attach_reason(&error)))?;
            let link = program.take_link(link_id).map_err(|error| failed(chain(&error)))?;
            let link: FdLink = link.try_into().map_err(|_| failed("this kernel has no XDP links (5.9 has)".into()))?;
            link.pin(&link_pin).map_err(|error| failed(chain(&error)))?;
        }
        let link = PinnedLink::from_pin(&link_pin).map_err(|error| failed(chain(&error)))?;
        Ok(Attached { _ebpf: ebpf, link: Some(link), link_pin, logger })
    }

    /// Replaces the program behind a pinned link. `false` when there is none, or its interface is gone.
    fn take_over(&self, program: &mut Xdp, link_pin: &Path) -> Result<bool, ProgramError> {
        if !link_pin.exists() {
            return Ok(false);
        }
        let Ok(pinned) = PinnedLink::from_pin(link_pin) else { return Ok(false) };
        let Ok(link) = XdpLink::try_from(FdLink::from(pinned)) else { return Ok(false) };
        match program.attach_to_link(link) {
            Ok(_) => Ok(true),
            Err(ProgramError::SyscallError(error)) if error.io_error.raw_os_error() == Some(ENOLINK) => {
                let _ = fs::remove_file(link_pin);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Detaches the program from an interface.
    pub fn detach(&self, ifindex: u32) -> Result<(), XdpError> {
        remove_pin(&self.directory.join(format!("link-{ifindex}")))?;
        remove_pin(&self.directory.join(format!("program-{ifindex}")))
    }

    /// Detaches from every interface that an earlier data plane left a program on, but `kept`.
    pub fn detach_others(&self, kept: &[u32]) -> Result<(), XdpError> {
        for entry in fs::read_dir(&self.directory).map_err(file(&self.directory))?.flatten() {
            let name = entry.file_name();
            let ifindex =
                name.to_str().and_then(|name| name.strip_prefix("link-")).and_then(|index| index.parse().ok());
            if let Some(ifindex) = ifindex
                && !kept.contains(&ifindex)
            {
                self.detach(ifindex)?;
            }
        }
        Ok(())
    }

    /// Directs a port's receive queue to a socket.
    pub fn set_socket(&mut self, slot: u32, queue: u32, socket: RawFd) -> Result<(), XdpError> {
        let index = xsk_index(slot, queue);
        self.xsks.set(index, SocketNumber(socket), 0).map_err(map_error(name::XSKS))
    }

    /// Directs a port's receive queues nowhere.
    pub fn unset_sockets(&mut self, slot: u32) {
        for queue in 0..MAX_QUEUES {
            // Entries of closed sockets are gone already.
            let _ = self.xsks.unset(xsk_index(slot, queue));
        }
    }

    /// Removes the rules of flows that are not in `wanted`.
    pub fn remove_stale_flows(&mut self, wanted: &[Option<Flow>]) -> Result<(), XdpError> {
        let groups: std::collections::HashSet<_> = wanted.iter().flatten().map(|flow| flow.group).collect();
        let stale: Vec<_> = self
            .flows
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, rule)| !is_wanted(rule, &groups))
            .map(|(address, _)| address)
            .collect();
        for address in stale {
            self.flows.remove(&address).map_err(map_error(name::FLOWS))?;
        }
        let stale: Vec<_> = self
            .prefixes
            .iter()
            .filter_map(Result::ok)
            .filter(|(_, rule)| !is_wanted(rule, &groups))
            .map(|(key, _)| key)
            .collect();
        for key in stale {
            self.prefixes.remove(&key).map_err(map_error(name::FLOW_PREFIXES))?;
        }
        Ok(())
    }

    /// Whether the rules of all flows are in the maps, as they should be.
    pub fn has_flows(&self, flows: &[Option<Flow>]) -> bool {
        flows.iter().enumerate().all(|(index, flow)| {
            let Some(flow) = flow else { return true };
            let rule = flow.rule(index as u32);
            if flow.group.is_single() {
                self.flows.get(flow.group.mapped(), 0).is_ok_and(|found| found == rule)
            } else {
                let key = Key::new(u32::from(flow.group.mapped_prefix_len()), *flow.group.mapped());
                self.prefixes.get(&key, 0).is_ok_and(|found| found == rule)
            }
        })
    }

    /// Writes the rules of all flows.
    pub fn write_flows(&mut self, flows: &[Option<Flow>]) -> Result<(), XdpError> {
        let mut sources = std::collections::HashSet::new();
        for (index, flow) in flows.iter().enumerate() {
            let Some(flow) = flow else { continue };
            for source in &flow.sources {
                let key = SourceKey { flow: index as u32, source: *source };
                self.sources.insert(key, 1, 0).map_err(map_error(name::SOURCES))?;
                sources.insert((key.flow, key.source));
            }
            self.write_flow(index as u32, flow)?;
        }
        let stale: Vec<SourceKey> = self
            .sources
            .keys()
            .filter_map(Result::ok)
            .filter(|key| !sources.contains(&(key.flow, key.source)))
            .collect();
        for key in stale {
            self.sources.remove(&key).map_err(map_error(name::SOURCES))?;
        }
        Ok(())
    }

    /// Writes the rule of one flow, in one step.
    pub fn write_flow(&mut self, index: u32, flow: &Flow) -> Result<(), XdpError> {
        let rule = flow.rule(index);
        if flow.group.is_single() {
            self.flows.insert(*flow.group.mapped(), rule, 0).map_err(map_error(name::FLOWS))
        } else {
            let key = Key::new(u32::from(flow.group.mapped_prefix_len()), *flow.group.mapped());
            self.prefixes.insert(&key, rule, 0).map_err(map_error(name::FLOW_PREFIXES))
        }
    }

    /// Makes the map of other gateways hold these addresses and no others; whether it did not.
    pub fn write_gateways(&mut self, gateways: &BTreeSet<[u8; 6]>) -> Result<bool, XdpError> {
        let wanted: BTreeSet<_> = gateways.iter().copied().map(gateway_key).collect();
        let found: BTreeSet<_> = self.gateways.keys().filter_map(Result::ok).collect();
        for stale in found.difference(&wanted) {
            self.gateways.remove(stale).map_err(map_error(name::GATEWAYS))?;
        }
        for missing in wanted.difference(&found) {
            self.gateways.insert(missing, GatewayCount::default(), 0).map_err(map_error(name::GATEWAYS))?;
        }
        Ok(wanted != found)
    }

    /// What came from other gateways on trusted interfaces.
    pub fn gateway_counts(&self) -> impl Iterator<Item = ([u8; 6], GatewayCount)> {
        let counts = self.gateways.iter().filter_map(Result::ok);
        counts.map(|(key, count)| (*key.first_chunk().expect("8 bytes"), count))
    }

    /// A counter of a port, over all CPUs.
    pub fn stat(&self, slot: u32, stat: Stat) -> u64 {
        let index = stat_index(slot, stat);
        self.stats.get(&index, 0).map_or(0, |values| values.iter().sum())
    }

    /// Every reason a port's frames were passed or dropped for by the program.
    pub fn reasons(&self, slot: u32) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.iter().map(move |&reason| (reason, self.stat(slot, Stat::Reason(reason)))).filter(|(_, n)| *n > 0)
    }

    /// Sets a port's counters to zero. Before its program is attached.
    pub fn clear_stats(&mut self, slot: u32) -> Result<(), XdpError> {
        let first = slot * STATS_PER_INTERFACE;
        let cpus =
            aya::util::nr_cpus().map_err(|(_, error)| file(Path::new("/sys/devices/system/cpu/possible"))(error))?;
        for index in first..first + STATS_PER_INTERFACE {
            let zeroes = aya::maps::PerCpuValues::try_from(vec![0u64; cpus]).map_err(file(&self.directory))?;
            self.stats.set(index, zeroes, 0).map_err(map_error(name::STATS))?;
        }
        Ok(())
    }
}

/// A program on an interface. The link is pinned: dropping this leaves it attached.
pub struct Attached {
    _ebpf: Ebpf,
    /// Keeps the program attached while its pin is missing.
    link: Option<PinnedLink>,
    link_pin: PathBuf,
    /// Messages of the program.
    pub logger: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
}

impl Attached {
    /// Pins the link again where its pin was removed; whether that was needed.
    pub fn pin_again(&mut self) -> Result<bool, XdpError> {
        if self.link_pin.exists() {
            return Ok(false);
        }
        let Some(link) = self.link.take() else { return Ok(false) };
        let failed = |reason| XdpError::Attach { interface: self.link_pin.display().to_string(), reason };
        self.link = Some(FdLink::from(link).pin(&self.link_pin).map_err(|error| failed(chain(&error)))?);
        Ok(true)
    }
}

struct SocketNumber(RawFd);

impl AsRawFd for SocketNumber {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

fn is_wanted(rule: &FlowRule, groups: &std::collections::HashSet<gemcast_proto::id::Group>) -> bool {
    gemcast_proto::id::Group::from_mapped(rule.group, rule.prefix_len).is_ok_and(|group| groups.contains(&group))
}

fn load(directory: &Path, sizes: MapSizes, slot: u32) -> Result<Ebpf, XdpError> {
    let mut loader = EbpfLoader::new();
    for map in MAPS {
        loader.map_pin_path(map, directory.join(map));
    }
    loader
        .map_max_entries(name::SEKS, sizes.keys)
        .map_max_entries(name::COUNTERS, sizes.own_keys)
        .map_max_entries(name::FLOWS, sizes.flows)
        .map_max_entries(name::GTAG, sizes.flows.saturating_mul(2))
        .map_max_entries(name::TRANSIT, sizes.keys)
        .map_max_entries(name::BANS, sizes.keys)
        .map_max_entries(name::SOURCES, sizes.flows)
        .map_max_entries(name::FLOW_PREFIXES, sizes.flows)
        .override_global("SLOT", &slot, true)
        .load(OBJECT)
        .map_err(|error: EbpfError| XdpError::Load(chain(&error)))
}

/// Mounts a bpffs, unless one is there.
fn mount(path: &Path) -> Result<(), XdpError> {
    fs::create_dir_all(path).map_err(no_directory(path))?;
    let status = rustix::fs::statfs(path).map_err(|error| file(path)(error.into()))?;
    if status.f_type as u64 & 0xffff_ffff == BPF_FS_MAGIC {
        return Ok(());
    }
    let flags =
        rustix::mount::MountFlags::NOSUID | rustix::mount::MountFlags::NOEXEC | rustix::mount::MountFlags::NODEV;
    rustix::mount::mount("bpf", path, "bpf", flags, Some(c"mode=0700"))
        .map_err(|error| XdpError::Mount { path: path.to_owned(), source: error.into() })
}

fn refuse_other_versions(bpffs: &Path, ours: &Path) -> Result<(), XdpError> {
    for entry in fs::read_dir(bpffs).map_err(file(bpffs))?.flatten() {
        let name = entry.file_name();
        let version = name.to_str().and_then(|name| name.strip_prefix('v')).map(|version| version.parse::<u32>());
        if matches!(version, Some(Ok(_))) && entry.path() != ours {
            return Err(XdpError::OtherVersion { path: entry.path() });
        }
    }
    Ok(())
}

/// Removes every pin of an instance, which detaches its programs and frees its maps.
pub fn clean(bpffs: &Path) -> Result<(), XdpError> {
    let Ok(entries) = fs::read_dir(bpffs) else { return Ok(()) };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            fs::remove_dir_all(&path).map_err(file(&path))?;
        }
    }
    Ok(())
}

fn remove_pin(path: &Path) -> Result<(), XdpError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file(path)(error)),
        _ => Ok(()),
    }
}

fn is_busy(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
}

fn attach_reason(error: &ProgramError) -> String {
    match error {
        ProgramError::SyscallError(error) if is_busy(&error.io_error) => {
            "another XDP program is attached to it; detach it first (`ip link set … xdp off`, or stop what attached it)"
                .into()
        }
        _ => chain(error),
    }
}

fn random() -> Result<u64, XdpError> {
    let mut bytes = [0; 8];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes)
        .map_err(|_| XdpError::Load("the kernel gives no random numbers".into()))?;
    Ok(u64::from_ne_bytes(bytes))
}
