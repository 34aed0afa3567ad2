//! gemcastd: the control process of a gemcast gateway.

use clap::Parser;
use gemcast_control::config::{self, Config};
use gemcast_control::event_loop::Daemon;
use gemcast_control::interfaces::{Interfaces, State};
use gemcast_control::log;
use gemcast_control::netlink::Netlink;
use rustix::fs::Mode;
use rustix::mm::MlockAllFlags;
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use rustix::thread::CapabilitySet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The configuration is wrong.
const EXIT_CONFIG: u8 = 5;
/// The identity is missing, unreadable, open to others, or no identity; whatever else is wrong.
const EXIT_IDENTITY: u8 = 7;

/// Control process of a gemcast gateway: routing, keys, and the operator's socket.
///
/// Exit codes: 0 stopped, 1 error, 2 usage, 5 configuration or one of its keys invalid, 7 identity missing or invalid. With
/// 5 and 7 nothing was started; the data plane goes on with what it has.
#[derive(Parser)]
#[command(name = "gemcastd", version)]
struct Arguments {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// Check the configuration and the key files it names, then exit
    #[arg(long)]
    check: bool,
    /// Directory of sockets and maps, instead of the configured one
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Name of the instance, instead of the configured one
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
    /// Form of the log
    #[arg(long, value_enum, default_value_t)]
    log_format: log::Format,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    protect_secrets();
    let mut config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(errors) => {
            errors.0.iter().for_each(|error| eprintln!("gemcastd: {error}"));
            return if errors.of_identity() { EXIT_IDENTITY } else { EXIT_CONFIG }.into();
        }
    };
    if let Err(error) = config.relocate(arguments.run_dir, arguments.instance) {
        eprintln!("gemcastd: {error}");
        return EXIT_CONFIG.into();
    }
    if arguments.check {
        return check(&arguments.config, &config);
    }
    if let Err(error) = log::start(arguments.log_format) {
        eprintln!("gemcastd: cannot log to the journal: {error}; use --log-format text");
        return ExitCode::FAILURE;
    }
    lock_memory();
    match Daemon::start(config, arguments.config).and_then(|mut daemon| daemon.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gemcastd: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Keeps keys out of core dumps and other processes' reach; files made are for this user only.
fn protect_secrets() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    // Neither fails on a kernel that runs the rest of this.
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _ = rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

/// Keeps keys out of swap, where that can be done without a limit: under one, a later allocation would fail.
fn lock_memory() {
    let exempt = rustix::thread::capabilities(None)
        .is_ok_and(|capabilities| capabilities.effective.contains(CapabilitySet::IPC_LOCK));
    let unlimited = Rlimit { current: None, maximum: None };
    if !exempt && rustix::process::setrlimit(Resource::Memlock, unlimited).is_err() {
        tracing::warn!("memory is not locked, so keys may reach swap; set LimitMEMLOCK=infinity, or give CAP_IPC_LOCK");
    } else if let Err(error) = rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE) {
        tracing::warn!("memory cannot be locked, so keys may reach swap: {error}");
    }
}

/// `--check`: everything that can be known without running.
fn check(path: &Path, config: &Config) -> ExitCode {
    match Netlink::open() {
        Ok(netlink) => {
            let mut interfaces = Interfaces::default();
            interfaces.configure(config);
            interfaces.update(&netlink);
            for interface in interfaces.iter() {
                if let (state @ (State::Missing | State::Down), why) = interface.state() {
                    let (name, fix) = (&interface.config.name, interface.fix());
                    eprintln!("gemcastd: warning: interface {name} is {}: {why}; fix: {fix}", state.name());
                }
            }
        }
        Err(error) => eprintln!("gemcastd: warning: cannot list the interfaces: {error}"),
    }
    let (interfaces, groups) = (config.interfaces.len(), config.groups.len());
    println!("{}: configuration is good: {interfaces} interfaces, {groups} groups", path.display());
    ExitCode::SUCCESS
}
