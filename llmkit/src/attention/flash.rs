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

use std::cell::RefCell;
use std::ops::Range;

use super::{Attention, Call};
use crate::kernels::aligned::Aligned;
use crate::kernels::attention::{Block, Blocks, Scratch, attend};
use crate::kernels::scattered;
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
    /// Where its rows begin in the list of all tasks' rows.
    first: usize,
    /// The task's rows: row r is token r / shared of the askers and query head r % shared of the group.
    rows: Range<usize>,
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
        // Rows of all queries (T · H, D), task by task.
        let mut places: Vec<usize> = Vec::with_capacity(tokens * call.heads);
        let mut ends = Vec::new();
        let mut tasks: Vec<Task<'_>> = Vec::new();
        let mut start = 0;
        for sequence in call.sequences {
            let count = sequence.positions.len() * shared;
            for first in (0..count).step_by(in_task) {
                for group in 0..shape.groups {
                    let rows = first..count.min(first + in_task);
                    tasks.push(Task {
                        store: sequence.store,
                        group,
                        position: sequence.positions.start,
                        first: places.len(),
                        rows: rows.clone(),
                    });
                    let head = |row: usize| group * shared + row % shared;
                    places.extend(rows.map(|row| start + row / shared * call.heads + head(row)));
                    ends.push(places.len());
                }
            }
            start += sequence.positions.len() * call.heads;
        }
        assert_eq!(call.queries.len(), start * d, "queries of all sequences");
        assert_eq!(out.len(), start * d, "an answer to each query");
        let parts = scattered::parts(out, d, &places, &ends);
        let scale = 1.0 / (d as f32).sqrt();
        // Late rows of a prompt see most keys: they go first, so that threads end together.
        let each = tasks.iter().zip(parts).rev();
        team.each(each, &|_, (task, mut part)| {
            let places = &places[task.first..];
            MEMORY.with_borrow_mut(|memory| {
                let rows = task.rows.len();
                let queries = memory.queries.floats_mut(rows * padded);
                let mixed = memory.mixed.floats_mut(rows * padded);
                memory.positions.clear();
                let own = task.rows.clone().zip(places);
                for ((row, place), to) in own.zip(queries.chunks_exact_mut(padded)) {
                    let from = &call.queries[place * d..][..d];
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
                for (index, mixed) in mixed.chunks_exact(padded).take(rows).enumerate() {
                    part.write(index, &mixed[..d]);
                }
            });
        });
    }
}
