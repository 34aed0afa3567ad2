//! The results, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::objects::Rates;
use super::router::Make;
use super::site::Turn;
use super::traffic::{Cuts, Traffic};
use super::{Load, NEIGHBOURS, UPDATE_INTERVAL};
use crate::statistics::{Spread, median};

/// What was measured.
pub(crate) struct Report {
    machine: BTreeMap<&'static str, String>,
    turns: Vec<(Make, Load, Turn)>,
    pub(crate) objects: Option<Rates>,
    pub(crate) traffic: Vec<Traffic>,
    pub(crate) cuts: Cuts,
}

/// A measure of a turn: name in JSON, heading, value.
type Measure = (&'static str, &'static str, fn(&Turn) -> f64);

const MEASURES: [Measure; 7] = [
    ("first_route_s", "first route in the kernel, s", |turn| turn.first_route_s),
    ("last_route_s", "last route in the kernel, s", |turn| turn.last_route_s),
    ("transfer_s", "from the first to the last, s", |turn| turn.last_route_s - turn.first_route_s),
    ("transfer_cpu_s", "CPU from start to whole table, s", |turn| turn.transfer_cpu_s),
    ("interval_cpu_ms", "CPU of an update interval, ms", |turn| turn.interval_cpu_s * 1e3),
    ("interval_packets", "packets sent in an interval", |turn| turn.interval_packets),
    ("resident_mib", "resident, MiB", |turn| turn.resident_kib / 1024.0),
];

impl Report {
    pub(crate) fn new(machine: BTreeMap<&'static str, String>) -> Self {
        Self { machine, turns: Vec::new(), objects: None, traffic: Vec::new(), cuts: Cuts::default() }
    }

    pub(crate) fn add(&mut self, make: Make, load: Load, turn: Turn) {
        self.turns.push((make, load, turn));
    }

    fn of(&self, make: Make, load: Load) -> Vec<&Turn> {
        let matching = self.turns.iter().filter(|(other, of, _)| *other == make && *of == load);
        matching.map(|(.., turn)| turn).collect()
    }

    /// Median of the ratios of gemcastd to babeld in the same turn.
    fn ratio(&self, load: Load, value: fn(&Turn) -> f64) -> f64 {
        let pairs = self.of(Make::Gemcastd, load).into_iter().zip(self.of(Make::Babeld, load));
        median(&pairs.map(|(ours, theirs)| value(ours) / value(theirs)).collect::<Vec<_>>())
    }

    fn objects_s(&self, load: Load) -> Spread {
        Spread::of(self.of(Make::Gemcastd, load).into_iter().filter_map(|turn| turn.objects_s))
    }

    fn tables(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "\nwith {NEIGHBOURS} neighbours on a link each, all announcing the same; updates every {} s; median \
             (lowest – highest)",
            UPDATE_INTERVAL.as_secs()
        );
        for load in Load::ALL {
            let title = format!("{} routes, {} objects", load.routes, load.objects());
            let names = load.routers().iter().map(|make| format!(" {:>26}", make.name())).collect::<String>();
            let compared = load.routers().len() > 1;
            let _ = writeln!(text, "\n{title:<34}{names}{}", if compared { "    ratio" } else { "" });
            for (_, heading, value) in MEASURES {
                let spread = |&make: &Make| format!(" {:>26}", Spread::of(self.of(make, load).into_iter().map(value)));
                let ratio = if compared { format!(" {:>8.2}", self.ratio(load, value)) } else { String::new() };
                let _ = writeln!(text, "{heading:<34}{}{ratio}", load.routers().iter().map(spread).collect::<String>());
            }
            if load.groups > 0 {
                let _ = writeln!(text, "{:<34} {:>26}", "objects whole, s", self.objects_s(load));
            }
        }
    }

    pub(crate) fn to_text(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.machine {
            let _ = writeln!(text, "{name}: {value}");
        }
        self.tables(&mut text);
        if let Some(rates) = &self.objects {
            let _ = writeln!(text, "\nper second of CPU:");
            for (heading, rate) in [
                ("Ed25519 signatures verified (ring)", rates.ring_verifications_per_s),
                ("objects taken in", rates.taken_in_per_s),
                ("objects taken in and unwrapped", rates.learnt_per_s),
            ] {
                let _ = writeln!(text, "{heading:<34} {rate:>26}");
            }
        }
        let _ = writeln!(
            text,
            "\nsimulated grids, bytes without UDP and IP headers, per gateway\n{:>8} {:>8} {:>13} {:>12} {:>15}",
            "gateways", "objects", "cold start, s", "idle, B/s", "rotation, B"
        );
        for Traffic { gateways, objects, cold_start_s, idle_bytes_per_s, rotation_bytes } in &self.traffic {
            let _ = writeln!(
                text,
                "{gateways:>8} {objects:>8} {cold_start_s:>13.1} {idle_bytes_per_s:>12.0} {rotation_bytes:>15.0}"
            );
        }
        let Cuts { gateways, seeds, p50_s, p99_s } = self.cuts;
        let _ = writeln!(
            text,
            "a link of {gateways} gateways cut, {seeds} times: all reached again after {p50_s:.2} s (p50), {p99_s:.2} s (p99)"
        );
        text
    }

    pub(crate) fn to_json(&self) -> Value {
        let loads = Load::ALL.map(|load| {
            let router = |&make: &Make| {
                let spread = |value| Spread::of(self.of(make, load).into_iter().map(value));
                let measures: BTreeMap<_, _> = MEASURES.iter().map(|&(name, _, value)| (name, spread(value))).collect();
                (make.name(), measures)
            };
            let ratio = |&(name, _, value): &Measure| (name, self.ratio(load, value));
            json!({
                "routes": load.routes,
                "objects": load.objects(),
                "routers": load.routers().iter().map(router).collect::<BTreeMap<_, _>>(),
                "ratios_to_babeld":
                    (load.groups == 0).then(|| MEASURES.iter().map(ratio).collect::<BTreeMap<_, _>>()),
                "objects_s": (load.groups > 0).then(|| self.objects_s(load)),
            })
        });
        json!({
            "machine": self.machine,
            "neighbours": NEIGHBOURS,
            "update_interval_s": UPDATE_INTERVAL.as_secs(),
            "loads": loads,
            "per_cpu_second": self.objects,
            "traffic": self.traffic,
            "cuts": self.cuts,
        })
    }
}
