//! What the netns tests share. They take turns, because each wants the machine's cores for itself.
#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use gemcast_lab::{Gateway, Interface, Lab, Result, Seconds};
use serde_json::Value;

/// The sealed groups of a lab, one of each family.
pub(crate) const GROUPS: [&str; 2] = ["239.1.1.1", "ff3e::1:1"];
/// Destination port of the lab's streams.
pub(crate) const PORT: u16 = 5004;

static TURN: Mutex<()> = Mutex::new(());

/// Held by a test while it runs.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How much of something a test does: as the environment variable says, or else as much as a run of all tests has time for.
pub(crate) fn scale(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// A constant address.
pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("a constant address")
}

/// Waits until every frame that any gateway ever received is accounted for: passed, forwarded, dropped, or held.
pub(crate) fn wait_accounted(lab: &Lab) -> Result<()> {
    let off = |gateway: &Gateway<'_>| {
        let interfaces = gateway.interfaces().unwrap_or_default();
        interfaces.is_empty() || interfaces.iter().any(|one| one.received != one.accounted())
    };
    let waited = lab.eventually(5.s(), "every frame to be accounted for", || !lab.gateways().iter().any(off));
    if waited.is_err() {
        for gateway in lab.gateways() {
            eprintln!("{}: {:#?}", gateway.host().name(), gateway.interfaces());
        }
    }
    waited.map(drop)
}

/// What an interface counted since `before`, passed and dropped together, by reason.
pub(crate) fn since(before: &Interface, now: &Interface) -> BTreeMap<String, u64> {
    let count = |interface: &Interface| -> BTreeMap<String, u64> {
        interface.passed.iter().chain(&interface.dropped).map(|(reason, count)| (reason.clone(), *count)).collect()
    };
    let before = count(before);
    let grown = |(reason, count): (String, u64)| {
        let more = count - before.get(&reason).copied().unwrap_or(0);
        (more > 0).then_some((reason, more))
    };
    count(now).into_iter().filter_map(grown).collect()
}

/// Keys of other gateways that a gateway has installed.
pub(crate) fn opening_keys(gateway: &Gateway<'_>) -> BTreeSet<String> {
    keys_in_state(gateway, "opening")
}

/// The keys of a gateway that are in this state.
pub(crate) fn keys_in_state(gateway: &Gateway<'_>, state: &str) -> BTreeSet<String> {
    let listed = gateway.gemctl(&["key", "list"]).unwrap_or_default();
    let keys = listed["keys"].as_array().into_iter().flatten().filter(|key| key["state"] == state);
    keys.filter_map(|key| Some(key["key_id"].as_str()?.to_owned())).collect()
}

/// Gateways whose announcement a gateway knows.
pub(crate) fn known_nodes(gateway: &Gateway<'_>) -> BTreeSet<String> {
    let listed = gateway.gemctl(&["node", "list"]).unwrap_or_default();
    listed["nodes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|node| Some(node["name"].as_str()?.to_owned()))
        .collect()
}

/// Gateways to which a gateway has a route.
pub(crate) fn reachable_nodes(gateway: &Gateway<'_>) -> BTreeSet<String> {
    let listed = gateway.gemctl(&["route", "list"]).unwrap_or_default();
    let usable = |route: &&Value| route["selected"] == true && route["metric"] != 65535;
    let routes = listed["routes"].as_array().into_iter().flatten().filter(usable);
    routes.filter_map(|route| Some(route["router_name"].as_str()?.to_owned())).collect()
}

/// Whether every neighbour that is up has the same table as the gateway.
pub(crate) fn in_sync(gateway: &Gateway<'_>) -> bool {
    let listed = gateway.gemctl(&["neighbour", "list"]).unwrap_or_default();
    let mut up = listed["neighbours"].as_array().into_iter().flatten().filter(|one| one["up"] == true).peekable();
    up.peek().is_some() && up.all(|one| one["sync"] == "equal")
}

/// Whether a gateway has a neighbour by this interface, and each can reach the other.
pub(crate) fn adjacent(gateway: &Gateway<'_>, interface: &str) -> bool {
    let listed = gateway.gemctl(&["neighbour", "list"]).unwrap_or_default();
    let usable = |one: &Value| one["interface"] == interface && one["up"] == true && one["cost"] != 65535;
    listed["neighbours"].as_array().into_iter().flatten().any(usable)
}

/// The events of this name that a gateway's control daemon keeps, oldest first.
pub(crate) fn events(gateway: &Gateway<'_>, name: &str) -> Vec<Value> {
    let output = gateway.gemctl_output(&["-o", "json", "events"]).expect("gemctl runs");
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let events = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
    events.filter(|event| event["name"] == name).collect()
}

/// The problem of this code that a gateway's status tells, if it does.
pub(crate) fn problem(gateway: &Gateway<'_>, code: &str) -> Option<Value> {
    let status = gateway.gemctl(&["status"]).unwrap_or_default();
    status["problems"].as_array().into_iter().flatten().find(|problem| problem["code"] == code).cloned()
}
