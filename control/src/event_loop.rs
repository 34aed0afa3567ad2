//! The daemon: one thread, one loop over sockets, signals and deadlines, with the engine in the middle.
//!
//! Whatever happens becomes an input of the engine; whatever the engine wants becomes a packet, a map entry or a log line.
//! Nothing here decides anything about keys or routes, and no packet of user data comes by.

mod data_plane;
mod peers;
mod requests;

use crate::api::{Api, Asked, ClientId};
use crate::babel::BabelSocket;
use crate::bans::Bans;
use crate::clock;
use crate::config::Config;
use crate::echo::Echo;
use crate::events::{Entry, Journal, Severity};
use crate::instance::Instance;
use crate::interfaces::Interfaces;
use crate::legs::Legs;
use crate::link::DataPlaneLink;
use crate::log::Throttle;
use crate::maps::{Gtags, Maps, Transits};
use crate::mode::{Health, Mode};
use crate::netlink::Netlink;
use crate::report::{Report, problem};
use crate::routes::RouteTable;
use crate::store::{State, Store};
use gemcast_engine::Engine;
use gemcast_engine::config as engine;
use gemcast_engine::input::{Input, Originated, Segment};
use gemcast_engine::output::{Event, Output};
use gemcast_engine::time::UnixMillis;
use gemcast_proto::api::{Problem, request};
use gemcast_proto::id::Group;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, Read};
use std::mem::Discriminant;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const STOP: Token = Token(0);
const RELOAD: Token = Token(1);
const NETLINK: Token = Token(2);
const BABEL: Token = Token(3);
const LINK: Token = Token(4);
/// Clients of the API have the tokens after it.
const API: Token = Token(5);

/// Datagrams taken in before other work gets its turn.
const BABEL_BATCH: usize = 128;
/// Heartbeat, packet counts, problems.
const TICK: Duration = Duration::from_secs(1);
/// An engine whose deadlines are that overdue makes no progress.
const ENGINE_BEHIND: Duration = Duration::from_secs(2);
/// How often the state is saved without a reason.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);
/// How often the maps are compared with what was written.
const REPAIR_INTERVAL: Duration = Duration::from_millis(500);
/// How long changes of the groups to relay are gathered before the data plane is told.
const TRANSIT_BATCH: Duration = Duration::from_millis(100);
/// How long changes of what the administrator said are gathered before they are written to disk.
const PERSIST_BATCH: Duration = Duration::from_secs(1);
/// How long a client waits for fresh counters before it gets the last ones.
const STATS_WAIT: Duration = Duration::from_millis(500);

/// Why the daemon cannot start, or not go on.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another one is running, or the run directory cannot be used.
    #[error(transparent)]
    Instance(#[from] crate::instance::InstanceError),
    /// The Babel port is taken.
    #[error(
        "UDP port {0} is in use; stop the other routing daemon, or set another babel_port in [domain] on every gateway"
    )]
    PortInUse(u16),
    /// Something the kernel refused.
    #[error("cannot {what}: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
    /// The operating system has no randomness to give.
    #[error("the operating system gave no random numbers")]
    Random,
}

/// A client that waits for fresh counters.
struct Waiting {
    client: ClientId,
    request: request::Body,
    until: Instant,
}

/// The running daemon.
pub struct Daemon {
    poll: Poll,
    config: Config,
    config_path: PathBuf,
    started: Instant,
    /// Held open for the signal handler's other end.
    _stop: UnixStream,
    reload: UnixStream,
    netlink: Netlink,
    interfaces: Interfaces,
    babel: BabelSocket,
    babel_pending: bool,
    link: DataPlaneLink,
    maps: Option<Maps>,
    gtags: Gtags,
    transits: Transits,
    bans: Bans,
    echo: Echo,
    /// When what the administrator said is to be kept.
    persist_at: Option<Instant>,
    legs: Legs,
    /// Groups to relay that are not configured, and when to look for new ones.
    transit_groups: BTreeSet<Group>,
    transit_at: Option<Instant>,
    routes: RouteTable,
    /// What the engine was told to announce.
    originated: Vec<Originated>,
    /// The LAN shared with other gateways, as the engine was told.
    segment: Option<Segment>,
    /// Frames and conflicts of each gateway heard on it, as counted by the data plane when it was looked at last.
    heard: BTreeMap<[u8; 6], (u64, u64)>,
    engine: Engine,
    api: Api,
    /// Requests to be answered, at most one of each client.
    asked: Vec<Asked>,
    /// Requests that wait for fresh counters.
    waiting: Vec<Waiting>,
    store: Store,
    state: State,
    /// Trouble by the code of its [`Problem`].
    troubles: Vec<Problem>,
    /// Every problem at the last look, by code and subject.
    problems: BTreeMap<(String, String), Problem>,
    /// What followed from them.
    health: Health,
    journal: Journal,
    tick_at: Instant,
    repair_at: Instant,
    save_at: Instant,
    send_failures: Throttle,
    refusals: Throttle,
    /// By kind of event.
    alarms: HashMap<Discriminant<Event>, Throttle>,
    // Last, so that the lock is the last thing to go.
    instance: Instance,
}

