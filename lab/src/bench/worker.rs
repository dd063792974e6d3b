//! A program that runs cases for us: a request a line on its standard input, an answer a line on its standard output.
//!
//! The protocol is described at the head of `llmkit/examples/engine/main.rs`. Between two requests a worker waits for input and uses no
//! processor, so that several of them can take turns.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// A running worker; dropping it ends it.
#[derive(Debug)]
pub struct Worker {
    /// What it calls itself.
    pub name: String,
    /// Its version, with what matters beside it.
    pub version: String,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts one and waits until it says who it is.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(command: &mut Command) -> Result<Worker> {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {program}"))?;
        let input = child.stdin.take().context("its standard input")?;
        let output = child.stdout.take().context("its standard output")?;
        let mut worker = Worker {
            name: program,
            version: String::new(),
            child,
            input,
            output: BufReader::new(output),
        };
        let hello = worker.answer()?;
        let text = |key: &str| hello[key].as_str().unwrap_or("?").to_owned();
        (worker.name, worker.version) = (text("name"), text("version"));
        Ok(worker)
    }

    /// Loads what `case` needs, as slot `slot`.
    ///
    /// # Errors
    /// If it cannot.
    pub fn prepare(&mut self, slot: usize, case: &Value) -> Result<()> {
        self.ask(&json!({"do": "prepare", "slot": slot, "case": case}))?;
        Ok(())
    }

    /// Seconds of one run of a prepared case.
    ///
    /// # Errors
    /// If it fails.
    pub fn run(&mut self, slot: usize) -> Result<f64> {
        let answer = self.ask(&json!({"do": "run", "slot": slot}))?;
        let seconds = answer["seconds"].as_f64().filter(|it| *it > 0.0);
        seconds.with_context(|| format!("{} answered {answer}", self.name))
    }

    /// Any request.
    ///
    /// # Errors
    /// What the worker says went wrong, or that it is gone.
    pub fn ask(&mut self, request: &Value) -> Result<Value> {
        let gone = || format!("{} has ended", self.name);
        writeln!(self.input, "{request}").with_context(gone)?;
        self.input.flush().with_context(gone)?;
        self.answer()
    }

    /// Most memory that it has had at once, in bytes.
    ///
    /// # Errors
    /// Where there is no `/proc`.
    pub fn peak_memory(&self) -> Result<f64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|it| it.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
        Ok(1024.0 * kib.context("no VmHWM")?)
    }

    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        let length = self.output.read_line(&mut line);
        if length.with_context(|| format!("read from {}", self.name))? == 0 {
            let status = self
                .child
                .wait()
                .map_or_else(|it| it.to_string(), |it| it.to_string());
            bail!("{} has ended ({status})", self.name);
        }
        let answer: Value = serde_json::from_str(&line)
            .with_context(|| format!("{} answered {line:?}", self.name))?;
        match answer["error"].as_str() {
            Some(why) => bail!("{}: {why}", self.name),
            None => Ok(answer),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It holds nothing worth saving, and may be in the middle of a run.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Result<Worker> {
        Worker::start(Command::new("sh").args(["-c", script]))
    }

    #[test]
    fn a_worker_is_asked_and_answers() {
        let script = r#"echo '{"name": "sh", "version": "1"}'; read a; echo '{}'; read b; echo '{"seconds": 0.5}'
            read c; echo '{"error": "no more"}'; read d; echo nonsense; read e; exit 3"#;
        let mut worker = shell(script).unwrap();
        assert_eq!((worker.name.as_str(), worker.version.as_str()), ("sh", "1"));
        worker.prepare(0, &json!({"kind": "prompt"})).unwrap();
        assert_eq!(worker.run(0).unwrap(), 0.5);
        assert!(worker.run(0).unwrap_err().to_string().contains("no more"));
        assert!(worker.run(0).unwrap_err().to_string().contains("nonsense"));
        assert!(worker.peak_memory().unwrap() > 1e5);
        let end = worker.run(0).unwrap_err().to_string();
        assert!(end.contains("exit status: 3"), "{end}");
    }

    #[test]
    fn one_that_does_not_start_is_an_error() {
        assert!(shell("exit 1").is_err());
        assert!(Worker::start(&mut Command::new("/no/such/program")).is_err());
    }
}
