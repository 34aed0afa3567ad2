//! Group keys by epoch: those of the configuration, and those of the administrator's packages.
//!
//! A package counts once it is whole: the package and as many shares of its version as it says, with the digest it says.
//! Half of one changes nothing. From then on its key is accepted, so that senders whose clocks are ahead are heard; at
//! its time it becomes the one to send with; and when everyone had time to change, the epochs before it are over:
//!
//! ```text
//!  whole           starts                    ends the epochs before
//!  |--- accepted ---|--- sent with ---...
//!                   |-- overlap + skew -------|
//! ```
//! Who is given no share of it loses the group at that point. An epoch of the configuration is there from the beginning.
//!
//! What began or ended stays so. Objects lie in slots, where later epochs replace earlier ones, and go with their
//! administrator; so a package in force is kept until a higher one ends it, and which epochs are over is kept by itself,
//! across restarts, too. The wall clock may be set back: epochs go by the latest time known to have been, and only the
//! operator, who vouches for the clock, takes back what a clock that was ahead began and ended.

use crate::config::{Config, Protection};
use crate::input::{AdoptedKey, Floor};
use crate::kmg;
use crate::object::SKEW;
use crate::output::{Event, Output};
use crate::secret::Secret;
use crate::share::{self, Binding};
use crate::time::{Now, UnixMillis};
use crate::timer::Timer;
use crate::{Engine, derive};
use core::ops::RangeInclusive;
use core::time::Duration;
use gemcast_proto::id::{Epoch, Group, NodeId};
use gemcast_proto::wire::gem::kmg::{PackagePayload, SharePayload};
use gemcast_proto::wire::gem::{ObjectKind, ObjectName};
use std::collections::{BTreeMap, BTreeSet};
use subtle::ConstantTimeEq;

/// A package that is to start at once starts this much later where it becomes whole, so that the keys made under it are
/// known everywhere before the first packet. As long again are the epochs before an emergency's accepted.
pub(crate) const CHANGE: Duration = Duration::from_secs(2);
/// A package that is whole this long after its start, as after a restart, is taken to have started long ago.
const LATE: Duration = Duration::from_secs(60);
/// Objects of a package arrive one by one: they are looked at together.
pub(crate) const GATHER: Duration = Duration::from_millis(20);

/// A package that is whole.
struct Package {
    issuer: NodeId,
    version: u64,
    /// `None`: this gateway was given no share of it.
    gak: Option<Secret<32>>,
    starts: UnixMillis,
    ends_others: UnixMillis,
}

/// A group key that is accepted.
struct Gak {
    key: Secret<32>,
    /// When it becomes one to send with.
    starts: UnixMillis,
}

/// All group keys.
#[derive(Default)]
pub(crate) struct Gaks {
    rings: BTreeMap<Group, BTreeMap<Epoch, Gak>>,
    packages: BTreeMap<(Group, Epoch), Package>,
    /// Epochs that ended those below them, and since when; the highest counts. The ones before it are kept for an operator
    /// who vouches for an earlier time.
    floors: BTreeMap<(Group, Epoch), UnixMillis>,
    /// Whether something is to be kept before it has effects.
    unsaved: bool,
}

/// Floors of a group that are kept.
const MAX_FLOORS: usize = 4;

impl Gaks {
    /// The key of an epoch that is accepted.
    pub(crate) fn get(&self, group: Group, epoch: Epoch) -> Option<&Secret<32>> {
        self.rings.get(&group)?.get(&epoch).map(|gak| &gak.key)
    }

    /// Epochs that are accepted, ascending.
    pub(crate) fn epochs(&self, group: Group) -> Vec<Epoch> {
        self.rings.get(&group).map(|ring| ring.keys().copied().collect()).unwrap_or_default()
    }

    /// Epoch to send with at a time, and since when it is.
    pub(crate) fn sending(&self, group: Group, at: UnixMillis) -> Option<(Epoch, UnixMillis)> {
        let ring = self.rings.get(&group)?.iter().rev();
        ring.map(|(epoch, gak)| (*epoch, gak.starts)).find(|(_, starts)| *starts <= at)
    }

