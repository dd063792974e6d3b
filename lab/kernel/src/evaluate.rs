//! One evaluator: evcxr's context, the process that runs cells, and what we make of its frames.

use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use evcxr::{CommandContext, EvalContext, EvalOutputs};
use serde_json::Value;

use crate::child::{self, Frame};
use crate::display::{self, Bundle, PROGRESS_MIME};
use crate::explain::{folded, headline, lines_in_cell, short};

const BEGIN_MIME: &str = "application/vnd.llmkit.begin+json";
const PANIC_MIME: &str = "application/vnd.llmkit.panic+json";
const ERROR_MIME: &str = "application/vnd.llmkit.error-line+json";

/// A display that nothing follows for this long is shown without waiting for the end of the cell.
const DISPLAY_PAUSE: Duration = Duration::from_millis(50);
/// How long a cell may take to obey the stop button before its process is ended.
pub const GRACE: Duration = Duration::from_millis(1500);

/// What a running cell produces, in order.
#[derive(Debug)]
pub enum Event {
    /// Text on `stdout` or `stderr`.
    Stream(&'static str, String),
    /// A display in the middle of a cell.
    Display(Bundle),
    /// The state of a progress bar.
    Progress(Value),
}

/// Why a cell failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Kind of failure: "panic", "error", "compile error", …
    pub name: String,
    /// One short line.
    pub message: String,
    /// What is shown in the cell, line by line, with ANSI colours.
    pub traceback: Vec<String>,
}

/// Where a running cell's events go; returns when there is none to take them.
pub type Sink = Box<dyn Fn(Event) + Send>;

/// What the collector thread knows of the running cell.
#[derive(Default)]
struct Cell {
    sink: Option<Sink>,
    bundle: Bundle,
    bundle_since: Option<Instant>,
    /// Text on stderr not yet shown: if the cell fails, it is the error message.
    held: Option<(String, Instant)>,
    last_stderr: String,
    has_begun: bool,
    panicked: bool,
    panic: Option<Value>,
    returned_error: bool,
    error_line: Option<u64>,
    exited: Option<String>,
}

type Shared = Arc<Mutex<Cell>>;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reaches the running cell from other threads.
#[derive(Clone)]
pub struct Interrupter {
    proxy: Arc<Mutex<Option<UnixStream>>>,
    process: Arc<Mutex<std::process::Child>>,
    cell: Shared,
    /// The cell being executed, if any, and whether the stop button was pressed in it.
    running: Arc<Mutex<Option<Running>>>,
}

struct Running {
    number: u64,
    is_interrupted: bool,
    is_killed: bool,
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

    fn send(&self, byte: u8) -> bool {
        locked(&self.proxy)
            .as_mut()
            .is_some_and(|stream| stream.write_all(&[byte]).is_ok())
    }
}

/// An evaluator, ready for cells.
pub struct Evaluator {
    context: CommandContext,
    interrupter: Interrupter,
    cell: Shared,
    pongs: Receiver<()>,
    count: u64,
    /// Keeps evcxr's own output channels open; everything comes through frames.
    _outputs: evcxr::EvalContextOutputs,
}

