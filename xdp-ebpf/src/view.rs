//! A memory-mapped BPF array: the one place that turns a map's pages into typed, shared memory.
#![allow(unsafe_code)]

use memmap2::{MmapOptions, MmapRaw};
use std::io;
use std::mem::{align_of, size_of};
use std::ops::Deref;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;

/// Types that may live in shared memory: only atomics inside, no padding, valid for any bytes.
///
/// # Safety
/// The type is `repr(C)`, consists of atomic integers only, and so is valid and race-free whatever another process writes.
pub unsafe trait Shared {}

/// The entries of a `BPF_F_MMAPABLE` array map, shared with every other process that maps it.
///
/// The pages stay valid as long as this lives, whatever happens to the map's pin or its other users.
pub struct Mapped<T: Shared> {
    pages: MmapRaw,
    entries: usize,
    element: std::marker::PhantomData<T>,
}

impl<T: Shared> Mapped<T> {
    /// Maps `entries` values of an mmapable array. Fails when the kernel refuses: not such a map, or smaller.
    pub fn new(map: impl AsFd, entries: usize) -> io::Result<Self> {
        let length = length::<T>(entries)?;
        let pages = MmapOptions::new().len(length).map_raw(map.as_fd().as_raw_fd())?;
        assert!(pages.as_ptr().cast::<T>().is_aligned(), "pages are aligned to {}", align_of::<T>());
        Ok(Self { pages, entries, element: std::marker::PhantomData })
    }

    /// The same layout in private memory, for tests and benchmarks.
    pub fn anonymous(entries: usize) -> io::Result<Self> {
        let pages = MmapRaw::from(MmapOptions::new().len(length::<T>(entries)?).map_anon()?);
        Ok(Self { pages, entries, element: std::marker::PhantomData })
    }
}

fn length<T>(entries: usize) -> io::Result<usize> {
    let length = entries.checked_mul(size_of::<T>()).filter(|&length| length > 0);
    length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a map of no or too many entries"))
}

impl<T: Shared> Deref for Mapped<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the mapping holds `entries` elements and lives as long as `self`; `T: Shared` is made of atomics, so any
        // content is valid and concurrent access from other threads and processes is defined. BPF array values are laid
        // out back to back because every Shared type's size is a multiple of 8.
        unsafe { std::slice::from_raw_parts(self.pages.as_ptr().cast::<T>(), self.entries) }
    }
}

// SAFETY: the pages are plain shared memory and `T: Shared` is made of atomics.
unsafe impl<T: Shared> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T: Shared> Sync for Mapped<T> {}
