//! A worker: one pinned core, one receive queue of every interface, run to completion. It shares nothing with the other
//! workers; all it knows comes over a channel, all it counts is its own.
//!
//! One turn of the loop: take what the rings received, decide, stage what leaves; then send, take back what was sent,
//! and give the kernel frames to receive into. With nothing to do it sleeps in poll(2).

use crate::hold::{HoldQueue, Waiting};
use crate::pipeline::{Action, Emit, Now, Pipeline, Stop};
use crate::police::Notice;
use crate::stats::WorkerStats;
use crate::tables::{MAX_PORTS_SERVED, PortIndex, PortSet, Role, Tables};
use crate::xsk::{Frame, RING_SIZE, Umem, XskSocket};
use crossbeam_channel::{Receiver, Sender, TryRecvError};
use gemcast_proto::id::KeyId;
use gemcast_proto::reason::Reason;
use gemcast_proto::wire::classify::ETHERNET_LEN;
use gemcast_xdp::layout::Mark;
use gemcast_xdp::sync::Sync;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, OwnedFd};
use rustix::time::ClockId;
use std::collections::VecDeque;
use std::sync::Arc;

/// Frames taken from a ring at a time.
const BATCH: usize = 64;
/// Longest sleep, and the interval of housekeeping.
const TICK_MS: u64 = 100;
/// Longest sleep while packets wait for a key or for a transmit ring.
const SHORT_SLEEP_MS: u64 = 1;
/// Source address field of an Ethernet header.
const ETHERNET_SOURCE: std::ops::Range<usize> = 6..12;
/// Missing keys reported lately.
const REPORTED_LIMIT: usize = 256;
/// The kernel lets go of a closed socket's frames in its own time; they are not used before this.
const QUARANTINE_MS: u64 = 2000;
/// A missing key is reported again after this long.
const REPORT_AGAIN_MS: u64 = 250;

/// An interface, as a worker serves it.
pub struct PortConfig {
    /// Position in the tables.
    pub index: PortIndex,
    /// Role.
    pub role: Role,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// MTU in bytes.
    pub mtu: usize,
    /// Whether it is up.
    pub up: bool,
    /// Tells this taking-up of the interface from others.
    pub serial: u64,
}

/// What the main thread tells a worker.
pub enum Command {
    /// Forward by these tables; say so when they are in force.
    Tables(Arc<Tables>, Sender<()>),
    /// Serve an interface.
    AddPort(PortConfig, Box<XskSocket>),
    /// An interface changed its address, MTU or state.
    UpdatePort(PortConfig),
    /// Let go of an interface.
    RemovePort(PortIndex),
    /// Send a copy of the counters.
    Report(Sender<WorkerStats>),
    /// End.
    Stop,
}

/// What a worker tells the main thread.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// Packets of a known group wait for this key.
    MissingKey {
        /// The key.
        key_id: KeyId,
        /// Position of the flow.
        flow: u32,
        /// GAK epoch the packets name.
        epoch: u16,
    },
    /// Packets under a key do not decrypt.
    FailedOpens(Notice),
    /// The socket of an interface failed: the one that was added under this serial number.
    PortFailed(PortIndex, u64),
}

/// The main thread's ear: a channel, and what wakes it.
pub struct EventSender {
    sender: Sender<Event>,
    waker: Arc<mio::Waker>,
}

impl EventSender {
    /// Events go into `sender`, then `waker` is called.
    pub fn new(sender: Sender<Event>, waker: Arc<mio::Waker>) -> Self {
        Self { sender, waker }
    }

    fn send(&self, event: Event) {
        // A full channel means that the main thread has plenty to do already; missing keys are reported again.
        if self.sender.try_send(event).is_ok() {
            let _ = self.waker.wake();
        }
    }
}

