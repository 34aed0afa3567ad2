//! F13: the maps are a cache. Unpinned, emptied or written over, they are put right from what control knows: streams go
//! on, no key is forgotten, and no counter is used twice.

mod common;

use common::{GROUPS, PORT, events, ip, keys_in_state, opening_keys, turn, wait_accounted};
use gemcast_lab::{Daemon, Fault, Lab, MapFault, Options, Result, Seconds, Stream, Topology, monotonic_ns};

#[test]
fn f13_lost_maps_are_noticed_and_rebuilt() -> Result<()> {
    let _turn = turn();
    let lab = Lab::up(Topology::pair(), Options::new("t-f13"))?;
    let groups = GROUPS.map(ip);
    let capture = lab.host("observer").capture("eth0")?.protected(&groups).start()?;
    let receivers =
        [lab.host("receiver").receive(groups[0], PORT, None)?, lab.host("receiver").receive(groups[1], PORT, None)?];
    let send = |group| lab.host("source").send(Stream::to(group).bits_per_second(1_000_000));
    let senders = [send(groups[0])?, send(groups[1])?];
    let flows = |after_ns: u64| {
        lab.eventually(20.s(), "both streams", || receivers.iter().all(|one| one.last_ns() > after_ns)).map(drop)
    };
    flows(monotonic_ns())?;
    // "a" seals what is sent here, "b" opens it.
    for fault in MapFault::ALL {
        for gateway in ["a", "b"].map(|name| lab.gateway(name)) {
            let what = format!("{} of {}", fault.name(), gateway.host().name());
            let (own, others) = (keys_in_state(&gateway, "active"), opening_keys(&gateway));
            let repaired = events(&gateway, "maps_repaired").len();
            lab.inject(&Fault::Maps { gateway: gateway.host().name().into(), fault })?;
            // It looks twice a second.
            lab.eventually(20.s(), &what, || events(&gateway, "maps_repaired").len() > repaired)?;
            flows(monotonic_ns())?;
            assert!(opening_keys(&gateway).is_superset(&others), "{what}: a key is lost");
            let still = keys_in_state(&gateway, "active");
            if fault == MapFault::Counters {
                assert!(still.is_disjoint(&own), "{what}: a key without its counters seals");
            } else {
                assert_eq!(still, own, "{what}: nothing had to be made anew");
            }
        }
    }
    // What was pinned again is what a data plane that restarts finds.
    for gateway in lab.gateways() {
        let (own, others) = (keys_in_state(&gateway, "active"), opening_keys(&gateway));
        gateway.kill_dataplane()?;
        gateway.start(Daemon::DataPlane)?;
        gateway.wait_ready(20.s())?;
        flows(monotonic_ns())?;
        assert_eq!(keys_in_state(&gateway, "active"), own);
        assert!(opening_keys(&gateway).is_superset(&others));
    }
    drop(senders);
    let heard = capture.stop()?;
    assert_eq!((heard.cleartext, heard.nonces_reused, heard.sealed_repeated), (0, 0, 0));
    for receiver in receivers {
        let report = receiver.stop();
        assert_eq!((report.corrupt, report.stream(1).duplicated), (0, 0));
    }
    wait_accounted(&lab)
}
