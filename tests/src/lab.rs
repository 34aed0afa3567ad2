//! The lab itself: raised, found again, waited in, and removed.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::config::{self, Group};
use crate::error::{Error, Result};
use crate::fault::{Request, WIRE, ask};
use crate::gateway::{Daemon, Gateway, POLL};
use crate::host::Host;
use crate::namespace::{self, Namespace};
use crate::process::{self, ProcessId};
use crate::state::{HostKind, HostState, InterfaceState, ROOT, State};
use crate::topology::{OBSERVER, Topology};
use crate::wiring::{self, SWITCH};

/// How long the daemons may take until they serve and have all keys.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// Programs the lab is built with.
const TOOLS: [&str; 6] = ["ip", "tc", "ethtool", "nsenter", "unshare", "setsid"];

/// How to raise a lab.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tells labs on one machine apart.
    pub instance: String,
    /// Groups the gateways are configured for.
    pub groups: Vec<Group>,
    /// Queues of every interface.
    pub queues: u32,
    /// MTU of trusted segments.
    pub lan_mtu: u32,
    /// MTU of untrusted segments.
    pub wan_mtu: u32,
    /// Whether bridges deliver a group only to the ports that joined it.
    pub snooping: bool,
    /// Segments whose links can be made to lose, delay and bend frames; a process of the lab carries their frames.
    pub faulty: Vec<String>,
    /// Whether a gateway's state directory is a file system of its own of 1 MiB, which can be filled.
    pub small_state: bool,
    /// Whether to start the daemons and wait until they serve.
    pub daemons: bool,
    /// `RUST_LOG` of the daemons.
    pub log: String,
    /// TOML appended to `[node]` of every gateway's configuration.
    pub node: String,
    /// TOML appended to every gateway's configuration.
    pub config: String,
    /// TOML appended to one gateway's configuration.
    pub gateway_config: BTreeMap<String, String>,
    /// TOML appended to the `[[interface]]` of a gateway, by the names of both.
    pub interface_config: BTreeMap<(String, String), String>,
}

impl Options {
    /// Default options: one sealed group of each family, one queue, the daemons running.
    pub fn new(instance: &str) -> Self {
        Self {
            instance: instance.into(),
            groups: vec![Group::new("239.1.1.1"), Group::new("ff3e::1:1")],
            queues: 1,
            lan_mtu: 1500,
            wan_mtu: 1500,
            snooping: true,
            faulty: Vec::new(),
            small_state: false,
            daemons: true,
            log: "info".into(),
            node: String::new(),
            config: String::new(),
            gateway_config: BTreeMap::new(),
            interface_config: BTreeMap::new(),
        }
    }

    /// These groups instead of the default ones.
    #[must_use]
    pub fn groups(mut self, groups: impl IntoIterator<Item = Group>) -> Self {
        self.groups = groups.into_iter().collect();
        self
    }

    /// Appends TOML to `[node]` of every gateway's configuration.
    #[must_use]
    pub fn node(mut self, toml: &str) -> Self {
        self.node.push_str(toml);
        self.node.push('\n');
        self
    }

    /// Appends TOML to every gateway's configuration.
    #[must_use]
    pub fn config(mut self, toml: &str) -> Self {
        self.config.push_str(toml);
        self.config.push('\n');
        self
    }

    /// Appends TOML to one gateway's configuration.
    #[must_use]
    pub fn gateway_config(mut self, gateway: &str, toml: &str) -> Self {
        self.gateway_config.entry(gateway.into()).or_default().push_str(toml);
        self
    }

    /// Appends TOML to one `[[interface]]` of one gateway.
    #[must_use]
    pub fn interface_config(mut self, gateway: &str, interface: &str, toml: &str) -> Self {
        self.interface_config.entry((gateway.into(), interface.into())).or_default().push_str(toml);
        self
    }

    /// Bridges flood every group to every port.
    #[must_use]
    pub fn without_snooping(mut self) -> Self {
        self.snooping = false;
        self
    }

    /// The links of this segment can be made to lose, delay and bend frames.
    #[must_use]
    pub fn faulty(mut self, segment: &str) -> Self {
        self.faulty.push(segment.into());
        self
    }

    /// Each gateway's state directory is a file system of its own, which can be filled.
    #[must_use]
    pub fn small_state(mut self) -> Self {
        self.small_state = true;
        self
    }

    /// Gateways are configured, but nothing runs in them.
    #[must_use]
    pub fn without_daemons(mut self) -> Self {
        self.daemons = false;
        self
    }
}

/// The directory with the product's binaries.
#[derive(Clone, Debug)]
pub struct BinaryDir(PathBuf);

