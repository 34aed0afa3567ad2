//! The gateway's mode, and why: decided here and nowhere else.
//!
//! Whatever is not as it should be is a [`Problem`]. Without any the gateway is *normal*. With some it is *degraded*: it
//! does its work, and something about it is worse than configured. It is *halted* when the problem is its identity, which
//! counts for nothing while it is revoked or another gateway uses it: what it announces is refused or contradicted, so
//! that its streams end as their keys do, and only an operator can mend that.

use gemcast_proto::api::Problem;

/// Codes of the problems that halt a gateway.
const HALTING: [&str; 3] = ["node_revoked", "node_condemned", "identity_conflict"];

/// How the gateway is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// All is as it should be.
    #[default]
    Normal,
    /// It works, and something is wrong.
    Degraded,
    /// Its identity is of no use.
    Halted,
}

impl Mode {
    /// The word used in output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Degraded => "degraded",
            Self::Halted => "halted",
        }
    }
}

/// A mode and what caused it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Health {
    /// The mode.
    pub mode: Mode,
    /// Codes of the problems, each once, those that halt first.
    pub causes: Vec<String>,
}

impl Health {
    /// What follows from these problems.
    pub fn of<'a>(problems: impl IntoIterator<Item = &'a Problem>) -> Self {
        let mut causes: Vec<_> = problems.into_iter().map(|problem| problem.code.clone()).collect();
        let halts = |code: &String| HALTING.contains(&code.as_str());
        causes.sort_by_key(|code| (!halts(code), code.clone()));
        causes.dedup();
        let mode = match causes.first() {
            None => Mode::Normal,
            Some(code) if halts(code) => Mode::Halted,
            Some(_) => Mode::Degraded,
        };
        Self { mode, causes }
    }

    /// In words: `normal`, `degraded: dataplane_down, signing`.
    pub fn text(&self) -> String {
        match self.mode {
            Mode::Normal => self.mode.name().to_owned(),
            mode => format!("{}: {}", mode.name(), self.causes.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::problem;

    #[test]
    fn the_worst_problem_decides_and_all_are_named() {
        let problems = |codes: &[&str]| codes.iter().map(|code| problem(code, "x", "y", "z")).collect::<Vec<_>>();
        let health = |codes: &[&str]| Health::of(&problems(codes)).text();
        assert_eq!(health(&[]), "normal");
        assert_eq!(health(&["xdp_skb", "dataplane_down", "xdp_skb"]), "degraded: dataplane_down, xdp_skb");
        assert_eq!(health(&["dataplane_down", "node_revoked"]), "halted: node_revoked, dataplane_down");
    }
}
