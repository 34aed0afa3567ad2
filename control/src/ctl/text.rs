//! Answers as text: columns that read like ip, birdc and wg.

use gemcast_proto::api;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// `gemctl status`.
pub fn status(status: &api::Status) -> String {
    let causes = if status.causes.is_empty() { String::new() } else { format!(": {}", status.causes.join(", ")) };
    let (node, instance, state) = (&status.node, &status.instance, &status.state);
    let mut text = format!("gateway {node} ({}), instance {instance}: {state}{causes}\n", status.node_id);
    let mut line = |name: &str, value: String| writeln!(text, "  {name:<12}{value}").expect("a String grows");
    line("running", format!("{}, version {}, process {}", duration(status.uptime_seconds), status.version, status.pid));
    line("config", status.config.clone());
    if let Some(data_plane) = &status.data_plane {
        let value = if data_plane.connected {
            let flows = if data_plane.applied { "flows in force" } else { "flows pending" };
            format!(
                "connected, version {}, {}, {flows}, maps {}",
                data_plane.version,
                count(data_plane.workers, "worker"),
                data_plane.incarnation
            )
        } else {
            "not connected".into()
        };
        line("data plane", value);
    }
    if let Some(totals) = &status.totals {
        line("interfaces", format!("{} up of {}", totals.interfaces_up, totals.interfaces));
        line("groups", totals.groups.to_string());
        line("nodes", format!("{} reached of {}", totals.nodes_reached, totals.nodes));
        line("neighbours", format!("{} up of {}", totals.neighbours_up, totals.neighbours));
        line("keys", totals.keys.to_string());
        let (received, forwarded) = (totals.received, totals.forwarded);
        let rest = format!("passed {}, dropped {}", totals.passed, totals.dropped);
        line("frames", format!("received {received}, forwarded {forwarded}, {rest}"));
    }
    if !status.problems.is_empty() {
        writeln!(text, "problems").expect("a String grows");
        for problem in &status.problems {
            writeln!(text, "  {} {}: {}", problem.code, problem.subject, problem.text).expect("a String grows");
            writeln!(text, "    fix: {}", problem.fix).expect("a String grows");
        }
    }
    text
}

/// `gemctl node list`.
pub fn nodes(nodes: &api::Nodes) -> String {
    let mut table = Table::new(["Node id", "Name", "Reach", "Keys", "Version"]);
    for node in &nodes.nodes {
        let name = if node.this { format!("{} (this)", node.name) } else { node.name.clone() };
        let reach = match node.lost_ms {
            Some(ms) if node.lost_with.is_empty() => format!("lost for {}", duration(ms / 1000)),
            Some(ms) => format!("lost for {} with {}", duration(ms / 1000), node.lost_with.join(", ")),
            None => node.reach.clone(),
        };
        table.row([node.id.clone(), name, reach, node.keys.to_string(), node.version.to_string()]);
    }
    table.text()
}

/// `gemctl group list`.
pub fn groups(groups: &api::Groups) -> String {
    let heads = ["Group", "Protection", "Direction", "Ports", "Sources", "Epoch", "Key", "Nodes", "Sealed", "Opened"];
    let mut table = Table::new(heads);
    for group in &groups.groups {
        let direction = match (group.send, group.receive) {
            (true, true) => "send, receive",
            (true, false) => "send",
            (false, true) => "receive",
            (false, false) => "none",
        };
        let relayed = group.protection == "none";
        let protection = if relayed { "none".into() } else { group.suite.clone() };
        table.row([
            group.group.clone(),
            protection,
            direction.into(),
            or_dash(&joined(&group.ports), "any"),
            or_dash(&joined(&group.sources), "any"),
            group.epochs.last().map_or("-".into(), ToString::to_string),
            group.active_key.clone().unwrap_or("-".into()),
            group.source_nodes.to_string(),
            if relayed { format!("{} relayed", group.relayed) } else { group.sealed.to_string() },
            group.opened.to_string(),
        ]);
    }
    table.text() + &forwarders(groups)
}

/// Who forwards each group of a LAN that gateways share.
fn forwarders(groups: &api::Groups) -> String {
    let mut table = Table::new(["Group", "Role", "Forwarder", "Why"]);
    for group in groups.groups.iter().filter(|group| !group.role.is_empty()) {
        let forwarder = or_dash(&group.forwarder, "-");
        table.row([group.group.clone(), group.role.clone(), forwarder, group.forwarder_why.clone()]);
    }
    if table.rows.len() > 1 { format!("\n{}", table.text()) } else { String::new() }
}

