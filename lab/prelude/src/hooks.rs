//! What the kernel calls in the process that runs cells. Not for use by hand.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::PanicHookInfo;
use std::sync::Once;

use serde_json::json;

/// MIME type under which a panic reaches the kernel.
pub const PANIC_MIME: &str = "application/vnd.llmkit.panic+json";
/// MIME type that tells the kernel a cell's code has begun to run.
pub const BEGIN_MIME: &str = "application/vnd.llmkit.begin+json";

/// MIME type that tells the kernel the line of a `?` that met an error.
pub const ERROR_MIME: &str = "application/vnd.llmkit.error-line+json";

/// Marks the start of cell `number`. The first call of a process also connects it to the kernel.
pub fn cell(number: u64) {
    static CONNECT: Once = Once::new();
    CONNECT.call_once(connect);
    llmkit::session::current();
    emit(BEGIN_MIME, &json!({ "cell": number }).to_string());
    if llmkit::interrupt::is_requested() {
        // Stopped while it was being compiled: end before it does anything.
        std::panic::panic_any(llmkit::Error::Interrupted(
            "before the cell began".to_owned(),
        ));
    }
}

fn connect() {
    std::panic::set_hook(Box::new(report_panic));
    let Some(path) = std::env::var_os("LLMKIT_CONTROL") else {
        return;
    };
    let stream = match UnixStream::connect(&path) {
        Ok(stream) => stream,
        Err(error) => {
            eprintln!(
                "llmkit: no connection to the kernel: {error}; the stop button will end the process"
            );
            return;
        }
    };
    // Detached on purpose: it lives as long as the process.
    let _ = std::thread::Builder::new()
        .name("llmkit-control".to_owned())
        .spawn(move || obey(stream));
}

/// Obeys the kernel's single-byte requests until it hangs up.
fn obey(mut stream: UnixStream) {
    let mut byte = [0];
    while stream.read_exact(&mut byte).is_ok() {
        match byte[0] {
            b'f' => {
                let _ = std::io::stdout().flush();
                if stream.write_all(b"f").is_err() {
                    return;
                }
            }
            b'i' => llmkit::interrupt::request(),
            b'r' => llmkit::interrupt::reset(),
            _ => {}
        }
    }
}

fn report_panic(info: &PanicHookInfo) {
    let payload = info.payload();
    let interrupted = matches!(payload.downcast_ref(), Some(llmkit::Error::Interrupted(_)));
    let message = match (
        payload.downcast_ref::<llmkit::Error>(),
        info.payload_as_str(),
    ) {
        (Some(error), _) => error.to_string(),
        (None, Some(text)) => text.to_owned(),
        (None, None) => "panic with a value that is not text".to_owned(),
    };
    let (file, line, column) = info
        .location()
        .map_or(("", 0, 0), |at| (at.file(), at.line(), at.column()));
    let report = json!({
        "message": message,
        "file": file,
        "line": line,
        "column": column,
        "thread": std::thread::current().name(),
        "interrupted": interrupted,
        "backtrace": std::backtrace::Backtrace::force_capture().to_string(),
    });
    emit(PANIC_MIME, &report.to_string());
}

fn emit(mime: &str, content: &str) {
    let mut out = std::io::stdout().lock();
    // The kernel may be gone; then nobody needs to know.
    let _ = writeln!(
        out,
        "EVCXR_BEGIN_CONTENT {mime}\n{content}\nEVCXR_END_CONTENT"
    );
    let _ = out.flush();
}

/// Remembers where a `?` met an error; put in front of each `?` by the kernel.
pub trait AtLine: Sized {
    /// Whether this value will make `?` return.
    #[doc(hidden)]
    fn is_failure__(&self) -> bool;

    /// Passes the value on.
    #[doc(hidden)]
    #[must_use]
    fn at_line__(self, line: u64) -> Self {
        if self.is_failure__() {
            emit(ERROR_MIME, &json!({ "line": line }).to_string());
        }
        self
    }
}

impl<T, E> AtLine for std::result::Result<T, E> {
    fn is_failure__(&self) -> bool {
        self.is_err()
    }
}

impl<T> AtLine for Option<T> {
    fn is_failure__(&self) -> bool {
        self.is_none()
    }
}
