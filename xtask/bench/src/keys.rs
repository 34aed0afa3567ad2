//! `cargo xtask bench keys`: what the life of keys costs with 10,000 groups: objects verified, keys rotated, and how long
//! it takes from a key's announcement until the other end hands it to its map. Two engines in one process, without sockets.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use gemcast_control::clock;
use gemcast_engine::input::{Input, Packet};
use gemcast_engine::output::Output;
use gemcast_engine::time::Now;
use gemcast_proto::id::Group;
use gemcast_proto::wire::babel::GROUP;
use serde::Serialize;
use serde_json::json;

use crate::babel::{End, Rates, taken_in_by};
use crate::error::{Error, Result};
use crate::machine;
use crate::statistics::{Spread, quantile};

/// Groups that both are members of.
const GROUPS: u32 = 10_000;
/// Rotations that are followed one by one.
const FOLLOWED: usize = 500;
/// Rotations that are made one after the other, as fast as it goes.
const ROTATIONS: usize = 1_000;
const PORT: u16 = 6696;

/// What was found.
#[derive(Serialize)]
struct Life {
    /// Keys made, wrapped, signed and announced per second.
    rotations_per_s: f64,
    /// From the operator's command to the other end's map, in milliseconds: waiting and work of both ends, no network.
    announce_ms: Vec<f64>,
    /// What both ends were busy in that.
    busy_ms: Vec<f64>,
}

/// Runs the benchmark.
pub(crate) fn run(quick: bool, json: Option<&Path>) -> Result<ExitCode> {
    let rounds = if quick { 1 } else { 3 };
    eprintln!("objects in one process");
    let objects = crate::babel::objects(rounds);
    eprintln!("keys of {GROUPS} groups");
    let lives: Vec<_> = (0..rounds).map(|_| life()).collect();
    let rotations = Spread::of(lives.iter().map(|life| life.rotations_per_s));
    let pooled =
        |of: fn(&Life) -> &Vec<f64>, share| quantile(&lives.iter().flat_map(of).copied().collect::<Vec<_>>(), share);
    let Rates { ring_verifications_per_s, taken_in_per_s, learnt_per_s } = &objects;
    println!("ring verifies, signatures/s                  {ring_verifications_per_s}");
    println!("objects verified and stored, /s              {taken_in_per_s}");
    println!("the same with keys unwrapped and installed   {learnt_per_s}");
    println!("rotations at {GROUPS} groups, /s               {rotations}");
    for (share, name) in [(0.5, "p50"), (0.99, "p99"), (1.0, "longest")] {
        let (all, busy) = (pooled(|life| &life.announce_ms, share), pooled(|life| &life.busy_ms, share));
        println!("announced → handed to the map, {name:<7} ms    {all:.2} (busy {busy:.2})");
    }
    if let Some(path) = json {
        let value = json!({ "machine": machine::describe(), "objects": objects, "groups": GROUPS, "rounds": lives });
        let text = serde_json::to_string_pretty(&value).expect("names and numbers");
        std::fs::write(path, text + "\n").map_err(|error| Error::Io(path.display().to_string(), error))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Two gateways and the time.
struct Pair {
    now: Now,
    ends: [End; 2],
}

impl Pair {
    /// Hands over everything that is said; returns whether a key for this group was installed at the second end.
    fn exchange(&mut self, wanted: Option<Group>) -> bool {
        let mut installed = false;
        loop {
            let mut said = false;
            for from in 0..2 {
                let start = Instant::now();
                let outputs: Vec<_> = std::iter::from_fn(|| self.ends[from].engine.poll_output()).collect();
                self.ends[from].busy += start.elapsed();
                for output in outputs {
                    match output {
                        Output::InstallKey(key) => installed |= from == 1 && !key.seals && Some(key.group) == wanted,
                        Output::Transmit(transmit) => {
                            said = true;
                            let (source, destination) = (self.ends[from].address, transmit.unicast.unwrap_or(GROUP));
                            let payload = &transmit.payload;
                            let packet = Packet { ifindex: 1, source, source_port: PORT, destination, payload };
                            let to = &mut self.ends[1 - from];
                            let start = Instant::now();
                            to.engine.handle(self.now, Input::Packet(packet));
                            to.busy += start.elapsed();
                        }
                        _ => {}
                    }
                }
            }
            if !said {
                return installed;
            }
        }
    }

    /// Time passes to the next deadline.
    fn wait(&mut self) {
        let next = self.ends.iter().filter_map(|end| end.engine.next_deadline()).min();
        if let Some(next) = next.filter(|&next| next > self.now.mono) {
            self.now.wall = self.now.wall + (next - self.now.mono);
            self.now.mono = next;
        }
        for end in &mut self.ends {
            let start = Instant::now();
            end.engine.handle_timeout(self.now);
            end.busy += start.elapsed();
        }
    }

    fn busy(&self) -> Duration {
        self.ends.iter().map(|end| end.busy).sum()
    }
}

fn life() -> Life {
    let (now, from, to) = taken_in_by(GROUPS, clock::now());
    let mut pair = Pair { now, ends: [from, to] };
    let groups: Vec<Group> = pair.ends[0].engine.groups().into_iter().map(|view| view.group).collect();
    let (followed, rest) = groups.split_at(FOLLOWED);
    let (mut announce_ms, mut busy_ms) = (Vec::new(), Vec::new());
    for &group in followed {
        let (start, busy) = (pair.now.mono, pair.busy());
        let command = Instant::now();
        pair.ends[0].engine.handle(pair.now, Input::RotateSek(group));
        pair.ends[0].busy += command.elapsed();
        while !pair.exchange(Some(group)) {
            pair.wait();
        }
        let busy = (pair.busy() - busy).as_secs_f64() * 1e3;
        announce_ms.push((pair.now.mono - start).as_secs_f64() * 1e3 + busy);
        busy_ms.push(busy);
    }
    let start = Instant::now();
    let mut made = BTreeMap::new();
    for &group in rest.iter().take(ROTATIONS) {
        pair.ends[0].engine.handle(pair.now, Input::RotateSek(group));
        while let Some(output) = pair.ends[0].engine.poll_output() {
            if let Output::InstallKey(key) = output {
                made.insert(key.group, key.key_id);
            }
        }
    }
    Life { rotations_per_s: made.len() as f64 / start.elapsed().as_secs_f64(), announce_ms, busy_ms }
}
