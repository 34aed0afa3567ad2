//! The XDP program: classifies every frame, checks the group tag of sealed ones, and hands what is forwarded to the
//! worker of its receive queue. Loaded once per interface; the slot is a constant of that load.
//!
//! Two entry points, one for each role, so that no packet branches on the role. Every frame is counted as received
//! and then under exactly one verdict.
#![no_std]
#![no_main]
#![allow(unsafe_code)]

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT};
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, PerCpuArray, XskMap};
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::warn;
use gemcast_proto::reason::Reason;
use gemcast_proto::wire::classify::{Class, Datagram, Family, Frame, classify};
use gemcast_proto::wire::frame::{HEADER_LEN, Header, PORT, ROOM, TAG_LEN};
use gemcast_xdp::layout::{
    FlowRule, GatewayCount, GatewayKey, GtagKey, MAX_INTERFACES, MAX_QUEUES, Mark, STATS_PER_INTERFACE, SipKey,
    SourceKey, Stat, gateway_key, stat_index, xsk_index,
};

const BPF_F_NO_PREALLOC: u32 = 1;
const BPF_F_MMAPABLE: u32 = 1 << 10;

// Sizes are defaults; the data plane sets its own when it loads the program.
#[map]
static FLOWS: HashMap<[u8; 16], FlowRule> = HashMap::with_max_entries(16384, 0);
#[map]
static FLOW_PREFIXES: LpmTrie<[u8; 16], FlowRule> = LpmTrie::with_max_entries(1024, BPF_F_NO_PREALLOC);
#[map]
static SOURCES: HashMap<SourceKey, u8> = HashMap::with_max_entries(16384, 0);
#[map]
static GTAG: HashMap<GtagKey, SipKey> = HashMap::with_max_entries(32768, 0);
#[map]
static BANS: HashMap<u32, u8> = HashMap::with_max_entries(4096, 0);
#[map]
static GATEWAYS: HashMap<GatewayKey, GatewayCount> = HashMap::with_max_entries(1024, 0);
#[map]
static TRANSIT: HashMap<u32, u32> = HashMap::with_max_entries(16384, 0);
#[map]
static XSKS: XskMap = XskMap::with_max_entries(MAX_INTERFACES * MAX_QUEUES, 0);
#[map]
static STATS: PerCpuArray<u64> = PerCpuArray::with_max_entries(MAX_INTERFACES * STATS_PER_INTERFACE, 0);

// For user space only; they live here so that they are pinned and outlive both processes.
#[map]
static SEKS: Array<[u64; 32]> = Array::with_max_entries(16384, BPF_F_MMAPABLE);
#[map]
static COUNTERS: Array<[u64; 17]> = Array::with_max_entries(4096, BPF_F_MMAPABLE);
#[map]
static SYNC: Array<[u64; 560]> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The interface's slot, set at load time.
#[unsafe(no_mangle)]
static SLOT: u32 = 0;

/// Entry point for trusted interfaces: cleartext comes in.
#[xdp]
pub fn gemcast_trusted(ctx: XdpContext) -> u32 {
    verdict(&ctx, from_trusted(&ctx))
}

/// Entry point for untrusted interfaces: sealed packets come in.
#[xdp]
pub fn gemcast_untrusted(ctx: XdpContext) -> u32 {
    verdict(&ctx, from_untrusted(&ctx))
}

/// How a frame is forwarded, or the one reason why it is not.
#[inline(always)]
fn from_trusted(ctx: &XdpContext) -> Result<Mark, Reason> {
    let (datagram, rule) = configured(ctx)?;
    if datagram.destination_port == PORT {
        return Err(Reason::SealedOnTrusted);
    }
    if !rule.covers_port(datagram.destination_port) {
        return Err(Reason::OtherPort);
    }
    check_source(rule, &datagram)?;
    if !rule.has(FlowRule::SEND) {
        return Err(Reason::NotSending);
    }
    let standby = rule.has(FlowRule::SEND_STANDBY);
    let from_gateway = count_gateway(ctx, standby)?;
    if standby {
        return Err(Reason::NotForwarder);
    }
    if from_gateway {
        return Err(Reason::FromGateway);
    }
    check_ttl(&datagram)?;
    Ok(Mark::new(if rule.has(FlowRule::SEALED) { Mark::SEAL } else { 0 }, rule.flow))
}

