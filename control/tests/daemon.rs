//! gemcastd and gemctl as processes: what they answer, how they end, and what they leave behind. The data plane is
//! played by the test where one is needed; real ones meet in the lab's tests.

mod site;

use gemcast_proto::link::{self, to_control, to_dataplane};
use gemcast_proto::message::{self, FrameReader};
use site::{GEMCASTD, GEMCTL, PATIENCE, Peer, Site};
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn every_command_answers_in_text_and_json() {
    let site = Site::new();
    let _daemon = site.start();
    let status = site.gemctl(&["status"]);
    let text = String::from_utf8(status.stdout).unwrap();
    assert_eq!(status.status.code(), Some(3), "no data plane, no wan-absent: degraded");
    assert!(text.contains("instance default: degraded") && text.contains("interface_missing wan-absent"), "{text}");
    assert!(text.contains("fix: start gemcast-dataplane --run-dir"), "{text}");

    let status = site.json(&["status"]);
    assert_eq!(status["state"], "degraded");
    let codes: Vec<_> = status["problems"].as_array().unwrap().iter().map(|p| p["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["dataplane_down", "interface_missing"]);
    assert_eq!(status["data_plane"]["connected"], false);

    let nodes = site.json(&["node", "list"]);
    assert_eq!((&nodes["nodes"][0]["name"], &nodes["nodes"][0]["this"]), (&"a".into(), &true.into()));
    assert_eq!(nodes["nodes"][0]["id"], status["node_id"]);
    let group = &site.json(&["group", "list"])["groups"][0];
    assert_eq!((&group["group"], &group["protection"]), (&"239.1.1.1".into(), &"sealed".into()));
    assert_eq!((&group["epochs"][0], &group["ports"][0]), (&7.into(), &5000.into()));
    let interfaces = site.json(&["iface", "list"]);
    let states: Vec<_> =
        interfaces["interfaces"].as_array().unwrap().iter().map(|i| (&i["name"], &i["state"])).collect();
    assert_eq!(states[1], (&"wan-absent".into(), &"missing".into()));
    assert_eq!(site.json(&["key", "list"])["keys"], serde_json::json!([]));
    assert_eq!(site.json(&["neighbour", "list"])["neighbours"], serde_json::json!([]));
    for command in [["node", "list"], ["group", "list"], ["iface", "list"], ["key", "list"], ["neighbour", "list"]] {
        let output = site.gemctl(&command);
        assert!(output.status.success() && !output.stdout.is_empty(), "{command:?}: {output:?}");
    }
    let refused = site.gemctl(&["key", "rotate", "239.9.9.9"]);
    assert_eq!(
        (refused.status.code(), stderr(&refused).as_str()),
        (Some(1), "gemctl: no group 239.9.9.9; `gemctl group list` shows them\n")
    );
    assert!(stderr(&site.gemctl(&["key", "rotate", "nonsense"])).contains("\"nonsense\" is not a group"));
}

#[test]
fn stopping_leaves_nothing_behind() {
    let site = Site::new();
    assert_eq!(site.start().stop(), 0);
    assert_eq!(fs::read_dir(site.path("run/default")).unwrap().count(), 0);
    let state = fs::read_to_string(site.path("state/state.toml")).unwrap();
    assert!(state.contains("starts = 1"), "{state}");
    assert_eq!(site.start().stop(), 0);
    assert!(fs::read_to_string(site.path("state/state.toml")).unwrap().contains("starts = 2"));
}

#[test]
fn a_killed_daemon_does_not_stand_in_the_way_of_the_next() {
    let site = Site::new();
    let daemon = site.start();
    daemon.signal(rustix::process::Signal::KILL);
    drop(daemon);
    assert!(site.socket().exists(), "left behind");
    let unreachable = site.gemctl(&["status"]);
    assert_eq!(unreachable.status.code(), Some(4));
    let _daemon = site.start();
    assert!(site.gemctl(&["node", "list"]).status.success());
}

#[test]
fn a_second_daemon_is_refused_and_harms_nothing() {
    let site = Site::new();
    let daemon = site.start();
    let second = site.command().output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let expected = format!("gemcastd: already running as process {}", daemon.child.id());
    assert!(stderr(&second).contains(&expected), "{}", stderr(&second));
    assert!(site.gemctl(&["node", "list"]).status.success(), "the first one goes on");
}

#[test]
fn a_port_in_use_is_one_clear_line_and_nothing_is_left() {
    let site = Site::new();
    let _taken = UdpSocket::bind(("::", site.port)).unwrap();
    let output = site.command().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let expected = format!("gemcastd: UDP port {} is in use; stop the other routing daemon", site.port);
    assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
    assert_eq!(fs::read_dir(site.path("run/default")).unwrap().count(), 0);
}

#[test]
fn a_wrong_configuration_is_exit_5_with_its_place() {
    let site = Site::new();
    site.configure("sned = true");
    for arguments in [&[][..], &["--check"]] {
        let output = site.command().args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(5));
        let expected = "unknown key \"sned\" in [[group]]; did you mean \"send\"?";
        assert!(stderr(&output).contains("gemcast.toml:21:13: ") && stderr(&output).contains(expected));
    }
    let output = Command::new(GEMCASTD).args(["--config", "/nowhere.toml"]).output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    assert!(stderr(&output).starts_with("gemcastd: /nowhere.toml: cannot read the configuration"));
    site.configure("");
    let output = site.command().args(["--instance", "../x"]).output().unwrap();
    assert_eq!((output.status.code(), stderr(&output).contains("instance \"../x\"")), (Some(5), true));
    assert!(!site.path("run").exists(), "nothing is left behind");
}

#[test]
fn f26_a_broken_identity_halts_with_its_own_exit_code_and_a_fix_and_a_good_one_starts() {
    let site = Site::new();
    let path = site.path("node.key");
    let good = fs::read_to_string(&path).unwrap();
    let write = |text: &str, mode: u32| {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    };
    let refused = |expected: &[&str]| {
        let output = site.command().output().unwrap();
        let text = stderr(&output);
        assert_eq!((output.status.code(), text.lines().count()), (Some(7), 1), "{text}");
        assert!(text.starts_with("gemcastd: ") && text.contains("node.key"), "{text}");
        assert!(expected.iter().all(|part| text.contains(part)), "{expected:?} is missing in: {text}");
        assert!(!site.path("run").exists() && !site.path("state").exists(), "nothing half-working is left");
    };
    fs::remove_file(&path).unwrap();
    refused(&["gemcast.toml:4:24:", "No such file", "gemctl key generate"]);
    fs::create_dir(&path).unwrap();
    refused(&["not a regular file"]);
    fs::remove_dir(&path).unwrap();
    write(&good, 0o644);
    refused(&["mode 0644", "chmod 600"]);
    write(&good.replace("x25519 ", "x25519 !"), 0o600);
    refused(&["not base64 of 32 bytes in line 3"]);
    let two_lines = good.lines().take(2).collect::<Vec<_>>().join("\n");
    write(&two_lines, 0o600);
    refused(&["expected `x25519 `"]);
    write(&good, 0o600);
    assert_eq!(site.start().stop(), 0);
}

#[test]
fn f37_a_backup_identity_is_checked_at_the_start_and_used_with_an_alert() {
    let site = Site::new();
    let config = fs::read_to_string(site.path("gemcast.toml")).unwrap();
    let with = config.replace("run_dir", "backup_identity = \"backup.key\"\n            run_dir");
    fs::write(site.path("gemcast.toml"), with).unwrap();
    // A backup that is of no use is found out while the identity is good.
    let output = site.command().output().unwrap();
    assert!(output.status.code() == Some(7) && stderr(&output).contains("backup.key"), "{}", stderr(&output));
    let made = site.gemctl(&["key", "generate", "node", "--out", site.path("backup.key").to_str().unwrap()]);
    assert!(made.status.success());
    let id = || site.json(&["status"])["node_id"].clone();
    let usual = {
        let _daemon = site.start();
        assert!(!site.json(&["status"])["problems"].to_string().contains("backup identity"));
        id()
    };
    fs::write(site.path("node.key"), "broken").unwrap();
    let _daemon = site.start();
    let status = site.json(&["status"]);
    assert_eq!((&status["state"], id() != usual), (&"degraded".into(), true));
    let problems = status["problems"].as_array().unwrap();
    let problem = problems.iter().find(|problem| problem["code"] == "identity").expect("an alert");
    assert!(problem["text"].as_str().unwrap().contains("backup identity is in use"), "{problem}");
}

#[test]
fn r9_packets_under_our_own_keys_raise_an_alarm() {
    let site = Site::new();
    let listener = site.data_plane();
    let mut daemon = site.start();
    let mut peer = Peer::accept(&listener);
    peer.greet(gemcast_xdp::LAYOUT_VERSION);
    let heard = |frames| link::Stats {
        interfaces: vec![link::InterfaceStats {
            name: "wan-absent".into(),
            up: true,
            reasons: vec![reason("own_key", frames)],
            ..Default::default()
        }],
        ..Default::default()
    };
    peer.send(to_control::Body::Stats(heard(0)));
    peer.send(to_control::Body::Stats(heard(3)));
    let line = daemon.await_line("packets under a key of this gateway come in");
    assert!(line.contains("wan-absent") && line.contains("fix: look for a loop"), "{line}");
    peer.hang_up();
    let events = String::from_utf8(site.gemctl(&["-o", "json", "events"]).stdout).unwrap();
    let mut events = events.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let event = events.find(|event| event["name"] == "own_key").expect("an event");
    assert_eq!((&event["severity"], &event["fields"]["packets"]), (&"error".into(), &"3".into()));
    assert!(site.json(&["status"])["problems"].to_string().contains("own_key"));
}

#[test]
fn a_check_says_what_is_missing_and_starts_nothing() {
    let site = Site::new();
    let output = site.command().arg("--check").output().unwrap();
    assert!(output.status.success());
    assert!(stderr(&output).contains("warning: interface wan-absent is missing: no such interface; fix: create"));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.ends_with("gemcast.toml: configuration is good: 2 interfaces, 1 groups\n"), "{text}");
    assert!(!site.path("run").exists() && !site.path("state").exists());
}

