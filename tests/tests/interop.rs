//! gemcastd beside Babel routers of other makes, babeld and BIRD, which share its authenticated routing domain (RFC 8966,
//! RFC 8967): adjacency, routes both ways in both families, retraction, restarts, and keys that change or are wrong.
//!
//! Gateway `a` runs gemcastd alone; in gateway `b`'s place stands the other router.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::turn;
use gemcast_lab::{Daemon, Gateway, Host, Lab, Options, Result, Seconds, Topology};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// What `a` announces, and what the other router does.
const OURS: [&str; 2] = ["10.66.0.0/24", "2001:db8:66::/64"];
const THEIRS: [&str; 2] = ["10.88.0.0/24", "2001:db8:88::/64"];

/// Make of the other router.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Make {
    Babeld,
    Bird,
}

impl Make {
    /// The program and its Debian package.
    fn program(self) -> (&'static str, &'static str) {
        match self {
            Self::Babeld => ("babeld", "babeld"),
            Self::Bird => ("bird", "bird2"),
        }
    }
}

/// The other router.
struct Router<'a> {
    make: Make,
    host: Host<'a>,
    directory: PathBuf,
    /// Keys of the Babel MAC, hexadecimal; babeld takes one.
    keys: Vec<String>,
    /// What it says receiving from us costs.
    rxcost: u32,
    announces: bool,
    process: Option<Child>,
    /// The test is done and nobody wants to see its log.
    quiet: bool,
}

impl<'a> Router<'a> {
    fn start(lab: &'a Lab, make: Make, key: &str) -> Self {
        let (program, package) = make.program();
        let found = ["/usr/sbin", "/usr/bin", "/sbin"].iter().any(|dir| Path::new(dir).join(program).exists());
        assert!(found, "{program} is not installed; `cargo xtask setup` installs the package {package}");
        let host = lab.gateway("b").host();
        let directory = lab.gateway("b").directory();
        let keys = vec![key.to_owned()];
        let mut router = Self { make, host, directory, keys, rxcost: 96, announces: true, process: None, quiet: false };
        // babeld announces what the kernel routes and an operator put there.
        host.run(&["ip", "route", "add", THEIRS[0], "dev", "lo", "proto", "static"]).expect("a route");
        host.run(&["ip", "route", "add", THEIRS[1], "dev", "lo", "proto", "static"]).expect("a route");
        router.run();
        router
    }

    fn configure(&self) -> PathBuf {
        let text = match self.make {
            Make::Babeld => format!(
                "key id k type hmac-sha256 value {}\n\
                 interface wan0 type wired key k rxcost {} hello-interval 1 update-interval 2\n{}\
                 redistribute local deny\nredistribute deny\n",
                self.keys[0],
                self.rxcost,
                if self.announces {
                    THEIRS.map(|p| format!("redistribute ip {p} allow\n")).concat()
                } else {
                    "".into()
                },
            ),
            Make::Bird => format!(
                "router id 10.88.0.1;\nlog stderr all;\nprotocol device {{}}\n\
                 protocol kernel {{ ipv4 {{ export where source = RTS_BABEL; }}; }}\n\
                 protocol kernel {{ ipv6 {{ export where source = RTS_BABEL; }}; }}\n\
                 protocol static {{ ipv4; {} }}\nprotocol static {{ ipv6; {} }}\n\
                 protocol babel {{ interface \"wan0\" {{ type wired; rxcost {}; hello interval 1 s; update interval 2 s;\n\
                 authentication mac; {} }};\nipv4 {{ import all; export where source = RTS_STATIC; }};\n\
                 ipv6 {{ import all; export where source = RTS_STATIC; }}; }}\n",
                if self.announces { format!("route {} unreachable;", THEIRS[0]) } else { "".into() },
                if self.announces { format!("route {} unreachable;", THEIRS[1]) } else { "".into() },
                self.rxcost,
                self.keys
                    .iter()
                    .map(|key| format!("password {key} {{ algorithm hmac sha256; }};"))
                    .collect::<Vec<_>>()
                    .join(" "),
            ),
        };
        let path = self.directory.join("router.conf");
        fs::write(&path, text).expect("the lab's directory is writable");
        path
    }

