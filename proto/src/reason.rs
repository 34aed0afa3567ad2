//! Why a frame was not forwarded. One table gives each reason its variant, its name in counters, the place that
//! decides it and its line in the documentation.
//!
//! Every frame that reaches the XDP program ends in exactly one of: passed to the kernel (a pass reason), dropped (a
//! drop reason), or redirected to a worker; every redirected frame ends forwarded or dropped for one reason. So, per
//! interface and exactly: received = passed + forwarded + Σ drops (+ frames held for a key, and in flight).

/// Who decides a reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// The XDP program; the frame goes on to the kernel's own stack.
    Pass,
    /// The XDP program; the frame ends there.
    Xdp,
    /// The kernel, between the XDP program and the worker.
    Ring,
    /// The worker.
    Worker,
}

macro_rules! reasons {
    ($($variant:ident = $value:literal, $name:literal, $stage:ident, $doc:literal;)*) => {
        /// Why a frame was passed to the kernel or dropped.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Reason {
            $(#[doc = $doc] $variant = $value,)*
        }

        impl Reason {
            /// Every reason, in the order of their values.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Name in counters, metrics and messages.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Who decides it.
            pub const fn stage(self) -> Stage {
                match self { $(Self::$variant => Stage::$stage,)* }
            }

            /// One line for people.
            pub const fn describe(self) -> &'static str {
                match self { $(Self::$variant => $doc.trim_ascii(),)* }
            }
        }
    };
}

reasons! {
    NotIp = 0, "not_ip", Pass, "Not IPv4 or IPv6: ARP and the like.";
    NotMulticast = 1, "not_multicast", Pass, "Unicast or broadcast.";
    LinkLocal = 2, "link_local", Pass, "A link-local group, which never leaves its link: IGMP, MLD, ND, Babel, OSPF.";
    NotUdp = 3, "not_udp", Pass, "Multicast, but not UDP: IGMP, PIM and the like.";
    Vlan = 4, "vlan", Pass, "VLAN-tagged: belongs to the VLAN's own interface.";
    NoFlow = 5, "no_flow", Pass, "A group that is not configured.";
    OtherPort = 6, "other_port", Pass, "A configured group, but a destination port outside its ports.";
    OtherSource = 7, "other_source", Xdp, "A configured group, but a source outside its sources.";
    Truncated = 8, "truncated", Xdp, "Shorter than its headers say.";
    BadLength = 9, "bad_length", Xdp, "IP and UDP lengths contradict each other.";
    BadIpHeader = 10, "bad_ip_header", Xdp, "Wrong IP version, header length or IPv4 header checksum.";
    Fragment = 11, "fragment", Xdp, "An IP fragment: groups that are forwarded must fit the MTU.";
    IpOptions = 12, "ip_options", Xdp, "IPv4 options or IPv6 extension headers.";
    TtlExpired = 13, "ttl_expired", Xdp, "TTL or hop limit of 1 or less: the sender meant it for its own link.";
    NotSending = 14, "not_sending", Xdp, "From the trusted side, but this gateway does not send the group.";
    NotReceiving = 15, "not_receiving", Xdp, "From the untrusted side, but this gateway does not receive the group.";
    SealedOnTrusted = 16, "sealed_on_trusted", Xdp, "A sealed packet on a trusted interface.";
    ClearOnUntrusted = 17, "clear_on_untrusted", Xdp, "A sealed group in the clear on an untrusted interface.";
    Version = 18, "version", Xdp, "A sealed packet of another version.";
    Kind = 19, "kind", Xdp, "A sealed packet of an unknown type.";
    Flags = 20, "flags", Xdp, "A sealed packet with a flag this version does not know.";
    UnknownEpoch = 21, "unknown_epoch", Xdp, "A GAK epoch this gateway has no key for.";
    Gtag = 22, "gtag", Xdp, "The group tag is wrong: forged, or sealed under another GAK.";
    Banned = 23, "banned", Xdp, "The key id is banned.";
    NoRoom = 24, "no_room", Xdp, "The driver leaves too little headroom to grow the frame.";
    NoWorker = 25, "no_worker", Xdp, "No worker serves this receive queue.";
    RingFull = 26, "ring_full", Ring, "The worker did not keep up: receive ring full or no frame to receive into.";
    StaleFlow = 27, "stale_flow", Worker, "The flow changed while the frame was on its way to the worker.";
    NoSealKey = 28, "no_seal_key", Worker, "No valid key to seal with; cleartext never leaves instead.";
    CounterExhausted = 29, "counter_exhausted", Worker, "The key has sealed all it may; a new one is due.";
    KeyQueueFull = 30, "key_queue_full", Worker, "The key is unknown and the queue of packets waiting for keys is full.";
    KeyTimeout = 31, "key_timeout", Worker, "The key did not arrive while the packet waited for it.";
    WrongGroup = 32, "wrong_group", Worker, "The key belongs to another group or epoch than the packet claims.";
    SourcePort = 33, "source_port", Worker, "The outer source port is not the one its key and lane give.";
    Replay = 34, "replay", Worker, "Received before.";
    TooOld = 35, "too_old", Worker, "Older than the replay window.";
    Aead = 36, "aead", Worker, "Decryption failed: altered on the way, or forged by a group member.";
    InnerTooShort = 37, "inner_too_short", Worker, "The decrypted packet is shorter than its header.";
    NoEgress = 38, "no_egress", Worker, "No interface to send to, or none that is up.";
    MtuExceeded = 39, "mtu_exceeded", Worker, "Larger than the MTU of every interface it should leave by.";
    NoFrame = 40, "no_frame", Worker, "No free frame to send with.";
    TxRingFull = 41, "tx_ring_full", Worker, "The transmit ring stayed full: the interface does not keep up.";
    OwnKey = 42, "own_key", Worker, "Sealed under a key of this gateway: its own packet came back, or its key id is misused.";
    InnerPort = 43, "inner_port", Worker, "Decrypted, but to a destination port outside the group's ports.";
    KeyExpired = 44, "key_expired", Worker, "The key's validity is over.";
    NotOnPath = 45, "not_on_path", Xdp, "Sealed, not for this gateway, and not from the interface of the route to its origin.";
    AeadLimited = 46, "aead_limited", Worker, "Not decrypted: too many packets of this source, or of strangers, under this key did not decrypt.";
    KeyRetired = 47, "key_retired", Worker, "Sealed under a key that is over and was wiped: a straggler or a replay.";
    NotForwarder = 48, "not_forwarder", Xdp, "Another gateway forwards this group on this LAN; this one stands by.";
    FromGateway = 49, "from_gateway", Xdp, "From a trusted interface, but delivered there by another gateway: sealed again, it would loop.";
}

impl Reason {
    /// Number of reasons.
    pub const COUNT: usize = Self::ALL.len();

    /// Whether the frame ends here rather than going on to the kernel's stack.
    pub const fn is_drop(self) -> bool {
        !matches!(self.stage(), Stage::Pass)
    }
}

// Values are indices into counter arrays.
const _: () = {
    let mut i = 0;
    while i < Reason::COUNT {
        assert!(Reason::ALL[i] as usize == i, "reasons are numbered without gaps");
        i += 1;
    }
};
