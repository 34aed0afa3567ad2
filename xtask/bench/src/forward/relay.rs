//! The relays that are compared, in labs with the same wires: source – a – sink, and with two gateways source – a – b – sink.

use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gemcast_lab::{Daemon, Datagram, Gateway, Group, Host, Lab, Mac, Options, Role, Seconds, Segment, Topology};

use super::generator;
use crate::error::{Error, Result};
use crate::machine::{self, CpuTime, Spent};

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Relay {
    /// Debian's smcroute: the kernel routes plaintext, a only.
    Smcroute,
    /// Plaintext through a's AF_XDP worker.
    Plain,
    /// Sealed by a.
    Sealed,
    /// Sealed by a, opened by b.
    SealedOpened,
}

impl Relay {
    pub(crate) const ALL: [Self; 4] = [Self::Smcroute, Self::Plain, Self::Sealed, Self::SealedOpened];

    /// Name in tables and in JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Smcroute => "smcroute",
            Self::Plain => "plain",
            Self::Sealed => "sealed",
            Self::SealedOpened => "sealed-opened",
        }
    }

    pub(crate) fn group(self) -> IpAddr {
        let group = match self {
            Self::Smcroute => "239.9.0.1",
            Self::Plain => PLAIN,
            Self::Sealed => SEALED,
            Self::SealedOpened => SEALED_OPENED,
        };
        group.parse().expect("a group address")
    }
}

const SINK: &str = "sink";
const PLAIN: &str = "239.9.0.2";
const SEALED: &str = "239.9.0.3";
const SEALED_OPENED: &str = "239.9.0.4";
/// From the generator's start until counting begins.
const RAMP: Duration = Duration::from_millis(200);

/// What one run gave.
#[derive(Clone, Copy)]
pub(crate) struct Rate {
    /// Frames offered by the generator per second.
    pub(crate) offered: f64,
    /// Frames that reached the sink per second.
    pub(crate) delivered: f64,
    /// CPU time per second of run.
    pub(crate) cpu: Spent,
    /// Of it, that of the data planes the frames went through; kernel routing has none, it runs in softirq.
    pub(crate) workers: f64,
}

/// The labs.
pub(crate) struct Bench {
    /// One gateway.
    pub(crate) one: Lab,
    /// Two of them.
    two: Lab,
    /// A router in place of the gateway.
    kernel: Lab,
    smcrouted: Child,
}

impl Bench {
    /// Raises them.
    pub(crate) fn up() -> Result<Self> {
        let groups = [Group::new(PLAIN).unprotected(), Group::new(SEALED)];
        let one = Lab::up(one_gateway(), Options::new("bench-one").groups(groups))?;
        let two = Lab::up(two_gateways(), Options::new("bench-two").groups([Group::new(SEALED_OPENED)]))?;
        let kernel = Lab::up(one_gateway(), Options::new("bench-kernel").without_daemons())?;
        let directory = kernel.state().directory.clone();
        let object = generator::compile(include_str!("sink.c"), "sink", &[], &directory)?.display().to_string();
        for lab in [&one, &two, &kernel] {
            let (host, interface) = sink(lab);
            host.run(&["ip", "link", "set", interface, "xdp", "obj", &object, "sec", "xdp"])?;
        }
        let smcrouted = smcroute(kernel.host("a"), kernel.host("source"), &directory)?;
        Ok(Self { one, two, kernel, smcrouted })
    }

