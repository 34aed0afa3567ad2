//! Control's snapshot, checked: from the message to types, and to the file that a restarted data plane starts from.

use crate::replay::DEFAULT_WINDOW;
use crate::tables::{Flow, HoldLimits, MAX_PORTS_SERVED, Role};
use gemcast_proto::id::Group;
use gemcast_proto::link;
use gemcast_xdp::layout::MAX_PORTS;
use prost::Message;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

const DEFAULT_TTL: u8 = 64;
/// Bounds of what may be asked for, so that a mistake cannot exhaust the host.
const MAX_WINDOW: u32 = 1 << 20;
const MAX_HOLD_PACKETS: u32 = 1 << 16;
/// Entries of `GATEWAYS`.
const MAX_GATEWAYS: usize = 1024;

/// What the data plane shall do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// Control's number for it.
    pub generation: u64,
    /// Interfaces by name.
    pub interfaces: Vec<(String, Role)>,
    /// Flows, no two of one group.
    pub flows: Vec<Flow>,
    /// Bounds of the key queue.
    pub hold: HoldLimits,
    /// Packets behind the newest that are still accepted.
    pub replay_window: usize,
    /// TTL or hop limit of sealed packets.
    pub ttl: u8,
    /// Ethernet addresses of other gateways on trusted segments.
    pub gateways: BTreeSet<[u8; 6]>,
}

/// What in a snapshot is wrong. None of it is applied.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("snapshot {generation}: {place}: {what}")]
pub struct SnapshotError {
    generation: u64,
    place: String,
    what: String,
}

impl Snapshot {
    /// Checks a message, whole.
    pub fn parse(message: &link::Snapshot) -> Result<Self, SnapshotError> {
        let error = |place: String, what: String| SnapshotError { generation: message.generation, place, what };
        if message.interfaces.len() > MAX_PORTS_SERVED {
            let count = message.interfaces.len();
            return Err(error("interfaces".into(), format!("{count}, expected at most {MAX_PORTS_SERVED}")));
        }
        let mut interfaces = Vec::new();
        for interface in &message.interfaces {
            let place = || format!("interface {:?}", interface.name);
            let role = match interface.role() {
                link::Role::Trusted => Role::Trusted,
                link::Role::Untrusted => Role::Untrusted,
                link::Role::Unspecified => {
                    return Err(error(place(), "no role, expected trusted or untrusted".into()));
                }
            };
            if interface.name.is_empty() || interface.name.len() > 15 {
                return Err(error(place(), "no interface name (1 to 15 characters)".into()));
            }
            if interfaces.iter().any(|(name, _)| *name == interface.name) {
                return Err(error(place(), "named twice".into()));
            }
            interfaces.push((interface.name.clone(), role));
        }
        let mut flows = Vec::new();
        let mut groups = HashSet::new();
        for flow in &message.flows {
            let flow = parse_flow(flow).map_err(|what| error(format!("flow of group {:02x?}", flow.group), what))?;
            if !groups.insert(flow.group) {
                return Err(error(format!("flow of group {}", flow.group), "named twice".into()));
            }
            flows.push(flow);
        }
        let default = HoldLimits::default();
        let hold = message.key_queue.map_or(default, |queue| HoldLimits {
            packets: queue.packets.min(MAX_HOLD_PACKETS) as usize,
            bytes: queue.bytes as usize,
            hold: Duration::from_millis(u64::from(queue.hold_ms)),
        });
        let replay_window = match message.replay_window {
            0 => DEFAULT_WINDOW,
            window if window > MAX_WINDOW => {
                return Err(error("replay_window".into(), format!("{window}, expected at most {MAX_WINDOW}")));
            }
            window => window as usize,
        };
        let ttl = match message.ttl {
            0 => DEFAULT_TTL,
            ttl => u8::try_from(ttl).map_err(|_| error("ttl".into(), format!("{ttl}, expected 1 to 255")))?,
        };
        if message.gateways.len() > MAX_GATEWAYS {
            let count = message.gateways.len();
            return Err(error("gateways".into(), format!("{count}, expected at most {MAX_GATEWAYS}")));
        }
        let address = |bytes: &Vec<u8>| {
            let length = bytes.len();
            let wrong = |_| error("gateways".into(), format!("an address of {length} bytes, expected 6"));
            bytes.as_slice().try_into().map_err(wrong)
        };
        let gateways = message.gateways.iter().map(address).collect::<Result<_, _>>()?;
        Ok(Self { generation: message.generation, interfaces, flows, hold, replay_window, ttl, gateways })
    }
}

/// What a snapshot leaves undecided stays as it was: who forwards the flows, and how long without control. New flows stand
/// by.
pub fn inherit(message: &mut link::Snapshot, before: &link::Snapshot) {
    let known: HashMap<_, _> = before
        .flows
        .iter()
        .map(|flow| ((&flow.group, flow.prefix_len), (flow.send_standby, flow.receive_standby)))
        .collect();
    for flow in &mut message.flows {
        let standby = known.get(&(&flow.group, flow.prefix_len)).copied().unwrap_or((true, true));
        (flow.send_standby, flow.receive_standby) = standby;
    }
    message.lease_ms = before.lease_ms;
    message.undecided = false;
}

/// Has every flow stand by where another gateway takes over: it may have while this data plane was not there, and control
/// knows. Whether it is so.
pub fn yield_flows(message: &mut link::Snapshot) -> bool {
    let yields = message.lease_ms > 0;
    for flow in message.flows.iter_mut().filter(|_| yields) {
        (flow.send_standby, flow.receive_standby) = (true, true);
    }
    yields
}

