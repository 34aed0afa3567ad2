//! Wires the namespaces together: veth pairs, bridges, addresses.
//!
//! A segment of two hosts is a veth pair; one of more, or a faulty one, is a bridge in the namespace of its own host, `switch`. Bridges
//! snoop and have a querier, so a host hears only the groups it joined; the observer's ports count as router ports and
//! hear everything. Native XDP on a veth end wants NAPI at its peer, hence `gro on`; XDP must see what a wire would carry,
//! real UDP checksums and VLAN tags in their place, hence `tx off` and `txvlan off`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Error, Result};
use crate::fault::{WireConfig, WireLink};
use crate::frame::Mac;
use crate::lab::Options;
use crate::namespace::Namespace;
use crate::state::{InterfaceState, State};
use crate::topology::{Attachment, OBSERVER, Role, Segment, Topology};

/// The host that holds the bridges.
pub(crate) const SWITCH: &str = "switch";

/// Interface defaults of every namespace: addresses usable at once, nothing filtered, nothing learnt.
const DEFAULTS: &str = "\
cd /proc/sys/net
for scope in all default lo; do
  echo 0 > ipv4/conf/$scope/rp_filter
  echo 0 > ipv6/conf/$scope/accept_dad
  echo 0 > ipv6/conf/$scope/accept_ra
  echo 0 > ipv6/conf/$scope/addr_gen_mode
  echo 0 > ipv6/conf/$scope/router_solicitations
  echo 0 > ipv6/conf/$scope/disable_ipv6
done
ip link set lo up
";

/// The kernel takes up to a second to notice that a link's other end is up; only then are groups joined on it.
const CARRIER: &str = "\
tries=0
while ip -o link show up | grep -Eq 'state (DOWN|LOWERLAYERDOWN)'; do
  tries=$((tries + 1))
  [ $tries -lt 250 ] || { ip -o link show up >&2; exit 1; }
  sleep 0.02
done
";

/// Makes all links of a topology between namespaces that exist.
pub(crate) fn wire(topology: &Topology, options: &Options, namespaces: &BTreeMap<String, Namespace>) -> Result<()> {
    for namespace in namespaces.values() {
        namespace.script(DEFAULTS)?;
    }
    // A veth pair is made with each end in its namespace already, so no name ever shows up on the machine itself.
    ip_batch(&links(topology, options, namespaces))?;
    if let Some(switch) = namespaces.get(SWITCH) {
        switch.script(&bridges(topology, options))?;
    }
    for host in topology.hosts() {
        namespaces[host].script(&interfaces(topology, host))?;
    }
    for namespace in namespaces.values() {
        namespace.script(CARRIER)?;
    }
    Ok(())
}

/// Whether the topology needs a switch.
pub(crate) fn has_switch(topology: &Topology, options: &Options) -> bool {
    topology.segments.iter().any(|segment| is_bridged(segment, options))
}

/// Name of the bridge of a segment, if it has one.
pub(crate) fn bridge(segment: &Segment, options: &Options) -> Option<String> {
    is_bridged(segment, options).then(|| format!("br-{}", segment.name))
}

fn is_bridged(segment: &Segment, options: &Options) -> bool {
    segment.hosts.len() > 2 || is_faulty(segment, options)
}

fn is_faulty(segment: &Segment, options: &Options) -> bool {
    options.faulty.iter().any(|name| name == segment.name)
}

/// Names of the two interfaces between which a wire carries a host's frames: towards the host, towards the bridge.
fn wire_ends(mac: Mac) -> [String; 2] {
    let [.., segment, place] = mac.0;
    ["h", "s"].map(|side| format!("wire{segment}-{place}{side}"))
}

/// Interfaces of the switch that a wire writes each frame to as the hosts sent it, and where it can be captured.
pub(crate) fn tap_ends(segment: &str) -> [String; 2] {
    [format!("tap-{segment}"), format!("all-{segment}")]
}

/// Where a segment's wire is asked.
pub(crate) fn wire_socket(directory: &Path, segment: &str) -> PathBuf {
    directory.join(format!("wire-{segment}.sock"))
}

