//! Memory that is wanted soon, asked for before.

#![allow(unsafe_code)]

use super::panel::Line;

/// Asks for `lines` into the second cache, and does not wait for them.
#[inline(always)]
pub fn fetch(lines: &[Line]) {
    for line in lines {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: it reads nothing that a program could see.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(line).cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = line;
    }
}
