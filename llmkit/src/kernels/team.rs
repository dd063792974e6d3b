//! Fork-join on a fixed set of threads, for work of microseconds.
//!
//! One token of a small model is some 300 parallel regions of a few microseconds each; waking a sleeping thread takes longer
//! than that. So the workers of a [`Team`] spin for a moment after each region before they go to sleep.
//!
//! A region is announced by a new epoch: the leader publishes the work, raises `epoch`, does its own share, and waits until the
//! workers' `pending` count is zero. Work is split by the caller: either one part a thread ([`Team::run`]) or small tasks
//! that threads take one by one ([`Team::tasks`]).

#![allow(unsafe_code)]

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};

/// Turns of the waiting loop before a worker sleeps: some 50 µs.
const SPINS: usize = 1 << 13;

type Work<'a> = dyn Fn(usize) + Sync + 'a;

struct Shared {
    epoch: AtomicUsize,
    pending: AtomicUsize,
    ends: AtomicBool,
    /// The work of the current epoch; valid while `pending` > 0.
    work: UnsafeCell<Option<&'static Work<'static>>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `work` is written by the leader alone, before the epoch it belongs to is published and after all workers have
// finished the one before; workers read it in between.
unsafe impl Sync for Shared {}

/// Threads that do one thing together. Dropping it ends them.
pub struct Team {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held by the leader of a region: one region at a time.
    leader: Mutex<()>,
}

thread_local! {
    /// Whether this thread is inside a region: regions inside regions run on the thread they are in.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

impl Team {
    /// A team of `threads` (at least one), the caller being one of them.
    pub fn new(threads: usize) -> Team {
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            pending: AtomicUsize::new(0),
            ends: AtomicBool::new(false),
            work: UnsafeCell::new(None),
            panic: Mutex::new(None),
        });
        let worker = |index: usize| {
            let shared = Arc::clone(&shared);
            thread::Builder::new()
                .name(format!("llmkit-{index}"))
                .spawn(move || serve(&shared, index))
        };
        // A thread that cannot be started is a thread less.
        let workers = (1..threads.max(1)).map_while(|i| worker(i).ok()).collect();
        Team {
            shared,
            workers,
            leader: Mutex::new(()),
        }
    }

    /// The team that everything uses unless told otherwise: one thread for each core that this process may use.
    pub fn global() -> &'static Arc<Team> {
        static TEAM: OnceLock<Arc<Team>> = OnceLock::new();
        TEAM.get_or_init(|| {
            let cores = thread::available_parallelism().map_or(1, usize::from);
            Arc::new(Team::new(cores))
        })
    }

    /// Threads, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `work(part)` for each part in 0..[`threads`](Self::threads), in parallel, and returns when all are done.
    ///
    /// # Panics
    /// If `work` does, after all parts have ended.
    pub fn run(&self, work: &Work<'_>) {
        let threads = self.threads();
        if threads == 1 || INSIDE.get() {
            (0..threads).for_each(work);
            return;
        }
        let _leader = self.leader.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: only the lifetime is changed. No worker uses the reference after `pending` reaches zero, and this function
        // does not return (or unwind) before that.
        let lasting = unsafe { std::mem::transmute::<&Work<'_>, &'static Work<'static>>(work) };
        // SAFETY: all workers are between epochs (`pending` is zero), so nobody reads.
        unsafe { *self.shared.work.get() = Some(lasting) };
        self.shared.pending.store(threads - 1, Ordering::Relaxed);
        self.shared.epoch.fetch_add(1, Ordering::Release);
        self.workers.iter().for_each(|it| it.thread().unpark());
        INSIDE.set(true);
        let own = catch_unwind(AssertUnwindSafe(|| work(0)));
        INSIDE.set(false);
        let mut turns = 0usize;
        while self.shared.pending.load(Ordering::Acquire) > 0 {
            turns += 1;
            if turns.is_multiple_of(SPINS) {
                thread::yield_now();
            }
            std::hint::spin_loop();
        }
        let theirs = self.shared.panic.lock().ok().and_then(|mut it| it.take());
        if let Some(panic) = own.err().or(theirs) {
            resume_unwind(panic);
        }
    }

    /// Calls `task(index)` for each index in 0..`count`, each thread taking the next one when it is done.
    ///
    /// # Panics
    /// If `task` does.
    pub fn tasks(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        let next = AtomicUsize::new(0);
        let work = |_: usize| {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return;
                }
                task(index);
            }
        };
        match count {
            0 | 1 => work(0),
            _ => self.run(&work),
        }
    }

    /// Calls `task(rows)` for consecutive ranges of 0..`count`, one a thread, as equal as can be.
    ///
    /// # Panics
    /// If `task` does.
    pub fn ranges(&self, count: usize, task: &(dyn Fn(Range<usize>) + Sync)) {
        let threads = self.threads();
        if count <= 1 || threads == 1 {
            return task(0..count);
        }
        self.run(&|part| {
            let range = count * part / threads..count * (part + 1) / threads;
            if !range.is_empty() {
                task(range);
            }
        });
    }
}

