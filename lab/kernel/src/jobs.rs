//! The evaluator's thread, and what it is asked to do.

use std::sync::OnceLock;

use anyhow::Result;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::display::Bundle;
use crate::evaluate::{Event, Failure};
use crate::interrupt::Interrupter;
use crate::server::MakeEvaluator;

/// Work for the evaluator's thread.
pub enum Job {
    Execute {
        code: String,
        events: mpsc::UnboundedSender<Event>,
        reply: oneshot::Sender<Result<Option<Bundle>, Failure>>,
    },
    Complete {
        code: String,
        position: usize,
        reply: oneshot::Sender<Value>,
    },
    Inspect {
        code: String,
        position: usize,
        reply: oneshot::Sender<Value>,
    },
}

/// What the evaluator's thread says of itself.
#[derive(Clone)]
pub enum Startup {
    Starting(String),
    Ready,
    Failed(String),
}

/// The evaluator's thread: makes it, then does jobs in order.
pub fn evaluate(
    make: MakeEvaluator,
    jobs: &std::sync::mpsc::Receiver<Job>,
    interrupter: &OnceLock<Interrupter>,
    notes: &tokio::sync::watch::Sender<Startup>,
) {
    let made = make(&|note| {
        let _ = notes.send(Startup::Starting(note));
    });
    let mut evaluator = match made {
        Ok(evaluator) => evaluator,
        Err(error) => {
            eprintln!("llmkit-kernel: {error:#}");
            let _ = notes.send(Startup::Failed(format!("{error:#}")));
            return;
        }
    };
    let _ = interrupter.set(evaluator.interrupter());
    let _ = notes.send(Startup::Ready);
    while let Ok(job) = jobs.recv() {
        match job {
            Job::Execute {
                code,
                events,
                reply,
            } => {
                let sink = Box::new(move |event| {
                    let _ = events.send(event);
                });
                let _ = reply.send(evaluator.execute(&code, sink));
            }
            Job::Complete {
                code,
                position,
                reply,
            } => {
                let content = match evaluator.complete(&code, position) {
                    Ok(found) => {
                        let matches: Vec<&str> = found
                            .completions
                            .iter()
                            .map(|item| item.code.as_str())
                            .collect();
                        let types: Vec<Value> = found
                            .completions
                            .iter()
                            .map(|item| json!({
                                "text": item.code, "type": item.kind, "start": characters(&code, found.start_offset),
                                "end": characters(&code, found.end_offset), "signature": item.label,
                            }))
                            .collect();
                        json!({
                            "status": "ok", "matches": matches, "cursor_start": characters(&code, found.start_offset),
                            "cursor_end": characters(&code, found.end_offset),
                            "metadata": { "_jupyter_types_experimental": types },
                        })
                    }
                    Err(_) => json!({
                        "status": "ok", "matches": [], "metadata": {},
                        "cursor_start": characters(&code, position), "cursor_end": characters(&code, position),
                    }),
                };
                let _ = reply.send(content);
            }
            Job::Inspect {
                code,
                position,
                reply,
            } => {
                let found = evaluator.inspect(&code, position);
                let data = found.as_ref().map_or(
                    json!({}),
                    |(plain, markdown)| json!({ "text/plain": plain, "text/markdown": markdown }),
                );
                let _ = reply.send(json!({ "status": "ok", "found": found.is_some(), "data": data, "metadata": {} }));
            }
        }
    }
}

/// Byte offset → offset in characters, as Jupyter counts.
fn characters(code: &str, bytes: usize) -> usize {
    code.char_indices()
        .take_while(|(at, _)| *at < bytes)
        .count()
}

/// Offset in characters → byte offset; beyond the end is the end.
pub fn bytes(code: &str, characters: usize) -> usize {
    code.char_indices()
        .nth(characters)
        .map_or(code.len(), |(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_count_characters() {
        let code = "é = α.β";
        assert_eq!(bytes(code, 5), "é = α".len());
        assert_eq!(characters(code, "é = α".len()), 5);
        assert_eq!(bytes(code, 99), code.len());
        assert_eq!(characters(code, 99), 7);
    }
}
