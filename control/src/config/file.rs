//! The configuration file as it is written: one type per table, every value with its place in the text.
//!
//! Nothing here is checked beyond its syntax; [`super`] turns these types into a checked [`super::Config`].

use gemcast_proto::id::NodeId;
use gemcast_proto::wire::babel::Prefix;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Unexpected, Visitor};
use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use toml::Spanned;

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) node: Node,
    pub(super) domain: Domain,
    #[serde(default)]
    pub(super) interface: Vec<Spanned<Interface>>,
    #[serde(default)]
    pub(super) group: Vec<Spanned<Group>>,
    #[serde(default)]
    pub(super) resilience: Resilience,
    #[serde(default)]
    pub(super) keys: Keys,
    #[serde(default)]
    pub(super) policy: Policy,
    #[serde(default)]
    pub(super) babel: Babel,
}

/// `[node]`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Node {
    pub(super) name: Spanned<String>,
    pub(super) identity: Spanned<PathBuf>,
    pub(super) backup_identity: Option<Spanned<PathBuf>>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) run_dir: Option<PathBuf>,
    pub(super) instance: Option<Spanned<String>>,
    #[serde(default = "yes")]
    pub(super) transit: bool,
}

/// `[domain]`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Domain {
    pub(super) bootstrap_key: Spanned<OneOrMany<PathBuf>>,
    pub(super) kmg: Option<Spanned<OneOrMany<String>>>,
    #[serde(default)]
    pub(super) membership: Membership,
    pub(super) babel_port: Option<Spanned<u16>>,
    pub(super) port: Option<Spanned<u16>>,
}

/// Value of `membership`.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Default)]
#[serde(rename_all = "lowercase")]
pub(super) enum Membership {
    #[default]
    Open,
    Roster,
}

/// `[[interface]]`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Interface {
    pub(super) name: Spanned<String>,
    pub(super) role: super::Role,
    pub(super) segment: Option<Spanned<String>>,
    pub(super) priority: Option<Spanned<u8>>,
    #[serde(default)]
    pub(super) segment_peers: Vec<Spanned<Parsed<NodeId>>>,
    pub(super) babel: Option<bool>,
    pub(super) wireless: Option<bool>,
    pub(super) hello_interval: Option<Spanned<Parsed<Span>>>,
    pub(super) update_interval: Option<Spanned<Parsed<Span>>>,
    pub(super) unicast_hellos: Option<Spanned<bool>>,
    pub(super) rtt: Option<Spanned<RoundTripOrNot>>,
    pub(super) mac: Option<Spanned<bool>>,
    #[serde(default)]
    pub(super) peers: Vec<Spanned<Parsed<Address>>>,
}

/// `[[group]]`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Group {
    pub(super) address: Spanned<Parsed<gemcast_proto::id::Group>>,
    #[serde(default)]
    pub(super) ports: Vec<Spanned<u16>>,
    #[serde(default)]
    pub(super) sources: Vec<Spanned<Parsed<Address>>>,
    #[serde(default)]
    pub(super) protection: Protection,
    pub(super) suite: Option<Spanned<Suite>>,
    #[serde(default)]
    pub(super) gak: Vec<Spanned<Gak>>,
    #[serde(default = "yes")]
    pub(super) send: bool,
    #[serde(default = "yes")]
    pub(super) receive: bool,
}

/// One entry of `gak`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Gak {
    pub(super) epoch: Spanned<u16>,
    pub(super) file: Spanned<PathBuf>,
}

/// `[resilience]`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resilience {
    pub(super) hello_interval: Option<Spanned<Parsed<Span>>>,
    pub(super) update_interval: Option<Spanned<Parsed<Span>>>,
    pub(super) dead_threshold: Option<Spanned<u8>>,
    pub(super) removal_grace: Option<Spanned<Parsed<Span>>>,
    #[serde(default = "yes")]
    pub(super) flap_damping: bool,
    pub(super) ban_time: Option<Spanned<Parsed<Span>>>,
}

impl Default for Resilience {
    fn default() -> Self {
        Self {
            hello_interval: None,
            update_interval: None,
            dead_threshold: None,
            removal_grace: None,
            flap_damping: true,
            ban_time: None,
        }
    }
}

/// `[keys]`
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    pub(super) sek_lifetime: Option<Spanned<Parsed<Span>>>,
    pub(super) announce_lead: Option<Spanned<Parsed<Span>>>,
    pub(super) overlap: Option<Spanned<Parsed<Span>>>,
}

/// `[policy]`
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Policy {
    #[serde(default)]
    pub(super) share_bans: bool,
    pub(super) obey_votes: Option<bool>,
}

