//! Compares what was sent with what arrived. Losses inside an announced window, such as a restart, are told apart.

use serde::Serialize;

use crate::receiver::Received;
use crate::sender::SenderReport;

/// A span of time in nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Window {
    /// First nanosecond in it.
    pub from_ns: u64,
    /// Last nanosecond in it.
    pub to_ns: u64,
}

impl Window {
    /// Its length in milliseconds.
    pub fn len_ms(self) -> u64 {
        self.to_ns.saturating_sub(self.from_ns) / 1_000_000
    }

    fn contains(self, ns: u64) -> bool {
        (self.from_ns..=self.to_ns).contains(&ns)
    }
}

/// What became of a stream.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Account {
    /// Packets sent.
    pub sent: u64,
    /// Different packets that arrived.
    pub delivered: u64,
    /// Packets that did not arrive, sent outside of every window.
    pub lost: u64,
    /// Packets that did not arrive, sent inside a window.
    pub lost_in_window: u64,
    /// Packets that arrived again.
    pub duplicated: u64,
    /// Packets that arrived after later ones.
    pub reordered: u64,
    /// Median of the latency, in microseconds.
    pub latency_p50_us: u64,
    /// 99th percentile of the latency, in microseconds.
    pub latency_p99_us: u64,
    /// Longest latency, in microseconds.
    pub latency_max_us: u64,
}

impl Account {
    /// What became of what was sent. Losses in the windows are counted apart.
    pub fn of(sent: &SenderReport, received: &Received, windows: &[Window]) -> Self {
        let missing = (0..).zip(&sent.sent_ns).filter(|(sequence, _)| !received.has(*sequence));
        let (inside, outside): (Vec<_>, Vec<_>) =
            missing.partition(|(_, sent_ns)| windows.iter().any(|window| window.contains(**sent_ns)));
        let latency_us = |quantile| received.latency.value_at_quantile(quantile) / 1000;
        Self {
            sent: sent.sent(),
            delivered: received.delivered,
            lost: outside.len() as u64,
            lost_in_window: inside.len() as u64,
            duplicated: received.duplicated,
            reordered: received.reordered,
            latency_p50_us: latency_us(0.5),
            latency_p99_us: latency_us(0.99),
            latency_max_us: latency_us(1.0),
        }
    }

    /// Whether every packet arrived, once and in order.
    pub fn is_perfect(&self) -> bool {
        self.sent == self.delivered && self.duplicated == 0 && self.reordered == 0
    }
}