/// `gemctl key list`.
pub fn keys(keys: &api::Keys) -> String {
    let now = now_ms();
    let mut table = Table::new(["Key", "Group", "Epoch", "Origin", "State", "Suite", "Expires", "Packets"]);
    for key in &keys.keys {
        let origin = if key.origin_name.is_empty() { &key.origin } else { &key.origin_name };
        let expires = match key.not_after_ms.checked_sub(now) {
            Some(left) => format!("in {}", duration(left / 1000)),
            None => "expired".into(),
        };
        table.row([
            key.key_id.clone(),
            key.group.clone(),
            key.epoch.to_string(),
            origin.clone(),
            key.state.clone(),
            or_dash(&key.suite, "-"),
            expires,
            if key.packets > 0 { key.packets.to_string() } else { "-".into() },
        ]);
    }
    table.text()
}

/// `gemctl iface list`.
pub fn interfaces(interfaces: &api::Interfaces) -> String {
    let mut text = String::new();
    for interface in &interfaces.interfaces {
        let mut facts = vec![interface.role.clone(), interface.state.clone()];
        if interface.ifindex > 0 {
            facts.push(format!("mtu {}", interface.mtu));
        }
        if !interface.xdp_mode.is_empty() {
            facts.push(format!("xdp {}/{}", interface.xdp_mode, interface.bind_mode));
            facts.push(count(interface.queues, "queue"));
        }
        if interface.babel {
            facts.push(format!("babel {}", or_dash(&interface.link_local, "without address")));
        }
        if !interface.ipv4.is_empty() {
            facts.push(interface.ipv4.clone());
        }
        writeln!(text, "{}: {}", interface.name, facts.join(", ")).expect("a String grows");
        if !interface.reason.is_empty() {
            writeln!(text, "    {}", interface.reason).expect("a String grows");
        }
        if interface.xdp_mode.is_empty() {
            writeln!(text, "    not served by the data plane").expect("a String grows");
            continue;
        }
        let mut line = |name: &str, total: u64, detail: String| {
            let line = format!("    {name:<10}{total:>12}  {detail}");
            writeln!(text, "{}", line.trim_end()).expect("a String grows");
        };
        line("received", interface.received, String::new());
        line("forwarded", interface.forwarded, format!("of {} redirected to a worker", interface.redirected));
        line("passed", interface.passed_total, reasons(&interface.passed));
        line("dropped", interface.dropped_total, reasons(&interface.dropped));
        if interface.opened > 0 {
            line("opened", interface.opened, "decrypted, the first of their packet".into());
        }
        if interface.copies > 0 {
            line("copies", interface.copies, "of packets that were opened before".into());
        }
        if interface.held > 0 {
            line("held", interface.held, "waiting for a key".into());
        }
        line("sent", interface.sent, bytes(interface.sent_bytes));
        if !interface.unsent.is_empty() {
            line("unsent", interface.unsent.values().sum(), reasons(&interface.unsent));
        }
    }
    text
}

/// `gemctl neighbour list`.
pub fn neighbours(neighbours: &api::Neighbours) -> String {
    let mut table =
        Table::new(["Interface", "Address", "State", "Hellos", "Heard", "Rxcost", "Txcost", "Cost", "RTT", "Sync"]);
    for neighbour in &neighbours.neighbours {
        let hellos = if neighbour.by_unicast {
            format!("{} by unicast", neighbour.unicast_history)
        } else {
            neighbour.hello_history.clone()
        };
        let sync = if neighbour.sync == "differs" {
            format!("differs, {} queued", neighbour.objects_queued)
        } else {
            neighbour.sync.clone()
        };
        table.row([
            neighbour.interface.clone(),
            neighbour.address.clone(),
            standing(neighbour),
            hellos,
            ago(neighbour.last_heard_ms),
            cost(neighbour.rxcost),
            cost(neighbour.txcost),
            cost(neighbour.cost),
            neighbour.rtt_us.map_or("-".into(), millis),
            sync,
        ]);
    }
    table.text() + &waiting(neighbours)
}

