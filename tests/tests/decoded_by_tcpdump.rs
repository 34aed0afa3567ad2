//! What our gateways send, read by somebody else: tcpdump decodes every Babel packet in full.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{GROUPS, turn};
use gemcast_lab::{Daemon, Lab, Options, Result, Seconds, Topology};
use rustix::process::Signal;

/// What tcpdump says of a packet that it cannot decode, or decodes only in part.
const COMPLAINTS: [&str; 8] =
    ["[|babel]", "[|", "invalid", "truncated", "too short", "too long", "malformed", "bad length"];
/// The GEM TLVs, which it does not know and says so.
const GEM: std::ops::RangeInclusive<u32> = 224..=227;

/// tcpdump's account of a capture file, as much of it as it gives.
fn decoded(file: &Path) -> String {
    let output = Command::new("tcpdump").args(["-n", "-vvv", "-r"]).arg(file).arg("udp port 6696").output();
    let output = output.expect("tcpdump is installed; `cargo xtask setup` does that");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn tcpdump_decodes_every_babel_packet() -> Result<()> {
    let _turn = turn();
    let announce =
        |gateway: u8| format!("[babel]\nannounce = [\"10.{gateway}.0.0/24\", \"2001:db8:{gateway}::/64\"]\n");
    let options = Options::new("t-tcpdump").gateway_config("a", &announce(66)).gateway_config("b", &announce(88));
    let lab = Lab::up(Topology::pair(), options.without_daemons())?;
    lab.make_identities()?;
    let file = lab.state().directory.join("babel.pcap");
    let capture = lab.host("observer").capture("eth0")?.pcap(&file).start()?;
    lab.start()?;
    lab.wait_converged(30.s())?;
    let (a, b) = (lab.gateway("a"), lab.gateway("b"));
    let routed = || {
        let routes = b.host().run(&["ip", "route", "show", "10.66.0.0/24", "dev", "wan0"]);
        routes.is_ok_and(|routes| !routes.is_empty())
    };
    lab.eventually(10.s(), "a's route at b", routed)?;
    // A key that changes, a retraction, requests of one who starts anew.
    a.gemctl(&["key", "rotate", GROUPS[0]])?;
    let config = fs::read_to_string(a.config_file()).expect("it is configured");
    fs::write(a.config_file(), config.replace("announce = ", "announce = [] # ")).expect("writable");
    a.signal(Daemon::Control, Signal::HUP)?;
    lab.eventually(10.s(), "the route to go", || !routed())?;
    fs::write(a.config_file(), config).expect("writable");
    a.kill(Daemon::Control)?;
    a.start(Daemon::Control)?;
    lab.wait_converged(30.s())?;
    lab.eventually(10.s(), "a's route at b again", routed)?;
    let heard = capture.stop()?;
    assert_eq!(heard.missed, 0);

    let text = decoded(&file);
    let lines = || text.lines().map(str::trim);
    let mut unknown = Vec::new();
    for line in lines() {
        let complaint = COMPLAINTS.iter().find(|complaint| line.to_lowercase().contains(**complaint));
        assert!(complaint.is_none(), "tcpdump says `{line}`");
        if let Some((_, what)) = line.to_lowercase().split_once("unknown") {
            let kind = what.strip_prefix(" message type ").and_then(|kind| kind.parse().ok());
            assert!(kind.is_some_and(|kind: u32| GEM.contains(&kind)), "tcpdump says `{line}`");
            unknown.push(kind);
        }
    }
    assert!(!unknown.is_empty(), "GEM TLVs are among them");
    for expected in ["Hello", "IHU", "Router Id", "Update", "MAC", "PC", "10.66.0.0/24", "2001:db8:88::/64"] {
        assert!(lines().any(|line| line.contains(expected)), "`{expected}` is missing in:\n{text}");
    }
    Ok(())
}
