//! Ends with whoever started this kernel, even if that was killed and could not say so.

use std::time::Duration;

/// How Jupyter and the lab name themselves to kernels.
const PARENT_VAR: &str = "JPY_PARENT_PID";
/// How often the parent is looked for.
const PERIOD: Duration = Duration::from_millis(500);

/// Watches the parent if it is the process named in the environment; a kernel started by hand is nobody's.
///
/// A signal at the parent's death would be simpler, but it comes when the *thread* that started the kernel ends.
pub fn end_with_it() {
    let parent = || rustix::process::getppid().map(|it| it.as_raw_nonzero().get().to_string());
    let named = std::env::var(PARENT_VAR).ok();
    if named.is_none() || named != parent() {
        return;
    }
    std::thread::spawn(move || {
        while parent() == named {
            std::thread::sleep(PERIOD);
        }
        eprintln!("llmkit-kernel: what started this kernel is gone");
        std::process::exit(1);
    });
}
