//! What the demo claims, each claim with a name.

use gemcast_lab::{Account, CaptureReport, ReceiverReport, SenderReport};
use serde::Serialize;

use super::hops::Hops;
use super::report::{Forged, InterfaceMode, Rekey, Restart, Streams};
use super::revocation::Revocation;
use super::takeover::Takeover;

/// A claim and whether it held.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Check {
    pub(super) name: String,
    pub(super) ok: bool,
    /// The figures it was judged by.
    pub(super) detail: String,
}

/// All of them, in the order they were judged.
#[derive(Clone, Debug, Default)]
pub(super) struct Checks(pub(super) Vec<Check>);

impl Checks {
    fn check(&mut self, name: impl Into<String>, ok: bool, detail: impl Into<String>) {
        self.0.push(Check { name: name.into(), ok, detail: detail.into() });
    }

    pub(super) fn stream(&mut self, name: &str, account: &Account, sent: &SenderReport, received: &ReceiverReport) {
        let Account { sent: count, delivered, lost, duplicated, reordered, .. } = account;
        let error = sent.error.as_ref().or(received.error.as_ref());
        let whole = *count > 0 && *delivered > 0 && error.is_none();
        let detail = error.map_or_else(|| format!("{delivered} of {count}, {lost} lost"), Clone::clone);
        self.check(format!("{name}: nothing lost outside the data plane's restart"), whole && *lost == 0, detail);
        self.check(
            format!("{name}: nothing twice, nothing out of order, nothing altered"),
            *duplicated + *reordered + received.corrupt == 0,
            format!("{duplicated} duplicated, {reordered} reordered, {} altered", received.corrupt),
        );
    }

    pub(super) fn untrusted(&mut self, capture: &CaptureReport) {
        let CaptureReport { frames, sealed, cleartext, missed, nonces_reused, sealed_repeated, .. } = capture;
        self.check(
            "untrusted segment: not one frame in the clear",
            *cleartext == 0 && *sealed > 0 && *missed == 0,
            format!("{frames} frames heard, {sealed} sealed, {cleartext} in the clear, {missed} not captured"),
        );
        self.check(
            "untrusted segment: no counter used twice under a key",
            *nonces_reused == 0 && *sealed_repeated == 0,
            format!("{nonces_reused} reused, {sealed_repeated} repeated of {sealed}"),
        );
    }

    pub(super) fn restarts(&mut self, control: &Restart, data_plane: &Restart, streams: &Streams) {
        let lost = streams.ipv4.lost_in_window + streams.ipv6.lost_in_window;
        self.check(
            "restart of b's control daemon: back, and nothing lost",
            streams.ipv4.lost + streams.ipv6.lost == 0,
            format!("ready after {} ms", control.ready_ms),
        );
        self.check(
            "restart of b's data plane: both streams delivered again within 5 s",
            data_plane.window.len_ms() < 5000,
            format!("after {} ms, {lost} packets lost in them", data_plane.window.len_ms()),
        );
    }

    pub(super) fn rekey(&mut self, rekey: &Rekey, capture: &CaptureReport) {
        let keys = capture.keys.len();
        let detail = format!("{} after {} ms, {keys} keys heard in all", rekey.new_key, rekey.took_ms);
        self.check("rotation: a new key seals", keys == 3, detail);
    }

    pub(super) fn forged(&mut self, forged: &Forged) {
        let Forged { injected, dropped_in_xdp } = forged;
        self.check(
            "forgeries: all dropped in XDP by their tag",
            injected == dropped_in_xdp,
            format!("{injected} injected, {dropped_in_xdp} dropped"),
        );
    }

    pub(super) fn interfaces(&mut self, interfaces: &[InterfaceMode]) {
        let off = interfaces.iter().find(|one| one.received != one.accounted);
        let received: u64 = interfaces.iter().map(|one| one.received).sum();
        self.check(
            "accounting: received = passed + forwarded + dropped, on every interface",
            off.is_none(),
            off.map_or_else(
                || format!("{received} frames"),
                |one| {
                    format!("{} {}: {} received, {} accounted for", one.gateway, one.name, one.received, one.accounted)
                },
            ),
        );
        let slow = interfaces.iter().find(|one| one.xdp_mode != "driver");
        self.check(
            "XDP runs in the driver, on every interface",
            slow.is_none() && !interfaces.is_empty(),
            slow.map_or_else(
                || format!("{} interfaces, {}", interfaces.len(), interfaces.first().map_or("", |one| &one.bind_mode)),
                |one| format!("{} {}: `{}`", one.gateway, one.name, one.xdp_mode),
            ),
        );
    }

    pub(super) fn hops(&mut self, hops: &Hops) {
        let Hops { hops: links, key_ms, opened_between, stream, cleartext, relearn_ms, heal_ms, crossed } = hops;
        let Account { sent, delivered, lost, duplicated, reordered, .. } = stream;
        self.check(
            "keys over hops: installed at the far end, and nothing opened between",
            *opened_between == 0,
            format!("{links} hops, {key_ms} ms after the start, {opened_between} keys opened between"),
        );
        self.check(
            "stream over hops: whole, and nowhere in the clear",
            *delivered > 0 && *lost + *duplicated + *reordered + *cleartext == 0,
            format!("{delivered} of {sent}, {cleartext} in the clear"),
        );
        self.check(
            "control daemon crashed, its state deleted: everything learnt again within 5 s",
            *relearn_ms <= 5000,
            format!("after {relearn_ms} ms"),
        );
        self.check(
            "network split and healed: delivered under a key made meanwhile within 5 s",
            *heal_ms <= 5000 && *crossed == 0,
            format!("after {heal_ms} ms, {crossed} packets crossed the split"),
        );
    }

    pub(super) fn revocation(&mut self, revocation: &Revocation) {
        let Revocation { stays, dark_ms, after } = revocation;
        let Account { sent, delivered, lost, duplicated, reordered, .. } = stays;
        self.check(
            "revocation: receiver 2, behind the gateway cut off, is dark within 5 s",
            *after == 0 && *dark_ms <= 5000,
            format!("after {dark_ms} ms, {after} packets later than 5 s"),
        );
        self.check(
            "revocation: receiver 1 loses nothing",
            *delivered > 0 && *lost + *duplicated + *reordered == 0,
            format!("{delivered} of {sent}, {lost} lost"),
        );
    }

    pub(super) fn takeover(&mut self, takeover: &Takeover) {
        let Takeover { hello_ms, out, into, gap_ms } = takeover;
        let duplicated = out.duplicated + into.duplicated;
        self.check(
            "one of two gateways killed: the other takes over within 5 s",
            *gap_ms <= 5000,
            format!("after {gap_ms} ms, with Hellos every {hello_ms} ms"),
        );
        self.check(
            "one of two gateways killed: nothing lost before or after, nothing twice",
            out.lost + into.lost + duplicated == 0,
            format!("{} lost, {duplicated} twice, of {}", out.lost + into.lost, out.sent + into.sent),
        );
    }
}
