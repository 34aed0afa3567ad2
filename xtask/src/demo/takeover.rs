//! The demo's last part: one of two gateways on a LAN is killed, and the other takes over.

use gemcast_lab::{
    Account, Daemon, Gateway, Group, Host, Lab, Options, Received, Result, Seconds, SenderReport, Stream, Topology,
    Window, monotonic_ns,
};
use serde::Serialize;

use super::{PORT, Story, V4, ip};

/// What was seen.
#[derive(Debug, Serialize)]
pub(super) struct Takeover {
    /// Interval of the gateways' Hellos; three missed ones mean death.
    pub(super) hello_ms: u64,
    /// From the LAN that the two share to the other side.
    pub(super) out: Account,
    /// From the other side into that LAN.
    pub(super) into: Account,
    /// From the first packet that was lost to the last one, the longer of both directions.
    pub(super) gap_ms: u64,
}

const HELLO_MS: u64 = 100;

pub(super) fn show(story: &Story) -> Result<Takeover> {
    story.tell("raising gateways a and b on one LAN and one untrusted segment, and c on the other side");
    let instance = format!("demo-takeover-{}", std::process::id());
    let segment = "segment = \"studio\"";
    let options = Options::new(&instance)
        .groups([Group::new(V4)])
        .config(&format!("[resilience]\nhello_interval = \"{HELLO_MS}ms\""))
        .interface_config("a", "lan0", segment)
        .interface_config("b", "lan0", segment);
    let lab = Lab::up(Topology::redundant(), options)?;
    let both = ["a", "b"].map(|name| lab.gateway(name));
    let decided = || {
        let roles = both.each_ref().map(|gateway| field(gateway, "role"));
        let ready = both.iter().all(|gateway| field(gateway, "forwarder_why").contains("among 2"));
        ready && roles.contains(&"forwarder".into()) && roles.contains(&"standby".into())
    };
    lab.eventually(30.s(), "one to forward and the other to be ready", decided)?;
    let [a, b] = &both;
    let (active, name) = if field(a, "role") == "forwarder" { (a, "a") } else { (b, "b") };

    let group = ip(V4);
    let (near, far) = (lab.host("host-ab"), lab.host("host-c"));
    let (at_far, at_near) = (far.receive(group, PORT, None)?, near.receive(group, PORT, None)?);
    lab.eventually(20.s(), "both receivers to be joined", || {
        let probe = |from: &Host<'_>| {
            from.send(Stream::to(group).id(9).packets(5)).is_ok_and(|probe| probe.finish().sent() == 5)
        };
        probe(&near) && probe(&far) && at_far.delivered() > 0 && at_near.delivered() > 0
    })?;
    let (out, into) = (near.send(Stream::to(group).id(1))?, far.send(Stream::to(group).id(2))?);
    let delivered = || [at_far.report().stream(1).delivered, at_near.report().stream(2).delivered];
    let flow = |packets: u64| {
        let before = delivered();
        let more = || delivered().iter().zip(before).all(|(now, before)| *now > before + packets);
        lab.eventually(30.s(), "both streams to flow", more)
    };
    flow(1000)?;
    story.tell(format_args!("{name} forwards; killing its data plane and its control daemon"));
    let from_ns = monotonic_ns();
    active.kill(Daemon::DataPlane)?;
    active.kill(Daemon::Control)?;
    flow(1000)?;
    let window = Window { from_ns, to_ns: monotonic_ns() };
    let (out, into) = (out.stop(), into.stop());
    let (at_far, at_near) = (at_far.finish(300.ms()).stream(1), at_near.finish(300.ms()).stream(2));
    let gaps = [gap_ms(&out, &at_far), gap_ms(&into, &at_near)];
    let gap_ms = gaps.into_iter().max().unwrap_or(0);
    let takeover = Takeover {
        hello_ms: HELLO_MS,
        out: Account::of(&out, &at_far, &[window]),
        into: Account::of(&into, &at_near, &[window]),
        gap_ms,
    };
    story.tell(format_args!("the other one forwards after {gap_ms} ms"));
    Ok(takeover)
}

/// Time between the first packet that did not arrive and the last one.
fn gap_ms(sent: &SenderReport, received: &Received) -> u64 {
    let mut missing = (0..).zip(&sent.sent_ns).filter(|(sequence, _)| !received.has(*sequence)).map(|(_, at)| *at);
    let Some(first) = missing.next() else { return 0 };
    (missing.last().unwrap_or(first) - first) / 1_000_000
}

fn field(gateway: &Gateway<'_>, name: &str) -> String {
    let listed = gateway.gemctl(&["group", "list"]).unwrap_or_default();
    listed["groups"][0][name].as_str().unwrap_or_default().to_owned()
}