    fn run(&mut self) {
        let config = self.configure();
        let log = fs::File::options().create(true).append(true).open(self.directory.join("router.log")).unwrap();
        let mut command = self.host.command(self.make.program().0);
        match self.make {
            Make::Babeld => command.arg("-I").arg(self.directory.join("babeld.pid")).arg("-S").arg("").arg("-c"),
            Make::Bird => command.arg("-f").arg("-s").arg(self.control()).arg("-c"),
        };
        command.arg(config);
        if self.make == Make::Babeld {
            command.arg("wan0");
        }
        let _ = fs::remove_file(self.directory.join("babeld.pid"));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.process = Some(command.spawn().expect("the router starts"));
    }

    fn control(&self) -> PathBuf {
        self.directory.join("bird.ctl")
    }

    /// Ends it in order, with a retraction of its routes, or at once.
    fn end(&mut self, signal: Signal) {
        if let Some(mut process) = self.process.take() {
            kill_process(Pid::from_child(&process), signal).expect("it runs");
            process.wait().expect("it ends");
        }
    }

    /// Makes a change of its fields count: BIRD reads its configuration anew, babeld has to start anew.
    fn reconfigure(&mut self) {
        match self.make {
            Make::Bird => {
                self.configure();
                let answer = Command::new("birdc").arg("-s").arg(self.control()).arg("configure").output().unwrap();
                let answer = String::from_utf8_lossy(&answer.stdout).into_owned();
                assert!(answer.contains("Reconfigured") || answer.contains("Reconfiguration"), "{answer}");
            }
            Make::Babeld => {
                self.end(Signal::TERM);
                self.run();
            }
        }
    }
}

impl Drop for Router<'_> {
    fn drop(&mut self) {
        self.end(Signal::KILL);
        if !self.quiet {
            let log = fs::read_to_string(self.directory.join("router.log")).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            eprintln!(
                "--- the end of {}'s log\n{}",
                self.make.program().0,
                lines[lines.len().saturating_sub(15)..].join("\n")
            );
        }
    }
}

/// A lab with gemcastd running in `a`, and the Babel key of its domain.
fn lab(instance: &str) -> Result<Lab> {
    // The other router restarts more often than damping takes for the work of a good link.
    let announce =
        format!("[babel]\nannounce = {OURS:?}\n[resilience]\nupdate_interval = \"2s\"\nflap_damping = false\n");
    let options = Options::new(instance).groups([]).without_daemons().gateway_config("a", &announce);
    let lab = Lab::up(Topology::pair(), options)?;
    lab.make_identities()?;
    lab.gateway("a").start(Daemon::Control)?;
    Ok(lab)
}

/// The bootstrap key's file of a gateway's configuration.
fn bootstrap_key(gateway: Gateway<'_>) -> String {
    let config = fs::read_to_string(gateway.config_file()).expect("it is configured");
    let line = config.lines().find_map(|line| line.strip_prefix("bootstrap_key = ")).expect("it has one");
    line.trim_matches('"').to_owned()
}

fn babel_mac_key(lab: &Lab, file: &str) -> String {
    let gemctl = lab.binaries().path("gemctl").expect("it is built");
    let output = Command::new(gemctl).args(["-o", "json", "key", "babel-mac", file]).output().expect("it runs");
    let shown: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    shown["key"].as_str().expect("a key").to_owned()
}

/// Gives `a` these bootstrap keys, without a restart.
fn set_bootstrap_keys(lab: &Lab, files: &[&str]) -> Result<()> {
    let a = lab.gateway("a");
    let config = fs::read_to_string(a.config_file()).expect("it is configured");
    let lines = config.lines().map(|line| match line.strip_prefix("bootstrap_key = ") {
        Some(_) => format!("bootstrap_key = {files:?}\n"),
        None => format!("{line}\n"),
    });
    fs::write(a.config_file(), lines.collect::<String>()).expect("writable");
    a.signal(Daemon::Control, Signal::HUP)
}

