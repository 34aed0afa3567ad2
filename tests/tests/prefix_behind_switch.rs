//! A prefix of groups cannot be joined. Switches that snoop deliver it to a gateway nevertheless, because the gateway
//! tells them that it is a multicast router (RFC 4286).

mod common;

use common::{PORT, ip, turn, wait_accounted};
use gemcast_lab::{Account, Group, Lab, Options, Result, Role, Seconds, Segment, Stream, Topology};

/// Two gateways on one link, and a switch on the LAN of the first.
fn switched() -> Topology {
    let segment = |name, role, hosts: &[&'static str]| Segment { name, role, hosts: hosts.into() };
    Topology {
        name: "switched",
        segments: vec![
            segment("lan-a", Role::Trusted, &["a", "source", "bystander"]),
            segment("lan-b", Role::Trusted, &["b", "receiver"]),
            segment("wan", Role::Untrusted, &["a", "b"]),
        ],
    }
}

#[test]
fn a_switch_that_snoops_delivers_a_prefix_to_the_gateway() -> Result<()> {
    let _turn = turn();
    let groups = [Group::new("239.7.0.0/16"), Group::new("ff3e::7:0/112")];
    let lab = Lab::up(switched(), Options::new("t-mrd").groups(groups))?;
    let switch = lab.host("switch");
    lab.eventually(30.s(), "the switch to know the multicast router", || {
        let known = switch.run(&["bridge", "-d", "mdb", "show"]).unwrap_or_default();
        known.lines().any(|line| line.contains("router ports") && line.contains("lan-a-a"))
    })?;
    for group in ["239.7.1.2", "ff3e::7:102"].map(ip) {
        let bystander = || lab.host("bystander").run(&["cat", "/sys/class/net/eth0/statistics/rx_packets"]);
        let heard = || -> Result<u64> { Ok(bystander()?.trim().parse().expect("a number")) };
        let receiver = lab.host("receiver").receive(group, PORT, None)?;
        lab.eventually(30.s(), "the switch to know of a router of this family, too", || {
            lab.host("source").send(Stream::to(group).id(9).packets(5)).expect("it can send").finish();
            receiver.report().stream(9).delivered > 0
        })?;
        let before = heard()?;
        let sent = lab.host("source").send(Stream::to(group).packets(500))?.finish();
        let account = Account::of(&sent, &receiver.finish(200.ms()).stream(1), &[]);
        assert!(account.is_perfect(), "{group}: {account:?}");
        assert!(heard()? < before + 250, "the switch does snoop");
    }
    wait_accounted(&lab)
}
