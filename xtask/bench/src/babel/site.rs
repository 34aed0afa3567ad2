//! The router under test on four links, a neighbour at the other end of each.

use std::fs;
use std::time::{Duration, Instant};

use gemcast_control::keyfile;
use gemcast_engine::secret::Secret;
use gemcast_lab::{Gateway, Lab, Options, Role, Segment, Topology};

use super::router::{Make, Router, bootstrap_key, write};
use super::speaker::{Domain, EPOCH, Speaker, group};
use super::{Load, NEIGHBOURS, UPDATE_INTERVAL};
use crate::error::{Error, Result};
use crate::machine;

const LINKS: [&str; NEIGHBOURS] = ["wan-1", "wan-2", "wan-3", "wan-4"];
const HOSTS: [&str; NEIGHBOURS] = ["n1", "n2", "n3", "n4"];
/// How often progress is looked at: how exactly times are seen.
const LOOK: Duration = Duration::from_millis(5);
/// A transfer that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// The lab, with nothing running.
pub(crate) struct Site {
    lab: Lab,
    gak: Secret<32>,
    /// Prefixes that the kernel routes without a routing protocol.
    kernel_prefixes: u32,
    config: String,
}

/// What one turn of one router gave. Times begin with its process.
#[derive(Clone, Copy)]
pub(crate) struct Turn {
    /// To the first route in the kernel's table.
    pub(crate) first_route_s: f64,
    /// To the last one.
    pub(crate) last_route_s: f64,
    /// Until it had every object.
    pub(crate) objects_s: Option<f64>,
    /// CPU time from its start to then.
    pub(crate) transfer_cpu_s: f64,
    /// CPU time of one update interval in which nothing changed.
    pub(crate) interval_cpu_s: f64,
    /// Packets it sent in that time, all links together.
    pub(crate) interval_packets: f64,
    pub(crate) resident_kib: f64,
}

impl Site {
    pub(crate) fn up() -> Result<Self> {
        let lan = Segment { name: "lan", role: Role::Trusted, hosts: vec!["dut", "host"] };
        let wan = |(name, host)| Segment { name, role: Role::Untrusted, hosts: vec!["dut", host] };
        let segments = [lan].into_iter().chain(LINKS.into_iter().zip(HOSTS).map(wan)).collect();
        let resilience = format!("[resilience]\nupdate_interval = \"{}s\"", UPDATE_INTERVAL.as_secs());
        let options = Options::new("bench-babel").groups([]).config(&resilience).without_daemons();
        let lab = Lab::up(Topology { name: "star", segments }, options)?;
        lab.make_identities()?;
        let io = |error| Error::Io("the configuration of the router under test".into(), error);
        let config = fs::read_to_string(lab.gateway("dut").config_file()).map_err(io)?;
        let gak = keyfile::generate_key(&lab.gateway("dut").directory().join("etc/gak.key"));
        let gak = gak.map_err(|error| io(std::io::Error::other(error)))?;
        let kernel_prefixes = prefixes(lab.gateway("dut"))?;
        Ok(Self { lab, gak, kernel_prefixes, config })
    }

    /// Has gemcastd be a member of this many groups from its next start.
    pub(crate) fn configure(&self, groups: u32) -> Result<()> {
        let gateway = self.lab.gateway("dut");
        let gak = gateway.directory().join("etc/gak.key");
        let group = |index| {
            format!("\n[[group]]\naddress = {:?}\ngak = [{{ epoch = {}, file = {gak:?} }}]\n", group(index), EPOCH.0)
        };
        write(&gateway.config_file(), &(self.config.clone() + &(0..groups).map(group).collect::<String>()))
    }

