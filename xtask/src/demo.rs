//! `cargo xtask demo`: a real stream through two gateways and an untrusted network, with a story.
//!
//! Two ordinary sockets send MPEG-TS over RTP, IPv4 and IPv6; two ordinary sockets receive; an observer listens on the
//! untrusted segment. On the way the receiving gateway's daemons are restarted, the sending gateway's key is rotated and
//! the observer forges packets. A second network then has a gateway in its middle that is no member, and in a third one a
//! gateway is cut off. Every claim is a check with a name; the last line is PASS or FAIL.

mod checks;
mod hops;
mod report;
mod revocation;
mod takeover;

use std::io::{IsTerminal, Write};
use std::net::IpAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use gemcast_lab::{
    Account, CaptureReport, Daemon, Datagram, Gateway, Lab, Options, Receiver, ReceiverReport, Result as LabResult,
    RunningCapture, SEALED_PORT, Seconds, Sender, SenderReport, Stream, Topology, Window, monotonic_ns,
};

use crate::compile;
use crate::error::{Error, Result};
use checks::Checks;
use hops::Hops;
use report::{Forged, InterfaceMode, Outcome, Rekey, Restart, Streams};
use revocation::Revocation;
use takeover::Takeover;

const V4: &str = "239.1.1.1";
const V6: &str = "ff3e::1:1";
const PORT: u16 = 5004;
/// Forged packets per group.
const FORGERIES: u64 = 1000;
/// The SEK's announcement is shortened from 30 s, so that a short demo sees the whole rotation.
const KEYS: &str = "[keys]\nannounce_lead = \"3s\"\noverlap = \"2s\"";

