//! What operators get wrong: one clear line each, that says where, what, expected and fix; and nothing left behind.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::{GROUPS, PORT, ip, turn};
use gemcast_lab::{Account, Daemon, Gateway, Lab, Options, ProcessId, Result, Seconds, Stream, Topology};
use rustix::process::Signal;

/// Runs a daemon that is to refuse; one that starts instead is ended after a while.
fn refusal(daemon: &Command) -> Output {
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", "10"]).arg(daemon.get_program()).args(daemon.get_args());
    command.envs(daemon.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("RUST_LOG", "error").stdin(Stdio::null()).output().expect("timeout runs")
}

/// Asserts that the daemon ended with an error and one line that holds each of these.
#[track_caller]
fn assert_line(output: &Output, name: &str, expected: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 1, "one line is expected:\n{text}");
    assert!(lines[0].starts_with(&format!("{name}: ")), "{text}");
    for part in expected {
        assert!(lines[0].contains(part), "`{part}` is missing in: {text}");
    }
    assert!(!lines[0].contains("panicked"), "{text}");
    assert!(output.status.code().is_some_and(|code| code != 0), "{:?}: {text}", output.status);
}

/// The configuration with one passage replaced.
fn rewritten(gateway: &Gateway<'_>, from: &str, to: &str) -> impl Drop + use<> {
    let path = gateway.config_file();
    let good = fs::read_to_string(&path).expect("the lab wrote it");
    assert!(good.contains(from), "{from}");
    fs::write(&path, good.replacen(from, to, 1)).expect("writable");
    Restore(Some(Box::new(move || fs::write(path, good).expect("writable"))))
}

/// Puts something back when dropped.
struct Restore(Option<Box<dyn FnOnce()>>);

impl Drop for Restore {
    fn drop(&mut self) {
        if let Some(restore) = self.0.take() {
            restore();
        }
    }
}

#[test]
fn control_refuses_a_wrong_configuration_with_its_place() -> Result<()> {
    let _turn = turn();
    let lab = Lab::up(Topology::pair(), Options::new("t-bad-config").without_daemons())?;
    lab.make_identities()?;
    let a = lab.gateway("a");
    let etc = a.directory().join("etc");
    let refused = |expected: &[&str]| {
        assert_line(&refusal(&a.command(Daemon::Control).expect("it is built")), "gemcastd", expected)
    };

    let cases: [(&str, &str, &[&str]); 6] = [
        ("role = \"trusted\"", "role = \"trusted\"\ncolour = 1", &["gemcast.toml:13:1:", "colour", "expected one of"]),
        ("role = \"trusted\"", "role = \"both\"", &["gemcast.toml:12:8:", "both", "trusted", "untrusted"]),
        ("name = \"a\"", "name = 7", &["gemcast.toml:2:8:", "7"]),
        ("address = \"239.1.1.1\"", "address = \"10.0.0.1\"", &["gemcast.toml:19:11:", "10.0.0.1", "multicast"]),
        ("[domain]", "[domain", &["gemcast.toml:7:"]),
        ("suite = \"aes-256-gcm\"", "suite = \"rot13\"", &["gemcast.toml:21:9:", "rot13", "aes-256-gcm"]),
    ];
    for (from, to, expected) in cases {
        let _rewritten = rewritten(&a, from, to);
        refused(expected);
    }
    // Two interfaces that are one: the untrusted side is then missing too, so it takes two lines to say all.
    let overlap = rewritten(&a, "name = \"wan0\"", "name = \"lan0\"");
    let output = refusal(&a.command(Daemon::Control)?);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("\"lan0\" is both trusted and untrusted"), "{text}");
    drop(overlap);

    let key = etc.join("bk.key");
    let good = fs::read(&key).expect("the lab wrote it");
    let mode = |mode| fs::set_permissions(&key, fs::Permissions::from_mode(mode)).expect("ours");
    mode(0o640);
    refused(&["gemcast.toml:8:17:", "bk.key", "mode 0640", "chmod 600"]);
    mode(0o600);
    fs::write(&key, "c2hvcnQ=\n").expect("writable");
    refused(&["bk.key", "8 characters", "expected 44"]);
    fs::write(&key, "!".repeat(44)).expect("writable");
    refused(&["bk.key", "base64"]);
    fs::remove_file(&key).expect("ours");
    refused(&["cannot read", "bk.key", "gemctl key generate"]);
    fs::write(&key, &good).expect("writable");
    mode(0o600);

    fs::rename(a.config_file(), etc.join("aside")).expect("ours");
    refused(&["gemcast.toml: cannot read", "--config"]);
    fs::rename(etc.join("aside"), a.config_file()).expect("ours");

    assert!(!a.api_socket().exists(), "nothing is left behind");
    a.start(Daemon::DataPlane)?;
    a.start(Daemon::Control)?;
    a.wait_ready(10.s()).map(drop)
}