    /// Starts the neighbours, and has them get each other's objects through a first gemcastd.
    pub(crate) fn neighbours(&self, load: Load) -> Result<Vec<Speaker>> {
        let key = keyfile::read_key(&bootstrap_key(self.lab.gateway("dut"))).map_err(std::io::Error::other);
        let bootstrap_key = key.map_err(|error| Error::Io("reading the bootstrap key".into(), error))?;
        let domain = Domain { bootstrap_key, gak: self.gak.duplicate(), load };
        let hosts = (1..).zip(HOSTS).map(|(number, name)| Speaker::start(self.lab.host(name), number, &domain));
        let neighbours: Vec<_> = hosts.collect::<Result<_>>()?;
        if load.groups > 0 {
            let _router = Router::start(Make::Gemcastd, self.lab.gateway("dut"))?;
            let others = u64::from(load.objects() - load.groups);
            self.lab.eventually(PATIENCE, "neighbours to have each other's objects", || {
                neighbours.iter().all(|neighbour| neighbour.accepted() >= others)
            })?;
        }
        Ok(neighbours)
    }

    /// One life of a router: it starts with nothing, takes everything over, then nothing changes.
    pub(crate) fn turn(&self, make: Make, load: Load, neighbours: &[Speaker], intervals: u32) -> Result<Turn> {
        let gateway = self.lab.gateway("dut");
        let start = Instant::now();
        let router = Router::start(make, gateway)?;
        let (mut first_route, mut last_route, mut objects, mut transfer_cpu_s) = (None, None, None, None);
        let wants_objects = load.groups > 0;
        while transfer_cpu_s.is_none() {
            std::thread::sleep(LOOK);
            let (elapsed, routes) = (start.elapsed(), prefixes(gateway)?.saturating_sub(self.kernel_prefixes));
            if routes > 0 {
                first_route.get_or_insert(elapsed);
            }
            if routes >= load.routes {
                last_route.get_or_insert(elapsed);
            }
            if wants_objects && accepted(gateway) >= u64::from(load.objects()) {
                objects.get_or_insert(elapsed);
            }
            if last_route.is_some() && (!wants_objects || objects.is_some()) {
                transfer_cpu_s.get_or_insert_with(|| machine::running_time_of(router.pid));
            }
            if elapsed > PATIENCE {
                return Err(Error::Late("the transfer of the whole table", PATIENCE.as_secs()));
            }
        }
        // Whatever is repeated after a change has been by then.
        std::thread::sleep(UPDATE_INTERVAL * 3 / 2);
        let received = || neighbours.iter().map(Speaker::received).sum::<u64>();
        let (cpu_before, packets_before) = (machine::running_time_of(router.pid), received());
        std::thread::sleep(UPDATE_INTERVAL * intervals);
        let per_interval = |total: f64| total / f64::from(intervals);
        let seconds = |time: Option<Duration>| time.unwrap_or_default().as_secs_f64();
        Ok(Turn {
            first_route_s: seconds(first_route),
            last_route_s: seconds(last_route),
            objects_s: objects.map(|time| time.as_secs_f64()),
            transfer_cpu_s: transfer_cpu_s.unwrap_or_default(),
            interval_cpu_s: per_interval(machine::running_time_of(router.pid) - cpu_before),
            interval_packets: per_interval((received() - packets_before) as f64),
            resident_kib: machine::resident_kib(router.pid) as f64,
        })
    }
}

/// Objects that a gateway's gemcastd accepted; none while it does not answer yet.
fn accepted(gateway: Gateway<'_>) -> u64 {
    // The answer is there even though the status is degraded, without a data plane.
    let status = gateway.gemctl(&["status"]).unwrap_or_default();
    status["control"]["counters"]["objects_accepted"].as_u64().unwrap_or(0)
}

/// IPv4 prefixes that a gateway's kernel routes. The statistics of its table are quicker read than the table.
fn prefixes(gateway: Gateway<'_>) -> Result<u32> {
    let path = format!("/proc/{}/net/fib_triestat", gateway.host().namespace().holder.pid);
    let text = fs::read_to_string(&path).map_err(|error| Error::Io(path, error))?;
    let count = text.lines().find_map(|line| line.trim().strip_prefix("Prefixes:")?.trim().parse().ok());
    Ok(count.unwrap_or(0))
}
