//! `cargo xtask lab`: a lab from the command line, for people and for scripts.

use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use gemcast_lab::{Lab, Options, Topology};

use crate::error::{Error, Result};
use crate::{compile, fault};

#[derive(Subcommand)]
pub(crate) enum Task {
    /// Raise a lab and wait until its gateways have each other's keys.
    Up {
        /// pair, trio, line, dual or redundant.
        #[arg(long, default_value = "pair")]
        topology: String,
        #[command(flatten)]
        instance: Instance,
        /// Describe it as JSON, for scripts.
        #[arg(long)]
        json: bool,
        /// Hosts and links only; gateways are configured, but nothing runs in them.
        #[arg(long)]
        no_daemons: bool,
        /// A segment whose links `fault` can make lose, delay and bend frames; may be repeated.
        #[arg(long, value_name = "SEGMENT")]
        faulty: Vec<String>,
        /// Gateways' state directories are small file systems of their own, which `fault` can fill.
        #[arg(long)]
        small_state: bool,
    },
    /// Make things go wrong in a lab that is up, and right again.
    Fault(fault::Arguments),
    /// Remove a lab, exactly what `up` made of it.
    Down {
        #[command(flatten)]
        instance: Instance,
    },
    /// Run a command in a host.
    Exec {
        #[command(flatten)]
        instance: Instance,
        /// Name of the host.
        host: String,
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Describe a lab that is up.
    Status {
        #[command(flatten)]
        instance: Instance,
        /// As JSON, for scripts.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
pub(crate) struct Instance {
    /// Tells labs on one machine apart.
    #[arg(long, default_value = "default")]
    instance: String,
}

pub(crate) fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Up { topology, instance, json, no_daemons, faulty, small_state } => {
            let topology = Topology::named(&topology)?;
            let mut options = Options { faulty, small_state, ..Options::new(&instance.instance) };
            if no_daemons {
                options = options.without_daemons();
            } else {
                compile::for_lab()?;
            }
            let mut lab = Lab::up(topology, options)?;
            lab.keep()?;
            print(&lab, json);
        }
        Task::Down { instance } => {
            if !Lab::down(&instance.instance)? {
                println!("no lab `{}` is up", instance.instance);
            }
        }
        Task::Exec { instance, host, command } => {
            let lab = Lab::attach(&instance.instance)?;
            let mut inside = lab.find_host(&host)?.command(&command[0]);
            let error = inside.args(&command[1..]).exec();
            return Err(Error::Io(format!("running `{}` in {host}", command.join(" ")), error));
        }
        Task::Fault(arguments) => return fault::run(arguments),
        Task::Status { instance, json } => print(&Lab::attach(&instance.instance)?, json),
    }
    Ok(ExitCode::SUCCESS)
}

fn print(lab: &Lab, json: bool) {
    let facts = lab.facts();
    if json {
        println!("{}", serde_json::to_string_pretty(&facts).expect("the facts have string keys only"));
    } else {
        print!("{}", facts.to_text());
    }
}
