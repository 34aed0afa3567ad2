//! The demo's second part: keys and streams over two hops, through a gateway that is no member, and how long it takes to
//! learn everything again after a crash and after the network was split.

use std::fs;
use std::time::Instant;

use gemcast_lab::{Account, Daemon, Gateway, Group, Lab, Options, Result, Seconds, Stream, Topology, monotonic_ns};
use serde::Serialize;

use super::{KEYS, PORT, Story, V4, ip};

/// What was seen.
#[derive(Debug, Serialize)]
pub(super) struct Hops {
    /// Links between the source's gateway and the receiver's.
    pub(super) hops: u32,
    /// From the start of all daemons to the source's key being installed at the far end.
    pub(super) key_ms: u64,
    /// Keys that the gateway between can open: none.
    pub(super) opened_between: usize,
    /// The stream, before anything is disturbed.
    pub(super) stream: Account,
    /// Frames in the clear on either link.
    pub(super) cleartext: u64,
    /// From the start of the crashed control daemon, its state deleted, to it having every key and node again.
    pub(super) relearn_ms: u64,
    /// From the end of the split to packets under a key made meanwhile being delivered.
    pub(super) heal_ms: u64,
    /// Packets that crossed the split; there must be none, or it was none.
    pub(super) crossed: u64,
}

pub(super) fn show(story: &Story) -> Result<Hops> {
    story.tell("raising a line: source – a – b – c – receiver; b is no member of the group");
    let instance = format!("demo-hops-{}", std::process::id());
    let options = Options::new(&instance).groups([Group::new(V4).members(&["a", "c"])]).config(KEYS);
    let lab = Lab::up(Topology::line(), options.without_daemons())?;
    lab.make_identities()?;
    let group = ip(V4);
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.gateway(name));
    let captures = ["eth0", "eth1"]
        .map(|link| lab.host("observer").capture(link).and_then(|capture| capture.protected(&[group]).start()));
    let start = Instant::now();
    lab.start()?;
    c.wait_keys(30.s())?;
    let key_ms = start.elapsed().as_millis() as u64;
    lab.wait_converged(30.s())?;
    story.tell(format_args!("c has a's key, 2 hops away, {key_ms} ms after the start of the daemons"));

    let receive = || lab.host("host-c").receive(group, PORT, None);
    // The gateway between joins the group, and learns the way to its source, once it has heard of the key.
    let receiver = receive()?;
    lab.eventually(20.s(), "b to carry the group", || {
        let probe = lab.host("host-a").send(Stream { port: PORT, ..Stream::to(group).id(9).packets(5) });
        probe.is_ok_and(|probe| probe.finish().sent() == 5) && receiver.delivered() > 0
    })?;
    let sent = lab.host("host-a").send(Stream { port: PORT, ..Stream::to(group).packets(1000) })?.finish();
    let stream = Account::of(&sent, &receiver.finish(300.ms()).stream(1), &[]);
    let opened_between = keys(&b, "opening");

    story.tell("crashing c's control daemon and deleting its state");
    let nodes = nodes(&c);
    c.kill(Daemon::Control)?;
    let state = c.directory().join("state");
    fs::remove_dir_all(&state)
        .map_err(|source| gemcast_lab::Error::Io { what: state.display().to_string(), source })?;
    let start = Instant::now();
    c.start(Daemon::Control)?;
    c.wait_keys(20.s())?;
    lab.eventually(20.s(), "c to know every node", || self::nodes(&c) == nodes)?;
    let relearn_ms = start.elapsed().as_millis() as u64;
    story.tell(format_args!("c has everything again after {relearn_ms} ms"));

    story.tell("splitting the network between b and c; a changes its key meanwhile");
    let receiver = receive()?;
    let sender = lab.host("host-a").send(Stream { port: PORT, ..Stream::to(group).id(2) })?;
    lab.eventually(5.s(), "the stream to flow", || receiver.delivered() > 0)?;
    lab.isolate("wan-bc", &["b", "c"])?;
    let old = active(&a);
    let mut before = receiver.delivered();
    lab.eventually(5.s(), "the stream to stop", || {
        let now = receiver.delivered();
        std::mem::replace(&mut before, now) == now
    })?;
    a.gemctl(&["key", "rotate", V4])?;
    lab.eventually(20.s(), "a to seal with its new key", || active(&a) != old)?;
    let crossed = receiver.delivered() - before;
    let healed = monotonic_ns();
    lab.rejoin("wan-bc", &["b", "c"])?;
    lab.eventually(20.s(), "c to deliver again", || receiver.last_ns() > healed)?;
    let heal_ms = (receiver.last_ns() - healed) / 1_000_000;
    drop(sender);
    story.tell(format_args!("healed: c delivers under the new key after {heal_ms} ms"));
    let mut cleartext = 0;
    for capture in captures {
        cleartext += capture?.stop()?.cleartext;
    }
    Ok(Hops { hops: 2, key_ms, opened_between, stream, cleartext, relearn_ms, heal_ms, crossed })
}

fn keys(gateway: &Gateway<'_>, state: &str) -> usize {
    let listed = gateway.gemctl(&["key", "list"]).unwrap_or_default();
    listed["keys"].as_array().into_iter().flatten().filter(|key| key["state"] == state).count()
}

fn nodes(gateway: &Gateway<'_>) -> usize {
    gateway.gemctl(&["node", "list"]).unwrap_or_default()["nodes"].as_array().map_or(0, Vec::len)
}

fn active(gateway: &Gateway<'_>) -> String {
    let listed = gateway.gemctl(&["group", "list"]).unwrap_or_default();
    listed["groups"][0]["active_key"].as_str().unwrap_or_default().to_owned()
}