#[test]
fn an_absent_daemon_is_exit_4_with_the_socket_and_the_fix() {
    let site = Site::new();
    let output = site.gemctl(&["status"]);
    assert_eq!(output.status.code(), Some(4));
    let message = stderr(&output);
    assert!(message.contains(site.socket().to_str().unwrap()) && message.contains("start gemcastd"), "{message}");
    assert_eq!(message.lines().count(), 1);
}

#[test]
fn only_root_and_the_daemons_user_may_ask() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let site = Site::new();
    let _daemon = site.start();
    fs::set_permissions(site.dir.path(), Permissions::from_mode(0o755)).unwrap();
    // The tool where another user can run it.
    let tool = site.path("gemctl");
    fs::copy(GEMCTL, &tool).unwrap();
    let ask = || {
        let mut command = Command::new(&tool);
        command.args(["status", "--socket"]).arg(site.socket()).uid(65534).gid(65534).output().unwrap()
    };
    let output = ask();
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    assert!(stderr(&output).contains("not permitted to use"), "{}", stderr(&output));
    // Even with the file mode out of the way, the daemon looks who asks.
    fs::set_permissions(site.socket(), Permissions::from_mode(0o666)).unwrap();
    let output = ask();
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    assert!(stderr(&output).contains("user 65534 may not; run gemctl as root"), "{}", stderr(&output));
}