#[inline(always)]
fn from_untrusted(ctx: &XdpContext) -> Result<Mark, Reason> {
    let (datagram, rule) = configured(ctx)?;
    if rule.has(FlowRule::SEALED) {
        if datagram.destination_port != PORT {
            let ours = rule.covers_port(datagram.destination_port);
            return Err(if ours { Reason::ClearOnUntrusted } else { Reason::OtherPort });
        }
        check_source(rule, &datagram)?;
        return sealed(ctx, rule, &datagram);
    }
    if !rule.covers_port(datagram.destination_port) {
        return Err(Reason::OtherPort);
    }
    check_source(rule, &datagram)?;
    if !rule.has(FlowRule::RECEIVE) {
        return Err(Reason::NotReceiving);
    }
    if rule.has(FlowRule::RECEIVE_STANDBY) {
        return Err(Reason::NotForwarder);
    }
    check_ttl(&datagram)?;
    Ok(Mark::new(0, rule.flow))
}

/// A sealed packet is opened when this gateway receives the group, and relayed when it comes from where its key's origin
/// is. A gateway that has the group's gtag key checks the tag in either case.
#[inline(always)]
fn sealed(ctx: &XdpContext, rule: &FlowRule, datagram: &Datagram) -> Result<Mark, Reason> {
    let receive = rule.has(FlowRule::RECEIVE);
    if !receive && !rule.has(FlowRule::TRANSIT) {
        return Err(Reason::NotReceiving);
    }
    let header = header(ctx, datagram)?;
    match gtag_key(rule, &header) {
        Some(key) => check_gtag(key, datagram, &header)?,
        None if receive => return Err(Reason::UnknownEpoch),
        None => {}
    }
    if BANS.get_ptr(&header.key_id.0).is_some() {
        return Err(Reason::Banned);
    }
    let standby = rule.has(FlowRule::RECEIVE_STANDBY);
    let open = if receive && !standby { Mark::OPEN } else { 0 };
    let transit = if rule.has(FlowRule::TRANSIT) { check_path(ctx, datagram, &header) } else { Err(Reason::NotOnPath) };
    match transit {
        Ok(()) => Ok(Mark::new(open | Mark::TRANSIT, rule.flow)),
        Err(_) if open != 0 => Ok(Mark::new(open, rule.flow)),
        Err(_) if receive => Err(Reason::NotForwarder),
        Err(reason) => Err(reason),
    }
}

/// Whether a frame on a trusted interface was delivered there by another gateway, rather than sent by a host. Such a frame
/// of a group that this gateway forwards is a conflict.
#[inline(always)]
fn count_gateway(ctx: &XdpContext, standby: bool) -> Result<bool, Reason> {
    let source = Packet(ctx).load::<6>(6).ok_or(Reason::Truncated)?;
    let Some(count) = GATEWAYS.get_ptr_mut(&gateway_key(source)) else { return Ok(false) };
    // SAFETY: as in `rule_for`; other CPUs may write at the same time, which loses a count at worst.
    unsafe {
        (*count).frames += 1;
        (*count).conflicts += u64::from(!standby);
    }
    Ok(true)
}

/// Whether a sealed packet may be relayed: it comes by the interface of the route to its origin (reverse path).
#[inline(always)]
fn check_path(ctx: &XdpContext, datagram: &Datagram, header: &Header) -> Result<(), Reason> {
    let path = TRANSIT.get_ptr(&header.key_id.0).ok_or(Reason::NotOnPath)?;
    // SAFETY: as in `rule_for`, and the context is the kernel's own.
    let on_path = unsafe { *path == (*ctx.ctx).ingress_ifindex };
    if on_path { check_ttl(datagram) } else { Err(Reason::NotOnPath) }
}

/// The datagram in a frame and the rule for its group.
#[inline(always)]
fn configured(ctx: &XdpContext) -> Result<(Datagram, &'static FlowRule), Reason> {
    match classify(&Packet(ctx)) {
        Class::Pass(reason) => Err(reason),
        Class::Defective { group, reason } => Err(if rule_for(&group).is_some() { reason } else { Reason::NoFlow }),
        Class::Datagram(datagram) => match rule_for(&datagram.group) {
            Some(rule) => Ok((datagram, rule)),
            None => Err(Reason::NoFlow),
        },
    }
}

#[inline(always)]
fn rule_for(group: &[u8; 16]) -> Option<&'static FlowRule> {
    if let Some(rule) = FLOWS.get_ptr(group) {
        // SAFETY: the verifier has seen the null check; a map value stays readable until the program returns, and a
        // concurrent update of a hash map replaces the element as a whole.
        return Some(unsafe { &*rule });
    }
    FLOW_PREFIXES.get(&Key::new(128, *group)).map(|rule| {
        // SAFETY: as above.
        unsafe { &*core::ptr::from_ref(rule) }
    })
}

#[inline(always)]
fn check_source(rule: &FlowRule, datagram: &Datagram) -> Result<(), Reason> {
    if !rule.has(FlowRule::SOURCES) {
        return Ok(());
    }
    let key = SourceKey { flow: rule.flow, source: datagram.source };
    if SOURCES.get_ptr(&key).is_some() { Ok(()) } else { Err(Reason::OtherSource) }
}

