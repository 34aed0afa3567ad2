//! The administrator's work: a key pair, packages of group keys, revocations, the roster. All of it offline, into files
//! that any gateway can be given; `inject` is the one that talks to a daemon.

use super::{Exit, Failure, client};
use crate::bundle;
use crate::keyfile::{self, parse_public_key, public_fingerprint, public_key_text};
use gemcast_engine::kmg::{self, Administrator, Member, Package};
use gemcast_engine::time::UnixMillis;
use gemcast_proto::api::{self, request, response};
use gemcast_proto::id::{Epoch, Group, NodeId};
use gemcast_proto::wire::gem::kmg::{PackagePayload, Rights, RosterPayload, SharePayload, SuccessorPayload};
use gemcast_proto::wire::gem::{MAX_NAME_LEN, NodePayload, Object, ObjectKind, SekPayload, is_plain_name};
use serde::Serialize;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Objects in one request to the daemon.
const INJECT_BATCH: usize = 2_000;
/// First word of a line that describes a node.
const MEMBER: &str = "gemcast-node";

/// What to do in which order, below the help of `gemctl kmg`.
pub const WALK: &str = "\
Once:
  gemctl kmg init --out kmg                          the administrator's key; kmg.key stays offline
  kmg = \"…\" in [domain] of every gateway, then systemctl reload gemcastd@…
  gemctl node export > members                       on any gateway; check with `gemctl key fingerprint`
A new group key, without an outage:
  gemctl group list                                  tells the epoch in use
  gemctl kmg package --key kmg/kmg.key --members members --group 239.1.1.1 --epoch 2 \\
      --activate-at \"in 5m\" --out 2.gem
  gemctl kmg inspect 2.gem
  gemctl kmg inject 2.gem                            on any one gateway
A gateway was stolen:
  gemctl kmg package … --epoch 3 --emergency --without NAME --out 3.gem
  gemctl kmg revoke --key kmg/kmg.key NODE-ID --out revoke.gem
  gemctl kmg inject 3.gem; gemctl kmg inject revoke.gem
  and replace the bootstrap key, which it holds, too";

/// `gemctl kmg …`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Make the administrator's key pair: DIR/kmg.key, to be kept offline, and DIR/kmg.pub for every gateway's configuration
    Init {
        /// Directory, made if absent
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Make a group key and encrypt it to each member; who is left out loses the group
    ///
    /// The file holds nothing secret in the clear. Every member changes to the key at the same time; the epochs before are
    /// accepted for the gateways' `overlap` and 30 s more.
    Package {
        /// Whose work it is and where it goes
        #[command(flatten)]
        signer: Signer,
        /// The group as the gateways have it configured: 239.1.1.1, or a prefix
        #[arg(long)]
        group: Group,
        /// Number of the new key, one more than `gemctl group list` shows; four epochs of a group are kept beside each other
        #[arg(long)]
        epoch: u16,
        /// When the members change to it: "in 5m", or "2027-01-31T12:00:00Z"
        #[arg(long, value_name = "TIME", required_unless_present = "emergency")]
        activate_at: Option<Time>,
        /// Change at once (after 2 s) and accept the epochs before for 4 s only
        #[arg(long, conflicts_with = "activate_at")]
        emergency: bool,
        /// Files of nodes, as `gemctl node export` prints them
        #[arg(long, value_name = "FILE", required = true)]
        members: Vec<PathBuf>,
        /// Of these nodes, only those of this name or node id; repeatable
        #[arg(long, value_name = "NODE")]
        only: Vec<String>,
        /// Of these nodes, not those of this name or node id, which lose the group; repeatable
        #[arg(long, value_name = "NODE")]
        without: Vec<String>,
        /// Take the group key from this file instead of a new one
        #[arg(long, value_name = "FILE")]
        gak: Option<PathBuf>,
    },
    /// Cut a node off: everything it signed is dropped, its packets are neither opened nor relayed
    ///
    /// It still holds the group keys it was given: make a package without it, too.
    Revoke {
        /// Whose work it is and where it goes
        #[command(flatten)]
        signer: Signer,
        /// Its node id as `gemctl node list` shows it
        node: Id,
        /// Take the revocation back
        #[arg(long)]
        withdraw: bool,
    },
    /// List nodes that may take part, for gateways with membership = "roster" in `[domain]`
    ///
    /// With membership = "open", the default, everyone may whose keys open; then a roster changes nothing.
    Roster {
        /// Whose work it is and where it goes
        #[command(flatten)]
        signer: Signer,
        /// Files of nodes, as `gemctl node export` prints them
        #[arg(long, value_name = "FILE", required = true)]
        members: Vec<PathBuf>,
        /// Of these nodes, only those of this name or node id; repeatable
        #[arg(long, value_name = "NODE")]
        only: Vec<String>,
        /// What they may do
        #[arg(long, value_enum, value_delimiter = ',', default_value = "send,receive,relay")]
        rights: Vec<Right>,
        /// Take them off the list
        #[arg(long, conflicts_with = "rights")]
        withdraw: bool,
    },
    /// Show what is in a file of objects, and whether its signatures hold
    Inspect {
        /// The file
        file: PathBuf,
    },
    /// Give a file to the running gateway, from which it spreads to all others
    ///
    /// Refused where the administrator's public key is not in `kmg` of `[domain]`, and while the epoch in force would have to
    /// make room: its number and the new one's differ by four, eight, and so on. Giving a file twice does no harm.
    Inject {
        /// The file
        file: PathBuf,
    },
}