/// Where a neighbour stands with the failure detector.
fn standing(neighbour: &api::Neighbour) -> String {
    let missed = || format!("{} of {}", neighbour.missed, neighbour.dead_threshold);
    let state = match (neighbour.state.as_str(), neighbour.dead_ms) {
        ("suspect", _) => format!("suspect, missed {}", missed()),
        ("dead", Some(ms)) => format!("dead for {}", duration(ms / 1000)),
        (state, _) => state.to_owned(),
    };
    if neighbour.flapping { format!("{state}, flapping") } else { state }
}

/// What unicast peers wait for.
fn waiting(neighbours: &api::Neighbours) -> String {
    let waits = neighbours.peers.iter().filter(|peer| !peer.waits.is_empty());
    waits.map(|peer| format!("{}\n", peer.waits)).collect()
}

/// `gemctl neighbour show`.
pub fn neighbour(found: &[api::Neighbour], announced: &[api::Route]) -> String {
    let mut text = String::new();
    for neighbour in found {
        let (interface, address) = (&neighbour.interface, &neighbour.address);
        writeln!(text, "{address} on {interface}").expect("a String grows");
        let mut line = |name: &str, value: String| writeln!(text, "  {name:<10}{value}").expect("a String grows");
        line("state", standing(neighbour));
        line("heard", ago(neighbour.last_heard_ms));
        if neighbour.lateness_us > 0 {
            line("late", format!("by up to {}; awaited that much longer", millis(neighbour.lateness_us)));
        }
        if neighbour.deaths > 0 {
            let avoided = if neighbour.flapping { "; avoided until it is calm" } else { "" };
            line("died", format!("{}{avoided}", count(neighbour.deaths, "time")));
        }
        let (multicast, unicast) = (&neighbour.hello_history, &neighbour.unicast_history);
        line("hellos", format!("multicast {multicast}, unicast {unicast}, the latest in the highest bit"));
        if neighbour.by_unicast {
            line("path", "unicast: multicast does not arrive, here or there".into());
        }
        let [rx, tx, both] = [neighbour.rxcost, neighbour.txcost, neighbour.cost].map(cost);
        line("cost", format!("{both} (receiving {rx}, sending {tx})"));
        if let Some(rtt) = neighbour.rtt_us {
            line("round trip", millis(rtt));
        }
        line("tables", compared(neighbour));
        let of_it = |route: &&api::Route| route.neighbour == *address && route.interface == *interface;
        let routes: Vec<_> = announced.iter().filter(of_it).cloned().collect();
        line("routes", routes.len().to_string());
        if !routes.is_empty() {
            text += &self::routes(&api::Routes { routes });
        }
    }
    text
}

/// `gemctl route list`.
pub fn routes(routes: &api::Routes) -> String {
    let heads = ["", "Prefix", "Via", "Interface", "Metric", "Announced", "Seqno", "Origin", "Kernel"];
    let mut table = Table::new(heads);
    let mut refused = String::new();
    for route in &routes.routes {
        let from = if route.source.is_empty() { String::new() } else { format!(" from {}", route.source) };
        let mark = match (route.own, route.selected, route.feasible) {
            (true, ..) | (_, true, _) => "*",
            (_, _, true) => "",
            (_, _, false) => "!",
        };
        if !route.reason.is_empty() {
            writeln!(refused, "refused by the kernel: {}", route.reason).expect("a String grows");
        }
        table.row([
            mark.into(),
            format!("{}{from}", route.prefix),
            if route.own { "(own)".into() } else { route.next_hop.clone() },
            or_dash(&route.interface, "-"),
            cost(route.metric),
            cost(route.refmetric),
            route.seqno.to_string(),
            if route.router_name.is_empty() { route.router_id.clone() } else { route.router_name.clone() },
            or_dash(&route.kernel, "-"),
        ]);
    }
    table.text() + &refused
}

/// `gemctl sync`.
pub fn sync(neighbours: &api::Neighbours) -> String {
    let mut table = Table::new(["Interface", "Neighbour", "State", "Heard", "Tables"]);
    let ours = format!("{} here\n", objects(neighbours.objects));
    for neighbour in &neighbours.neighbours {
        table.row([
            neighbour.interface.clone(),
            neighbour.address.clone(),
            standing(neighbour),
            ago(neighbour.last_heard_ms),
            compared(neighbour),
        ]);
    }
    ours + &table.text()
}

fn objects(count: u32) -> String {
    if count == 1 { "1 object".into() } else { format!("{count} objects") }
}

