//! The stop button.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::child;
use crate::running::{Shared, locked};

/// How long a cell may take to obey the stop button before its process is ended.
pub const GRACE: Duration = Duration::from_millis(1500);

/// Reaches the running cell from other threads.
#[derive(Clone)]
pub struct Interrupter {
    /// The connection to the proxy.
    pub proxy: Arc<Mutex<Option<UnixStream>>>,
    /// The process that runs cells.
    pub process: Arc<Mutex<std::process::Child>>,
    /// What it does.
    pub cell: Shared,
    /// The cell being executed, if any, and whether the stop button was pressed in it.
    pub running: Arc<Mutex<Option<Running>>>,
}

/// A cell that is being executed.
pub struct Running {
    /// Which one.
    pub number: u64,
    /// The stop button was pressed.
    pub is_interrupted: bool,
    /// It did not obey, and its process was ended.
    pub is_killed: bool,
}

impl Interrupter {
    /// The stop button: asks the running cell to stop and, if it does not within [`GRACE`], ends its process.
    pub fn interrupt(&self) {
        let number = match locked(&self.running).as_mut() {
            Some(running) => {
                running.is_interrupted = true;
                running.number
            }
            None => return,
        };
        self.send(child::INTERRUPT);
        let this = self.clone();
        std::thread::spawn(move || {
            let mut waited = Instant::now();
            loop {
                std::thread::sleep(Duration::from_millis(20));
                let mut running = locked(&this.running);
                let Some(running) = running.as_mut().filter(|running| running.number == number)
                else {
                    return;
                };
                // While the cell is still being compiled there is nothing to end.
                if !locked(&this.cell).has_begun {
                    waited = Instant::now();
                }
                if waited.elapsed() >= GRACE {
                    running.is_killed = true;
                    let _ = locked(&this.process).kill();
                    return;
                }
            }
        });
    }

    /// Ends the cell process at once, for shutdown.
    pub fn kill(&self) {
        let _ = locked(&self.process).kill();
    }

    /// Sends the prelude or the proxy a byte; false if nobody is there.
    pub fn send(&self, byte: u8) -> bool {
        locked(&self.proxy)
            .as_mut()
            .is_some_and(|stream| stream.write_all(&[byte]).is_ok())
    }
}
