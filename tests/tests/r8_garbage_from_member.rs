//! R8: a member of the group sends packets with a right group tag and garbage inside, under another's key. Each costs one
//! AEAD at most; then its source is limited, and what cannot be limited without harm is banned for a while.

mod common;

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{GROUPS, PORT, ip, turn, wait_accounted};
use gemcast_engine::derive;
use gemcast_engine::secret::Secret;
use gemcast_lab::{
    Account, Datagram, Gateway, Host, Lab, Options, PacketSocket, Result, SEALED_PORT, Seconds, Stream, Topology,
};
use gemcast_proto::id::{Counter, Epoch, KeyId, map};
use gemcast_proto::wire::frame::{HEADER_LEN, Header, Kind, TAG_LEN};

/// Garbage a packet.
const CIPHERTEXT: usize = 200;
/// A ban that a test can wait for.
const BAN: &str = "[resilience]\nban_time = \"3s\"";

/// A host on the untrusted segment that holds a member's GAK and makes packets of any key id and source.
struct Forger {
    socket: PacketSocket,
    mac: gemcast_lab::Mac,
    gtag_key: Secret<16>,
    group: IpAddr,
    key_id: KeyId,
    sent: u64,
}

impl Forger {
    fn new(lab: &Lab, observer: Host<'_>, group: &str, key_id: KeyId) -> Result<Self> {
        let file = lab.gateway("b").directory().join("etc").join(format!("gak-{}-1.key", group.replace('.', "-")));
        let text = fs::read_to_string(&file).expect("a member's GAK");
        let gak: [u8; 32] = STANDARD.decode(text.trim()).expect("base64").try_into().expect("32 bytes");
        Ok(Self {
            socket: observer.packet_socket("eth0")?,
            mac: observer.interface().mac,
            gtag_key: derive::gtag_key(&Secret::new(gak), group.parse().expect("a group"), Epoch(1)),
            group: ip(group),
            key_id,
            sent: 0,
        })
    }

    /// Sends so many packets from a source, with counters far ahead of the honest ones.
    fn send(&mut self, source: IpAddr, packets: u64) -> Result<()> {
        for _ in 0..packets {
            self.sent += 1;
            let ctr = Counter::new(0, (1 << 33) + self.sent);
            let mut header = Header { kind: Kind::Native, epoch: Epoch(1), key_id: self.key_id, ctr, gtag: 0 };
            let key = self.gtag_key.expose();
            let half = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| key[at + i]));
            let length = (CIPHERTEXT + TAG_LEN) as u16;
            header.gtag = header.gtag_v4(half(0), half(8), &map(source), &map(self.group), length);
            let mut datagram = Datagram::new(self.mac, source, self.group, SEALED_PORT, Vec::new());
            datagram.source_port = header.source_port();
            datagram.payload = [&header.emit()[..HEADER_LEN], &[0x5a; CIPHERTEXT + TAG_LEN]].concat();
            self.socket.send(&datagram.to_frame())?;
        }
        Ok(())
    }

    /// A burst, then a pause in which the gateways get to it.
    fn burst(&mut self, source: IpAddr, packets: u64) -> Result<()> {
        self.send(source, packets)?;
        std::thread::sleep(Duration::from_millis(2));
        Ok(())
    }
}

fn events(gateway: &Gateway<'_>) -> Result<String> {
    Ok(String::from_utf8_lossy(&gateway.gemctl_output(&["-o", "json", "events"])?.stdout).into_owned())
}

#[test]
fn r8_garbage_is_limited_then_banned_and_the_honest_stream_loses_nothing_before() -> Result<()> {
    let _turn = turn();
    let lab = Lab::up(Topology::pair(), Options::new("t-r8").config(BAN))?;
    let b = lab.gateway("b");
    let group = ip(GROUPS[0]);
    let honest = lab.host("source").address(group);
    let capture = lab.host("observer").capture("eth0")?.start()?;
    let receiver = lab.host("receiver").receive(group, PORT, None)?;
    let stream = Stream::to(group).bits_per_second(2_000_000);
    let sender = lab.host("source").send(stream)?;
    lab.eventually(5.s(), "the stream to arrive", || receiver.delivered() > 10)?;
    let key_id = KeyId(capture.look(|report| *report.keys.keys().next().expect("a key")));
    let mut forger = Forger::new(&lab, lab.host("observer"), GROUPS[0], key_id)?;

    // From an address of its own: limited, and nothing else happens.
    for _ in 0..100 {
        forger.burst(ip("10.99.0.1"), 50)?;
    }
    let of_garbage = |wan: &gemcast_lab::Interface| {
        (wan.dropped_for("aead"), wan.dropped_for("aead_limited"), wan.dropped_for("ring_full"))
    };
    lab.eventually(5.s(), "the garbage to be counted", || {
        b.interface("wan0").is_ok_and(|wan| {
            let (failed, limited, lost) = of_garbage(&wan);
            failed + limited + lost >= forger.sent
        })
    })?;
    let (failed, limited, _) = of_garbage(&b.interface("wan0")?);
    // 512 at once, 64 a second from then on, for as long as this took at the most.
    assert!((512..512 + 64 * 60).contains(&failed) && limited > 0, "{failed} tried, {limited} not");
    assert_eq!(b.interface("wan0")?.dropped_for("banned"), 0, "a ban would hit the honest source");

    // In the honest source's own name: let through to the AEAD, until that is too much.
    let mut banned = false;
    for _ in 0..400 {
        // Faster than the AEADs that a known source has for each second, also where asking takes long.
        for _ in 0..20 {
            forger.burst(honest, 60)?;
        }
        banned = events(&b)?.contains("\"name\":\"source_banned\"");
        if banned {
            break;
        }
    }
    assert!(banned, "{}", events(&b)?);
    assert!(b.gemctl(&["status"])?["problems"].to_string().contains("source_banned"));
    lab.eventually(5.s(), "packets to be dropped in XDP", || {
        b.interface("wan0").is_ok_and(|wan| wan.dropped_for("banned") > 0)
    })?;

    // The ban ends by itself.
    lab.eventually(10.s(), "the ban to end", || {
        events(&b).is_ok_and(|events| events.contains("\"name\":\"ban_ended\""))
    })?;
    let delivered = receiver.delivered();
    lab.eventually(5.s(), "the stream to arrive again", || receiver.delivered() > delivered + 10)?;
    let sent = sender.stop();
    let received = receiver.finish(200.ms()).stream(1);
    wait_accounted(&lab)?;
    let wan = b.interface("wan0")?;
    let account = Account::of(&sent, &received, &[]);
    // Every packet that was not delivered met the ban: no other reason took one of the honest stream's.
    let (failed, limited, lost) = of_garbage(&wan);
    let garbage_banned = forger.sent - failed - limited - lost;
    assert_eq!(account.lost, wan.dropped_for("banned") - garbage_banned, "{account:?} {wan:?}");
    assert!(account.lost > 0, "{account:?}");
    assert_eq!((lost, account.duplicated), (0, 0), "{account:?} {wan:?}");
    Ok(())
}
