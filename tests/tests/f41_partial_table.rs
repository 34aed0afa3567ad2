//! F41: a node with a part of the table. Every new adjacency compares in full; what is missing is asked for by name, and
//! nothing else is sent.

mod common;

use std::collections::BTreeSet;

use common::{GROUPS, in_sync, keys_in_state, known_nodes, opening_keys, turn};
use gemcast_lab::{Daemon, Gateway, GemTraffic, Lab, Options, Result, Seconds, Topology};
use gemcast_proto::wire::gem::ObjectKind;

/// Has a gateway make another key for each group; answers with the keys that seal and will seal.
fn rotate(lab: &Lab, gateway: &Gateway<'_>) -> Result<BTreeSet<String>> {
    let old = keys_in_state(gateway, "announced").len();
    for group in GROUPS {
        gateway.gemctl(&["key", "rotate", group])?;
    }
    lab.eventually(5.s(), "new keys", || keys_in_state(gateway, "announced").len() == old + 2)?;
    Ok(&keys_in_state(gateway, "announced") | &keys_in_state(gateway, "active"))
}

#[test]
fn f41_a_newcomer_learns_all_and_a_returner_what_it_lacks() -> Result<()> {
    let _turn = turn();
    let lab = Lab::up(Topology::line(), Options::new("t-f41").without_daemons())?;
    lab.make_identities()?;
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.gateway(name));
    for gateway in [&a, &b] {
        for daemon in Daemon::BOTH {
            gateway.start(daemon)?;
        }
    }
    lab.eventually(20.s(), "a and b to agree", || opening_keys(&a).len() == 2 && opening_keys(&b).len() == 2)?;

    // A newcomer next to b learns of a, which it has never heard.
    for daemon in Daemon::BOTH {
        c.start(daemon)?;
    }
    lab.wait_converged(20.s())?;
    lab.eventually(10.s(), "equal tables", || [&a, &b, &c].into_iter().all(in_sync))?;
    assert_eq!(known_nodes(&c).len(), 3);
    let known = opening_keys(&c);

    // Cut off, it misses what a makes; and what it makes itself, the others miss.
    lab.isolate("wan-bc", &["b", "c"])?;
    let of_a = rotate(&lab, &a)?;
    let of_c = rotate(&lab, &c)?;
    lab.eventually(10.s(), "b to have a's new keys", || opening_keys(&b).is_superset(&of_a))?;
    assert!(!opening_keys(&c).is_superset(&of_a) && !opening_keys(&a).is_superset(&of_c));
    let captures = ["b", "c"].map(|host| {
        let interface = if host == "b" { "wan1" } else { "wan0" };
        lab.host(host).capture(interface).and_then(|capture| capture.keep(200_000).start())
    });
    lab.rejoin("wan-bc", &["b", "c"])?;
    lab.eventually(15.s(), "each to have what it lacks", || {
        opening_keys(&c).is_superset(&of_a) && [&a, &b].iter().all(|one| opening_keys(one).is_superset(&of_c))
    })?;
    lab.eventually(10.s(), "equal tables", || [&a, &b, &c].into_iter().all(in_sync))?;

    let mut sent = GemTraffic::default();
    for capture in captures {
        let heard = GemTraffic::of(&capture?.stop()?.datagrams);
        sent.objects.extend(heard.objects);
        sent.requested.extend(heard.requested);
        sent.wildcards += heard.wildcards;
    }
    let id = |key: &str| u64::from_str_radix(key, 16).expect("hexadecimal");
    let is_sek = |name: &&gemcast_proto::wire::gem::ObjectName| name.kind == ObjectKind::SEK;
    let seks: BTreeSet<_> = sent.objects.keys().map(|(name, _)| name).filter(is_sek).map(|name| name.id).collect();
    let repeated: Vec<_> = known.iter().filter(|key| seks.contains(&id(key))).collect();
    assert!(repeated.is_empty(), "both had {repeated:?}, and were sent it again");
    assert_eq!(sent.wildcards, 0, "who has a table does not ask for everything");
    let missed = |keys: &BTreeSet<String>| keys.iter().filter(|key| seks.contains(&id(key))).count();
    assert!(missed(&of_a) >= 2 && missed(&of_c) >= 2, "what was missing was sent: {:?}", sent.objects);
    Ok(())
}
