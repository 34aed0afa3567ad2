//! F01: a SEK announcement is lost. Nobody acknowledges; the next digest finds the difference, in seconds.

mod common;

use common::{GROUPS, PORT, adjacent, ip, keys_in_state, opening_keys, turn};
use gemcast_lab::{GemTraffic, Lab, Options, Result, Seconds, Stream, Topology};
use gemcast_proto::wire::gem::ObjectKind;

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
