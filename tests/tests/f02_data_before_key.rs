//! F02: data arrives before its key. The group tag is checked, the packets wait; they are delivered in order when the
//! key comes, or dropped and counted.

mod common;

use common::{GROUPS, PORT, ip, turn, wait_accounted};
use gemcast_lab::{Account, Daemon, Lab, Options, Result, Seconds, Stream, Topology, monotonic_ns};
use rustix::process::Signal;

/// A key that is announced only just before it is used.
const KEYS: &str = "[keys]\nannounce_lead = \"1s\"\noverlap = \"1s\"";

#[test]
fn f02_packets_wait_for_their_key_and_are_delivered_in_order() -> Result<()> {
    let _turn = turn();
    let lab = Lab::up(Topology::pair(), Options::new("t-f02").config(KEYS))?;
    let (a, b) = (lab.gateway("a"), lab.gateway("b"));
    let group = ip(GROUPS[0]);
    let capture = lab.host("observer").capture("eth0")?.start()?;
    let receiver = lab.host("receiver").receive(group, PORT, None)?;
    // 50 packets a second: the queue of 64 does not fill in the time a packet may wait.
    let sender = lab.host("source").send(Stream::to(group).bits_per_second(530_000))?;
    lab.eventually(5.s(), "the stream to arrive", || receiver.delivered() > 10)?;

    // b's control daemon cannot hear the announcement, so its data plane does not know the key when it is used.
    b.signal(Daemon::Control, Signal::STOP)?;
    let keys = || capture.look(|report| report.keys.len());
    a.gemctl(&["key", "rotate", GROUPS[0]])?;
    lab.eventually(10.s(), "packets under the new key", || keys() == 2)?;
    let new_key_ns = monotonic_ns();
    let sent = sender.sent();
    lab.eventually(2.s(), "some packets to wait", || sender.sent() >= sent + 5)?;
    let heard_ns = monotonic_ns();
    b.signal(Daemon::Control, Signal::CONT)?;

    lab.eventually(5.s(), "the stream to arrive again", || receiver.last_ns() > heard_ns + 100_000_000)?;
    let sent = sender.stop();
    let received = receiver.finish(200.ms()).stream(1);
    wait_accounted(&lab)?;
    let wan = b.interface("wan0")?;
    let account = Account::of(&sent, &received, &[]);
    let dropped = wan.dropped_for("key_timeout") + wan.dropped_for("key_queue_full");
    assert_eq!(account.lost, dropped, "what was not delivered was counted: {account:?}, {wan:?}");
    assert_eq!((account.duplicated, account.reordered), (0, 0), "{account:?}");
    // These were sent, and heard by b, while nobody could have told it the key.
    let early = (0..).zip(&sent.sent_ns).filter(|(_, ns)| (new_key_ns..heard_ns).contains(*ns));
    let waited = early.filter(|(sequence, _)| received.has(*sequence)).count();
    assert!(waited > 0, "packets that came before their key were delivered: {account:?}, {wan:?}");
    Ok(())
}

#[test]
fn f02_packets_whose_key_does_not_come_are_dropped_and_counted() -> Result<()> {
    let _turn = turn();
    let lab = Lab::up(Topology::pair(), Options::new("t-f02-drop").config(KEYS))?;
    let (a, b) = (lab.gateway("a"), lab.gateway("b"));
    let group = ip(GROUPS[0]);
    let capture = lab.host("observer").capture("eth0")?.start()?;
    let receiver = lab.host("receiver").receive(group, PORT, None)?;
    let sender = lab.host("source").send(Stream::to(group))?;
    lab.eventually(5.s(), "the stream to arrive", || receiver.delivered() > 100)?;

    b.signal(Daemon::Control, Signal::STOP)?;
    a.gemctl(&["key", "rotate", GROUPS[0]])?;
    lab.eventually(10.s(), "packets under the new key", || capture.look(|report| report.keys.len() == 2))?;
    let sent = sender.sent();
    // Far more than the queue of 64 packets takes.
    lab.eventually(5.s(), "the queue to overflow", || sender.sent() > sent + 1000)?;
    b.signal(Daemon::Control, Signal::CONT)?;
    let heard_ns = monotonic_ns();
    lab.eventually(5.s(), "the stream to arrive again", || receiver.last_ns() > heard_ns + 500_000_000)?;

    let sent = sender.stop();
    let received = receiver.finish(200.ms()).stream(1);
    wait_accounted(&lab)?;
    let wan = b.interface("wan0")?;
    let account = Account::of(&sent, &received, &[]);
    assert!(wan.dropped_for("key_queue_full") > 0, "{wan:?}");
    let dropped = wan.dropped_for("key_timeout") + wan.dropped_for("key_queue_full");
    assert_eq!(account.lost, dropped, "{account:?}, {wan:?}");
    assert_eq!((account.duplicated, account.reordered), (0, 0), "{account:?}");
    Ok(())
}
