//! What a gateway of the lab is configured with: groups, keys, the configuration file.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io::{Read, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::topology::{Role, Topology};

/// How a group travels over untrusted segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protection {
    /// Encrypted.
    #[default]
    Sealed,
    /// As it is.
    None,
}

/// AEAD of a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Suite {
    /// AES-256-GCM.
    #[default]
    #[serde(rename = "aes-256-gcm")]
    Aes256Gcm,
    /// ChaCha20-Poly1305.
    #[serde(rename = "chacha20-poly1305")]
    Chacha20Poly1305,
}

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "aes-256-gcm",
            Self::Chacha20Poly1305 => "chacha20-poly1305",
        }
    }
}

/// A group the gateways carry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Group {
    /// Address or prefix.
    pub address: String,
    /// Its destination ports; all when empty.
    pub ports: Vec<u16>,
    /// Its sources; any when empty.
    pub sources: Vec<IpAddr>,
    /// How it travels.
    pub protection: Protection,
    /// With which AEAD.
    pub suite: Suite,
    /// Epochs of its group key.
    pub epochs: Vec<u16>,
    /// The gateways that have it; every one when absent.
    pub members: Option<Vec<String>>,
}

impl Group {
    /// A sealed group that every gateway is a member of.
    pub fn new(address: &str) -> Self {
        Self {
            address: address.into(),
            ports: Vec::new(),
            sources: Vec::new(),
            protection: Protection::Sealed,
            suite: Suite::default(),
            epochs: vec![1],
            members: None,
        }
    }

    /// Only these gateways are members.
    #[must_use]
    pub fn members(mut self, members: &[&str]) -> Self {
        self.members = Some(members.iter().map(|name| (*name).into()).collect());
        self
    }

    /// Only these destination ports.
    #[must_use]
    pub fn ports(mut self, ports: &[u16]) -> Self {
        self.ports = ports.into();
        self
    }

    /// Only these sources.
    #[must_use]
    pub fn sources(mut self, sources: &[IpAddr]) -> Self {
        self.sources = sources.into();
        self
    }

    /// With this AEAD.
    #[must_use]
    pub fn suite(mut self, suite: Suite) -> Self {
        self.suite = suite;
        self
    }

    /// Relayed in the clear.
    #[must_use]
    pub fn unprotected(mut self) -> Self {
        self.protection = Protection::None;
        self.epochs.clear();
        self
    }

    /// Whether the gateway is a member.
    pub fn has_member(&self, gateway: &str) -> bool {
        self.members.as_ref().is_none_or(|members| members.iter().any(|name| name == gateway))
    }

    /// Whether the gateway seals or opens it.
    pub(crate) fn is_sealed_for(&self, gateway: &str) -> bool {
        self.protection == Protection::Sealed && self.has_member(gateway)
    }

    fn key_name(&self, epoch: u16) -> String {
        let address: String = self.address.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        format!("gak-{address}-{epoch}.key")
    }
}

/// A secret of the form the daemons read: 32 random bytes in base64, for the owner only.
pub(crate) fn write_key(path: &Path) -> Result<()> {
    let mut bytes = [0; 32];
    fs::File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut bytes))
        .map_err(Error::io("/dev/urandom"))?;
    write_secret(path, &format!("{}\n", STANDARD.encode(bytes)))
}

fn write_secret(path: &Path, text: &str) -> Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(Error::file(path))
}

/// Makes the bootstrap key and every group key of the lab in `keys`.
pub(crate) fn write_domain_keys(keys: &Path, groups: &[Group]) -> Result<()> {
    fs::create_dir_all(keys).map_err(Error::file(keys))?;
    write_key(&keys.join("bk.key"))?;
    for group in groups {
        for epoch in &group.epochs {
            write_key(&keys.join(group.key_name(*epoch)))?;
        }
    }
    Ok(())
}

/// What a test adds to the configuration: lines of `[node]` and of interfaces, and whole sections.
pub(crate) struct Extra<'a> {
    pub(crate) node: &'a str,
    /// By gateway and interface.
    pub(crate) interfaces: &'a BTreeMap<(String, String), String>,
    pub(crate) sections: &'a str,
}

/// Gives a gateway its configuration and the keys that it may have. Its node key is made by `gemctl`.
pub(crate) fn write_gateway(
    topology: &Topology,
    name: &str,
    groups: &[Group],
    extra: Extra<'_>,
    keys: &Path,
    directory: &Path,
) -> Result<()> {
    let etc = directory.join("etc");
    for path in [&etc, &directory.join("run"), &directory.join("state")] {
        fs::create_dir_all(path).map_err(Error::file(path))?;
    }
    let give = |file: &str| -> Result<PathBuf> {
        let (from, to) = (keys.join(file), etc.join(file));
        fs::copy(&from, &to).map_err(Error::file(&from))?;
        Ok(to)
    };
    let mut text = String::new();
    let mut line = |line: String| writeln!(text, "{line}").expect("a String takes everything");
    line("[node]".into());
    line(format!("name = {name:?}"));
    line(format!("identity = {:?}", etc.join("node.key")));
    line(format!("state_dir = {:?}", directory.join("state")));
    line(format!("run_dir = {:?}", directory.join("run")));
    line(extra.node.into());
    line("[domain]".into());
    line(format!("bootstrap_key = {:?}", give("bk.key")?));
    for place in topology.attachments(name) {
        let role = match place.segment.role {
            Role::Trusted => "trusted",
            Role::Untrusted => "untrusted",
        };
        let own = extra.interfaces.get(&(name.to_owned(), place.interface.clone())).map_or("", String::as_str);
        line(format!("\n[[interface]]\nname = {:?}\nrole = {role:?}", place.interface));
        if !own.is_empty() {
            line(own.into());
        }
    }
    for group in groups.iter().filter(|group| group.has_member(name)) {
        line(format!("\n[[group]]\naddress = {:?}", group.address));
        if !group.ports.is_empty() {
            line(format!("ports = {:?}", group.ports));
        }
        if !group.sources.is_empty() {
            let sources: Vec<_> = group.sources.iter().map(ToString::to_string).collect();
            line(format!("sources = {sources:?}"));
        }
        if group.protection == Protection::None {
            line("protection = \"none\"".into());
        } else {
            let gak: Result<Vec<_>> = group
                .epochs
                .iter()
                .map(|epoch| Ok(format!("{{ epoch = {epoch}, file = {:?} }}", give(&group.key_name(*epoch))?)))
                .collect();
            line(format!("protection = \"sealed\"\nsuite = {:?}", group.suite.name()));
            line(format!("gak = [{}]", gak?.join(", ")));
        }
    }
    line(format!("\n{}", extra.sections.trim()));
    let path = etc.join("gemcast.toml");
    fs::write(&path, text).map_err(Error::file(&path))
}
