//! Routes in a real kernel's table, each test in a network namespace of its own. Needs root.

use gemcast_control::routes::{Destination, RouteTable, Settings, Standing};
use gemcast_engine::output::{Route, RouteAction};
use nix::sched::{CloneFlags, unshare};
use std::process::Command;
use std::time::{Duration, Instant};

const SETTINGS: Settings = Settings { install: true, table: 254, metric: 4096 };

/// Runs a test on a thread that has a network namespace of its own, with two veth ends up: `v0` (10.0.0.1/24) and `v1`.
fn in_namespace(test: impl FnOnce(u32) + Send) {
    let run = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own: run the tests as root");
        ip("link set lo up");
        ip("link add v0 type veth peer name v1");
        ip("link set v0 up");
        ip("link set v1 up");
        ip("addr add 10.0.0.1/24 dev v0");
        let links = ip("-o link show v0");
        test(links.split(':').next().unwrap().parse().unwrap());
    };
    std::thread::scope(|scope| scope.spawn(run).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip, of the package iproute2");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn destination(prefix: &str) -> Destination {
    Destination { prefix: prefix.parse().unwrap(), source: None }
}

fn route(prefix: &str, action: RouteAction) -> Route {
    Route { prefix: prefix.parse().unwrap(), source: None, action }
}

fn via(next_hop: &str, ifindex: u32) -> RouteAction {
    RouteAction::Install { next_hop: next_hop.parse().unwrap(), ifindex, metric: 96, on_link: true }
}

#[test]
fn routes_of_every_kind_come_change_and_go() {
    in_namespace(|v0| {
        let now = Instant::now();
        let mut table = RouteTable::open(SETTINGS, now).unwrap();
        table.apply(&route("10.1.0.0/24", via("10.0.0.2", v0)), now);
        // The neighbour's address need not lie in a prefix of ours.
        table.apply(&route("10.2.0.0/24", via("192.168.7.1", v0)), now);
        table.apply(&route("10.3.0.0/24", via("fe80::2", v0)), now);
        table.apply(&route("0.0.0.0/0", via("10.0.0.2", v0)), now);
        table.apply(&route("2001:db8:1::/64", via("fe80::2", v0)), now);
        table.apply(&route("2001:db8:2::/64", RouteAction::Unreachable), now);
        assert_eq!((table.trouble(), table.installed()), (None, 6));
        let v4 = ip("route show proto babel");
        for line in [
            "10.1.0.0/24 via 10.0.0.2 dev v0 metric 4096 onlink",
            "10.2.0.0/24 via 192.168.7.1 dev v0 metric 4096 onlink",
            "10.3.0.0/24 via inet6 fe80::2 dev v0 metric 4096 onlink",
            "default via 10.0.0.2 dev v0 metric 4096 onlink",
        ] {
            assert!(v4.contains(line), "{line}:\n{v4}");
        }
        let v6 = ip("-6 route show proto babel");
        assert!(v6.contains("2001:db8:1::/64 via fe80::2 dev v0 metric 4096"), "{v6}");
        assert!(v6.contains("unreachable 2001:db8:2::/64 dev lo metric 4096"), "{v6}");

        // Changes replace, whatever was there before.
        table.apply(&route("10.1.0.0/24", via("10.0.0.3", v0)), now);
        table.apply(&route("10.2.0.0/24", RouteAction::Unreachable), now);
        table.apply(&route("2001:db8:1::/64", RouteAction::Unreachable), now);
        table.apply(&route("2001:db8:2::/64", via("fe80::3", v0)), now);
        assert_eq!(table.trouble(), None);
        let (v4, v6) = (ip("route show proto babel"), ip("-6 route show proto babel"));
        assert!(v4.contains("10.1.0.0/24 via 10.0.0.3") && !v4.contains("10.1.0.0/24 via 10.0.0.2"), "{v4}");
        assert!(v4.contains("unreachable 10.2.0.0/24") && !v4.contains("192.168.7.1"), "{v4}");
        assert!(v6.contains("unreachable 2001:db8:1::/64") && !v6.contains("fe80::2"), "{v6}");
        assert!(v6.contains("2001:db8:2::/64 via fe80::3") && !v6.contains("unreachable 2001:db8:2::/64"), "{v6}");

        table.apply(&route("10.1.0.0/24", RouteAction::Withdraw), now);
        table.apply(&route("2001:db8:1::/64", RouteAction::Withdraw), now);
        assert!(!ip("route show proto babel").contains("10.1.0.0/24"));
        assert!(!ip("-6 route show proto babel").contains("2001:db8:1::/64"));
        assert_eq!(table.standing(&destination("10.1.0.0/24")), Standing::Absent);
        assert_eq!(table.standing(&destination("10.3.0.0/24")), Standing::Installed);

        table.purge().unwrap();
        assert_eq!(ip("route show proto babel") + &ip("-6 route show proto babel"), "");
        assert!(ip("route show").contains("10.0.0.0/24 dev v0 proto kernel"), "nothing but ours goes");
    });
}

