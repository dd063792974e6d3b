//! Threads: each task once, whatever their number.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::kernels::team::Team;

type Spread<'a> = dyn Fn(usize, &(dyn Fn(usize) + Sync)) + 'a;

/// Whether `spread` calls each of 0..count exactly once.
fn spread_is_right(spread: &Spread<'_>) -> Result<(), String> {
    for count in [0, 1, 2, 3, 7, 16, 17, 1000] {
        let done: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
        spread(count, &|i| {
            done[i].fetch_add(1, Ordering::Relaxed);
        });
        if let Some(i) = done.iter().position(|it| it.load(Ordering::Relaxed) != 1) {
            return Err(format!("{i} of {count}: {:?}", done[i]));
        }
    }
    Ok(())
}

#[test]
fn work_is_spread_once_and_planted_bugs_are_caught() {
    for threads in [1, 2, 3, 8] {
        let team = Team::new(threads);
        spread_is_right(&|count, task| team.tasks(count, task)).unwrap();
        spread_is_right(&|count, task| team.ranges(count, &|range| range.for_each(task))).unwrap();
        // Equal parts: the rest of the division is nobody's.
        let rest: &Spread<'_> = &|count, task| {
            let part = count / 4;
            team.tasks(4, &|i| (i * part..(i + 1) * part).for_each(task));
        };
        // Parts that overlap by one.
        let twice: &Spread<'_> = &|count, task| {
            team.ranges(count, &|range| {
                (range.start..(range.end + 1).min(count)).for_each(task);
            });
            if team.threads() == 1 && count > 0 {
                task(0);
            }
        };
        assert!(spread_is_right(rest).is_err(), "rest, {threads}");
        assert!(spread_is_right(twice).is_err(), "twice, {threads}");
    }
}