    /// The first epoch that is not over.
    fn floor(&self, group: Group) -> Epoch {
        self.floors.range(all_of(group)).next_back().map_or(Epoch(0), |(&(_, epoch), _)| epoch)
    }

    /// The epochs of a group below this one are over.
    fn end_below(&mut self, group: Group, epoch: Epoch, since: UnixMillis) {
        if epoch <= self.floor(group) {
            return;
        }
        self.floors.insert((group, epoch), since);
        if self.floors.range(all_of(group)).count() > MAX_FLOORS {
            let oldest = self.floors.range(all_of(group)).next().map(|(&place, _)| place);
            oldest.and_then(|place| self.floors.remove(&place));
        }
        self.unsaved = true;
    }

    /// Takes down which epochs the packages have ended.
    fn end_epochs(&mut self, at: UnixMillis) {
        let ending = self.packages.iter().filter(|(_, package)| package.ends_others <= at);
        let ending: Vec<_> = ending.map(|(&place, package)| (place, package.ends_others)).collect();
        ending.into_iter().for_each(|((group, epoch), since)| self.end_below(group, epoch, since));
    }

    /// The epoch in force that a package would take the slot of.
    pub(crate) fn displaced_by(&self, group: Group, epoch: Epoch, at: UnixMillis) -> Option<Epoch> {
        let begun = self.packages.range(all_of(group)).filter(|(_, package)| package.starts <= at);
        let in_force = begun.map(|(&(_, epoch), _)| epoch).next_back()?;
        (in_force != epoch && kmg::slot_of(in_force) == kmg::slot_of(epoch)).then_some(in_force)
    }

    /// When something changes next.
    fn next_change(&self, now: UnixMillis, lead: Duration) -> Option<UnixMillis> {
        let times = self.packages.values().flat_map(|package| {
            let announced = UnixMillis(package.starts.0.saturating_sub(lead.as_millis() as u64));
            [announced, package.starts, package.ends_others]
        });
        times.filter(|&at| at > now).min()
    }
}

impl Engine {
    /// Looks for packages that have become whole.
    pub(crate) fn survey_packages(&mut self, now: Now) {
        let mut standing = BTreeSet::new();
        for issuer in self.objects.administrators().collect::<Vec<_>>() {
            let mut shares = BTreeMap::<_, Vec<[u8; 32]>>::new();
            for stored in self.objects.of(issuer, ObjectKind::GAK_SHARE).filter(|stored| !stored.header.tombstone) {
                if let Ok(share) = SharePayload::parse(stored.payload()) {
                    let of = (share.group, share.epoch, stored.header.version);
                    shares.entry(of).or_default().push(kmg::hash(stored.payload()));
                }
            }
            let packages = self.objects.of(issuer, ObjectKind::GAK_PACKAGE).filter(|stored| !stored.header.tombstone);
            let packages = packages
                .filter_map(|stored| Some((PackagePayload::parse(stored.payload()).ok()?, stored.header.version)));
            for (package, version) in packages.collect::<Vec<_>>() {
                let place = (package.group, package.epoch);
                if package.epoch < self.gaks.floor(package.group) {
                    continue;
                }
                standing.insert((place, issuer));
                let known = self.gaks.packages.get(&place);
                if known.is_some_and(|known| known.version >= version) {
                    continue;
                }
                let hashes = shares.remove(&(package.group, package.epoch, version)).unwrap_or_default();
                if hashes.len() == usize::from(package.shares) && kmg::digest_of(hashes) == package.digest {
                    self.commit(now, issuer, version, &package);
                }
            }
        }
        let latest = self.latest(now);
        self.gaks.end_epochs(latest);
        let mut packages = core::mem::take(&mut self.gaks.packages);
        packages.retain(|place, package| {
            let over = place.1 < self.gaks.floor(place.0);
            // In force, it stays when another epoch takes its slot, or its administrator goes: only a higher one ends it.
            !over && (package.starts <= latest || standing.contains(&(*place, package.issuer)))
        });
        self.gaks.packages = packages;
    }

