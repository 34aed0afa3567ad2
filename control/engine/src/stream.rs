//! Whether streams are alive: what each gateway sends to each group, as far as it is opened here.
//!
//! A stream is judged by itself. It flows while packets come; how far apart they were lately says how long a silence means
//! nothing: a camera's is over after [`SILENCE`], a beacon's of one packet in ten seconds after half a minute. That a
//! stream ends is no fault, only an operator knows. It is told once, with whether its gateway is still reached, and told
//! again when it is back.

use crate::Engine;
use crate::output::Event;
use crate::time::{Instant, Now};
use crate::timer::Timer;
use crate::view::{Role, StreamView};
use core::time::Duration;
use gemcast_proto::id::{Group, KeyId, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// No shorter silence means anything.
const SILENCE: Duration = Duration::from_secs(3);
/// Every longer one does.
const SILENCE_MOST: Duration = Duration::from_secs(60);
/// Usual gaps that make a silence.
const GAPS: u32 = 3;
/// Part of the longest gap that each look at the counters has us forget.
const FORGET_PART: u32 = 16;
/// A stream that has been silent for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(3600);

/// A source gateway and the group it sends to.
type Name = (NodeId, Group);

struct Stream {
    last_at: Instant,
    /// The longest gap lately.
    gap: Duration,
    silent: bool,
}

impl Stream {
    fn due(&self) -> Instant {
        let patience = if self.silent { FORGOTTEN } else { (self.gap * GAPS).clamp(SILENCE, SILENCE_MOST) };
        self.last_at + patience
    }
}

/// What became of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Change {
    Silent(Name),
    Back(Name, Duration),
}

/// The streams that are opened here.
#[derive(Default)]
pub(crate) struct Streams {
    streams: BTreeMap<Name, Stream>,
    /// Highest sequence numbers accepted under each key, added up.
    seen: BTreeMap<KeyId, u64>,
}

impl Streams {
    /// Takes in how far keys have come. A key that is seen for the first time says nothing about now.
    fn observe(&mut self, now: Instant, opened: impl IntoIterator<Item = (KeyId, Name, u64)>) -> Vec<Change> {
        let before = core::mem::take(&mut self.seen);
        let mut changes = Vec::new();
        for (key_id, name, highest) in opened {
            self.seen.insert(key_id, highest);
            let came =
                before.get(&key_id).map_or(highest > 0 && self.streams.contains_key(&name), |&was| highest > was);
            if came {
                changes.extend(self.flows(now, name));
            }
        }
        changes
    }

    fn flows(&mut self, now: Instant, name: Name) -> Option<Change> {
        let new = Stream { last_at: now, gap: Duration::ZERO, silent: false };
        let stream = self.streams.entry(name).or_insert(new);
        let gap = now - stream.last_at;
        stream.last_at = now;
        if core::mem::take(&mut stream.silent) {
            // A slow stream, or one that was away.
            stream.gap = if gap * GAPS <= SILENCE_MOST { gap } else { Duration::ZERO };
            return Some(Change::Back(name, gap));
        }
        stream.gap = (stream.gap - stream.gap / FORGET_PART).max(gap);
        None
    }

    /// What is silent now, and when to look again.
    fn expire(&mut self, now: Instant) -> (Vec<Change>, Option<Instant>) {
        self.streams.retain(|_, stream| !stream.silent || now < stream.due());
        let due = self.streams.iter_mut().filter(|(_, stream)| !stream.silent && stream.due() <= now);
        let changes = due.map(|(name, stream)| {
            stream.silent = true;
            Change::Silent(*name)
        });
        (changes.collect(), self.streams.values().map(Stream::due).min())
    }
}

impl Engine {
    /// The data plane opened packets: of each key, the highest sequence numbers so far, added up.
    pub(crate) fn opened(&mut self, now: Now, keys: &[(KeyId, u64)]) {
        // Where another gateway of the LAN forwards, nothing is opened here.
        let opens = |group: &Group| self.role(group).is_none_or(|role| role == Role::Forwarder);
        let named = keys.iter().filter_map(|&(key_id, highest)| {
            let key = self.seks.learnt.get(&key_id).filter(|key| opens(&key.group))?;
            Some((key_id, (key.origin, key.group), highest))
        });
        let named: Vec<_> = named.collect();
        let elsewhere: BTreeSet<Group> =
            self.streams.streams.keys().map(|(_, group)| *group).filter(|group| !opens(group)).collect();
        self.streams.streams.retain(|(_, group), _| !elsewhere.contains(group));
        let changes = self.streams.observe(now.mono, named);
        self.tell_streams(now, changes);
        self.expire_streams(now);
    }