/// Whose work it is and where it goes.
#[derive(clap::Args)]
pub struct Signer {
    /// The administrator's key file
    #[arg(long, value_name = "FILE", default_value = "kmg.key")]
    key: PathBuf,
    /// The file to make, which must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// What a listed node may do.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Right {
    /// Its keys are accepted
    Send,
    /// It may open what others send
    Receive,
    /// It may relay
    Relay,
}

/// A node id on the command line.
#[derive(Clone, Copy)]
pub struct Id(NodeId);

impl std::str::FromStr for Id {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse()
            .map(Self)
            .map_err(|_| "expected a node id like 01:23:45:67:89:ab:cd:ef; `gemctl node list` shows them")
    }
}

/// A time on the command line.
#[derive(Clone, Copy)]
pub enum Time {
    /// From now.
    In(Duration),
    /// Unix milliseconds.
    At(u64),
}

impl std::str::FromStr for Time {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected a time from now like \"in 5m\", or one like \"2027-01-31T12:00:00Z\"";
        if text == "now" {
            return Ok(Self::In(Duration::ZERO));
        }
        if let Ok(span) = crate::config::duration(text.strip_prefix("in ").unwrap_or(text)) {
            return Ok(Self::In(span));
        }
        super::text::parse_time(text).map(Self::At).ok_or(EXPECTED)
    }
}

impl Time {
    fn at(self) -> UnixMillis {
        match self {
            Self::In(span) => now() + span,
            Self::At(at_ms) => UnixMillis(at_ms),
        }
    }
}

/// A file that was made, or looked into.
#[derive(Serialize)]
pub struct Objects {
    file: String,
    /// Whether every object is signed by its origin.
    valid: bool,
    objects: Vec<Described>,
}

/// One object in words.
#[derive(Serialize)]
struct Described {
    kind: String,
    origin: String,
    version: u64,
    what: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    wrong: Option<String>,
}

impl Objects {
    fn of(file: &Path, bodies: &[Vec<u8>]) -> Self {
        let checked = kmg::check(now(), bodies);
        let objects: Vec<_> = bodies.iter().zip(checked).map(|(body, checked)| describe(body, checked.err())).collect();
        let valid = objects.iter().all(|object| object.wrong.is_none());
        Self { file: file.display().to_string(), valid, objects }
    }

