//! Interfaces that appear and vanish while the daemon runs, in a network namespace of the test's own. Needs root.

mod site;

use gemcast_proto::link::Snapshot;
use nix::sched::{CloneFlags, unshare};
use site::{Peer, Site};
use std::process::Command;

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip, of the package iproute2");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

fn in_namespace(test: impl FnOnce() + Send) {
    let run = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own: run the tests as root");
        test();
    };
    std::thread::scope(|scope| scope.spawn(run).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn names(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.interfaces.iter().map(|interface| interface.name.as_str()).collect()
}

#[test]
fn a_pattern_takes_interfaces_in_and_lets_them_go() {
    in_namespace(|| {
        let site = Site::new();
        site.configure("[[interface]]\nname = \"up*\"\nrole = \"untrusted\"");
        let listener = site.data_plane();
        let mut daemon = site.start();
        let mut peer = Peer::accept(&listener);
        peer.greet(gemcast_xdp::LAYOUT_VERSION);
        assert_eq!(names(&peer.snapshot()), ["lo", "wan-absent"], "the pattern means nothing yet");

        ip("link add uplink7 type veth peer name other");
        assert_eq!(names(&peer.snapshot()), ["lo", "wan-absent", "uplink7"], "told without a restart");
        ip("link set other up");
        ip("link set uplink7 up");
        let line = daemon.await_line("interface is up");
        assert!(line.contains("uplink7"), "{line}");
        let shown = site.json(&["iface", "list"])["interfaces"][2].clone();
        assert_eq!(
            (&shown["name"], &shown["role"], &shown["babel"]),
            (&"uplink7".into(), &"untrusted".into(), &true.into())
        );

        ip("link del uplink7");
        assert_eq!(names(&peer.snapshot()), ["lo", "wan-absent"]);
        daemon.await_line("interface is gone");
    });
}

#[test]
fn prefixes_of_trusted_interfaces_are_announced_as_long_as_they_are_there() {
    in_namespace(|| {
        let site = Site::new();
        site.configure("[[interface]]\nname = \"lan?\"\nrole = \"trusted\"\n[babel]\nredistribute_connected = true");
        let mut daemon = site.start();
        let own = || {
            let routes = site.json(&["route", "list"]);
            let prefixes = routes["routes"].as_array().unwrap().iter().map(|route| route["prefix"].as_str().unwrap());
            prefixes.filter(|prefix| !prefix.starts_with("fd67:")).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(own(), [""; 0]);
        ip("link add lan1 type veth peer name host");
        ip("addr add 10.50.0.1/24 dev lan1");
        ip("addr add 2001:db8:50::1/64 dev lan1 nodad");
        ip("link set host up");
        ip("link set lan1 up");
        daemon.await_line("interface is up");
        assert_eq!(own(), ["10.50.0.0/24", "2001:db8:50::/64"], "not link-local ones, and no host addresses");
        ip("link set host down");
        daemon.await_line("no carrier");
        assert_eq!(own(), [""; 0]);
    });
}
