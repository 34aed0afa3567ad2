//! The main thread: follows control's snapshots, keeps interfaces, program, sockets, flows and memberships as they
//! should be, and answers. Packets never pass here.
//!
//! Everything is reconciled towards the desired state, from whatever the state is: the same code serves the first start,
//! a restart over pinned maps, a change of the snapshot and an interface that vanishes and comes back.

use crate::advertise::Advertiser;
use crate::interface::{self, Interface, Monitor};
use crate::join::{Membership, Memberships};
use crate::link::Link;
use crate::nic;
use crate::pipeline::{Pipeline, Shared};
use crate::replay::Windows;
use crate::snapshot::{self, Snapshot};
use crate::stats::WorkerStats;
use crate::tables::{Flow, MAX_PORTS_SERVED, PortIndex, PortSet, Role, Tables};
use crate::worker::{Command, Event, EventSender, PortConfig, Worker, WorkerHandle, clock_ms};
use crate::xdp::{Attached, MapSizes, Maps, XdpError};
use crate::xsk::{BindMode, MAX_FRAME, Umem, XskSocket};
use crossbeam_channel::Receiver;
use gemcast_proto::id::{Group, unmap};
use gemcast_proto::link::{self as message, ToControl, ToDataplane, to_control, to_dataplane};
use gemcast_proto::reason::Reason;
use gemcast_proto::wire::classify::ETHERNET_LEN;
use gemcast_proto::wire::frame::OVERHEAD;
use gemcast_xdp::LAYOUT_VERSION;
use gemcast_xdp::layout::Stat;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use netlink_packet_route::link::XdpAttached;
use rustix::time::ClockId;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::num::NonZeroU32;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const LISTENER: Token = Token(0);
const CONTROL: Token = Token(1);
const MONITOR: Token = Token(2);
const WAKER: Token = Token(3);
const SIGNALS: Token = Token(4);

/// Events of workers that may wait for the main thread.
const EVENT_QUEUE: usize = 1024;
/// How long a worker may take to answer.
const WORKER_PATIENCE: Duration = Duration::from_millis(500);
/// Failed work (an interface that is missing, a queue that is still busy) is tried again this often.
const RETRY: Duration = Duration::from_millis(500);

/// What was written into the maps is looked at this often.
const CHECK: Duration = Duration::from_millis(500);
/// A worker without a sign of life for this long is stuck.
const WORKER_SILENCE_MS: u64 = 3_000;
/// A control whose heart did not beat for this long is not there; it beats once a second.
const HEARTBEAT_MAX_MS: u64 = 3_000;
const BIND_ATTEMPTS: u32 = 50;
const BIND_PAUSE: Duration = Duration::from_millis(5);

/// How a data plane is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of this instance: sockets, snapshot, bpffs.
    pub directory: PathBuf,
    /// Instance name.
    pub instance: String,
    /// CPU of each worker; empty for one worker that is not pinned.
    pub cores: Vec<usize>,
    /// Packet memory of a worker in frames of 4 KiB.
    pub frames: NonZeroU32,
    /// Sizes of maps that are made anew.
    pub sizes: MapSizes,
    /// Whether zero-copy is tried.
    pub zero_copy: bool,
    /// Whether programs, links and maps are removed at the end.
    pub detach_on_exit: bool,
}

/// Why the data plane cannot run.
#[derive(Debug, thiserror::Error)]
pub enum PlaneError {
    /// The program or its maps.
    #[error(transparent)]
    Xdp(#[from] XdpError),
    /// The socket for control.
    #[error("cannot listen at {path}: {source}")]
    Listen {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Packet memory.
    #[error(
        "cannot allocate {frames} frames of packet memory: {source}; lower --frames or raise the memory lock limit"
    )]
    Umem {
        /// How many.
        frames: NonZeroU32,
        /// Why.
        source: io::Error,
    },
    /// Anything else of the kernel's.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// A worker is gone.
    #[error("worker {0} has ended unexpectedly")]
    WorkerDied(usize),
}

fn os(what: &'static str) -> impl FnOnce(io::Error) -> PlaneError {
    move |source| PlaneError::Io { what, source }
}

/// An interface that is being served.
struct Port {
    name: String,
    role: Role,
    interface: Interface,
    attached: Attached,
    bind_mode: BindMode,
    queues: u32,
    /// Slot in the maps.
    slot: u32,
    /// The workers' sockets.
    sockets: Vec<RawFd>,
    /// Taken up in this round.
    is_new: bool,
    /// Tells this taking-up from others.
    serial: u64,
}

