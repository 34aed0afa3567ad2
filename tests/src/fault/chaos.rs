//! A chaos run: rounds of random faults against three gateways with streams on, and what must hold through all of it.
//!
//! Gateways send nothing in the clear and no (key id, counter) twice; nothing forged or repeated is delivered; within 5 s
//! of the end of a round's last fault every packet arrives everywhere again; then every frame is accounted for, and every
//! daemon runs that was not meant to end.

use std::fmt;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::plan::Plan;
use super::{Fault, Step};
use crate::capture::RunningCapture;
use crate::error::Result;
use crate::gateway::{Daemon, Gateway};
use crate::lab::{Lab, Options};
use crate::receiver::Receiver;
use crate::sender::{Sender, Stream};
use crate::topology::Topology;
use crate::wiring;

/// Everything arrives again within this after the last fault.
const RECOVERY: Duration = Duration::from_secs(5);
/// How long a look at whether everything arrives is, and how long what was sent in it may be on its way.
const LOOK: Duration = Duration::from_millis(300);
/// How long until frames on their way are accounted for.
const SETTLE: Duration = Duration::from_secs(3);
/// Payload of one stream, slow enough that a busy machine carries it.
const BITS_PER_SECOND: u64 = 1_000_000;

const SEGMENT: &str = "wan";
/// Keys change often, so that changes meet faults.
const KEYS: &str = "[keys]\nsek_lifetime = \"30s\"\nannounce_lead = \"2s\"\noverlap = \"2s\"";
const GROUPS: [&str; 2] = ["239.1.1.1", "ff3e::1:1"];
const PORT: u16 = 5004;

/// What to run.
#[derive(Clone, Debug)]
pub struct Chaos {
    /// Everything random follows from it.
    pub seed: u64,
    /// No round begins after this.
    pub lasts: Duration,
    /// Instance of the lab.
    pub instance: String,
}

/// What happened, and when.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ChaosEvent {
    /// Milliseconds since the first round began.
    pub at_ms: u64,
    /// Number of the round, from 0.
    pub round: u64,
    /// What happened.
    pub what: ChaosStep,
}

/// What can happen.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChaosStep {
    /// A fault began.
    Injected(Fault),
    /// A fault ended.
    Lifted(Fault),
    /// Everything arrived again, so many milliseconds after the last fault had ended.
    Recovered(u64),
    /// Something that must hold did not.
    Violated(String),
}

impl fmt::Display for ChaosEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:7.1} s  {:>3}  ", self.at_ms as f64 / 1000.0, self.round)?;
        match &self.what {
            ChaosStep::Injected(fault) => write!(f, "+ {fault}"),
            ChaosStep::Lifted(fault) => write!(f, "- {fault}"),
            ChaosStep::Recovered(after_ms) => write!(f, "  everything arrives again after {after_ms} ms"),
            ChaosStep::Violated(what) => write!(f, "! {what}"),
        }
    }
}

/// How a run went.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ChaosReport {
    /// The seed it followed from.
    pub seed: u64,
    /// Rounds.
    pub rounds: u64,
    /// Faults.
    pub faults: u64,
    /// Packets that hosts sent.
    pub sent: u64,
    /// Packets that hosts received, each counted at every receiver.
    pub delivered: u64,
    /// Sealed packets the gateways sent.
    pub sealed: u64,
    /// Frames they sent that the run could not look at, because the machine was too busy.
    pub missed: u64,
    /// Longest recovery, in milliseconds.
    pub slowest_recovery_ms: u64,
    /// What did not hold that must.
    pub violations: Vec<String>,
    /// Everything that happened.
    pub timeline: Vec<ChaosEvent>,
}

/// A run that is on its way.
struct Run<'a> {
    lab: Lab,
    /// What the gateways send, before any fault touches it.
    capture: RunningCapture,
    start: Instant,
    report: ChaosReport,
    tell: &'a mut dyn FnMut(&ChaosEvent),
}

/// Streams from every host to every other.
struct Traffic {
    senders: Vec<Sent>,
    receivers: Vec<Heard>,
}

struct Sent {
    stream: u32,
    host: String,
    group: IpAddr,
    sender: Sender,
}

struct Heard {
    host: String,
    group: IpAddr,
    receiver: Receiver,
}