#[test]
fn daemons_refuse_a_place_that_is_taken() -> Result<()> {
    let _turn = turn();
    let lab = Lab::up(Topology::pair(), Options::new("t-bad-place"))?;
    let (a, b) = (lab.gateway("a"), lab.gateway("b"));
    let plane = refusal(&a.command(Daemon::DataPlane)?);
    assert_line(&plane, "gemcast-dataplane", &["is held", "is running", "--instance"]);
    let control = refusal(&a.command(Daemon::Control)?);
    assert_line(&control, "gemcastd", &["already running as process", "another instance"]);
    // The ones that run are not disturbed.
    let receiver = lab.host("receiver").receive(ip(GROUPS[0]), PORT, None)?;
    let sent = lab.host("source").send(Stream::to(ip(GROUPS[0])).packets(200))?.finish();
    let account = Account::of(&sent, &receiver.finish(100.ms()).stream(1), &[]);
    assert!(account.is_perfect(), "{account:?}");

    b.stop(Daemon::Control)?;
    let mut squatter = b.host().command("socat");
    let mut squatter =
        squatter.args(["-u", "UDP6-RECV:6696", "STDOUT"]).stdout(Stdio::null()).spawn().expect("socat runs");
    let bound = || b.host().run(&["ss", "-Hlun"]).is_ok_and(|list| list.contains(":6696"));
    let refused = lab.eventually(5.s(), "socat to bind", bound).and_then(|_| Ok(refusal(&b.command(Daemon::Control)?)));
    squatter.kill().and_then(|()| squatter.wait()).expect("a child");
    assert_line(&refused?, "gemcastd", &["UDP port 6696 is in use", "babel_port"]);
    b.start(Daemon::Control)?;
    b.wait_ready(10.s()).map(drop)
}

