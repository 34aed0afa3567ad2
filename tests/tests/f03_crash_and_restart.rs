//! F03: a gateway crashes and restarts without its state directory. Its whole table is back within 5 s, and links it is not
//! on carry no key object again.

mod common;

use std::collections::BTreeSet;
use std::fs;

use common::{GROUPS, PORT, ip, known_nodes, opening_keys, reachable_nodes, turn};
use gemcast_lab::{Daemon, GemTraffic, Lab, Options, Result, RunningCapture, Seconds, Stream, Topology, monotonic_ns};
use gemcast_proto::wire::gem::ObjectKind;

/// SEK objects heard so far, each version by itself, and how often.
fn seks(captures: &[RunningCapture]) -> Vec<((gemcast_proto::wire::gem::ObjectName, u64), u64)> {
    let heard = captures.iter().flat_map(|capture| capture.look(|report| report.datagrams.clone()));
    let objects = GemTraffic::of(&heard.collect::<Vec<_>>()).objects;
    objects.into_iter().filter(|((name, _), _)| name.kind == ObjectKind::SEK).collect()
}

#[test]
fn f03_everything_is_back_in_seconds_and_nothing_is_flooded_again() -> Result<()> {
    let _turn = turn();
    let lab = Lab::up(Topology::line(), Options::new("t-f03").without_daemons())?;
    lab.make_identities()?;
    // What a and b tell each other; c is on b's other link.
    let listen = |host: &str| lab.host(host).capture("wan0")?.keep(200_000).start();
    let captures = [listen("a")?, listen("b")?];
    lab.start()?;
    lab.wait_converged(30.s())?;
    let c = lab.gateway("c");
    let all = || BTreeSet::from(["a", "b", "c"].map(str::to_owned));
    lab.eventually(10.s(), "routes to everyone", || reachable_nodes(&c) == all())?;
    let keys = opening_keys(&c);
    assert_eq!((known_nodes(&c), keys.len()), (all(), 4), "two groups, two other members");
    let receiver = lab.host("host-c").receive(ip(GROUPS[0]), PORT, None)?;
    let _sender = lab.host("host-a").send(Stream::to(ip(GROUPS[0])))?;
    lab.eventually(5.s(), "the stream to flow", || receiver.delivered() > 100)?;
    let before = seks(&captures);
    assert!(!before.is_empty());

    c.kill(Daemon::Control)?;
    c.kill(Daemon::DataPlane)?;
    fs::remove_dir_all(c.directory().join("state")).expect("it is the lab's");
    c.start(Daemon::DataPlane)?;
    c.start(Daemon::Control)?;
    // Counted from the start of the processes, loading of the XDP program and opening of interfaces included.
    lab.eventually(5.s(), "the whole table", || {
        opening_keys(&c).is_superset(&keys) && known_nodes(&c) == all() && reachable_nodes(&c) == all()
    })?;
    let now = monotonic_ns();
    lab.eventually(5.s(), "the stream to flow again", || receiver.last_ns() > now)?;
    // Two rounds of digests, in which a difference would be found and repaired.
    let packets = || captures[0].look(|report| report.frames);
    let heard = packets();
    lab.eventually(20.s(), "a while of Babel", || packets() > heard + 20 && seks(&captures).len() > before.len())?;
    let after = seks(&captures);
    for known in &before {
        assert!(after.contains(known), "{known:?} was sent again: {after:?}");
    }
    Ok(())
}
