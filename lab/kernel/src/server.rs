//! The Jupyter side: sockets, requests, replies.
//!
//! Sockets are bound and `kernel_info` is answered at once; the evaluator may still be starting, and a cell that
//! comes before it is ready waits for it, saying so.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use jupyter_protocol::{ConnectionInfo, JupyterMessage, JupyterMessageContent};
use jupyter_zmq_client::{
    create_kernel_control_connection, create_kernel_heartbeat_connection,
    create_kernel_iopub_connection, create_kernel_shell_connection, create_kernel_stdin_connection,
};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::evaluate::{Evaluator, Failure};
use crate::interrupt::Interrupter;
use crate::jobs::{Job, Startup, bytes, evaluate};
use crate::message::{kernel_info, message};
use crate::publish::Publisher;

/// How the evaluator comes about: made on its own thread, when the server is already listening.
pub type MakeEvaluator = Box<dyn FnOnce(&dyn Fn(String)) -> Result<Evaluator> + Send>;

/// Serves one Jupyter session until it is shut down.
pub fn run(connection_file: &Path, make: MakeEvaluator) -> Result<()> {
    let text = std::fs::read_to_string(connection_file)
        .with_context(|| format!("read connection file {}", connection_file.display()))?;
    let connection: ConnectionInfo = serde_json::from_str(&text)
        .with_context(|| format!("parse connection file {}", connection_file.display()))?;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(serve(connection, make))
}

