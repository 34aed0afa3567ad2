//! The demo's third part: the administrator cuts a gateway off. Its receiver goes dark, the other one loses nothing.

use std::time::Instant;

use gemcast_lab::{Account, Lab, Options, Result, Seconds, Stream, Topology, monotonic_ns};
use serde::Serialize;

use super::{KEYS, PORT, Story, V4, ip};

/// What was seen.
#[derive(Debug, Serialize)]
pub(super) struct Revocation {
    /// The stream at the receiver behind the gateway that stays.
    pub(super) stays: Account,
    /// From handing the package and the revocation in to the last packet behind the gateway that was cut off.
    pub(super) dark_ms: u64,
    /// Packets that were delivered there after five seconds.
    pub(super) after: u64,
}

pub(super) fn show(story: &Story) -> Result<Revocation> {
    story.tell("raising a trio: a sends to receiver 1 behind b and receiver 2 behind c");
    let instance = format!("demo-revoke-{}", std::process::id());
    let lab = Lab::up(Topology::trio(), Options::new(&instance).config(KEYS).without_daemons())?;
    lab.make_identities()?;
    let administrator = lab.administrator()?;
    lab.start()?;
    lab.wait_converged(30.s())?;
    let group = ip(V4);
    let receivers = ["host-b", "host-c"].map(|host| lab.host(host).receive(group, PORT, None));
    let [stays, goes] = receivers;
    let (stays, goes) = (stays?, goes?);
    let sender = lab.host("host-a").send(Stream { port: PORT, ..Stream::to(group) })?;
    lab.eventually(20.s(), "both to receive", || stays.delivered() > 500 && goes.delivered() > 500)?;

    story.tell("c is stolen: a new group key for a and b alone, and c's revocation, handed to b");
    let package = administrator.package(V4, 2, &["--emergency", "--without", "c"])?;
    let revocation = administrator.revoke("c")?;
    let (start, start_ns) = (Instant::now(), monotonic_ns());
    administrator.inject("b", &package)?;
    administrator.inject("b", &revocation)?;
    std::thread::sleep(5.s().saturating_sub(start.elapsed()));
    let heard = goes.delivered();
    let before = stays.delivered();
    lab.eventually(20.s(), "the stream to go on for b", || stays.delivered() > before + 2000)?;
    let after = goes.delivered() - heard;
    let dark_ms = goes.last_ns().saturating_sub(start_ns) / 1_000_000;
    let sent = sender.stop();
    let stays = Account::of(&sent, &stays.finish(300.ms()).stream(1), &[]);
    story
        .tell(format_args!("receiver 2 dark after {dark_ms} ms; receiver 1 has {} of {}", stays.delivered, stays.sent));
    Ok(Revocation { stays, dark_ms, after })
}