/// Runs the demo.
pub(crate) fn run(json: Option<&Path>, seconds: u64) -> Result<ExitCode> {
    compile::for_lab()?;
    let outcome = match show(seconds) {
        Ok(outcome) => outcome,
        Err(error) => Outcome::failed(seconds, error.to_string()),
    };
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&outcome).expect("the outcome has string keys only");
        std::fs::write(path, text + "\n").map_err(|error| Error::Io(path.display().to_string(), error))?;
    }
    print!("{}", outcome.to_text());
    Ok(if outcome.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(seconds: u64) -> LabResult<Outcome> {
    let mut story = Story::begin();
    story.tell("raising the lab: source – a – untrusted segment with an observer – b – receiver");
    let instance = format!("demo-{}", std::process::id());
    let lab = Lab::up(Topology::pair(), Options::new(&instance).config(KEYS))?;
    let (a, b) = (lab.gateway("a"), lab.gateway("b"));
    story.tell(format_args!("gateways serve and have each other's keys; sending for {seconds} s to {V4} and {V6}"));
    let streams = Live::start(&lab)?;
    story.at(seconds, 20, &streams);

    story.tell("restarting the control daemon of b: the data plane goes on by itself");
    let control = restart(&b, Daemon::Control, &streams)?;
    story.at(seconds, 40, &streams);

    story.tell("restarting the data plane of b: what is sent until it serves again is lost");
    let data_plane = restart(&b, Daemon::DataPlane, &streams)?;
    story.tell(format_args!("b delivers again after {} ms", data_plane.window.len_ms()));
    story.at(seconds, 55, &streams);

    story.tell(format_args!("rotating a's key for {V4}"));
    let rekey = rotate(&lab, &a, &streams)?;
    story.tell(format_args!("the new key seals, {} ms after the command", rekey.took_ms));
    story.at(seconds, 85, &streams);

    story.tell(format_args!("forging {} packets from the observer: right in everything but the tag", 2 * FORGERIES));
    let forged = forge(&lab, &b)?;
    story.at(seconds, 100, &streams);

    let heard = streams.stop()?;
    story.tell("sending has ended; adding up");
    lab.eventually(5.s(), "counters to settle", || [&a, &b].into_iter().all(is_accounted))?;
    let modes = modes(&lab)?;
    drop(lab);
    let hops = hops::show(&story)?;
    let revocation = revocation::show(&story)?;
    let takeover = takeover::show(&story)?;
    Ok(judge(seconds, modes, heard, control, data_plane, rekey, forged, hops, revocation, takeover))
}

/// The streams, and everyone who listens.
struct Live {
    senders: [Sender; 2],
    receivers: [Receiver; 2],
    capture: RunningCapture,
}

/// What they were, once stopped.
struct Heard {
    sent: [SenderReport; 2],
    received: [ReceiverReport; 2],
    capture: CaptureReport,
}

impl Live {
    fn start(lab: &Lab) -> LabResult<Self> {
        let groups = [ip(V4), ip(V6)];
        let receive = |group| lab.host("receiver").receive(group, PORT, None);
        let receivers = [receive(groups[0])?, receive(groups[1])?];
        let capture = lab.host("observer").capture("eth0")?.protected(&groups).start()?;
        let send = |group| lab.host("source").send(Stream { port: PORT, ..Stream::to(group) });
        Ok(Self { senders: [send(groups[0])?, send(groups[1])?], receivers, capture })
    }

    fn sent(&self) -> u64 {
        self.senders.iter().map(Sender::sent).sum()
    }

    fn delivered(&self) -> u64 {
        self.receivers.iter().map(Receiver::delivered).sum()
    }

    fn cleartext(&self) -> u64 {
        self.capture.look(|report| report.cleartext)
    }

    /// Waits until both streams deliver packets sent after this moment.
    fn wait_delivery(&self, timeout: Duration) -> LabResult<()> {
        let (now, start) = (monotonic_ns(), Instant::now());
        while self.receivers.iter().any(|receiver| receiver.last_ns() <= now) {
            if start.elapsed() > timeout {
                let what = "both streams to be delivered again".into();
                return Err(gemcast_lab::Error::Timeout { what, waited: timeout });
            }
            std::thread::sleep(5.ms());
        }
        Ok(())
    }

    fn stop(self) -> LabResult<Heard> {
        let sent = self.senders.map(Sender::stop);
        let received = self.receivers.map(|receiver| receiver.finish(300.ms()));
        Ok(Heard { sent, received, capture: self.capture.stop()? })
    }
}

/// Stops a daemon with SIGTERM and starts it again. The window ends when both streams are delivered again.
fn restart(gateway: &Gateway<'_>, daemon: Daemon, streams: &Live) -> LabResult<Restart> {
    let from_ns = monotonic_ns();
    gateway.stop(daemon)?;
    gateway.start(daemon)?;
    let ready = gateway.wait_ready(20.s())?;
    streams.wait_delivery(20.s())?;
    let window = Window { from_ns, to_ns: monotonic_ns() };
    Ok(Restart { daemon: daemon.name(), window, ready_ms: ready.as_millis() as u64 })
}

/// Rotates the key of the IPv4 group and waits until the wire shows the new one.
fn rotate(lab: &Lab, gateway: &Gateway<'_>, streams: &Live) -> LabResult<Rekey> {
    let start = Instant::now();
    let keys = || streams.capture.look(|report| report.keys.clone());
    let before = keys();
    gateway.gemctl(&["key", "rotate", V4])?;
    lab.eventually(20.s(), "packets under a new key", || keys().keys().any(|key| !before.contains_key(key)))?;
    let new = keys().into_keys().find(|key| !before.contains_key(key)).unwrap_or_default();
    Ok(Rekey { group: V4.into(), new_key: format!("{new:08x}"), took_ms: start.elapsed().as_millis() as u64 })
}

/// Sends packets that are right in everything but the group tag, and counts those that b's XDP program drops for it.
fn forge(lab: &Lab, gateway: &Gateway<'_>) -> LabResult<Forged> {
    let dropped = || gateway.interface("wan0").map(|interface| interface.dropped_for("gtag"));
    let before = dropped()?;
    let observer = lab.host("observer");
    let socket = observer.packet_socket("eth0")?;
    let source = lab.host("source");
    for number in 0..FORGERIES {
        for group in [ip(V4), ip(V6)] {
            let payload = forgery(number);
            let mac = observer.interface().mac;
            socket.send(&Datagram::new(mac, source.address(group), group, SEALED_PORT, payload).to_frame())?;
        }
    }
    let injected = 2 * FORGERIES;
    // Fewer are a finding for the checks, not an error here.
    let _ = lab.eventually(5.s(), "forgeries to be counted", || dropped().is_ok_and(|now| now - before >= injected));
    Ok(Forged { injected, dropped_in_xdp: dropped()?.saturating_sub(before) })
}

/// Version 1, native, no flags, epoch 1; key id, counter and tag made up, the rest noise.
fn forgery(number: u64) -> Vec<u8> {
    let noise = |salt: u64| (number ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
    let mut payload = vec![0x10, 0, 0, 1];
    payload.extend((noise(1) as u32).to_be_bytes());
    payload.extend((number + 1).to_be_bytes());
    payload.extend((0..60).flat_map(|word| noise(2 + word).to_be_bytes()));
    payload
}

fn is_accounted(gateway: &Gateway<'_>) -> bool {
    gateway.interfaces().is_ok_and(|all| all.iter().all(|one| one.received == one.accounted()))
}

fn modes(lab: &Lab) -> LabResult<Vec<InterfaceMode>> {
    let mut modes = Vec::new();
    for gateway in lab.gateways() {
        for interface in gateway.interfaces()? {
            modes.push(InterfaceMode::of(gateway.host().name(), interface));
        }
    }
    Ok(modes)
}

#[expect(clippy::too_many_arguments, reason = "each is one part of the demo")]
fn judge(
    seconds: u64,
    interfaces: Vec<InterfaceMode>,
    heard: Heard,
    control: Restart,
    data_plane: Restart,
    rekey: Rekey,
    forged: Forged,
    hops: Hops,
    revocation: Revocation,
    takeover: Takeover,
) -> Outcome {
    let windows = [data_plane.window];
    let account = |index: usize| {
        let Heard { sent, received, .. } = &heard;
        Account::of(&sent[index], &received[index].stream(1), &windows)
    };
    let streams = Streams { ipv4: account(0), ipv6: account(1) };
    let mut checks = Checks::default();
    for (name, account, index) in [("IPv4", &streams.ipv4, 0), ("IPv6", &streams.ipv6, 1)] {
        checks.stream(name, account, &heard.sent[index], &heard.received[index]);
    }
    checks.untrusted(&heard.capture);
    checks.restarts(&control, &data_plane, &streams);
    checks.rekey(&rekey, &heard.capture);
    checks.forged(&forged);
    checks.interfaces(&interfaces);
    checks.hops(&hops);
    checks.revocation(&revocation);
    checks.takeover(&takeover);
    let capture = &heard.capture;
    Outcome::of(
        seconds, checks, streams, capture, control, data_plane, rekey, forged, interfaces, hops, revocation, takeover,
    )
}

/// Tells what happens as it happens, and shows progress in between.
struct Story {
    start: Instant,
    sending: Option<Instant>,
    terminal: bool,
}

impl Story {
    fn begin() -> Self {
        Self { start: Instant::now(), sending: None, terminal: std::io::stdout().is_terminal() }
    }

    fn tell(&self, what: impl std::fmt::Display) {
        let erase = if self.terminal { "\r\x1b[K" } else { "" };
        println!("{erase}{:6.1} s  {what}", self.start.elapsed().as_secs_f64());
    }

    /// Waits until that much of the demo is over, with a line of progress.
    fn at(&mut self, seconds: u64, percent: u64, streams: &Live) {
        let sending = *self.sending.get_or_insert_with(Instant::now);
        let due = Duration::from_millis(seconds * 10 * percent);
        let mut next_line = sending.elapsed();
        while let Some(left) = due.checked_sub(sending.elapsed()) {
            std::thread::sleep(left.min(200.ms()));
            if self.terminal || sending.elapsed() > next_line + 5.s() {
                next_line = sending.elapsed();
                self.progress(streams);
            }
        }
    }

    fn progress(&self, streams: &Live) {
        let (sent, delivered, cleartext) = (streams.sent(), streams.delivered(), streams.cleartext());
        let line = format!("sent {sent}  delivered {delivered}  cleartext on the untrusted segment {cleartext}");
        if self.terminal {
            print!("\r\x1b[K{:6.1} s  {line}", self.start.elapsed().as_secs_f64());
            let _ = std::io::stdout().flush();
        } else {
            self.tell(line);
        }
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a constant address")
}
