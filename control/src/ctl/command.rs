//! gemctl's command line, and what each command does.

use super::{Exit, Failure, Form, client, events, key, kmg, peer, show, text};
use crate::config::{DEFAULT_INSTANCE, DEFAULT_RUN_DIR};
use crate::mode::Mode;
use clap::{Args, Parser, Subcommand};
use gemcast_proto::api::{self, Empty, RotateKey, request, response};
use std::path::{Path, PathBuf};

/// Show and change a running gemcast gateway, and make its keys.
///
/// Exit codes: 0 done and healthy, 1 error, 2 usage, 3 degraded (status), 4 gemcastd not reachable, 5 configuration
/// invalid, 6 not permitted.
#[derive(Parser)]
#[command(name = "gemctl", version)]
pub struct Arguments {
    #[command(flatten)]
    place: Place,
    /// Form of the output
    #[arg(short, long, global = true, value_enum, default_value_t, help_heading = "Which gateway, and how it is told")]
    output: Form,
    #[command(subcommand)]
    command: Command,
}

/// Where the daemon is.
#[derive(Args)]
struct Place {
    /// gemcastd's socket
    #[arg(long, global = true, value_name = "PATH", conflicts_with_all = ["run_dir", "instance"], help_heading = "Which gateway, and how it is told")]
    socket: Option<PathBuf>,
    /// Run directory of the gateway
    #[arg(long, global = true, value_name = "DIR", default_value = DEFAULT_RUN_DIR, help_heading = "Which gateway, and how it is told")]
    run_dir: PathBuf,
    /// Instance of the gateway
    #[arg(long, global = true, value_name = "NAME", default_value = DEFAULT_INSTANCE, help_heading = "Which gateway, and how it is told")]
    instance: String,
}

impl Place {
    fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| self.run_dir.join(&self.instance).join("api.sock"))
    }
}

#[derive(Subcommand)]
enum Command {
    /// Whether all is well, and what is not
    Status,
    /// Gateways
    #[command(subcommand)]
    Node(NodeCommand),
    /// Multicast groups
    #[command(subcommand)]
    Group(List),
    /// Interfaces, with every frame accounted for
    #[command(subcommand)]
    Iface(List),
    /// Babel neighbours
    #[command(subcommand)]
    Neighbour(NeighbourCommand),
    /// Whom to trust: neighbours and nodes, their faults, and bans
    #[command(subcommand)]
    Peer(peer::Command),
    /// Babel routes
    #[command(subcommand)]
    Route(List),
    /// How the neighbours' tables of keys and gateways compare to ours
    Sync,
    /// What happened, the latest events first to last
    Events {
        /// Go on with every new event, until interrupted
        #[arg(long)]
        follow: bool,
    },
    /// Keys, and files of keys
    ///
    /// A gateway has an identity (its own), shares a bootstrap key with its domain and a group key (GAK) with the members
    /// of each group, and makes source keys (SEK) by itself: those are what `list` and `rotate` are about.
    #[command(subcommand)]
    Key(KeyCommand),
    /// The administrator's work: packages of group keys, revocations, the roster (only `inject` needs gemcastd)
    #[command(subcommand, after_long_help = kmg::WALK)]
    Kmg(kmg::Command),
    /// The wall clock
    #[command(subcommand)]
    Clock(ClockCommand),
}

#[derive(Subcommand)]
enum ClockCommand {
    /// Vouch for the wall clock, which is behind what it was in the last run: signing goes on
    Accept,
}

#[derive(Subcommand)]
enum NodeCommand {
    /// List them
    List,
    /// Print what the administrator has to know of each, for `gemctl kmg package --members`
    Export,
}

#[derive(Subcommand)]
enum List {
    /// List them
    List,
}

#[derive(Subcommand)]
enum NeighbourCommand {
    /// List them
    List,
    /// Show one, with its routes
    Show {
        /// Its address, and the interface where several have it: fe80::1 or fe80::1%wan0
        address: String,
    },
}

