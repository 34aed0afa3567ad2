//! What the demo found: a table for people, JSON with stable names for scripts.

use std::fmt::Write;

use gemcast_lab::{Account, CaptureReport, Interface, Window};
use serde::Serialize;

use super::checks::{Check, Checks};
use super::hops::Hops;
use super::revocation::Revocation;
use super::takeover::Takeover;

/// Everything the demo found. `ok` is its first field.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    pub(super) ok: bool,
    passed: usize,
    total: usize,
    seconds: u64,
    /// What ended the demo early.
    error: Option<String>,
    checks: Vec<Check>,
    facts: Option<Facts>,
}

/// The figures.
#[derive(Debug, Serialize)]
struct Facts {
    streams: Streams,
    untrusted: Untrusted,
    control_restart: Restart,
    data_plane_restart: Restart,
    rotation: Rekey,
    forged: Forged,
    interfaces: Vec<InterfaceMode>,
    hops: Hops,
    revocation: Revocation,
    takeover: Takeover,
}

/// Both streams.
#[derive(Debug, Serialize)]
pub(super) struct Streams {
    pub(super) ipv4: Account,
    pub(super) ipv6: Account,
}

#[derive(Debug, Serialize)]
struct Untrusted {
    frames: u64,
    sealed: u64,
    cleartext: u64,
    nonces_reused: u64,
    sealed_repeated: u64,
    keys: usize,
}

/// A daemon's restart.
#[derive(Debug, Serialize)]
pub(super) struct Restart {
    pub(super) daemon: &'static str,
    /// From SIGTERM to both streams being delivered again.
    pub(super) window: Window,
    /// From its start to both daemons serving.
    pub(super) ready_ms: u64,
}

/// A key's rotation.
#[derive(Debug, Serialize)]
pub(super) struct Rekey {
    pub(super) group: String,
    pub(super) new_key: String,
    pub(super) took_ms: u64,
}

/// Forged packets.
#[derive(Debug, Serialize)]
pub(super) struct Forged {
    pub(super) injected: u64,
    pub(super) dropped_in_xdp: u64,
}

/// An interface of a gateway: its modes and its account.
#[derive(Debug, Serialize)]
pub(super) struct InterfaceMode {
    pub(super) gateway: String,
    pub(super) name: String,
    role: String,
    pub(super) xdp_mode: String,
    pub(super) bind_mode: String,
    pub(super) received: u64,
    pub(super) accounted: u64,
}

impl InterfaceMode {
    pub(super) fn of(gateway: &str, interface: Interface) -> Self {
        Self {
            gateway: gateway.into(),
            received: interface.received,
            accounted: interface.accounted(),
            name: interface.name,
            role: interface.role,
            xdp_mode: interface.xdp_mode,
            bind_mode: interface.bind_mode,
        }
    }
}

impl Outcome {
    /// The demo ended before it could judge anything.
    pub(super) fn failed(seconds: u64, error: String) -> Self {
        Self { ok: false, passed: 0, total: 0, seconds, error: Some(error), checks: Vec::new(), facts: None }
    }

    #[expect(clippy::too_many_arguments, reason = "each is one part of the demo")]
    pub(super) fn of(
        seconds: u64,
        Checks(checks): Checks,
        streams: Streams,
        capture: &CaptureReport,
        control_restart: Restart,
        data_plane_restart: Restart,
        rotation: Rekey,
        forged: Forged,
        interfaces: Vec<InterfaceMode>,
        hops: Hops,
        revocation: Revocation,
        takeover: Takeover,
    ) -> Self {
        let untrusted = Untrusted {
            frames: capture.frames,
            sealed: capture.sealed,
            cleartext: capture.cleartext,
            nonces_reused: capture.nonces_reused,
            sealed_repeated: capture.sealed_repeated,
            keys: capture.keys.len(),
        };
        let passed = checks.iter().filter(|check| check.ok).count();
        let facts = Facts {
            streams,
            untrusted,
            control_restart,
            data_plane_restart,
            rotation,
            forged,
            interfaces,
            hops,
            revocation,
            takeover,
        };
        let total = checks.len();
        Self { ok: passed == total, passed, total, seconds, error: None, checks, facts: Some(facts) }
    }

    /// The final table and the verdict.
    pub(super) fn to_text(&self) -> String {
        let mut text = String::from("\n");
        if let Some(facts) = &self.facts {
            facts.write(&mut text);
        }
        for Check { name, ok, detail } in &self.checks {
            let _ = writeln!(text, "{} {name}: {detail}", if *ok { "ok  " } else { "FAIL" });
        }
        let failed: Vec<_> = self.checks.iter().filter(|check| !check.ok).map(|check| check.name.as_str()).collect();
        let _ = match (&self.error, self.ok) {
            (Some(error), _) => writeln!(text, "FAIL {error}"),
            (None, true) => writeln!(text, "PASS {}/{}", self.passed, self.total),
            (None, false) => writeln!(text, "FAIL {}/{}: {}", self.passed, self.total, failed.join("; ")),
        };
        text
    }
}

impl Facts {
    fn write(&self, text: &mut String) {
        let Streams { ipv4, ipv6 } = &self.streams;
        let mut row = |name: &str, value: &dyn Fn(&Account) -> String| {
            let _ = writeln!(text, "{name:<36}{:>12}{:>12}", value(ipv4), value(ipv6));
        };
        let microseconds = |us: u64| format!("{:.2} ms", us as f64 / 1000.0);
        row("", &|account| if std::ptr::eq(account, ipv4) { "IPv4".into() } else { "IPv6".into() });
        row("sent", &|account| account.sent.to_string());
        row("delivered", &|account| account.delivered.to_string());
        row("lost", &|account| account.lost.to_string());
        row("lost while the data plane restarts", &|account| account.lost_in_window.to_string());
        row("duplicated", &|account| account.duplicated.to_string());
        row("reordered", &|account| account.reordered.to_string());
        row("latency p50", &|account| microseconds(account.latency_p50_us));
        row("latency p99", &|account| microseconds(account.latency_p99_us));
        let modes: Vec<_> = self
            .interfaces
            .iter()
            .map(|one| format!("{} {} {}/{}", one.gateway, one.name, one.xdp_mode, one.bind_mode))
            .collect();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<46}{value:>14}");
        };
        line("cleartext frames on the untrusted segment", self.untrusted.cleartext.to_string());
        line("sealed frames on the untrusted segment", self.untrusted.sealed.to_string());
        line("forged frames injected", self.forged.injected.to_string());
        line("forged frames dropped in XDP", self.forged.dropped_in_xdp.to_string());
        line("data plane restart", format!("{} ms", self.data_plane_restart.window.len_ms()));
        let Hops { hops, key_ms, relearn_ms, heal_ms, .. } = &self.hops;
        line(&format!("key installed {hops} hops away, from the start"), format!("{key_ms} ms"));
        line("everything learnt again after a crash", format!("{relearn_ms} ms"));
        line("delivered again after a split", format!("{heal_ms} ms"));
        line("dark after its revocation: receiver 2", format!("{} ms", self.revocation.dark_ms));
        line("lost meanwhile: receiver 1", self.revocation.stays.lost.to_string());
        let Takeover { out, into, gap_ms, .. } = &self.takeover;
        line("gap when one of two gateways is killed", format!("{gap_ms} ms"));
        line("lost in it, out and in", format!("{}, {}", out.lost_in_window, into.lost_in_window));
        let _ = writeln!(text, "mode: {}\n", modes.join(", "));
    }
}
