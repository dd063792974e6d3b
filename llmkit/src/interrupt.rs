//! The stop button. A kernel forwards it as SIGINT; long operations look at the flag between steps and end with
//! [`Error::Interrupted`], so that variables of earlier cells stay alive.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::{Error, Result};

static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();

fn flag() -> &'static Arc<AtomicBool> {
    FLAG.get_or_init(Arc::default)
}

/// Turns SIGINT into a request that [`check`] reports, instead of ending the process. Called once by a kernel.
///
/// # Errors
/// The system's refusal to install the handler.
pub fn install() -> std::io::Result<()> {
    signal_hook::flag::register(signal_hook::consts::SIGINT, flag().clone()).map(|_| ())
}

/// Asks running operations to stop, as the stop button does.
pub fn request() {
    flag().store(true, Ordering::Relaxed);
}

/// Forgets an earlier request. Called by the kernel when a new cell starts.
pub fn reset() {
    flag().store(false, Ordering::Relaxed);
}

/// Whether the user asked to stop.
pub fn is_requested() -> bool {
    flag().load(Ordering::Relaxed)
}

/// Ends `operation` with [`Error::Interrupted`] if the user asked to stop. Cheap: one relaxed load.
///
/// # Errors
/// [`Error::Interrupted`] if the stop button was pressed since the cell started.
pub fn check(operation: &str) -> Result<()> {
    if is_requested() {
        Err(Error::Interrupted(operation.to_owned()))
    } else {
        Ok(())
    }
}
