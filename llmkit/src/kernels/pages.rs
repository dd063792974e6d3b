//! Memory for weights: many matrices in one region of large pages.
//!
//! A decoded token reads every weight once. With pages of 4 KiB the processor looks up some 30,000 addresses on the way and its
//! prefetch ends at each; with pages of 2 MiB, some 60. Linux gives them for regions of that size that ask (`madvise`), and one
//! matrix is smaller: so matrices lie one behind the other in regions of 16 MiB. A region lives as long as anything in it.
//! Elsewhere, and where the system has none to give, it is memory like any other.

#![allow(unsafe_code)]

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use half::f16;
use memmap2::MmapMut;

use super::panel::{LANES, Line};

/// Bytes of a region that matrices share.
const REGION: usize = 1 << 24;
/// What is smaller than this is held by itself: a page of 2 MiB for a few bytes would be a waste.
const SMALL: usize = 1 << 16;
/// Matrices begin at multiples of this.
const ALIGN: usize = 64;

/// Types of which all bytes zero is a value, and which need no dropping.
///
/// # Safety
/// Both must hold, and the alignment must divide 64.
pub unsafe trait Zeroable: Copy + Send + Sync {
    /// The value of which all bytes are zero.
    const ZERO: Self;
}

// SAFETY: an array of integers.
unsafe impl Zeroable for Line {
    const ZERO: Line = Line::ZERO;
}

// SAFETY: an array of numbers whose bits may be any.
unsafe impl Zeroable for [f16; LANES] {
    const ZERO: [f16; LANES] = [f16::ZERO; LANES];
}

/// Mapped memory. Only [`Pages`] refer to it, each to a part of its own.
struct Region {
    base: NonNull<u8>,
    bytes: usize,
    _map: MmapMut,
}

// SAFETY: the memory is reached through `Pages` alone, whose parts do not overlap.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    fn new(bytes: usize) -> Option<Region> {
        let mut map = MmapMut::map_anon(bytes).ok()?;
        // Large pages are a matter of speed: without them all goes on.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Some(Region {
            base: NonNull::new(map.as_mut_ptr())?,
            bytes,
            _map: map,
        })
    }

    /// A part of `bytes`, none if the system has no memory: nobody else has or gets the same.
    fn part(bytes: usize) -> Option<(Arc<Region>, NonNull<u8>)> {
        /// The region that is being filled, and how far.
        static CURRENT: Mutex<(Weak<Region>, usize)> = Mutex::new((Weak::new(), 0));
        let bytes = bytes.next_multiple_of(ALIGN);
        if bytes > REGION / 4 {
            let region = Arc::new(Region::new(bytes)?);
            let base = region.base;
            return Some((region, base));
        }
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        let open = current.0.upgrade();
        let region = match open.filter(|it| it.bytes - current.1 >= bytes) {
            Some(region) => region,
            None => {
                let region = Arc::new(Region::new(REGION)?);
                *current = (Arc::downgrade(&region), 0);
                region
            }
        };
        // SAFETY: the part ends inside the region.
        let at = unsafe { region.base.add(current.1) };
        current.1 += bytes;
        Some((region, at))
    }
}

/// A slice that nobody changes but its owner.
pub struct Pages<T: Zeroable> {
    at: NonNull<T>,
    len: usize,
    /// Where it lies; none if it has a box of its own.
    region: Option<Arc<Region>>,
}

// SAFETY: it is a slice of T, which is both.
unsafe impl<T: Zeroable> Send for Pages<T> {}
// SAFETY: as above.
unsafe impl<T: Zeroable> Sync for Pages<T> {}

impl<T: Zeroable> Pages<T> {
    /// `len` items, zeros at first, that `fill` sets.
    pub fn new(len: usize, fill: impl FnOnce(&mut [T])) -> Pages<T> {
        let part = match len * size_of::<T>() {
            0..SMALL => None,
            bytes => Region::part(bytes),
        };
        let (at, region) = match part {
            Some((region, at)) => (at.cast(), Some(region)),
            None => {
                let alone = Box::leak(vec![T::ZERO; len].into_boxed_slice());
                (NonNull::from(alone).cast(), None)
            }
        };
        let pages = Pages { at, len, region };
        // SAFETY: the part is that long, aligned, zero (fresh from the system, or just written), and nobody else's yet. A panic of
        // `fill` drops `pages`, which gives the memory back.
        fill(unsafe { std::slice::from_raw_parts_mut(pages.at.as_ptr(), len) });
        pages
    }
}

impl<T: Zeroable> DerefMut for Pages<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as of `deref`; parts do not overlap, and this one is borrowed for writing.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.len) }
    }
}

impl<T: Zeroable> Drop for Pages<T> {
    fn drop(&mut self) {
        if self.region.is_none() {
            let all = std::ptr::slice_from_raw_parts_mut(self.at.as_ptr(), self.len);
            // SAFETY: it came from a leaked box, and goes back once.
            drop(unsafe { Box::from_raw(all) });
        }
    }
}

impl<T: Zeroable> Deref for Pages<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: filled, that long, and changed by nobody as long as it is borrowed.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len) }
    }
}

impl<T: Zeroable> Clone for Pages<T> {
    fn clone(&self) -> Pages<T> {
        Pages::new(self.len, |all| all.copy_from_slice(self))
    }
}

impl<T: Zeroable + PartialEq> PartialEq for Pages<T> {
    fn eq(&self, other: &Pages<T>) -> bool {
        **self == **other
    }
}

impl<T: Zeroable> fmt::Debug for Pages<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} items", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_where_they_were_put_and_parts_do_not_overlap() {
        let lengths = [0, 1, 1023, 1024, 5000, 70_000, 1024, 300_000];
        let made: Vec<Pages<Line>> = std::thread::scope(|scope| {
            let made = (0..4 * lengths.len()).map(|seed| {
                scope.spawn(move || {
                    let len = lengths[seed % lengths.len()];
                    Pages::new(len, |all: &mut [Line]| {
                        assert!(all.iter().all(|it| *it == Line::ZERO));
                        all.fill(Line([seed as u32 + 1; LANES]));
                    })
                })
            });
            let made: Vec<_> = made.collect();
            made.into_iter().map(|it| it.join().unwrap()).collect()
        });
        for (seed, pages) in made.iter().enumerate() {
            assert_eq!(pages.len(), lengths[seed % lengths.len()]);
            assert_eq!(pages.as_ptr().addr() % ALIGN, 0);
            let own = Line([seed as u32 + 1; LANES]);
            assert!(pages.iter().all(|it| *it == own), "{seed}");
        }
        let copy = made[4].clone();
        drop(made);
        assert!(copy.iter().all(|it| *it == Line([5; LANES])));
    }

    #[test]
    fn a_fill_that_panics_loses_nothing_else() {
        let before = Pages::new(2000, |all: &mut [Line]| all.fill(Line([7; LANES])));
        for len in [10, 2000] {
            let made = std::panic::catch_unwind(|| {
                Pages::<Line>::new(len, |_| panic!("planted"));
            });
            assert!(made.is_err());
        }
        let after = Pages::new(2000, |all: &mut [Line]| all.fill(Line([8; LANES])));
        assert!(before.iter().all(|it| *it == Line([7; LANES])));
        assert!(after.iter().all(|it| *it == Line([8; LANES])));
    }
}