/// What a faulty segment's wire is started with.
pub(crate) fn wire_config(topology: &Topology, segment: &Segment, directory: &Path) -> WireConfig {
    let links = segment.hosts.iter().map(|host| {
        let mac = place(topology, segment, host).mac;
        let [outer, inner] = wire_ends(mac);
        WireLink { host: (*host).into(), mac, outer, inner }
    });
    let [tap, _] = tap_ends(segment.name);
    WireConfig { socket: wire_socket(directory, segment.name), tap, links: links.collect() }
}

/// How a deleted interface of a host comes back.
pub(crate) struct Remake {
    link: String,
    switch: String,
    host: String,
}

impl Remake {
    /// Only links to the switch can be made again: at the end of a direct link sits another host.
    pub(crate) fn of(state: &State, host: &str, interface: &InterfaceState) -> Result<Self> {
        let InterfaceState { name, segment, bridge, mtu, queues, mac, .. } = interface;
        let namespace =
            |name: &str| state.hosts.iter().find(|one| one.name == name).map(|one| one.namespace.holder.pid);
        let (Some(bridge), Some(own), Some(switch)) = (bridge, namespace(host), namespace(SWITCH)) else {
            return Err(Error::Unreadable {
                what: format!("{name} of {host}"),
                reason: format!("segment {segment} has no bridge, so its other end would go with it"),
            });
        };
        let faulty = state.is_faulty(segment);
        let [outer, _] = wire_ends(*mac);
        let peer = if faulty { outer } else { port(segment, host) };
        let queues = format!("mtu {mtu} numtxqueues {queues} numrxqueues {queues}");
        let link = format!(
            "link add name {name} netns {own} address {mac} {queues} type veth peer name {peer} netns {switch} {queues}\n"
        );
        let switch = if faulty { wire_end(&peer) } else { bridge_port(segment, host, bridge) };
        Ok(Self { link, switch, host: self::interface(name, interface.ipv4, interface.ipv6) })
    }
}

/// Makes a deleted interface again.
pub(crate) fn remake(remake: &Remake, host: &Namespace, switch: &Namespace) -> Result<()> {
    ip_batch(&remake.link)?;
    switch.script(&remake.switch)?;
    host.script(&remake.host)
}

/// Name of the switch's port towards a host; the kernel takes 15 characters.
pub(crate) fn port(segment: &str, host: &str) -> String {
    let mut name = format!("{segment}-{host}");
    name.truncate(15);
    name
}

pub(crate) fn mtu(options: &Options, role: Role) -> u32 {
    match role {
        Role::Trusted => options.lan_mtu,
        Role::Untrusted => options.wan_mtu,
    }
}

fn place<'a>(topology: &'a Topology, segment: &Segment, host: &str) -> Attachment<'a> {
    let place = topology.attachments(host).into_iter().find(|place| place.segment.name == segment.name);
    place.expect("the host is on the segment")
}

fn links(topology: &Topology, options: &Options, namespaces: &BTreeMap<String, Namespace>) -> String {
    let mut batch = String::new();
    let end = |segment: &Segment, host: &str| {
        let place = place(topology, segment, host);
        let pid = namespaces[host].holder.pid;
        (place.interface, format!("netns {pid} address {}", place.mac))
    };
    for segment in &topology.segments {
        let queues = format!(
            "mtu {} numtxqueues {queues} numrxqueues {queues}",
            mtu(options, segment.role),
            queues = options.queues
        );
        let mut pair = |(name, ns): (String, String), (peer, peer_ns): (String, String)| {
            writeln!(batch, "link add name {name} {ns} {queues} type veth peer name {peer} {peer_ns} {queues}")
                .expect("a String takes everything");
        };
        if is_bridged(segment, options) {
            let switch = format!("netns {}", namespaces[SWITCH].holder.pid);
            let at_switch = |name: String| (name, switch.clone());
            if is_faulty(segment, options) {
                let [tap, listen] = tap_ends(segment.name);
                pair(at_switch(tap), at_switch(listen));
            }
            for host in &segment.hosts {
                let port = port(segment.name, host);
                if is_faulty(segment, options) {
                    let [outer, inner] = wire_ends(place(topology, segment, host).mac);
                    pair(end(segment, host), at_switch(outer));
                    pair(at_switch(inner), at_switch(port));
                } else {
                    pair(end(segment, host), at_switch(port));
                }
            }
        } else if let [left, right] = segment.hosts[..] {
            pair(end(segment, left), end(segment, right));
        }
    }
    batch
}