/// The running data plane.
pub struct Plane {
    options: Options,
    poll: Poll,
    maps: Maps,
    link: Link,
    monitor: Monitor,
    workers: Vec<WorkerHandle>,
    /// The workers' packet memory, to bind sockets to.
    umems: Vec<Umem>,
    events: Receiver<Event>,
    memberships: Memberships,
    advertiser: Advertiser,
    desired: Option<Snapshot>,
    /// The snapshot as it is kept for the next start.
    kept: message::Snapshot,
    tables: Tables,
    ports: [Option<Port>; MAX_PORTS_SERVED],
    problems: Vec<String>,
    /// Interfaces whose VLAN receive offload was on before.
    offloaded: BTreeSet<String>,
    /// When unfinished work is tried again, milliseconds of CLOCK_BOOTTIME.
    retry_at_ms: Option<u64>,
    /// When the maps are looked at again, likewise.
    next_check_ms: u64,
    /// When the watchdog is fed again, likewise.
    next_feed_ms: u64,
    /// Number of interfaces taken up so far.
    serial: u64,
    /// When this process began, milliseconds of CLOCK_BOOTTIME.
    started_ms: u64,
    /// When control was last there, likewise.
    control_at_ms: u64,
    /// Everything stands by, as control was away for too long.
    lapsed: bool,
}

impl Plane {
    /// Opens maps and sockets, starts the workers, and takes up the last life's snapshot.
    pub fn start(options: Options, signals: i32) -> Result<Self, PlaneError> {
        let poll = Poll::new().map_err(os("epoll"))?;
        let registry = poll.registry();
        let maps = Maps::open(&options.directory.join("bpf"), options.sizes)?;
        let path = options.directory.join("dataplane.sock");
        let link =
            Link::listen(&path, registry, LISTENER, CONTROL).map_err(|source| PlaneError::Listen { path, source })?;
        let monitor = Monitor::new().map_err(os("netlink"))?;
        registry.register(&mut SourceFd(&monitor.raw_fd()), MONITOR, Interest::READABLE).map_err(os("netlink"))?;
        registry.register(&mut SourceFd(&signals), SIGNALS, Interest::READABLE).map_err(os("signals"))?;
        let waker = Arc::new(Waker::new(registry, WAKER).map_err(os("eventfd"))?);
        let (sender, events) = crossbeam_channel::bounded(EVENT_QUEUE);
        let count = options.cores.len().max(1);
        let mut workers = Vec::new();
        let mut umems = Vec::new();
        let shared = Shared {
            seks: Arc::clone(&maps.seks),
            counters: Arc::clone(&maps.counters),
            sync: Arc::clone(&maps.sync),
            windows: Arc::new(Windows::new(count)),
        };
        for queue in 0..count {
            let (umem, frames) =
                Umem::new(options.frames).map_err(|source| PlaneError::Umem { frames: options.frames, source })?;
            let pipeline = Pipeline::new(shared.clone(), queue as u8, count as u8);
            let events = EventSender::new(sender.clone(), Arc::clone(&waker));
            let core = options.cores.get(queue).copied();
            umems.push(umem.share());
            let worker = Worker::spawn(queue as u32, core, umem, frames, pipeline, Arc::clone(&maps.sync), events);
            workers.push(worker.map_err(os("starting a worker"))?);
        }
        let mut plane = Self {
            options,
            poll,
            maps,
            link,
            monitor,
            workers,
            umems,
            events,
            memberships: Memberships::default(),
            advertiser: Advertiser::default(),
            desired: None,
            kept: message::Snapshot::default(),
            tables: Tables::default(),
            ports: [const { None }; MAX_PORTS_SERVED],
            problems: Vec::new(),
            offloaded: BTreeSet::new(),
            retry_at_ms: None,
            next_check_ms: 0,
            next_feed_ms: 0,
            serial: 0,
            started_ms: now_ms(),
            control_at_ms: now_ms(),
            lapsed: false,
        };
        plane.resume();
        Ok(plane)
    }

    /// Goes on with the last life's snapshot: control may be down.
    fn resume(&mut self) {
        let path = self.snapshot_path();
        match snapshot::load(&path) {
            Ok(None) => {}
            Ok(Some(mut message)) => {
                self.lapsed = snapshot::yield_flows(&mut message);
                match Snapshot::parse(&message) {
                    Ok(snapshot) => {
                        self.kept = message;
                        tracing::info!(flows = snapshot.flows.len(), "going on with the last snapshot");
                        self.apply(snapshot);
                    }
                    Err(error) => {
                        tracing::warn!(path = %path.display(), %error, "the kept snapshot is unusable; waiting for control")
                    }
                }
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the kept snapshot is unreadable; waiting for control")
            }
        }
    }

    fn snapshot_path(&self) -> PathBuf {
        self.options.directory.join("snapshot.bin")
    }