impl BinaryDir {
    /// `GEMCAST_BIN_DIR`, or else the directory cargo put the running program in (or in whose `deps` it is).
    pub fn find() -> Self {
        if let Some(dir) = env::var_os("GEMCAST_BIN_DIR") {
            return Self(dir.into());
        }
        let own = env::current_exe().unwrap_or_default();
        let dir = own.parent().unwrap_or(Path::new("."));
        Self(if dir.ends_with("deps") { dir.parent().unwrap_or(dir).into() } else { dir.into() })
    }

    /// A binary, which must exist.
    pub fn path(&self, binary: &'static str) -> Result<PathBuf> {
        let path = self.0.join(binary);
        if path.exists() { Ok(path) } else { Err(Error::NoBinary { binary, looked_in: self.0.clone() }) }
    }
}

/// A lab that is up. Dropping it removes it, unless it is kept.
pub struct Lab {
    state: State,
    binaries: BinaryDir,
    log: String,
    keep: bool,
}

impl Lab {
    /// Raises a lab, and waits until its gateways serve and have each other's keys.
    pub fn up(topology: Topology, options: Options) -> Result<Self> {
        check_machine()?;
        check_segments(&topology, &options)?;
        remove_abandoned()?;
        let directory = claim_directory(&options.instance)?;
        let state = State {
            prefix: "gemcast-lab".into(),
            instance: options.instance.clone(),
            topology: topology.name.into(),
            directory,
            owner: ProcessId::of(std::process::id()).ok(),
            groups: options.groups.clone(),
            snooping: options.snooping,
            faulty: options.faulty.clone(),
            hosts: Vec::new(),
        };
        // From here on, an early return drops the lab and so removes what there is of it.
        let mut lab = Self { state, binaries: BinaryDir::find(), log: options.log.clone(), keep: false };
        lab.state.save()?;
        lab.make_hosts(&topology, &options)?;
        let namespaces = lab.state.hosts.iter().map(|host| (host.name.clone(), host.namespace.clone())).collect();
        wiring::wire(&topology, &options, &namespaces)?;
        lab.start_wires(&topology)?;
        lab.configure(&topology, &options)?;
        if options.daemons {
            lab.make_identities()?;
            lab.start()?;
            lab.wait_converged(READY_TIMEOUT).inspect_err(|_| lab.show_logs())?;
        }
        Ok(lab)
    }

    /// The lab of this instance, which is up. It is kept when the value is dropped.
    pub fn attach(instance: &str) -> Result<Self> {
        check_name(instance)?;
        let state = State::load(instance)?;
        Ok(Self { state, binaries: BinaryDir::find(), log: "info".into(), keep: true })
    }

    /// Leaves the lab up when the value is dropped.
    pub fn keep(&mut self) -> Result<()> {
        self.keep = true;
        self.state.owner = None;
        self.state.save()
    }

    /// Removes the lab of this instance, whole or half made. Answers whether there was one.
    pub fn down(instance: &str) -> Result<bool> {
        check_name(instance)?;
        let directory = State::directory(instance);
        if !directory.exists() {
            return Ok(false);
        }
        // Everything the lab started carries its mark, so a crash half-way through `up` leaves nothing behind.
        let mark = namespace::mark(&directory);
        loop {
            let processes = process::marked(&mark);
            if processes.is_empty() {
                break;
            }
            for process in &processes {
                process.signal(Signal::KILL).map_err(Error::io("ending a process of the lab"))?;
            }
            for process in processes {
                if !process.wait_exit(Duration::from_secs(10)).map_err(Error::io("waiting for a process to end"))? {
                    let what = format!("process {} does not end", process.pid);
                    return Err(Error::Timeout { what, waited: Duration::from_secs(10) });
                }
            }
        }
        // Namespaces, and with them interfaces, XDP programs and mounts, went with their last process.
        fs::remove_dir_all(&directory).map_err(Error::file(&directory))?;
        Ok(true)
    }

    /// Instances that are up, or that a crash left behind.
    pub fn instances() -> Vec<String> {
        State::instances()
    }

    /// What the lab consists of.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Where the daemons are taken from.
    pub fn binaries(&self) -> &BinaryDir {
        &self.binaries
    }

    pub(crate) fn log_filter(&self) -> &str {
        &self.log
    }