    /// The latest time known to have been, by which epochs begin and end.
    pub(crate) fn latest(&self, now: Now) -> UnixMillis {
        now.wall.max(self.clock_floor)
    }

    /// A package is whole.
    fn commit(&mut self, now: Now, issuer: NodeId, version: u64, package: &PackagePayload) {
        let &PackagePayload { group, epoch, emergency, .. } = package;
        let gak = self.open_share(issuer, version, group, epoch);
        let (planned, latest) = (UnixMillis(package.activate_at_ms), self.latest(now));
        let known = self.gaks.packages.get(&(group, epoch)).map(|known| known.starts);
        let starts = match known.filter(|starts| *starts <= latest) {
            // Issued again, for other members.
            Some(started) => started,
            None if latest > planned + LATE => planned,
            None => planned.max(latest + CHANGE),
        };
        let ends_others = if emergency { starts + CHANGE } else { starts + self.config.overlap + SKEW };
        self.event(Event::PackageWhole { group, epoch, starts, member: gak.is_some(), emergency });
        self.gaks.packages.insert((group, epoch), Package { issuer, version, gak, starts, ends_others });
        self.gaks.unsaved = true;
    }

    /// The epochs that are over, for [`Engine::end_epochs`] at the next start.
    pub fn floors(&self) -> Vec<Floor> {
        self.gaks.floors.iter().map(|(&(group, epoch), &since)| Floor { group, epoch, since }).collect()
    }

    /// Tells which epochs were over when the process before this one ended. They stay so.
    pub fn end_epochs(&mut self, now: Now, floors: &[Floor]) {
        floors.iter().for_each(|floor| self.gaks.end_below(floor.group, floor.epoch, floor.since));
        self.gaks.unsaved = false;
        self.refresh_gaks(now, false);
    }

    /// Keys of ours in the maps of an epoch that is not known any more tell that its package was in force here: what is kept
    /// in files was lost, and the epochs before it, of the configuration, may be over.
    pub(crate) fn end_epochs_before(&mut self, now: Now, found: &[AdoptedKey]) {
        if self.config.administrators.is_empty() {
            return;
        }
        for key in found.iter().filter(|key| key.seals && key.origin == self.id) {
            if self.gaks.epochs(key.group).last().is_some_and(|&last| last < key.epoch) {
                let since = self.latest(now);
                self.gaks.end_below(key.group, key.epoch, since);
            }
        }
        if self.gaks.unsaved {
            self.refresh_gaks(now, false);
        }
    }

    /// The operator vouches for this time: what a clock that was ahead began and ended did not.
    pub(crate) fn take_back_epochs(&mut self, now: Now) {
        let floors = self.gaks.floors.len();
        self.gaks.floors.retain(|_, since| *since <= now.wall);
        self.gaks.unsaved |= self.gaks.floors.len() < floors;
        self.survey_packages(now);
        self.refresh_gaks(now, false);
    }

    fn open_share(&mut self, issuer: NodeId, version: u64, group: Group, epoch: Epoch) -> Option<Secret<32>> {
        let id = kmg::share_id(group, epoch, self.id);
        let stored = self.objects.get(&ObjectName { origin: issuer, kind: ObjectKind::GAK_SHARE, id })?;
        let share = SharePayload::parse(stored.payload()).ok()?;
        if stored.header.version != version || share.epoch != epoch {
            return None;
        }
        let binding = Binding { group, epoch, member: self.id, administrator: issuer };
        let gak = share::open(&self.config.node.agreement_key, &binding, &share.enc, &share.ciphertext);
        if gak.is_none() {
            self.counters.shares_not_opened += 1;
            self.event(Event::ShareNotOpened { group, epoch });
        }
        gak
    }

