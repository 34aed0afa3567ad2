//! `gemctl peer`: who is trusted how far, and bans.

use super::text::{self, Table};
use super::{Exit, Failure, Form, client, command, show};
use gemcast_proto::api::{BanPeer, Empty, Reputations, UnbanPeer, request, response};
use std::path::Path;

/// What can be done about peers.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Show how far each neighbour and node is trusted, what it did wrong, and who is banned
    Reputation,
    /// Ban a node, whose keys then count for nothing here, or a neighbour, which is then not listened to
    Ban {
        /// Name or id of a node, or address of a neighbour: fe80::1, or fe80::1%wan0 where several interfaces have it
        peer: String,
        /// For so long (30s, 5m, 2h, 1d); left out: until it is unbanned, or gemcastd starts again
        #[arg(long = "for", value_name = "TIME", value_parser = duration)]
        lasts: Option<u64>,
        /// Vote to have the node banned by every gateway: more than half of the members have to
        #[arg(long)]
        vote: bool,
    },
    /// End a ban, an automatic one, too: all is forgiven
    Unban {
        /// As with `ban`
        peer: String,
    },
}

fn duration(text: &str) -> Result<u64, String> {
    let lasts = crate::config::duration(text).map_err(|why| format!("\"{text}\" is {why}"))?;
    if lasts.as_secs() == 0 { Err("a ban lasts a second or more".into()) } else { Ok(lasts.as_secs()) }
}

/// Carries out a command. Each shows how the peers stand afterwards.
pub fn run(form: Form, socket: &Path, command: Command) -> Result<Exit, Failure> {
    let request = match command {
        Command::Reputation => request::Body::Reputations(Empty {}),
        Command::Ban { peer, lasts, vote } => request::Body::BanPeer(BanPeer { peer, seconds: lasts, vote }),
        Command::Unban { peer } => request::Body::UnbanPeer(UnbanPeer { peer }),
    };
    let response::Body::Reputations(reputations) = client::ask(socket, request)? else {
        return Err(command::mismatch());
    };
    show(form, &reputations, table).map(|()| Exit::Healthy)
}

fn table(reputations: &Reputations) -> String {
    let heads = ["Peer", "Name", "Score", "State", "Malformed", "Forged", "Excess", "Contradictions", "Unproven"];
    let mut table = Table::new(heads);
    for one in &reputations.peers {
        let peer = if one.kind == "node" { one.peer.clone() } else { format!("{}%{}", one.peer, one.interface) };
        let state = match (one.state.as_str(), one.ban_left_ms) {
            ("banned", Some(ms)) => format!("banned ({}) for {}", one.banned_by, text::duration(ms / 1000)),
            ("banned", None) => format!("banned ({})", one.banned_by),
            (state, _) => state.to_owned(),
        };
        let state = if one.votes > 0 { format!("{state}, {} votes to ban it", one.votes) } else { state };
        let state = if one.ignored > 0 { format!("{state}, {} packets ignored", one.ignored) } else { state };
        let counts = [one.malformed, one.forged, one.excess, one.equivocations, one.unproven];
        let [malformed, forged, excess, equivocations, unproven] = counts.map(or_dash);
        let name = if one.name.is_empty() { "-".to_owned() } else { one.name.clone() };
        table.row([peer, name, one.score.to_string(), state, malformed, forged, excess, equivocations, unproven]);
    }
    let (members, reached) = (reputations.members, reputations.members_reached);
    let quorum = if reputations.quorum { "quorum" } else { "no quorum: no votes are given or taken back" };
    table.text() + &format!("{reached} of {members} members reached: {quorum}\n")
}

fn or_dash(count: u64) -> String {
    if count == 0 { "-".into() } else { count.to_string() }
}
