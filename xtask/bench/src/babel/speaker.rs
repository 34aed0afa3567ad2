//! A neighbour: the control plane's engine on a UDP socket in a host's namespace, without a kernel to route for.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gemcast_control::babel::BabelSocket;
use gemcast_control::clock;
use gemcast_engine::Engine;
use gemcast_engine::config::{Babel, Config, GroupConfig, Membership, Node, Protection};
use gemcast_engine::input::{Input, Interface, Originated};
use gemcast_engine::output::Output;
use gemcast_engine::secret::Secret;
use gemcast_lab::Host;
use gemcast_proto::id::{Epoch, Group, Suite};
use gemcast_proto::wire::babel::Prefix;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Load, UPDATE_INTERVAL};
use crate::error::{Error, Result};

/// Babel's own UDP port.
const PORT: u16 = 6696;
/// GAK epoch of every group.
pub(crate) const EPOCH: Epoch = Epoch(1);
/// How soon a speaker notices that it is to end.
const ATTENTION: Duration = Duration::from_millis(20);
/// Duplicate address detection takes a second or two.
const ADDRESS_WAIT: Duration = Duration::from_secs(10);

/// What speakers of one domain share.
pub(crate) struct Domain {
    pub(crate) bootstrap_key: Secret<32>,
    pub(crate) gak: Secret<32>,
    pub(crate) load: Load,
}

/// One of the groups.
pub(crate) fn group(index: u32) -> String {
    let [_, _, high, low] = index.to_be_bytes();
    format!("239.10.{high}.{low}")
}

/// One of the routes.
fn prefix(index: u32) -> Prefix {
    let [_, _, high, low] = index.to_be_bytes();
    Prefix::new(Ipv4Addr::new(10, 128 + high, low, 0).into(), 24).expect("a network address")
}

/// Configuration of a gateway that all speakers differ from in name and keys only.
pub(crate) fn config(number: u8, domain: &Domain) -> Config {
    let groups = (0..domain.load.groups).map(|index| GroupConfig {
        group: group(index).parse::<Group>().expect("a group address"),
        protection: Protection::Sealed { suite: Suite::Aes256Gcm, gaks: vec![(EPOCH, domain.gak.duplicate())] },
        send: true,
        receive: true,
    });
    Config {
        node: Node {
            name: format!("n{number}"),
            signing_seed: Secret::new([number; 32]),
            agreement_key: Secret::new([number; 32]),
        },
        bootstrap_keys: vec![domain.bootstrap_key.duplicate()],
        groups: groups.collect(),
        administrators: vec![],
        membership: Membership::Open,
        clock_floor: gemcast_engine::time::UnixMillis(0),
        hello_interval: Duration::from_secs(1),
        update_interval: UPDATE_INTERVAL,
        detection: Default::default(),
        policy: Default::default(),
        sek_lifetime: Duration::from_secs(3600),
        announce_lead: Duration::from_secs(30),
        overlap: Duration::from_secs(10),
        babel: Babel { port: PORT, ..Babel::default() },
    }
}

/// A running speaker. It ends when it is dropped.
pub(crate) struct Speaker {
    stop: Arc<AtomicBool>,
    shown: Arc<Shown>,
    thread: Option<JoinHandle<()>>,
}

/// What a speaker tells about itself.
#[derive(Default)]
struct Shown {
    /// Objects of others that it accepted.
    accepted: AtomicU64,
    /// Babel packets it took in.
    received: AtomicU64,
}

impl Speaker {
    /// Starts in a host, on its first interface.
    pub(crate) fn start(host: Host<'_>, number: u8, domain: &Domain) -> Result<Self> {
        let info = interface(host)?;
        let wrong = |error| Error::Io("opening a neighbour's Babel socket".into(), error);
        let socket = host.namespace().enter(|| {
            let mut socket = BabelSocket::bind(PORT)?;
            socket.join(info.ifindex).map(|()| socket)
        })?;
        let socket = socket.map_err(wrong)?;
        let config = config(number, domain);
        let (stop, shown) = (Arc::default(), Arc::new(Shown::default()));
        let routes = domain.load.routes;
        let theirs = (Arc::clone(&stop), Arc::clone(&shown));
        let thread = std::thread::spawn(move || speak(socket, config, info, routes, &theirs.0, &theirs.1));
        Ok(Self { stop, shown, thread: Some(thread) })
    }