/// The main thread's handle of a worker.
pub struct WorkerHandle {
    commands: Sender<Command>,
    wake: OwnedFd,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl WorkerHandle {
    /// Sends a command. The worker takes it before its next batch.
    pub fn send(&self, command: Command) {
        // The worker's end lives as long as its thread; after a panic there nobody listens, and `is_dead` tells.
        let _ = self.commands.send(command);
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Ends the worker and waits for it.
    pub fn stop(mut self) {
        self.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    /// Whether the thread has ended without being told to.
    pub fn is_dead(&self) -> bool {
        self.thread.as_ref().is_none_or(std::thread::JoinHandle::is_finished)
    }
}

struct Port {
    config: PortConfig,
    socket: XskSocket,
    /// Frames to be sent, as many as the ring has room for.
    staged: Vec<Frame>,
    /// Frames that can be staged in this turn.
    room: usize,
    /// Whether room was asked for in this turn.
    tried: bool,
    /// Frames with the kernel to receive into.
    lent: usize,
    failed: bool,
}

/// What a worker is made of.
pub struct Worker {
    queue: u32,
    core: Option<usize>,
    umem: Umem,
    free: Vec<Frame>,
    frames: usize,
    ports: [Option<Port>; MAX_PORTS_SERVED],
    port_count: usize,
    pipeline: Pipeline,
    hold: HoldQueue<Frame>,
    sync: Arc<Sync>,
    commands: Receiver<Command>,
    wake: OwnedFd,
    events: EventSender,
    stats: WorkerStats,
    reported: VecDeque<(KeyId, u64)>,
    /// Frames of closed sockets, and when they may be used again.
    quarantine: Vec<(u64, Vec<Frame>)>,
    batch: Vec<Frame>,
    mono_ms: u64,
    next_tick_ms: u64,
}

impl Worker {
    /// Starts the worker of `queue` in a thread of its own, pinned to `core` if there is one.
    pub fn spawn(
        queue: u32,
        core: Option<usize>,
        umem: Umem,
        frames: Vec<Frame>,
        pipeline: Pipeline,
        sync: Arc<Sync>,
        events: EventSender,
    ) -> std::io::Result<WorkerHandle> {
        let (sender, commands) = crossbeam_channel::unbounded();
        let wake =
            rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK | rustix::event::EventfdFlags::CLOEXEC)?;
        let theirs = wake.try_clone()?;
        let worker = Self {
            queue,
            core,
            umem,
            frames: frames.len(),
            hold: HoldQueue::new(frames.len() / 8),
            free: frames,
            ports: [const { None }; MAX_PORTS_SERVED],
            port_count: 0,
            pipeline,
            sync,
            commands,
            wake: theirs,
            events,
            stats: WorkerStats::new(),
            reported: VecDeque::with_capacity(REPORTED_LIMIT),
            quarantine: Vec::new(),
            batch: Vec::with_capacity(BATCH),
            mono_ms: 0,
            next_tick_ms: 0,
        };
        let thread = std::thread::Builder::new().name(format!("worker-{queue}")).spawn(move || worker.run())?;
        Ok(WorkerHandle { commands: sender, wake, thread: Some(thread) })
    }

    fn run(mut self) {
        if let Some(core) = self.core {
            let mut set = rustix::thread::CpuSet::new();
            set.set(core);
            if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
                tracing::warn!(worker = self.queue, core, %error, "cannot pin the worker to its core");
            }
        }
        while self.obey() {
            self.mono_ms = clock_ms(ClockId::Boottime);
            let now = Now { wall_ms: clock_ms(ClockId::Realtime), mono_ms: self.mono_ms };
            let changed = self.pipeline.begin_batch(now);
            if !self.hold.is_empty() {
                if changed {
                    self.retry_held();
                }
                self.expire_held();
            }
            let mut received = 0;
            for index in 0..MAX_PORTS_SERVED {
                received += self.receive(index);
            }
            if self.pipeline.has_notices() {
                self.pipeline.notices().for_each(|notice| self.events.send(Event::FailedOpens(notice)));
            }
            self.stats.batches += u64::from(received > 0);
            self.send();
            self.sync.page().worker_heartbeat_ms[self.queue as usize]
                .store(self.mono_ms, std::sync::atomic::Ordering::Relaxed);
            if self.mono_ms >= self.next_tick_ms {
                self.next_tick_ms = self.mono_ms + TICK_MS;
                self.pipeline.sweep();
                self.end_quarantine();
                self.report_failed();
            }
            if received == 0 {
                self.sleep();
            }
        }
        self.sync.page().worker_heartbeat_ms[self.queue as usize].store(0, std::sync::atomic::Ordering::Relaxed);
    }

    /// Carries out waiting commands; `false` when it is time to end.
    #[inline]
    fn obey(&mut self) -> bool {
        loop {
            match self.commands.try_recv() {
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) | Ok(Command::Stop) => return false,
                Ok(command) => self.carry_out(command),
            }
        }
    }