#[test]
fn hostile_clients_are_cut_off_and_honest_ones_served() {
    let site = Site::new();
    let _daemon = site.start();
    let cut_off = |bytes: &[u8]| {
        let mut client = UnixStream::connect(site.socket()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        // Reset or end: either way it is over.
        let _ = client.read_to_end(&mut answer);
        answer
    };
    cut_off(&[0xff; 64]);
    cut_off(&[0, 0, 0x20, 0, 1, 2, 3]);
    cut_off(&[0, 0, 0, 2, 0xff, 0xff]);
    let unknown = cut_off(&[0, 0, 0, 0]);
    assert!(String::from_utf8_lossy(&unknown).contains("does not know the request"));
    // A crowd that never asks anything.
    let crowd: Vec<_> = (0..100).map(|_| UnixStream::connect(site.socket()).unwrap()).collect();
    let output = site.gemctl(&["node", "list"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("64 API clients are connected already"), "{}", stderr(&output));
    drop(crowd);
    // Served in the order they came, the departed are cleared away before the next one asks.
    assert!(site.gemctl(&["node", "list"]).status.success());
}

#[test]
fn many_requests_on_one_connection_are_answered_in_turn() {
    use gemcast_proto::api::{Empty, Request, Response, request, response};
    const PAIRS: usize = 10_000;
    let site = Site::new();
    let _daemon = site.start();
    let mut client = UnixStream::connect(site.socket()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = Vec::new();
    for _ in 0..PAIRS {
        message::encode(&Request { body: Some(request::Body::Keys(Empty {})) }, &mut bytes);
        message::encode(&Request { body: Some(request::Body::Neighbours(Empty {})) }, &mut bytes);
    }
    client.write_all(&bytes).unwrap();
    let mut reader = FrameReader::default();
    let mut answers = Vec::new();
    while answers.len() < 2 * PAIRS {
        let mut chunk = [0; 4096];
        let length = client.read(&mut chunk).unwrap();
        assert!(length > 0, "hung up after {}", answers.len());
        reader.push(&chunk[..length]);
        while let Some(answer) = reader.message::<Response>().unwrap() {
            answers.push(matches!(answer.body, Some(response::Body::Keys(_))));
        }
    }
    assert!(answers.chunks(2).all(|pair| pair == [true, false]));
}

#[test]
fn the_data_plane_gets_the_flows_and_its_counters_are_shown() {
    let site = Site::new();
    let listener = site.data_plane();
    let mut daemon = site.start();
    let mut peer = Peer::accept(&listener);
    peer.greet(gemcast_xdp::LAYOUT_VERSION);
    let snapshot = peer.snapshot();
    let names: Vec<_> = snapshot.interfaces.iter().map(|i| (i.name.as_str(), i.role())).collect();
    assert_eq!(names, [("lo", link::Role::Trusted), ("wan-absent", link::Role::Untrusted)]);
    let flow = &snapshot.flows[0];
    assert_eq!(flow.group, gemcast_proto::id::map_v4([239, 1, 1, 1]));
    assert_eq!((flow.prefix_len, flow.sealed, flow.send, flow.receive), (128, true, true, true));
    assert_eq!(
        (flow.ports.as_slice(), flow.sources[0].as_slice()),
        (&[5000][..], &gemcast_proto::id::map_v4([10, 0, 0, 1])[..])
    );
    let problems = vec!["wan-absent: no such interface".to_owned()];
    peer.send(to_control::Body::Applied(link::Applied { generation: snapshot.generation, problems }));
    daemon.await_line("data plane: wan-absent: no such interface");

    // A client's question fetches fresh counters.
    let stats = link::Stats {
        interfaces: vec![link::InterfaceStats {
            name: "lo".into(),
            up: true,
            xdp_mode: "skb".into(),
            bind_mode: "copy".into(),
            queues: 1,
            received: 10,
            redirected: 6,
            forwarded: 5,
            reasons: vec![reason("link_local", 3), reason("gtag", 1), reason("replay", 1)],
            ..Default::default()
        }],
        ..Default::default()
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while let to_dataplane::Body::Stats(_) = peer.receive() {
                peer.send(to_control::Body::Stats(stats.clone()));
            }
        });
        let lo = &site.json(&["iface", "list"])["interfaces"][0];
        assert_eq!((&lo["received"], &lo["forwarded"], &lo["xdp_mode"]), (&10.into(), &5.into(), &"skb".into()));
        assert_eq!(lo["passed"], serde_json::json!({"link_local": 3}));
        assert_eq!(lo["dropped"], serde_json::json!({"gtag": 1, "replay": 1}));
        assert_eq!((&lo["passed_total"], &lo["dropped_total"]), (&3.into(), &2.into()));
        let status = site.json(&["status"]);
        assert_eq!(status["data_plane"]["incarnation"], "0000000000000abc");
        let codes: Vec<_> =
            status["problems"].as_array().unwrap().iter().map(|p| p["code"].as_str().unwrap()).collect();
        // The test's data plane has no maps.
        assert_eq!(codes, ["maps", "dataplane_problem", "xdp_skb", "interface_missing", "no_seal_key"]);

        // A reload that is wrong changes nothing; one that is right reaches the data plane.
        site.configure("sned = true");
        daemon.signal(rustix::process::Signal::HUP);
        daemon.await_line("configuration not reloaded; the old one stays in force");
        assert_eq!(site.json(&["group", "list"])["groups"].as_array().unwrap().len(), 1);
        site.configure("[[group]]\naddress = \"239.2.2.2\"\nprotection = \"none\"");
        daemon.signal(rustix::process::Signal::HUP);
        daemon.await_line("configuration reloaded");
    });
    let groups = site.json(&["group", "list"]);
    assert_eq!(groups["groups"][1]["group"], "239.2.2.2");
    // The data plane dies; the daemon goes on and finds the next one.
    drop(peer);
    daemon.await_line("data plane lost");
    let mut peer = Peer::accept(&listener);
    peer.greet(gemcast_xdp::LAYOUT_VERSION);
    let again = peer.snapshot();
    assert_eq!(again.flows.len(), 2, "the flows of the reload");
    assert!(again.generation > snapshot.generation);
}