impl Chaos {
    /// Runs it. Each event is told as it happens. `Err` is for what keeps a run from being one, such as a missing binary.
    pub fn run(&self, tell: &mut dyn FnMut(&ChaosEvent)) -> Result<ChaosReport> {
        let options = Options::new(&self.instance).faulty(SEGMENT).small_state().config(KEYS);
        let lab = Lab::up(Topology::trio(), options)?;
        lab.seed_links(SEGMENT, self.seed)?;
        let groups: Vec<IpAddr> = GROUPS.map(ip).into();
        let [_, everything] = wiring::tap_ends(SEGMENT);
        let capture = lab.host(wiring::SWITCH).capture(&everything)?.protected(&groups).start()?;
        let mut plan = Plan::new(self.seed, SEGMENT, &lab.gateway_names());
        let report = ChaosReport { seed: self.seed, ..ChaosReport::default() };
        let mut run = Run { lab, capture, start: Instant::now(), report, tell };
        while run.start.elapsed() < self.lasts && run.report.violations.is_empty() {
            run.round(&plan.round())?;
            run.report.rounds += 1;
        }
        if !run.report.violations.is_empty() {
            run.lab.show_logs();
        }
        let heard = run.capture.stop()?;
        (run.report.sealed, run.report.missed) = (heard.sealed, heard.missed);
        Ok(run.report)
    }
}