    #[cold]
    fn carry_out(&mut self, command: Command) {
        match command {
            Command::Tables(tables, done) => {
                self.hold.configure(tables.hold, tables.flows.len());
                self.stats.flows.resize_with(tables.flows.len().max(self.stats.flows.len()), Default::default);
                let old = self.pipeline.tables();
                for (index, stats) in self.stats.flows.iter_mut().enumerate() {
                    let group = |tables: &Tables| tables.flow(index as u32).map(|flow| flow.group);
                    if group(old) != group(&tables) {
                        *stats = Default::default();
                    }
                }
                self.pipeline.set_tables(tables);
                let _ = done.send(());
            }
            Command::AddPort(config, socket) => {
                let index = config.index;
                self.remove_port(index);
                self.stats.reset_port(index);
                let port = Port {
                    config,
                    socket: *socket,
                    staged: Vec::with_capacity(RING_SIZE as usize),
                    room: 0,
                    tried: false,
                    lent: 0,
                    failed: false,
                };
                self.ports[index] = Some(port);
                self.port_count += 1;
                self.send();
            }
            Command::UpdatePort(config) => {
                if let Some(port) = &mut self.ports[config.index] {
                    port.config = config;
                }
            }
            Command::RemovePort(index) => self.remove_port(index),
            Command::Report(reply) => {
                let _ = reply.send(self.report());
            }
            Command::Stop => unreachable!("handled by the caller"),
        }
    }

    fn remove_port(&mut self, index: PortIndex) {
        let Some(mut port) = self.ports[index].take() else { return };
        self.port_count -= 1;
        self.free.append(&mut port.staged);
        self.free.extend(self.hold.remove_port(index).into_iter().map(|held| held.frame));
        let mut frames = Vec::new();
        port.socket.close(&self.umem, &mut frames);
        self.quarantine.push((self.mono_ms + QUARANTINE_MS, frames));
    }

    /// Brings back frames of closed sockets that the kernel has let go of by now.
    fn end_quarantine(&mut self) {
        for (until, frames) in &mut self.quarantine {
            if *until <= self.mono_ms {
                self.free.append(frames);
            }
        }
        self.quarantine.retain(|(_, frames)| !frames.is_empty());
    }

    fn report(&mut self) -> WorkerStats {
        for (index, port) in self.ports.iter().enumerate() {
            let stats = &mut self.stats.ports[index];
            stats.held = self.hold.waiting(index);
            if let Some(port) = port
                && let Ok(statistics) = port.socket.statistics()
            {
                stats.dropped.set(Reason::RingFull, statistics.lost);
                stats.invalid = statistics.invalid;
            }
        }
        self.stats.frames_free = self.free.len() as u64;
        self.stats.clone()
    }

    #[inline]
    fn receive(&mut self, index: PortIndex) -> usize {
        let Some(port) = &mut self.ports[index] else { return 0 };
        let mut batch = std::mem::take(&mut self.batch);
        let count = port.socket.receive(&mut batch, BATCH);
        port.lent -= count;
        let role = port.config.role;
        for mut frame in batch.drain(..) {
            let length = frame.length();
            let mark = Mark::parse(self.umem.bytes(&mut frame));
            let relayed = match mark {
                Some(mark) if mark.has(Mark::TRANSIT) && mark.has(Mark::OPEN) => {
                    self.relay_copies(index, &mut frame, length, mark)
                }
                _ => false,
            };
            match self.pipeline.process(role, self.umem.bytes(&mut frame), length) {
                Ok(emit) => self.emit(index, frame, emit, relayed),
                Err(Stop::Drop(reason)) => self.discard(index, frame, reason, relayed),
                Err(Stop::Hold { key_id, flow, epoch }) => {
                    let waiting = Waiting { length, key_id, flow, port: index, relayed };
                    self.hold(frame, waiting, epoch);
                }
            }
        }
        self.batch = batch;
        count
    }

    /// Ends a frame. One that was relayed before is counted as forwarded already.
    #[inline]
    fn discard(&mut self, ingress: PortIndex, frame: Frame, reason: Reason, relayed: bool) {
        let port = &mut self.stats.ports[ingress];
        port.copies += u64::from(reason == Reason::Replay);
        if !relayed {
            port.dropped.add(reason);
        }
        self.free.push(frame);
    }

    /// Stages a frame on every interface it leaves by; the last one takes the frame itself, the others a copy.
    #[inline]
    fn emit(&mut self, ingress: PortIndex, mut frame: Frame, emit: Emit, relayed: bool) {
        let (targets, last) = match self.targets(ingress, &emit) {
            Ok(targets) => targets,
            Err(reason) => return self.discard(ingress, frame, reason, relayed),
        };
        self.umem.set_length(&mut frame, emit.length);
        self.copies(targets.without(last), &mut frame, emit.length);
        self.stage(last, frame, emit.length);
        self.count_forwarded(ingress, &emit, relayed);
    }

