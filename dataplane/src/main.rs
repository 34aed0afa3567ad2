//! gemcast-dataplane: the packet path of a gateway. Takes everything it does from gemcastd and goes on without it.

use clap::Parser;
use gemcast_dataplane::plane::{Options, Plane};
use gemcast_dataplane::xdp::{self, MapSizes};
use gemcast_xdp::layout::MAX_QUEUES;
use std::fs::{self, File, TryLockError};
use std::io::{IsTerminal, Read};
use std::num::NonZeroU32;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

const LOCK_ATTEMPTS: u32 = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The packet path of a gemcast gateway.
#[derive(Parser)]
#[command(name = "gemcast-dataplane", version)]
struct Arguments {
    /// Directory for sockets, pinned maps and the last snapshot
    #[arg(long, default_value = "/run/gemcast", value_name = "DIR")]
    run_dir: PathBuf,
    /// Name of this gateway where several run on one host
    #[arg(long, default_value = "default", value_name = "NAME", value_parser = instance_name)]
    instance: String,
    /// CPUs for the workers, one worker each; worker i serves receive queue i of every interface
    #[arg(long, value_delimiter = ',', value_name = "CPU,…")]
    cores: Vec<usize>,
    /// Packet memory of a worker, in frames of 4 KiB
    #[arg(long, default_value = "16384", value_name = "N", value_parser = clap::value_parser!(u32).range(1024..=1 << 20))]
    frames: u32,
    /// Keys the maps hold, a power of two; for maps that are made anew
    #[arg(long, default_value = "16384", value_name = "N", value_parser = power_of_two)]
    max_keys: u32,
    /// Groups the maps hold; for maps that are made anew
    #[arg(long, default_value = "16384", value_name = "N", value_parser = clap::value_parser!(u32).range(16..=1 << 20))]
    max_groups: u32,
    /// Never use zero-copy, even where the drivers have it
    #[arg(long)]
    no_zero_copy: bool,
    /// Detach the XDP program and remove every pin at the end
    #[arg(long)]
    detach_on_exit: bool,
    /// Remove every pin of this instance, which detaches its programs and frees its maps, and end
    #[arg(long)]
    clean: bool,
    /// Form of the log on standard error
    #[arg(long, default_value = "text", value_name = "FORM")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn instance_name(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if text.is_empty() || text.len() > 32 || !text.chars().all(good) || text.starts_with('.') {
        return Err("expected 1 to 32 letters, digits, '-', '_' or '.'".into());
    }
    Ok(text.to_owned())
}

fn power_of_two(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(n) if n.is_power_of_two() && (64..=1 << 24).contains(&n) => Ok(n),
        _ => Err("expected a power of two from 64 to 16777216".into()),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    init_log(arguments.log_format);
    forbid_core_dumps();
    lock_memory();
    raise_file_limit();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("gemcast-dataplane: {message}");
            ExitCode::FAILURE
        }
    }
}

fn init_log(format: LogFormat) {
    // The netlink library remarks on every attribute that a newer kernel has grown.
    let quiet = "netlink_packet_route=error".parse().expect("a directive");
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")).add_directive(quiet);
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().init(),
    }
}

/// Traffic keys are in this process's memory: nobody gets at it through a core dump or ptrace.
fn forbid_core_dumps() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    if let Err(error) = setrlimit(Resource::Core, none).and(set_dumpable_behavior(DumpableBehavior::NotDumpable)) {
        tracing::warn!(%error, "cannot forbid core dumps");
    }
}

/// Keeps traffic keys out of swap, where that can be done without a limit: under one, a later allocation would fail.
fn lock_memory() {
    use rustix::mm::MlockAllFlags;
    use rustix::process::{Resource, Rlimit, setrlimit};
    let exempt = rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::IPC_LOCK));
    let unlimited = Rlimit { current: None, maximum: None };
    // Pages that are never touched, as most of a large map's, need no memory.
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    if !exempt && setrlimit(Resource::Memlock, unlimited).is_err() {
        tracing::warn!("memory is not locked, so keys may reach swap; set LimitMEMLOCK=infinity, or give CAP_IPC_LOCK");
    } else if let Err(error) = rustix::mm::mlockall(flags) {
        tracing::warn!(%error, "memory cannot be locked, so keys may reach swap");
    }
}

/// Memberships of many groups take many sockets.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

fn run(arguments: Arguments) -> Result<(), String> {
    if arguments.cores.len() > MAX_QUEUES as usize {
        return Err(format!("--cores names {} CPUs, expected at most {MAX_QUEUES}", arguments.cores.len()));
    }
    let directory = arguments.run_dir.join(&arguments.instance);
    let in_directory = |error| xdp::no_directory(&directory)(error).to_string();
    fs::DirBuilder::new().recursive(true).mode(0o755).create(&directory).map_err(in_directory)?;
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).map_err(in_directory)?;
    let _lock = lock(&directory.join("dataplane.lock"))?;
    if arguments.clean {
        return xdp::clean(&directory.join("bpf")).map_err(|error| error.to_string());
    }
    let (mut signals, theirs) = UnixStream::pair().map_err(|error| format!("socketpair: {error}"))?;
    signals.set_nonblocking(true).map_err(|error| format!("socketpair: {error}"))?;
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        let pipe = theirs.try_clone().map_err(|error| format!("socketpair: {error}"))?;
        signal_hook::low_level::pipe::register(signal, pipe).map_err(|error| format!("signal handler: {error}"))?;
    }
    let options = Options {
        directory,
        instance: arguments.instance,
        cores: arguments.cores,
        frames: NonZeroU32::new(arguments.frames).expect("at least 1024"),
        sizes: MapSizes {
            keys: arguments.max_keys,
            own_keys: (arguments.max_keys / 4).max(16),
            flows: arguments.max_groups,
        },
        zero_copy: !arguments.no_zero_copy,
        detach_on_exit: arguments.detach_on_exit,
    };
    let plane = Plane::start(options, signals.as_raw_fd()).map_err(|error| error.to_string())?;
    // Not under systemd is no error.
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
    plane.run(|| signals.read(&mut [0; 16]).is_ok_and(|length| length > 0)).map_err(|error| error.to_string())
}

/// Takes the instance's lock. A data plane that is just ending gets a moment to let go.
fn lock(path: &Path) -> Result<File, String> {
    let file = File::create(path).map_err(|error| format!("{}: {error}", path.display()))?;
    for _ in 0..LOCK_ATTEMPTS {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(error)) => return Err(format!("{}: {error}", path.display())),
        }
    }
    Err(format!(
        "{} is held: a data plane of this instance is running; stop it, or choose another --instance",
        path.display()
    ))
}