    /// Measures one relay for a while with one payload length.
    pub(crate) fn run(&self, relay: Relay, payload_len: usize, time: Duration, directory: &Path) -> Result<Rate> {
        let lab = match relay {
            Relay::Smcroute => &self.kernel,
            Relay::Plain | Relay::Sealed => &self.one,
            Relay::SealedOpened => &self.two,
        };
        let sink = sink(lab);
        let source = lab.host("source");
        let address = source.address(relay.group());
        let datagram =
            Datagram::new(Mac([2, 0, 0, 0, 0, 1]), address, relay.group(), super::PORT, vec![0x47; payload_len]);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let generator = scope.spawn(|| generator::flood(source, &datagram, directory, &stop));
            let start = Instant::now();
            let rate = (|| {
                std::thread::sleep(RAMP);
                let (from, before, cpu, workers) =
                    (Instant::now(), received(sink)?, CpuTime::now(), self.workers_time(relay));
                std::thread::sleep(time);
                let (after, workers) = (received(sink)?, self.workers_time(relay) - workers);
                let (spent, seconds) = (CpuTime::now().since(&cpu, &self.processes()), from.elapsed().as_secs_f64());
                let cpu = Spent { own: spent.own / seconds, foreign: spent.foreign / seconds };
                let delivered = (after - before) as f64 / seconds;
                Ok(Rate { offered: 0.0, delivered, cpu, workers: workers / seconds })
            })();
            stop.store(true, Ordering::Relaxed);
            let offered = generator.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            let seconds = start.elapsed().as_secs_f64();
            rate.map(|rate| Rate { offered: offered as f64 / seconds, ..rate })
        })
    }

    /// CPU time so far of the data planes on a relay's way, in seconds.
    fn workers_time(&self, relay: Relay) -> f64 {
        let gateways = match relay {
            Relay::Smcroute => Vec::new(),
            Relay::Plain | Relay::Sealed => self.one.gateways(),
            Relay::SealedOpened => self.two.gateways(),
        };
        let processes = gateways.iter().filter_map(|gateway| gateway.process(Daemon::DataPlane));
        processes.map(|process| machine::cpu_of(process.pid as u32)).sum()
    }

    fn gateways(&self) -> impl Iterator<Item = Gateway<'_>> {
        self.one.gateways().into_iter().chain(self.two.gateways())
    }

    /// Processes of this benchmark.
    fn processes(&self) -> Vec<u32> {
        let daemons = self
            .gateways()
            .flat_map(|gateway| Daemon::BOTH.into_iter().filter_map(move |daemon| Some(gateway.process(daemon)?.pid)));
        daemons.map(|pid| pid as u32).chain([std::process::id(), self.smcrouted.id()]).collect()
    }

    /// Whether every frame that reached a gateway is in exactly one counter, once traffic has ceased.
    pub(crate) fn accounted(&self) -> Result<Vec<(String, u64, u64)>> {
        let settled = || {
            let all = self.gateways().map(|gateway| gateway.interfaces());
            let all: Option<Vec<_>> = all.map(std::result::Result::ok).collect();
            all.is_some_and(|all| all.iter().flatten().all(|port| port.received == port.accounted()))
        };
        // A difference that stays is reported below.
        let _ = self.one.eventually(5.s(), "the counters to agree", settled);
        let mut ports = Vec::new();
        for (lab, count) in [(&self.one, "one"), (&self.two, "two")] {
            for gateway in lab.gateways() {
                for port in gateway.interfaces()? {
                    let name = format!("{count}/{}/{}", gateway.host().name(), port.name);
                    ports.push((name, port.received, port.accounted()));
                }
            }
        }
        Ok(ports)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.smcrouted.kill();
        let _ = self.smcrouted.wait();
    }
}

fn one_gateway() -> Topology {
    let segments = vec![
        Segment { name: "lan-a", role: Role::Trusted, hosts: vec!["a", "source"] },
        Segment { name: "wan", role: Role::Untrusted, hosts: vec!["a", SINK] },
    ];
    Topology { name: "bench-one", segments }
}

fn two_gateways() -> Topology {
    let segments = vec![
        Segment { name: "lan-a", role: Role::Trusted, hosts: vec!["a", "source"] },
        Segment { name: "wan", role: Role::Untrusted, hosts: vec!["a", "b"] },
        Segment { name: "lan-b", role: Role::Trusted, hosts: vec!["b", SINK] },
    ];
    Topology { name: "bench-two", segments }
}

/// Where frames are counted, and dropped in XDP.
pub(crate) fn sink(lab: &Lab) -> (Host<'_>, &'static str) {
    (lab.host(SINK), "eth0")
}

/// Routes in the kernel of `router`, as Debian's daemon sets it up.
fn smcroute(router: Host<'_>, source: Host<'_>, directory: &Path) -> Result<Child> {
    let (group, config) = (Relay::Smcroute.group(), directory.join("smcroute.conf"));
    let route = format!("mroute from lan0 source {} group {group} to wan0\n", source.address(group));
    std::fs::write(&config, route).map_err(|error| Error::Io(config.display().to_string(), error))?;
    let mut command = router.command("smcrouted");
    command.args(["-n", "-i", "gemcast-bench", "-f"]).arg(&config).arg("-P").arg(directory.join("smcroute.pid"));
    command.arg("-u").arg(directory.join("smcroute.sock"));
    let child = command.stdin(Stdio::null()).spawn();
    child.map_err(|error| Error::Io("starting smcrouted".into(), error))
}

/// Frames an interface has received.
pub(crate) fn received((host, interface): (Host<'_>, &str)) -> Result<u64> {
    let path = format!("/proc/{}/net/dev", host.namespace().holder.pid);
    let text = std::fs::read_to_string(&path).map_err(|error| Error::Io(path.clone(), error))?;
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'));
    // Bytes, then packets.
    let packets = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    packets.ok_or_else(|| Error::Io(path, std::io::Error::other(format!("no counters of {interface}"))))
}