#[inline(always)]
fn check_ttl(datagram: &Datagram) -> Result<(), Reason> {
    if datagram.ttl <= 1 { Err(Reason::TtlExpired) } else { Ok(()) }
}

#[inline(always)]
fn header(ctx: &XdpContext, datagram: &Datagram) -> Result<Header, Reason> {
    if datagram.payload_len < ROOM + TAG_LEN {
        return Err(Reason::Truncated);
    }
    let packet = Packet(ctx);
    let bytes = match datagram.family {
        Family::V4 => packet.load::<HEADER_LEN>(Family::V4.payload_offset()),
        Family::V6 => packet.load::<HEADER_LEN>(Family::V6.payload_offset()),
    };
    Header::parse(&bytes.ok_or(Reason::Truncated)?)
}

#[inline(always)]
fn gtag_key(rule: &FlowRule, header: &Header) -> Option<&'static SipKey> {
    let key = GtagKey { group: rule.group, prefix_len: rule.prefix_len, reserved: 0, epoch: header.epoch.0 };
    // SAFETY: as in `rule_for`.
    GTAG.get_ptr(&key).map(|key| unsafe { &*key })
}

#[inline(always)]
fn check_gtag(key: &SipKey, datagram: &Datagram, header: &Header) -> Result<(), Reason> {
    let length = (datagram.payload_len - HEADER_LEN) as u16;
    let gtag = match datagram.family {
        Family::V4 => header.gtag_v4(key.k0, key.k1, &datagram.source, &datagram.group, length),
        Family::V6 => header.gtag_v6(key.k0, key.k1, &datagram.source, &datagram.group, length),
    };
    if gtag == header.gtag { Ok(()) } else { Err(Reason::Gtag) }
}

/// Carries out what was decided, and counts it.
#[inline(always)]
fn verdict(ctx: &XdpContext, decision: Result<Mark, Reason>) -> u32 {
    // SAFETY: a volatile read of our own static: the loader replaces its value before the program is verified.
    let slot = unsafe { core::ptr::read_volatile(&SLOT) };
    count(slot, Stat::Received);
    match decision.and_then(|mark| redirect(ctx, slot, mark)) {
        Ok(()) => {
            count(slot, Stat::Redirected);
            XDP_REDIRECT
        }
        Err(reason) => {
            count(slot, Stat::Reason(reason));
            if reason.is_drop() { XDP_DROP } else { XDP_PASS }
        }
    }
}

/// Marks a frame and redirects it to the worker of its queue.
#[inline(always)]
fn redirect(ctx: &XdpContext, slot: u32, mark: Mark) -> Result<(), Reason> {
    if mark.has(Mark::SEAL) {
        // SAFETY: the context is the kernel's own.
        if unsafe { bpf_xdp_adjust_head(ctx.ctx, -(ROOM as i32)) } != 0 {
            warn!(ctx, "interface slot {}: the driver leaves less than {} bytes of headroom", slot, ROOM);
            return Err(Reason::NoRoom);
        }
    }
    let start = ctx.data();
    if start + size_of::<Mark>() > ctx.data_end() {
        return Err(Reason::NoRoom);
    }
    // SAFETY: within data..data_end, just checked; the frame is ours to write.
    unsafe { core::ptr::write_unaligned(start as *mut Mark, mark) };
    // SAFETY: the context is the kernel's own.
    let queue = unsafe { (*ctx.ctx).rx_queue_index };
    if queue >= MAX_QUEUES {
        return Err(Reason::NoWorker);
    }
    match XSKS.redirect(xsk_index(slot, queue), XDP_DROP as u64) {
        Ok(_) => Ok(()),
        Err(_) => Err(Reason::NoWorker),
    }
}

#[inline(always)]
fn count(slot: u32, stat: Stat) {
    if let Some(counter) = STATS.get_ptr_mut(stat_index(slot, stat)) {
        // SAFETY: this CPU's own counter; XDP programs do not preempt each other on a CPU.
        unsafe { *counter += 1 };
    }
}

/// A frame between `data` and `data_end`.
struct Packet<'a>(&'a XdpContext);

impl Frame for Packet<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let start = self.0.data() + offset;
        if start + N > self.0.data_end() {
            return None;
        }
        // SAFETY: within data..data_end, just checked.
        Some(unsafe { core::ptr::read_unaligned(start as *const [u8; N]) })
    }

    #[inline(always)]
    fn length(&self) -> usize {
        self.0.data_end() - self.0.data()
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Helpers like bpf_redirect_map are open to GPL-compatible programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
