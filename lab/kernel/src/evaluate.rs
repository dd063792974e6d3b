//! One evaluator: evcxr's context, the process that runs cells, and what we make of its frames.

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use evcxr::{CommandContext, EvalContext, EvalOutputs};
use serde_json::Value;

use crate::child;
use crate::display::{self, Bundle};
use crate::explain::{folded, headline, lines_in_cell, short};
use crate::interrupt::{Interrupter, Running};
use crate::running::{Cell, Shared, collect, locked};

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
        let socket = crate::work::directory().join("frames.sock");
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
        *locked(&self.cell) = Cell::new(sink);
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
