//! R1: the administrator changes a group key and cuts a gateway off, while a stream runs. Who stays a member loses
//! nothing; who is cut off hears nothing more. And many changes, one after the other, over a link that loses what the
//! gateways tell each other.
//!
//! `GEMCAST_ROTATIONS=220 GEMCAST_KPPS=50` makes the last one long: 198 source keys and 22 group keys at 50,000 packets a
//! second, three minutes. Without them it is 9 source keys and a group key at 20,000. A machine that does not forward that
//! much drops the rest, for reasons of its own: what is judged is what keys cost.

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::{GROUPS, PORT, ip, keys_in_state, scale, turn, wait_accounted};
use gemcast_lab::{Account, Gateway, Lab, Options, PAYLOAD_LEN, Result, Seconds, Stream, Topology};

/// What a busy machine drops, and keys have nothing to do with.
const LOAD: [&str; 3] = ["ring_full", "no_frame", "tx_ring_full"];

/// Epochs of the group that a gateway accepts.
fn epochs(gateway: &Gateway<'_>) -> Vec<u64> {
    let listed = gateway.gemctl(&["group", "list"]).unwrap_or_default();
    let group = listed["groups"].as_array().into_iter().flatten().find(|group| group["group"] == GROUPS[0]);
    let epochs = group.and_then(|group| group["epochs"].as_array().cloned()).unwrap_or_default();
    epochs.iter().filter_map(serde_json::Value::as_u64).collect()
}

/// A stream of that many thousand packets a second.
fn stream(kpps: u64) -> Stream {
    Stream::to(ip(GROUPS[0])).bits_per_second(kpps * 1000 * PAYLOAD_LEN as u64 * 8)
}

/// What these gateways dropped so far, by reason: for whatever keys may have to do with, and because they were busy.
fn dropped(gateways: &[Gateway<'_>]) -> [BTreeMap<String, u64>; 2] {
    let mut dropped = [BTreeMap::new(), BTreeMap::new()];
    for interface in gateways.iter().flat_map(|gateway| gateway.interfaces().unwrap_or_default()) {
        for (reason, frames) in interface.dropped {
            let busy = LOAD.contains(&reason.as_str());
            *dropped[usize::from(busy)].entry(reason).or_default() += frames;
        }
    }
    dropped
}

/// A lab whose daemons are still to be started, after its administrator was made.
fn prepared(instance: &str, topology: Topology, keys: &str) -> Result<Lab> {
    let lab = Lab::up(topology, Options::new(instance).config(&format!("[keys]\n{keys}")).without_daemons())?;
    lab.make_identities()?;
    Ok(lab)
}

/// Key that a gateway seals the group with, and its epoch.
fn active(gateway: &Gateway<'_>) -> (String, u64) {
    let listed = gateway.gemctl(&["key", "list"]).unwrap_or_default();
    let mut keys = listed["keys"].as_array().into_iter().flatten();
    let key = keys.find(|key| key["state"] == "active" && key["group"] == GROUPS[0]);
    key.map(|key| (key["key_id"].to_string(), key["epoch"].as_u64().unwrap_or_default())).unwrap_or_default()
}

#[test]
fn r1_a_new_group_key_loses_no_packet_and_who_is_cut_off_hears_nothing_after_five_seconds() -> Result<()> {
    let _turn = turn();
    let lab = prepared("t-r1", Topology::trio(), "announce_lead = \"2s\"\noverlap = \"1s\"")?;
    let administrator = lab.administrator()?;
    lab.start()?;
    lab.wait_converged(30.s())?;
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.gateway(name));
    let group = ip(GROUPS[0]);
    let receivers = [lab.host("host-b").receive(group, PORT, None)?, lab.host("host-c").receive(group, PORT, None)?];
    let [before, _] = dropped(&[a, b]);
    let sender = lab.host("host-a").send(stream(10))?;
    lab.eventually(10.s(), "the stream to arrive", || receivers.iter().all(|receiver| receiver.delivered() > 200))?;

    // A planned change, handed to one gateway that is not the source.
    let planned = administrator.package(GROUPS[0], 2, &["--activate-at", "in 4s"])?;
    administrator.inject("b", &planned)?;
    lab.eventually(20.s(), "the source to send with the new key", || active(&a).1 == 2)?;
    let delivered = receivers.each_ref().map(|receiver| receiver.delivered());
    lab.eventually(10.s(), "the stream to go on", || {
        receivers.iter().zip(delivered).all(|(receiver, before)| receiver.delivered() > before + 2_000)
    })?;

    // Cut off in one go: a package without c, and its revocation.
    let without = administrator.package(GROUPS[0], 3, &["--emergency", "--without", "c"])?;
    let revocation = administrator.revoke("c")?;
    let injected = Instant::now();
    administrator.inject("a", &without)?;
    administrator.inject("a", &revocation)?;
    let is_over = || epochs(&a) == [3] && epochs(&b) == [3];
    lab.eventually(5.s().saturating_sub(injected.elapsed()), "the epochs before to be over", is_over)?;
    assert!(injected.elapsed() < Duration::from_secs(5));
    let [b_heard, c_heard] = receivers.each_ref().map(|receiver| receiver.delivered());
    lab.eventually(10.s(), "the stream to go on for b", || receivers[0].delivered() > b_heard + 5_000)?;
    assert_eq!(receivers[1].delivered(), c_heard, "c opens nothing any more");
    assert!(keys_in_state(&c, "opening").is_empty() && !keys_in_state(&b, "opening").is_empty());

    let sent = sender.stop();
    let [b_report, _] = receivers.map(|receiver| receiver.finish(200.ms()));
    wait_accounted(&lab)?;
    let [for_keys, busy] = dropped(&[a, b]);
    assert_eq!(for_keys, before, "no change of keys costs a packet");
    let account = Account::of(&sent, &b_report.stream(1), &[]);
    assert_eq!((account.duplicated, b_report.corrupt), (0, 0), "{account:?}");
    assert!(account.delivered > account.sent / 2, "more is lost than a busy machine loses: {account:?}, {busy:?}");
    assert!(b.directory().join("state/administration.gem").exists());
    Ok(())
}