    /// Whether all is as it should be.
    pub fn exit(&self) -> Exit {
        if self.valid { Exit::Healthy } else { Exit::Error }
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!("{}: {} objects\n", self.file, self.objects.len());
        for object in &self.objects {
            let wrong = object.wrong.as_ref().map(|why| format!("  REFUSED: {why}")).unwrap_or_default();
            writeln!(text, "  {:<12}{}{wrong}", object.kind, object.what).expect("a String grows");
        }
        text
    }
}

fn describe(body: &[u8], wrong: Option<String>) -> Described {
    let Ok(object) = Object::parse(body) else {
        let (kind, origin, what) = ("?".into(), String::new(), "not an object".to_owned());
        return Described { kind, origin, version: 0, what, wrong };
    };
    let (header, payload) = (object.header, object.payload);
    let node_of_slot = NodeId(header.name.id.to_be_bytes());
    let what = match header.name.kind {
        ObjectKind::REVOKE | ObjectKind::ROSTER if header.tombstone => format!("withdrawn: node {node_of_slot}"),
        _ if header.tombstone => "withdrawn".into(),
        ObjectKind::NODE => NodePayload::parse(payload).map_or_else(
            |e| e.to_string(),
            |node| {
                let role = if node.agreement_key == [0; 32] { "administrator" } else { "node" };
                format!(
                    "{role} \"{}\" {}, fingerprint {}",
                    node.name,
                    header.name.origin,
                    public_fingerprint(&node.signing_key)
                )
            },
        ),
        ObjectKind::GAK_PACKAGE => PackagePayload::parse(payload).map_or_else(
            |e| e.to_string(),
            |package| {
                let how = if package.emergency { ", emergency" } else { "" };
                let at = super::text::time(package.activate_at_ms);
                format!("group {} epoch {}, {} shares, from {at}{how}", package.group, package.epoch, package.shares)
            },
        ),
        ObjectKind::GAK_SHARE => SharePayload::parse(payload).map_or_else(
            |e| e.to_string(),
            |share| format!("group {} epoch {} for node {}", share.group, share.epoch, share.member),
        ),
        ObjectKind::REVOKE => format!("node {node_of_slot} is cut off"),
        ObjectKind::ROSTER => RosterPayload::parse(payload).map_or_else(
            |e| e.to_string(),
            |entry| format!("node {} \"{}\" may {}", entry.node, entry.name, rights_text(entry.rights)),
        ),
        ObjectKind::SUCCESSOR => SuccessorPayload::parse(payload).map_or_else(
            |e| e.to_string(),
            |successor| {
                format!(
                    "node {} is followed by the holder of {}",
                    header.name.origin,
                    public_fingerprint(&successor.signing_key)
                )
            },
        ),
        ObjectKind::SEK => SekPayload::parse(payload).map_or_else(
            |e| e.to_string(),
            |sek| format!("key {} of group {} epoch {}", sek.key_id, sek.group, sek.epoch),
        ),
        _ => format!("{} bytes", payload.len()),
    };
    let (kind, origin) = (header.name.kind.to_string(), header.name.origin.to_string());
    Described { kind, origin, version: header.version, what, wrong }
}

fn rights_text(rights: Rights) -> String {
    let all = [(rights.send, "send"), (rights.receive, "receive"), (rights.relay, "relay")];
    let named: Vec<_> = all.iter().filter(|(has, _)| *has).map(|(_, name)| *name).collect();
    if named.is_empty() { "do nothing".into() } else { named.join(", ") }
}

/// The administrator's public key.
#[derive(Serialize)]
pub struct Made {
    key_file: String,
    public_file: String,
    node_id: String,
    public_key: String,
    fingerprint: String,
}

impl Made {
    /// For people.
    pub fn text(&self) -> String {
        format!(
            "{}: keep it offline; who has it rules the domain\n{}: for every gateway, in [domain]:\n\n    kmg = \"{}\"\n\n\
             fingerprint  {}\n",
            self.key_file, self.public_file, self.public_key, self.fingerprint
        )
    }
}

