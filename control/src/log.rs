//! Where log lines go, and how often the same one may come.

use std::time::{Duration, Instant};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Value of `--log-format`.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// Lines for people, on standard error.
    #[default]
    Text,
    /// One JSON object a line, on standard error.
    Json,
    /// systemd's journal, with fields.
    Journald,
}

/// Levels unless `RUST_LOG` says otherwise.
const LEVELS: &str = "info";
/// The netlink parser warns of every attribute newer than itself.
const QUIET: &str = "netlink_packet_route=error";

/// Starts logging.
pub fn start(format: Format) -> std::io::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LEVELS));
    let filter = filter.add_directive(QUIET.parse().expect("a directive"));
    let registry = tracing_subscriber::registry().with(filter);
    let plain = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    match format {
        Format::Text => registry.with(plain.with_ansi(false)).init(),
        Format::Json => registry.with(plain.json()).init(),
        Format::Journald => registry.with(tracing_journald::layer()?).init(),
    }
    Ok(())
}

/// Lets one line through in a while, and counts the rest.
#[derive(Default)]
pub struct Throttle {
    last: Option<Instant>,
    held_back: u64,
}

impl Throttle {
    const INTERVAL: Duration = Duration::from_secs(5);

    /// Whether to log now; if so, how many lines were held back since the last one.
    pub fn permit(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.duration_since(last) < Self::INTERVAL) {
            self.held_back += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_in_a_while_and_a_count_of_the_others() {
        let mut throttle = Throttle::default();
        let start = Instant::now();
        assert_eq!(throttle.permit(start), Some(0));
        assert_eq!(throttle.permit(start + Duration::from_secs(1)), None);
        assert_eq!(throttle.permit(start + Duration::from_secs(2)), None);
        assert_eq!(throttle.permit(start + Duration::from_secs(6)), Some(2));
    }
}