fn bridges(topology: &Topology, options: &Options) -> String {
    // A switch does not look into IP headers; the kernel's netfilter would, and drop what it finds malformed.
    let mut script =
        "for file in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e $file ] || echo 0 > $file; done\n".to_owned();
    for segment in &topology.segments {
        let Some(bridge) = bridge(segment, options) else { continue };
        let mtu = mtu(options, segment.role);
        let snooping = u8::from(options.snooping);
        let _ = writeln!(
            script,
            "ip link add {bridge} mtu {mtu} type bridge stp_state 0 mcast_snooping {snooping} \
             mcast_igmp_version 3 mcast_mld_version 2 mcast_query_response_interval 100"
        );
        if is_faulty(segment, options) {
            // It asks often at first, and whenever a port comes up: a report that got lost is made up for.
            let _ = writeln!(
                script,
                "ip link set {bridge} type bridge mcast_startup_query_interval 200 mcast_startup_query_count 10"
            );
        }
        // A bridge floods until its querier has waited one response interval for reports: 1 s here, not 10 s. In one
        // command with the above the querier would start before it knows.
        let _ = writeln!(script, "ip link set {bridge} type bridge mcast_querier 1");
        let _ = writeln!(script, "ip link set {bridge} up");
        if is_faulty(segment, options) {
            let ends = segment.hosts.iter().flat_map(|host| wire_ends(place(topology, segment, host).mac));
            script.extend(ends.chain(tap_ends(segment.name)).map(|end| wire_end(&end)));
        }
        script.extend(segment.hosts.iter().map(|host| bridge_port(segment.name, host, &bridge)));
    }
    script
}

/// Readies an interface that a wire has to itself: the switch's own IP says nothing there.
fn wire_end(name: &str) -> String {
    format!(
        "echo 1 > /proc/sys/net/ipv6/conf/{name}/disable_ipv6\n\
         ethtool -K {name} tx off txvlan off gro on >/dev/null\n\
         ip link set {name} up\n"
    )
}

/// Puts a port into its bridge.
fn bridge_port(segment: &str, host: &str, bridge: &str) -> String {
    let port = port(segment, host);
    let mut script = format!(
        "ethtool -K {port} tx off txvlan off gro on >/dev/null\n\
         ip link set {port} master {bridge}\n\
         ip link set {port} up\n"
    );
    if host == OBSERVER {
        let _ = writeln!(script, "ip link set {port} type bridge_slave mcast_router 2");
    }
    script
}

/// Readies an interface of a host.
fn interface(name: &str, ipv4: Ipv4Addr, ipv6: Ipv6Addr) -> String {
    format!(
        "ethtool -K {name} tx off txvlan off gro on >/dev/null\n\
         ip address add {ipv4}/24 dev {name}\n\
         ip address add {ipv6}/64 dev {name} nodad\n\
         ip link set {name} up\n"
    )
}

/// Gives an interface that was down its addresses again, those that it has lost.
pub(crate) fn addresses(interface: &InterfaceState) -> String {
    let InterfaceState { name, ipv4, ipv6, .. } = interface;
    format!("ip address replace {ipv4}/24 dev {name}\nip address replace {ipv6}/64 dev {name} nodad\n")
}

fn interfaces(topology: &Topology, host: &str) -> String {
    let mut script = String::new();
    for place in topology.attachments(host) {
        let Attachment { segment, interface, ipv4, ipv6, .. } = place;
        script += &self::interface(&interface, ipv4, ipv6);
        let router = segment.hosts.iter().find(|name| topology.is_gateway(name));
        if let Some(router) = router.filter(|_| segment.role == Role::Trusted && !topology.is_gateway(host)) {
            let router = self::place(topology, segment, router);
            let _ = writeln!(script, "ip route add default via {} dev {interface}", router.ipv4);
            let _ = writeln!(script, "ip -6 route add default via {} dev {interface}", router.ipv6);
        }
    }
    script
}

fn ip_batch(batch: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Error::io("starting `ip`"))?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    stdin.write_all(batch.as_bytes()).map_err(Error::io("writing to `ip -batch`"))?;
    drop(stdin);
    let output = child.wait_with_output().map_err(Error::io("waiting for `ip`"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Command {
        command: format!("ip -batch - <<END\n{batch}END"),
        outcome: output.status.to_string(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
