//! The matrix unit: what it does, as a trait, and the processor's own.

use std::arch::asm;

use super::{has_bytes, is_here};
use crate::kernels::panel::{LANES, Line};

/// Rows of a tile, and words in a row.
pub(in crate::kernels) const SIDE: usize = 16;

/// What a matrix unit does with its eight tiles. Tiles 0 to 3 are C (0, 1 from the first rows, 2, 3 from the second), 4 and 5 A, 6 and 7 B.
///
/// # Safety
/// Of all: the unit is there and configured; pointers reach as far as the tile is configured, `stride` words from row to row.
pub(in crate::kernels) trait Unit {
    /// Makes tiles of `rows` A and C rows, A of `words` words a row and B of as many rows; forgets all tiles.
    unsafe fn configure(&mut self, rows: [usize; 2], words: usize);
    unsafe fn zero<const C: u8>(&mut self);
    unsafe fn load<const T: u8>(&mut self, from: *const u32, stride: usize);
    /// As [`load`](Unit::load), of what is not wanted again soon: it need not take others' place in the first cache.
    unsafe fn load_once<const T: u8>(&mut self, from: *const u32, stride: usize) {
        // SAFETY: passed on.
        unsafe { self.load::<T>(from, stride) }
    }
    /// C += A · B, pairs of bf16.
    unsafe fn dot<const C: u8, const A: u8, const B: u8>(&mut self);
    /// C += A · B, fours of bytes, those of A with a sign and those of B without, into i32. Not every unit can.
    unsafe fn dot_bytes<const C: u8, const A: u8, const B: u8>(&mut self);
    unsafe fn store<const C: u8>(&mut self, to: *mut u32, stride: usize);
    /// Gives the tiles back: a thread that holds none is cheaper to switch.
    unsafe fn release(&mut self);
}

/// The four tiles of C, those that a block of one or two tiles of rows (`TALL`) and one or two panels (`WIDE`) has: made zero.
///
/// # Safety
/// As of [`Unit`].
#[inline(always)]
pub(in crate::kernels) unsafe fn zero_tiles<U: Unit, const TALL: bool, const WIDE: bool>(
    unit: &mut U,
) {
    // SAFETY: the caller's.
    unsafe {
        unit.zero::<0>();
        if WIDE {
            unit.zero::<1>();
        }
        if TALL {
            unit.zero::<2>();
            if WIDE {
                unit.zero::<3>();
            }
        }
    }
}

/// As [`zero_tiles`], from four tiles of sixteen lines, one behind the other.
///
/// # Safety
/// As of [`Unit`]; there are these lines.
#[inline(always)]
pub(super) unsafe fn load_tiles<U: Unit, const TALL: bool, const WIDE: bool>(
    unit: &mut U,
    from: *const Line,
) {
    let tile = |index: usize| from.wrapping_add(index * SIDE).cast();
    // SAFETY: the caller's.
    unsafe {
        unit.load::<0>(tile(0), LANES);
        if WIDE {
            unit.load::<1>(tile(1), LANES);
        }
        if TALL {
            unit.load::<2>(tile(2), LANES);
            if WIDE {
                unit.load::<3>(tile(3), LANES);
            }
        }
    }
}

/// The way back of [`load_tiles`].
///
/// # Safety
/// As of [`Unit`]; there are these lines, and nobody else touches them.
#[inline(always)]
pub(in crate::kernels) unsafe fn store_tiles<U: Unit, const TALL: bool, const WIDE: bool>(
    unit: &mut U,
    to: *mut Line,
) {
    let tile = |index: usize| to.wrapping_add(index * SIDE).cast();
    // SAFETY: the caller's.
    unsafe {
        unit.store::<0>(tile(0), LANES);
        if WIDE {
            unit.store::<1>(tile(1), LANES);
        }
        if TALL {
            unit.store::<2>(tile(2), LANES);
            if WIDE {
                unit.store::<3>(tile(3), LANES);
            }
        }
    }
}

/// What stands between a load or product and the next. Where the core's other hardware thread is busy, with another's work, loads and products
/// that follow each other at once wait four times as long; apart by these, not three times. Where the core is ours alone they cost nothing.
macro_rules! gap {
    () => {
        "nop\nnop\nnop\nnop\nnop\nnop\nnop\nnop"
    };
}

/// The processor's unit.
pub(in crate::kernels) struct Hardware;

