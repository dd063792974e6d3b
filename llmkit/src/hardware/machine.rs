//! Limits of this machine, measured: bandwidth by working set, peaks by arithmetic.

use std::fmt;
use std::time::Duration;

use crate::kernels::limits::{Arithmetic, peak, read_bandwidth};
use crate::kernels::{Isa, Team};
use crate::{Error, Result};

/// What a machine can do at most, on the instructions and threads it was measured with.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    /// Instruction set.
    pub isa: Isa,
    /// Threads.
    pub threads: usize,
    /// Working set of all threads together in bytes, and bytes a second read from one of that size; smallest first.
    pub bandwidth: Vec<(f64, f64)>,
    /// Operations a second; arithmetic that the instruction set lacks is missing.
    pub peaks: Vec<(Arithmetic, f64)>,
}

/// Bytes a thread that [`Machine::measure`] reads from: half of a first cache up to far beyond the last.
const WORKING_SETS: [usize; 8] = [
    16 << 10,
    64 << 10,
    256 << 10,
    1 << 20,
    4 << 20,
    16 << 20,
    64 << 20,
    192 << 20,
];

impl Machine {
    /// Measures for about `seconds` in all.
    ///
    /// # Errors
    /// [`Error::Argument`] if the time is not a positive number, or there is nothing to measure on the reference.
    pub fn measure(isa: Isa, team: &Team, seconds: f64) -> Result<Machine> {
        let parts = (WORKING_SETS.len() + Arithmetic::ALL.len()) as f64;
        let time = Duration::try_from_secs_f64(seconds / parts)
            .ok()
            .filter(|time| !time.is_zero())
            .ok_or_else(|| Error::argument("seconds", "more than zero", seconds))?;
        let peaks: Vec<_> = (Arithmetic::ALL.into_iter())
            .filter_map(|it| Some((it, peak(isa, it, time, team)?)))
            .collect();
        if peaks.is_empty() {
            return Err(Error::argument(
                "instruction set",
                "AVX2 or AVX-512 (the reference is never fast, so it has no limits)",
                isa,
            ));
        }
        let read = |bytes: usize| {
            let all = (bytes * team.threads()) as f64;
            (all, read_bandwidth(isa, bytes, time, team))
        };
        Ok(Machine {
            isa,
            threads: team.threads(),
            bandwidth: WORKING_SETS.map(read).to_vec(),
            peaks,
        })
    }

    /// Bytes a second read from a working set of `bytes`: on the logarithmic line between the measured neighbours.
    pub fn bandwidth(&self, bytes: f64) -> f64 {
        let after = self.bandwidth.partition_point(|&(size, _)| size < bytes);
        match (
            self.bandwidth.get(after.wrapping_sub(1)),
            self.bandwidth.get(after),
        ) {
            (Some(&(x0, y0)), Some(&(x1, y1))) => {
                let share = (bytes / x0).ln() / (x1 / x0).ln();
                (y0.ln() + share * (y1 / y0).ln()).exp()
            }
            (Some(&(_, only)), None) | (None, Some(&(_, only))) => only,
            (None, None) => 0.0,
        }
    }

    /// Operations a second in `arithmetic`; what the instruction set lacks is computed in f32.
    pub fn peak(&self, arithmetic: Arithmetic) -> f64 {
        let of = |it: Arithmetic| self.peaks.iter().find(|(one, _)| *one == it);
        of(arithmetic)
            .or(of(Arithmetic::F32))
            .map_or(0.0, |&(_, peak)| peak)
    }

    /// Working set and bandwidth as a table: KiB, GB/s.
    ///
    /// # Errors
    /// None that are known; polars could.
    #[cfg(feature = "notebook")]
    pub fn table(&self) -> Result<polars::prelude::DataFrame> {
        use polars::prelude::*;
        let column = |of: &dyn Fn(&(f64, f64)) -> f64| -> Vec<f64> {
            self.bandwidth.iter().map(of).collect()
        };
        Ok(df!(
            "working set (KiB)" => column(&|it| it.0 / 1024.0),
            "read (GB/s)" => column(&|it| it.1 / 1e9),
        )?)
    }

    /// Shows the limits in a notebook.
    pub fn evcxr_display(&self) {
        println!("{self}");
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} · {} threads", self.isa, self.threads)?;
        for (arithmetic, peak) in &self.peaks {
            write!(f, " · {} {:.0} GOP/s", arithmetic.name(), peak / 1e9)?;
        }
        for (bytes, rate) in [self.bandwidth.first(), self.bandwidth.last()]
            .into_iter()
            .flatten()
        {
            let kib = bytes / 1024.0;
            write!(f, " · {:.0} GB/s from {kib:.0} KiB", rate / 1e9)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bandwidth_lies_between_what_was_measured() {
        let machine = Machine {
            isa: Isa::Reference,
            threads: 1,
            bandwidth: vec![(1e3, 100e9), (1e5, 25e9)],
            peaks: vec![(Arithmetic::F32, 1e9)],
        };
        assert_eq!(machine.bandwidth(1.0), 100e9);
        assert_eq!(machine.bandwidth(1e3), 100e9);
        assert!((machine.bandwidth(1e4) / 50e9 - 1.0).abs() < 1e-12);
        assert_eq!(machine.bandwidth(1e9), 25e9);
        assert_eq!(machine.peak(Arithmetic::Int8), 1e9);
    }

    #[test]
    fn a_measured_machine_is_one_and_nonsense_is_refused() {
        let team = Team::new(1);
        assert!(Machine::measure(Isa::Reference, &team, 0.1).is_err());
        for seconds in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(Machine::measure(Isa::best(), &team, seconds).is_err());
        }
        if Isa::best() == Isa::Reference {
            return;
        }
        let machine = Machine::measure(Isa::best(), &team, 0.2).unwrap();
        assert!(machine.bandwidth.is_sorted_by(|a, b| a.0 < b.0));
        assert!(machine.bandwidth.iter().all(|it| it.1 > 0.0));
        assert!(machine.peak(Arithmetic::Bf16) > 0.0);
        assert!(machine.to_string().contains("GB/s"));
    }
}