async fn serve(connection: ConnectionInfo, make: MakeEvaluator) -> Result<()> {
    let session = uuid::Uuid::new_v4().to_string();
    let iopub = create_kernel_iopub_connection(&connection, &session).await?;
    let shell = create_kernel_shell_connection(&connection, &session).await?;
    let mut control = create_kernel_control_connection(&connection, &session).await?;
    let _stdin = create_kernel_stdin_connection(&connection, &session).await?;
    let mut heartbeat = create_kernel_heartbeat_connection(&connection).await?;
    tokio::spawn(async move { while heartbeat.single_heartbeat().await.is_ok() {} });

    let interrupter: Arc<OnceLock<Interrupter>> = Arc::default();
    let (jobs, job_queue) = std::sync::mpsc::channel();
    let (notes, startup) = tokio::sync::watch::channel(Startup::Starting(String::new()));
    std::thread::Builder::new()
        .name("evaluator".to_owned())
        .spawn({
            let interrupter = Arc::clone(&interrupter);
            move || evaluate(make, &job_queue, &interrupter, &notes)
        })?;

    let (mut replies, mut requests) = shell.split();
    // Requests are read as they come, so that those behind a failed cell can be seen and aborted.
    let (queue, mut queued) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            match requests.read().await {
                Ok(message) => {
                    if queue.send(message).is_err() {
                        return;
                    }
                }
                Err(error) => {
                    eprintln!("llmkit-kernel: shell: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    });
    let mut server = Server {
        publisher: Publisher::new(iopub),
        jobs,
        startup,
        count: 0,
    };
    let publisher = server.publisher.clone();
    let shell = tokio::spawn(async move {
        while let Some(request) = queued.recv().await {
            match server.answer(&request, &mut queued).await {
                Ok(answers) => {
                    for answer in answers {
                        if let Err(error) = replies.send(answer).await {
                            eprintln!("llmkit-kernel: reply: {error}");
                        }
                    }
                }
                Err(error) => eprintln!("llmkit-kernel: {}: {error:#}", request.header.msg_type),
            }
        }
    });
    loop {
        let request = match control.read().await {
            Ok(request) => request,
            Err(error) => {
                eprintln!("llmkit-kernel: control: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        publisher.status(&request, "busy").await?;
        match &request.content {
            JupyterMessageContent::ShutdownRequest(shutdown) => {
                let content = json!({ "status": "ok", "restart": shutdown.restart });
                control
                    .send(message("shutdown_reply", content, &request))
                    .await?;
                publisher.status(&request, "idle").await?;
                break;
            }
            JupyterMessageContent::InterruptRequest(_) => {
                if let Some(interrupter) = interrupter.get() {
                    interrupter.interrupt();
                }
                control
                    .send(message(
                        "interrupt_reply",
                        json!({ "status": "ok" }),
                        &request,
                    ))
                    .await?;
            }
            JupyterMessageContent::KernelInfoRequest(_) => {
                control
                    .send(message("kernel_info_reply", kernel_info(), &request))
                    .await?;
            }
            _ => {}
        }
        publisher.status(&request, "idle").await?;
    }
    shell.abort();
    if let Some(interrupter) = interrupter.get() {
        interrupter.kill();
    }
    // Let the last messages leave the sockets.
    tokio::time::sleep(Duration::from_millis(50)).await;
    Ok(())
}

struct Server {
    publisher: Publisher,
    jobs: std::sync::mpsc::Sender<Job>,
    startup: tokio::sync::watch::Receiver<Startup>,
    count: u64,
}

impl Server {
    /// Replies to one request, and to those behind it that a failure aborts.
    async fn answer(
        &mut self,
        request: &JupyterMessage,
        queued: &mut mpsc::UnboundedReceiver<JupyterMessage>,
    ) -> Result<Vec<JupyterMessage>> {
        self.publisher.status(request, "busy").await?;
        let mut answers = Vec::new();
        match &request.content {
            JupyterMessageContent::KernelInfoRequest(_) => {
                answers.push(message("kernel_info_reply", kernel_info(), request));
            }
            JupyterMessageContent::ExecuteRequest(execute) => {
                let content = self.execute(request, &execute.code, execute.silent).await?;
                let failed = content["status"] == "error";
                answers.push(message("execute_reply", content, request));
                if failed && execute.stop_on_error {
                    answers.extend(self.abort(queued).await?);
                }
            }
            JupyterMessageContent::CompleteRequest(complete) => {
                let (code, position) = (
                    complete.code.clone(),
                    bytes(&complete.code, complete.cursor_pos),
                );
                let content = self
                    .ask(|reply| Job::Complete {
                        code,
                        position,
                        reply,
                    })
                    .await;
                let content = content.unwrap_or_else(|| {
                    json!({
                        "status": "ok", "matches": [], "metadata": {},
                        "cursor_start": complete.cursor_pos, "cursor_end": complete.cursor_pos,
                    })
                });
                answers.push(message("complete_reply", content, request));
            }
            JupyterMessageContent::InspectRequest(inspect) => {
                let (code, position) = (
                    inspect.code.clone(),
                    bytes(&inspect.code, inspect.cursor_pos),
                );
                let content = self
                    .ask(|reply| Job::Inspect {
                        code,
                        position,
                        reply,
                    })
                    .await;
                let content = content.unwrap_or_else(
                    || json!({ "status": "ok", "found": false, "data": {}, "metadata": {} }),
                );
                answers.push(message("inspect_reply", content, request));
            }
            JupyterMessageContent::IsCompleteRequest(_) => {
                answers.push(message(
                    "is_complete_reply",
                    json!({ "status": "unknown" }),
                    request,
                ));
            }
            JupyterMessageContent::HistoryRequest(_) => {
                answers.push(message(
                    "history_reply",
                    json!({ "status": "ok", "history": [] }),
                    request,
                ));
            }
            JupyterMessageContent::CommInfoRequest(_) => {
                answers.push(message(
                    "comm_info_reply",
                    json!({ "status": "ok", "comms": {} }),
                    request,
                ));
            }
            _ => {}
        }
        // The reply leaves before `idle`, which tells clients that nothing more will come.
        self.publisher.status(request, "idle").await?;
        Ok(answers)
    }

    /// Asks the evaluator something; `None` while it is still starting.
    async fn ask(&self, job: impl FnOnce(oneshot::Sender<Value>) -> Job) -> Option<Value> {
        if !matches!(*self.startup.borrow(), Startup::Ready) {
            return None;
        }
        let (reply, answer) = oneshot::channel();
        self.jobs.send(job(reply)).ok()?;
        answer.await.ok()
    }

    async fn execute(
        &mut self,
        request: &JupyterMessage,
        code: &str,
        silent: bool,
    ) -> Result<Value> {
        if !silent {
            self.count += 1;
        }
        let count = self.count;
        self.publisher
            .publish(
                "execute_input",
                json!({ "code": code, "execution_count": count }),
                request,
            )
            .await?;
        if let Err(failure) = self.wait_until_ready(request).await? {
            return self.publisher.fail(&failure, count, request).await;
        }
        let (events, mut received) = mpsc::unbounded_channel();
        let (reply, mut answer) = oneshot::channel();
        let job = Job::Execute {
            code: code.to_owned(),
            events,
            reply,
        };
        let gone = || Failure {
            name: "kernel".to_owned(),
            message: "the evaluator is gone: restart the kernel".to_owned(),
            traceback: vec!["the evaluator is gone: restart the kernel".to_owned()],
        };
        if self.jobs.send(job).is_err() {
            return self.publisher.fail(&gone(), count, request).await;
        }
        let mut bars = std::collections::HashMap::new();
        let outcome = loop {
            tokio::select! {
                biased;
                event = received.recv() => match event {
                    Some(event) => self.publisher.show(event, &mut bars, request).await?,
                    None => break (&mut answer).await,
                },
                outcome = &mut answer => break outcome,
            }
        };
        while let Ok(event) = received.try_recv() {
            self.publisher.show(event, &mut bars, request).await?;
        }
        match outcome.unwrap_or_else(|_| Err(gone())) {
            Ok(result) => {
                if let (Some(data), false) = (result, silent) {
                    let content = json!({ "execution_count": count, "data": data, "metadata": {} });
                    self.publisher
                        .publish("execute_result", content, request)
                        .await?;
                }
                Ok(
                    json!({ "status": "ok", "execution_count": count, "payload": [], "user_expressions": {} }),
                )
            }
            Err(failure) => self.publisher.fail(&failure, count, request).await,
        }
    }

    /// Waits for the evaluator, telling once a second in the cell what it is waiting for.
    async fn wait_until_ready(&mut self, request: &JupyterMessage) -> Result<Result<(), Failure>> {
        let start = Instant::now();
        let mut said = String::new();
        loop {
            let startup = self.startup.borrow_and_update().clone();
            match startup {
                Startup::Ready => return Ok(Ok(())),
                Startup::Failed(message) => {
                    let message = format!("the kernel could not start: {message}");
                    return Ok(Err(Failure {
                        name: "kernel".to_owned(),
                        traceback: message.lines().map(str::to_owned).collect(),
                        message,
                    }));
                }
                Startup::Starting(note) => {
                    if !note.is_empty() && note != said && start.elapsed() > Duration::from_secs(1)
                    {
                        let text = format!("llmkit: {note}\n");
                        self.publisher
                            .publish("stream", json!({ "name": "stderr", "text": text }), request)
                            .await?;
                        said = note;
                    }
                }
            }
            let _ = tokio::time::timeout(Duration::from_secs(1), self.startup.changed()).await;
        }
    }

    /// After a failed cell: those sent behind it are not run (Run-All stops), other requests are answered.
    async fn abort(
        &mut self,
        queued: &mut mpsc::UnboundedReceiver<JupyterMessage>,
    ) -> Result<Vec<JupyterMessage>> {
        // Front ends send all cells of Run-All at once; give the tail a moment to arrive.
        tokio::time::sleep(Duration::from_millis(30)).await;
        let mut answers = Vec::new();
        while let Ok(request) = queued.try_recv() {
            if matches!(request.content, JupyterMessageContent::ExecuteRequest(_)) {
                self.publisher.status(&request, "busy").await?;
                let content = json!({ "status": "aborted" });
                answers.push(message("execute_reply", content, &request));
                self.publisher.status(&request, "idle").await?;
            } else {
                answers.extend(Box::pin(self.answer(&request, queued)).await?);
            }
        }
        Ok(answers)
    }
}
