//! A chaos run, decided in advance: from one seed, the same faults in the same order for the same time.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde::Serialize;

use super::link::{Effect, FrameClass, LinkFault};
use super::maps::MapFault;
use super::{Daemon, Fault};

/// Shortest and longest time a fault lasts, in milliseconds.
const LASTS_MS: (u64, u64) = (500, 6000);
/// A stopped data plane keeps frames in rings that hold about this long.
const STOPPED_PLANE_MS: u64 = 3000;
/// Seconds a clock may be off, either way: two gateways then stay within what is tolerated, and so does one that was
/// restarted with each.
const SKEW: i64 = 14;
/// Most faults at a time.
const AT_ONCE: u64 = 3;

/// A fault of a round.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Step {
    /// When it begins, in milliseconds since the round began.
    pub at_ms: u64,
    /// How long it lasts, in milliseconds.
    pub lasts_ms: u64,
    /// What goes wrong.
    pub fault: Fault,
}

/// Rounds of faults without end. Between two rounds, everything is as it should be for a while.
pub struct Plan {
    rng: ChaCha8Rng,
    segment: String,
    gateways: Vec<String>,
}

impl Plan {
    /// The plan of this seed, for gateways whose `wan0` is on a faulty segment.
    pub fn new(seed: u64, segment: &str, gateways: &[&str]) -> Self {
        let gateways = gateways.iter().map(|name| (*name).to_owned()).collect();
        Self { rng: ChaCha8Rng::seed_from_u64(seed), segment: segment.into(), gateways }
    }

    /// The faults of the next round, by when they begin. No two of them are at odds over the same thing.
    pub fn round(&mut self) -> Vec<Step> {
        let count = 1 + self.below(AT_ONCE);
        let mut steps: Vec<Step> = Vec::new();
        while (steps.len() as u64) < count {
            let fault = self.fault();
            if steps.iter().any(|step| at_odds(&step.fault, &fault)) {
                continue;
            }
            let most = if matches!(fault, Fault::Stop { daemon: Daemon::DataPlane, .. }) {
                STOPPED_PLANE_MS
            } else {
                LASTS_MS.1
            };
            let lasts_ms = LASTS_MS.0 + self.below(most - LASTS_MS.0);
            steps.push(Step { at_ms: 200 + self.below(2000), lasts_ms, fault });
        }
        steps.sort_by_key(|step| step.at_ms);
        steps
    }

    fn fault(&mut self) -> Fault {
        let gateway = self.gateway();
        let daemon = if self.below(2) == 0 { Daemon::Control } else { Daemon::DataPlane };
        match self.below(20) {
            0..3 => Fault::Kill { gateway, daemon },
            3..5 => Fault::Stop { gateway, daemon },
            5..12 => Fault::Link { segment: self.segment.clone(), fault: self.link_fault() },
            12..14 => Fault::Partition { segment: self.segment.clone(), hosts: vec![gateway] },
            14 => Fault::FillDisk { gateway },
            15 => Fault::Skew { gateway, seconds: if self.below(2) == 0 { SKEW } else { -SKEW } },
            16 => Fault::Down { host: gateway, interface: "wan0".into() },
            17 => Fault::Remove { host: gateway, interface: "wan0".into() },
            _ => {
                let fault = MapFault::ALL[self.below(MapFault::ALL.len() as u64) as usize];
                Fault::Maps { gateway, fault }
            }
        }
    }

    fn link_fault(&mut self) -> LinkFault {
        let percent = |percent: u64| percent as f64 / 100.0;
        let effect = match self.below(8) {
            0 => Effect::Loss(1.0),
            1 => Effect::Loss(percent(5 + self.below(50))),
            2 => {
                let delay_ms = 50 + self.below(250) as u32;
                Effect::Delay { delay_ms, jitter_ms: delay_ms / 2 }
            }
            3 => Effect::Corrupt(percent(1 + self.below(30))),
            4 => Effect::Duplicate(percent(1 + self.below(100))),
            5 => Effect::Reorder(percent(1 + self.below(50))),
            _ => Effect::Flood { per_second: 200 + self.below(2000) as u32, forged: self.below(2) == 0 },
        };
        let mut fault = LinkFault::new(effect);
        fault.class = FrameClass::ALL[self.below(FrameClass::ALL.len() as u64) as usize];
        if self.below(2) == 0 {
            fault.from = Some(self.gateway());
        }
        if self.below(2) == 0 {
            fault.to = Some(self.gateway()).filter(|to| fault.from.as_ref() != Some(to));
        }
        fault
    }

    fn gateway(&mut self) -> String {
        let index = self.below(self.gateways.len() as u64) as usize;
        self.gateways[index].clone()
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.rng.next_u64() % bound
    }
}

/// Whether lifting one would lift or hinder the other.
fn at_odds(one: &Fault, other: &Fault) -> bool {
    match (one, other) {
        (
            Fault::Kill { gateway, daemon },
            Fault::Kill { gateway: g, daemon: d } | Fault::Stop { gateway: g, daemon: d },
        )
        | (
            Fault::Stop { gateway, daemon },
            Fault::Stop { gateway: g, daemon: d } | Fault::Kill { gateway: g, daemon: d },
        ) => gateway == g && daemon == d,
        // What is done through control's memory needs it there.
        (
            Fault::Maps { gateway, .. } | Fault::Skew { gateway, .. },
            Fault::Kill { gateway: g, daemon } | Fault::Stop { gateway: g, daemon },
        )
        | (
            Fault::Kill { gateway: g, daemon } | Fault::Stop { gateway: g, daemon },
            Fault::Maps { gateway, .. } | Fault::Skew { gateway, .. },
        ) => gateway == g && *daemon == Daemon::Control,
        (
            Fault::Down { host, .. } | Fault::Remove { host, .. },
            Fault::Down { host: h, .. } | Fault::Remove { host: h, .. },
        ) => host == h,
        (Fault::FillDisk { gateway }, Fault::FillDisk { gateway: g })
        | (Fault::Skew { gateway, .. }, Fault::Skew { gateway: g, .. }) => gateway == g,
        _ => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_plan() {
        let rounds = |seed| {
            let mut plan = Plan::new(seed, "wan", &["a", "b", "c"]);
            (0..50).map(|_| plan.round()).collect::<Vec<_>>()
        };
        assert_eq!(rounds(1), rounds(1));
        assert_ne!(rounds(1), rounds(2));
        for round in rounds(3) {
            assert!((1..=AT_ONCE as usize).contains(&round.len()));
            for (index, step) in round.iter().enumerate() {
                assert!(!round[..index].iter().any(|other| at_odds(&other.fault, &step.fault)), "{round:?}");
            }
        }
    }
}
