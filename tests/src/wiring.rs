//! Wires the namespaces together: veth pairs, bridges, addresses.
//!
//! A segment of two hosts is a veth pair; one of more is a bridge in the namespace of its own host, `switch`. Bridges
//! snoop and have a querier, so a host hears only the groups it joined; the observer's ports count as router ports and
//! hear everything. Native XDP on a veth end wants NAPI at its peer, hence `gro on`; XDP must see what a wire would carry,
//! real UDP checksums and VLAN tags in their place, hence `tx off` and `txvlan off`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::error::{Error, Result};
use crate::lab::Options;
use crate::namespace::Namespace;
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
pub(crate) fn has_switch(topology: &Topology) -> bool {
    topology.segments.iter().any(is_bridged)
}

/// Name of the bridge of a segment, if it has one.
pub(crate) fn bridge(segment: &Segment) -> Option<String> {
    is_bridged(segment).then(|| format!("br-{}", segment.name))
}

fn is_bridged(segment: &Segment) -> bool {
    segment.hosts.len() > 2
}

/// Name of the switch's port towards a host; the kernel takes 15 characters.
pub(crate) fn port(segment: &str, host: &str) -> String {
    let mut name = format!("{segment}-{host}");
    name.truncate(15);
    name
}

fn mtu(options: &Options, role: Role) -> u32 {
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
        if is_bridged(segment) {
            let switch = format!("netns {}", namespaces[SWITCH].holder.pid);
            for host in &segment.hosts {
                pair(end(segment, host), (port(segment.name, host), switch.clone()));
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
        let Some(bridge) = bridge(segment) else { continue };
        let mtu = mtu(options, segment.role);
        let snooping = u8::from(options.snooping);
        let _ = writeln!(
            script,
            "ip link add {bridge} mtu {mtu} type bridge stp_state 0 mcast_snooping {snooping} \
             mcast_igmp_version 3 mcast_mld_version 2 mcast_query_response_interval 100"
        );
        // A bridge floods until its querier has waited one response interval for reports: 1 s here, not 10 s. In one
        // command with the above the querier would start before it knows.
        let _ = writeln!(script, "ip link set {bridge} type bridge mcast_querier 1");
        let _ = writeln!(script, "ip link set {bridge} up");
        for host in &segment.hosts {
            let port = port(segment.name, host);
            let _ = writeln!(script, "ethtool -K {port} tx off txvlan off gro on >/dev/null");
            let _ = writeln!(script, "ip link set {port} master {bridge}");
            let _ = writeln!(script, "ip link set {port} up");
            if *host == OBSERVER {
                let _ = writeln!(script, "ip link set {port} type bridge_slave mcast_router 2");
            }
        }
    }
    script
}

fn interfaces(topology: &Topology, host: &str) -> String {
    let mut script = String::new();
    for place in topology.attachments(host) {
        let Attachment { segment, interface, ipv4, ipv6, .. } = place;
        let _ = writeln!(script, "ethtool -K {interface} tx off txvlan off gro on >/dev/null");
        let _ = writeln!(script, "ip address add {ipv4}/24 dev {interface}");
        let _ = writeln!(script, "ip address add {ipv6}/64 dev {interface} nodad");
        let _ = writeln!(script, "ip link set {interface} up");
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