    /// Looks whether streams are silent.
    pub(crate) fn expire_streams(&mut self, now: Now) {
        let (changes, next) = self.streams.expire(now.mono);
        self.tell_streams(now, changes);
        if let Some(at) = next {
            self.timers.set(Timer::Streams, at);
        }
    }

    /// Nothing is known of streams without the data plane, and no silence is theirs.
    pub(crate) fn forget_streams(&mut self) {
        self.streams = Streams::default();
    }

    fn tell_streams(&mut self, now: Now, changes: Vec<Change>) {
        for change in changes {
            let event = match change {
                Change::Silent((origin, group)) => {
                    Event::StreamSilent { origin, group, reached: self.is_alive(origin) }
                }
                Change::Back((origin, group), away) => Event::StreamBack { origin, group, away },
            };
            self.alarm(now, event);
        }
    }

    /// The streams that are opened here.
    pub fn streams(&self) -> Vec<StreamView> {
        let view = |(&(origin, group), stream): (&Name, &Stream)| StreamView {
            origin,
            group,
            silent: stream.silent,
            last_at: stream.last_at,
        };
        self.streams.streams.iter().map(view).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: KeyId = KeyId(7);

    fn name() -> Name {
        (NodeId([1; 8]), "239.1.1.1".parse().unwrap())
    }

    fn at(ms: u64) -> Instant {
        Instant(ms * 1000)
    }

    /// Feeds a stream whose packets come every `gap_ms` and is looked at every second, until `end_ms`.
    fn flow(streams: &mut Streams, gap_ms: u64, end_ms: u64) -> Vec<Change> {
        let mut changes = vec![];
        for ms in (0..=end_ms).step_by(1000) {
            changes.extend(streams.observe(at(ms), [(KEY, name(), 1 + ms / gap_ms)]));
            changes.extend(streams.expire(at(ms)).0);
        }
        changes
    }

    #[test]
    fn f30_a_stream_that_stops_is_told_once_and_so_is_its_return() {
        let mut streams = Streams::default();
        assert_eq!(flow(&mut streams, 10, 20_000), []);
        assert_eq!(streams.expire(at(22_900)).0, []);
        assert_eq!(streams.expire(at(23_000)), (vec![Change::Silent(name())], Some(at(3_620_000))));
        assert_eq!(streams.expire(at(60_000)).0, []);
        // Under a new key, as after a change of keys.
        let back = streams.observe(at(70_000), [(KeyId(8), name(), 5)]);
        assert_eq!(back, [Change::Back(name(), Duration::from_secs(50))]);
        streams.expire(at(80_000));
        assert_eq!(streams.expire(at(4_000_000)).1, None, "it is forgotten");
    }

    #[test]
    fn f38_a_slow_stream_is_not_silent_between_its_packets() {
        let mut streams = Streams::default();
        // Its second packet comes later than anybody could know.
        let changes = flow(&mut streams, 10_000, 300_000);
        assert!(changes.len() <= 2, "{changes:?}");
        assert_eq!(streams.expire(at(329_000)).0, []);
        assert_eq!(streams.expire(at(330_000)).0, [Change::Silent(name())]);
    }

    #[test]
    fn f30_what_was_opened_before_we_looked_is_no_stream() {
        let mut streams = Streams::default();
        assert_eq!(streams.observe(at(0), [(KEY, name(), 1000)]), []);
        assert_eq!(streams.observe(at(1000), [(KEY, name(), 1000)]), []);
        assert_eq!(streams.expire(at(10_000)), (vec![], None));
        // Counters of another data plane begin anew.
        assert_eq!(streams.observe(at(11_000), [(KEY, name(), 3)]), []);
        assert!(streams.streams.is_empty());
    }
}
