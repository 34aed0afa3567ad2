//! The configuration as an operator meets it: what is accepted, and what every mistake is answered with.

use gemcast_control::config::{Config, Protection, Role};
use gemcast_control::keyfile;
use gemcast_engine::config::{Detection, Link};
use gemcast_proto::id::{Epoch, Suite};
use std::fs::{self, Permissions};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

/// A directory with an identity, a bootstrap key and two group keys.
struct Site {
    dir: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        keyfile::generate_identity(&dir.path().join("node.key")).unwrap();
        for name in ["bk.key", "gak1.key", "gak2.key"] {
            keyfile::generate_key(&dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("gemcast.toml")
    }

    fn parse(&self, text: &str) -> Result<Config, String> {
        Config::parse(&self.path(), text).map_err(|errors| errors.to_string())
    }

    fn refusal(&self, text: &str) -> String {
        self.parse(text).err().unwrap_or_else(|| panic!("accepted:\n{text}"))
    }
}

const HEAD: &str = r#"[node]
name = "a"
identity = "node.key"
[domain]
bootstrap_key = "bk.key"
"#;
const INTERFACES: &str = r#"[[interface]]
name = "lan0"
role = "trusted"
[[interface]]
name = "wan0"
role = "untrusted"
"#;
const GROUP: &str = r#"[[group]]
address = "239.1.1.1"
gak = [{ epoch = 1, file = "gak1.key" }]
"#;

#[test]
fn a_small_file_gets_the_documented_defaults() {
    let config = Site::new().parse(&format!("{HEAD}{INTERFACES}{GROUP}")).unwrap();
    assert_eq!(config.babel_port, 6696);
    assert_eq!(config.instance_dir(), PathBuf::from("/run/gemcast/default"));
    assert_eq!(config.node.state_dir, PathBuf::from("/var/lib/gemcast"));
    let babel: Vec<_> = config.interfaces.iter().map(|i| (i.name.as_str(), i.role, i.babel)).collect();
    assert_eq!(babel, [("lan0", Role::Trusted, false), ("wan0", Role::Untrusted, true)]);
    let group = &config.groups[0];
    assert!(group.send && group.receive && group.ports.is_empty() && group.sources.is_empty());
    let Protection::Sealed { suite, gaks } = &group.protection else { panic!("sealed unless said otherwise") };
    assert_eq!((*suite, gaks.len(), gaks[0].0), (Suite::Aes256Gcm, 1, Epoch(1)));
    assert_eq!((config.hello_interval, config.update_interval), (Duration::from_secs(1), Duration::from_secs(10)));
    assert_eq!((config.sek_lifetime, config.announce_lead), (Duration::from_secs(3600), Duration::from_secs(30)));
    assert_eq!(config.overlap, Duration::from_secs(10));
}

#[test]
fn a_full_file_is_taken_as_written() {
    let text = r#"
        [node]
        name = "studio-a"
        identity = "node.key"
        state_dir = "/tmp/state"
        run_dir = "/tmp/run"
        instance = "left"
        [domain]
        bootstrap_key = ["bk.key", "gak2.key"]
        babel_port = 7000
        port = 48623
        [[interface]]
        name = "lan0"
        role = "trusted"
        babel = true
        [[interface]]
        name = "wan0"
        role = "untrusted"
        babel = false
        [[group]]
        address = "ff3e::/32"
        ports = [5000, 5001]
        sources = ["2001:db8::1"]
        protection = "sealed"
        suite = "chacha20-poly1305"
        gak = [{ epoch = 2, file = "gak2.key" }, { epoch = 1, file = "gak1.key" }]
        send = false
        receive = true
        [[group]]
        address = "239.9.0.0/16"
        protection = "none"
        [resilience]
        hello_interval = "100ms"
        dead_threshold = 5
        removal_grace = "10s"
        flap_damping = false
        update_interval = "1m"
        [keys]
        sek_lifetime = "24h"
        announce_lead = "5s"
        overlap = "0s"
    "#;
    let config = Site::new().parse(text).unwrap();
    assert_eq!(config.instance_dir(), PathBuf::from("/tmp/run/left"));
    assert_eq!((config.bootstrap_keys.len(), config.babel_port), (2, 7000));
    assert!(config.interfaces[0].babel && !config.interfaces[1].babel);
    let group = &config.groups[0];
    assert_eq!((group.group.to_string().as_str(), group.ports.as_slice()), ("ff3e::/32", &[5000, 5001][..]));
    assert_eq!(group.sources, ["2001:db8::1".parse::<IpAddr>().unwrap()]);
    let Protection::Sealed { suite, gaks } = &group.protection else { panic!("sealed") };
    assert_eq!(*suite, Suite::ChaCha20Poly1305);
    assert_eq!(gaks.iter().map(|(epoch, _)| epoch.0).collect::<Vec<_>>(), [1, 2], "ascending, the last one sends");
    assert!(!group.send && matches!(config.groups[1].protection, Protection::None));
    assert_eq!((config.hello_interval, config.update_interval), (Duration::from_millis(100), Duration::from_secs(60)));
    let detection = Detection { dead_threshold: 5, removal_grace: Duration::from_secs(10), flap_damping: false };
    assert_eq!(config.detection, detection);
    assert_eq!(config.overlap, Duration::ZERO);

    let engine = config.engine();
    assert_eq!((engine.node.name.as_str(), engine.babel.port, engine.groups.len()), ("studio-a", 7000, 2));
}

#[test]
fn a_relay_without_groups_needs_no_trusted_side() {
    let text = format!("{HEAD}[[interface]]\nname = \"x\"\nrole = \"untrusted\"\n");
    assert!(Site::new().parse(&text).is_ok());
}

#[test]
fn every_mistake_is_answered_with_its_place_and_its_fix() {
    let site = Site::new();
    let whole = |group: &str| format!("{HEAD}{INTERFACES}[[group]]\n{group}");
    let sealed = r#"gak = [{ epoch = 1, file = "gak1.key" }]"#;
    let cases: Vec<(String, &str)> = vec![
        // Syntax.
        ("[node\n".into(), "gemcast.toml:1:6: "),
        (format!("{HEAD}{INTERFACES}\nname"), ":13:5: "),
        // Unknown and missing keys and values.
        (
            whole(&format!("adress = \"239.1.1.1\"\n{sealed}")),
            ":13:1: unknown key \"adress\" in [[group]]; did you mean \"address\"?",
        ),
        (format!("{HEAD}{INTERFACES}[resilence]\n"), ":12:2: unknown key \"resilence\""),
        (format!("{HEAD}{INTERFACES}[resilence]\n"), "did you mean \"resilience\"?"),
        (
            whole("address = \"239.1.1.1\"\nzzz = 1"),
            ":14:1: unknown key \"zzz\" in [[group]]; expected one of address, ports, sources, protection",
        ),
        (whole("address = \"239.1.1.1\"\ngak = [{ epoc = 1, file = \"x\" }]"), "did you mean \"epoch\"?"),
        (
            format!("{HEAD}[[interface]]\nname = \"x\"\nrole = \"trustd\"\n"),
            ":8:8: unknown value \"trustd\" in [[interface]]; did you mean \"trusted\"?",
        ),
        (
            whole(&format!("address = \"239.1.1.1\"\nsuite = \"des\"\n{sealed}")),
            ":14:9: unknown value \"des\" in [[group]]; expected one of aes-256-gcm, chacha20-poly1305",
        ),
        ("[node]\nname = \"a\"\n".into(), "the key \"identity\" is missing in [node]; add it"),
        (HEAD.replace("[domain]\nbootstrap_key = \"bk.key\"\n", ""), "the key \"domain\" is missing"),
        // Wrong types.
        (HEAD.replace("\"a\"", "5"), ":2:8: invalid type: integer `5`, expected a string"),
        (HEAD.replace("\"bk.key\"", "5"), ":5:17: invalid type: integer `5`, expected a string, or a list of strings"),
        (
            HEAD.replace("[domain]", "[domain]\nbabel_port = 66960"),
            ":5:14: invalid value: integer `66960`, expected u16",
        ),
        // Node and domain.
        (HEAD.replace("\"a\"", "\"\"") + INTERFACES, ":2:8: node name of 0 bytes; expected 1 to 63"),
        (HEAD.replace("\"a\"", &format!("\"{}\"", "a".repeat(64))) + INTERFACES, "node name of 64 bytes"),
        (HEAD.replace("\"a\"", "\"a b\"") + INTERFACES, "white space or control characters"),
        (
            HEAD.replace("[domain]", "instance = \"../x\"\n[domain]") + INTERFACES,
            ":4:12: instance \"../x\": expected 1 to 32 letters",
        ),
        (
            HEAD.replace("[domain]", &format!("run_dir = \"/{}\"\ninstance = \"x\"\n[domain]", "d".repeat(100)))
                + INTERFACES,
            ":5:12: run_dir and instance make socket paths over 107 bytes",
        ),
        (HEAD.replace("[domain]", "[domain]\nbabel_port = 0") + INTERFACES, ":5:14: babel_port is 0"),
        (HEAD.replace("[domain]", "[domain]\nport = 5000") + INTERFACES, ":5:8: data port 5000 is not supported"),
        (HEAD.replace("\"bk.key\"", "[]") + INTERFACES, ":5:17: no bootstrap key"),
        // Key files.
        (HEAD.replace("\"bk.key\"", "\"none.key\"") + INTERFACES, ":5:17: cannot read "),
        (HEAD.replace("\"bk.key\"", "\"none.key\"") + INTERFACES, "none.key: No such file or directory"),
        (HEAD.replace("\"node.key\"", "\"bk.key\"") + INTERFACES, "bk.key:1: expected the line `gemcast-identity 1`"),
        (HEAD.replace("\"bk.key\"", "\"node.key\"") + INTERFACES, "expected 44 characters of base64 (32 bytes)"),
        // Segments.
        (
            HEAD.to_owned() + &INTERFACES.replace("\"untrusted\"", "\"untrusted\"\nsegment = \"studio\""),
            "segment of an untrusted interface; only LANs have forwarders",
        ),
        (HEAD.to_owned() + &INTERFACES.replace("\"trusted\"", "\"trusted\"\npriority = 7"), "priority without segment"),
        (
            HEAD.to_owned()
                + &INTERFACES.replace("\"trusted\"", "\"trusted\"\nsegment_peers = [\"01:23:45:67:89:ab:cd:ef\"]"),
            "segment_peers without segment",
        ),
        (
            HEAD.to_owned() + &INTERFACES.replace("\"trusted\"", "\"trusted\"\nsegment_peers = [\"studio-2\"]"),
            "\"studio-2\" is no node id; expected one like 01:23:45:67:89:ab:cd:ef",
        ),
        (
            HEAD.to_owned() + &INTERFACES.replace("\"trusted\"", "\"trusted\"\nsegment = \"two words\""),
            "segment \"two words\"; expected a plain word of 1 to 63 bytes",
        ),
        (
            format!("{HEAD}{INTERFACES}[[interface]]\nname = \"lan1\"\nrole = \"trusted\"\nsegment = \"studio\"\n"),
            "interface \"lan1\" is on segment \"studio\" with priority 100, and \"lan0\" on no segment",
        ),
        // Interfaces.
        (HEAD.into(), ":5:25: no interface with role = \"untrusted\""),
        (
            format!("{HEAD}[[interface]]\nname = \"x\"\nrole = \"trusted\"\n{GROUP}"),
            "no interface with role = \"untrusted\"",
        ),
        (
            format!("{HEAD}[[interface]]\nname = \"x\"\nrole = \"untrusted\"\n{GROUP}"),
            "groups, but no interface with role = \"trusted\"",
        ),
        (
            format!("{HEAD}{INTERFACES}[[interface]]\nname = \"wan0\"\nrole = \"untrusted\"\n"),
            ":13:8: interface \"wan0\" is listed twice, first in line 10; remove one",
        ),
        (
            format!("{HEAD}{INTERFACES}[[interface]]\nname = \"wan0\"\nrole = \"trusted\"\n"),
            ":13:8: interface \"wan0\" is both trusted and untrusted (untrusted in line 10)",
        ),
        (
            format!("{HEAD}[[interface]]\nname = \"a-name-far-too-long\"\nrole = \"untrusted\"\n"),
            ":7:8: \"a-name-far-too-long\" is no interface name; expected 1 to 15 characters",
        ),
        // Groups.
        (
            whole(&format!("address = \"10.0.0.1\"\n{sealed}")),
            ":13:11: \"10.0.0.1\" is not a multicast address (expected 224.0.0.0/4 or ff00::/8)",
        ),
        (whole(&format!("address = \"239.1.1\"\n{sealed}")), "\"239.1.1\" is not a group (expected an address like"),
        (whole(&format!("address = \"224.0.0.5\"\n{sealed}")), "link-local multicast address"),
        (
            whole(&format!("address = \"239.1.0.0/16\"\n{sealed}\n[[group]]\naddress = \"239.1.1.1\"\n{sealed}")),
            ":16:11: group 239.1.1.1 overlaps group 239.1.0.0/16; a packet has one rule: remove one",
        ),
        (whole("address = \"239.1.1.1\""), ":12:1: a sealed group without gak; make one with `gemctl key generate gak"),
        (
            whole("address = \"239.1.1.1\"\nprotection = \"none\"\ngak = [{ epoch = 1, file = \"gak1.key\" }]"),
            "gak with protection = \"none\"; remove it",
        ),
        (
            whole("address = \"239.1.1.1\"\nprotection = \"none\"\nsuite = \"aes-256-gcm\""),
            ":15:9: suite with protection = \"none\"",
        ),
        (
            whole(
                "address = \"239.1.1.1\"\n\
                 gak = [{ epoch = 1, file = \"gak1.key\" }, { epoch = 1, file = \"gak2.key\" }]",
            ),
            ":14:52: epoch 1 is listed twice; give each gak its own epoch",
        ),
        (
            whole(
                "address = \"239.1.1.1\"\n\
                 gak = [{ epoch = 1, file = \"gak1.key\" }, { epoch = 2, file = \"gak1.key\" }]",
            ),
            "the same key as epoch 1; make a new one for each epoch",
        ),
        (whole(&format!("address = \"239.1.1.1\"\nports = [0]\n{sealed}")), ":14:10: port 0; expected 1 to 65535"),
        (whole(&format!("address = \"239.1.1.1\"\nports = [7, 7]\n{sealed}")), ":14:13: port 7 is listed twice"),
        (
            whole(&format!("address = \"239.1.1.1\"\nports = {:?}\n{sealed}", (1..=17).collect::<Vec<u16>>())),
            "17 ports; expected at most 16",
        ),
        (
            whole(&format!("address = \"239.1.1.1\"\nsources = [\"239.0.0.1\"]\n{sealed}")),
            ":14:12: source 239.0.0.1 is no unicast address of a sender",
        ),
        (
            whole(&format!("address = \"239.1.1.1\"\nsources = [\"2001:db8::1\"]\n{sealed}")),
            "source 2001:db8::1 is of another family than group 239.1.1.1",
        ),
        (
            whole(&format!("address = \"239.1.1.1\"\nsources = [\"10.1\"]\n{sealed}")),
            "\"10.1\" is no IP address (expected one like 10.0.0.1 or 2001:db8::1)",
        ),
        // Durations.
        (
            format!("{HEAD}{INTERFACES}[resilience]\nhello_interval = \"1 second\"\n"),
            ":13:18: \"1 second\" is no duration (expected a whole number and a unit: \"100ms\"",
        ),
        (format!("{HEAD}{INTERFACES}[resilience]\nhello_interval = 5\n"), "integer `5`, expected a string"),
        (
            format!("{HEAD}{INTERFACES}[resilience]\nhello_interval = \"1ms\"\n"),
            ":13:18: hello_interval of 1ms; expected 10ms to 655.35s",
        ),
        (
            format!("{HEAD}{INTERFACES}[resilience]\ndead_threshold = 1\n"),
            ":13:18: dead_threshold of 1; expected 2 to 15 missed Hellos",
        ),
        (
            format!("{HEAD}{INTERFACES}[resilience]\nremoval_grace = \"2h\"\n"),
            ":13:17: removal_grace of 7200s; expected 0ns to 3600s",
        ),
        (format!("{HEAD}{INTERFACES}[keys]\nsek_lifetime = \"99999999999999999999h\"\n"), "is no duration"),
        (
            format!("{HEAD}{INTERFACES}[keys]\nsek_lifetime = \"20s\"\n"),
            ":13:16: sek_lifetime 20s is shorter than announce_lead 30s and overlap 10s together",
        ),
    ];
    for (text, expected) in cases {
        let refusal = site.refusal(&text);
        assert!(refusal.contains(expected), "{refusal}\nlacks\n{expected}\nfor\n{text}");
        assert!(refusal.starts_with(site.path().to_str().unwrap()), "{refusal} names the file");
        assert!(!refusal.lines().any(|line| line.len() > 400), "{refusal}");
    }
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_file() {
    let site = Site::new();
    let text = format!("{}[[interface]]\nname = \"\"\nrole = \"trusted\"\n{INTERFACES}", HEAD.replace("\"a\"", "\"\""));
    let refusal = site.refusal(&text);
    let lines: Vec<_> = refusal.lines().collect();
    assert_eq!(lines.len(), 2, "{refusal}");
    assert!(lines[0].contains(":2:8: ") && lines[1].contains(":7:8: "), "{refusal}");
}

#[test]
fn a_key_file_open_to_others_is_refused() {
    let site = Site::new();
    fs::set_permissions(site.dir.path().join("gak1.key"), Permissions::from_mode(0o644)).unwrap();
    let refusal = site.refusal(&format!("{HEAD}{INTERFACES}{GROUP}"));
    assert!(refusal.contains(":14:") && refusal.contains("gak1.key has mode 0644"), "{refusal}");
}

#[test]
fn files_that_are_no_text_are_refused() {
    let site = Site::new();
    let load = |path: &std::path::Path| Config::load(path).err().expect("a refusal").to_string();
    assert!(
        load(&site.dir.path().join("none.toml")).contains("none.toml: cannot read the configuration: No such file")
    );
    assert!(load(site.dir.path()).contains("not a regular file"));
    fs::write(site.path(), b"[node]\n\xff\xfe").unwrap();
    assert!(load(&site.path()).contains("not UTF-8 text (line 2)"));
    let file = fs::File::create(site.path()).unwrap();
    file.set_len(5 << 20).unwrap();
    assert!(load(&site.path()).contains("at most 4 MiB"));
}

#[test]
fn a_configuration_in_a_file_finds_its_keys_beside_it() {
    let site = Site::new();
    fs::write(site.path(), format!("{HEAD}{INTERFACES}{GROUP}")).unwrap();
    assert_eq!(Config::load(&site.path()).unwrap().groups.len(), 1);
}

proptest::proptest! {
    /// Whatever stands in the file, the answer is a configuration or lines that name the file.
    #[test]
    fn no_text_panics(text in "(\\[{1,2}(node|group|keys|x)\\]{1,2}|[a-z_]{1,8} ?= ?[0-9\"\\[{,}a-zé]{0,9}|\\n|.){0,30}") {
        let path = std::path::Path::new("/nowhere/gemcast.toml");
        if let Err(errors) = Config::parse(path, &text) {
            assert!(errors.to_string().lines().all(|line| line.starts_with("/nowhere/gemcast.toml")), "{errors}");
        }
    }
}

#[test]
fn babel_has_defaults_and_every_key_of_it_counts() {
    let site = Site::new();
    let config = site.parse(&format!("{HEAD}{INTERFACES}{GROUP}")).unwrap();
    assert!(config.node.transit && config.babel.routes.install && !config.babel.redistribute_connected);
    assert_eq!((config.babel.routes.table, config.babel.routes.metric), (254, 4096));

    let config = site
        .parse(&format!(
            r#"{HEAD}{INTERFACES}{GROUP}
            [babel]
            install_routes = false
            table = 100042
            route_metric = 20
            announce = ["10.1.0.0/24", "2001:db8::/32", "0.0.0.0/0"]
            redistribute_connected = true
            mac = "blake2s"
            ipv4_via_ipv6 = false
            source_specific = false
            unicast_hellos = true
            rtt = {{ min = "10ms", max = "120ms", penalty = 150 }}
            [[babel.filter]]
            direction = "in"
            prefix = "10.0.0.0/8"
            action = "accept"
            [[babel.filter]]
            direction = "in"
            prefix = "0.0.0.0/0"
            action = "refuse"
            [[babel.filter]]
            direction = "out"
            prefix = "fd00::/8"
            action = "refuse"
            "#
        ))
        .unwrap();
    let settings = gemcast_control::routes::Settings { install: false, table: 100_042, metric: 20 };
    assert_eq!(config.babel.routes, settings);
    let connected = ["10.7.0.0/24".parse().unwrap(), "10.1.0.0/24".parse().unwrap()];
    let own: Vec<_> = config.originated(connected.into_iter()).iter().map(|own| own.prefix.to_string()).collect();
    assert_eq!(own, ["0.0.0.0/0", "10.1.0.0/24", "10.7.0.0/24", "2001:db8::/32"], "each once");
    let engine = config.engine().babel;
    assert_eq!((engine.mac, engine.port), (gemcast_engine::config::MacAlgorithm::Blake2s, 6696));
    assert!(!engine.ipv4_via_ipv6 && !engine.source_specific && engine.unicast_hellos);
    assert_eq!(engine.delay.unwrap().penalty, 150);
    let rules: Vec<_> = engine.import.iter().map(|rule| (rule.within.to_string(), rule.accept)).collect();
    assert_eq!(rules, [("10.0.0.0/8".to_owned(), true), ("0.0.0.0/0".to_owned(), false)]);
    assert_eq!((engine.export.len(), engine.export[0].accept), (1, false));
}

#[test]
fn mistakes_about_routes_are_told_with_their_place() {
    let site = Site::new();
    let base = format!("{HEAD}{INTERFACES}{GROUP}[babel]\n");
    let line = base.lines().count() + 1;
    for (text, expected) in [
        (r#"announce = ["10.1.0.1/24"]"#, "\"10.1.0.1/24\" is not a prefix (expected one like 10.0.0.0/8"),
        (r#"announce = ["10.0.0.0/8", "10.0.0.0/8"]"#, "prefix 10.0.0.0/8 is listed twice; remove one"),
        (r#"announce = ["239.0.0.0/8"]"#, "prefix 239.0.0.0/8 is not routable"),
        (r#"announce = ["fe80::/64"]"#, "prefix fe80::/64 is not routable"),
        ("table = 255", "table 255 is not for routes of ours; expected 254 (main), or one of your own"),
        ("route_metric = 0", "route_metric is 0; expected 1 to 4294967295"),
        (r#"rtt = { min = "2s", max = "1s", penalty = 9 }"#, "rtt from 2s to 1s; expected min below max"),
        (r#"mac = "md5""#, "unknown value \"md5\" in [babel]; expected one of hmac-sha256, blake2s"),
        ("instal_routes = true", "unknown key \"instal_routes\" in [babel]; did you mean \"install_routes\"?"),
    ] {
        let refusal = site.refusal(&format!("{base}{text}\n"));
        assert!(refusal.contains(&format!("gemcast.toml:{line}:")) && refusal.contains(expected), "{text}: {refusal}");
    }
    let filter = "[[babel.filter]]\ndirection = \"both\"\nprefix = \"::/0\"\naction = \"accept\"\n";
    let refusal = site.refusal(&format!("{base}{filter}"));
    assert!(refusal.contains("unknown value \"both\" in [[babel.filter]]; expected one of in, out"), "{refusal}");
}

#[test]
fn an_interface_may_be_a_pattern() {
    let text = INTERFACES.replace("\"wan0\"", "\"w?n*\"");
    let config = Site::new().parse(&format!("{HEAD}{text}{GROUP}")).unwrap();
    let [lan, wan] = &config.interfaces[..] else { panic!("two") };
    assert!(!lan.is_pattern() && lan.matches("lan0") && !lan.matches("lan00"));
    assert!(wan.is_pattern());
    assert!(["wan", "wan0", "wxn.100"].iter().all(|name| wan.matches(name)));
    assert!(!["wn0", "lan0", "awan", ""].iter().any(|name| wan.matches(name)));
    let all = gemcast_control::config::Interface { name: "*".into(), ..wan.clone() };
    assert!(all.matches("eth0") && !all.matches("lo"), "a pattern never means the loopback interface");
}

#[test]
fn an_interface_has_settings_and_peers_of_its_own() {
    let site = Site::new();
    let base = format!("{HEAD}{GROUP}{INTERFACES}");
    let link = |text: &str| site.parse(&format!("{base}{text}")).unwrap().interfaces[1].link.clone();
    assert_eq!(link(""), Link::default());
    let full = "hello_interval = \"4s\"\nupdate_interval = \"40s\"\nunicast_hellos = true\nmac = false\n\
                rtt = { min = \"1ms\", max = \"9ms\", penalty = 96 }\npeers = [\"fe80::1\", \"192.0.2.7\", \"2001:db8::7\"]\n";
    let full = link(full);
    assert_eq!(full.hello_interval.zip(full.update_interval), Some((Duration::from_secs(4), Duration::from_secs(40))));
    assert!(full.unauthenticated && full.unicast_hellos == Some(true));
    assert_eq!(full.delay.flatten().map(|delay| delay.penalty), Some(96));
    assert_eq!(full.peers, ["fe80::1", "192.0.2.7", "2001:db8::7"].map(|peer| peer.parse::<IpAddr>().unwrap()));
    assert_eq!(link("rtt = false\n").delay, Some(None));

    let many = (0..65).map(|n| format!("\"10.0.0.{n}\"")).collect::<Vec<_>>().join(", ");
    let wrong = [
        ("peers = [\"x\"]", "\"x\" is no IP address"),
        ("peers = [\"ff02::1:6\"]", "peer ff02::1:6 is no address of another gateway"),
        ("peers = [\"127.0.0.1\"]", "peer 127.0.0.1 is no address of another gateway"),
        ("peers = [\"255.255.255.255\"]", "peer 255.255.255.255 is no address of another gateway"),
        ("peers = [\"::ffff:10.0.0.1\"]", "peer ::ffff:10.0.0.1 is IPv4 in the form of IPv6; write 10.0.0.1"),
        ("peers = [\"10.0.0.1\", \"10.0.0.1\"]", "peer 10.0.0.1 is listed twice; remove one"),
        (&format!("peers = [{many}]"), "more than 64 peers of one interface"),
        ("hello_interval = \"1h\"", "hello_interval of 3600s; expected 10ms to 655.35s"),
        ("rtt = true", "expected false, or a table { min, max, penalty }"),
        ("rtt = { min = \"9ms\", max = \"1ms\", penalty = 1 }", "rtt from 9ms to 1ms; expected min below max"),
        (
            "babel = false\npeers = [\"10.0.0.1\"]",
            "peers of an interface without Babel; set babel = true, or remove it",
        ),
    ];
    for (text, expected) in wrong {
        let refusal = site.refusal(&format!("{base}{text}\n"));
        assert!(refusal.contains(expected), "{text}: {refusal}");
        let line = base.lines().count() + text.lines().count();
        assert!(refusal.contains(&format!("gemcast.toml:{line}:")), "{text}: {refusal}");
    }
}

#[test]
fn the_example_is_valid_as_it_is_and_with_everything_that_it_offers() {
    let site = Site::new();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples/studio.toml");
    let text = fs::read_to_string(example).unwrap();
    let text = text.replace("/etc/gemcast/gak/studio-1.key", "gak1.key").replace("/etc/gemcast/", "");
    assert!(site.parse(&text).unwrap().interfaces[1].link.peers.is_empty());
    let offered = |line: &str| match line.strip_prefix("# ") {
        Some(setting) if setting.starts_with('[') || setting.split(' ').nth(1) == Some("=") => setting.to_owned(),
        _ => line.to_owned(),
    };
    let all: Vec<_> = text.lines().map(offered).collect();
    let config = site.parse(&all.join("\n")).unwrap();
    assert_eq!(config.interfaces[1].link.peers.len(), 3);
}
