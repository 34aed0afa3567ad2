//! Packets that come in under this gateway's own keys (R9), told from the data plane's counters.

use gemcast_proto::link::Stats;
use gemcast_proto::reason::Reason;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// After this long without such a packet it is over.
const QUIET: Duration = Duration::from_secs(60);

/// What was counted, and when it last grew.
#[derive(Default)]
pub struct Echo {
    counted: BTreeMap<String, u64>,
    heard_at: Option<Instant>,
}

impl Echo {
    /// Takes in counters: the interface that such packets came in by since the last ones, and how many.
    pub fn look(&mut self, stats: &Stats, now: Instant) -> Option<(String, u64)> {
        let mut most = None;
        for interface in &stats.interfaces {
            let own = interface.reasons.iter().filter(|count| count.reason == Reason::OwnKey.name());
            let count = own.map(|count| count.frames).sum::<u64>();
            let before = self.counted.insert(interface.name.clone(), count).unwrap_or(0);
            // The counters of a data plane that was restarted begin anew.
            let grown = count.checked_sub(before).unwrap_or(count);
            if grown > 0 && most.as_ref().is_none_or(|(_, more)| grown > *more) {
                most = Some((interface.name.clone(), grown));
            }
        }
        if most.is_some() {
            self.heard_at = Some(now);
        }
        most
    }

    /// Whether none came in for a while.
    pub fn is_quiet(&self, now: Instant) -> bool {
        self.heard_at.is_none_or(|at| now.saturating_duration_since(at) > QUIET)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gemcast_proto::link::{InterfaceStats, ReasonCount};

    fn stats(frames: u64) -> Stats {
        let reasons = vec![ReasonCount { reason: "own_key".into(), frames }];
        let wan0 = InterfaceStats { name: "wan0".into(), reasons, ..Default::default() };
        Stats { interfaces: vec![wan0], ..Default::default() }
    }

    #[test]
    fn only_growth_counts_and_a_restarted_count_is_growth() {
        let (mut echo, start) = (Echo::default(), Instant::now());
        assert!(echo.is_quiet(start) && echo.look(&stats(0), start).is_none());
        assert_eq!(echo.look(&stats(7), start), Some(("wan0".into(), 7)));
        assert_eq!(echo.look(&stats(7), start), None);
        assert_eq!(echo.look(&stats(2), start), Some(("wan0".into(), 2)));
        assert!(!echo.is_quiet(start + QUIET) && echo.is_quiet(start + 2 * QUIET));
    }
}
