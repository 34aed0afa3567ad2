//! F05: several sources for one group. Each has its own key; every stream is opened, independently, always.

mod common;

use common::{GROUPS, PORT, ip, turn, wait_accounted};
use gemcast_lab::{Account, Lab, Options, Result, Seconds, Stream, Topology};

#[test]
fn f05_streams_of_two_sources_to_one_group_are_both_delivered() -> Result<()> {
    let _turn = turn();
    let lab = Lab::up(Topology::trio(), Options::new("t-f05"))?;
    for group in GROUPS.map(ip) {
        let capture = lab.host("observer").capture("eth0")?.protected(&[group]).start()?;
        let receiver = lab.host("host-c").receive(group, PORT, None)?;
        let from_a = lab.host("host-a").send(Stream::to(group).id(1).packets(1500))?;
        let from_b = lab.host("host-b").send(Stream::to(group).id(2).packets(1500))?;
        let sent = [from_a.finish(), from_b.finish()];
        let received = receiver.finish(200.ms());
        for sent in &sent {
            let account = Account::of(sent, &received.stream(sent.stream), &[]);
            assert!(account.is_perfect(), "stream {} to {group}: {account:?}", sent.stream);
        }
        let heard = capture.stop()?;
        assert_eq!((heard.keys.len(), heard.cleartext, heard.nonces_reused), (2, 0, 0), "one key per source");
        assert!(heard.keys.values().all(|packets| *packets == 1500), "{:?}", heard.keys);
    }
    wait_accounted(&lab)
}

#[test]
fn f05_one_source_that_rotates_does_not_disturb_the_other() -> Result<()> {
    let _turn = turn();
    let keys = "[keys]\nannounce_lead = \"1s\"\noverlap = \"1s\"";
    let lab = Lab::up(Topology::trio(), Options::new("t-f05-rotate").config(keys))?;
    let group = ip(GROUPS[0]);
    let capture = lab.host("observer").capture("eth0")?.start()?;
    let receiver = lab.host("host-c").receive(group, PORT, None)?;
    let from_a = lab.host("host-a").send(Stream::to(group).id(1))?;
    let from_b = lab.host("host-b").send(Stream::to(group).id(2))?;
    for _ in 0..2 {
        let before = capture.look(|report| report.keys.len()).max(2);
        lab.gateway("a").gemctl(&["key", "rotate", GROUPS[0]])?;
        lab.eventually(10.s(), "a new key", || capture.look(|report| report.keys.len()) > before)?;
    }
    let sent = [from_a.stop(), from_b.stop()];
    let received = receiver.finish(200.ms());
    for sent in &sent {
        let account = Account::of(sent, &received.stream(sent.stream), &[]);
        assert!(account.is_perfect(), "stream {}: {account:?}", sent.stream);
    }
    wait_accounted(&lab)
}