    /// Objects of others that it has accepted so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.shown.accepted.load(Ordering::Relaxed)
    }

    /// Babel packets it has taken in so far.
    pub(crate) fn received(&self) -> u64 {
        self.shown.received.load(Ordering::Relaxed)
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    }
}

fn speak(mut socket: BabelSocket, config: Config, info: Interface, routes: u32, stop: &AtomicBool, shown: &Shown) {
    let seed = clock::seed().expect("the operating system has random numbers");
    let mut engine = Engine::new(config, *seed, clock::now());
    engine.handle(clock::now(), Input::InterfaceUp(info));
    // A data plane that takes every key and has no packets.
    engine.handle(clock::now(), Input::DataPlaneUp { incarnation: 1, keys: Vec::new() });
    let own = (0..routes).map(|index| Originated { prefix: prefix(index), source: None, metric: 0 });
    engine.handle(clock::now(), Input::Originate(own.collect()));
    while !stop.load(Ordering::Relaxed) {
        while let Ok(Some(received)) = socket.receive() {
            engine.handle(clock::now(), Input::Packet(socket.packet(&received)));
            send(&mut engine, &socket);
        }
        let now = clock::now();
        if engine.next_deadline().is_some_and(|deadline| deadline <= now.mono) {
            engine.handle_timeout(now);
        }
        send(&mut engine, &socket);
        shown.accepted.store(engine.counters.objects_accepted, Ordering::Relaxed);
        shown.received.store(engine.counters.packets_received, Ordering::Relaxed);
        let wait = engine.next_deadline().map_or(ATTENTION, |deadline| deadline - clock::now().mono).min(ATTENTION);
        let wait = Timespec::try_from(wait).expect("20 ms at most");
        // However it ends, what is there is looked at next.
        let mut sockets = socket.as_fds().map(|socket| PollFd::from_borrowed_fd(socket, PollFlags::IN));
        let _ = poll(&mut sockets, Some(&wait));
    }
}

/// Only packets leave; keys, routes and events have nobody who wants them. A packet that cannot be sent is as good as
/// lost on the wire.
fn send(engine: &mut Engine, socket: &BabelSocket) {
    while let Some(output) = engine.poll_output() {
        if let Output::Transmit(transmit) = output {
            let _ = socket.send(&transmit);
        }
    }
}

/// A host's first interface, once its link-local address may be used.
fn interface(host: Host<'_>) -> Result<Interface> {
    let place = host.interface();
    let start = Instant::now();
    while start.elapsed() < ADDRESS_WAIT {
        if let Some((ifindex, link_local)) = link_local(host, &place.name) {
            let (name, ipv4) = (place.name.clone(), Some(place.ipv4));
            return Ok(Interface {
                ifindex,
                name,
                link_local,
                ipv4,
                addresses: vec![],
                mtu: 1500,
                wireless: false,
                settings: Default::default(),
            });
        }
        std::thread::sleep(ATTENTION);
    }
    Err(Error::Late("a link-local address", ADDRESS_WAIT.as_secs()))
}

/// Index of an interface and its link-local address, as /proc/net/if_inet6 shows them: address, index, prefix length,
/// scope and flags in hexadecimal, name.
fn link_local(host: Host<'_>, name: &str) -> Option<(u32, Ipv6Addr)> {
    const SCOPE_LINK: u32 = 0x20;
    const TENTATIVE: u32 = 0x40;
    let text = std::fs::read_to_string(format!("/proc/{}/net/if_inet6", host.namespace().holder.pid)).ok()?;
    text.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let number = |place: usize| u32::from_str_radix(fields.get(place)?, 16).ok();
        let usable = number(3)? == SCOPE_LINK && number(4)? & TENTATIVE == 0 && *fields.get(5)? == name;
        usable.then_some((number(1)?, Ipv6Addr::from(u128::from_str_radix(fields[0], 16).ok()?)))
    })
}