    /// A host. Panics when the topology has none of that name; [`Lab::find_host`] does not.
    pub fn host(&self, name: &str) -> Host<'_> {
        self.find_host(name).unwrap_or_else(|error| panic!("{error}"))
    }

    /// A host, if the topology has it.
    pub fn find_host(&self, name: &str) -> Result<Host<'_>> {
        self.state.hosts.iter().find(|host| host.name == name).map(Host::new).ok_or_else(|| Error::NoHost {
            name: name.into(),
            known: self.state.hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }

    /// A gateway. Panics when the topology has none of that name.
    pub fn gateway(&self, name: &str) -> Gateway<'_> {
        assert!(self.gateway_names().contains(&name), "no gateway `{name}` in this lab");
        Gateway::new(self, self.host(name))
    }

    /// The names of all gateways.
    pub fn gateway_names(&self) -> Vec<&str> {
        let gateways = self.state.hosts.iter().filter(|host| host.kind == HostKind::Gateway);
        gateways.map(|host| host.name.as_str()).collect()
    }

    /// All gateways.
    pub fn gateways(&self) -> Vec<Gateway<'_>> {
        self.gateway_names().into_iter().map(|name| self.gateway(name)).collect()
    }

    /// Starts the daemons of every gateway; returns without waiting for them to be ready.
    pub fn start(&self) -> Result<()> {
        for gateway in self.gateways() {
            for daemon in Daemon::BOTH {
                gateway.start(daemon)?;
            }
        }
        Ok(())
    }

    /// Waits until every gateway serves and has the keys of all others.
    pub fn wait_converged(&self, timeout: Duration) -> Result<Duration> {
        let start = Instant::now();
        for gateway in self.gateways() {
            gateway.wait_ready(timeout.saturating_sub(start.elapsed()))?;
        }
        for gateway in self.gateways() {
            gateway.wait_keys(timeout.saturating_sub(start.elapsed()))?;
        }
        self.wait_joined(timeout.saturating_sub(start.elapsed()))?;
        Ok(start.elapsed())
    }

    /// Waits until every bridge that snoops knows which groups its gateways want.
    fn wait_joined(&self, timeout: Duration) -> Result<()> {
        let mut wanted = Vec::new();
        for host in self.state.hosts.iter().filter(|host| host.kind == HostKind::Gateway && self.state.snooping) {
            for interface in host.interfaces.iter().filter(|interface| interface.bridge.is_some()) {
                let groups = self.state.groups.iter().filter(|group| group.has_member(&host.name));
                let single = groups.filter(|group| group.address.parse::<IpAddr>().is_ok());
                wanted.extend(single.map(|group| (wiring::port(&interface.segment, &host.name), &group.address)));
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let switch = self.find_host(SWITCH)?;
        let mut missing = None;
        let waited = self.eventually(timeout, "bridges to learn the joined groups", || {
            let table = switch.run(&["bridge", "mdb", "show"]).unwrap_or_default();
            let knows = |port: &str, group: &str| table.contains(&format!(" port {port} grp {group} "));
            missing = wanted.iter().find(|(port, group)| !knows(port, group));
            missing.is_none()
        });
        waited.map(drop).map_err(|error| match missing {
            Some((port, group)) => {
                Error::Timeout { what: format!("port {port} to have joined {group}"), waited: timeout }
            }
            None => error,
        })
    }

    /// Waits until the condition holds; answers after how long it did. `what` says what was awaited when it does not, and
    /// is printed with the time it took where `GEMCAST_TIMES` is set.
    pub fn eventually(&self, within: Duration, what: &str, mut condition: impl FnMut() -> bool) -> Result<Duration> {
        let start = Instant::now();
        loop {
            if condition() {
                if env::var_os("GEMCAST_TIMES").is_some() {
                    eprintln!("{:>8} ms  {what}", start.elapsed().as_millis());
                }
                return Ok(start.elapsed());
            }
            if start.elapsed() > within {
                return Err(Error::Timeout { what: what.into(), waited: within });
            }
            std::thread::sleep(POLL);
        }
    }

    /// Cuts these hosts of a bridged segment off from each other. Others there still hear them, and reach them.
    pub fn isolate(&self, segment: &str, hosts: &[&str]) -> Result<()> {
        self.set_isolation(segment, hosts, "on")
    }

    /// Undoes [`Lab::isolate`].
    pub fn rejoin(&self, segment: &str, hosts: &[&str]) -> Result<()> {
        self.set_isolation(segment, hosts, "off")
    }

    /// Pulls the cable of a host on a bridged segment: both ends see it.
    pub fn unplug(&self, segment: &str, host: &str) -> Result<()> {
        self.set_port(segment, host, "down")
    }

    /// Plugs the cable in again.
    pub fn plug(&self, segment: &str, host: &str) -> Result<()> {
        self.set_port(segment, host, "up")
    }

    fn set_port(&self, segment: &str, host: &str, state: &str) -> Result<()> {
        let switch = self.find_host(SWITCH)?;
        switch.run(&["ip", "link", "set", "dev", &wiring::port(segment, host), state]).map(drop)
    }

    /// Makes a host's cable on a bridged segment thin towards the host: what is more than the rate waits for up to 20 ms
    /// and is lost then.
    pub fn throttle(&self, segment: &str, host: &str, kilobits_per_second: u32) -> Result<()> {
        let rate = format!("{kilobits_per_second}kbit");
        let shaper = ["root", "tbf", "rate", rate.as_str(), "burst", "8k", "latency", "20ms"];
        let (switch, port) = (self.find_host(SWITCH)?, wiring::port(segment, host));
        switch.run(&[&["tc", "qdisc", "replace", "dev", port.as_str()], &shaper[..]].concat()).map(drop)
    }

    /// Has a bridged segment deliver no multicast to these hosts, or deliver it again; unicast and broadcast pass. The lab
    /// is one [`Options::without_snooping`]: a bridge that knows who joined a group delivers it all the same. What finds
    /// IPv6 addresses is multicast, too, so hosts that are to speak IPv6 need to know each other's
    /// ([`Lab::introduce`]).
    pub fn set_multicast(&self, segment: &str, hosts: &[&str], passes: bool) -> Result<()> {
        let switch = self.find_host(SWITCH)?;
        let state = if passes { "on" } else { "off" };
        for host in hosts {
            switch.run(&["bridge", "link", "set", "dev", &wiring::port(segment, host), "mcast_flood", state])?;
        }
        Ok(())
    }

    /// Tells each of these hosts of a segment the hardware addresses of the others.
    pub fn introduce(&self, segment: &str, hosts: &[&str]) -> Result<()> {
        let on_segment = |host: &str| -> Result<_> {
            let host = self.find_host(host)?;
            let place = host.interfaces().iter().find(|interface| interface.segment == segment).cloned();
            Ok((host, place.expect("the host is on the segment")))
        };
        for host in hosts {
            let (host, own) = on_segment(host)?;
            for other in hosts.iter().filter(|other| **other != host.name()) {
                let (_, other) = on_segment(other)?;
                for address in [other.mac.link_local(), other.ipv6] {
                    let (address, mac) = (address.to_string(), other.mac.to_string());
                    host.run(&["ip", "-6", "neighbour", "replace", &address, "lladdr", &mac, "dev", &own.name])?;
                }
            }
        }
        Ok(())
    }

    fn set_isolation(&self, segment: &str, hosts: &[&str], state: &str) -> Result<()> {
        let switch = self.find_host(SWITCH)?;
        for host in hosts {
            switch.run(&["bridge", "link", "set", "dev", &wiring::port(segment, host), "isolated", state])?;
        }
        Ok(())
    }

    /// Makes the node key of every gateway.
    pub fn make_identities(&self) -> Result<()> {
        for gateway in self.gateways() {
            let key = gateway.directory().join("etc/node.key");
            let output = Command::new(self.binaries.path("gemctl")?)
                .args(["key", "generate", "node", "--out"])
                .arg(&key)
                .stdin(Stdio::null())
                .output()
                .map_err(Error::io("starting gemctl"))?;
            if !output.status.success() {
                return Err(Error::Command {
                    command: format!("gemctl key generate node --out {}", key.display()),
                    outcome: output.status.to_string(),
                    stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
                });
            }
        }
        Ok(())
    }

    pub(crate) fn show_logs(&self) {
        for gateway in self.gateways() {
            for daemon in Daemon::BOTH {
                let name = gateway.host().name();
                eprintln!("--- {name}: the end of {}'s log\n{}", daemon.name(), gateway.log_tail(daemon));
            }
        }
    }

    /// Starts the processes that carry the frames of faulty segments.
    fn start_wires(&self, topology: &Topology) -> Result<()> {
        for segment in topology.segments.iter().filter(|segment| self.state.is_faulty(segment.name)) {
            let config = wiring::wire_config(topology, segment, &self.state.directory);
            let path = self.state.directory.join(format!("wire-{}.log", segment.name));
            let log = fs::File::create(&path).map_err(Error::file(&path))?;
            let child = self
                .host(SWITCH)
                .command(self.binaries.path(WIRE)?)
                .arg(serde_json::to_string(&config).expect("it has string keys only"))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .process_group(0)
                .current_dir("/")
                .spawn()
                .map_err(Error::io("starting a wire"))?;
            let wire = ProcessId::of(child.id()).map_err(Error::io("reading a wire's start time"))?;
            let answers = || !wire.is_alive() || ask(&config.socket, &Request::Clear).is_ok();
            self.eventually(READY_TIMEOUT, "a wire to answer", answers)?;
            if !wire.is_alive() {
                let stderr = fs::read_to_string(&path).unwrap_or_default();
                return Err(Error::Command { command: WIRE.into(), outcome: "ended".into(), stderr });
            }
        }
        Ok(())
    }

    fn make_hosts(&mut self, topology: &Topology, options: &Options) -> Result<()> {
        let switch = wiring::has_switch(topology, options).then_some(SWITCH);
        for name in switch.into_iter().chain(topology.hosts()) {
            let kind = match name {
                SWITCH => HostKind::Switch,
                OBSERVER => HostKind::Observer,
                name if topology.is_gateway(name) => HostKind::Gateway,
                _ => HostKind::Host,
            };
            let places = topology.attachments(name).into_iter();
            let interfaces = places.map(|place| InterfaceState {
                name: place.interface,
                role: place.segment.role,
                segment: place.segment.name.into(),
                bridge: wiring::bridge(place.segment, options),
                mtu: wiring::mtu(options, place.segment.role),
                queues: options.queues,
                mac: place.mac,
                ipv4: place.ipv4,
                ipv6: place.ipv6,
            });
            let namespace = Namespace::create(&self.state.directory)?;
            self.state.hosts.push(HostState { name: name.into(), kind, namespace, interfaces: interfaces.collect() });
            self.state.save()?;
        }
        Ok(())
    }

    fn configure(&self, topology: &Topology, options: &Options) -> Result<()> {
        let keys = self.state.directory.join("keys");
        config::write_domain_keys(&keys, &options.groups)?;
        for gateway in self.gateways() {
            let name = gateway.host().name();
            let own = options.gateway_config.get(name).map_or("", String::as_str);
            let extra = config::Extra {
                node: &options.node,
                interfaces: &options.interface_config,
                sections: &format!("{}\n{own}", options.config),
            };
            config::write_gateway(topology, name, &options.groups, extra, &keys, &gateway.directory())?;
            if options.small_state {
                let mount = format!("mount -t tmpfs -o size=1m gemcast-state {:?}", gateway.directory().join("state"));
                gateway.host().namespace().script(&mount)?;
            }
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if std::thread::panicking() {
            self.show_logs();
            if env::var_os("GEMCAST_LAB_KEEP").is_some() {
                eprintln!("--- lab `{}` is left up, as GEMCAST_LAB_KEEP asks", self.state.instance);
                return;
            }
        }
        if let Err(error) = Self::down(&self.state.instance) {
            eprintln!("removing lab `{}`: {error}", self.state.instance);
        }
    }
}

/// Removes what tests and demos left that were killed themselves.
fn remove_abandoned() -> Result<()> {
    for instance in State::instances() {
        if State::load(&instance).is_ok_and(|state| state.is_abandoned()) {
            Lab::down(&instance)?;
        }
    }
    Ok(())
}

/// Makes the lab's directory; that nobody else has made it is what makes the instance ours.
fn claim_directory(instance: &str) -> Result<PathBuf> {
    check_name(instance)?;
    fs::create_dir_all(ROOT).map_err(Error::file(Path::new(ROOT)))?;
    let directory = State::directory(instance);
    match fs::DirBuilder::new().mode(0o755).create(&directory) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(Error::AlreadyUp(instance.into())),
        made => made.map_err(Error::file(&directory)).map(|()| directory),
    }
}

fn check_segments(topology: &Topology, options: &Options) -> Result<()> {
    let known: Vec<_> = topology.segments.iter().map(|segment| segment.name).collect();
    match options.faulty.iter().find(|name| !known.contains(&name.as_str())) {
        Some(stranger) => Err(Error::NoSegment { name: stranger.clone(), known: known.join(", ") }),
        None => Ok(()),
    }
}

/// Instance names become parts of paths.
fn check_name(name: &str) -> Result<()> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if (1..=32).contains(&name.len()) && name.bytes().all(fine) {
        return Ok(());
    }
    Err(Error::BadName(name.into()))
}

fn check_machine() -> Result<()> {
    let uid = rustix::process::geteuid();
    if !uid.is_root() {
        return Err(Error::NotRoot(uid.as_raw()));
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let missing = TOOLS.into_iter().find(|tool| !env::split_paths(&path).any(|dir| dir.join(tool).exists()));
    missing.map_or(Ok(()), |tool| Err(Error::NoTool(tool)))
}