#[test]
fn the_data_plane_refuses_what_it_cannot_work_with() -> Result<()> {
    let _turn = turn();
    let lab = Lab::up(Topology::pair(), Options::new("t-bad-plane").without_daemons())?;
    let a = lab.gateway("a");
    let bpf = a.run_dir().join("default/bpf");
    let shown = bpf.to_str().expect("ASCII");
    let plane = || a.command(Daemon::DataPlane).expect("it is built");

    // Without privilege.
    let command = plane();
    let mut unprivileged = Command::new(command.get_program());
    let words: Vec<_> = command.get_args().collect();
    let program = words.iter().position(|word| Path::new(word).ends_with("gemcast-dataplane")).expect("it is in there");
    unprivileged.args(&words[..program]).args(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
    unprivileged.args(&words[program..]);
    assert_line(&refusal(&unprivileged), "gemcast-dataplane", &["root"]);

    // With files where its directories are to be.
    let own = bpf.parent().expect("it has one");
    for (path, is_reached) in [(own, false), (bpf.as_path(), true)] {
        if is_reached {
            fs::create_dir_all(own).expect("ours");
        }
        fs::write(path, "").expect("ours");
        let named = path.to_str().expect("ASCII");
        assert_line(&refusal(&plane()), "gemcast-dataplane", &[named, "no directory: remove it", "--run-dir"]);
        fs::remove_file(path).expect("ours");
    }

    // With pins of another version's layout.
    fs::create_dir(&bpf).expect("ours");
    let stale = format!("{shown}/v999");
    a.host().run(&["mount", "-t", "bpf", "bpf", shown])?;
    a.host().run(&["mkdir", &stale])?;
    assert_line(&refusal(&plane()), "gemcast-dataplane", &[&stale, "layout version", "--clean"]);
    let cleaned = a.command(Daemon::DataPlane)?.arg("--clean").output().expect("it is built");
    assert!(cleaned.status.success(), "{}", String::from_utf8_lossy(&cleaned.stderr));
    assert!(a.host().run(&["ls", &stale]).is_err(), "what was stale is gone");
    a.start(Daemon::DataPlane)?;
    lab.make_identities()?;
    a.start(Daemon::Control)?;
    a.wait_ready(10.s()).map(drop)
}

#[test]
fn vlan_receive_offload_is_off_while_an_interface_is_served() -> Result<()> {
    let _turn = turn();
    let lab = Lab::up(Topology::pair(), Options::new("t-rxvlan").without_daemons())?;
    lab.make_identities()?;
    let a = lab.gateway("a");
    let offload = |state: &str| {
        let features = |name| a.host().run(&["ethtool", "-k", name]).expect("ethtool");
        ["lan0", "wan0"].iter().all(|name| features(name).contains(&format!("rx-vlan-offload: {state}")))
    };
    assert!(offload("on"));
    a.start(Daemon::Control)?;
    let mut plane = a.command(Daemon::DataPlane)?.arg("--detach-on-exit").stderr(Stdio::null()).spawn().expect("built");
    let kept_off = lab
        .eventually(20.s(), "it to be turned off", || offload("off"))
        .and_then(|_| a.host().run(&["ethtool", "-K", "wan0", "rxvlan", "on"]))
        .and_then(|_| lab.eventually(20.s(), "it to be off again", || offload("off")));
    ProcessId::of(plane.id()).and_then(|process| process.signal(Signal::TERM)).expect("it runs");
    assert!(plane.wait().expect("a child").success());
    kept_off?;
    assert!(offload("on"), "as it was before");
    Ok(())
}

#[test]
fn an_interface_that_is_missing_is_reported_and_served_once_it_exists() -> Result<()> {
    let _turn = turn();
    let missing = "[[interface]]\nname = \"wan7\"\nrole = \"untrusted\"";
    let lab = Lab::up(Topology::pair(), Options::new("t-bad-if").gateway_config("a", missing).without_daemons())?;
    lab.make_identities()?;
    lab.start()?;
    let a = lab.gateway("a");
    lab.eventually(10.s(), "the other interfaces to be served", || {
        a.interfaces().is_ok_and(|all| all.iter().filter(|one| one.state == "up").count() == 2)
    })?;
    let wan7 = a.interface("wan7")?;
    assert_eq!(wan7.state, "missing", "{wan7:?}");
    let status = a.gemctl(&["status"])?;
    assert_eq!(status["state"], "degraded");
    assert!(status["problems"].to_string().contains("wan7"), "{status}");
    // A bridge has no XDP in its driver: the kernel's generic one is used, and said to be.
    for command in [
        "add wan7 type bridge",
        "add port7 type veth peer name peer7",
        "set port7 master wan7 up",
        "set peer7 up",
        "set wan7 up",
    ] {
        a.host().run(&["sh", "-c", &format!("ip link {command}")])?;
    }
    lab.eventually(10.s(), "wan7 to be served", || a.interface("wan7").is_ok_and(|wan7| wan7.state == "up"))?;
    let wan7 = a.interface("wan7")?;
    assert_eq!((wan7.xdp_mode.as_str(), wan7.bind_mode.as_str()), ("skb", "copy"));
    let status = a.gemctl(&["status"])?;
    assert!(status["problems"].to_string().contains("xdp_skb"), "the fallback is an alert: {status}");
    Ok(())
}