/// A worker's life.
fn serve(shared: &Shared, index: usize) {
    INSIDE.set(true);
    let mut seen = 0;
    loop {
        let mut turns = 0;
        while shared.epoch.load(Ordering::Acquire) == seen {
            turns += 1;
            if turns < SPINS {
                std::hint::spin_loop();
            } else {
                // An `unpark` that came before is not lost: `park` then returns at once.
                thread::park();
            }
        }
        seen += 1;
        if shared.ends.load(Ordering::Relaxed) {
            return;
        }
        // SAFETY: the epoch was published after the work was written, and this worker has not yet counted itself done.
        if let Some(work) = unsafe { *shared.work.get() }
            && let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(index)))
        {
            *shared.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
        shared.pending.fetch_sub(1, Ordering::Release);
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        self.shared.epoch.fetch_add(1, Ordering::Release);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker's panics are kept by the worker; there is none left to hear of.
            let _ = worker.join();
        }
    }
}

impl fmt::Debug for Team {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Team of {}", self.threads())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn every_part_task_and_row_is_done_exactly_once() {
        for threads in [1, 2, 3, 5] {
            let team = Team::new(threads);
            assert_eq!(team.threads(), threads);
            for round in 0..200 {
                let parts = AtomicU64::new(0);
                team.run(&|part| {
                    parts.fetch_add(1 << (8 * part), Ordering::Relaxed);
                });
                let expected: u64 = (0..threads).map(|it| 1u64 << (8 * it)).sum();
                assert_eq!(parts.into_inner(), expected);
                let count = round % 13;
                let tasks: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                team.tasks(count, &|i| {
                    tasks[i].fetch_add(1, Ordering::Relaxed);
                });
                team.ranges(count, &|rows| {
                    for i in rows {
                        tasks[i].fetch_add(1, Ordering::Relaxed);
                    }
                });
                assert!(tasks.iter().all(|it| it.load(Ordering::Relaxed) == 2));
            }
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_goes_on() {
        let team = Team::new(3);
        for part in 0..3 {
            let panic = catch_unwind(AssertUnwindSafe(|| {
                team.run(&|it| assert!(it != part, "planted"));
            }));
            assert!(panic.is_err(), "{part}");
            let done = AtomicUsize::new(0);
            team.tasks(10, &|_| {
                done.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(done.into_inner(), 10);
        }
    }

    #[test]
    fn regions_inside_regions_and_from_several_threads_work() {
        let team = Team::new(2);
        let done = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        team.tasks(4, &|_| {
                            team.tasks(3, &|_| {
                                done.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(done.into_inner(), 3 * 50 * 12);
    }

    #[test]
    fn a_team_that_slept_wakes() {
        let team = Team::new(2);
        let done = AtomicUsize::new(0);
        for _ in 0..3 {
            thread::sleep(std::time::Duration::from_millis(20));
            team.run(&|_| {
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert_eq!(done.into_inner(), 6);
    }
}