fn compared(neighbour: &api::Neighbour) -> String {
    match neighbour.sync.as_str() {
        "differs" => {
            let mut text = format!("differ: it has {}", objects(neighbour.objects_theirs));
            for (count, who) in [(neighbour.objects_behind, "it"), (neighbour.objects_ahead, "this gateway")] {
                if count > 0 {
                    write!(text, ", {who} lacks at least {count}").expect("a String grows");
                }
            }
            if neighbour.objects_queued > 0 {
                write!(text, ", {} on their way to it", neighbour.objects_queued).expect("a String grows");
            }
            let next =
                neighbour.sync_next_ms.map_or("soon".into(), |ms| format!("in {}.{} s", ms / 1000, ms % 1000 / 100));
            let tries =
                if neighbour.sync_tries == 1 { "once".into() } else { format!("{} times", neighbour.sync_tries) };
            match neighbour.sync_tries {
                0 => write!(text, "; compared {next}"),
                _ => write!(text, "; compared {tries} without result, next {next}"),
            }
            .expect("a String grows");
            text
        }
        "unknown" => "unknown: no digest from it, as from a router without GEM".into(),
        other => other.into(),
    }
}

/// One line of `gemctl events`.
pub fn event(event: &api::Event) -> String {
    let mut line = format!("{} {:<7} {}", time(event.at_ms), event.severity, event.text);
    for (name, value) in &event.fields {
        write!(line, " {name}={value}").expect("a String grows");
    }
    printable(&line)
}

/// A line with its control characters written out, so that foreign text in it cannot pass for something else.
pub(super) fn printable(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    for c in line.chars() {
        if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
    }
    text
}

/// The same for several lines.
pub(super) fn printable_lines(text: &str) -> String {
    text.split_inclusive('\n')
        .map(|line| {
            let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
            printable(line) + end
        })
        .collect()
}

/// RFC 3339, UTC, to the millisecond. The calendar is the Gregorian one, counted from 1 March 0000 in eras of 400 years.
pub(super) fn time(at_ms: u64) -> String {
    let (days, ms) = (at_ms / 86_400_000 + 719_468, at_ms % 86_400_000);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = era * 400 + year + u64::from(month <= 2);
    let (hours, minutes, seconds) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{:03}Z", ms % 1_000)
}