    /// Relays a sealed packet that is to be opened as well, so by copies only. Whether one left.
    fn relay_copies(&mut self, ingress: PortIndex, frame: &mut Frame, length: usize, mark: Mark) -> bool {
        let head: [u8; size_of::<Mark>()] = mark.emit();
        let result = self.pipeline.transit(mark.flow, self.umem.bytes(frame), length);
        let relayed = result.is_ok_and(|emit| match self.targets(ingress, &emit) {
            Ok((targets, _)) => {
                let copied = self.copies(targets, frame, emit.length);
                if copied {
                    self.count_forwarded(ingress, &emit, false);
                }
                copied
            }
            Err(_) => false,
        });
        self.umem.bytes(frame)[..head.len()].copy_from_slice(&head);
        relayed
    }

    fn count_forwarded(&mut self, ingress: PortIndex, emit: &Emit, relayed: bool) {
        let port = &mut self.stats.ports[ingress];
        port.forwarded += u64::from(!relayed);
        port.opened += u64::from(emit.action == Action::Opened);
        if let Some(flow) = self.stats.flows.get_mut(emit.flow as usize) {
            flow.add(emit.action, emit.length);
        }
    }

    /// The interfaces that can take a frame now, and the last of them; else why there is none.
    #[inline]
    fn targets(&mut self, ingress: PortIndex, emit: &Emit) -> Result<(PortSet, PortIndex), Reason> {
        let mut failure = Reason::NoEgress;
        let mut targets = PortSet::default();
        let mut last = None;
        let mut egress = emit.egress.without(ingress);
        while let Some(index) = egress.pop() {
            match self.admit(index, emit.length) {
                Ok(()) => {
                    targets.insert(index);
                    last = Some(index);
                }
                Err(reason) => {
                    self.stats.ports[index].unsent.add(reason);
                    failure = reason;
                }
            }
        }
        last.map(|last| (targets, last)).ok_or(failure)
    }

    /// Whether an interface can take a frame of this length now.
    #[inline]
    fn admit(&mut self, index: PortIndex, length: usize) -> Result<(), Reason> {
        let target = (self.frames / 2 / self.port_count.max(1)).min(RING_SIZE as usize);
        let port = self.ports[index].as_mut().ok_or(Reason::NoEgress)?;
        if !port.config.up || port.failed {
            return Err(Reason::NoEgress);
        }
        if length - ETHERNET_LEN > port.config.mtu {
            return Err(Reason::MtuExceeded);
        }
        if port.room == 0 && !port.tried {
            port.make_room(&mut self.free, target);
        }
        if port.room == 0 { Err(Reason::TxRingFull) } else { Ok(()) }
    }

    /// Stages a copy on each of `targets`; whether there was one.
    #[inline]
    fn copies(&mut self, mut targets: PortSet, original: &mut Frame, length: usize) -> bool {
        let mut copied = false;
        while let Some(index) = targets.pop() {
            let Some(mut copy) = self.free.pop() else {
                self.stats.ports[index].unsent.add(Reason::NoFrame);
                continue;
            };
            self.umem.bytes(&mut copy)[..length].copy_from_slice(&self.umem.bytes(original)[..length]);
            self.umem.set_length(&mut copy, length);
            self.stage(index, copy, length);
            copied = true;
        }
        copied
    }

    #[inline]
    fn stage(&mut self, index: PortIndex, mut frame: Frame, length: usize) {
        let port = self.ports[index].as_mut().expect("admitted just now");
        self.umem.bytes(&mut frame)[ETHERNET_SOURCE].copy_from_slice(&port.config.mac);
        port.staged.push(frame);
        port.room -= 1;
        let stats = &mut self.stats.ports[index];
        stats.sent += 1;
        stats.sent_bytes += length as u64;
    }

    #[cold]
    fn hold(&mut self, frame: Frame, waiting: Waiting, epoch: u16) {
        let Waiting { key_id, flow, port, relayed, .. } = waiting;
        if let Err((frame, reason)) = self.hold.push(frame, waiting, self.mono_ms) {
            self.discard(port, frame, reason, relayed);
        }
        let now = self.mono_ms;
        while self.reported.front().is_some_and(|(_, at)| at + REPORT_AGAIN_MS <= now) {
            self.reported.pop_front();
        }
        if self.reported.len() < REPORTED_LIMIT && !self.reported.iter().any(|(reported, _)| *reported == key_id) {
            self.reported.push_back((key_id, now));
            self.events.send(Event::MissingKey { key_id, flow, epoch });
        }
    }

    /// The map changed: keys that packets wait for may be there.
    #[cold]
    fn retry_held(&mut self) {
        for _ in 0..self.hold.len() {
            let Some(mut held) = self.hold.pop() else { return };
            match self.pipeline.process(Role::Untrusted, self.umem.bytes(&mut held.frame), held.length) {
                Ok(emit) => self.emit(held.port, held.frame, emit, held.relayed),
                Err(Stop::Drop(reason)) => self.discard(held.port, held.frame, reason, held.relayed),
                Err(Stop::Hold { .. }) => self.hold.push_back(held),
            }
        }
    }