/// Takes what the gateways multicast to each other away for a tenth of a second out of every second, now from one and
/// now from the other: far worse than one packet in a hundred, as all that belongs together is gone. Returns how often.
fn deafen(lab: &Lab, ports: [&str; 2], stop: &AtomicBool) -> Result<u64> {
    let switch = lab.host("switch");
    let mut times = 0;
    for port in ports.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let place = ["dev", "br-wan", "port", port, "grp", "ff02::1:6"];
        // Fails while the port has not told that it wants the group, and then is tried the next time.
        if switch.run(&[&["bridge", "mdb", "del"][..], &place].concat()).is_ok() {
            std::thread::sleep(100.ms());
            // Fails when the port has told so itself by now.
            switch.output(&[&["bridge", "mdb", "add"][..], &place, &["temp"]].concat())?;
            times += 1;
        }
        std::thread::sleep(900.ms());
    }
    Ok(times)
}

#[test]
fn r1_any_number_of_rotations_loses_no_packet() -> Result<()> {
    let _turn = turn();
    let (rotations, kpps) = (scale("GEMCAST_ROTATIONS", 10), scale("GEMCAST_KPPS", 20));
    let keys = "announce_lead = \"500ms\"\noverlap = \"500ms\"";
    let lab = prepared("t-r1-many", Topology::pair(), keys)?;
    let administrator = lab.administrator()?;
    lab.start()?;
    lab.wait_converged(30.s())?;
    let [a, b] = ["a", "b"].map(|name| lab.gateway(name));
    let receiver = lab.host("receiver").receive(ip(GROUPS[0]), PORT, None)?;
    let [before, _] = dropped(&[a, b]);
    let sender = lab.host("source").send(stream(kpps))?;
    lab.eventually(10.s(), "the stream to arrive", || receiver.delivered() > 200)?;

    let (stop, deaf) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut group_keys = 0;
    std::thread::scope(|scope| -> Result<()> {
        let loss =
            scope.spawn(|| deafen(&lab, ["wan-a", "wan-b"], &stop).map(|times| deaf.store(times, Ordering::Relaxed)));
        let mut rotate = || -> Result<()> {
            for rotation in 1..=rotations {
                let (key, epoch) = active(&a);
                if rotation % 10 == 0 {
                    group_keys += 1;
                    let made = administrator.package(GROUPS[0], epoch + 1, &["--activate-at", "in 2s"])?;
                    // Handed to either gateway in turn.
                    administrator.inject(["b", "a"][group_keys % 2], &made)?;
                    lab.eventually(30.s(), "the new group key", || active(&a).1 == epoch + 1)?;
                } else {
                    a.gemctl(&["key", "rotate", GROUPS[0]])?;
                    lab.eventually(30.s(), "the new source key", || active(&a).0 != key)?;
                }
            }
            Ok(())
        };
        let rotated = rotate();
        stop.store(true, Ordering::Relaxed);
        loss.join().expect("no panic")?;
        rotated
    })?;

    let sent = sender.stop();
    let report = receiver.finish(200.ms());
    wait_accounted(&lab)?;
    let account = Account::of(&sent, &report.stream(1), &[]);
    let (keys, deaf) = (rotations - group_keys as u64, deaf.into_inner());
    let [for_keys, busy] = dropped(&[a, b]);
    println!("{keys} source keys, {group_keys} group keys, deaf {deaf} times: {account:?}, busy {busy:?}");
    assert!(deaf > 0, "control traffic was disturbed");
    assert_eq!(for_keys, before, "no rotation costs a packet");
    assert_eq!((account.duplicated, report.corrupt), (0, 0), "{account:?}");
    assert!(account.delivered > account.sent / 2, "more is lost than a busy machine loses: {account:?}, {busy:?}");
    Ok(())
}
