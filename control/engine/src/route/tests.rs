use super::*;
use std::net::Ipv6Addr;

fn neighbour(n: u16) -> NeighbourKey {
    (1, Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, n))
}

fn destination() -> Destination {
    Destination { prefix: "10.0.0.0/8".parse().unwrap(), source: None }
}

const ORIGIN: NodeId = NodeId([1; 8]);
const NOW: Instant = Instant(0);

fn route(seqno: u16, metric: u16) -> Route {
    let lifetime = Duration::from_secs(35);
    let distance = Distance { seqno: Seqno(seqno), metric };
    Route { router_id: ORIGIN, distance, next_hop: "10.0.0.1".parse().unwrap(), lifetime, expires: NOW + lifetime }
}

fn select(routes: &mut Routes) -> Option<Selected> {
    let best = routes.best(destination(), |_| 96);
    routes.entries.get_mut(&destination()).unwrap().selected = best;
    best
}

#[test]
fn the_least_metric_wins_and_a_tie_changes_nothing() {
    let mut routes = Routes::default();
    routes.learn(NOW, destination(), neighbour(2), route(1, 100));
    assert_eq!(select(&mut routes).unwrap().neighbour, neighbour(2));
    routes.learn(NOW, destination(), neighbour(1), route(1, 100));
    assert_eq!(select(&mut routes).unwrap().neighbour, neighbour(2));
    routes.learn(NOW, destination(), neighbour(1), route(1, 99));
    assert_eq!(select(&mut routes).map(|route| (route.neighbour, route.metric)), Some((neighbour(1), 195)));
}

#[test]
fn what_could_loop_is_not_selected() {
    let mut routes = Routes::default();
    routes.sources.announced(NOW, destination(), ORIGIN, Distance { seqno: Seqno(5), metric: 200 });
    // A neighbour that routes through us announces no less than what we announced.
    assert_eq!(routes.learn(NOW, destination(), neighbour(1), route(5, 200)), (Learnt::Ignored, true));
    assert_eq!(select(&mut routes), None);
    assert_eq!(routes.sources.next_seqno(destination(), ORIGIN), Some(Seqno(6)));
    assert_eq!(routes.learn(NOW, destination(), neighbour(1), route(6, 900)), (Learnt::Changed, false));
    assert!(select(&mut routes).is_some(), "a newer seqno makes it feasible");
}

#[test]
fn the_feasibility_distance_only_improves() {
    let mut sources = Sources::default();
    let distance = |seqno, metric| Distance { seqno: Seqno(seqno), metric };
    sources.announced(NOW, destination(), ORIGIN, distance(5, 200));
    sources.announced(NOW, destination(), ORIGIN, distance(5, 300));
    sources.announced(NOW, destination(), ORIGIN, distance(6, INFINITY));
    assert!(!sources.is_feasible(destination(), ORIGIN, distance(5, 250)));
    assert!(sources.is_feasible(destination(), ORIGIN, distance(5, 199)));
    assert!(sources.is_feasible(destination(), ORIGIN, distance(5, INFINITY)), "retractions always are");
    assert!(sources.is_feasible(destination(), NodeId([2; 8]), distance(0, 900)), "another source");
    sources.expire(NOW + SOURCE_LIFETIME);
    assert!(sources.is_feasible(destination(), ORIGIN, distance(5, 250)));
}

#[test]
fn an_unfeasible_update_of_the_selected_route_is_ignored() {
    let mut routes = Routes::default();
    routes.learn(NOW, destination(), neighbour(1), route(5, 100));
    let selected = select(&mut routes).unwrap();
    routes.sources.announced(NOW, destination(), ORIGIN, Distance { seqno: Seqno(5), metric: selected.metric });
    assert_eq!(routes.learn(NOW, destination(), neighbour(1), route(5, 300)), (Learnt::Ignored, true));
    assert_eq!(select(&mut routes), Some(selected));
    assert_eq!(routes.learn(NOW, destination(), neighbour(1), route(5, INFINITY)), (Learnt::Changed, false));
    assert_eq!(select(&mut routes), None);
}