/// Reads RFC 3339 in UTC: `2027-01-31T12:00:00Z`, fractions of a second left out.
pub(super) fn parse_time(text: &str) -> Option<u64> {
    let (date, clock) = text.strip_suffix('Z')?.split_once('T')?;
    let three = |text: &str, by| -> Option<[u64; 3]> {
        let numbers: Option<Vec<u64>> = text.split(by).map(|number| number.parse().ok()).collect();
        numbers?.try_into().ok()
    };
    let ([year, month, day], [hours, minutes, seconds]) = (three(date, '-')?, three(clock, ':')?);
    let sane = (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !sane || hours > 23 || minutes > 59 || seconds > 59 {
        return None;
    }
    // Days since 1 March 0000, in years that begin in March.
    let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    Some((days.checked_sub(719_468)? * 86_400 + hours * 3_600 + minutes * 60 + seconds) * 1_000)
}

fn ago(ms: u64) -> String {
    format!("{}.{} s ago", ms / 1000, ms % 1000 / 100)
}

fn millis(us: u64) -> String {
    format!("{}.{:03} ms", us / 1000, us % 1000)
}

/// `gemctl key rotate`.
pub fn rotated(rotated: &api::Rotated) -> String {
    let left = rotated.takes_over_at_ms.saturating_sub(now_ms());
    let when = if left > 0 { format!("in {}.{} s", left / 1000, left % 1000 / 100) } else { "now".into() };
    let old = or_dash(&rotated.old_key, "none");
    format!("group {}: key {} takes over from {old} {when}\n", rotated.group, or_dash(&rotated.new_key, "(to come)"))
}

/// Babel's infinity.
fn cost(cost: u32) -> String {
    if cost >= 0xffff { "inf".into() } else { cost.to_string() }
}

/// Counters by reason, the largest first.
fn reasons(reasons: &BTreeMap<String, u64>) -> String {
    let mut reasons: Vec<_> = reasons.iter().collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let reasons: Vec<_> = reasons.into_iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    reasons.join(", ")
}

fn joined<T: ToString>(values: &[T]) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn or_dash(text: &str, otherwise: &str) -> String {
    if text.is_empty() { otherwise.into() } else { text.into() }
}

fn count(number: u32, name: &str) -> String {
    format!("{number} {name}{}", if number == 1 { "" } else { "s" })
}

/// The two largest units: `45s`, `3m 12s`, `1h 5m`, `2d 3h`.
pub(super) fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// Bytes with a binary unit, as `wg` shows transfers.
fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut scaled = bytes as f64;
    let mut unit = "B";
    for larger in UNITS {
        if scaled < 1024.0 {
            break;
        }
        scaled /= 1024.0;
        unit = larger;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{scaled:.2} {unit}") }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Left-aligned columns, two spaces apart.
pub(super) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(heads: [&str; N]) -> Self {
        Self { rows: vec![heads.map(str::to_owned)] }
    }

    pub(super) fn row(&mut self, row: [String; N]) {
        self.rows.push(row.map(|cell| printable(&cell)));
    }

    pub(super) fn text(&self) -> String {
        let widths: [usize; N] =
            std::array::from_fn(|column| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
        let mut text = String::new();
        for row in &self.rows {
            let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_lines_end_clean() {
        let mut table = Table::new(["Name", "Role"]);
        table.row(["wan0".into(), "untrusted".into()]);
        table.row(["a-long-name".into(), "x".into()]);
        assert_eq!(table.text(), "Name         Role\nwan0         untrusted\na-long-name  x\n");
    }

    #[test]
    fn numbers_read_like_the_tools_operators_know() {
        assert_eq!([45, 192, 3_900, 190_000].map(duration), ["45s", "3m 12s", "1h 5m", "2d 4h"]);
        assert_eq!([0, 1023, 1536, 5 << 30].map(bytes), ["0 B", "1023 B", "1.50 KiB", "5.00 GiB"]);
        assert_eq!([96, 65535].map(cost), ["96", "inf"]);
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(time(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(951_827_696_789), "2000-02-29T12:34:56.789Z");
        assert_eq!(time(1_767_225_599_999), "2025-12-31T23:59:59.999Z");
        assert_eq!(time(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn times_are_read_as_they_are_printed() {
        for at_ms in [0, 951_827_696_000, 1_767_225_599_000, 4_107_542_400_000] {
            assert_eq!(parse_time(&time(at_ms).replace(".000Z", "Z")), Some(at_ms));
        }
        for wrong in ["", "2027-01-31", "2027-13-01T00:00:00Z", "2027-01-31T25:00:00Z", "in 5m", "1-1T1Z"] {
            assert_eq!(parse_time(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn r5_foreign_text_cannot_hide_a_row_or_add_one() {
        let mut table = Table::new(["Name", "Role"]);
        table.row(["a\u{1b}[1A\nb".into(), "x".into()]);
        assert_eq!(table.text(), "Name           Role\na\\u{1b}[1A\\nb  x\n");
        let event = api::Event { text: "told\r".into(), ..Default::default() };
        assert!(super::event(&event).ends_with("told\\r"));
        assert_eq!(printable_lines("a\u{7}\nb\n"), "a\\u{7}\nb\n");
    }

    #[test]
    fn reasons_come_largest_first() {
        let counts = BTreeMap::from([("gtag".to_owned(), 2), ("replay".to_owned(), 90)]);
        assert_eq!(reasons(&counts), "replay 90, gtag 2");
    }

    #[test]
    fn an_interface_tells_its_whole_account() {
        let interface = api::Interface {
            name: "wan0".into(),
            role: "untrusted".into(),
            state: "up".into(),
            ifindex: 3,
            mtu: 1500,
            babel: true,
            link_local: "fe80::1".into(),
            xdp_mode: "driver".into(),
            bind_mode: "copy".into(),
            queues: 1,
            received: 100,
            redirected: 60,
            forwarded: 55,
            passed_total: 30,
            dropped_total: 15,
            passed: BTreeMap::from([("link_local".into(), 30)]),
            dropped: BTreeMap::from([("gtag".into(), 10), ("replay".into(), 5)]),
            sent: 7,
            sent_bytes: 2048,
            ..Default::default()
        };
        let text = interfaces(&api::Interfaces { interfaces: vec![interface] });
        let expected = "\
wan0: untrusted, up, mtu 1500, xdp driver/copy, 1 queue, babel fe80::1
    received           100
    forwarded           55  of 60 redirected to a worker
    passed              30  link_local 30
    dropped             15  gtag 10, replay 5
    sent                 7  2.00 KiB
";
        assert_eq!(text, expected);
    }
}
