//! Fork-join on a fixed set of threads, for work of microseconds.
//!
//! One token of a small model is some 150 parallel regions of a few microseconds each; waking a sleeping thread takes longer
//! than that. So the workers of a [`Team`] spin for a moment after each region before they go to sleep.
//!
//! A region is open from the moment the leader publishes its work until the leader has found nothing more to do. Workers enter it
//! while it is open and count themselves in; the leader waits for those inside, and for nobody else: on a busy machine, where a
//! worker may not run for milliseconds, the others do its share. All of this is one number, `Shared::state`.

#![allow(unsafe_code)]

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};

/// Turns of the waiting loop before a worker sleeps: some 50 µs.
const SPINS: usize = 1 << 13;
/// Turns before the leader, waiting for a worker inside, offers its core: the worker may be waiting for that very core.
const PATIENCE: usize = 1 << 9;

/// Set in a region's state while workers may enter; below it the number of workers inside, above it the region's number.
const OPEN: u64 = 1 << 31;
const INSIDE_MASK: u64 = OPEN - 1;

type Work<'a> = dyn Fn() + Sync + 'a;

struct Shared {
    state: AtomicU64,
    ends: AtomicBool,
    /// The work of the current region; valid for those inside.
    work: UnsafeCell<Option<&'static Work<'static>>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `work` is written by the leader alone, while the region is closed and nobody is inside; workers read it only between
// entering an open region and leaving it.
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
            state: AtomicU64::new(0),
            ends: AtomicBool::new(false),
            work: UnsafeCell::new(None),
            panic: Mutex::new(None),
        });
        let worker = |index: usize| {
            let shared = Arc::clone(&shared);
            thread::Builder::new()
                .name(format!("llmkit-{index}"))
                .spawn(move || serve(&shared))
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

    /// Calls `task(index)` for each index in 0..`count`, each thread taking the next one when it is done, and returns when all are done.
    ///
    /// # Panics
    /// If `task` does, after all threads have left; tasks that had not begun may then be left undone.
    pub fn tasks(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        if count <= 1 || self.workers.is_empty() || INSIDE.get() {
            return (0..count).for_each(task);
        }
        let next = AtomicUsize::new(0);
        self.region(&|| {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    return;
                }
                task(index);
            }
        });
    }

    /// As [`tasks`](Self::tasks), but each thread begins with a share of its own and takes neighbours one after the other, as what they read
    /// may be neighbours too. A thread that is done with its share takes what is last in others'.
    ///
    /// # Panics
    /// As [`tasks`](Self::tasks).
    pub fn neighbours(&self, count: usize, task: &(dyn Fn(usize) + Sync)) {
        if count <= 1 || self.workers.is_empty() || INSIDE.get() {
            return (0..count).for_each(task);
        }
        let parts = self.threads();
        let share = |part: usize| Share::new(count * part / parts..count * (part + 1) / parts);
        let shares: Vec<Share> = (0..parts).map(share).collect();
        let come = AtomicUsize::new(0);
        self.region(&|| {
            let own = come.fetch_add(1, Ordering::Relaxed);
            while let Some(index) = shares[own].take(true) {
                task(index);
            }
            for other in (1..parts).map(|it| &shares[(own + it) % parts]) {
                while let Some(index) = other.take(false) {
                    task(index);
                }
            }
        });
    }

    /// Calls `task(index, item)` for each of `items`, which it takes: how threads get parts of their own of what is to be changed.
    ///
    /// # Panics
    /// As [`tasks`](Self::tasks).
    pub fn each<T: Send>(
        &self,
        items: impl IntoIterator<Item = T>,
        task: &(dyn Fn(usize, T) + Sync),
    ) {
        if self.workers.is_empty() || INSIDE.get() {
            return (items.into_iter().enumerate()).for_each(|(index, item)| task(index, item));
        }
        let items: Vec<Mutex<Option<T>>> =
            items.into_iter().map(|it| Mutex::new(Some(it))).collect();
        self.tasks(items.len(), &|index| {
            let taken = items[index].lock().ok().and_then(|mut it| it.take());
            if let Some(item) = taken {
                task(index, item);
            }
        });
    }

    /// Calls `task(rows)` for consecutive ranges of 0..`count`, one for each thread, as equal as can be.
    ///
    /// # Panics
    /// As [`tasks`](Self::tasks).
    pub fn ranges(&self, count: usize, task: &(dyn Fn(Range<usize>) + Sync)) {
        let parts = self.threads().min(count);
        self.tasks(parts, &|part| {
            task(count * part / parts..count * (part + 1) / parts);
        });
    }

    /// Runs `work` on this thread and on every worker that comes in time; `work` returns when nothing is left to begin.
    fn region(&self, work: &Work<'_>) {
        let _leader = self.leader.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &self.shared.state;
        // SAFETY: only the lifetime is changed. Workers use the reference while they are inside, and this function does not return
        // (or unwind) before the region is closed and all have left.
        let lasting = unsafe { std::mem::transmute::<&Work<'_>, &'static Work<'static>>(work) };
        // SAFETY: the region before is closed and left (below), so nobody reads.
        unsafe { *self.shared.work.get() = Some(lasting) };
        let number = (state.load(Ordering::Relaxed) >> 32).wrapping_add(1);
        state.store(number << 32 | OPEN, Ordering::Release);
        self.workers.iter().for_each(|it| it.thread().unpark());
        INSIDE.set(true);
        let own = catch_unwind(AssertUnwindSafe(work));
        INSIDE.set(false);
        let mut inside = state.fetch_and(!OPEN, Ordering::Acquire) & INSIDE_MASK;
        let mut turns = 0usize;
        while inside > 0 {
            turns += 1;
            match turns > PATIENCE {
                true => thread::yield_now(),
                false => std::hint::spin_loop(),
            }
            inside = state.load(Ordering::Acquire) & INSIDE_MASK;
        }
        let theirs = self.shared.panic.lock().ok().and_then(|mut it| it.take());
        if let Some(panic) = own.err().or(theirs) {
            resume_unwind(panic);
        }
    }
}