/// `LDTILECFG`'s 64 bytes.
#[repr(C, align(64))]
struct Palette {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

const _: () = assert!(size_of::<Palette>() == 64);

impl Unit for Hardware {
    #[inline(always)]
    unsafe fn configure(&mut self, [first, second]: [usize; 2], words: usize) {
        let (mut row_bytes, mut rows) = ([0u16; 16], [0u8; 16]);
        let of = [first, first, second, second, first, second, words, words];
        for (tile, count) in of.into_iter().enumerate() {
            if count > 0 {
                let row = if matches!(tile, 4 | 5) { words } else { SIDE };
                (row_bytes[tile], rows[tile]) = (4 * row as u16, count as u8);
            }
        }
        let palette = Palette {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes,
            rows,
        };
        // SAFETY: 64 bytes that the manual allows.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const palette, options(nostack)) }
    }

    #[inline(always)]
    unsafe fn zero<const C: u8>(&mut self) {
        // SAFETY: the caller's.
        unsafe { asm!("tilezero tmm{}", const C, options(nostack, nomem)) }
    }

    #[inline(always)]
    unsafe fn load<const T: u8>(&mut self, from: *const u32, stride: usize) {
        // SAFETY: the caller's.
        unsafe {
            asm!("tileloadd tmm{}, [{} + {}]", gap!(), const T, in(reg) from, in(reg) 4 * stride, options(nostack, readonly));
        }
    }

    #[inline(always)]
    unsafe fn load_once<const T: u8>(&mut self, from: *const u32, stride: usize) {
        // SAFETY: the caller's.
        unsafe {
            asm!("tileloaddt1 tmm{}, [{} + {}]", gap!(), const T, in(reg) from, in(reg) 4 * stride, options(nostack, readonly));
        }
    }

    #[inline(always)]
    unsafe fn dot<const C: u8, const A: u8, const B: u8>(&mut self) {
        // SAFETY: the caller's.
        unsafe {
            asm!("tdpbf16ps tmm{}, tmm{}, tmm{}", gap!(), const C, const A, const B, options(nostack, nomem))
        }
    }

    #[inline(always)]
    unsafe fn dot_bytes<const C: u8, const A: u8, const B: u8>(&mut self) {
        // SAFETY: the caller's.
        unsafe {
            asm!("tdpbsud tmm{}, tmm{}, tmm{}", gap!(), const C, const A, const B, options(nostack, nomem))
        }
    }

    #[inline(always)]
    unsafe fn store<const C: u8>(&mut self, to: *mut u32, stride: usize) {
        // SAFETY: the caller's.
        unsafe {
            asm!("tilestored [{} + {}], tmm{}", in(reg) to, in(reg) 4 * stride, const C, options(nostack));
        }
    }

    #[inline(always)]
    unsafe fn release(&mut self) {
        // SAFETY: the unit is there.
        unsafe { asm!("tilerelease", options(nostack, nomem)) }
    }
}

/// Twelve products of whole tiles a turn, of nothing with nothing: as fast as the unit goes. For [`limits`](super::limits).
///
/// # Panics
/// If there is no unit.
pub(in crate::kernels) fn chain(turns: usize) {
    assert!(is_here(), "this machine has no AMX");
    // SAFETY: the unit is there.
    unsafe {
        chained(turns, |unit| {
            unit.dot::<0, 4, 6>();
            unit.dot::<1, 4, 7>();
            unit.dot::<2, 5, 6>();
            unit.dot::<3, 5, 7>();
        });
    }
}

/// As [`chain`], of bytes.
///
/// # Panics
/// If there is no unit for them.
pub(in crate::kernels) fn chain_of_bytes(turns: usize) {
    assert!(has_bytes(), "this machine has no AMX for bytes");
    // SAFETY: the unit is there, and can.
    unsafe {
        chained(turns, |unit| {
            unit.dot_bytes::<0, 4, 6>();
            unit.dot_bytes::<1, 4, 7>();
            unit.dot_bytes::<2, 5, 6>();
            unit.dot_bytes::<3, 5, 7>();
        });
    }
}

/// # Safety
/// The unit is there, and can do what `four` asks.
#[inline(always)]
unsafe fn chained(turns: usize, four: impl Fn(&mut Hardware)) {
    let lines = [Line::ZERO; SIDE];
    let unit = &mut Hardware;
    // SAFETY: the unit is there; `lines` are a whole tile, and nothing is stored.
    unsafe {
        unit.configure([SIDE, SIDE], SIDE);
        let from = lines.as_ptr().cast();
        unit.zero::<0>();
        unit.zero::<1>();
        unit.zero::<2>();
        unit.zero::<3>();
        unit.load::<4>(from, LANES);
        unit.load::<5>(from, LANES);
        unit.load::<6>(from, LANES);
        unit.load::<7>(from, LANES);
        for _ in 0..3 * turns {
            four(unit);
        }
        unit.release();
    }
}
