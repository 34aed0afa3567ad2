//! F38: latency and jitter on the wire. Hellos come late and out of order, and nobody is taken for dead.

mod common;

use common::{GROUPS, PORT, adjacent, events, ip, turn, wait_accounted};
use gemcast_lab::{Effect, Fault, Lab, LinkFault, Options, Result, Seconds, Stream, Topology};

/// Packets by which the streams show that a while has passed: some fifteen seconds of them, so that the neighbours expect
/// as many Hellos.
const A_WHILE: u64 = 1400;

#[test]
fn f38_delay_and_jitter_cause_no_false_deaths() -> Result<()> {
    let _turn = turn();
    let lab = Lab::up(Topology::pair(), Options::new("t-f38").faulty("wan"))?;
    let [a, b] = ["a", "b"].map(|name| lab.gateway(name));
    let group = ip(GROUPS[0]);
    lab.eventually(20.s(), "the adjacency", || adjacent(&a, "wan0") && adjacent(&b, "wan0"))?;
    let receiver = lab.host("receiver").receive(group, PORT, None)?;
    let sender = lab.host("source").send(Stream::to(group).bits_per_second(1_000_000))?;
    lab.eventually(20.s(), "the stream", || receiver.delivered() > 0)?;

    // Up to 0.8 s either way, of an interval of 1 s between Hellos.
    let slow =
        Fault::Link { segment: "wan".into(), fault: LinkFault::new(Effect::Delay { delay_ms: 400, jitter_ms: 400 }) };
    lab.inject(&slow)?;
    let before = receiver.delivered();
    lab.eventually(60.s(), "a while of packets", || receiver.delivered() > before + A_WHILE)?;
    for gateway in [&a, &b] {
        assert!(events(gateway, "neighbour_dead").is_empty(), "{:?}", events(gateway, "neighbour_dead"));
        assert!(adjacent(gateway, "wan0"));
    }
    lab.lift(&slow)?;
    // Late packets arrive in any order; each does, once.
    let sent = sender.stop();
    lab.eventually(20.s(), "every packet", || receiver.delivered() == sent.sent())?;
    let got = receiver.finish(200.ms());
    assert_eq!((got.stream(1).duplicated, got.corrupt), (0, 0));
    assert!(got.stream(1).reordered > 0, "the delay had an effect");
    wait_accounted(&lab)
}
