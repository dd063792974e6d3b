//! Progress of long operations: a live bar in our kernel, plain lines at most once a second anywhere else.
//!
//! Each step also looks at the stop button, so an operation that reports progress can be interrupted.

use std::io::Write;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::Result;

/// MIME type under which a live kernel receives progress; one JSON object, see [`State`].
pub const MIME: &str = "application/vnd.llmkit.progress+json";

/// What is known of a running operation, as sent to a live kernel.
#[derive(Debug, Clone, Serialize)]
pub struct State {
    /// Distinguishes bars that live at the same time.
    pub id: u64,
    /// What is being done.
    pub label: String,
    /// Units done so far.
    pub done: u64,
    /// Units in all; 0 = unknown.
    pub total: u64,
    /// Name of a unit: "B", "tokens", "layers".
    pub unit: String,
    /// Seconds since the start.
    pub seconds: f64,
    /// Whether the operation has ended, short of its total or not.
    pub finished: bool,
    /// Amount, share, rate and time left, for people; filled in when the state is shown.
    pub text: String,
}

/// A running operation. Its bar ends when the total is reached, or when it is dropped.
#[derive(Debug)]
pub struct Progress {
    state: State,
    start: Instant,
    shown: Option<Instant>,
    is_live: bool,
}

/// Whether the kernel shows live bars (it says so in `LLMKIT_KERNEL`).
pub fn is_live() -> bool {
    std::env::var_os("LLMKIT_KERNEL").is_some()
}

impl Progress {
    /// Starts an operation of `total` units (0 = unknown).
    pub fn new(label: impl Into<String>, total: u64, unit: impl Into<String>) -> Progress {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let id = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Progress {
            state: State {
                id,
                label: label.into(),
                done: 0,
                total,
                unit: unit.into(),
                seconds: 0.0,
                finished: false,
                text: String::new(),
            },
            start: Instant::now(),
            shown: None,
            is_live: is_live(),
        }
    }

    /// Records `units` more done and shows the bar if it is time to.
    ///
    /// # Errors
    /// [`Error::Interrupted`](crate::Error::Interrupted) if the user pressed stop.
    pub fn advance(&mut self, units: u64) -> Result<()> {
        self.set(self.state.done + units)
    }

    /// Records that `done` units are done in all, and shows the bar if it is time to.
    ///
    /// # Errors
    /// [`Error::Interrupted`](crate::Error::Interrupted) if the user pressed stop.
    pub fn set(&mut self, done: u64) -> Result<()> {
        self.state.done = done;
        let pause = if self.is_live {
            Duration::from_millis(100)
        } else {
            Duration::from_secs(1)
        };
        // An operation that ends within its first pause shows nothing: no flicker, no noise in logs.
        let since = self.shown.unwrap_or(self.start);
        let is_whole = self.state.total > 0 && done >= self.state.total;
        if since.elapsed() >= pause || (is_whole && self.shown.is_some()) {
            // A bar kept in a variable (as in a notebook) must not wait for its end to say that all is done.
            if !self.state.finished {
                self.state.finished = is_whole;
                self.shown = Some(Instant::now());
                self.show();
            }
        }
        crate::interrupt::check(&self.state.label)
    }

    fn show(&mut self) {
        self.state.seconds = self.start.elapsed().as_secs_f64();
        self.state.text = self.state.describe();
        let mut out = std::io::stdout().lock();
        // Output that nobody reads any more is not this operation's failure.
        let _ = if self.is_live {
            let json = serde_json::to_string(&self.state).unwrap_or_default();
            writeln!(out, "EVCXR_BEGIN_CONTENT {MIME}\n{json}\nEVCXR_END_CONTENT")
                .and_then(|()| out.flush())
        } else {
            drop(out);
            writeln!(std::io::stderr(), "{}", self.state.line())
        };
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() && !self.state.finished {
            self.state.finished = true;
            self.show();
        }
    }
}

impl State {
    /// One plain line: the label and all that [`State::text`] says.
    pub fn line(&self) -> String {
        format!("{}: {}", self.label, self.describe())
    }

    fn describe(&self) -> String {
        let rate = self.done as f64 / self.seconds.max(1e-9);
        let mut text = amount(self.done as f64, &self.unit);
        if self.total > 0 {
            let share = 100.0 * self.done as f64 / self.total as f64;
            text += &format!(
                " of {} ({share:.0} %)",
                amount(self.total as f64, &self.unit)
            );
        }
        text += &format!(", {}/s", amount(rate, &self.unit));
        if self.finished {
            text += &format!(", {:.1} s", self.seconds);
        } else if self.total > self.done && self.done > 0 {
            text += &format!(", {:.0} s left", (self.total - self.done) as f64 / rate);
        }
        text
    }
}

/// A quantity with its unit; bytes in decimal multiples.
fn amount(value: f64, unit: &str) -> String {
    if unit != "B" {
        return if value >= 100.0 || value.fract() == 0.0 {
            format!("{value:.0} {unit}")
        } else {
            format!("{value:.1} {unit}")
        };
    }
    match value {
        v if v >= 1e9 => format!("{:.2} GB", v / 1e9),
        v if v >= 1e6 => format!("{:.1} MB", v / 1e6),
        v if v >= 1e3 => format!("{:.0} kB", v / 1e3),
        v => format!("{v:.0} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_share_rate_and_time_left() {
        let state = State {
            id: 0,
            label: "download".into(),
            done: 25_000_000,
            total: 100_000_000,
            unit: "B".into(),
            seconds: 5.0,
            finished: false,
            text: String::new(),
        };
        assert_eq!(
            state.line(),
            "download: 25.0 MB of 100.0 MB (25 %), 5.0 MB/s, 15 s left"
        );
    }

    #[test]
    fn a_bar_ends_at_its_total_though_it_lives_on() {
        let mut bar = Progress::new("count", 10, "steps");
        bar.start -= Duration::from_secs(5);
        bar.set(5).unwrap();
        assert!(bar.shown.is_some() && !bar.state.finished);
        bar.set(10).unwrap();
        assert!(bar.state.finished, "at once, not a pause later");
        assert!(bar.state.text.contains("100 %"), "{}", bar.state.text);
    }

    #[test]
    fn an_unknown_total_shows_no_share() {
        let state = State {
            id: 0,
            label: "read".into(),
            done: 3,
            total: 0,
            unit: "files".into(),
            seconds: 1.0,
            finished: true,
            text: String::new(),
        };
        assert_eq!(state.line(), "read: 3 files, 3 files/s, 1.0 s");
    }
}
