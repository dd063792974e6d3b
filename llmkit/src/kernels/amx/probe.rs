//! Whether there is a matrix unit, whether the system lends it, and whether it does what is expected of it.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

use super::drive;
use super::unit::{Hardware, SIDE, Unit};
use crate::kernels::dense::{Into, Job};
use crate::kernels::panel::{LANES, Line, Panels, bf16_pair};

/// Whether this processor has matrix units for bf16, the system lends them, and they multiply as this file expects.
pub fn is_here() -> bool {
    static HERE: OnceLock<bool> = OnceLock::new();
    *HERE.get_or_init(|| is_announced() && is_permitted() && multiplies())
}

/// [`is_here`], and it multiplies bytes, as this file expects, too.
pub fn has_bytes() -> bool {
    static HERE: OnceLock<bool> = OnceLock::new();
    *HERE.get_or_init(|| {
        let is_announced = is_here() && features() & (1 << 25) != 0;
        // SAFETY: the unit is there, and AMX-INT8's bit says that it can.
        is_announced && unsafe { knows_its_bytes(&mut Hardware) }
    })
}

/// `CPUID`: AMX-BF16 and AMX-TILE.
fn is_announced() -> bool {
    features() & (1 << 22) != 0 && features() & (1 << 24) != 0
}

/// `CPUID` leaf 7, EDX.
fn features() -> u32 {
    match __cpuid_count(0, 0).eax {
        7.. => __cpuid_count(7, 0).edx,
        _ => 0,
    }
}

/// Asks Linux for the tiles' state (`arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`), once for all threads. Without it the first tile
/// instruction ends the process.
fn is_permitted() -> bool {
    #[cfg(target_os = "linux")]
    {
        const ARCH_PRCTL: i64 = 158;
        const ARCH_REQ_XCOMP_PERM: i64 = 0x1023;
        const XFEATURE_XTILEDATA: i64 = 18;
        let result: i64;
        // SAFETY: a system call that touches no memory of ours; `syscall` overwrites rcx and r11.
        unsafe {
            asm!("syscall", inlateout("rax") ARCH_PRCTL => result, in("rdi") ARCH_REQ_XCOMP_PERM, in("rsi") XFEATURE_XTILEDATA,
                 lateout("rcx") _, lateout("r11") _, options(nostack));
        }
        result == 0
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// Multiplies small whole numbers, whose sums are exact in any order, and compares.
fn multiplies() -> bool {
    // SAFETY: `is_here` has seen and asked.
    unsafe { knows_its_sums(&mut Hardware) }
}

/// # Safety
/// The unit is there.
pub(super) unsafe fn knows_its_sums<U: Unit>(unit: &mut U) -> bool {
    // More than one tile and a broken end in each direction.
    let (tokens, words, outputs) = (70, 21, 43);
    let x_at = |t: usize, k: usize| ((t * 7 + k * 3) % 11) as f32 - 5.0;
    let w_at = |n: usize, k: usize| ((n * 5 + k * 2) % 13) as f32 - 6.0;
    let pair = |at: &dyn Fn(usize) -> f32, word: usize| bf16_pair(at(2 * word), at(2 * word + 1));
    let x: Vec<u32> = (0..tokens * words)
        .map(|i| pair(&|k| x_at(i / words, k), i % words))
        .collect();
    let w = Panels::pack(outputs, words, |n, word| pair(&|k| w_at(n, k), word));
    let mut out = vec![0f32; tokens * outputs];
    let job = Job {
        x: x.as_ptr(),
        x_stride: words,
        rows: tokens,
        lines: w.lines().as_ptr(),
        line_stride: words,
        words,
        out: out.as_mut_ptr(),
        out_stride: outputs,
        columns: outputs,
        into: Into::Replace,
        next: std::ptr::null(),
        gap: 1,
        streams: false,
    };
    // SAFETY: the job's sizes are those of x, w and out.
    unsafe { drive::<_, false, { super::PLAIN }>(unit, &job) };
    out.iter().enumerate().all(|(i, &got)| {
        let dot = |k: usize| x_at(i / outputs, k) * w_at(i % outputs, k);
        got == (0..2 * words).map(dot).sum::<f32>()
    })
}

/// Multiplies two tiles of bytes, the extremes of both signs among them, and compares.
///
/// # Safety
/// The unit is there and multiplies bytes.
pub(super) unsafe fn knows_its_bytes<U: Unit>(unit: &mut U) -> bool {
    // Not whole tiles: 11 rows of 32 bytes.
    let (rows, words) = (11, 8);
    let a: [Line; SIDE] =
        std::array::from_fn(|m| Line(std::array::from_fn(|k| mix(m * SIDE + k, 1))));
    let b: [Line; SIDE] =
        std::array::from_fn(|k| Line(std::array::from_fn(|n| mix(k * SIDE + n, 2))));
    let mut c = [Line([1; SIDE]); SIDE];
    // SAFETY: a, b and c are whole tiles.
    unsafe {
        unit.configure([rows, 0], words);
        unit.zero::<0>();
        unit.load::<4>(a.as_ptr().cast(), LANES);
        unit.load::<6>(b.as_ptr().cast(), LANES);
        unit.dot_bytes::<0, 4, 6>();
        unit.dot_bytes::<0, 4, 6>();
        unit.store::<0>(c.as_mut_ptr().cast(), LANES);
        unit.release();
    }
    let expected = |m: usize, n: usize| -> i32 {
        let words = a[m].0.iter().zip(&b).take(words);
        let bytes = words.flat_map(|(a, b)| a.to_le_bytes().into_iter().zip(b.0[n].to_le_bytes()));
        bytes
            .map(|(a, b)| 2 * i32::from(a as i8) * i32::from(b))
            .sum()
    };
    (0..SIDE * SIDE).all(|at| {
        let (m, n) = (at / SIDE, at % SIDE);
        c[m].0[n] as i32 == if m < rows { expected(m, n) } else { 1 }
    })
}

/// Four bytes of no order, 0x80 and 0xff among them.
fn mix(at: usize, seed: u32) -> u32 {
    match at % 5 {
        0 => 0x80ff_7f80,
        _ => (at as u32 + seed).wrapping_mul(0x9e37_79b9).rotate_left(13),
    }
}