/// Makes the administrator's key pair.
pub fn init(out: &Path) -> Result<Made, Failure> {
    std::fs::create_dir_all(out).map_err(|error| failed(format!("cannot make {}: {error}", out.display())))?;
    let (key_file, public_file) = (out.join("kmg.key"), out.join("kmg.pub"));
    let seed = keyfile::generate_administrator(&key_file).map_err(|error| failed(error.to_string()))?;
    let administrator = Administrator::new(&seed);
    let public_key = public_key_text(&administrator.public_key());
    write_new(&public_file, &format!("{public_key}\n"))?;
    Ok(Made {
        key_file: key_file.display().to_string(),
        public_file: public_file.display().to_string(),
        node_id: administrator.id().to_string(),
        public_key,
        fingerprint: public_fingerprint(&administrator.public_key()),
    })
}

/// Makes a package, a revocation or roster entries.
pub fn make(command: Command) -> Result<Objects, Failure> {
    match command {
        Command::Package { signer, group, epoch, activate_at, emergency, members, only, without, gak } => {
            let mut nodes = select(read_members(&members)?, &only)?;
            check_names("--without", &nodes, &without)?;
            nodes.retain(|node| !without.iter().any(|name| node.is(name)));
            if nodes.is_empty() {
                return Err(failed("no member is left; a package needs one at least"));
            }
            let members: Vec<_> =
                nodes.iter().map(|node| Member { node: node.id, agreement_key: node.agreement_key }).collect();
            let secret = match &gak {
                Some(file) => keyfile::read_key(file),
                None => keyfile::random(),
            };
            let gak = secret.map_err(|error| failed(error.to_string()))?;
            let activate_at = activate_at.map_or_else(now, Time::at);
            let package = Package { group, epoch: Epoch(epoch), activate_at, emergency, members: &members };
            let seed = keyfile::random().map_err(|error| failed(error.to_string()))?;
            let made = |administrator: &Administrator, version| {
                administrator
                    .package(&package, &gak, version, *seed.expose())
                    .map_err(|error| failed(error.to_string()))
            };
            signer.make(made)
        }
        Command::Revoke { signer, node: Id(node), withdraw } => signer.make(|administrator, version| {
            Ok(vec![if withdraw {
                administrator.withdraw(ObjectKind::REVOKE, node, version)
            } else {
                administrator.revoke(node, version)
            }])
        }),
        Command::Roster { signer, members, only, rights, withdraw } => {
            let nodes = select(read_members(&members)?, &only)?;
            let has = |right| rights.contains(&right);
            let rights = Rights { send: has(Right::Send), receive: has(Right::Receive), relay: has(Right::Relay) };
            signer.make(|administrator, version| {
                let entry = |node: &Node| {
                    if withdraw {
                        administrator.withdraw(ObjectKind::ROSTER, node.id, version)
                    } else {
                        administrator.list(node.id, rights, &node.name, version)
                    }
                };
                Ok(nodes.iter().map(entry).collect())
            })
        }
        Command::Inspect { file } => Ok(Objects::of(&file, &read_objects(&file)?)),
        Command::Init { .. } | Command::Inject { .. } => Err(failed("this makes no objects")),
    }
}

impl Signer {
    fn make(
        &self,
        make: impl FnOnce(&Administrator, u64) -> Result<Vec<Vec<u8>>, Failure>,
    ) -> Result<Objects, Failure> {
        let seed = keyfile::read_administrator(&self.key).map_err(|error| failed(error.to_string()))?;
        let administrator = Administrator::new(&seed);
        let version = now().0;
        let mut bodies = vec![administrator.node("kmg", version)];
        bodies.extend(make(&administrator, version)?);
        write_new(&self.out, &bundle::write(&bodies))?;
        Ok(Objects::of(&self.out, &bodies))
    }
}

