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

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::{Attention, Call};
use crate::kernels::attention::{Block, Blocks, Scratch, attend};
use crate::kvcache::store::{Decoded, Store};

/// Query rows of a task, where there are enough for all threads.
const ROWS: usize = 48;

/// The attention that models have unless told otherwise.
#[derive(Debug, Clone, Copy, Default)]
pub struct Flash;

/// Some query rows of one key/value head of one sequence.
struct Task<'a> {
    store: &'a dyn Store,
    group: usize,
    /// First of all tokens that the sequence has, and its position.
    first: usize,
    position: usize,
    /// Query rows of the sequence and head that the task has.
    rows: Range<usize>,
    out: Mutex<Vec<f32>>,
}

/// One head of a store.
struct Head<'a> {
    store: &'a dyn Store,
    layer: usize,
    group: usize,
    decoded: Decoded,
}

impl Blocks for Head<'_> {
    fn block(&mut self, index: usize) -> Block<'_> {
        self.store
            .block(self.layer, self.group, index, &mut self.decoded)
    }
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
        let (heads, shared) = (call.heads, call.heads / shape.groups);
        let team = &call.engine.team;
        let tokens: usize = call.sequences.iter().map(|it| it.positions.len()).sum();
        let in_task = if tokens * heads >= ROWS * team.threads() {
            ROWS
        } else if tokens * shape.groups >= team.threads() {
            shared
        } else {
            1
        };
        let mut tasks = Vec::new();
        let mut first = 0;
        for sequence in call.sequences {
            let rows = sequence.positions.len() * shared;
            for group in 0..shape.groups {
                for start in (0..rows).step_by(in_task) {
                    tasks.push(Task {
                        store: sequence.store,
                        group,
                        first,
                        position: sequence.positions.start,
                        rows: start..rows.min(start + in_task),
                        out: Mutex::new(Vec::new()),
                    });
                }
            }
            first += sequence.positions.len();
        }
        // Row r of a task belongs to token r / shared and query head r % shared of the group.
        let place = |task: &Task<'_>, row: usize| {
            let token = task.first + row / shared;
            (token * heads + task.group * shared + row % shared) * d
        };
        let scale = 1.0 / (d as f32).sqrt();
        // Late rows of a prompt see most keys: they go first, so that threads end together.
        team.tasks(tasks.len(), &|index| {
            let task = &tasks[tasks.len() - 1 - index];
            let mut queries = vec![0.0; task.rows.len() * padded];
            let mut positions = Vec::with_capacity(task.rows.len());
            for (query, row) in queries.chunks_exact_mut(padded).zip(task.rows.clone()) {
                let at = place(task, row);
                query
                    .iter_mut()
                    .zip(&call.queries[at..at + d])
                    .for_each(|(to, from)| *to = from * scale);
                positions.push(task.position + row / shared);
            }
            let mut mixed = vec![0.0; queries.len()];
            let head = Head {
                store: task.store,
                layer: call.layer,
                group: task.group,
                decoded: Decoded::default(),
            };
            attend(
                call.engine.isa,
                &queries,
                &positions,
                call.mask,
                head,
                &mut mixed,
                &mut Scratch::default(),
            );
            *task.out.lock().unwrap_or_else(PoisonError::into_inner) = mixed;
        });
        for task in tasks {
            let mixed = task.out.lock().unwrap_or_else(PoisonError::into_inner);
            for (row, mixed) in task.rows.clone().zip(mixed.chunks_exact(padded)) {
                let at = place(&task, row);
                out[at..at + d].copy_from_slice(&mixed[..d]);
            }
        }
    }
}