/// `[babel]`
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Babel {
    pub(super) install_routes: bool,
    pub(super) table: Option<Spanned<u32>>,
    pub(super) route_metric: Option<Spanned<u32>>,
    pub(super) announce: Vec<Spanned<Parsed<Prefix>>>,
    pub(super) redistribute_connected: bool,
    pub(super) mac: Mac,
    pub(super) ipv4_via_ipv6: bool,
    pub(super) source_specific: bool,
    pub(super) unicast_hellos: bool,
    pub(super) rtt: Option<Spanned<RoundTrip>>,
    pub(super) filter: Vec<Filter>,
}

impl Default for Babel {
    fn default() -> Self {
        Self {
            install_routes: true,
            table: None,
            route_metric: None,
            announce: Vec::new(),
            redistribute_connected: false,
            mac: Mac::default(),
            ipv4_via_ipv6: true,
            source_specific: true,
            unicast_hellos: false,
            rtt: None,
            filter: Vec::new(),
        }
    }
}

/// Value of `rtt`.
#[derive(Deserialize, Clone, Copy)]
#[serde(deny_unknown_fields)]
pub(super) struct RoundTrip {
    pub(super) min: Parsed<Span>,
    pub(super) max: Parsed<Span>,
    pub(super) penalty: u16,
}

/// Value of `rtt` of an interface: that of the `babel` table, or `false` to have none.
pub(super) struct RoundTripOrNot(pub(super) Option<RoundTrip>);

impl<'de> Deserialize<'de> for RoundTripOrNot {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = RoundTripOrNot;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("false, or a table { min, max, penalty }")
            }

            fn visit_bool<E: de::Error>(self, on: bool) -> Result<Self::Value, E> {
                let off = (!on).then_some(RoundTripOrNot(None));
                off.ok_or_else(|| E::invalid_value(Unexpected::Bool(on), &self))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                RoundTrip::deserialize(MapAccessDeserializer::new(map)).map(Some).map(RoundTripOrNot)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

/// `[[babel.filter]]`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    pub(super) direction: Direction,
    pub(super) prefix: Parsed<Prefix>,
    pub(super) action: Action,
}

/// Value of `direction`.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Direction {
    In,
    Out,
}

/// Value of `action`.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Action {
    Accept,
    Refuse,
}

/// Value of `mac`.
#[derive(Deserialize, Default, Clone, Copy)]
pub(super) enum Mac {
    #[default]
    #[serde(rename = "hmac-sha256")]
    HmacSha256,
    #[serde(rename = "blake2s")]
    Blake2s,
}

/// Value of `protection`; left out, a group is sealed.
#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Protection {
    None,
    #[default]
    Sealed,
}

/// Value of `suite`.
#[derive(Deserialize, Clone, Copy)]
pub(super) enum Suite {
    #[serde(rename = "aes-256-gcm")]
    Aes256Gcm,
    #[serde(rename = "chacha20-poly1305")]
    ChaCha20Poly1305,
}

fn yes() -> bool {
    true
}

/// A string that says a `T`.
#[derive(Clone, Copy)]
pub(super) struct Parsed<T>(pub(super) T);

impl<'de, T> Deserialize<'de> for Parsed<T>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text<T>(PhantomData<T>);

        impl<T> Visitor<'_> for Text<T>
        where
            T: FromStr,
            T::Err: fmt::Display,
        {
            type Value = Parsed<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                text.parse().map(Parsed).map_err(|error| E::custom(format_args!("\"{text}\" is {error}")))
            }
        }

        deserializer.deserialize_str(Text(PhantomData))
    }
}

/// An IP address, with an error that says more than the standard library's.
#[derive(Clone, Copy)]
pub(super) struct Address(pub(super) IpAddr);

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self).map_err(|_| "no IP address (expected one like 10.0.0.1 or 2001:db8::1)")
    }
}

/// A length of time: a whole number and a unit, `100ms`, `1s`, `5m`, `1h`.
#[derive(Clone, Copy)]
pub(super) struct Span(pub(super) Duration);

impl FromStr for Span {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "no duration (expected a whole number and a unit: \"100ms\", \"1s\", \"5m\", \"1h\")";
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let factor = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(EXPECTED),
        };
        let number: u64 = number.parse().map_err(|_| EXPECTED)?;
        number.checked_mul(factor).map(Duration::from_millis).map(Self).ok_or(EXPECTED)
    }
}

/// One value, or a list of them.
pub(super) struct OneOrMany<T>(pub(super) Vec<T>);

impl<'de, T: From<String> + Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);

        impl<'de, T: From<String> + Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, or a list of strings")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(OneOrMany(vec![T::from(text.to_owned())]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = list.next_element()? {
                    values.push(value);
                }
                Ok(OneOrMany(values))
            }
        }

        deserializer.deserialize_any(Either(PhantomData))
    }
}