/// Writes the file by which a node names its successor; the new identity's file is made.
pub fn rotate_node(old: &Path, new: &Path, name: &str, out: &Path) -> Result<Objects, Failure> {
    let wrong = |error: keyfile::KeyFileError| failed(error.to_string());
    // Before a file is made.
    check_name("--name", name)?;
    if out.exists() {
        return Err(failed(format!("{} exists; choose another name", out.display())));
    }
    let old = keyfile::read_identity(old).map_err(wrong)?;
    let new = keyfile::generate_identity(new).map_err(wrong)?;
    let agreement_key = old.agreement_public_key();
    let bodies = kmg::succession(&old.signing_seed, agreement_key, name, &new.signing_seed, now());
    write_new(out, &bundle::write(&bodies))?;
    Ok(Objects::of(out, &bodies))
}

/// Node names are short enough for every object that has one.
pub fn check_name(place: &str, name: &str) -> Result<(), Failure> {
    if name.len() <= MAX_NAME_LEN {
        if is_plain_name(name) {
            return Ok(());
        }
        let shown = super::text::printable(name);
        return Err(failed(format!(
            "{place}: the name \"{shown}\" has control or invisible characters; write another"
        )));
    }
    let text = format!("{place}: a name of {} bytes; expected at most {MAX_NAME_LEN}, as `name` in [node]", name.len());
    Err(failed(text))
}

/// Gives a file to the daemon.
pub fn inject(socket: &Path, file: &Path) -> Result<api::Injected, Failure> {
    let bodies = read_objects(file)?;
    let mut all = api::Injected::default();
    for (at, objects) in bodies.chunks(INJECT_BATCH).enumerate() {
        let request = request::Body::Inject(api::Inject { objects: objects.to_vec() });
        let response::Body::Injected(injected) = client::ask(socket, request)? else {
            return Err(super::command::mismatch());
        };
        all.accepted += injected.accepted;
        all.known += injected.known;
        all.refused.extend(injected.refused.into_iter().map(|mut refused| {
            refused.number += (at * INJECT_BATCH) as u32;
            refused
        }));
    }
    Ok(all)
}

/// For people.
pub fn injected(injected: &api::Injected) -> String {
    let mut text = format!("{} objects taken in, {} known already\n", injected.accepted, injected.known);
    for refused in &injected.refused {
        writeln!(text, "refused: object {} ({}): {}", refused.number, refused.kind, refused.reason)
            .expect("a String grows");
    }
    text
}

/// A node as a line of text: what the administrator has to know of it.
pub struct Node {
    id: NodeId,
    agreement_key: [u8; 32],
    name: String,
}

impl Node {
    /// Whether it is the one that is named: by its id, which nobody can take, or by its name.
    fn is(&self, wanted: &str) -> bool {
        wanted.parse().map_or(self.name == wanted, |Id(id)| self.id == id)
    }
}

/// Checks that each of these names is that of one node. Whoever holds the bootstrap key can give itself any name.
fn check_names(option: &str, nodes: &[Node], names: &[String]) -> Result<(), Failure> {
    for name in names {
        let named: Vec<_> = nodes.iter().filter(|node| node.is(name)).map(|node| node.id.to_string()).collect();
        match &named[..] {
            [] => return Err(failed(format!("{option} {name}: no such node in the files of --members"))),
            [_] => {}
            several => {
                let several = several.join(", ");
                return Err(failed(format!("{option} {name}: the name of several nodes ({several}); give a node id")));
            }
        }
    }
    Ok(())
}

/// The line that describes a node: both public keys in base64, and its name.
pub fn node_line(signing_key: &[u8; 32], agreement_key: &[u8; 32], name: &str) -> String {
    format!("{MEMBER} {} {} {name}\n", public_key_text(signing_key), public_key_text(agreement_key))
}