impl Evaluator {
    /// Starts evcxr with the snapshot's prelude; takes seconds.
    pub fn new() -> Result<Evaluator> {
        let socket = crate::snapshot::work_directory().join("frames.sock");
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).context("open the frame socket")?;
        let cell = Shared::default();
        let proxy = Arc::default();
        let (pong, pongs) = channel();
        std::thread::spawn({
            let (cell, proxy) = (Arc::clone(&cell), Arc::clone(&proxy));
            move || collect(&listener, &cell, &proxy, &pong)
        });
        let (context, outputs) = EvalContext::with_subprocess_command(child::command(&socket)?)
            .map_err(|error| anyhow!("cannot start evcxr: {error}"))?;
        let mut context = CommandContext::with_eval_context(context);
        context
            .execute(crate::snapshot::PRELUDE)
            .map_err(|error| anyhow!("the prelude does not compile: {error}"))?;
        let interrupter = Interrupter {
            proxy,
            process: context.process_handle(),
            cell: Arc::clone(&cell),
            running: Arc::default(),
        };
        Ok(Evaluator {
            context,
            interrupter,
            cell,
            pongs,
            count: 0,
            _outputs: outputs,
        })
    }

    /// Makes the first cells fast: has rust-analyzer infer types through llmkit and the libraries, and loads the
    /// shared library into the cell process. Leaves no variable behind.
    pub fn warm_up(&mut self) {
        let _ = self
            .context
            .execute("let warm_up__ = (vec![1.5f64], String::from(\"a\"));");
        // Moved out, so that it is gone; and the first `?`, which costs evcxr a second compilation.
        let _ = self
            .context
            .execute("drop(warm_up__); Ok::<(), String>(())?;");
        let code = "let tensor = Tensor::zeros((2, 2), DType::F32, &Device::Cpu); let frame = df!(\"a\" => [1]);\
                    let lazy = frame.unwrap().lazy().collect();";
        let _ = self.context.check(code);
        let _ = self.context.completions("llmkit::", 8);
    }

    /// The handle by which other threads stop a cell.
    pub fn interrupter(&self) -> Interrupter {
        self.interrupter.clone()
    }

    /// Runs one cell. What it shows on the way goes to `sink`; its final value comes back.
    pub fn execute(&mut self, code: &str, sink: Sink) -> Result<Option<Bundle>, Failure> {
        self.count += 1;
        let number = self.count;
        *locked(&self.cell) = Cell {
            sink: Some(sink),
            ..Cell::default()
        };
        *locked(&self.interrupter.running) = Some(Running {
            number,
            is_interrupted: false,
            is_killed: false,
        });
        self.interrupter.send(child::RESET);
        while self.pongs.try_recv().is_ok() {}
        let before: Vec<String> = self.variables();

        let outcome = self.evaluate(code, number);
        self.settle();

        let (is_interrupted, is_killed) = locked(&self.interrupter.running)
            .take()
            .map_or((false, false), |running| {
                (running.is_interrupted, running.is_killed)
            });
        let mut cell = std::mem::take(&mut *locked(&self.cell));
        let failure = match outcome {
            Err(error) => {
                Some(self.explain(&error, code, &cell, is_interrupted, is_killed, &before))
            }
            Ok(_) if cell.panicked => Some(self.explain_panic(&cell, code, number)),
            Ok(_) if cell.returned_error => Some(explain_error(&mut cell, code)),
            Ok(outputs) => {
                cell.release();
                for (mime, content) in outputs.content_by_mime_type {
                    display::insert(&mut cell.bundle, mime, content);
                }
                None
            }
        };
        match failure {
            Some(failure) => {
                cell.release();
                cell.flush();
                Err(failure)
            }
            None => Ok((!cell.bundle.is_empty()).then_some(cell.bundle)),
        }
    }

    fn evaluate(&mut self, code: &str, number: u64) -> Result<EvalOutputs, evcxr::Error> {
        if code.trim() == ":help" {
            let mut outputs = self.context.execute(":help")?;
            let text = outputs
                .content_by_mime_type
                .remove("text/plain")
                .unwrap_or_default();
            outputs.content_by_mime_type.remove("text/html");
            outputs
                .content_by_mime_type
                .insert("text/plain".to_owned(), format!("{HELP}\n{text}"));
            return Ok(outputs);
        }
        if code
            .lines()
            .any(|line| line.trim_start().starts_with(":dep "))
        {
            let note = "llmkit: a crate of your own has to be compiled for this notebook; that can take minutes\n";
            locked(&self.cell).emit(Event::Stream("stderr", note.to_owned()));
        }
        match crate::cell::instrument(code, number) {
            Some(instrumented) => match self.context.execute(&instrumented) {
                // Show the compiler's words about the user's own code, or run it if only our insertions were at fault.
                Err(evcxr::Error::CompilationErrors(_) | evcxr::Error::Message(_)) => {
                    self.context.execute(code)
                }
                outcome => outcome,
            },
            None => self.context.execute(code),
        }
    }

    /// Waits until everything the cell printed has been collected.
    fn settle(&self) {
        if locked(&self.cell).exited.is_none() {
            // A proxy that is ending does not answer; then the end of its connection counts as the answer.
            self.interrupter.send(child::PING);
            let _ = self.pongs.recv_timeout(Duration::from_secs(2));
        }
    }

    fn variables(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .context
            .variables_and_types()
            .map(|(name, _)| name.to_owned())
            .collect();
        names.sort();
        names
    }

    fn explain_panic(&self, cell: &Cell, code: &str, number: u64) -> Failure {
        let report = cell.panic.clone().unwrap_or_default();
        let message = report["message"].as_str().unwrap_or("panic");
        let source = self.context.last_source().unwrap_or_default();
        let line_in_cell = |generated: u64| {
            crate::cell::cell_line(&source, code, number, usize::try_from(generated).ok()?)
        };
        let file = report["file"].as_str().unwrap_or_default();
        let backtrace = report["backtrace"].as_str().unwrap_or_default();
        let is_in_cell = file == "src/lib.rs";
        let line = if is_in_cell {
            report["line"].as_u64().and_then(line_in_cell)
        } else {
            lines_in_cell(backtrace).find_map(line_in_cell)
        };
        let name = if report["interrupted"].as_bool().unwrap_or(false) {
            "Interrupted"
        } else {
            "panic"
        };
        let mut traceback = headline(name, message, line, code);
        if !is_in_cell && !file.is_empty() {
            let short = file
                .rsplit_once("/registry/src/")
                .map_or(file, |(_, rest)| {
                    rest.split_once('/').map_or(rest, |(_, rest)| rest)
                });
            traceback.push(format!("  raised in {short}:{}", report["line"]));
        }
        if let Some(frames) = folded(backtrace) {
            traceback.push(frames);
        }
        Failure {
            name: name.to_owned(),
            message: short(message, line),
            traceback,
        }
    }

    fn explain(
        &self,
        error: &evcxr::Error,
        code: &str,
        cell: &Cell,
        is_interrupted: bool,
        is_killed: bool,
        before: &[String],
    ) -> Failure {
        let lost = match before {
            [] => "no variables were lost".to_owned(),
            names => format!("these variables were lost: {}", names.join(", ")),
        };
        match error {
            evcxr::Error::CompilationErrors(errors) => {
                crate::explain::compile_failure(errors, code)
            }
            evcxr::Error::SubprocessTerminated(_) if is_killed => {
                let message =
                    format!("the cell did not stop by itself and its process was ended; {lost}");
                Failure {
                    traceback: headline("Interrupted", &message, None, code),
                    name: "Interrupted".to_owned(),
                    message,
                }
            }
            evcxr::Error::SubprocessTerminated(_) => {
                let how = cell.exited.as_deref().unwrap_or("unknown status");
                let message = format!("the cell ended its process ({how}); {lost}");
                let mut traceback = headline("process ended", &message, None, code);
                if !cell.last_stderr.trim().is_empty() {
                    traceback.push(cell.last_stderr.trim().to_owned());
                }
                Failure {
                    name: "process ended".to_owned(),
                    message,
                    traceback,
                }
            }
            other => {
                let name = if is_interrupted {
                    "Interrupted"
                } else {
                    "error"
                };
                let message = other.to_string();
                Failure {
                    traceback: headline(name, &message, None, code),
                    name: name.to_owned(),
                    message: short(&message, None),
                }
            }
        }
    }

    /// Completions at a byte offset.
    pub fn complete(&mut self, code: &str, position: usize) -> Result<evcxr::Completions> {
        self.context.completions(code, position)
    }

    /// Documentation at a byte offset: plain text and Markdown.
    pub fn inspect(&mut self, code: &str, position: usize) -> Option<(String, String)> {
        let (plain, markdown) = self.context.hover_at(code, position).ok()?;
        (plain != "No documentation found").then_some((plain, markdown))
    }
}

