//! Memory that begins on a cache line and is used again.
//!
//! A matrix unit loads rows of 64 bytes. If they do not begin on a line each is two, and products take twice as long; what the allocator gives
//! begins 16 bytes behind one.

#![allow(unsafe_code)]

use super::panel::{LANES, Line};

/// Words or numbers, 32 bits each, that begin on a cache line. What is in them is of no meaning before it is written.
#[derive(Debug, Default, Clone)]
pub struct Aligned(Vec<Line>);

impl Aligned {
    /// None yet.
    pub const fn new() -> Aligned {
        Aligned(Vec::new())
    }

    /// These words.
    pub fn of_words(words: &[u32]) -> Aligned {
        let mut out = Aligned::new();
        out.words_mut(words.len()).copy_from_slice(words);
        out
    }

    /// The first `count` words, from what is there if it is enough.
    pub fn words_mut(&mut self, count: usize) -> &mut [u32] {
        let lines = count.div_ceil(LANES);
        if self.0.len() < lines {
            // Not what was there, and zeros that the system gives need not be written.
            self.0 = vec![Line::ZERO; lines];
        }
        &mut self.flat_mut()[..count]
    }

    /// As [`words_mut`](Self::words_mut), numbers.
    pub fn floats_mut(&mut self, count: usize) -> &mut [f32] {
        let words = self.words_mut(count);
        // SAFETY: same size and alignment, and any bits are an f32.
        unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), count) }
    }

    /// All words there are: at least as many as were asked for.
    pub fn words(&self) -> &[u32] {
        // SAFETY: lines are arrays of words, one behind the other.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * LANES) }
    }

    /// As [`words`](Self::words), numbers.
    pub fn floats(&self) -> &[f32] {
        // SAFETY: as above; any bits are an f32.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * LANES) }
    }

    fn flat_mut(&mut self) -> &mut [u32] {
        // SAFETY: as of `words`.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * LANES) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begins_on_a_line_and_keeps_what_was_written() {
        let mut it = Aligned::of_words(&[1.0, 2.0, 3.0].map(f32::to_bits));
        assert_eq!(it.floats()[..3], [1.0, 2.0, 3.0]);
        assert_eq!(it.words()[1], 2f32.to_bits());
        it.floats_mut(2)[1] = 5.0;
        assert_eq!(it.floats()[..3], [1.0, 5.0, 3.0]);
        for count in [0, 1, 16, 17, 5000, 3] {
            let words = it.words_mut(count);
            assert_eq!((words.len(), words.as_ptr().addr() % 64), (count, 0));
            words.fill(7);
            assert!(it.words()[..count].iter().all(|&it| it == 7));
        }
    }
}