#[test]
fn what_another_process_left_goes_and_what_is_not_ours_stays() {
    in_namespace(|v0| {
        let now = Instant::now();
        let mut killed = RouteTable::open(SETTINGS, now).unwrap();
        killed.apply(&route("10.1.0.0/24", via("10.0.0.2", v0)), now);
        killed.apply(&route("2001:db8:1::/64", via("fe80::2", v0)), now);
        drop(killed);
        ip("route add 10.8.0.0/24 via 10.0.0.2 proto babel metric 77");
        ip("route add 10.9.0.0/24 via 10.0.0.2 metric 4096");
        let _table = RouteTable::open(SETTINGS, now).unwrap();
        let all = ip("route show") + &ip("-6 route show");
        assert!(!all.contains("10.1.0.0/24") && !all.contains("2001:db8:1::/64"), "{all}");
        assert!(all.contains("10.8.0.0/24") && all.contains("10.9.0.0/24"), "{all}");
    });
}

#[test]
fn a_refused_route_is_told_once_and_tried_again() {
    in_namespace(|v0| {
        let now = Instant::now();
        let mut table = RouteTable::open(SETTINGS, now).unwrap();
        ip("route add 10.9.0.0/24 via 10.0.0.2 metric 4096");
        table.apply(&route("10.9.0.0/24", via("10.0.0.3", v0)), now);
        let (count, why) = table.trouble().expect("refused");
        assert_eq!(count, 1);
        assert!(why.contains("10.9.0.0/24: another route with metric 4096 is in table 254"), "{why}");
        assert!(matches!(table.standing(&destination("10.9.0.0/24")), Standing::Refused(_)));
        assert!(ip("route show").contains("10.9.0.0/24 via 10.0.0.2"), "the other's route is left alone");

        table.tick(now);
        assert_eq!(table.counts.refused, 1, "not before its time");
        ip("route del 10.9.0.0/24");
        table.tick(now + Duration::from_secs(1));
        assert_eq!(table.trouble(), None);
        assert!(ip("route show").contains("10.9.0.0/24 via 10.0.0.3"));

        // Withdrawn while refused: nothing is left to be tried.
        ip("route add 10.7.0.0/24 via 10.0.0.2 metric 4096");
        table.apply(&route("10.7.0.0/24", via("10.0.0.3", v0)), now);
        table.apply(&route("10.7.0.0/24", RouteAction::Withdraw), now);
        assert_eq!(table.trouble(), None);
        assert!(ip("route show").contains("10.7.0.0/24 via 10.0.0.2"));
    });
}

#[test]
fn routes_that_vanish_are_put_back() {
    in_namespace(|v0| {
        let now = Instant::now();
        let mut table = RouteTable::open(SETTINGS, now).unwrap();
        table.apply(&route("10.1.0.0/24", via("10.0.0.2", v0)), now);
        table.apply(&route("2001:db8:1::/64", via("fe80::2", v0)), now);
        ip("link set v0 down");
        ip("link set v0 up");
        assert_eq!(ip("route show proto babel"), "", "the kernel removed it");
        table.audit_soon(now);
        table.tick(table.deadline());
        assert!(ip("route show proto babel").contains("10.1.0.0/24 via 10.0.0.2"));
        assert!(ip("-6 route show proto babel").contains("2001:db8:1::/64 via fe80::2"));
        assert_eq!((table.counts.restored, table.trouble()), (2, None));
    });
}

#[test]
fn a_table_of_their_own_and_none_at_all() {
    in_namespace(|v0| {
        let now = Instant::now();
        let own = Settings { table: 100_042, ..SETTINGS };
        let mut table = RouteTable::open(own, now).unwrap();
        table.apply(&route("10.1.0.0/24", via("10.0.0.2", v0)), now);
        assert!(ip("route show table 100042").contains("10.1.0.0/24 via 10.0.0.2"));
        assert!(!ip("route show").contains("10.1.0.0/24"));
        table.configure(SETTINGS, now).unwrap();
        assert!(ip("route show").contains("10.1.0.0/24 via 10.0.0.2"), "moved");
        table.configure(Settings { install: false, ..SETTINGS }, now).unwrap();
        table.apply(&route("10.2.0.0/24", via("10.0.0.2", v0)), now);
        assert_eq!(ip("route show proto babel"), "");
        assert_eq!((table.trouble(), table.installed()), (None, 0));
        table.configure(SETTINGS, now).unwrap();
        assert_eq!(ip("route show proto babel").lines().count(), 2, "what was wanted meanwhile is there");
    });
}

#[test]
fn routes_by_source_are_installed_or_refused_with_the_reason() {
    in_namespace(|v0| {
        let now = Instant::now();
        let mut table = RouteTable::open(SETTINGS, now).unwrap();
        let source = Some("2001:db8:7::/48".parse().unwrap());
        table.apply(&Route { source, ..route("2001:db8:1::/64", via("fe80::2", v0)) }, now);
        let v6 = ip("-6 route show proto babel");
        match table.trouble() {
            None => assert!(v6.contains("2001:db8:1::/64 from 2001:db8:7::/48 via fe80::2"), "{v6}"),
            Some((_, why)) => assert!(why.contains("CONFIG_IPV6_SUBTREES"), "{why}"),
        }
        let source = Some("10.7.0.0/16".parse().unwrap());
        table.apply(&Route { source, ..route("10.1.0.0/24", via("10.0.0.2", v0)) }, now);
        let (_, why) = table.trouble().expect("refused");
        assert!(why.contains("no IPv4 routes by source") || why.contains("CONFIG_IPV6_SUBTREES"), "{why}");
    });
}
