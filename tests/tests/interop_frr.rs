//! gemcastd beside FRR's babeld, which knows no MAC: on an interface with `mac = false` the two are neighbours, exchange
//! routes both ways in both families, and FRR skips what it does not know.
//!
//! Gateway `a` runs gemcastd alone; in gateway `b`'s place stand FRR's zebra and babeld.

mod common;

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use common::{adjacent, turn};
use gemcast_lab::{Daemon, GemTraffic, Host, Lab, Options, Result, Seconds, Topology};
use rustix::process::{Pid, Signal, kill_process};

const OURS: [&str; 2] = ["10.66.0.0/24", "2001:db8:66::/64"];
const THEIRS: [&str; 2] = ["10.88.0.0/24", "2001:db8:88::/64"];
/// Where Debian's package puts the daemons.
const DAEMONS: &str = "/usr/lib/frr";

/// FRR's daemons, with sockets, configuration and logs in a directory of their own.
struct Frr<'a> {
    host: Host<'a>,
    directory: PathBuf,
    processes: Vec<Child>,
}

impl<'a> Frr<'a> {
    fn start(lab: &'a Lab) -> Result<Self> {
        assert!(Path::new(DAEMONS).exists(), "FRR is not installed; `cargo xtask setup` installs the package frr");
        let directory = lab.gateway("b").directory().join("frr");
        fs::create_dir(&directory).expect("the lab's directory is writable");
        let mut frr = Self { host: lab.gateway("b").host(), directory, processes: Vec::new() };
        // They give up root for a user of their own, who has to write here.
        let user = frr.host.run(&["id", "-u", "frr"])?.trim().parse().expect("a user id");
        let group = frr.host.run(&["id", "-g", "frr"])?.trim().parse().expect("a group id");
        for file in ["", "zebra.conf", "babeld.conf"] {
            let path = frr.directory.join(file);
            if !file.is_empty() {
                fs::write(&path, "").expect("writable");
            }
            chown(&path, Some(user), Some(group)).expect("root may");
        }
        frr.spawn("zebra");
        lab.eventually(10.s(), "zebra to listen", || frr.shows(&["show version"], "FRRouting"))?;
        frr.spawn("babeld");
        // babeld 8.4 joins its multicast group twice, and gives up on the interface, when it is told of it before it has
        // heard of it from zebra (FRR issue 13569): so it is told here, not in its configuration file.
        lab.eventually(10.s(), "babeld to know the interface", || frr.shows(&["show babel interface"], "wan0 is up"))?;
        frr.configure(&["interface wan0", "babel wired", "babel hello-interval 1000", "babel update-interval 2000"]);
        frr.configure(&["router babel", "network wan0", "redistribute ipv4 kernel", "redistribute ipv6 kernel"]);
        Ok(frr)
    }

    fn spawn(&mut self, daemon: &str) {
        let file = |suffix: &str| self.directory.join(format!("{daemon}.{suffix}"));
        let mut command = self.host.command(Path::new(DAEMONS).join(daemon));
        command.args(["-P", "0", "--vty_socket"]).arg(&self.directory).arg("-z").arg(self.directory.join("zebra.sock"));
        command.arg("-f").arg(file("conf")).arg("-i").arg(file("pid"));
        command.arg("--log").arg(format!("file:{}", file("log").display()));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.processes.push(command.spawn().expect("it starts"));
    }

    fn vtysh(&self, commands: &[&str]) -> String {
        let mut command = self.host.command("vtysh");
        command.arg("--vty_socket").arg(&self.directory);
        for line in commands {
            command.args(["-c", line]);
        }
        let output = command.stdin(Stdio::null()).output().expect("vtysh runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn shows(&self, commands: &[&str], text: &str) -> bool {
        self.vtysh(commands).contains(text)
    }

    fn configure(&self, lines: &[&str]) {
        let said = self.vtysh(&[&["configure terminal"], lines].concat());
        assert!(!said.contains('%'), "vtysh says: {said}");
    }
}

impl Drop for Frr<'_> {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = kill_process(Pid::from_child(process), Signal::KILL);
            let _ = process.wait();
        }
        if std::thread::panicking() {
            eprintln!(
                "--- babeld's log\n{}",
                fs::read_to_string(self.directory.join("babeld.log")).unwrap_or_default()
            );
        }
    }
}

/// Whether a host's kernel has Babel routes to all of the prefixes, or to none of them.
fn routed(host: Host<'_>, prefixes: [&str; 2], wanted: bool) -> bool {
    let shown = |family, prefix| host.run(&["ip", family, "route", "show", prefix, "dev", "wan0"]).unwrap_or_default();
    shown("-4", prefixes[0]).contains("proto babel") == wanted
        && shown("-6", prefixes[1]).contains("proto babel") == wanted
}

#[test]
fn frr_and_gemcastd_exchange_routes_without_a_mac() -> Result<()> {
    let _turn = turn();
    let announce = format!("[babel]\nannounce = {OURS:?}\n[resilience]\nupdate_interval = \"2s\"\n");
    let options = Options::new("t-frr").groups([]).without_daemons().gateway_config("a", &announce);
    let lab = Lab::up(Topology::pair(), options.interface_config("a", "wan0", "mac = false\n"))?;
    lab.make_identities()?;
    let (a, b) = (lab.gateway("a"), lab.gateway("b").host());
    for (family, prefix) in [("-4", THEIRS[0]), ("-6", THEIRS[1])] {
        b.run(&["ip", family, "route", "add", prefix, "dev", "lo", "proto", "static"])?;
    }
    let capture = b.capture("wan0")?.keep(100_000).start()?;
    a.start(Daemon::Control)?;
    let frr = Frr::start(&lab)?;
    let converged = || adjacent(&a, "wan0") && routed(a.host(), THEIRS, true) && routed(b, OURS, true);
    let waited = lab.eventually(30.s(), "routes both ways, in both families", converged);
    if waited.is_err() {
        eprintln!("{}", frr.vtysh(&["show babel neighbor", "show babel route"]));
    }
    waited?;
    let neighbours = frr.vtysh(&["show babel neighbor"]);
    assert_eq!(neighbours.matches("Neighbour ").count(), 1, "{neighbours}");

    // What they take back is gone here, what we take back there.
    b.run(&["ip", "-4", "route", "del", THEIRS[0], "dev", "lo"])?;
    b.run(&["ip", "-6", "route", "del", THEIRS[1], "dev", "lo"])?;
    lab.eventually(20.s(), "their retraction", || adjacent(&a, "wan0") && routed(a.host(), THEIRS, false))?;
    let config = fs::read_to_string(a.config_file()).expect("it is configured");
    fs::write(a.config_file(), config.replace("announce = ", "announce = [] # ")).expect("writable");
    a.signal(Daemon::Control, Signal::HUP)?;
    lab.eventually(20.s(), "our retraction", || routed(b, OURS, false))?;
    fs::write(a.config_file(), config).expect("writable");
    a.signal(Daemon::Control, Signal::HUP)?;
    lab.eventually(20.s(), "our routes again", || routed(b, OURS, true))?;

    // It was sent GEM TLVs as well, and stayed a neighbour.
    let gem = GemTraffic::of(&capture.stop()?.datagrams);
    assert!(gem.wildcards > 0, "it was asked for its objects");
    assert!(adjacent(&a, "wan0"));
    Ok(())
}