fn reason(reason: &str, frames: u64) -> link::ReasonCount {
    link::ReasonCount { reason: reason.into(), frames }
}

#[test]
fn a_data_plane_of_another_layout_is_refused_in_one_clear_line() {
    let site = Site::new();
    let listener = site.data_plane();
    let mut daemon = site.start();
    Peer::accept(&listener).greet(gemcast_xdp::LAYOUT_VERSION + 1);
    let line = daemon.await_line("refused: its map layout is version");
    assert!(line.contains("(gemcast 9.9)") && line.contains("run both in the same version"), "{line}");
    let status = site.gemctl(&["status"]);
    assert!(String::from_utf8(status.stdout).unwrap().contains("its map layout is version"));
}

#[test]
fn an_interface_that_is_missing_is_told_at_the_start() {
    let site = Site::new();
    let mut daemon = site.start();
    let line = daemon.await_line("interface is missing");
    assert!(line.contains("no such interface; fix: create the interface") && line.contains("wan-absent"), "{line}");
}

#[test]
fn f37_a_clock_that_went_back_is_told_at_the_start() {
    let site = Site::new();
    assert_eq!(site.start().stop(), 0);
    let path = site.path("state/state.toml");
    let state = fs::read_to_string(&path).unwrap();
    let state: Vec<_> = state.lines().filter(|line| !line.starts_with("wall_ms")).collect();
    fs::write(&path, format!("{}\nwall_ms = 9000000000000\n", state.join("\n"))).unwrap();
    let _daemon = site.start();
    let problems = || site.json(&["status"])["problems"].clone();
    let signing = |problems: &serde_json::Value| {
        problems.as_array().unwrap().iter().find(|problem| problem["code"] == "signing").map(ToString::to_string)
    };
    let told = signing(&problems()).expect("nothing is signed");
    assert!(told.contains("more than 30 s behind") && told.contains("gemctl clock accept"), "{told}");
    let unsigned = &site.json(&["status"])["control"]["counters"]["objects_unsigned"];
    assert!(unsigned.as_u64().unwrap() > 0, "its NODE object, for one");
    assert!(site.gemctl(&["clock", "accept"]).status.success());
    let deadline = std::time::Instant::now() + PATIENCE;
    while let Some(still) = signing(&problems()) {
        assert!(std::time::Instant::now() < deadline, "accepted, and yet: {still}");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn a_state_directory_that_cannot_be_is_told_and_no_reason_to_stop() {
    let site = Site::new();
    fs::write(site.path("state"), "a file").unwrap();
    let mut daemon = site.start();
    daemon.await_line("nothing is remembered across restarts");
    assert_eq!(site.json(&["status"])["problems"][0]["code"], "state");
}

#[test]
fn keys_never_reach_the_log() {
    let site = Site::new();
    let mut daemon = site.start();
    daemon.signal(rustix::process::Signal::HUP);
    daemon.await_line("configuration reloaded");
    daemon.signal(rustix::process::Signal::TERM);
    daemon.await_line("stopping");
    for name in ["node.key", "bk.key", "gak.key"] {
        let text = fs::read_to_string(site.path(name)).unwrap();
        for key in text.split_whitespace().filter(|word| word.len() == 44) {
            assert!(daemon.log.iter().all(|line| !line.contains(&key[..10])));
        }
    }
}

#[test]
fn key_files_are_made_once_and_show_only_what_is_public() {
    let site = Site::new();
    let again = site.gemctl(&["key", "generate", "node", "--out", site.path("node.key").to_str().unwrap()]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("exists; a key file is never overwritten"));
    let shown = site.json(&["key", "show", site.path("node.key").to_str().unwrap()]);
    assert_eq!((&shown["kind"], shown["node_id"].as_str().unwrap().len()), (&"identity".into(), 23));
    let bk = site.json(&["key", "show", site.path("bk.key").to_str().unwrap()]);
    let secret = fs::read_to_string(site.path("bk.key")).unwrap();
    assert_eq!(bk["fingerprint"].as_str().unwrap().len(), 16);
    assert!(!bk.to_string().contains(&secret[..10]));
    let usage = site.gemctl(&["key", "generate", "node"]);
    assert_eq!(usage.status.code(), Some(2));
}

#[test]
fn events_are_followed_as_json_lines() {
    let site = Site::new();
    let _daemon = site.start();
    let mut command = Command::new(GEMCTL);
    command.arg("--run-dir").arg(site.path("run")).args(["-o", "json", "events", "--follow"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = |name: &str| loop {
        let event: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(event["schema"], 1);
        if event["name"] == name {
            return event;
        }
    };
    let began = next("problem_began");
    assert_eq!((&began["severity"], &began["fields"]["code"]), (&"warning".into(), &"dataplane_down".into()));
    let listener = site.data_plane();
    let mut peer = Peer::accept(&listener);
    peer.greet(gemcast_xdp::LAYOUT_VERSION);
    let up = next("data_plane_up");
    assert!(up["number"].as_u64() > began["number"].as_u64() && up["at_ms"].as_u64() >= began["at_ms"].as_u64());
    assert_eq!(next("problem_ended")["fields"]["code"], "dataplane_down");
    child.kill().unwrap();
    child.wait().unwrap();
    let text = String::from_utf8(site.gemctl(&["events"]).stdout).unwrap();
    let line = text.lines().find(|line| line.contains("data plane connected")).expect("it is remembered");
    assert!(line.starts_with("20") && line.contains("Z info    data plane connected"), "{line}");
}

#[test]
fn the_key_of_the_babel_domain_is_told_in_the_words_of_other_routers() {
    let site = Site::new();
    let output = site.gemctl(&["key", "babel-mac", site.path("bk.key").to_str().unwrap()]);
    if !rustix::process::geteuid().is_root() {
        assert_eq!((output.status.code(), output.stdout.len()), (Some(6), 0));
        return;
    }
    assert!(stderr(&output).contains("warning: what follows is SECRET"), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let key = text.lines().find_map(|line| line.strip_prefix("key id gemcast type hmac-sha256 value ")).unwrap();
    assert!(key.len() == 64 && text.contains(&format!("password {key} {{ algorithm hmac sha256; }};")), "{text}");
    let blake = site.gemctl(&["key", "babel-mac", "--algorithm", "blake2s", site.path("bk.key").to_str().unwrap()]);
    let blake = String::from_utf8(blake.stdout).unwrap();
    assert!(blake.contains("type blake2s128") && blake.contains("algorithm blake2s128"), "{blake}");
}

#[test]
fn own_prefixes_are_in_the_route_table() {
    let site = Site::new();
    site.configure("[babel]\nannounce = [\"10.42.0.0/16\"]\ninstall_routes = false");
    let mut daemon = site.start();
    let announced = |prefix: &str| {
        let routes = site.json(&["route", "list"]);
        routes["routes"].as_array().unwrap().iter().any(|route| route["prefix"] == prefix && route["own"] == true)
    };
    assert!(announced("10.42.0.0/16"));
    site.configure("[babel]\nannounce = [\"10.43.0.0/16\"]\ninstall_routes = false");
    daemon.signal(rustix::process::Signal::HUP);
    daemon.await_line("configuration reloaded");
    assert!(announced("10.43.0.0/16") && !announced("10.42.0.0/16"));
    let none = site.gemctl(&["neighbour", "show", "fe80::1"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(stderr(&none).contains("no neighbour fe80::1; `gemctl neighbour list` shows them"));
    assert_eq!(site.gemctl(&["neighbour", "show", "nonsense"]).status.code(), Some(2));
    let sync = site.gemctl(&["sync"]);
    assert!(sync.status.success() && String::from_utf8_lossy(&sync.stdout).starts_with("1 object here\n"), "{sync:?}");
}
