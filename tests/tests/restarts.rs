//! Daemons that are killed: no counter is used twice under a key, control's absence costs no packet.
//!
//! `GEMCAST_KILLS=200` kills that many daemons in turn, instead of 10.

mod common;

use common::{GROUPS, PORT, ip, scale, turn, wait_accounted};
use gemcast_lab::{Account, Daemon, Lab, Options, Result, Seconds, Stream, Topology, monotonic_ns};

#[test]
fn r1_killing_either_daemon_never_repeats_a_counter() -> Result<()> {
    let _turn = turn();
    // A restarted control daemon makes a new key, soon here, and the data plane may die at any point of the change.
    let keys = "[keys]\nannounce_lead = \"1s\"\noverlap = \"1s\"";
    let lab = Lab::up(Topology::pair(), Options::new("t-kill").config(keys))?;
    let groups = GROUPS.map(ip);
    let capture = lab.host("observer").capture("eth0")?.protected(&groups).start()?;
    let receivers =
        [lab.host("receiver").receive(groups[0], PORT, None)?, lab.host("receiver").receive(groups[1], PORT, None)?];
    let senders = [lab.host("source").send(Stream::to(groups[0]))?, lab.host("source").send(Stream::to(groups[1]))?];
    let kills = scale("GEMCAST_KILLS", 10);
    for round in 0..kills {
        let gateway = lab.gateway(if round % 5 == 4 { "b" } else { "a" });
        let delivered = receivers.each_ref().map(|receiver| receiver.delivered());
        lab.eventually(20.s(), "both streams to flow", || {
            receivers.iter().zip(delivered).all(|(receiver, before)| receiver.delivered() > before + 100)
        })?;
        let daemon = Daemon::BOTH[round as usize % 2];
        gateway.kill(daemon)?;
        gateway.start(daemon)?;
        let now = monotonic_ns();
        lab.eventually(20.s(), "both streams to arrive again", || receivers.iter().all(|r| r.last_ns() > now))?;
        if round % 4 == 1 && gateway.host().name() == "a" {
            // This one lives long enough to change the keys of both groups.
            let keys = || capture.look(|report| report.keys.len());
            let before = keys();
            lab.eventually(30.s(), "packets under new keys", || keys() >= before + 2)?;
        }
    }
    drop(senders);
    let heard = capture.stop()?;
    println!("{kills} kills: {} packets under {} keys, {} reused", heard.sealed, heard.keys.len(), heard.nonces_reused);
    assert!(heard.sealed > 2000 && heard.missed == 0, "{} sealed, {} missed", heard.sealed, heard.missed);
    assert_eq!((heard.nonces_reused, heard.sealed_repeated), (0, 0));
    assert_eq!(heard.cleartext, 0, "{:02x?}", heard.cleartext_examples);
    for receiver in receivers {
        let report = receiver.finish(200.ms());
        assert_eq!((report.corrupt, report.stream(1).duplicated), (0, 0));
    }
    Ok(())
}

#[test]
fn f33_killing_the_control_daemons_in_a_loop_loses_no_packet() -> Result<()> {
    let _turn = turn();
    // A restarted control daemon makes a new key; the switch to it, soon here, must not cost a packet either.
    let keys = "[keys]\nannounce_lead = \"1s\"\noverlap = \"1s\"";
    let lab = Lab::up(Topology::pair(), Options::new("t-kill-control").config(keys))?;
    let group = ip(GROUPS[0]);
    let capture = lab.host("observer").capture("eth0")?.protected(&[group]).start()?;
    let receiver = lab.host("receiver").receive(group, PORT, None)?;
    let sender = lab.host("source").send(Stream::to(group))?;
    for name in ["a", "b", "a", "b"] {
        let gateway = lab.gateway(name);
        gateway.kill_control()?;
        let delivered = receiver.delivered();
        lab.eventually(5.s(), "the stream to flow without control", || receiver.delivered() > delivered + 200)?;
        gateway.start(Daemon::Control)?;
        gateway.wait_ready(20.s())?;
        gateway.wait_keys(20.s())?;
    }
    // Again and again in the middle of starting, a little later each time.
    for (round, name) in (1..).zip(["a", "b", "a", "b", "a", "b", "a", "b"]) {
        let gateway = lab.gateway(name);
        gateway.kill_control()?;
        gateway.start(Daemon::Control)?;
        let delivered = receiver.delivered();
        lab.eventually(20.s(), "the stream to flow on", || receiver.delivered() > delivered + 50 * round)?;
    }
    lab.wait_converged(20.s())?;
    let sent = sender.stop();
    let account = Account::of(&sent, &receiver.finish(200.ms()).stream(1), &[]);
    assert!(account.is_perfect(), "{account:?}");
    let heard = capture.stop()?;
    assert_eq!((heard.cleartext, heard.nonces_reused, heard.sealed_repeated), (0, 0, 0));
    wait_accounted(&lab)
}

#[test]
fn a_restarted_control_daemon_knows_that_the_key_it_found_still_seals() -> Result<()> {
    let _turn = turn();
    let lab = Lab::up(Topology::pair(), Options::new("t-adopt"))?;
    let a = lab.gateway("a");
    a.kill_control()?;
    a.start(Daemon::Control)?;
    a.wait_ready(20.s())?;
    let problems = a.gemctl(&["status"])?["problems"].take();
    assert!(!problems.to_string().contains("no_seal_key"), "{problems}");
    a.wait_keys(20.s()).map(drop)
}

#[test]
fn the_data_plane_restarts_on_its_own_while_control_is_down() -> Result<()> {
    let _turn = turn();
    let lab = Lab::up(Topology::pair(), Options::new("t-alone"))?;
    let group = ip(GROUPS[0]);
    let capture = lab.host("observer").capture("eth0")?.protected(&[group]).start()?;
    let receiver = lab.host("receiver").receive(group, PORT, None)?;
    let sender = lab.host("source").send(Stream::to(group))?;
    lab.eventually(5.s(), "the stream to flow", || receiver.delivered() > 200)?;
    for name in ["a", "b"] {
        let gateway = lab.gateway(name);
        gateway.kill_control()?;
        gateway.kill_dataplane()?;
        gateway.start(Daemon::DataPlane)?;
        let now = monotonic_ns();
        lab.eventually(10.s(), "the stream to arrive again", || receiver.last_ns() > now)?;
    }
    drop(sender);
    let heard = capture.stop()?;
    assert_eq!((heard.cleartext, heard.nonces_reused, heard.sealed_repeated), (0, 0, 0));
    Ok(())
}
