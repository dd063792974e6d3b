//! The running cell: what its frames say, gathered by a thread of its own.

use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::display::{self, Bundle, PROGRESS_MIME};
use crate::evaluate::{Event, Sink};
use crate::frame::Frame;

const BEGIN_MIME: &str = "application/vnd.llmkit.begin+json";
const PANIC_MIME: &str = "application/vnd.llmkit.panic+json";
const ERROR_MIME: &str = "application/vnd.llmkit.error-line+json";
/// A display that nothing follows for this long is shown without waiting for the end of the cell.
const DISPLAY_PAUSE: Duration = Duration::from_millis(50);

/// What the collector thread knows of the running cell.
#[derive(Default)]
pub struct Cell {
    sink: Option<Sink>,
    /// The display put together so far.
    pub bundle: Bundle,
    bundle_since: Option<Instant>,
    /// Text on stderr not yet shown: if the cell fails, it is the error message.
    pub held: Option<(String, Instant)>,
    /// All of its stderr.
    pub last_stderr: String,
    /// It is compiled and runs.
    pub has_begun: bool,
    /// It panicked.
    pub panicked: bool,
    /// What the panic hook reported.
    pub panic: Option<Value>,
    /// A `?` returned early.
    pub returned_error: bool,
    /// In which line.
    pub error_line: Option<u64>,
    /// How its process ended, if it did.
    pub exited: Option<String>,
}

/// The cell, as all threads see it.
pub type Shared = Arc<Mutex<Cell>>;

/// Locks; a thread that panicked meanwhile left nothing half done.
pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cell {
    /// One whose events go to `sink`.
    pub fn new(sink: Sink) -> Cell {
        Cell {
            sink: Some(sink),
            ..Cell::default()
        }
    }

    /// Hands an event on.
    pub fn emit(&mut self, event: Event) {
        if let Some(sink) = &self.sink {
            sink(event);
        }
    }

    fn take(&mut self, frame: Frame) {
        match frame {
            Frame::Stdout(text) => {
                self.flush();
                self.emit(Event::Stream("stdout", text));
            }
            Frame::Stderr(text) => {
                self.last_stderr.push_str(&text);
                // One message may come in pieces: `eprintln!` writes its arguments one by one.
                match &mut self.held {
                    Some((held, since)) if since.elapsed() < DISPLAY_PAUSE => held.push_str(&text),
                    _ => {
                        self.release();
                        self.held = Some((text, Instant::now()));
                    }
                }
            }
            Frame::Block(mime, content) => self.block(mime, content),
            Frame::Panicked => self.panicked = true,
            Frame::ReturnedError => self.returned_error = true,
            Frame::Exited(how) => self.exited = Some(how),
            Frame::Complete | Frame::Pong => {}
        }
    }

    fn block(&mut self, mime: String, content: String) {
        let json = || serde_json::from_str::<Value>(&content).unwrap_or_default();
        match mime.as_str() {
            BEGIN_MIME => self.has_begun = true,
            PANIC_MIME => self.panic = Some(json()),
            ERROR_MIME => self.error_line = json()["line"].as_u64(),
            PROGRESS_MIME => {
                self.flush();
                self.emit(Event::Progress(json()));
            }
            // A cell that ends with a loop has no value to show.
            "text/plain" if content.trim() == "()" => {}
            _ => {
                if self.bundle.contains_key(&mime) {
                    self.flush();
                }
                display::insert(&mut self.bundle, mime, content);
                self.bundle_since = Some(Instant::now());
            }
        }
    }

    /// Shows what has waited long enough.
    fn tick(&mut self) {
        if self
            .bundle_since
            .is_some_and(|since| since.elapsed() >= DISPLAY_PAUSE)
        {
            self.flush();
        }
        if self
            .held
            .as_ref()
            .is_some_and(|(_, since)| since.elapsed() >= DISPLAY_PAUSE)
        {
            self.release();
        }
    }

    /// Shows the display put together so far.
    pub fn flush(&mut self) {
        self.bundle_since = None;
        if !self.bundle.is_empty() {
            let bundle = std::mem::take(&mut self.bundle);
            self.emit(Event::Display(bundle));
        }
    }

    /// Shows the text held back.
    pub fn release(&mut self) {
        if let Some((text, _)) = self.held.take() {
            self.emit(Event::Stream("stderr", text));
        }
    }
}

/// Reads frames of one cell process after another (a new one connects when the old one ended).
pub fn collect(
    listener: &UnixListener,
    cell: &Shared,
    proxy: &Mutex<Option<UnixStream>>,
    pong: &Sender<()>,
) {
    while let Ok((stream, _)) = listener.accept() {
        let Ok(writer) = stream.try_clone() else {
            continue;
        };
        *locked(proxy) = Some(writer);
        let (sender, frames) = channel();
        std::thread::spawn(move || {
            let mut stream = std::io::BufReader::new(stream);
            while let Some(frame) = Frame::read(&mut stream) {
                if sender.send(frame).is_err() {
                    return;
                }
            }
        });
        loop {
            match frames.recv_timeout(Duration::from_millis(10)) {
                Ok(Frame::Pong) => {
                    let _ = pong.send(());
                }
                Ok(frame) => locked(cell).take(frame),
                Err(RecvTimeoutError::Timeout) => locked(cell).tick(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let _ = pong.send(());
    }
}
