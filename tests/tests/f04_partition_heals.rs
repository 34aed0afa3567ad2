//! F04: the network splits, then heals. Both halves go on with their own sources; what they missed of each other is there
//! soon after they hear each other again.

mod common;

use std::collections::BTreeSet;

use common::{GROUPS, PORT, adjacent, ip, keys_in_state, opening_keys, reachable_nodes, turn, wait_accounted};
use gemcast_lab::{Group, Lab, Options, Receiver, Result, Role, Seconds, Segment, Stream, Topology};

/// Gateways a – b – c – d in a row; the link between b and c can be cut.
fn row() -> Topology {
    let segment = |name, role, hosts: &[&'static str]| Segment { name, role, hosts: hosts.into() };
    Topology {
        name: "row",
        segments: vec![
            segment("lan-a", Role::Trusted, &["a", "host-a"]),
            segment("lan-b", Role::Trusted, &["b", "host-b"]),
            segment("lan-c", Role::Trusted, &["c", "host-c"]),
            segment("lan-d", Role::Trusted, &["d", "host-d"]),
            segment("wan-ab", Role::Untrusted, &["a", "b"]),
            segment("wan-bc", Role::Untrusted, &["b", "c", "observer"]),
            segment("wan-cd", Role::Untrusted, &["c", "d"]),
        ],
    }
}

/// Packets of a stream that arrived so far.
fn delivered(receiver: &Receiver, stream: u32) -> u64 {
    receiver.report().stream(stream).delivered
}

#[test]
fn f04_both_halves_go_on_and_heal() -> Result<()> {
    let _turn = turn();
    let keys = "[keys]\nannounce_lead = \"1s\"\noverlap = \"1s\"";
    let lab = Lab::up(row(), Options::new("t-f04").groups([Group::new(GROUPS[0])]).config(keys))?;
    let group = ip(GROUPS[0]);
    let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| lab.gateway(name));
    let at_b = lab.host("host-b").receive(group, PORT, None)?;
    let at_c = lab.host("host-c").receive(group, PORT, None)?;
    let send = |host: &str, id| lab.host(host).send(Stream::to(group).id(id).bits_per_second(1_000_000));
    let _senders = [send("host-a", 1)?, send("host-d", 2)?];
    let everywhere = || [&at_b, &at_c].iter().all(|r| delivered(r, 1) > 20 && delivered(r, 2) > 20);
    lab.eventually(10.s(), "both streams, everywhere", everywhere)?;
    let all = BTreeSet::from(["a", "b", "c", "d"].map(str::to_owned));
    lab.eventually(10.s(), "routes to everyone", || [&a, &d].iter().all(|one| reachable_nodes(one) == all))?;

    lab.isolate("wan-bc", &["b", "c"])?;
    lab.eventually(30.s(), "routes across to time out", || {
        reachable_nodes(&a) == BTreeSet::from(["a", "b"].map(str::to_owned))
            && reachable_nodes(&d) == BTreeSet::from(["c", "d"].map(str::to_owned))
    })?;
    // Both sources change their keys, which the other half cannot know.
    for (source, near, far) in [(&a, &b, &c), (&d, &c, &b)] {
        let old = keys_in_state(source, "active");
        source.gemctl(&["key", "rotate", GROUPS[0]])?;
        lab.eventually(5.s(), "the new key to seal", || keys_in_state(source, "active").is_disjoint(&old))?;
        let new = keys_in_state(source, "active");
        assert!(opening_keys(near).is_superset(&new) && opening_keys(far).is_disjoint(&new));
    }
    let cut = [delivered(&at_b, 2), delivered(&at_c, 1)];
    let own = [delivered(&at_b, 1), delivered(&at_c, 2)];
    lab.eventually(5.s(), "each half's own stream", || {
        delivered(&at_b, 1) > own[0] + 100 && delivered(&at_c, 2) > own[1] + 100
    })?;
    assert_eq!([delivered(&at_b, 2), delivered(&at_c, 1)], cut, "nothing crosses the cut");

    lab.rejoin("wan-bc", &["b", "c"])?;
    lab.eventually(10.s(), "the adjacency", || adjacent(&b, "wan1") && adjacent(&c, "wan0"))?;
    let flows = || delivered(&at_b, 2) > cut[0] && delivered(&at_c, 1) > cut[1];
    lab.eventually(3.s(), "the other half's streams, after the adjacency", flows)?;
    lab.eventually(10.s(), "routes to everyone", || [&a, &d].iter().all(|one| reachable_nodes(one) == all))?;
    for receiver in [at_b, at_c] {
        let report = receiver.stop();
        assert_eq!((report.corrupt, report.stream(1).duplicated, report.stream(2).duplicated), (0, 0, 0));
    }
    wait_accounted(&lab)
}
