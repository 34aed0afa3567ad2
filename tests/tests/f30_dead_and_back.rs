//! The gateway in the middle stops, and dies: its neighbours tell that it is suspect, dead and back, both ends see the
//! partition and its healing, and nothing is delivered twice.

mod common;

use common::{GROUPS, PORT, ip, turn};
use gemcast_lab::{Daemon, Gateway, Group, Lab, Options, Result, Seconds, Stream, Topology};
use rustix::process::Signal;
use serde_json::Value;
use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};

/// Texts of the events of that name.
fn told(gateway: &Gateway<'_>, name: &str) -> Vec<String> {
    let output = gateway.gemctl_output(&["-o", "json", "events"]).expect("gemctl runs");
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let events = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
    let named = events.filter(|event| event["name"] == name);
    named.map(|event| event["text"].as_str().unwrap_or_default().to_owned()).collect()
}

/// The nodes that a gateway does not reach.
fn lost(gateway: &Gateway<'_>) -> Vec<String> {
    let nodes = gateway.gemctl(&["node", "list"]).ok().and_then(|answer| answer["nodes"].as_array().cloned());
    let lost = nodes.into_iter().flatten().filter(|node| node["reach"] == "lost");
    lost.map(|node| node["name"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Sources of the streams of the group that a gateway opens, and whether they are silent.
fn streams(gateway: &Gateway<'_>) -> Vec<(String, bool)> {
    let answer = gateway.gemctl(&["group", "list"]).expect("gemctl answers");
    let streams = answer["groups"][0]["streams"].as_array().cloned().unwrap_or_default();
    let stream =
        |stream: &Value| (stream["origin_name"].as_str().unwrap_or_default().to_owned(), stream["silent"] == true);
    streams.iter().map(stream).collect()
}

#[test]
fn f30_f11_a_stopped_and_a_killed_gateway_are_told_and_healed() -> Result<()> {
    let _turn = turn();
    let lab = Lab::up(Topology::line(), Options::new("t-f30").groups([Group::new(GROUPS[0])]))?;
    let group = ip(GROUPS[0]);
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.gateway(name));
    let receiver = lab.host("host-c").receive(group, PORT, None)?;
    let sender = lab.host("host-a").send(Stream::to(group).id(1).bits_per_second(500_000))?;
    lab.eventually(20.s(), "the stream", || receiver.report().stream(1).delivered > 20)?;
    let both = |told_by: &dyn Fn(&Gateway<'_>) -> bool| told_by(&a) && told_by(&c);
    lab.eventually(30.s(), "everybody to be reached", || {
        both(&|one| one.gemctl(&["status"]).is_ok_and(|status| status["totals"]["nodes_reached"] == 3))
    })?;
    assert!(both(&|one| told(one, "neighbour_dead").is_empty() && told(one, "partition").is_empty()));

    b.process(Daemon::Control).expect("it runs").signal(Signal::STOP).expect("it is ours");
    lab.eventually(30.s(), "both ends to tell of the partition", || both(&|one| told(one, "partition").len() == 1))?;
    for (end, other) in [(&a, "c"), (&c, "a")] {
        assert!(told(end, "neighbour_suspect")[0].contains("missed 2 of 3"), "{:?}", told(end, "neighbour_suspect"));
        let dead = told(end, "neighbour_dead");
        assert!(dead.len() == 1 && dead[0].contains("missed 3 Hellos: nothing moved; 1 group, 2 gateways"), "{dead:?}");
        let mut missing = lost(end);
        missing.sort();
        let mut expected = ["b", other];
        expected.sort_unstable();
        assert_eq!(missing, expected);
        let status = end.gemctl_output(&["-o", "json", "status"])?;
        let json: Value = serde_json::from_slice(&status.stdout).expect("JSON");
        assert_eq!((status.status.code(), &json["state"]), (Some(3), &Value::from("degraded")), "{json}");
        assert!(json["causes"].as_array().is_some_and(|causes| causes.contains(&"partition".into())), "{json}");
    }

    b.process(Daemon::Control).expect("it runs").signal(Signal::CONT).expect("it is ours");
    lab.eventually(30.s(), "both ends to tell of the healing", || {
        both(&|one| told(one, "partition_healed").len() == 1 && told(one, "neighbour_back").len() == 1)
    })?;
    assert!(both(&|one| lost(one).is_empty()));

    b.kill_control()?;
    lab.eventually(30.s(), "the death to be told", || both(&|one| told(one, "neighbour_dead").len() == 2))?;
    b.start(Daemon::Control)?;
    b.wait_ready(30.s())?;
    lab.eventually(30.s(), "its return to be told", || both(&|one| told(one, "neighbour_back").len() == 2))?;
    let so_far = receiver.report().stream(1).delivered;
    lab.eventually(30.s(), "the stream to go on", || receiver.report().stream(1).delivered > so_far + 20)?;

    // The last one to stop is the source.
    drop(sender);
    lab.eventually(30.s(), "the silence to be told", || !told(&c, "stream_silent").is_empty())?;
    assert_eq!(streams(&c), [("a".to_owned(), true)]);
    let silences = told(&c, "stream_back").len();
    let _sender = lab.host("host-a").send(Stream::to(group).id(2).bits_per_second(500_000))?;
    lab.eventually(30.s(), "its return to be told", || told(&c, "stream_back").len() > silences)?;
    assert_eq!(streams(&c), [("a".to_owned(), false)]);
    let report = receiver.stop();
    assert_eq!((report.corrupt, report.stream(1).duplicated), (0, 0));
    Ok(())
}

#[test]
fn f30_systemd_hears_of_readiness_progress_and_mode() -> Result<()> {
    let _turn = turn();
    let lab = Lab::up(Topology::pair(), Options::new("t-f30-notify").without_daemons())?;
    lab.make_identities()?;
    let a = lab.gateway("a");
    let mut children = Vec::new();
    let mut sockets = Vec::new();
    for daemon in Daemon::BOTH {
        let path = a.directory().join(format!("{}.notify", daemon.name()));
        let socket = UnixDatagram::bind(&path).expect("the directory is the lab's");
        socket.set_nonblocking(true).expect("a socket");
        sockets.push(socket);
        let quiet = |command: &mut Command| {
            command.env("NOTIFY_SOCKET", &path).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
        };
        children.push(Running(quiet(&mut a.command(daemon)?).expect("the binary runs")));
    }
    for (socket, wanted) in
        sockets.iter().zip([&["READY=1", "WATCHDOG=1"][..], &["READY=1", "WATCHDOG=1", "STATUS=normal"]])
    {
        let mut heard = BTreeSet::new();
        lab.eventually(30.s(), "what systemd is to hear", || {
            let mut buffer = [0; 1024];
            while let Ok(length) = socket.recv(&mut buffer) {
                heard.extend(String::from_utf8_lossy(&buffer[..length]).lines().map(str::to_owned));
            }
            wanted.iter().all(|line| heard.contains(*line))
        })?;
    }
    Ok(())
}

/// A daemon that systemd would watch over; it ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}
