//! The relays that are compared, each in a lab of its own with the same wires: source – a – b – receiver.

use std::net::IpAddr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gemcast_lab::{Daemon, Datagram, Group, Host, Lab, Mac, Options, Role, Seconds, Segment, Topology};

use super::generator;
use super::machine::{self, CpuTime, Spent};
use crate::error::{Error, Result};

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Relay {
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
    pub(super) const ALL: [Self; 4] = [Self::Smcroute, Self::Plain, Self::Sealed, Self::SealedOpened];

    /// Name in tables and in JSON.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Smcroute => "smcroute",
            Self::Plain => "plain",
            Self::Sealed => "sealed",
            Self::SealedOpened => "sealed-opened",
        }
    }

    pub(super) fn group(self) -> IpAddr {
        let group = match self {
            Self::Smcroute => "239.9.0.1",
            Self::Plain => PLAIN,
            Self::Sealed => SEALED,
            Self::SealedOpened => SEALED_OPENED,
        };
        group.parse().expect("a group address")
    }
}

const PLAIN: &str = "239.9.0.2";
const SEALED: &str = "239.9.0.3";
const SEALED_OPENED: &str = "239.9.0.4";
/// From the generator's start until counting begins.
const RAMP: Duration = Duration::from_millis(200);

/// What one run gave.
#[derive(Clone, Copy)]
pub(super) struct Rate {
    /// Frames offered by the generator per second.
    pub(super) offered: f64,
    /// Frames that reached the sink per second.
    pub(super) delivered: f64,
    /// CPU time per second of run.
    pub(super) cpu: Spent,
    /// Of it, that of the data planes the frames went through; kernel routing has none, it runs in softirq.
    pub(super) workers: f64,
}

/// Both labs.
pub(super) struct Bench {
    pub(super) gateways: Lab,
    kernel: Lab,
    smcrouted: Child,
}

impl Bench {
    /// Raises them.
    pub(super) fn up() -> Result<Self> {
        let own = |address| Group::new(address).members(&["a"]);
        let groups = [own(PLAIN).unprotected(), own(SEALED), Group::new(SEALED_OPENED)];
        let gateways = Lab::up(wires(), Options::new("bench").groups(groups))?;
        let kernel = Lab::up(wires(), Options::new("bench-kernel").without_daemons())?;
        let directory = kernel.state().directory.clone();
        let sink = generator::compile(include_str!("sink.c"), "sink", &[], &directory)?;
        for (lab, host, interface) in [(&kernel, "b", "wan0"), (&gateways, "receiver", "eth0")] {
            let object = sink.display().to_string();
            lab.host(host).run(&["ip", "link", "set", interface, "xdp", "obj", &object, "sec", "xdp"])?;
        }
        let smcrouted = smcroute(kernel.host("a"), kernel.host("source"), &directory)?;
        Ok(Self { gateways, kernel, smcrouted })
    }

    /// Measures one relay for a while with one payload length.
    pub(super) fn run(&self, relay: Relay, payload_len: usize, time: Duration, directory: &Path) -> Result<Rate> {
        let lab = if relay == Relay::Smcroute { &self.kernel } else { &self.gateways };
        let sink = match relay {
            Relay::SealedOpened => (lab.host("receiver"), "eth0"),
            _ => (lab.host("b"), "wan0"),
        };
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
        let path: &[&str] = match relay {
            Relay::Smcroute => &[],
            Relay::Plain | Relay::Sealed => &["a"],
            Relay::SealedOpened => &["a", "b"],
        };
        let process = |name: &&str| self.gateways.gateway(name).process(Daemon::DataPlane);
        path.iter().filter_map(process).map(|process| machine::cpu_of(process.pid as u32)).sum()
    }

    /// Processes of this benchmark.
    fn processes(&self) -> Vec<u32> {
        let daemons =
            self.gateways.gateways().into_iter().flat_map(|gateway| {
                Daemon::BOTH.into_iter().filter_map(move |daemon| Some(gateway.process(daemon)?.pid))
            });
        daemons.map(|pid| pid as u32).chain([std::process::id(), self.smcrouted.id()]).collect()
    }

    /// Whether every frame that reached a gateway is in exactly one counter, once traffic has ceased.
    pub(super) fn accounted(&self) -> Result<Vec<(String, u64, u64)>> {
        let settled = || {
            let all = self.gateways.gateways().into_iter().map(|gateway| gateway.interfaces());
            let all: Option<Vec<_>> = all.map(std::result::Result::ok).collect();
            all.is_some_and(|all| all.iter().flatten().all(|port| port.received == port.accounted()))
        };
        // A difference that stays is reported below.
        let _ = self.gateways.eventually(5.s(), "the counters to agree", settled);
        let mut ports = Vec::new();
        for gateway in self.gateways.gateways() {
            for port in gateway.interfaces()? {
                let name = format!("{}/{}", gateway.host().name(), port.name);
                ports.push((name, port.received, port.accounted()));
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

fn wires() -> Topology {
    let segments = vec![
        Segment { name: "lan-a", role: Role::Trusted, hosts: vec!["a", "source"] },
        Segment { name: "wan", role: Role::Untrusted, hosts: vec!["a", "b"] },
        Segment { name: "lan-b", role: Role::Trusted, hosts: vec!["b", "receiver"] },
    ];
    Topology { name: "bench", segments }
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
pub(super) fn received((host, interface): (Host<'_>, &str)) -> Result<u64> {
    let path = format!("/proc/{}/net/dev", host.namespace().holder.pid);
    let text = std::fs::read_to_string(&path).map_err(|error| Error::Io(path.clone(), error))?;
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'));
    // Bytes, then packets.
    let packets = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    packets.ok_or_else(|| Error::Io(path, std::io::Error::other(format!("no counters of {interface}"))))
}
