//! `cargo xtask lab fault`: makes things go wrong in a lab that is up, and right again.

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::{Args, Subcommand};
use gemcast_lab::{Daemon, Effect, Fault, FrameClass, Lab, LinkFault, MapFault};

use crate::error::Result;

/// What to do to which lab.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Tells labs on one machine apart.
    #[arg(long, global = true, default_value = "default")]
    instance: String,
    /// Wait so many seconds, then lift the fault; without it, the fault stays until `lift`.
    #[arg(long, global = true)]
    seconds: Option<u64>,
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Kill a daemon with SIGKILL; lifted, it is started again.
    Kill(Process),
    /// Stop a daemon with SIGSTOP; lifted, it continues.
    Stop(Process),
    /// Lose frames of a segment; with --from or --to, one way.
    Loss(Share),
    /// Flip a bit of frames of a segment.
    Corrupt(Share),
    /// Deliver frames of a segment twice.
    Duplicate(Share),
    /// Deliver frames of a segment behind later ones.
    Reorder(Share),
    /// Delay frames of a segment.
    Delay {
        /// The segment; the lab is up with it as a --faulty one.
        segment: String,
        /// By how much.
        milliseconds: u32,
        /// Give or take up to this.
        #[arg(long, default_value_t = 0)]
        jitter: u32,
        #[command(flatten)]
        frames: Frames,
    },
    /// Repeat the latest frame of a segment over and over.
    Flood {
        /// The segment; the lab is up with it as a --faulty one.
        segment: String,
        /// How often.
        per_second: u32,
        /// Flip a bit of each repetition.
        #[arg(long)]
        forged: bool,
        #[command(flatten)]
        frames: Frames,
    },
    /// Lose all multicast of a segment; unicast passes.
    BlockMulticast {
        /// The segment; the lab is up with it as a --faulty one.
        segment: String,
    },
    /// Cut hosts of a segment off from its others.
    Partition {
        /// The segment; the lab is up with it as a --faulty one.
        segment: String,
        /// One side of the cut.
        #[arg(required = true)]
        hosts: Vec<String>,
    },
    /// Fill a gateway's state directory; the lab is up with --small-state.
    FillDisk {
        /// The gateway.
        gateway: String,
    },
    /// Set a gateway's control daemon's wall clock wrong.
    Skew {
        /// The gateway.
        gateway: String,
        /// How far ahead; behind, when negative.
        #[arg(allow_negative_numbers = true)]
        offset: i64,
    },
    /// Set an interface down.
    Down(Interface),
    /// Delete an interface; lifted, there is another one of the same name and addresses.
    Remove(Interface),
    /// Set an interface down and up, again and again.
    Flap {
        #[command(flatten)]
        interface: Interface,
        /// How often.
        #[arg(long, default_value_t = 5)]
        times: u32,
        /// How long it is down, and then up.
        #[arg(long, default_value_t = 500)]
        milliseconds: u64,
    },
    /// Harm a gateway's BPF maps, once; it puts them right by itself.
    Maps {
        /// The gateway.
        gateway: String,
        /// unpin, empty or scribble (its keys), or counters (wiped).
        #[arg(value_parser = map_fault)]
        fault: MapFault,
    },
    /// Make the random decisions of a faulty segment follow from a seed from now on.
    Seed {
        /// The segment.
        segment: String,
        /// The seed.
        seed: u64,
    },
    /// Show the faults there are.
    List {
        /// As JSON, for scripts.
        #[arg(long)]
        json: bool,
    },
    /// End a fault, or all.
    Lift {
        /// Its number in the list; all when absent.
        number: Option<usize>,
    },
}

#[derive(Args)]
struct Process {
    /// The gateway.
    gateway: String,
    /// control or data-plane.
    #[arg(value_parser = daemon)]
    daemon: Daemon,
}

#[derive(Args)]
struct Interface {
    /// The host.
    host: String,
    /// Its interface.
    interface: String,
}

#[derive(Args)]
struct Share {
    /// The segment; the lab is up with it as a --faulty one.
    segment: String,
    /// How many of a hundred frames.
    #[arg(value_parser = percent)]
    percent: f64,
    #[command(flatten)]
    frames: Frames,
}

/// Which frames meet the fault; all, unless told.
#[derive(Args)]
struct Frames {
    /// Only those that this host sent.
    #[arg(long)]
    from: Option<String>,
    /// Only on their way to this host.
    #[arg(long)]
    to: Option<String>,
    /// any, multicast, babel, babel-multicast, babel-unicast or sealed.
    #[arg(long, default_value = "any", value_parser = class)]
    class: FrameClass,
}

