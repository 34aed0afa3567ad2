//! Babel goes on by unicast where the link's multicast fails, tries peers that do not answer, and finds those again
//! that died. The switch delivers no multicast between the gateways; unicast passes.

mod common;

use common::{GROUPS, events, ip, problem, turn};
use gemcast_lab::{Daemon, Gateway, Lab, Options, Result, Seconds, Topology};
use serde_json::Value;

const A: &str = "10.77.3.1";
const B: &str = "10.77.3.2";
/// An address that nobody has.
const NOBODY: &str = "10.77.3.99";

fn list(gateway: &Gateway<'_>, words: &[&str], name: &str) -> Vec<Value> {
    gateway.gemctl(words).ok().and_then(|answer| answer[name].as_array().cloned()).unwrap_or_default()
}

fn neighbours(gateway: &Gateway<'_>) -> Vec<Value> {
    list(gateway, &["neighbour", "list"], "neighbours")
}

fn has_neighbour(gateway: &Gateway<'_>, by_unicast: bool) -> bool {
    neighbours(gateway).iter().any(|one| one["up"] == true && (one["by_unicast"] == true) == by_unicast)
}

/// Two gateways that are each other's peers by IPv4 and hear no multicast of each other.
fn deaf_pair(instance: &str, peers_of_a: &str) -> Result<Lab> {
    let options = Options::new(instance)
        .interface_config("a", "wan0", peers_of_a)
        .interface_config("b", "wan0", &format!("peers = [\"{A}\"]"))
        .gateway_config("a", "[babel]\nannounce = [\"192.168.71.0/24\", \"2001:db8:71::/48\"]\n")
        .without_snooping()
        .without_daemons();
    let lab = Lab::up(Topology::pair(), options)?;
    lab.set_multicast("wan", &["a", "b"], false)?;
    lab.make_identities()?;
    lab.start()?;
    Ok(lab)
}

#[test]
fn f34_lost_multicast_falls_back_to_the_peer_and_returns() -> Result<()> {
    let _turn = turn();
    let topology = Topology::pair();
    let link_local = |host: &str| {
        let places = topology.attachments(host);
        places.iter().find(|place| place.segment.name == "wan").expect("a gateway").mac.link_local()
    };
    let options = Options::new("t-f34")
        .interface_config("a", "wan0", &format!("peers = [\"{}\"]", link_local("b")))
        .interface_config("b", "wan0", &format!("peers = [\"{}\"]", link_local("a")))
        .without_snooping();
    let lab = Lab::up(Topology::pair(), options)?;
    lab.introduce("wan", &["a", "b"])?;
    let (a, b) = (lab.gateway("a"), lab.gateway("b"));
    lab.eventually(10.s(), "the neighbours to be up by multicast", || {
        has_neighbour(&a, false) && has_neighbour(&b, false)
    })?;
    lab.set_multicast("wan", &["a", "b"], false)?;
    lab.eventually(10.s(), "both to go on by unicast", || has_neighbour(&a, true) && has_neighbour(&b, true))?;
    assert!([&a, &b].iter().all(|one| events(one, "neighbour_dead").is_empty()));
    assert_eq!(events(&a, "multicast_lost").len(), 1);
    assert!(problem(&a, "multicast_lost").is_some() && problem(&b, "multicast_lost").is_some());

    let rotated = a.gemctl(&["key", "rotate", GROUPS[0]])?;
    let new = rotated["new_key"].clone();
    lab.eventually(5.s(), "the new key to arrive by unicast", || {
        list(&b, &["key", "list"], "keys").iter().any(|key| key["key_id"] == new && key["state"] == "opening")
    })?;

    lab.set_multicast("wan", &["a", "b"], true)?;
    lab.eventually(10.s(), "both to go back to multicast", || has_neighbour(&a, false) && has_neighbour(&b, false))?;
    lab.eventually(5.s(), "the problem to end", || problem(&a, "multicast_lost").is_none())?;
    assert_eq!(events(&a, "multicast_returned").len(), 1);
    assert!([&a, &b].iter().all(|one| events(one, "neighbour_dead").is_empty()));
    Ok(())
}

#[test]
fn f35_a_peer_that_never_answers_is_told_and_the_next_one_does() -> Result<()> {
    let _turn = turn();
    let lab = deaf_pair("t-f35", &format!("peers = [\"{NOBODY}\", \"{B}\"]"))?;
    let (a, b) = (lab.gateway("a"), lab.gateway("b"));
    a.wait_keys(30.s())?;
    b.wait_keys(30.s())?;
    for prefix in ["192.168.71.0/24", "2001:db8:71::/48"] {
        lab.eventually(15.s(), "the route by way of the peer", || {
            let routes = list(&b, &["route", "list"], "routes");
            routes.iter().any(|route| route["prefix"] == prefix && route["kernel"] == "installed")
        })?;
    }
    let neighbour = neighbours(&b).into_iter().find(|one| one["address"] == A).expect("a is b's neighbour");
    assert!(neighbour["peer"] == true && neighbour["by_unicast"] == true, "{neighbour}");
    let waits = |gateway: &Gateway<'_>| {
        let peers = list(gateway, &["neighbour", "list"], "peers");
        let nobody = peers.into_iter().find(|peer| peer["address"] == NOBODY).expect("it is configured");
        (nobody["tries"].as_u64().unwrap_or(0), nobody["waits"].as_str().unwrap_or_default().to_owned())
    };
    lab.eventually(20.s(), "some tries", || waits(&a).0 >= 3)?;
    let (tries, text) = waits(&a);
    assert!(text.starts_with(&format!("peer {NOBODY} on wan0 has not answered: {tries} tries, next in ")), "{text}");
    let problem = problem(&a, "peer_waiting").expect("status tells it");
    assert_eq!(problem["subject"], format!("{NOBODY} on wan0"));
    assert!(!events(&a, "peer_waiting").is_empty());
    assert_eq!(events(&a, "peer_reached").len(), 1);
    let shown = a.gemctl_output(&["neighbour", "list"])?;
    assert!(String::from_utf8_lossy(&shown.stdout).contains("has not answered"));
    Ok(())
}

#[test]
fn f42_a_peer_that_was_killed_is_declared_gone_and_reached_again() -> Result<()> {
    let _turn = turn();
    let lab = deaf_pair("t-f42", &format!("peers = [\"{B}\"]"))?;
    let (a, b) = (lab.gateway("a"), lab.gateway("b"));
    a.wait_keys(30.s())?;
    for round in 1..=2 {
        b.kill_control()?;
        lab.eventually(10.s(), "the peer to be declared gone", || events(&a, "neighbour_dead").len() == round)?;
        lab.eventually(10.s(), "it to be tried", || problem(&a, "peer_waiting").is_some())?;
        b.start(Daemon::Control)?;
        b.wait_ready(20.s())?;
        lab.eventually(15.s(), "the peer to be reached again", || events(&a, "peer_reached").len() == round + 1)?;
        b.wait_keys(20.s())?;
    }
    lab.eventually(10.s(), "the peer to be up", || {
        neighbours(&a).iter().any(|one| one["address"] == B && one["up"] == true)
    })?;
    assert_eq!(ip(A), lab.host("a").interface_named("wan0").address(ip(A)));
    Ok(())
}