const HELP: &str = "\
llmkit — what every cell has at hand (no :dep, no use needed):
  llmkit::…            hub, model, quant, kvcache, eval, report: press Tab after ::, Shift-Tab for documentation
  Tensor, Device, DType (candle) · df!, col, lit, DataFrame (polars) · param(\"name\", default)
  crates: llmkit candle_core polars plotters half rayon serde serde_json safetensors tokenizers
The stop button ends a cell; llmkit's own long operations stop cleanly and leave variables alive.

evcxr's commands:";

/// Explains a failed `?`: the message is what evcxr printed to stderr.
fn explain_error(cell: &mut Cell, code: &str) -> Failure {
    let message = match cell.held.take() {
        Some((text, _)) => text.trim().to_owned(),
        None => cell.last_stderr.trim().to_owned(),
    };
    let line = cell.error_line.and_then(|line| usize::try_from(line).ok());
    let name = if message.starts_with("interrupted:") {
        "Interrupted"
    } else {
        "error"
    };
    Failure {
        name: name.to_owned(),
        message: short(&message, line),
        traceback: headline(name, &message, line, code),
    }
}

/// Reads frames of one cell process after another (a new one connects when the old one ended).
fn collect(
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

impl Cell {
    fn emit(&mut self, event: Event) {
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
    fn flush(&mut self) {
        self.bundle_since = None;
        if !self.bundle.is_empty() {
            let bundle = std::mem::take(&mut self.bundle);
            self.emit(Event::Display(bundle));
        }
    }

    /// Shows the text held back.
    fn release(&mut self) {
        if let Some((text, _)) = self.held.take() {
            self.emit(Event::Stream("stderr", text));
        }
    }
}