fn parse_flow(flow: &link::Flow) -> Result<Flow, String> {
    let address: [u8; 16] =
        flow.group.as_slice().try_into().map_err(|_| format!("{} address bytes, expected 16", flow.group.len()))?;
    let length = u8::try_from(flow.prefix_len).map_err(|_| format!("prefix length {}", flow.prefix_len))?;
    let group = Group::from_mapped(address, length).map_err(|error| error.to_string())?;
    if flow.ports.len() > MAX_PORTS {
        return Err(format!("{} ports, expected at most {MAX_PORTS}", flow.ports.len()));
    }
    let ports = flow.ports.iter().map(|&port| u16::try_from(port).map_err(|_| format!("port {port}")));
    let sources = flow.sources.iter().map(|source| {
        source.as_slice().try_into().map_err(|_| format!("source of {} bytes, expected 16", source.len()))
    });
    Ok(Flow {
        group,
        sealed: flow.sealed,
        send: flow.send,
        receive: flow.receive,
        transit: flow.transit,
        send_standby: flow.send_standby,
        receive_standby: flow.receive_standby,
        ports: ports.collect::<Result<_, _>>()?,
        sources: sources.collect::<Result<_, _>>()?,
    })
}

/// Keeps a snapshot for the next start: written beside, then renamed, so that the file is always whole.
pub fn save(path: &Path, message: &link::Snapshot) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = fs::File::create(&beside)?;
    file.write_all(&message.encode_to_vec())?;
    drop(file);
    fs::rename(&beside, path)
}

/// The snapshot of the last life; `None` when there is none.
pub fn load(path: &Path) -> io::Result<Option<link::Snapshot>> {
    match fs::read(path) {
        Ok(bytes) => link::Snapshot::decode(bytes.as_slice()).map(Some).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gemcast_proto::id::map_v4;

    fn message() -> link::Snapshot {
        link::Snapshot {
            generation: 7,
            interfaces: vec![link::Interface { name: "lan0".into(), role: link::Role::Trusted.into() }],
            flows: vec![link::Flow {
                group: map_v4([239, 1, 1, 1]).to_vec(),
                prefix_len: 128,
                sealed: true,
                send: true,
                receive: true,
                transit: false,
                send_standby: false,
                receive_standby: false,
                ports: vec![5000],
                sources: vec![map_v4([10, 0, 0, 1]).to_vec()],
            }],
            ..Default::default()
        }
    }

    #[test]
    fn a_good_snapshot_parses_and_survives_the_file() {
        let directory = std::env::temp_dir().join(format!("gemcast-snapshot-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("snapshot.bin");
        assert_eq!(load(&path).unwrap(), None);
        save(&path, &message()).unwrap();
        let snapshot = Snapshot::parse(&load(&path).unwrap().unwrap()).unwrap();
        assert_eq!(snapshot.interfaces, [("lan0".to_owned(), Role::Trusted)]);
        assert_eq!(snapshot.flows[0].ports, [5000]);
        assert_eq!((snapshot.ttl, snapshot.replay_window), (DEFAULT_TTL, DEFAULT_WINDOW));
        fs::write(&path, [0xff; 9]).unwrap();
        assert!(load(&path).is_err());
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn f36_what_another_gateway_may_have_taken_over_stands_by_until_control_says_more() {
        let mut alone = message();
        assert!(!yield_flows(&mut alone) && alone == message());
        let mut shared = link::Snapshot { lease_ms: 100, ..message() };
        assert!(yield_flows(&mut shared));
        assert!(shared.flows.iter().all(|flow| flow.send_standby && flow.receive_standby));
    }

    #[test]
    fn f36_what_is_undecided_stays_and_what_is_new_stands_by() {
        let mut before = link::Snapshot { lease_ms: 100, ..message() };
        before.flows[0].receive_standby = true;
        let mut other = message().flows[0].clone();
        other.group = vec![0xff; 16];
        let mut next = message();
        next.flows.push(other);
        next.undecided = true;
        inherit(&mut next, &before);
        assert!(!next.flows[0].send_standby && next.flows[0].receive_standby);
        assert!(next.flows[1].send_standby && next.flows[1].receive_standby);
        assert_eq!((next.lease_ms, next.undecided), (100, false));
    }

    #[test]
    fn every_mistake_is_named_and_nothing_is_applied() {
        let refused = |change: fn(&mut link::Snapshot)| {
            let mut message = message();
            change(&mut message);
            Snapshot::parse(&message).unwrap_err().to_string()
        };
        assert!(refused(|m| m.interfaces[0].role = 0).contains("interface \"lan0\": no role"));
        assert!(refused(|m| m.interfaces.push(m.interfaces[0].clone())).contains("named twice"));
        assert!(refused(|m| m.interfaces[0].name = "x".repeat(16)).contains("1 to 15"));
        assert!(refused(|m| m.flows[0].group = vec![1, 2]).contains("2 address bytes, expected 16"));
        assert!(refused(|m| m.flows[0].group = vec![9; 16]).contains("not a multicast address"));
        assert!(refused(|m| m.flows.push(m.flows[0].clone())).contains("239.1.1.1: named twice"));
        assert!(refused(|m| m.flows[0].ports = vec![70_000]).contains("port 70000"));
        assert!(refused(|m| m.flows[0].ports = (1..=17).collect()).contains("17 ports, expected at most 16"));
        assert!(refused(|m| m.flows[0].sources = vec![vec![1]]).contains("source of 1 bytes"));
        assert!(refused(|m| m.replay_window = 1 << 30).contains("replay_window"));
        assert!(refused(|m| m.gateways = vec![vec![1; 5]]).contains("gateways: an address of 5 bytes, expected 6"));
        assert!(refused(|m| m.ttl = 300).contains("ttl: 300, expected 1 to 255"));
    }
}