    #[cold]
    fn expire_held(&mut self) {
        while let Some(held) = self.hold.pop_expired(self.mono_ms) {
            self.discard(held.port, held.frame, Reason::KeyTimeout, held.relayed);
        }
    }

    /// Sends what is staged, takes back what was sent, and gives the kernel frames to receive into.
    #[inline]
    fn send(&mut self) {
        // Half of the frames are for receiving, shared by the ports; most of the rest is for sending, shared as well, so
        // that an interface that does not keep up cannot take every frame.
        let target = (self.frames / 2 / self.port_count.max(1)).min(RING_SIZE as usize);
        for (index, port) in self.ports.iter_mut().enumerate() {
            let Some(port) = port else { continue };
            if port.failed {
                self.free.append(&mut port.staged);
                continue;
            }
            if let Err(error) = port.turn(&mut self.free, target) {
                tracing::warn!(worker = self.queue, port = index, %error, "the interface's socket failed");
                port.failed = true;
                self.events.send(Event::PortFailed(index, port.config.serial));
            }
        }
    }

    /// Says again which interfaces failed, in case it was not heard.
    fn report_failed(&self) {
        for (index, port) in self.ports.iter().enumerate() {
            if let Some(port) = port
                && port.failed
            {
                self.events.send(Event::PortFailed(index, port.config.serial));
            }
        }
    }

    fn sleep(&mut self) {
        let mut busy = !self.hold.is_empty();
        for port in self.ports.iter_mut().flatten() {
            busy |= !port.failed && port.socket.has_queued();
        }
        let sleep_ms = if busy { SHORT_SLEEP_MS } else { self.next_tick_ms.saturating_sub(self.mono_ms).max(1) };
        let mut fds = Vec::with_capacity(MAX_PORTS_SERVED + 1);
        fds.push(PollFd::new(&self.wake, PollFlags::IN));
        let mut sources = [usize::MAX; MAX_PORTS_SERVED + 1];
        for (index, port) in self.ports.iter().enumerate() {
            if let Some(port) = port
                && !port.failed
            {
                sources[fds.len()] = index;
                fds.push(PollFd::from_borrowed_fd(port.socket.as_fd(), PollFlags::IN));
            }
        }
        let timeout = Timespec { tv_sec: 0, tv_nsec: (sleep_ms * 1_000_000) as i64 };
        let _ = rustix::event::poll(&mut fds, Some(&timeout));
        let woken = fds[0].revents().contains(PollFlags::IN);
        let broken = PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL;
        let mut failed = PortSet::default();
        for (fd, index) in fds.iter().zip(sources).skip(1) {
            if fd.revents().intersects(broken) {
                failed.insert(index);
            }
        }
        drop(fds);
        if woken {
            let _ = rustix::io::read(&self.wake, &mut [0u8; 8]);
        }
        while let Some(index) = failed.pop() {
            if let Some(port) = &mut self.ports[index] {
                port.failed = true;
                self.events.send(Event::PortFailed(index, port.config.serial));
            }
        }
    }
}

impl Port {
    fn turn(&mut self, free: &mut Vec<Frame>, target: usize) -> std::io::Result<()> {
        if !self.staged.is_empty() {
            self.socket.transmit(&mut self.staged);
        }
        if self.socket.has_queued() {
            self.socket.flush()?;
        }
        self.socket.reclaim(free);
        // As many as for receiving, at most.
        self.room = self.socket.transmit_room().min(target.saturating_sub(self.socket.outstanding()));
        self.tried = false;
        if self.lent < target {
            self.lent += self.socket.fill(free, target - self.lent);
        }
        self.socket.wake_fill()
    }

    /// The ring is full: let the kernel take from it, once.
    #[cold]
    fn make_room(&mut self, free: &mut Vec<Frame>, target: usize) {
        self.tried = true;
        self.socket.transmit(&mut self.staged);
        // An error shows again, and is handled, at the end of the turn.
        let _ = self.socket.flush();
        self.socket.reclaim(free);
        let queued = self.staged.len();
        let room = self.socket.transmit_room().saturating_sub(queued);
        self.room = room.min(target.saturating_sub(self.socket.outstanding() + queued));
    }
}

/// Milliseconds of a clock.
pub fn clock_ms(clock: ClockId) -> u64 {
    let now = rustix::time::clock_gettime(clock);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}