#[test]
fn routes_that_are_not_renewed_become_unreachable_then_go() {
    let mut routes = Routes::default();
    routes.learn(NOW, destination(), neighbour(1), route(5, 100));
    let expiry = NOW + Duration::from_secs(35);
    assert_eq!(routes.expire(NOW), (vec![], Some(expiry)));
    assert_eq!(routes.expire(expiry).0, [destination()]);
    assert_eq!(select(&mut routes), None);
    let end = expiry + Duration::from_secs(35);
    assert_eq!(routes.expire(end).0, [destination()]);
    assert!(routes.entries[&destination()].routes.is_empty());
}

#[test]
fn a_renewal_asks_for_no_selection_unless_feasibility_changed() {
    let mut routes = Routes::default();
    routes.learn(NOW, destination(), neighbour(1), route(5, 100));
    select(&mut routes);
    let later = NOW + Duration::from_secs(10);
    let renewal = Route { expires: later + Duration::from_secs(35), ..route(5, 100) };
    assert_eq!(routes.learn(later, destination(), neighbour(1), renewal), (Learnt::Renewed, false));
    assert_eq!(routes.entries[&destination()].routes[0].route.expires, renewal.expires);
    assert_eq!(
        routes.learn(later, destination(), neighbour(1), route(6, 100)),
        (Learnt::Changed, false),
        "a new seqno"
    );

    // The same words of another neighbour, before and after what we announced is forgotten.
    routes.sources.announced(NOW, destination(), ORIGIN, Distance { seqno: Seqno(6), metric: 196 });
    assert_eq!(routes.learn(later, destination(), neighbour(2), route(6, 300)), (Learnt::Ignored, true));
    assert_eq!(routes.learn(later, destination(), neighbour(2), route(6, 300)), (Learnt::Renewed, true));
    routes.sources.expire(NOW + SOURCE_LIFETIME);
    assert_eq!(routes.learn(later, destination(), neighbour(2), route(6, 300)), (Learnt::Changed, false));
}

fn numbered(n: usize) -> Destination {
    let address = std::net::Ipv4Addr::from(0x0a00_0000 | u32::try_from(n).unwrap());
    Destination { prefix: Prefix::host(address.into()), source: None }
}

#[test]
fn one_neighbour_cannot_fill_the_table() {
    let mut routes = Routes::default();
    for n in 0..MAX_ROUTES_PER_NEIGHBOUR {
        assert_eq!(routes.learn(NOW, numbered(n), neighbour(1), route(1, 100)).0, Learnt::Changed);
    }
    let next = numbered(MAX_ROUTES_PER_NEIGHBOUR);
    assert_eq!(routes.learn(NOW, next, neighbour(1), route(1, 100)).0, Learnt::Refused);
    assert_eq!(
        routes.learn(NOW, numbered(0), neighbour(1), route(2, 100)).0,
        Learnt::Changed,
        "what it has may change"
    );
    assert_eq!(routes.learn(NOW, next, neighbour(2), route(1, 100)).0, Learnt::Changed, "others have room");
    routes.forget(numbered(0), neighbour(1));
    assert_eq!(routes.learn(NOW, next, neighbour(1), route(1, 100)).0, Learnt::Changed);
    // Routes that run out make room: first unreachable, then gone.
    let later = NOW + Duration::from_secs(40);
    routes.expire(later);
    routes.expire(later + Duration::from_secs(40));
    assert!(routes.per_neighbour.is_empty());
}

#[test]
fn a_router_that_takes_ever_new_names_is_not_remembered_without_end() {
    let mut routes = Routes::default();
    let named = |n: usize| Route { router_id: NodeId((n as u64 + 1).to_be_bytes()), ..route(1, 100) };
    for n in 0..MAX_SOURCES {
        routes.sources.announced(NOW, destination(), named(n).router_id, route(1, 100).distance);
    }
    assert_eq!(routes.learn(NOW, destination(), neighbour(1), named(MAX_SOURCES)).0, Learnt::Refused);
    let better = Route { distance: Distance { seqno: Seqno(2), metric: 0 }, ..named(5) };
    assert_eq!(routes.learn(NOW, destination(), neighbour(1), better).0, Learnt::Changed, "a known one");
    assert_eq!(
        routes.learn(NOW, destination(), neighbour(1), named(MAX_SOURCES)).0,
        Learnt::Refused,
        "nor in its place"
    );
    routes.sources.expire(NOW + SOURCE_LIFETIME);
    assert_eq!(routes.learn(NOW, destination(), neighbour(2), named(MAX_SOURCES)).0, Learnt::Changed);
}