    /// Runs until a signal arrives; `woken` is called when one does and says whether to end.
    pub fn run(mut self, mut ends: impl FnMut() -> bool) -> Result<(), PlaneError> {
        let mut events = Events::with_capacity(64);
        loop {
            let timeout = self.retry_at_ms.map(|at| Duration::from_millis(at.saturating_sub(now_ms()).max(1)));
            let timeout = timeout.unwrap_or(CHECK).min(self.watch_control());
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result.map_err(os("epoll"))?,
            }
            let mut interfaces_changed = self.retry_at_ms.is_some_and(|at| at <= now_ms());
            for event in &events {
                match event.token() {
                    LISTENER => {
                        if let Err(error) = self.greet() {
                            tracing::warn!(%error, "cannot accept control");
                        }
                    }
                    CONTROL => self.converse(),
                    MONITOR => {
                        self.monitor.drain();
                        interfaces_changed = true;
                    }
                    SIGNALS if ends() => return self.end(),
                    _ => {}
                }
            }
            self.hear_workers()?;
            self.feed_watchdog();
            self.advertiser.tick(now_ms());
            if interfaces_changed {
                self.reconcile();
            } else if self.next_check_ms <= now_ms() {
                self.check();
            }
            for port in self.ports.iter_mut().flatten() {
                if let Some(logger) = &mut port.attached.logger {
                    logger.flush();
                }
            }
        }
    }

    /// Tells systemd that we are well: this thread comes round, and every worker did lately.
    fn feed_watchdog(&mut self) {
        let now = now_ms();
        if now < self.next_feed_ms {
            return;
        }
        self.next_feed_ms = now + CHECK.as_millis() as u64;
        let beats = &self.maps.sync.page().worker_heartbeat_ms[..self.workers.len()];
        let alive = |beat: &AtomicU64| now.saturating_sub(beat.load(Ordering::Relaxed)) < WORKER_SILENCE_MS;
        if beats.iter().all(alive) {
            // Not under systemd is no error.
            let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Watchdog]);
        }
    }

    /// Where another gateway takes over when it misses control here, forwarding is lent by control: all flows stand by when
    /// it is gone for longer than it said, or its heart has stopped. Returns when to look again.
    fn watch_control(&mut self) -> Duration {
        let now = now_ms();
        let beat = self.maps.sync.page().control_heartbeat_ms.load(Ordering::Relaxed);
        if self.link.is_connected() && now.saturating_sub(beat.max(self.started_ms)) < HEARTBEAT_MAX_MS {
            self.control_at_ms = now;
        }
        let lease_ms = u64::from(self.kept.lease_ms);
        if lease_ms == 0 || self.lapsed {
            return CHECK;
        }
        let left = (self.control_at_ms + lease_ms).saturating_sub(now);
        if left > 0 {
            return Duration::from_millis(left);
        }
        self.lapsed = true;
        // A control that is stuck finds us again when it goes on, and says anew what it wants.
        self.link.disconnect(self.poll.registry());
        tracing::warn!("control is away, and another gateway takes over: every flow stands by");
        let stand_by = |flow: &message::Flow| message::FlowGate {
            group: flow.group.clone(),
            prefix_len: flow.prefix_len,
            send_standby: true,
            receive_standby: true,
        };
        let flows = self.kept.flows.iter().filter(|flow| flow.send || flow.receive).map(stand_by).collect();
        self.set_gates(&message::Gate { flows, generation: self.kept.generation, lease_ms: self.kept.lease_ms });
        CHECK
    }

    fn end(mut self) -> Result<(), PlaneError> {
        for worker in self.workers.drain(..) {
            worker.stop();
        }
        if self.options.detach_on_exit {
            self.restore_offloads(|_| true);
            self.maps.detach_others(&[])?;
            crate::xdp::clean(&self.options.directory.join("bpf"))?;
            let _ = std::fs::remove_file(self.snapshot_path());
        }
        tracing::info!("stopped");
        Ok(())
    }

    fn hello(&self) -> message::Hello {
        message::Hello {
            layout_version: LAYOUT_VERSION,
            instance: self.options.instance.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            incarnation: self.maps.incarnation(),
        }
    }

    fn greet(&mut self) -> io::Result<()> {
        if self.link.accept(self.poll.registry())? {
            let hello = self.hello();
            self.answer(to_control::Body::Hello(hello));
        }
        Ok(())
    }

    fn answer(&mut self, body: to_control::Body) {
        self.link.send(self.poll.registry(), &ToControl { body: Some(body) });
    }

    fn converse(&mut self) {
        self.control_at_ms = now_ms();
        self.link.flush(self.poll.registry());
        for ToDataplane { body } in self.link.receive(self.poll.registry()) {
            match body {
                Some(to_dataplane::Body::Hello(hello)) => {
                    if hello.layout_version != LAYOUT_VERSION {
                        let theirs = hello.layout_version;
                        tracing::error!(
                            theirs,
                            ours = LAYOUT_VERSION,
                            "control uses another map layout; install both from one release"
                        );
                    }
                }
                Some(to_dataplane::Body::Snapshot(message)) => self.take(message),
                Some(to_dataplane::Body::Gate(gate)) => self.gate(&gate),
                Some(to_dataplane::Body::Stats(_)) => {
                    let stats = self.stats();
                    self.answer(to_control::Body::Stats(stats));
                }
                None => tracing::warn!("control sent an empty message; it may be of a newer version"),
            }
        }
    }

    fn take(&mut self, mut message: message::Snapshot) {
        let generation = message.generation;
        if message.undecided {
            snapshot::inherit(&mut message, &self.kept);
        } else {
            self.lapsed = false;
        }
        match Snapshot::parse(&message) {
            Ok(snapshot) => {
                self.kept = message;
                self.apply(snapshot);
                self.keep();
            }
            Err(error) => {
                tracing::error!(%error, "control's snapshot is refused, the one before stays in force");
                self.problems = vec![error.to_string()];
            }
        }
        let applied = message::Applied { generation, problems: self.problems.clone() };
        self.answer(to_control::Body::Applied(applied));
    }

    fn keep(&mut self) {
        if let Err(error) = snapshot::save(&self.snapshot_path(), &self.kept) {
            self.problems.push(format!("cannot keep the snapshot for a restart: {error}"));
        }
    }

    /// Changes who forwards some flows: one write of a map entry for each, which XDP sees with the next frame. Frames that
    /// were redirected before go their way.
    fn gate(&mut self, gate: &message::Gate) {
        self.lapsed = false;
        self.set_gates(gate);
        let applied = message::Applied { generation: gate.generation, problems: self.problems.clone() };
        self.answer(to_control::Body::Applied(applied));
    }

    fn set_gates(&mut self, gate: &message::Gate) {
        for change in &gate.flows {
            if let Err(error) = self.gate_flow(change) {
                tracing::error!(%error, "a flow's forwarder is not changed");
                self.problems.push(error);
            }
        }
        (self.kept.generation, self.kept.lease_ms) = (gate.generation, gate.lease_ms);
        self.keep();
    }

    fn gate_flow(&mut self, change: &message::FlowGate) -> Result<(), String> {
        let place = format!("gate of group {:02x?}/{}", change.group, change.prefix_len);
        let address = <[u8; 16]>::try_from(change.group.as_slice()).ok();
        let length = u8::try_from(change.prefix_len).ok();
        let group = address.zip(length).and_then(|(address, length)| Group::from_mapped(address, length).ok());
        let group = group.ok_or_else(|| format!("{place}: no group, expected 16 bytes of a multicast address"))?;
        let index = self.tables.find_group(&group).ok_or_else(|| format!("{place}: {group} is not in the snapshot"))?;
        let desired = self.desired.iter_mut().flat_map(|desired| &mut desired.flows);
        for flow in desired.chain(self.tables.flows.iter_mut().flatten()).filter(|flow| flow.group == group) {
            (flow.send_standby, flow.receive_standby) = (change.send_standby, change.receive_standby);
        }
        let of_group = |flow: &&mut message::Flow| flow.group == change.group && flow.prefix_len == change.prefix_len;
        for flow in self.kept.flows.iter_mut().filter(of_group) {
            (flow.send_standby, flow.receive_standby) = (change.send_standby, change.receive_standby);
        }
        let flow = self.tables.flow(index).expect("found just now");
        self.maps.write_flow(index, flow).map_err(|error| error.to_string())
    }

    fn apply(&mut self, snapshot: Snapshot) {
        self.desired = Some(snapshot);
        self.reconcile();
    }

    /// Brings everything to where the snapshot wants it, as far as it can be done now.
    fn reconcile(&mut self) {
        let Some(desired) = self.desired.clone() else { return };
        self.problems.clear();
        self.retry_at_ms = None;
        let interfaces = match interface::interfaces() {
            Ok(interfaces) => interfaces,
            Err(error) => return self.problem(format!("cannot read the interfaces: {error}"), true),
        };
        self.drop_ports(&desired, &interfaces);
        self.restore_offloads(|name| !desired.interfaces.iter().any(|(wanted, _)| wanted == name));
        if let Err(error) = self.maps.remove_stale_flows(&desired.flows.iter().cloned().map(Some).collect::<Vec<_>>()) {
            self.problem(error.to_string(), true);
        }
        for (name, role) in &desired.interfaces {
            match interfaces.get(name) {
                None => self.problem(format!("interface {name} does not exist; it is taken up when it appears"), false),
                Some(interface) => self.serve(name, *role, interface),
            }
        }
        self.refresh_modes();
        self.set_tables(&desired);
        self.direct();
        if let Err(error) = self.maps.write_flows(&self.tables.flows) {
            self.problem(error.to_string(), true);
        }
        if let Err(error) = self.maps.write_gateways(&desired.gateways) {
            self.problem(error.to_string(), true);
        }
        self.join(&desired.flows);
        // A program stays on a wanted interface even while its socket cannot be bound: it keeps cleartext in.
        let kept: Vec<u32> =
            desired.interfaces.iter().filter_map(|(name, _)| Some(interfaces.get(name)?.ifindex)).collect();
        if let Err(error) = self.maps.detach_others(&kept) {
            self.problem(error.to_string(), true);
        }
        for problem in &self.problems {
            tracing::warn!("{problem}");
        }
    }

    fn problem(&mut self, problem: String, retry: bool) {
        self.problems.push(problem);
        if retry {
            self.retry_at_ms = Some(now_ms() + RETRY.as_millis() as u64);
        }
    }

    /// Lets go of interfaces that are not wanted, changed their role, vanished, or were made anew.
    fn drop_ports(&mut self, desired: &Snapshot, interfaces: &HashMap<String, Interface>) {
        for index in 0..MAX_PORTS_SERVED {
            let Some(port) = &self.ports[index] else { continue };
            let wanted = desired.interfaces.iter().any(|(name, role)| *name == port.name && *role == port.role);
            let same = interfaces.get(&port.name).is_some_and(|now| now.ifindex == port.interface.ifindex);
            if !(wanted && same) {
                self.drop_port(index);
            }
        }
    }

    fn drop_port(&mut self, index: PortIndex) {
        let Some(port) = self.ports[index].take() else { return };
        tracing::info!(interface = port.name, "no longer served");
        for worker in &self.workers {
            worker.send(Command::RemovePort(index));
        }
        self.maps.unset_sockets(port.slot);
        self.memberships.forget(port.interface.ifindex);
    }

    /// Has the program see VLAN tags: a frame without its tag would be taken for one of the interface itself.
    fn see_tags(&mut self, name: &str) {
        match nic::set_vlan_receive_offload(name, false) {
            Ok(false) => {}
            Ok(true) => {
                tracing::info!(interface = name, "VLAN receive offload (rxvlan) is turned off, to see the tags");
                self.offloaded.insert(name.to_owned());
            }
            Err(error) => self.problem(
                format!(
                    "interface {name}: VLAN receive offload cannot be turned off: {error}; frames of VLANs are taken for \
                     untagged ones, so see that none arrive (`ethtool -K {name} rxvlan off`)"
                ),
                false,
            ),
        }
    }

    /// Turns VLAN receive offload on again where it was on before the interface was served.
    fn restore_offloads(&mut self, ended: impl Fn(&str) -> bool) {
        for name in self.offloaded.extract_if(.., |name| ended(name)) {
            if let Err(error) = nic::set_vlan_receive_offload(&name, true) {
                tracing::warn!(interface = name, %error, "VLAN receive offload (rxvlan) stays off");
            }
        }
    }

    /// Serves an interface: updates what changed, or attaches and binds anew.
    fn serve(&mut self, name: &str, role: Role, interface: &Interface) {
        self.see_tags(name);
        let served = self.ports.iter().position(|port| port.as_ref().is_some_and(|port| port.name == name));
        match served {
            Some(index) => {
                let port = self.ports[index].as_mut().expect("found just now");
                if port.interface != *interface {
                    port.interface = interface.clone();
                    let serial = port.serial;
                    for worker in &self.workers {
                        worker.send(Command::UpdatePort(port_config(index, role, interface, serial)));
                    }
                }
            }
            None => {
                if let Err(problem) = self.take_up(name, role, interface) {
                    self.problem(problem, true);
                }
            }
        }
        let longest = interface.mtu + ETHERNET_LEN + OVERHEAD;
        if longest > MAX_FRAME {
            let limit = MAX_FRAME - ETHERNET_LEN - OVERHEAD;
            self.problem(
                format!(
                    "interface {name}: packets longer than {limit} bytes are lost: its MTU is {}; lower it",
                    interface.mtu
                ),
                false,
            );
        }
    }

    fn take_up(&mut self, name: &str, role: Role, interface: &Interface) -> Result<(), String> {
        let index =
            self.ports.iter().position(Option::is_none).ok_or_else(|| format!("interface {name}: no free place"))?;
        if interface.mac.is_none() {
            return Err(format!("interface {name} is no Ethernet interface"));
        }
        let slot = self.free_slot();
        self.maps.clear_stats(slot).map_err(|error| error.to_string())?;
        self.serial += 1;
        let serial = self.serial;
        let mut bind_mode = BindMode::Copy;
        let mut sockets = Vec::new();
        for (queue, umem) in self.umems.iter().enumerate() {
            match bind(umem, name, queue as u32, self.options.zero_copy) {
                Ok((mode, socket)) => {
                    bind_mode = mode;
                    sockets.push(socket);
                }
                // The interface has fewer queues than there are workers.
                Err(error) if queue > 0 && error.kind() == io::ErrorKind::InvalidInput => break,
                Err(error) => {
                    return Err(format!("interface {name}, queue {queue}: cannot bind an AF_XDP socket: {error}"));
                }
            }
        }
        let queues = nic::receive_queues(name).unwrap_or(sockets.len() as u32);
        let raw = sockets.iter().map(XskSocket::raw_fd).collect();
        for (queue, socket) in sockets.into_iter().enumerate() {
            self.workers[queue].send(Command::AddPort(port_config(index, role, interface, serial), Box::new(socket)));
        }
        let attached = self.maps.attach(slot, name, interface.ifindex, role).map_err(|error| {
            for worker in &self.workers {
                worker.send(Command::RemovePort(index));
            }
            error.to_string()
        })?;
        tracing::info!(interface = name, ?role, bind = bind_mode.name(), queues, "served");
        let interface = interface.clone();
        self.ports[index] = Some(Port {
            name: name.to_owned(),
            role,
            interface,
            attached,
            bind_mode,
            queues,
            slot,
            sockets: raw,
            is_new: true,
            serial,
        });
        if queues as usize > self.workers.len() {
            let workers = self.workers.len();
            self.problem(
                format!(
                    "interface {name} has {queues} receive queues, but {workers} workers serve as many: frames of the others \
                     are lost; run `ethtool -L {name} combined {workers}` or give more --cores"
                ),
                false,
            );
        }
        Ok(())
    }

    /// Reads back the XDP mode of interfaces that were just taken up.
    fn refresh_modes(&mut self) {
        if self.ports.iter().flatten().all(|port| !port.is_new) {
            return;
        }
        let Ok(interfaces) = interface::interfaces() else { return };
        for port in self.ports.iter_mut().flatten() {
            if let Some(now) = interfaces.get(&port.name) {
                port.interface.xdp = now.xdp;
            }
        }
        let skb: Vec<String> = self
            .ports
            .iter()
            .flatten()
            .filter(|port| port.interface.xdp == Some(XdpAttached::SocketBuffer))
            .map(|port| port.name.clone())
            .collect();
        for name in skb {
            self.problem(
                format!("interface {name}: its driver has no XDP, so the slow SKB mode is used; choose another NIC or driver"),
                false,
            );
        }
    }

    /// Lets the program redirect to the sockets of the ports: last, when the workers know every port and flow.
    fn direct(&mut self) {
        for index in 0..MAX_PORTS_SERVED {
            let Some(port) = &mut self.ports[index] else { continue };
            port.is_new = false;
            let (slot, sockets) = (port.slot, port.sockets.clone());
            for (queue, socket) in sockets.into_iter().enumerate() {
                if let Err(error) = self.maps.set_socket(slot, queue as u32, socket) {
                    self.problem(error.to_string(), true);
                }
            }
        }
    }

    /// Maps are a cache: what this process wrote is looked at now and then, and written again where it is gone (F13).
    fn check(&mut self) {
        self.next_check_ms = now_ms() + CHECK.as_millis() as u64;
        if self.desired.is_none() {
            return;
        }
        let mut repaired = !self.maps.has_flows(&self.tables.flows);
        if repaired && let Err(error) = self.maps.write_flows(&self.tables.flows) {
            tracing::warn!(%error, "cannot write the flows again");
        }
        let gateways = self.desired.as_ref().map(|desired| &desired.gateways);
        match gateways.map_or(Ok(false), |gateways| self.maps.write_gateways(gateways)) {
            Ok(written) => repaired |= written,
            Err(error) => tracing::warn!(%error, "cannot write the other gateways again"),
        }
        for port in self.ports.iter_mut().flatten() {
            match port.attached.pin_again() {
                Ok(pinned) => repaired |= pinned,
                Err(error) => tracing::warn!(interface = port.name, %error, "cannot pin the XDP program's link again"),
            }
        }
        self.direct();
        if repaired {
            tracing::warn!("maps or pins were altered from outside; written again");
        }
    }

    /// A slot that no attached program counts in: each taking-up uses the next one of this data plane's half.
    fn free_slot(&self) -> u32 {
        let used = |slot| self.ports.iter().flatten().any(|port| port.slot == slot);
        let slots = MAX_PORTS_SERVED as u64;
        let candidates = (self.serial..self.serial + slots).map(|number| self.maps.slot((number % slots) as u32));
        candidates.clone().find(|&slot| !used(slot)).or_else(|| candidates.clone().next()).expect("there are slots")
    }

    fn set_tables(&mut self, desired: &Snapshot) {
        let mut tables = self.tables.with_flows(desired.flows.clone());
        (tables.trusted, tables.untrusted) = (PortSet::default(), PortSet::default());
        for (index, port) in self.ports.iter().enumerate() {
            match port.as_ref().map(|port| port.role) {
                Some(Role::Trusted) => tables.trusted.insert(index),
                Some(Role::Untrusted) => tables.untrusted.insert(index),
                None => {}
            }
        }
        tables.hold = desired.hold;
        tables.replay_window = desired.replay_window;
        tables.outer_ttl = desired.ttl;
        self.tables = tables.clone();
        let tables = Arc::new(tables);
        let (done, finished) = crossbeam_channel::bounded(self.workers.len());
        for worker in &self.workers {
            worker.send(Command::Tables(Arc::clone(&tables), done.clone()));
        }
        // The program may name a flow only when the workers know it.
        for _ in 0..self.workers.len() {
            if finished.recv_timeout(WORKER_PATIENCE).is_err() {
                self.problem("a worker did not take up the new tables in time".into(), true);
            }
        }
    }

    fn join(&mut self, flows: &[Flow]) {
        let mut wanted = BTreeSet::new();
        let mut all_multicast = BTreeSet::new();
        let mut advertised = BTreeSet::new();
        for port in self.ports.iter().flatten().filter(|port| port.interface.up) {
            for flow in flows {
                let hears = match port.role {
                    Role::Trusted => flow.send,
                    Role::Untrusted => flow.receive || flow.transit,
                };
                if !hears {
                    continue;
                }
                if !flow.group.is_single() {
                    all_multicast.insert(port.interface.ifindex);
                    // Not to the untrusted network, which would deliver everything that is anyone's.
                    if port.role == Role::Trusted {
                        advertised.insert((port.interface.ifindex, port.name.clone()));
                    }
                    continue;
                }
                let membership =
                    |source| Membership { ifindex: port.interface.ifindex, group: flow.group.address(), source };
                if flow.sources.is_empty() {
                    wanted.insert(membership(None));
                }
                wanted.extend(flow.sources.iter().map(|source| membership(Some(unmap(source)))));
            }
        }
        let failed = self.memberships.set(&wanted);
        if let Some((membership, error)) = failed.first() {
            let (group, ifindex, more) = (membership.group, membership.ifindex, failed.len() - 1);
            self.problem(format!("cannot join {group} on interface {ifindex}, and {more} more: {error}"), true);
        }
        for (ifindex, error) in self.memberships.set_all_multicast(&all_multicast) {
            self.problem(format!("cannot receive every group on interface {ifindex}: {error}"), true);
        }
        for (name, error) in self.advertiser.set(&advertised) {
            self.problem(format!("interface {name}: cannot advertise a multicast router to switches: {error}"), true);
        }
    }

    /// Takes the workers' events.
    fn hear_workers(&mut self) -> Result<(), PlaneError> {
        if let Some(dead) = self.workers.iter().position(WorkerHandle::is_dead) {
            return Err(PlaneError::WorkerDied(dead));
        }
        while let Ok(event) = self.events.try_recv() {
            match event {
                Event::MissingKey { key_id, flow, epoch } => {
                    let Some(flow) = self.tables.flow(flow) else { continue };
                    let missing = message::MissingKey {
                        key_id: key_id.0,
                        group: flow.group.mapped().to_vec(),
                        prefix_len: flow.group.mapped_prefix_len().into(),
                        epoch: epoch.into(),
                    };
                    self.answer(to_control::Body::MissingKey(missing));
                }
                Event::FailedOpens(notice) => {
                    let failed = message::FailedOpens {
                        key_id: notice.key_id.0,
                        failed: notice.failed,
                        limited: notice.limited,
                        source: notice.source.to_vec(),
                        ban: notice.ban,
                    };
                    self.answer(to_control::Body::FailedOpens(failed));
                }
                Event::PortFailed(index, serial) => {
                    if self.ports[index].as_ref().is_some_and(|port| port.serial == serial) {
                        self.drop_port(index);
                        // Not at once: what made it fail may last.
                        self.retry_at_ms = Some(now_ms() + RETRY.as_millis() as u64);
                    }
                }
            }
        }
        Ok(())
    }

    fn stats(&self) -> message::Stats {
        let (reply, reports) = crossbeam_channel::bounded(self.workers.len());
        for worker in &self.workers {
            worker.send(Command::Report(reply.clone()));
        }
        drop(reply);
        let mut total = WorkerStats::new();
        let mut workers = Vec::new();
        for queue in 0..self.workers.len() {
            let Ok(report) = reports.recv_timeout(WORKER_PATIENCE) else { continue };
            workers.push(message::WorkerStats {
                queue: queue as u32,
                core: self.options.cores.get(queue).map_or(u32::MAX, |core| *core as u32),
                batches: report.batches,
                frames_free: report.frames_free,
            });
            total.merge(&report);
        }
        let ports = self.ports.iter().enumerate();
        let interfaces =
            ports.filter_map(|(index, port)| Some(self.interface_stats(index, port.as_ref()?, &total))).collect();
        let flows = self.tables.flows.iter().zip(&total.flows);
        let flows = flows.filter_map(|(flow, stats)| {
            let flow = flow.as_ref()?;
            Some(message::FlowStats {
                group: flow.group.mapped().to_vec(),
                prefix_len: flow.group.mapped_prefix_len().into(),
                sealed: stats.sealed.0,
                sealed_bytes: stats.sealed.1,
                opened: stats.opened.0,
                opened_bytes: stats.opened.1,
                relayed: stats.relayed.0,
                relayed_bytes: stats.relayed.1,
                transited: stats.transited.0,
                transited_bytes: stats.transited.1,
            })
        });
        let gateways = self.maps.gateway_counts().map(|(mac, count)| message::GatewayStats {
            mac: mac.to_vec(),
            frames: count.frames,
            conflicts: count.conflicts,
        });
        message::Stats { interfaces, flows: flows.collect(), workers, gateways: gateways.collect() }
    }

    fn interface_stats(&self, index: PortIndex, port: &Port, total: &WorkerStats) -> message::InterfaceStats {
        let worker = &total.ports[index];
        let mut reasons: Vec<(Reason, u64)> = self.maps.reasons(port.slot).collect();
        // Of what both can decide, both count.
        for (reason, frames) in worker.dropped.iter() {
            match reasons.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, sum)) => *sum += frames,
                None => reasons.push((reason, frames)),
            }
        }
        let count = |(reason, frames): (Reason, u64)| message::ReasonCount { reason: reason.name().into(), frames };
        let mac = port.interface.mac.unwrap_or_default();
        message::InterfaceStats {
            name: port.name.clone(),
            role: match port.role {
                Role::Trusted => message::Role::Trusted,
                Role::Untrusted => message::Role::Untrusted,
            }
            .into(),
            slot: port.slot,
            up: port.interface.up,
            xdp_mode: match port.interface.xdp {
                Some(XdpAttached::Driver) => "driver",
                Some(XdpAttached::SocketBuffer) => "skb",
                Some(_) => "other",
                None => "none",
            }
            .into(),
            bind_mode: port.bind_mode.name().into(),
            queues: port.queues,
            mtu: port.interface.mtu as u32,
            mac: mac.map(|byte| format!("{byte:02x}")).join(":"),
            received: self.maps.stat(port.slot, Stat::Received),
            redirected: self.maps.stat(port.slot, Stat::Redirected),
            forwarded: worker.forwarded,
            held: worker.held,
            reasons: reasons.into_iter().map(count).collect(),
            sent: worker.sent,
            sent_bytes: worker.sent_bytes,
            unsent: worker.unsent.iter().map(count).collect(),
            opened: worker.opened,
            copies: worker.copies,
            invalid: worker.invalid,
        }
    }
}

