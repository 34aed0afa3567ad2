//! Who has no key gets nothing, and learns nothing.

mod common;

use common::{GROUPS, PORT, ip, turn, wait_accounted};
use gemcast_lab::{Account, Group, Lab, Options, Result, Seconds, Stream, Topology};

#[test]
fn a_receiver_behind_a_gateway_that_is_no_member_gets_nothing() -> Result<()> {
    let _turn = turn();
    let groups = GROUPS.map(|group| Group::new(group).members(&["a", "b"]));
    // Bridges flood, so that the sealed packets do reach the gateway that cannot open them.
    let lab = Lab::up(Topology::trio(), Options::new("t-member").groups(groups).without_snooping())?;
    for group in GROUPS.map(ip) {
        let member = lab.host("host-b").receive(group, PORT, None)?;
        let stranger = lab.host("host-c").receive(group, PORT, None)?;
        let behind_stranger = lab.host("host-c").capture("eth0")?.protected(&[group]).start()?;
        let before = lab.gateway("c").interface("wan0")?.received;
        let sent = lab.host("host-a").send(Stream::to(group).packets(500))?.finish();
        let account = Account::of(&sent, &member.finish(200.ms()).stream(1), &[]);
        assert!(account.is_perfect(), "{account:?}");
        let stranger = stranger.stop();
        assert_eq!((stranger.delivered(), stranger.corrupt), (0, 0));
        let leaked = behind_stranger.stop()?;
        assert_eq!((leaked.sealed, leaked.cleartext), (0, 0));
        lab.eventually(3.s(), "c to have heard the sealed packets", || {
            lab.gateway("c").interface("wan0").is_ok_and(|wan| wan.received - before >= 500)
        })?;
    }
    let c = lab.gateway("c");
    assert_eq!(c.interface("wan0")?.forwarded, 0);
    let keys = c.gemctl(&["key", "list"])?;
    let opening = keys["keys"].as_array().into_iter().flatten().filter(|key| key["state"] == "opening").count();
    assert_eq!(opening, 0, "{keys}");
    wait_accounted(&lab)
}

#[test]
fn a_bridge_that_snoops_delivers_to_members_only() -> Result<()> {
    let _turn = turn();
    let groups = GROUPS.map(|group| Group::new(group).members(&["a", "b"]));
    // Without transit, c has no business with groups it is no member of.
    let options = Options::new("t-prune").groups(groups).node("transit = false");
    let lab = Lab::up(Topology::trio(), options)?;
    let group = ip(GROUPS[0]);
    let receiver = lab.host("host-b").receive(group, PORT, None)?;
    lab.eventually(10.s(), "the bridge to prune", || {
        let received = || lab.gateway("c").interface("wan0").map(|wan| wan.received).unwrap_or(u64::MAX);
        let before = received();
        lab.host("host-a").send(Stream::to(group).id(9).packets(100)).expect("it can send").finish();
        std::thread::sleep(1200.ms());
        received() < before.saturating_add(50)
    })?;
    let sent = lab.host("host-a").send(Stream::to(group).packets(500))?.finish();
    let account = Account::of(&sent, &receiver.finish(200.ms()).stream(1), &[]);
    assert!(account.is_perfect(), "b joined the group on its untrusted interface: {account:?}");
    Ok(())
}

#[test]
fn a_relay_that_is_no_member_carries_what_it_cannot_read() -> Result<()> {
    let _turn = turn();
    let groups = GROUPS.map(|group| Group::new(group).members(&["a", "c"]));
    let lab = Lab::up(Topology::line(), Options::new("t-transit").groups(groups))?;
    for group in GROUPS.map(ip) {
        let observer = lab.host("observer");
        let first_link = observer.capture("eth0")?.protected(&[group]).start()?;
        let second_link = observer.capture("eth1")?.protected(&[group]).start()?;
        let member = lab.host("host-c").receive(group, PORT, None)?;
        let behind_relay = lab.host("host-b").capture("eth0")?.protected(&[group]).start()?;
        // The relay joins a group, and learns the way to its sources, once it has heard of their keys.
        let mut probes = 0;
        lab.eventually(30.s(), "the relay to carry the group", || {
            probes +=
                lab.host("host-a").send(Stream::to(group).id(9).packets(20)).expect("it can send").finish().sent();
            member.report().stream(9).delivered > 0
        })?;
        let sent = lab.host("host-a").send(Stream::to(group).packets(500))?.finish();
        let account = Account::of(&sent, &member.finish(200.ms()).stream(1), &[]);
        assert!(account.is_perfect(), "{account:?}");
        let (first, second, behind) = (first_link.stop()?, second_link.stop()?, behind_relay.stop()?);
        assert_eq!(first.sealed, probes + 500);
        assert!(second.sealed >= 500, "{} relayed", second.sealed);
        assert_eq!((first.cleartext, second.cleartext, behind.cleartext, behind.sealed), (0, 0, 0, 0));
        assert_eq!((first.nonces_reused, second.nonces_reused), (0, 0));
    }
    wait_accounted(&lab)
}