/// Whether `a` has a neighbour with a finite cost both ways.
fn adjacent(lab: &Lab) -> bool {
    let neighbours = lab.gateway("a").gemctl(&["neighbour", "list"]).unwrap_or_default();
    neighbours["neighbours"].as_array().is_some_and(|all| all.iter().any(|n| n["up"] == true && n["cost"] != 65535))
}

/// Whether a host's kernel has routes, that a routing daemon put there, to all of the prefixes, or to none of them.
fn routed(host: Host<'_>, prefixes: [&str; 2], wanted: bool) -> bool {
    let shown = |family, prefix| host.run(&["ip", family, "route", "show", prefix, "dev", "wan0"]).unwrap_or_default();
    let has = |family, prefix| {
        let routes: String = shown(family, prefix);
        routes.contains("proto babel") || routes.contains("proto bird")
    };
    has("-4", prefixes[0]) == wanted && has("-6", prefixes[1]) == wanted
}

/// Both have all of each other's routes.
fn converged(lab: &Lab) -> bool {
    let (a, b) = (lab.gateway("a").host(), lab.gateway("b").host());
    adjacent(lab) && routed(a, THEIRS, true) && routed(b, OURS, true)
}

/// Metric of a prefix at `a`.
fn metric(lab: &Lab, prefix: &str) -> Option<u64> {
    let routes = lab.gateway("a").gemctl(&["route", "list"]).ok()?;
    let route = routes["routes"].as_array()?.iter().find(|r| r["prefix"] == prefix && r["selected"] == true)?;
    route["metric"].as_u64()
}

/// One of `a`'s counters.
fn counter(lab: &Lab, name: &str) -> u64 {
    // The status is degraded, without a data plane; the answer is there all the same.
    let status = lab.gateway("a").gemctl_output(&["-o", "json", "status"]).expect("it answers");
    let status: Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
    status["control"]["counters"][name].as_u64().unwrap_or(0)
}

fn routes_come_change_and_go(make: Make, instance: &str) -> Result<()> {
    let _turn = turn();
    let lab = lab(instance)?;
    let a = lab.gateway("a");
    let key = babel_mac_key(&lab, &bootstrap_key(a));
    let mut router = Router::start(&lab, make, &key);
    lab.eventually(20.s(), "routes both ways, in both families", || converged(&lab))?;
    assert_eq!(THEIRS.map(|prefix| metric(&lab, prefix)), [Some(96); 2]);

    // What they take back is gone here at once, what we take back there.
    router.announces = false;
    router.reconfigure();
    lab.eventually(20.s(), "their retraction", || adjacent(&lab) && routed(a.host(), THEIRS, false))?;
    router.announces = true;
    router.reconfigure();
    lab.eventually(20.s(), "their routes again", || converged(&lab))?;
    let config = fs::read_to_string(a.config_file()).expect("it is configured");
    fs::write(a.config_file(), config.replace("announce = ", "announce = [] # ")).expect("writable");
    a.signal(Daemon::Control, Signal::HUP)?;
    lab.eventually(20.s(), "our retraction", || routed(router.host, OURS, false))?;
    assert!(routed(a.host(), THEIRS, true), "theirs stay");
    fs::write(a.config_file(), config).expect("writable");
    a.signal(Daemon::Control, Signal::HUP)?;
    lab.eventually(20.s(), "our routes again", || converged(&lab))?;

    // Another cost of the link is another metric.
    router.rxcost = 200;
    router.reconfigure();
    lab.eventually(20.s(), "the metric of the new cost", || metric(&lab, THEIRS[0]) == Some(200))?;
    lab.eventually(20.s(), "routes with the new cost", || converged(&lab))?;
    router.quiet = true;
    Ok(())
}