/// Binds to a queue, zero-copy if it is wanted and the driver has it. The kernel lets go of a queue a moment after its
/// last socket is closed, which is waited for.
fn bind(umem: &Umem, name: &str, queue: u32, zero_copy: bool) -> io::Result<(BindMode, XskSocket)> {
    let modes: &[BindMode] = if zero_copy { &[BindMode::ZeroCopy, BindMode::Copy] } else { &[BindMode::Copy] };
    let mut attempts = 0;
    loop {
        let mut failure = None;
        for &mode in modes {
            match XskSocket::bind(umem, name, queue, mode) {
                Ok(socket) => return Ok((socket.mode()?, socket)),
                Err(error) => failure = Some(error),
            }
        }
        let failure = failure.expect("there is a mode");
        attempts += 1;
        if failure.kind() != io::ErrorKind::ResourceBusy || attempts == BIND_ATTEMPTS {
            return Err(failure);
        }
        std::thread::sleep(BIND_PAUSE);
    }
}

fn port_config(index: PortIndex, role: Role, interface: &Interface, serial: u64) -> PortConfig {
    PortConfig { index, role, mac: interface.mac.unwrap_or_default(), mtu: interface.mtu, up: interface.up, serial }
}

fn now_ms() -> u64 {
    clock_ms(ClockId::Boottime)
}
