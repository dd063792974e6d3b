//! Attention block by block on a kernel, query rows shared out among threads as tasks.
//!
//! ```text
//! for each block of 64 keys:  s = q·kᵀ;  m' = max(m, s);  out = out·exp(m − m') + exp(s − m')·v;  then out / Σ exp(s − m)
//! ```
//! The kernel is [`attend`]. A task is some query rows of one key/value head of one sequence: the rows of all query heads that
//! share it, so that a block is read once for all of them. Prompts get tasks of as many rows as fill the kernel's tiles, single
//! tokens one task a key/value head, or one a row where there would not be enough tasks for all threads.
//!
//! Source: Dao et al. 2022, *FlashAttention*, 2205.14135, algorithm 1.
//! Cost: 4·S·D flops a query and head; keys and values are read once a task; nothing of size T × S is kept.
//! Where we differ: no split over keys, so that a row's bits never depend on how many rows or threads there are.

#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ops::Range;

use super::{Attention, Call};
use crate::kernels::aligned::Aligned;
use crate::kernels::attention::{Block, Blocks, Scratch, attend};
use crate::kvcache::store::{Decoded, Store};

/// Query rows of a task, where there are enough for all threads: a multiple of the rows of all tiles.
const ROWS: usize = 96;
/// How many times that many, at most: the more, the less often a block is read; but what they need has to stay in the second cache.
const MOST: usize = 2;
/// Tasks that a thread should have: one is long where a row sees many keys.
const TASKS: usize = 8;

/// The attention that models have unless told otherwise.
#[derive(Debug, Clone, Copy, Default)]
pub struct Flash;

/// Some query rows of one key/value head of one sequence.
struct Task<'a> {
    store: &'a dyn Store,
    group: usize,
    /// Position of the sequence's first asker.
    position: usize,
    /// The sequence's first row of all queries (T · H, D).
    start: usize,
    /// The task's rows: row r is token r / shared of the askers and query head r % shared of the group.
    rows: Range<usize>,
}

/// All of the answer (T · H, D), of which each task has rows of its own.
struct Out {
    at: *mut f32,
    length: usize,
}

// SAFETY: tasks write rows of their own.
unsafe impl Sync for Out {}

impl Out {
    /// # Panics
    /// If the row is not there.
    ///
    /// # Safety
    /// No other thread writes this row.
    unsafe fn write(&self, row: usize, values: &[f32]) {
        let at = row * values.len();
        assert!(at + values.len() <= self.length, "row {row} of the answer");
        // SAFETY: it is there, and nobody else's.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.at.add(at), values.len()) };
    }
}

/// One head of a store.
struct Head<'a> {
    store: &'a dyn Store,
    layer: usize,
    group: usize,
    decoded: &'a mut Decoded,
}

impl Blocks for Head<'_> {
    fn block(&mut self, index: usize) -> Block<'_> {
        self.store
            .block(self.layer, self.group, index, self.decoded)
    }
}

/// What a thread uses again from task to task: new memory would cost more than some of the tasks.
#[derive(Default)]
struct Memory {
    queries: Aligned,
    positions: Vec<usize>,
    mixed: Aligned,
    decoded: Decoded,
    scratch: Scratch,
}

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
}

impl Attention for Flash {
    fn name(&self) -> String {
        "flash".to_owned()
    }

    fn attend(&self, call: &Call<'_>, out: &mut [f32]) {
        let Some(sequence) = call.sequences.first() else {
            return;
        };
        let shape = sequence.store.shape();
        let (d, padded) = (shape.head_dim, shape.padded_dim());
        let shared = call.heads / shape.groups;
        let team = &call.engine.team;
        let tokens: usize = call.sequences.iter().map(|it| it.positions.len()).sum();
        let for_each = tokens * call.heads / team.threads();
        let in_task = if for_each >= ROWS {
            (for_each / ROWS / TASKS).clamp(1, MOST) * ROWS
        } else if tokens * shape.groups >= team.threads() {
            shared
        } else {
            1
        };
        let mut tasks: Vec<Task<'_>> = Vec::new();
        let mut start = 0;
        for sequence in call.sequences {
            let count = sequence.positions.len() * shared;
            for first in (0..count).step_by(in_task) {
                tasks.extend((0..shape.groups).map(|group| Task {
                    store: sequence.store,
                    group,
                    position: sequence.positions.start,
                    start,
                    rows: first..count.min(first + in_task),
                }));
            }
            start += sequence.positions.len() * call.heads;
        }
        assert_eq!(call.queries.len(), start * d, "queries of all sequences");
        assert_eq!(out.len(), start * d, "an answer to each query");
        let out = Out {
            at: out.as_mut_ptr(),
            length: out.len(),
        };
        let scale = 1.0 / (d as f32).sqrt();
        // Late rows of a prompt see most keys: they go first, so that threads end together.
        team.tasks(tasks.len(), &|index| {
            let task = &tasks[tasks.len() - 1 - index];
            // Of a row of the task among all: each is that of one task.
            let place = |row: usize| {
                task.start + row / shared * call.heads + task.group * shared + row % shared
            };
            MEMORY.with_borrow_mut(|memory| {
                let rows = task.rows.len();
                let queries = memory.queries.floats_mut(rows * padded);
                let mixed = memory.mixed.floats_mut(rows * padded);
                memory.positions.clear();
                for (row, to) in task.rows.clone().zip(queries.chunks_exact_mut(padded)) {
                    let from = &call.queries[place(row) * d..][..d];
                    let (to, padding) = to.split_at_mut(d);
                    to.iter_mut()
                        .zip(from)
                        .for_each(|(to, from)| *to = from * scale);
                    padding.fill(0.0);
                    memory.positions.push(task.position + row / shared);
                }
                let head = Head {
                    store: task.store,
                    layer: call.layer,
                    group: task.group,
                    decoded: &mut memory.decoded,
                };
                attend(
                    call.engine.isa,
                    queries,
                    &memory.positions,
                    call.mask,
                    head,
                    mixed,
                    &mut memory.scratch,
                );
                for (row, mixed) in task.rows.clone().zip(mixed.chunks_exact(padded)) {
                    // SAFETY: no other task has this row.
                    unsafe { out.write(place(row), &mixed[..d]) };
                }
            });
        });
    }
}