impl Run<'_> {
    fn round(&mut self, steps: &[Step]) -> Result<()> {
        let traffic = self.traffic()?;
        let begun = Instant::now();
        let mut ends: Vec<(u64, &Fault)> = Vec::new();
        let mut begins = steps.iter().peekable();
        loop {
            let end = ends.iter().map(|(at_ms, _)| *at_ms).min();
            let begin = begins.peek().map(|step| step.at_ms);
            let Some(next) = begin.into_iter().chain(end).min() else { break };
            thread::sleep(Duration::from_millis(next).saturating_sub(begun.elapsed()));
            if begin == Some(next) {
                let Step { at_ms, lasts_ms, fault } = begins.next().expect("it was looked at");
                self.event(ChaosStep::Injected(fault.clone()));
                self.lab.inject(fault)?;
                self.report.faults += 1;
                if fault.lasts() {
                    ends.push((at_ms + lasts_ms, fault));
                }
            } else {
                let index = ends.iter().position(|(at_ms, _)| *at_ms == next).expect("it was looked at");
                let (_, fault) = ends.swap_remove(index);
                self.lab.lift(fault)?;
                self.event(ChaosStep::Lifted(fault.clone()));
            }
        }
        self.recover(&traffic);
        self.settle(traffic);
        self.look_at_the_wire();
        Ok(())
    }

    fn traffic(&self) -> Result<Traffic> {
        let mut traffic = Traffic { senders: Vec::new(), receivers: Vec::new() };
        let hosts = ["host-a", "host-b", "host-c"];
        for group in GROUPS.map(ip) {
            for name in hosts {
                let receiver = self.lab.find_host(name)?.receive(group, PORT, None)?;
                traffic.receivers.push(Heard { host: name.into(), group, receiver });
            }
        }
        // Numbers of their own in each round: what a link held back is not to look like this round's.
        let first = self.report.rounds as u32 * 8;
        for (stream, (name, group)) in
            (first..).zip(hosts.into_iter().flat_map(|name| GROUPS.map(|group| (name, ip(group)))))
        {
            let sending = Stream::to(group).id(stream).bits_per_second(BITS_PER_SECOND);
            let sender = self.lab.find_host(name)?.send(sending)?;
            traffic.senders.push(Sent { stream, host: name.into(), group, sender });
        }
        Ok(traffic)
    }

    /// Waits until all that is sent for a while arrives everywhere.
    fn recover(&mut self, traffic: &Traffic) {
        let lifted = Instant::now();
        loop {
            let looked = lifted.elapsed();
            let from: Vec<_> = traffic.senders.iter().map(|one| one.sender.sent()).collect();
            thread::sleep(LOOK);
            let to: Vec<_> = traffic.senders.iter().map(|one| one.sender.sent()).collect();
            let missing = || {
                let spans = traffic.senders.iter().zip(from.iter().zip(&to));
                let pairs = spans.flat_map(|(sent, (from, to))| {
                    let hear = move |heard: &&Heard| heard.group == sent.group && heard.host != sent.host;
                    traffic.receivers.iter().filter(hear).map(move |heard| (sent, heard, *from..*to))
                });
                pairs
                    .filter(|(sent, heard, span)| span.is_empty() || !heard.receiver.has_all(sent.stream, span.clone()))
                    .map(|(sent, heard, _)| format!("{} to {} at {}", sent.host, sent.group, heard.host))
                    .collect::<Vec<_>>()
            };
            if self.lab.eventually(LOOK, "everything to arrive", || missing().is_empty()).is_ok() {
                let after_ms = looked.as_millis() as u64;
                self.report.slowest_recovery_ms = self.report.slowest_recovery_ms.max(after_ms);
                return self.event(ChaosStep::Recovered(after_ms));
            }
            if looked > RECOVERY {
                let what =
                    format!("{RECOVERY:?} after the last fault, this does not arrive whole: {}", missing().join("; "));
                return self.violate(what);
            }
        }
    }

    /// Ends the streams; then every frame is accounted for, and nothing was delivered that no host had sent just once.
    fn settle(&mut self, traffic: Traffic) {
        for one in traffic.senders {
            let report = one.sender.stop();
            self.report.sent += report.sent();
            if let Some(error) = report.error {
                self.violate(format!("{} could not send to {}: {error}", one.host, one.group));
            }
        }
        let mut off = Vec::new();
        let _ = self.lab.eventually(SETTLE, "every frame to be accounted for", || {
            off.clear();
            for gateway in self.lab.gateways() {
                let name = gateway.host().name();
                match gateway.interfaces() {
                    Ok(interfaces) => {
                        off.extend(interfaces.iter().filter(|one| one.received != one.accounted()).map(|one| {
                            format!(
                                "{} of {name}: {} received, {} accounted for: {one:?}",
                                one.name,
                                one.received,
                                one.accounted()
                            )
                        }))
                    }
                    Err(error) => off.push(format!("{name}: {error}")),
                }
            }
            off.is_empty()
        });
        off.into_iter().for_each(|what| self.violate(what));
        for (name, daemon) in self.ended() {
            self.violate(format!("{} of {name} ended by itself", daemon.name()));
        }
        for one in traffic.receivers {
            let report = one.receiver.stop();
            self.report.delivered += report.delivered();
            let twice: u64 = report.streams.values().map(|stream| stream.duplicated).sum();
            if twice + report.corrupt > 0 {
                let corrupt = report.corrupt;
                self.violate(format!("at {}, of {}: {twice} delivered twice, {corrupt} forged", one.host, one.group));
            }
        }
    }

    /// Daemons that do not run, though every fault is over.
    fn ended(&self) -> Vec<(String, Daemon)> {
        let daemons = |gateway: Gateway<'_>| {
            let ended = Daemon::BOTH.into_iter().filter(move |daemon| gateway.process(*daemon).is_none());
            ended.map(|daemon| (gateway.host().name().to_owned(), daemon)).collect::<Vec<_>>()
        };
        self.lab.gateways().into_iter().flat_map(daemons).collect()
    }

    fn look_at_the_wire(&mut self) {
        let (clear, reused, repeated) =
            self.capture.look(|heard| (heard.cleartext, heard.nonces_reused, heard.sealed_repeated));
        if clear > 0 {
            let example = self.capture.look(|heard| heard.cleartext_examples.first().cloned().unwrap_or_default());
            self.violate(format!("{clear} frames in the clear, one of them {example:02x?}"));
        }
        if reused + repeated > 0 {
            self.violate(format!(
                "a key id and counter sent again: {reused} with other bytes, {repeated} with the same"
            ));
        }
    }

    fn violate(&mut self, what: String) {
        self.report.violations.push(what.clone());
        self.event(ChaosStep::Violated(what));
    }

    fn event(&mut self, what: ChaosStep) {
        let at_ms = self.start.elapsed().as_millis() as u64;
        let event = ChaosEvent { at_ms, round: self.report.rounds, what };
        (self.tell)(&event);
        self.report.timeline.push(event);
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a constant address")
}