#[derive(Subcommand)]
enum KeyCommand {
    /// List source keys, own and learnt
    List,
    /// Replace the source key this gateway sends a group with; nothing is lost
    ///
    /// The new key is announced at once and used after `announce_lead` (30 s unless configured otherwise). Keys are also
    /// replaced by themselves every `sek_lifetime`. The group key stays: `gemctl kmg package` replaces that.
    Rotate {
        /// The group as `gemctl group list` shows it
        group: String,
        /// At once, and have nobody ever accept the key before again; what is on its way under it is lost
        #[arg(long)]
        emergency: bool,
    },
    /// Make a new identity for a node, and the file by which the old one names it its successor (no gemcastd needed)
    ///
    /// Both keys sign the file, so the new identity takes the old one's place on the roster. Then: `gemctl kmg inject` the
    /// file, put the new identity in the place of the old one, restart gemcastd. The node id changes: have the administrator
    /// list it (`gemctl kmg roster`) within 21 days, and give it the group keys (`gemctl key export`, `gemctl kmg package`).
    RotateNode {
        /// The identity in use
        #[arg(long, value_name = "FILE")]
        old: PathBuf,
        /// The new identity's file, which must not exist
        #[arg(long, value_name = "FILE")]
        new: PathBuf,
        /// Name of the node
        #[arg(long)]
        name: String,
        /// File of the succession, which must not exist
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Print the line by which the administrator knows a node, from its identity file (no gemcastd needed)
    ///
    /// It holds public keys only, and goes into a file for `gemctl kmg package --members`.
    Export {
        /// The identity file
        file: PathBuf,
        /// Name of the node
        #[arg(long)]
        name: String,
    },
    /// Print what two people compare, by telephone, to know that they mean the same key (no gemcastd needed)
    Fingerprint {
        /// A key file, kmg.pub, or a public key in base64
        key: String,
    },
    /// Make a key file, readable by its owner only (no gemcastd needed)
    Generate {
        /// What it is for
        #[arg(value_enum)]
        kind: key::Kind,
        /// The file, which must not exist
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Print what Babel routers of other makes need to take part: SECRET (no gemcastd needed, root only)
    BabelMac {
        /// The bootstrap key's file
        file: PathBuf,
        /// How packets are authenticated: `mac` in the `babel` table
        #[arg(long, value_enum, default_value_t)]
        algorithm: key::Mac,
    },
    /// Show the public part of a key file (no gemcastd needed)
    Show {
        /// The file
        file: PathBuf,
    },
}

/// Carries out a command line.
pub fn run(arguments: Arguments) -> Result<Exit, Failure> {
    let Arguments { place, output: form, command } = arguments;
    let socket = place.socket();
    match command {
        Command::Status => {
            let response::Body::Status(status) = client::ask(&socket, request::Body::Status(Empty {}))? else {
                return Err(mismatch());
            };
            show(form, &status, text::status)?;
            Ok(if status.state == Mode::Normal.name() { Exit::Healthy } else { Exit::Degraded })
        }
        Command::Kmg(kmg::Command::Init { out }) => {
            show(form, &kmg::init(&out)?, kmg::Made::text).map(|()| Exit::Healthy)
        }
        Command::Kmg(kmg::Command::Inject { file }) => {
            let injected = kmg::inject(&socket, &file)?;
            let exit = if injected.refused.is_empty() { Exit::Healthy } else { Exit::Error };
            show(form, &injected, kmg::injected).map(|()| exit)
        }
        Command::Kmg(command) => {
            let objects = kmg::make(command)?;
            show(form, &objects, kmg::Objects::text).map(|()| objects.exit())
        }
        Command::Clock(ClockCommand::Accept) => match client::ask(&socket, request::Body::AcceptClock(Empty {}))? {
            response::Body::Done(done) => {
                show(form, &done, |_| "the wall clock counts as right\n".into()).map(|()| Exit::Healthy)
            }
            _ => Err(mismatch()),
        },
        Command::Node(NodeCommand::Export) => export(&socket),
        Command::Key(KeyCommand::RotateNode { old, new, name, out }) => {
            show(form, &kmg::rotate_node(&old, &new, &name, &out)?, kmg::Objects::text).map(|()| Exit::Healthy)
        }
        Command::Key(KeyCommand::Export { file, name }) => print(&key::export(&file, &name)?),
        Command::Key(KeyCommand::Fingerprint { key }) => print(&key::fingerprint(&key)?),
        Command::Node(NodeCommand::List) => list(form, &socket, request::Body::Nodes(Empty {})),
        Command::Group(List::List) => list(form, &socket, request::Body::Groups(Empty {})),
        Command::Iface(List::List) => list(form, &socket, request::Body::Interfaces(Empty {})),
        Command::Neighbour(NeighbourCommand::Show { address }) => neighbour(form, &socket, &address),
        Command::Peer(command) => peer::run(form, &socket, command),
        Command::Route(List::List) => list(form, &socket, request::Body::Routes(Empty {})),
        Command::Sync => match client::ask(&socket, request::Body::Neighbours(Empty {}))? {
            response::Body::Neighbours(neighbours) => show(form, &neighbours, text::sync).map(|()| Exit::Healthy),
            _ => Err(mismatch()),
        },
        Command::Events { follow } => events::show(form, &socket, follow),
        Command::Key(KeyCommand::BabelMac { file, algorithm }) => {
            show(form, &key::babel_mac(&file, algorithm)?, key::BabelMac::text).map(|()| Exit::Healthy)
        }
        Command::Neighbour(NeighbourCommand::List) => list(form, &socket, request::Body::Neighbours(Empty {})),
        Command::Key(KeyCommand::List) => list(form, &socket, request::Body::Keys(Empty {})),
        Command::Key(KeyCommand::Rotate { group, emergency }) => {
            list(form, &socket, request::Body::RotateKey(RotateKey { group, emergency }))
        }
        Command::Key(KeyCommand::Generate { kind, out }) => {
            show(form, &key::generate(kind, &out)?, key::KeyFile::text).map(|()| Exit::Healthy)
        }
        Command::Key(KeyCommand::Show { file }) => {
            show(form, &key::show(&file)?, key::KeyFile::text).map(|()| Exit::Healthy)
        }
    }
}

/// Asks and shows the answer.
fn list(form: Form, socket: &Path, request: request::Body) -> Result<Exit, Failure> {
    match client::ask(socket, request)? {
        response::Body::Nodes(nodes) => show(form, &nodes, text::nodes)?,
        response::Body::Groups(groups) => show(form, &groups, text::groups)?,
        response::Body::Keys(keys) => show(form, &keys, text::keys)?,
        response::Body::Interfaces(interfaces) => show(form, &interfaces, text::interfaces)?,
        response::Body::Neighbours(neighbours) => show(form, &neighbours, text::neighbours)?,
        response::Body::Rotated(rotated) => show(form, &rotated, text::rotated)?,
        response::Body::Routes(routes) => show(form, &routes, text::routes)?,
        response::Body::Status(_)
        | response::Body::Events(_)
        | response::Body::Injected(_)
        | response::Body::Reputations(_)
        | response::Body::Done(_)
        | response::Body::Error(_) => return Err(mismatch()),
    }
    Ok(Exit::Healthy)
}

/// `gemctl node export`.
fn export(socket: &Path) -> Result<Exit, Failure> {
    let response::Body::Nodes(nodes) = client::ask(socket, request::Body::Nodes(Empty {}))? else {
        return Err(mismatch());
    };
    let key = |hex: &str| -> Option<[u8; 32]> {
        let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok());
        bytes.collect::<Option<Vec<u8>>>()?.try_into().ok()
    };
    let line =
        |node: &api::Node| Some(kmg::node_line(&key(&node.signing_key)?, &key(&node.agreement_key)?, &node.name));
    let lines: Option<String> = nodes.nodes.iter().map(line).collect();
    print(&text::printable_lines(&lines.ok_or_else(mismatch)?))
}

fn print(text: &str) -> Result<Exit, Failure> {
    let written = std::io::Write::write_all(&mut std::io::stdout().lock(), text.as_bytes());
    written.map_err(|error| Failure::new(Exit::Error, format!("cannot write: {error}")))?;
    Ok(Exit::Healthy)
}

/// `gemctl neighbour show`: a neighbour and what it announces.
fn neighbour(form: Form, socket: &Path, wanted: &str) -> Result<Exit, Failure> {
    #[derive(serde::Serialize)]
    struct Shown {
        neighbours: Vec<api::Neighbour>,
        routes: Vec<api::Route>,
    }

    let (address, interface) = wanted.split_once('%').map_or((wanted, None), |(a, i)| (a, Some(i)));
    let Ok(address) = address.parse::<std::net::IpAddr>() else {
        let message = format!("\"{address}\" is no IP address; expected one like fe80::1 or fe80::1%wan0");
        return Err(Failure::new(Exit::Usage, message));
    };
    let is_it = |text: &str, on: &str| text.parse() == Ok(address) && interface.is_none_or(|interface| interface == on);
    let response::Body::Neighbours(api::Neighbours { mut neighbours, .. }) =
        client::ask(socket, request::Body::Neighbours(Empty {}))?
    else {
        return Err(mismatch());
    };
    neighbours.retain(|neighbour| is_it(&neighbour.address, &neighbour.interface));
    if neighbours.is_empty() {
        let message = format!("no neighbour {wanted}; `gemctl neighbour list` shows them");
        return Err(Failure::new(Exit::Error, message));
    }
    let response::Body::Routes(api::Routes { mut routes }) = client::ask(socket, request::Body::Routes(Empty {}))?
    else {
        return Err(mismatch());
    };
    routes.retain(|route| is_it(&route.neighbour, &route.interface));
    show(form, &Shown { neighbours, routes }, |shown| text::neighbour(&shown.neighbours, &shown.routes))?;
    Ok(Exit::Healthy)
}

pub(super) fn mismatch() -> Failure {
    Failure::new(Exit::Error, "the daemon answered another question; use gemctl and gemcastd of one version")
}