fn either_side_restarts(make: Make, instance: &str) -> Result<()> {
    let _turn = turn();
    let lab = lab(instance)?;
    let a = lab.gateway("a");
    let key = babel_mac_key(&lab, &bootstrap_key(a));
    let mut router = Router::start(&lab, make, &key);
    lab.eventually(20.s(), "routes", || converged(&lab))?;

    // Neither a crash nor an orderly end of one is a reason for the other not to take it back.
    for signal in [Signal::KILL, Signal::TERM] {
        router.end(signal);
        lab.eventually(30.s(), "their routes time out", || routed(a.host(), THEIRS, false))?;
        router.run();
        lab.eventually(30.s(), "routes after their restart", || converged(&lab))?;
    }
    a.kill(Daemon::Control)?;
    a.start(Daemon::Control)?;
    // The crash left our routes in the kernel; the start removes them before the neighbour's come anew.
    lab.eventually(30.s(), "routes after our crash", || converged(&lab))?;
    a.stop(Daemon::Control)?;
    assert!(routed(a.host(), THEIRS, false), "an orderly end removes our routes from the kernel");
    a.start(Daemon::Control)?;
    lab.eventually(30.s(), "routes after our restart", || converged(&lab))?;
    router.quiet = true;
    Ok(())
}

fn keys_rotate_and_wrong_ones_are_refused(make: Make, instance: &str) -> Result<()> {
    let _turn = turn();
    let lab = lab(instance)?;
    let a = lab.gateway("a");
    let old_file = bootstrap_key(a);
    let new_file = a.directory().join("etc/bk-new.key").display().to_string();
    let gemctl = lab.binaries().path("gemctl")?;
    let made = Command::new(gemctl).args(["key", "generate", "bk", "--out", &new_file]).output().expect("it runs");
    assert!(made.status.success(), "{made:?}");
    let (old, new) = (babel_mac_key(&lab, &old_file), babel_mac_key(&lab, &new_file));
    let mut router = Router::start(&lab, make, &new);
    lab.eventually(20.s(), "packets under another key", || counter(&lab, "refused_mac") > 2)?;
    assert!(!adjacent(&lab) && routed(a.host(), THEIRS, false), "whoever has another key is no neighbour");
    assert!(routed(router.host, OURS, false), "nor are we theirs");

    router.keys = vec![old.clone()];
    router.reconfigure();
    lab.eventually(30.s(), "routes under the right key", || converged(&lab))?;
    // Both keys here, then the new one there, then the old one goes here.
    set_bootstrap_keys(&lab, &[&old_file, &new_file])?;
    if make == Make::Bird {
        router.keys = vec![old, new.clone()];
        router.reconfigure();
    }
    router.keys = vec![new];
    router.reconfigure();
    lab.eventually(30.s(), "routes under the new key there", || converged(&lab))?;
    set_bootstrap_keys(&lab, &[&new_file])?;
    let [heard, refused] = ["packets_received", "refused_mac"].map(|name| counter(&lab, name));
    lab.eventually(20.s(), "more packets under the new key", || counter(&lab, "packets_received") > heard + 10)?;
    assert!(converged(&lab), "the routes are still there");
    assert_eq!(counter(&lab, "refused_mac"), refused, "and no packet was refused");
    router.quiet = true;
    Ok(())
}

#[test]
fn babeld_and_gemcastd_exchange_routes() -> Result<()> {
    routes_come_change_and_go(Make::Babeld, "t-babeld-routes")
}

#[test]
fn bird_and_gemcastd_exchange_routes() -> Result<()> {
    routes_come_change_and_go(Make::Bird, "t-bird-routes")
}

#[test]
fn babeld_and_gemcastd_survive_each_others_restarts() -> Result<()> {
    either_side_restarts(Make::Babeld, "t-babeld-restart")
}

#[test]
fn bird_and_gemcastd_survive_each_others_restarts() -> Result<()> {
    either_side_restarts(Make::Bird, "t-bird-restart")
}

#[test]
fn the_key_rotates_with_babeld() -> Result<()> {
    keys_rotate_and_wrong_ones_are_refused(Make::Babeld, "t-babeld-keys")
}

#[test]
fn the_key_rotates_with_bird() -> Result<()> {
    keys_rotate_and_wrong_ones_are_refused(Make::Bird, "t-bird-keys")
}
