//! How long a data plane that is killed and started again at once does not forward, and what it costs when idle.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gemcast_lab::{Daemon, Seconds};
use serde::Serialize;

use super::PORT;
use super::relay::{Bench, Relay, received, sink};
use crate::error::{Error, Result};
use crate::machine;
use crate::statistics::median;

/// Time between packets while the data plane is killed: how exactly the gap is seen.
const INTERVAL: Duration = Duration::from_micros(200);
/// Packets that must have come through before the next kill.
const SETTLED: u64 = 1000;
/// How long idleness is watched.
const IDLE: Duration = Duration::from_secs(3);

/// What was found.
#[derive(Serialize)]
pub(crate) struct Restart {
    /// From the last frame before the kill to the first frame after it; median.
    pub(crate) gap_ms: f64,
    pub(crate) gap_ms_max: f64,
    /// From the start of the process to its first frame; median.
    pub(crate) start_ms: f64,
    pub(crate) resident_kib: u64,
    /// Of one core, without traffic.
    pub(crate) idle_cpu_percent: f64,
    pub(crate) control_resident_kib: u64,
    pub(crate) control_idle_cpu_percent: f64,
}

/// Kills the data plane of the sealing gateway `times` times under traffic.
pub(crate) fn measure(bench: &Bench, times: usize) -> Result<Restart> {
    let (gateway, sink) = (bench.one.gateway("a"), sink(&bench.one));
    let source = bench.one.host("source");
    let stop = AtomicBool::new(false);
    let (mut gaps, mut starts) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| source.namespace().enter(|| send(&stop)));
        let result = (|| -> Result<()> {
            for _ in 0..times {
                await_frames(sink, SETTLED)?;
                let killed = Instant::now();
                gateway.kill(Daemon::DataPlane)?;
                let started = Instant::now();
                gateway.start(Daemon::DataPlane)?;
                await_frames(sink, 1)?;
                gaps.push(killed.elapsed().as_secs_f64() * 1e3);
                starts.push(started.elapsed().as_secs_f64() * 1e3);
                gateway.wait_ready(10.s())?;
            }
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        sender
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?
            .map_err(|error| Error::Io("sending".into(), error))?;
        result
    })?;
    let process = |daemon| gateway.process(daemon).map_or(0, |process| process.pid as u32);
    let (plane, control) = (process(Daemon::DataPlane), process(Daemon::Control));
    let before = (machine::cpu_of(plane), machine::cpu_of(control));
    std::thread::sleep(IDLE);
    let percent = |before: f64, pid| (machine::cpu_of(pid) - before) / IDLE.as_secs_f64() * 100.0;
    Ok(Restart {
        gap_ms: median(&gaps),
        gap_ms_max: gaps.iter().copied().fold(0.0, f64::max),
        start_ms: median(&starts),
        resident_kib: machine::resident_kib(plane),
        idle_cpu_percent: percent(before.0, plane),
        control_resident_kib: machine::resident_kib(control),
        control_idle_cpu_percent: percent(before.1, control),
    })
}

/// Sends small datagrams from an ordinary socket.
fn send(stop: &AtomicBool) -> std::io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_multicast_ttl_v4(8)?;
    while !stop.load(Ordering::Relaxed) {
        socket.send_to(&[0x47; 188], (Relay::Sealed.group(), PORT))?;
        std::thread::sleep(INTERVAL);
    }
    Ok(())
}

/// Waits until an interface has received so many frames more.
fn await_frames(sink: (gemcast_lab::Host<'_>, &str), count: u64) -> Result<()> {
    let (start, before) = (Instant::now(), received(sink)?);
    while received(sink)? < before + count {
        if start.elapsed() > 10.s() {
            let text = "no frame reached the sink for 10 s";
            return Err(Error::Io("measuring the restart".into(), std::io::Error::other(text)));
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}