/// Consecutive tasks of which some are left. On a cache line of its own: its thread takes from it all the time.
#[repr(align(64))]
struct Share(Mutex<Range<usize>>);

impl Share {
    fn new(tasks: Range<usize>) -> Share {
        Share(Mutex::new(tasks))
    }

    /// The first of those left, or the last.
    fn take(&self, first: bool) -> Option<usize> {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match first {
            true => left.next(),
            false => left.next_back(),
        }
    }
}

/// A worker's life.
fn serve(shared: &Shared) {
    INSIDE.set(true);
    let mut seen = 0;
    loop {
        let mut turns = 0;
        let mut state = shared.state.load(Ordering::Acquire);
        while state >> 32 == seen || state & OPEN == 0 {
            if shared.ends.load(Ordering::Relaxed) {
                return;
            }
            turns += 1;
            if turns < SPINS {
                std::hint::spin_loop();
            } else {
                // An `unpark` that came before is not lost: `park` then returns at once.
                thread::park();
            }
            state = shared.state.load(Ordering::Acquire);
        }
        // Counted in, if the region is still the same and open.
        let entered =
            (shared.state).compare_exchange(state, state + 1, Ordering::Acquire, Ordering::Relaxed);
        if entered.is_err() {
            continue;
        }
        seen = state >> 32;
        // SAFETY: this worker is inside: the work was written before the region was opened and stays until all have left.
        if let Some(work) = unsafe { *shared.work.get() }
            && let Err(panic) = catch_unwind(AssertUnwindSafe(work))
        {
            *shared.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
        shared.state.fetch_sub(1, Ordering::Release);
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
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

    #[test]
    fn every_part_task_and_row_is_done_exactly_once() {
        for threads in [1, 2, 3, 5] {
            let team = Team::new(threads);
            assert_eq!(team.threads(), threads);
            for round in 0..200 {
                let count = round % 13;
                let tasks: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                team.tasks(count, &|i| {
                    tasks[i].fetch_add(1, Ordering::Relaxed);
                });
                team.neighbours(count, &|i| {
                    tasks[i].fetch_add(1, Ordering::Relaxed);
                });
                team.ranges(count, &|rows| {
                    for i in rows {
                        tasks[i].fetch_add(1, Ordering::Relaxed);
                    }
                });
                assert!(tasks.iter().all(|it| it.load(Ordering::Relaxed) == 3));
                let mut own: Vec<usize> = vec![0; count];
                team.each(own.iter_mut(), &|index, it| *it += index + 1);
                assert!(own.into_iter().eq(1..=count));
            }
        }
    }

    #[test]
    fn a_worker_that_does_not_come_is_not_waited_for() {
        let mut team = Team::new(1);
        // A thread that the system never runs, as far as the team can see.
        let shared = Arc::clone(&team.shared);
        team.workers.push(thread::spawn(move || {
            while !shared.ends.load(Ordering::Relaxed) {
                thread::park();
            }
        }));
        assert_eq!(team.threads(), 2);
        let done = AtomicUsize::new(0);
        team.tasks(10, &|_| {
            done.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), 10);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_goes_on() {
        let team = Team::new(3);
        for part in 0..3 {
            let panic = catch_unwind(AssertUnwindSafe(|| {
                team.tasks(3, &|it| assert!(it != part, "planted"));
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
            team.tasks(2, &|_| {
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert_eq!(done.into_inner(), 6);
    }
}