fn read_members(files: &[PathBuf]) -> Result<Vec<Node>, Failure> {
    let mut nodes: Vec<Node> = Vec::new();
    for file in files {
        let text = read_text(file)?;
        let lines =
            text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        for (at, line) in lines {
            let mut words = line.splitn(4, ' ');
            let mut node = || {
                (words.next()? == MEMBER).then_some(())?;
                let (signing_key, agreement_key) = (parse_public_key(words.next()?)?, parse_public_key(words.next()?)?);
                let name = words.next().unwrap_or_default().to_owned();
                Some(Node { id: kmg::node_id(&signing_key), agreement_key, name })
            };
            let Some(node) = node() else {
                let expected = "expected \"gemcast-node\", two public keys and a name, as `gemctl node export` prints";
                return Err(failed(format!("{}:{}: {expected}", file.display(), at + 1)));
            };
            check_name(&format!("{}:{}", file.display(), at + 1), &node.name)?;
            match nodes.iter().find(|known| known.id == node.id) {
                Some(known) if known.agreement_key != node.agreement_key => {
                    let text =
                        format!("node {} has two different X25519 keys in the files; remove the old line", node.id);
                    return Err(failed(text));
                }
                Some(_) => {}
                None => nodes.push(node),
            }
        }
    }
    Ok(nodes)
}

fn select(nodes: Vec<Node>, only: &[String]) -> Result<Vec<Node>, Failure> {
    check_names("--only", &nodes, only)?;
    Ok(nodes.into_iter().filter(|node| only.is_empty() || only.iter().any(|name| node.is(name))).collect())
}

fn read_objects(file: &Path) -> Result<Vec<Vec<u8>>, Failure> {
    let text = read_text(file)?;
    bundle::read(&text).map_err(|error| failed(format!("{}: {error}", file.display())))
}

fn read_text(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = std::fs::File::open(file).and_then(|file| file.take(bundle::FILE_LEN_MAX).read_to_string(&mut text));
    read.map_err(|error| failed(format!("cannot read {}: {error}", file.display())))?;
    Ok(text)
}

/// Writes a file that is not secret, and never over another.
fn write_new(file: &Path, text: &str) -> Result<(), Failure> {
    let written = OpenOptions::new().write(true).create_new(true).open(file).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => failed(format!("{} exists; choose another name", file.display())),
        _ => failed(format!("cannot write {}: {error}", file.display())),
    })
}

fn failed(message: impl Into<String>) -> Failure {
    Failure::new(Exit::Error, message)
}

fn now() -> UnixMillis {
    UnixMillis(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_too_long_are_refused_before_anything_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let [old, new, out] = ["old", "new", "out"].map(|name| dir.path().join(name));
        let identity = keyfile::generate_identity(&old).unwrap();
        let long = "x".repeat(64);
        let error = rotate_node(&old, &new, &long, &out).err().unwrap().message;
        assert!(error.contains("--name: a name of 64 bytes; expected at most 63"), "{error}");
        assert!(!new.exists() && !out.exists());
        std::fs::write(&out, "").unwrap();
        assert!(rotate_node(&old, &new, "b", &out).is_err() && !new.exists(), "the other file is in the way");

        let members = dir.path().join("members");
        let line = node_line(&identity.public_key(), &identity.agreement_public_key(), &long);
        std::fs::write(&members, format!("# members\n{line}")).unwrap();
        let error = read_members(std::slice::from_ref(&members)).err().unwrap().message;
        assert!(error.contains("members:2: a name of 64 bytes"), "{error}");
    }

    #[test]
    fn r3_a_name_that_another_node_took_names_neither_and_an_id_cannot_be_taken() {
        let node = |id, name: &str| Node { id: NodeId([id; 8]), agreement_key: [1; 32], name: name.into() };
        let nodes = || vec![node(1, "studio"), node(2, "studio"), node(3, "01:01:01:01:01:01:01:01")];
        let refused = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            select(nodes(), &names).map(|chosen| chosen.iter().map(|node| node.id).collect::<Vec<_>>())
        };
        let message = refused(&["studio"]).unwrap_err().message;
        assert!(message.contains("several nodes (01:01:01:01:01:01:01:01, 02:02"), "{message}");
        assert!(refused(&["stage"]).unwrap_err().message.contains("--only stage: no such node"));
        assert_eq!(refused(&["01:01:01:01:01:01:01:01"]).ok(), Some(vec![NodeId([1; 8])]));
        assert_eq!(refused(&[]).ok().map(|all| all.len()), Some(3));
    }
}