impl Daemon {
    /// Opens everything. On an error nothing is left behind.
    pub fn start(config: Config, config_path: PathBuf) -> Result<Self, StartError> {
        let wrong = |what| move |error| StartError::Io { what, error };
        let started = Instant::now();
        let instance = Instance::claim(&config.instance_dir())?;
        let poll = Poll::new().map_err(wrong("make an event queue"))?;
        let registry = poll.registry();
        let (stop, reload) = signals().map_err(wrong("catch signals"))?;
        let netlink = Netlink::open().map_err(wrong("list the interfaces"))?;
        let babel = BabelSocket::bind(config.babel_port).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => StartError::PortInUse(config.babel_port),
            _ => StartError::Io { what: "open the Babel socket", error },
        })?;
        let routes = RouteTable::open(config.babel.routes, started).map_err(wrong("clean the kernel's routes"))?;
        let api =
            Api::listen(&instance.path().join("api.sock"), registry, API).map_err(wrong("listen on the API socket"))?;
        let link = DataPlaneLink::new(&config, LINK, started, clock::jitter);

        let [babel_v6, babel_v4] = babel.as_fds().map(|socket| socket.as_raw_fd());
        let sockets = [
            (stop.as_raw_fd(), STOP),
            (reload.as_raw_fd(), RELOAD),
            (netlink.as_raw_fd(), NETLINK),
            (babel_v6, BABEL),
            (babel_v4, BABEL),
        ];
        for (socket, token) in sockets {
            let watched = registry.register(&mut SourceFd(&socket), token, Interest::READABLE);
            watched.map_err(wrong("watch the sockets"))?;
        }

        let seed = clock::seed().map_err(|_| StartError::Random)?;
        let node_id = config.node.identity.node_id().to_string();
        let store = Store::new(&config.node.state_dir);
        let (state, lost) = store.load(&node_id);
        let clock_floor = UnixMillis(state.wall_ms.max(clock::EARLIEST_MS));
        let engine = Engine::new(engine::Config { clock_floor, ..config.engine() }, *seed, clock::now());
        let mut daemon = Self {
            poll,
            config,
            config_path,
            started,
            _stop: stop,
            reload,
            netlink,
            interfaces: Interfaces::default(),
            babel,
            babel_pending: true,
            link,
            maps: None,
            gtags: Gtags::new(),
            transits: Transits::new(),
            bans: Bans::default(),
            echo: Echo::default(),
            persist_at: None,
            legs: Legs::default(),
            transit_groups: BTreeSet::new(),
            transit_at: None,
            routes,
            originated: Vec::new(),
            segment: None,
            heard: BTreeMap::new(),
            engine,
            api,
            asked: Vec::new(),
            waiting: Vec::new(),
            store,
            state,
            troubles: Vec::new(),
            problems: BTreeMap::new(),
            health: Health::default(),
            journal: Journal::default(),
            tick_at: started,
            repair_at: started,
            save_at: started,
            send_failures: Throttle::default(),
            refusals: Throttle::default(),
            alarms: HashMap::new(),
            instance,
        };
        if let Some(error) = lost {
            tracing::warn!("{error}");
        }
        daemon.check_clock();
        daemon.check_identity();
        daemon.restore_administration();
        daemon.state.starts += 1;
        tracing::info!(
            node = %daemon.config.node.name, id = %node_id, instance = %daemon.config.node.instance,
            interfaces = daemon.config.interfaces.len(), groups = daemon.config.groups.len(),
            "gemcastd {} started", env!("CARGO_PKG_VERSION"),
        );
        daemon.configure_interfaces();
        daemon.settle();
        Ok(daemon)
    }

    /// Runs until a signal says stop.
    pub fn run(&mut self) -> Result<(), StartError> {
        let mut events = Events::with_capacity(128);
        // Without systemd there is nobody to notify.
        let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
        loop {
            let timeout = self.timeout();
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                polled => polled.map_err(|error| StartError::Io { what: "wait for events", error })?,
            }
            // What is drawn from now on does not follow from the memory's contents: those may be a restored snapshot's.
            if let Ok(fresh) = clock::seed() {
                self.engine.reseed(&fresh);
            }
            for event in &events {
                match event.token() {
                    STOP => {
                        tracing::info!("stopping; the data plane goes on with the keys it has");
                        let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
                        // Others take over before this one is gone.
                        self.engine.handle(clock::now(), Input::Stop);
                        self.settle();
                        self.save();
                        if let Err(error) = self.routes.purge() {
                            tracing::error!("cannot remove our routes from the kernel's table: {error}");
                        }
                        return Ok(());
                    }
                    RELOAD => self.on_reload(),
                    NETLINK => self.on_netlink(),
                    BABEL => self.babel_pending = true,
                    LINK => {
                        let heard = self.link.ready(self.poll.registry(), Instant::now());
                        self.on_link(heard);
                    }
                    token => {
                        self.asked.extend(self.api.ready(token, self.poll.registry(), Instant::now()));
                    }
                }
            }
            if self.babel_pending {
                self.on_babel();
            }
            // A client's next request is answered the next time round, so that none keeps the loop for itself.
            let asked = std::mem::take(&mut self.asked);
            asked.into_iter().for_each(|asked| self.on_request(asked));
            self.on_time();
            self.settle();
        }
    }

    /// Time until the next thing is due.
    fn timeout(&self) -> Duration {
        if self.babel_pending || !self.asked.is_empty() {
            return Duration::ZERO;
        }
        let now = Instant::now();
        let mut due = self.tick_at.min(self.repair_at).min(self.link.deadline()).min(self.routes.deadline());
        due = self.transit_at.into_iter().chain(self.persist_at).fold(due, Instant::min);
        due = self.waiting.iter().map(|waiting| waiting.until).fold(due, Instant::min);
        let own = due.saturating_duration_since(now);
        match self.engine.next_deadline() {
            Some(deadline) => own.min(deadline - clock::now().mono),
            None => own,
        }
    }

    fn on_time(&mut self) {
        let now = clock::now();
        if self.engine.next_deadline().is_some_and(|deadline| deadline <= now.mono) {
            self.engine.handle_timeout(now);
        }
        let instant = Instant::now();
        if self.link.deadline() <= instant {
            let heard = self.link.tick(self.poll.registry(), instant);
            self.on_link(heard);
        }
        if self.tick_at <= instant {
            self.tick_at = instant + TICK;
            self.on_tick();
        }
        if self.repair_at <= instant {
            self.repair_at = instant + REPAIR_INTERVAL;
            self.repair_maps();
        }
        if self.transit_at.is_some_and(|at| at <= instant) {
            self.transit_at = None;
            self.update_flows();
        }
        if self.persist_at.is_some_and(|at| at <= instant) {
            self.persist_at = None;
            self.keep_administration();
        }
        self.routes.tick(instant);
        if self.save_at <= instant {
            self.save_at = instant + SAVE_INTERVAL;
            self.save();
        }
        let due = |waiting: &mut Waiting| waiting.until <= instant;
        let due: Vec<_> = self.waiting.extract_if(.., due).collect();
        due.into_iter().for_each(|waiting| self.reply(waiting.client, &waiting.request));
    }

    fn on_tick(&mut self) {
        self.api.expire(self.poll.registry(), Instant::now());
        self.attend_data_plane();
        self.end_bans();
        self.check_clock();
        self.note_problems();
        // The loop came round and the engine is not behind: whoever watches over us may know.
        let behind = |deadline| clock::now().mono - deadline > ENGINE_BEHIND;
        if !self.engine.next_deadline().is_some_and(behind) {
            let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Watchdog]);
        }
    }

    /// Turns problems that came or went since the last time into events.
    fn note_problems(&mut self) {
        let named = |problem: Problem| ((problem.code.clone(), problem.subject.clone()), problem);
        let now: BTreeMap<_, _> = self.report().problems().into_iter().map(named).collect();
        let before = std::mem::replace(&mut self.problems, now.clone());
        // Whoever found it has logged it.
        for problem in now.iter().filter(|(key, _)| !before.contains_key(*key)).map(|(_, problem)| problem) {
            let entry = Entry::new(Severity::Warning, "problem_began", &problem.text).quietly();
            self.record(entry.with("code", &problem.code).with("subject", &problem.subject).with("fix", &problem.fix));
        }
        for problem in before.iter().filter(|(key, _)| !now.contains_key(*key)).map(|(_, problem)| problem) {
            let entry = Entry::new(Severity::Info, "problem_ended", &problem.text).quietly();
            self.record(entry.with("code", &problem.code).with("subject", &problem.subject));
        }
        let health = Health::of(now.values());
        if health.mode != self.health.mode {
            let severity = match health.mode {
                Mode::Normal => Severity::Info,
                Mode::Degraded => Severity::Warning,
                Mode::Halted => Severity::Error,
            };
            let entry = Entry::new(severity, "mode", format!("the gateway is {}", health.text()));
            self.record(entry.with("before", self.health.mode.name()).with("now", health.mode.name()));
        }
        if health != self.health {
            let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Status(&health.text())]);
            self.health = health;
        }
    }

    /// Writes an event to the log, the list of recent ones, and whoever follows.
    fn record(&mut self, entry: Entry) {
        let event = self.journal.record(entry);
        self.api.publish(event, self.poll.registry(), Instant::now());
    }

    fn on_netlink(&mut self) {
        match self.netlink.receive() {
            Ok(true) => self.update_interfaces(),
            Ok(false) => {}
            Err(error) => tracing::error!("cannot read interface changes: {error}"),
        }
    }

    /// Takes in waiting Babel packets, some at a time.
    fn on_babel(&mut self) {
        for _ in 0..BABEL_BATCH {
            match self.babel.receive() {
                Ok(Some(received)) => {
                    self.engine.handle(clock::now(), Input::Packet(self.babel.packet(&received)));
                }
                Ok(None) => {
                    self.babel_pending = false;
                    return;
                }
                Err(error) => {
                    // An error of an earlier send, reported here; taking it clears it.
                    tracing::debug!("Babel socket: {error}");
                    return;
                }
            }
        }
    }

    /// Reads the configuration again, on SIGHUP. A wrong one changes nothing.
    fn on_reload(&mut self) {
        drain(&mut self.reload);
        let config = match Config::load(&self.config_path) {
            Ok(config) => config,
            Err(errors) => {
                errors.0.iter().for_each(|error| tracing::error!("{error}"));
                tracing::error!("configuration not reloaded; the old one stays in force");
                return;
            }
        };
        let (old, new) = (&self.config, &config);
        let fixed = [
            ("node.identity", old.node.identity.node_id() != new.node.identity.node_id()),
            ("node.run_dir", old.node.run_dir != new.node.run_dir),
            ("node.instance", old.node.instance != new.node.instance),
            ("node.state_dir", old.node.state_dir != new.node.state_dir),
            ("domain.babel_port", old.babel_port != new.babel_port),
        ];
        let changed: Vec<_> = fixed.iter().filter(|(_, changed)| *changed).map(|(key, _)| *key).collect();
        if !changed.is_empty() {
            let changed = changed.join(", ");
            tracing::error!("configuration not reloaded: {changed} changed, which takes a restart of gemcastd");
            return;
        }
        self.config = config;
        tracing::info!(groups = self.config.groups.len(), "configuration reloaded");
        self.engine.handle(clock::now(), Input::Reconfigure(Box::new(self.config.engine())));
        // Who forwards a new group is known before the data plane hears of it.
        self.settle();
        let configured = self.routes.configure(self.config.babel.routes, Instant::now());
        if let Err(error) = configured {
            tracing::error!("cannot move our routes to another table: {error}");
        }
        self.configure_interfaces();
        self.update_flows();
        self.restore_maps();
    }

    fn configure_interfaces(&mut self) {
        self.interfaces.configure(&self.config);
        self.update_interfaces();
    }

    fn update_interfaces(&mut self) {
        let inputs = self.interfaces.update(&self.netlink);
        self.tell_interfaces(inputs);
        self.watch_links();
        self.routes.audit_soon(Instant::now());
        let originated = self.config.originated(self.interfaces.connected());
        if originated != self.originated {
            self.originated.clone_from(&originated);
            self.engine.handle(clock::now(), Input::Originate(originated));
        }
        self.update_segment();
        self.update_flows();
    }

    /// The socket joins before the engine sends, and leaves after the engine's last word.
    fn tell_interfaces(&mut self, inputs: Vec<Input<'static>>) {
        for input in inputs {
            let gone = match &input {
                Input::InterfaceUp(interface) => {
                    if let Err(error) = self.babel.join(interface.ifindex) {
                        tracing::error!(interface = %interface.name, "cannot join the Babel group: {error}");
                    }
                    None
                }
                Input::InterfaceDown(ifindex) => Some(*ifindex),
                _ => None,
            };
            self.engine.handle(clock::now(), input);
            if let Some(ifindex) = gone {
                self.settle();
                self.babel.leave(ifindex);
            }
        }
    }

    /// Carries out what the engine wants.
    fn settle(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Transmit(transmit) => {
                    if let Err(error) = self.babel.send(&transmit)
                        && let Some(held_back) = self.send_failures.permit(Instant::now())
                    {
                        let interface = self.interfaces.name(transmit.ifindex);
                        tracing::warn!(interface, held_back, "cannot send a Babel packet: {error}");
                    }
                }
                Output::Event(event) => self.on_event(&event),
                Output::InstallGtag { group, epoch, key } => {
                    let written = self.maps.as_ref().map_or(Ok(()), |maps| maps.install_gtag(&group, epoch, &key));
                    self.gtags.insert((group, epoch), key);
                    self.check_written(written);
                }
                Output::RemoveGtag { group, epoch } => {
                    self.gtags.remove(&(group, epoch));
                    let written = self.maps.as_ref().map_or(Ok(()), |maps| maps.remove_gtag(&group, epoch));
                    self.check_written(written);
                }
                Output::InstallKey(key) => {
                    let gtags = &self.gtags;
                    let written = self.maps.as_mut().map_or(Ok(()), |maps| maps.keys.install(&key, gtags));
                    self.check_written(written);
                }
                Output::Activate { group, key_id } => {
                    let written = self.maps.as_mut().map_or(Ok(()), |maps| maps.keys.activate(&group, key_id));
                    self.check_written(written);
                }
                Output::Ban { key_id, cause, banned: true } => {
                    self.ban(key_id, cause.into(), None);
                }
                Output::Ban { key_id, cause, banned: false } => self.lift_ban(key_id, cause.into()),
                Output::Persist { at_once: true } => {
                    self.persist_at = None;
                    self.keep_administration();
                }
                Output::Persist { at_once: false } => {
                    self.persist_at.get_or_insert_with(|| Instant::now() + PERSIST_BATCH);
                }
                Output::StandBy { groups, substitute } => self.stand_by(groups, substitute),
                Output::Gateways(gateways) => {
                    self.link.set_gateways(gateways);
                    self.update_flows();
                }
                Output::Route(route) => self.routes.apply(&route, Instant::now()),
                Output::Transit { key_id, ifindex } => self.steer_transit(key_id, ifindex),
                Output::RemoveKey(key_id) => {
                    if let Some(maps) = &mut self.maps {
                        maps.keys.remove(key_id);
                    }
                }
            }
        }
        if let Some(maps) = &mut self.maps {
            maps.keys.publish();
        }
    }

    /// What a stranger can cause at will is held back beyond a few.
    fn on_event(&mut self, event: &Event) {
        let mut entry = Entry::of(event, &self.interfaces);
        let provoked = matches!(
            event,
            Event::Refused { .. }
                | Event::Conflict { .. }
                | Event::KeyIdTaken { .. }
                | Event::ObjectsMissing { .. }
                | Event::IdentityConflict { .. }
                | Event::Suspected { .. }
                | Event::Voted { .. }
        );
        if provoked {
            let throttle = self.alarms.entry(std::mem::discriminant(event)).or_default();
            let Some(held_back) = throttle.permit(Instant::now()) else { return };
            entry = entry.with("held_back", held_back);
        }
        self.record(entry);
    }

    /// Everything an answer draws on.
    fn report(&self) -> Report<'_> {
        Report {
            config: &self.config,
            config_path: &self.config_path,
            engine: &self.engine,
            interfaces: &self.interfaces,
            routes: &self.routes,
            link: &self.link,
            bans: &self.bans,
            legs: &self.legs,
            troubles: &self.troubles,
            started: self.started,
            now: Instant::now(),
            mono: clock::now().mono,
        }
    }

    /// Nothing is signed by a clock that went back: versions made by it would look old to the neighbours, and what ran
    /// out would be valid again (F37).
    fn check_clock(&mut self) {
        let revoked = self.engine.is_revoked();
        let (refused, other) = if revoked { ("node_revoked", "signing") } else { ("signing", "node_revoked") };
        self.end_trouble(other);
        let Some(why) = self.engine.signing_refusal(clock::now()) else { return self.end_trouble(refused) };
        let text = format!("{why}: nothing is announced and no key is made; what seals already goes on");
        let fix = if revoked {
            "have the administrator list a successor: gemctl key rotate-node"
        } else {
            "synchronize the clock (chrony, ntpd), or vouch for it: gemctl clock accept"
        };
        self.begin_trouble(refused, "signing", &text, fix);
    }

    /// Running on the backup identity is to be known.
    fn check_identity(&mut self) {
        if let Some(why) = self.config.node.on_backup.clone() {
            let text = format!("the backup identity is in use, so this is another node than usual: {why}");
            self.begin_trouble("identity", "identity", &text, "replace the identity file, then restart gemcastd");
        }
    }

    /// Gives the engine what the administrator said before the restart.
    fn restore_administration(&mut self) {
        let floors = self.store.load_floors().unwrap_or_else(|error| {
            tracing::warn!("{error}");
            Vec::new()
        });
        self.engine.end_epochs(clock::now(), &floors);
        let kept = self.store.load_administration().unwrap_or_else(|error| {
            tracing::warn!("{error}");
            Vec::new()
        });
        // What administrators said that this gateway is told of no longer is left out.
        let (known, foreign): (Vec<_>, Vec<_>) =
            kept.into_iter().partition(|body| self.engine.is_of_administrator(body));
        if !foreign.is_empty() {
            tracing::warn!(
                objects = foreign.len(),
                "kept objects are of an administrator not in kmg of [domain]; not used"
            );
        }
        match self.engine.inject(clock::now(), &known) {
            Ok(injected) if injected.refused.is_empty() => {}
            Ok(injected) => tracing::warn!("{} of the kept objects are refused", injected.refused.len()),
            Err(error) => tracing::warn!("the kept objects are not used: {error}"),
        }
    }

    fn keep_administration(&mut self) {
        let floors = self.store.save_floors(&self.engine.floors());
        match floors.and_then(|()| self.store.save_administration(&self.engine.administration())) {
            Ok(()) => self.end_trouble("administration"),
            Err(error) => {
                let dir = self.config.node.state_dir.display().to_string();
                let fix = "make the directory writable, or set state_dir in [node]";
                self.begin_trouble("administration", &dir, &error, fix);
            }
        }
    }

    fn save(&mut self) {
        self.state.wall_ms = self.state.wall_ms.max(clock::now().wall.0);
        match self.store.save(&self.state) {
            Ok(()) => self.end_trouble("state"),
            Err(error) => {
                let dir = self.config.node.state_dir.display().to_string();
                self.begin_trouble("state", &dir, &error, "make the directory writable, or set state_dir in [node]");
            }
        }
    }

    /// Reports trouble: in the log when it is new, in the status until it ends.
    fn begin_trouble(&mut self, code: &str, subject: &str, text: &impl ToString, fix: &str) {
        let trouble = problem(code, subject, text.to_string(), fix);
        if !self.troubles.contains(&trouble) {
            tracing::error!("{subject}: {}; fix: {fix}", trouble.text);
            self.end_trouble(code);
            self.troubles.push(trouble);
        }
    }

    fn end_trouble(&mut self, code: &str) {
        self.troubles.retain(|trouble| trouble.code != code);
    }
}

/// Sockets that become readable when the program shall stop, and when it shall read its configuration again.
fn signals() -> io::Result<(UnixStream, UnixStream)> {
    let (stop, stopper) = UnixStream::pair()?;
    let (reload, reloader) = UnixStream::pair()?;
    reload.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(SIGINT, stopper.try_clone()?)?;
    signal_hook::low_level::pipe::register(SIGTERM, stopper)?;
    signal_hook::low_level::pipe::register(SIGHUP, reloader)?;
    Ok((stop, reload))
}

fn drain(socket: &mut UnixStream) {
    let mut bytes = [0; 64];
    while matches!(socket.read(&mut bytes), Ok(length) if length > 0) {}
}
