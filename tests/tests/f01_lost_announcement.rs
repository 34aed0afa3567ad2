//! F01: a SEK announcement is lost. Nobody acknowledges; the next digest finds the difference, in seconds. F32: when some
//! neighbours lack it, those alone are retried, and `gemctl sync` tells which.

mod common;

use common::{GROUPS, PORT, adjacent, ip, keys_in_state, opening_keys, turn};
use gemcast_lab::{Daemon, Gateway, GemTraffic, Lab, Options, Result, Seconds, Stream, Topology};
use gemcast_proto::wire::gem::ObjectKind;
use rustix::process::Signal;
use serde_json::Value;

#[test]
fn f01_a_lost_announcement_is_repaired_within_the_refresh_interval() -> Result<()> {
    let _turn = turn();
    let lab = Lab::up(Topology::pair(), Options::new("t-f01"))?;
    let (a, b) = (lab.gateway("a"), lab.gateway("b"));
    let before = opening_keys(&b);
    let capture = lab.host("observer").capture("eth0")?.keep(100_000).start()?;

    // The two do not hear each other while the key is announced, every repetition included; the observer hears all.
    lab.isolate("wan", &["a", "b"])?;
    a.gemctl(&["key", "rotate", GROUPS[0]])?;
    lab.eventually(2.s(), "a to have made a key", || !keys_in_state(&a, "announced").is_empty())?;
    let made = keys_in_state(&a, "announced").pop_first().expect("it was waited for");
    let number = u64::from_str_radix(&made, 16).expect("hexadecimal");
    let announced = || {
        let objects = GemTraffic::of(&capture.look(|report| report.datagrams.clone())).objects;
        let of_key = objects.iter().filter(|((name, _), _)| name.kind == ObjectKind::SEK && name.id == number);
        of_key.map(|(_, times)| *times).sum::<u64>()
    };
    let waited = lab.eventually(5.s(), "the announcement and both repetitions", || announced() >= 3);
    let known = opening_keys(&b);
    lab.rejoin("wan", &["a", "b"])?;
    waited?;
    assert_eq!(known, before, "b did not hear of the key");

    // Long before the key is used: an announcement takes over after 30 s.
    lab.eventually(10.s(), "b to have the key", || opening_keys(&b).contains(&made))?;
    lab.eventually(5.s(), "the link to count as good again", || adjacent(&b, "wan0") && adjacent(&a, "wan0"))?;
    let receiver = lab.host("receiver").receive(ip(GROUPS[0]), PORT, None)?;
    lab.host("source").send(Stream::to(ip(GROUPS[0])).packets(100))?.finish();
    lab.eventually(2.s(), "the stream", || receiver.delivered() == 100).map(drop)
}

/// How a neighbour's table compares to the gateway's own.
fn compared(gateway: &Gateway<'_>, with: &Gateway<'_>) -> Value {
    let address = with.host().interface_named("wan0").mac.link_local().to_string();
    let listed = gateway.gemctl(&["sync"]).unwrap_or_default();
    listed["neighbours"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|one| one["address"] == address)
        .cloned()
        .unwrap_or_default()
}

#[test]
fn f32_the_neighbour_that_missed_it_is_retried_and_no_other() -> Result<()> {
    let _turn = turn();
    let lab = Lab::up(Topology::trio(), Options::new("t-f32"))?;
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.gateway(name));
    let equal = |one: &Gateway<'_>, other: &Gateway<'_>| compared(one, other)["sync"] == "equal";
    lab.eventually(20.s(), "equal tables", || equal(&a, &b) && equal(&a, &c))?;

    c.signal(Daemon::Control, Signal::STOP)?;
    let rotated = a.gemctl(&["key", "rotate", GROUPS[0]]);
    let behind = lab.eventually(20.s(), "c to be behind, and retried over and over", || {
        let c = compared(&a, &c);
        equal(&a, &b) && c["sync"] == "differs" && c["objects_behind"] == 1 && c["sync_tries"].as_u64() >= Some(3)
    });
    let (retried, text) = (compared(&a, &c), a.gemctl_output(&["sync"])?);
    let objects = a.gemctl(&["sync"])?["objects"].clone();
    c.signal(Daemon::Control, Signal::CONT)?;
    rotated?;
    behind?;
    assert!(retried["sync_next_ms"].as_u64().is_some_and(|wait| wait <= 2_000), "{retried}");
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("it lacks at least 1; compared"), "{text}");
    assert!(text.starts_with(&format!("{objects} objects here\n")), "{text}");
    lab.eventually(20.s(), "equal tables again", || equal(&a, &b) && equal(&a, &c) && equal(&b, &c)).map(drop)
}