pub(crate) fn run(Arguments { instance, seconds, task }: Arguments) -> Result<ExitCode> {
    let lab = Lab::attach(&instance)?;
    let fault = match task {
        Task::Flap { interface: Interface { host, interface }, times, milliseconds } => {
            let down = Fault::Down { host, interface };
            let pause = Duration::from_millis(milliseconds);
            for _ in 0..times {
                lab.inject(&down)?;
                thread::sleep(pause);
                lab.lift(&down)?;
                thread::sleep(pause);
            }
            return Ok(ExitCode::SUCCESS);
        }
        Task::Seed { segment, seed } => {
            lab.seed_links(&segment, seed)?;
            return Ok(ExitCode::SUCCESS);
        }
        Task::List { json } => {
            show(&lab.faults()?, json);
            return Ok(ExitCode::SUCCESS);
        }
        Task::Lift { number } => return lift(&lab, number),
        Task::Kill(Process { gateway, daemon }) => Fault::Kill { gateway, daemon },
        Task::Stop(Process { gateway, daemon }) => Fault::Stop { gateway, daemon },
        Task::Loss(share) => share.fault(Effect::Loss),
        Task::Corrupt(share) => share.fault(Effect::Corrupt),
        Task::Duplicate(share) => share.fault(Effect::Duplicate),
        Task::Reorder(share) => share.fault(Effect::Reorder),
        Task::Delay { segment, milliseconds, jitter, frames } => {
            frames.fault(segment, Effect::Delay { delay_ms: milliseconds, jitter_ms: jitter })
        }
        Task::Flood { segment, per_second, forged, frames } => {
            frames.fault(segment, Effect::Flood { per_second, forged })
        }
        Task::BlockMulticast { segment } => {
            Fault::Link { segment, fault: LinkFault::new(Effect::Loss(1.0)).class(FrameClass::Multicast) }
        }
        Task::Partition { segment, hosts } => Fault::Partition { segment, hosts },
        Task::FillDisk { gateway } => Fault::FillDisk { gateway },
        Task::Skew { gateway, offset } => Fault::Skew { gateway, seconds: offset },
        Task::Down(Interface { host, interface }) => Fault::Down { host, interface },
        Task::Remove(Interface { host, interface }) => Fault::Remove { host, interface },
        Task::Maps { gateway, fault } => Fault::Maps { gateway, fault },
    };
    lab.inject(&fault)?;
    println!("{fault}");
    if let Some(seconds) = seconds.filter(|_| fault.lasts()) {
        thread::sleep(Duration::from_secs(seconds));
        lab.lift(&fault)?;
        println!("lifted");
    }
    Ok(ExitCode::SUCCESS)
}

fn lift(lab: &Lab, number: Option<usize>) -> Result<ExitCode> {
    let Some(number) = number else {
        lab.lift_all()?;
        return Ok(ExitCode::SUCCESS);
    };
    let faults = lab.faults()?;
    let Some(fault) = number.checked_sub(1).and_then(|index| faults.get(index)) else {
        eprintln!("error: there is no fault {number}; these are the faults there are:");
        show(&faults, false);
        return Ok(ExitCode::FAILURE);
    };
    lab.lift(fault)?;
    Ok(ExitCode::SUCCESS)
}

fn show(faults: &[Fault], json: bool) {
    if json {
        println!("{}", serde_json::to_string_pretty(faults).expect("faults have string keys only"));
    } else {
        (1..).zip(faults).for_each(|(number, fault)| println!("{number:>3}  {fault}"));
    }
}

impl Share {
    fn fault(self, effect: impl Fn(f64) -> Effect) -> Fault {
        self.frames.fault(self.segment, effect(self.percent / 100.0))
    }
}

impl Frames {
    fn fault(self, segment: String, effect: Effect) -> Fault {
        let Self { from, to, class } = self;
        Fault::Link { segment, fault: LinkFault { from, to, class, effect } }
    }
}

fn percent(text: &str) -> std::result::Result<f64, String> {
    let number = text.trim_end_matches('%').parse::<f64>().ok();
    number.filter(|number| (0.0..=100.0).contains(number)).ok_or_else(|| "expected a number from 0 to 100".into())
}

fn class(text: &str) -> std::result::Result<FrameClass, String> {
    let known = FrameClass::ALL.map(FrameClass::name).join(", ");
    FrameClass::ALL.into_iter().find(|class| class.name() == text).ok_or_else(|| format!("expected one of {known}"))
}

fn map_fault(text: &str) -> std::result::Result<MapFault, String> {
    let known = MapFault::ALL.map(MapFault::name).join(", ");
    MapFault::ALL.into_iter().find(|fault| fault.name() == text).ok_or_else(|| format!("expected one of {known}"))
}

fn daemon(text: &str) -> std::result::Result<Daemon, String> {
    match text {
        "control" | "gemcastd" => Ok(Daemon::Control),
        "data-plane" | "gemcast-dataplane" => Ok(Daemon::DataPlane),
        _ => Err("expected control or data-plane".into()),
    }
}
