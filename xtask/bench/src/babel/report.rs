//! The results, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::objects::Rates;
use super::router::Make;
use super::site::Turn;
use super::traffic::{Cuts, Traffic};
use super::{GROUPS, NEIGHBOURS, ROUTES, UPDATE_INTERVAL};
use crate::statistics::{Spread, median};

/// What was measured.
pub(crate) struct Report {
    machine: BTreeMap<&'static str, String>,
    turns: Vec<(Make, bool, Turn)>,
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

    pub(crate) fn add(&mut self, make: Make, with_objects: bool, turn: Turn) {
        self.turns.push((make, with_objects, turn));
    }

    fn of(&self, make: Make, with_objects: bool) -> Vec<&Turn> {
        let matching = self.turns.iter().filter(|(other, objects, _)| *other == make && *objects == with_objects);
        matching.map(|(.., turn)| turn).collect()
    }

    /// Median of the ratios of gemcastd to babeld in the same turn.
    fn ratio(&self, value: fn(&Turn) -> f64) -> f64 {
        let pairs = self.of(Make::Gemcastd, false).into_iter().zip(self.of(Make::Babeld, false));
        median(&pairs.map(|(ours, theirs)| value(ours) / value(theirs)).collect::<Vec<_>>())
    }

    fn objects_s(&self) -> Spread {
        Spread::of(self.of(Make::Gemcastd, true).into_iter().filter_map(|turn| turn.objects_s))
    }

    pub(crate) fn to_text(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.machine {
            let _ = writeln!(text, "{name}: {value}");
        }
        let _ = writeln!(
            text,
            "\n{ROUTES} routes of each of {NEIGHBOURS} neighbours on a link each, updates every {} s; median (lowest – \
             highest)\n{:<34} {:>26} {:>26} {:>8} {:>26}",
            UPDATE_INTERVAL.as_secs(),
            "",
            "gemcastd",
            "babeld",
            "ratio",
            format!("gemcastd, {} objects", GROUPS * NEIGHBOURS as u32),
        );
        for (_, heading, value) in MEASURES {
            let spread = |make, objects| Spread::of(self.of(make, objects).into_iter().map(value));
            let _ = writeln!(
                text,
                "{heading:<34} {:>26} {:>26} {:>8.2} {:>26}",
                spread(Make::Gemcastd, false),
                spread(Make::Babeld, false),
                self.ratio(value),
                spread(Make::Gemcastd, true),
            );
        }
        let _ = writeln!(text, "{:<34} {:>26} {:>26} {:>8} {:>26}", "objects whole, s", "", "", "", self.objects_s());
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
        let runs = [(Make::Gemcastd, false), (Make::Babeld, false), (Make::Gemcastd, true)];
        let runs = runs.map(|(make, with_objects)| {
            let spread = |value| Spread::of(self.of(make, with_objects).into_iter().map(value));
            let measures: BTreeMap<_, _> = MEASURES.iter().map(|&(name, _, value)| (name, spread(value))).collect();
            json!({
                "router": make.name(),
                "objects": if with_objects { GROUPS * NEIGHBOURS as u32 } else { 0 },
                "objects_s": with_objects.then(|| self.objects_s()),
                "measures": measures,
            })
        });
        let ratios: BTreeMap<_, _> = MEASURES.iter().map(|&(name, _, value)| (name, self.ratio(value))).collect();
        json!({
            "machine": self.machine,
            "routes": ROUTES,
            "neighbours": NEIGHBOURS,
            "update_interval_s": UPDATE_INTERVAL.as_secs(),
            "routers": runs,
            "ratios_to_babeld": ratios,
            "per_cpu_second": self.objects,
            "traffic": self.traffic,
            "cuts": self.cuts,
        })
    }
}