    /// The keys accepted now, from the configuration and the packages.
    fn rings(&self, config: &Config) -> BTreeMap<Group, BTreeMap<Epoch, Gak>> {
        let mut rings = BTreeMap::new();
        if self.objects.is_revoked(self.id) {
            return rings;
        }
        for config in &config.groups {
            let Protection::Sealed { gaks, .. } = &config.protection else { continue };
            let group = config.group;
            let floor = self.gaks.floor(group);
            let configured = gaks.iter().map(|(epoch, key)| (*epoch, key, UnixMillis(0)));
            let packages = self.gaks.packages.range(all_of(group));
            let packaged = packages.filter_map(|((_, epoch), p)| Some((*epoch, p.gak.as_ref()?, p.starts)));
            // The administrator's word counts more than a file's.
            let all = configured.chain(packaged).filter(|(epoch, ..)| *epoch >= floor);
            rings
                .insert(group, all.map(|(epoch, key, starts)| (epoch, Gak { key: key.duplicate(), starts })).collect());
        }
        rings
    }

    /// Makes the accepted keys what configuration, packages and time say. Everything that depends on them follows if they
    /// changed, or in any case.
    pub(crate) fn refresh_gaks(&mut self, now: Now, in_any_case: bool) {
        let latest = self.latest(now);
        self.gaks.end_epochs(latest);
        if core::mem::take(&mut self.gaks.unsaved) {
            self.outputs.push_back(Output::Persist { at_once: true });
        }
        let rings = self.rings(&self.config);
        let before = core::mem::replace(&mut self.gaks.rings, rings);
        let places = |rings: &BTreeMap<Group, BTreeMap<Epoch, Gak>>| -> BTreeSet<(Group, Epoch)> {
            rings.iter().flat_map(|(&group, ring)| ring.keys().map(move |&epoch| (group, epoch))).collect()
        };
        let (old, new) = (places(&before), places(&self.gaks.rings));
        let differs = |&(group, epoch): &(Group, Epoch)| {
            let key = self.gaks.get(group, epoch).expect("listed above").expose();
            !bool::from(before[&group][&epoch].key.expose().ct_eq(key))
        };
        let rekeyed: Vec<_> = old.intersection(&new).copied().filter(differs).collect();
        if self.seks.incarnation.is_some() {
            for &(group, epoch) in new.difference(&old).chain(&rekeyed) {
                self.install_gtag(group, epoch);
            }
        }
        if in_any_case || old != new || !rekeyed.is_empty() {
            self.regroup(now, &rekeyed);
        } else {
            self.tend_own(now);
        }
        self.outputs.extend(old.difference(&new).map(|&(group, epoch)| Output::RemoveGtag { group, epoch }));
        if let Some(at) = self.gaks.next_change(latest, self.config.announce_lead) {
            // The wall clock may be set while we wait: looked at again every minute.
            let wait = Duration::from_millis(at.0.saturating_sub(now.wall.0)).min(Duration::from_secs(60));
            self.timers.set(Timer::Gaks, now.mono + wait);
        }
    }

    fn install_gtag(&mut self, group: Group, epoch: Epoch) {
        let Some(gak) = self.gaks.get(group, epoch) else { return };
        let key = derive::gtag_key(gak, group, epoch);
        self.outputs.push_back(Output::InstallGtag { group, epoch, key });
    }

    pub(crate) fn install_gtags(&mut self) {
        let rings = self.gaks.rings.iter();
        let places: Vec<_> = rings.flat_map(|(&group, ring)| ring.keys().map(move |&epoch| (group, epoch))).collect();
        for (group, epoch) in places {
            self.install_gtag(group, epoch);
        }
    }

    /// Whether a key found in the maps is bound to an epoch that is accepted.
    pub(crate) fn is_accepted(&self, key: &AdoptedKey) -> bool {
        self.gaks.get(key.group, key.epoch).is_some()
    }
}

/// Every place of a group.
fn all_of(group: Group) -> RangeInclusive<(Group, Epoch)> {
    (group, Epoch(0))..=(group, Epoch(u16::MAX))
}
