//! The results, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::PAYLOADS;
use super::relay::{Rate, Relay};
use super::restart::Restart;
use crate::statistics::median;

/// What was measured.
pub(crate) struct Report {
    machine: BTreeMap<&'static str, String>,
    runs: Vec<(Relay, usize, Rate)>,
    /// Interface, frames received, frames accounted for.
    pub(crate) accounting: Vec<(String, u64, u64)>,
    pub(crate) restart: Option<Restart>,
}

/// One line of the table.
struct Line {
    relay: Relay,
    payload_len: usize,
    delivered: f64,
    lowest: f64,
    highest: f64,
    offered: f64,
    own: f64,
    foreign: f64,
    workers: f64,
    per_cpu_second: f64,
    per_worker_second: f64,
    /// To smcroute in the same round: frames a second, and frames per CPU-second.
    ratio: f64,
    cpu_ratio: f64,
}

impl Report {
    pub(crate) fn new(machine: BTreeMap<&'static str, String>) -> Self {
        Self { machine, runs: Vec::new(), accounting: Vec::new(), restart: None }
    }

    pub(crate) fn add(&mut self, relay: Relay, payload_len: usize, rate: Rate) {
        self.runs.push((relay, payload_len, rate));
    }

    /// Whether every frame that reached a gateway is in exactly one counter.
    pub(crate) fn is_accounted(&self) -> bool {
        self.accounting.iter().all(|(_, received, accounted)| received == accounted)
    }

    fn rates(&self, relay: Relay, payload_len: usize) -> Vec<Rate> {
        let matching = self.runs.iter().filter(|(other, len, _)| *other == relay && *len == payload_len);
        matching.map(|(.., rate)| *rate).collect()
    }

    fn lines(&self) -> Vec<Line> {
        let places = PAYLOADS.into_iter().flat_map(|len| Relay::ALL.into_iter().map(move |relay| (relay, len)));
        places.map(|(relay, payload_len)| self.line(relay, payload_len)).collect()
    }

    fn line(&self, relay: Relay, payload_len: usize) -> Line {
        let (rates, base) = (self.rates(relay, payload_len), self.rates(Relay::Smcroute, payload_len));
        let per_cpu_second = |rate: &Rate| rate.delivered / rate.cpu.own;
        let per_worker_second = |rate: &Rate| rate.delivered / rate.workers;
        let of = |value: fn(&Rate) -> f64| median(&rates.iter().map(value).collect::<Vec<_>>());
        let to_base = |value: fn(&Rate) -> f64| {
            median(&rates.iter().zip(&base).map(|(own, base)| value(own) / value(base)).collect::<Vec<_>>())
        };
        let delivered = rates.iter().map(|rate| rate.delivered);
        Line {
            relay,
            payload_len,
            delivered: of(|rate| rate.delivered),
            lowest: delivered.clone().fold(f64::INFINITY, f64::min),
            highest: delivered.fold(0.0, f64::max),
            offered: of(|rate| rate.offered),
            own: of(|rate| rate.cpu.own),
            foreign: of(|rate| rate.cpu.foreign),
            workers: of(|rate| rate.workers),
            per_cpu_second: of(per_cpu_second),
            per_worker_second: of(per_worker_second),
            ratio: to_base(|rate| rate.delivered),
            cpu_ratio: to_base(per_cpu_second),
        }
    }

    pub(crate) fn to_text(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.machine {
            let _ = writeln!(text, "{name}: {value}");
        }
        let _ = writeln!(
            text,
            "\n{:<14} {:>7} {:>10} {:>21} {:>10} {:>6} {:>6} {:>6} {:>11} {:>13} {:>8} {:>8}",
            "relay",
            "payload",
            "frames/s",
            "lowest – highest",
            "offered/s",
            "CPU",
            "other",
            "worker",
            "per CPU-s",
            "per worker-s",
            "× smcr.",
            "per CPU"
        );
        for line in self.lines() {
            let per_worker_second = if line.per_worker_second.is_finite() {
                format!("{:.0}", line.per_worker_second)
            } else {
                "–".into()
            };
            let spread = format!("{:.0} – {:.0}", line.lowest, line.highest);
            let _ = writeln!(
                text,
                "{:<14} {:>7} {:>10.0} {spread:>21} {:>10.0} {:>6.2} {:>6.2} {:>6.2} {:>11.0} {per_worker_second:>13} {:>8.2} {:>8.2}",
                line.relay.name(),
                line.payload_len,
                line.delivered,
                line.offered,
                line.own,
                line.foreign,
                line.workers,
                line.per_cpu_second,
                line.ratio,
                line.cpu_ratio,
            );
        }
        let _ = writeln!(
            text,
            "\nCPU: cores kept busy by generator, softirq and relay together; worker: by data planes alone; other: by foreign processes"
        );
        for (name, received, accounted) in &self.accounting {
            let verdict = if received == accounted { "exact" } else { "NOT ACCOUNTED" };
            let _ = writeln!(text, "{name}: received {received} = passed + forwarded + dropped {accounted}: {verdict}");
        }
        if let Some(restart) = &self.restart {
            let _ = writeln!(
                text,
                "data plane: restart gap {:.0} ms (longest {:.0}), start to first frame {:.0} ms, {} KiB resident, {:.1} % CPU idle",
                restart.gap_ms, restart.gap_ms_max, restart.start_ms, restart.resident_kib, restart.idle_cpu_percent
            );
            let _ = writeln!(
                text,
                "control:    {} KiB resident, {:.1} % CPU idle",
                restart.control_resident_kib, restart.control_idle_cpu_percent
            );
        }
        text
    }

    pub(crate) fn to_json(&self) -> Value {
        let lines = self.lines().into_iter().map(|line| {
            json!({
                "relay": line.relay.name(),
                "payload_bytes": line.payload_len,
                "delivered_per_s": line.delivered,
                "delivered_per_s_min": line.lowest,
                "delivered_per_s_max": line.highest,
                "offered_per_s": line.offered,
                "cpu_cores": line.own,
                "other_cpu_cores": line.foreign,
                "worker_cpu_cores": line.workers,
                "delivered_per_cpu_s": line.per_cpu_second,
                "delivered_per_worker_cpu_s": line.per_worker_second,
                "ratio_to_smcroute": line.ratio,
                "cpu_ratio_to_smcroute": line.cpu_ratio,
            })
        });
        let accounting = self.accounting.iter().map(
            |(name, received, accounted)| json!({ "interface": name, "received": received, "accounted": accounted }),
        );
        json!({
            "ok": self.is_accounted(),
            "machine": self.machine,
            "relays": lines.collect::<Vec<_>>(),
            "accounting": accounting.collect::<Vec<_>>(),
            "restart": self.restart,
        })
    }
}
