//! F31: two uplinks between two gateways. Streams go out on both, arrive once, and lose nothing when one fails.

mod common;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{GROUPS, PORT, ip, turn, wait_accounted};
use gemcast_lab::{
    Account, CaptureReport, Datagram, Gateway, Lab, Options, Result, SEALED_PORT, Seconds, Stream, Topology,
};

/// What a gateway opened, and saw again, by each uplink.
fn arrived(gateway: &Gateway<'_>) -> [u64; 2] {
    ["wan0", "wan1"].map(|name| gateway.interface(name).map_or(0, |wan| wan.opened + wan.copies))
}

fn events(gateway: &Gateway<'_>, name: &str, interface: &str) -> usize {
    let output = gateway.gemctl_output(&["-o", "json", "events"]).map(|output| output.stdout).unwrap_or_default();
    let output = String::from_utf8_lossy(&output);
    let is_it = |line: &&str| line.contains(&format!("\"name\":\"{name}\"")) && line.contains(interface);
    output.lines().filter(is_it).count()
}

fn is_a_problem(gateway: &Gateway<'_>, interface: &str) -> Result<bool> {
    let status = gateway.gemctl(&["status"])?;
    let mut problems = status["problems"].as_array().into_iter().flatten();
    Ok(problems.any(|problem| problem["code"] == "leg_lost" && problem["subject"] == interface))
}

#[test]
fn f31_streams_on_two_uplinks_arrive_once_and_survive_either() -> Result<()> {
    let _turn = turn();
    let lab = Lab::up(Topology::dual(), Options::new("t-f31"))?;
    let b = lab.gateway("b");
    let groups = GROUPS.map(ip);
    let capture = |interface| lab.host("observer").capture(interface)?.start();
    let captures = [capture("eth0")?, capture("eth1")?];
    let mut streams = Vec::new();
    for group in groups {
        let receiver = lab.host("receiver").receive(group, PORT, None)?;
        streams.push((receiver, lab.host("source").send(Stream::to(group).bits_per_second(2_000_000))?));
    }
    let both_deliver = || {
        let before = arrived(&b);
        let both = || arrived(&b).iter().zip(before).all(|(now, before)| *now > before + 50);
        lab.eventually(20.s(), "copies by both uplinks", both)
    };
    both_deliver()?;

    // One after the other: a cable is pulled, and a link looks well but passes nothing.
    for (segment, interface, pulled) in [("wan-1", "wan0", true), ("wan-2", "wan1", false)] {
        match pulled {
            true => lab.unplug(segment, "b")?,
            false => lab.isolate(segment, &["a", "b"])?,
        }
        lab.eventually(20.s(), "the failed uplink to be noticed", || events(&b, "leg_lost", interface) == 1)
            .inspect_err(|_| eprintln!("{segment}: {:#?}", b.interfaces()))?;
        assert!(is_a_problem(&b, interface)?);
        match pulled {
            true => lab.plug(segment, "b")?,
            false => lab.rejoin(segment, &["a", "b"])?,
        }
        lab.eventually(20.s(), "the uplink to be back", || events(&b, "leg_returned", interface) == 1)
            .inspect_err(|_| eprintln!("{segment}: {:#?}", b.interfaces()))?;
        assert!(!is_a_problem(&b, interface)?);
        both_deliver()?;
    }

    // One is flooded: hardly anything of the streams gets through there.
    lab.throttle("wan-1", "b", 500)?;
    let observer = lab.host("observer");
    let (socket, place) = (observer.packet_socket("eth0")?, observer.interface_named("eth0"));
    let flood = Datagram::new(place.mac, place.address(groups[0]), groups[0], SEALED_PORT, vec![0x5a; 1000]).to_frame();
    let (before, flooded) = (arrived(&b), AtomicBool::new(true));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while flooded.load(Ordering::Relaxed) {
                (0..20).for_each(|_| drop(socket.send(&flood)));
                std::thread::sleep(1.ms());
            }
        });
        let outlived = lab.eventually(20.s(), "the other uplink to go on alone", || {
            let now = arrived(&b);
            let (thin, other) = (now[0] - before[0], now[1] - before[1]);
            other > 500 && thin < other / 2
        });
        flooded.store(false, Ordering::Relaxed);
        outlived
    })?;

    for (receiver, sender) in streams {
        let sent = sender.stop();
        let account = Account::of(&sent, &receiver.finish(500.ms()).stream(1), &[]);
        assert!(account.sent == account.delivered && account.duplicated == 0, "{account:?}");
    }
    let [first, second] = captures.map(|capture| capture.stop().expect("captured"));
    assert_eq!((first.nonces_reused, second.nonces_reused), (0, 0));
    let keys = |report: &CaptureReport| report.keys.keys().copied().collect::<BTreeSet<_>>();
    assert_eq!(keys(&first), keys(&second), "sealed once, for both");
    wait_accounted(&lab)
}
