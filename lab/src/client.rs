//! The talk with a kernel: start, execute, interrupt, end.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jupyter_protocol::connection_info::Transport;
use jupyter_protocol::messaging::{
    ExecuteReply, ExecuteRequest, ExecutionState, InterruptRequest, JupyterMessage,
    JupyterMessageContent, KernelInfoRequest, ReplyStatus, ShutdownRequest,
};
use jupyter_zmq_client::ConnectionInfo;
use serde_json::Value;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::kernelspec::KernelSpec;
use crate::process::{Launch, Process};
use crate::wire::{Event, Wire};

/// How long a kernel may take until it answers; what cells link to may have to be rebuilt meanwhile.
const START_LIMIT: Duration = Duration::from_secs(600);
/// How long an interrupted cell may take to end.
const GRACE: Duration = Duration::from_secs(2);
/// How long outputs may lag behind the reply they belong to.
const OUTPUT_LAG: Duration = Duration::from_secs(10);

/// How a cell ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ended {
    /// Without an error.
    Ok,
    /// With an error reply: its name and message.
    Error(String, String),
    /// Not in time; whether the interrupt ended it (else the kernel was killed).
    TimedOut {
        /// Whether the cell ended when interrupted.
        is_interrupted: bool,
    },
    /// With the death of the kernel: what is known of it.
    Died(String),
}

/// A running kernel; dropping it kills it with all it started.
pub struct Kernel {
    process: Process,
    wire: Wire,
    is_interrupted_by_message: bool,
    /// `language_info` as the kernel gives it.
    pub language_info: Value,
    _connection_file: tempfile::TempDir,
}

impl Kernel {
    /// Starts a kernel and waits until it answers.
    ///
    /// # Errors
    /// If it cannot be started, ends at once, or does not answer.
    pub async fn start(spec: &KernelSpec, launch: &Launch) -> Result<Kernel> {
        let mut attempt = 1;
        loop {
            match Kernel::try_start(spec, launch).await {
                // A port may be taken by another program between our choosing it and the kernel's binding it.
                Err(error) if attempt < 3 && format!("{error:#}").contains("in use") => {
                    attempt += 1
                }
                result => return result,
            }
        }
    }

    async fn try_start(spec: &KernelSpec, launch: &Launch) -> Result<Kernel> {
        let dir = tempfile::tempdir().context("create a temporary directory")?;
        let file = dir.path().join("connection.json");
        let localhost = std::net::Ipv4Addr::LOCALHOST;
        let (ports, listeners) = jupyter_zmq_client::peek_ports_with_listeners(localhost.into(), 5)
            .await
            .context("find free ports")?;
        let info = ConnectionInfo {
            transport: Transport::TCP,
            ip: localhost.to_string(),
            shell_port: ports[0],
            iopub_port: ports[1],
            stdin_port: ports[2],
            control_port: ports[3],
            hb_port: ports[4],
            key: uuid::Uuid::new_v4().to_string(),
            signature_scheme: "hmac-sha256".to_owned(),
            kernel_name: Some(spec.display_name.clone()),
        };
        // Its folder can be entered by this user only: the key inside lets one run code.
        std::fs::write(&file, serde_json::to_vec(&info)?)
            .with_context(|| format!("write {}", file.display()))?;
        let mut launch = launch.clone();
        launch.env.extend(spec.env.clone());
        let mut process = Process::start(&argv(spec, &file), &launch)?;
        drop(listeners);
        let wire = tokio::select! {
            wire = Wire::connect(&info) => wire?,
            told = process.obituary() => bail!("the kernel ended at its start: {told}"),
            () = sleep(START_LIMIT) => bail!("the kernel opened no ports within {START_LIMIT:?}"),
        };
        let mut kernel = Kernel {
            process,
            wire,
            is_interrupted_by_message: spec.interrupt_mode == "message",
            language_info: Value::Null,
            _connection_file: dir,
        };
        kernel.wait_until_ready().await?;
        Ok(kernel)
    }

    /// Waits for an answer to a question, and for its echo on IOPub: from then on no output can be missed.
    async fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        let mut is_answered = false;
        let mut ask_again = Instant::now();
        loop {
            if Instant::now() >= deadline {
                bail!("the kernel did not answer within {START_LIMIT:?}");
            }
            if Instant::now() >= ask_again {
                let request: JupyterMessage = KernelInfoRequest {}.into();
                self.wire.send(request).await?;
                // Questions queue up in a kernel that still starts; be patient until the first answer.
                let pause = if is_answered { 1 } else { 30 };
                ask_again = Instant::now() + Duration::from_secs(pause);
            }
            tokio::select! {
                event = self.wire.events.recv() => match event {
                    Some(Event::Shell(message)) => {
                        if let JupyterMessageContent::KernelInfoReply(reply) = &message.content {
                            is_answered = true;
                            self.language_info = serde_json::to_value(&reply.language_info)?;
                            ask_again = Instant::now() + Duration::from_millis(500);
                        }
                    }
                    Some(Event::IoPub(message)) => {
                        let parent = message.parent_header.as_ref();
                        if parent.is_some_and(|parent| parent.msg_type == "kernel_info_request") {
                            is_answered |= is_idle(&message);
                            if is_answered && !self.language_info.is_null() {
                                return Ok(());
                            }
                        }
                    }
                    Some(Event::Silent(why)) => bail!("{why}"),
                    None => bail!("the kernel closed its ports"),
                },
                told = self.process.obituary() => bail!("the kernel ended at its start: {told}"),
                () = sleep_until(ask_again.min(deadline)) => {}
            }
        }
    }

    /// Waits until cells can run: a kernel may answer questions while its evaluator still starts.
    ///
    /// # Errors
    /// If the evaluator does not start; its messages went to `receive`.
    pub async fn warm_up(&mut self, receive: impl FnMut(&str, Value)) -> Result<()> {
        let nothing = ExecuteRequest {
            silent: true,
            store_history: false,
            ..ExecuteRequest::default()
        };
        match self.request(nothing, START_LIMIT, receive).await? {
            Ended::Ok => Ok(()),
            Ended::Error(name, message) => bail!("{name}: {message}"),
            Ended::TimedOut { .. } => bail!("the kernel was not ready within {START_LIMIT:?}"),
            Ended::Died(how) => bail!("{how}"),
        }
    }

    /// Executes `code`, handing each IOPub message that belongs to it to `receive` (its type and content).
    ///
    /// # Errors
    /// If the cell cannot be sent. Whatever happens to it or to the kernel is an [`Ended`].
    pub async fn execute(
        &mut self,
        code: &str,
        limit: Duration,
        receive: impl FnMut(&str, Value),
    ) -> Result<Ended> {
        let request = ExecuteRequest::new(code.to_owned());
        self.request(request, limit, receive).await
    }

    async fn request(
        &mut self,
        request: ExecuteRequest,
        limit: Duration,
        mut receive: impl FnMut(&str, Value),
    ) -> Result<Ended> {
        let request: JupyterMessage = request.into();
        let id = request.header.msg_id.clone();
        self.wire.send(request).await?;

        let mut deadline = Instant::now() + limit;
        let mut is_late = false;
        let mut reply: Option<Ended> = None;
        let mut is_done = false;
        loop {
            match &reply {
                Some(_) if is_done && is_late => {
                    return Ok(Ended::TimedOut {
                        is_interrupted: true,
                    });
                }
                Some(ended) if is_done => return Ok(ended.clone()),
                _ => {}
            }
            tokio::select! {
                event = self.wire.events.recv() => {
                    match event {
                        Some(Event::Shell(message)) if is_child_of(&message, &id) => {
                            if let JupyterMessageContent::ExecuteReply(message) = message.content {
                                reply = Some(ended(message));
                            }
                        }
                        Some(Event::IoPub(message)) if is_child_of(&message, &id) => {
                            is_done |= is_idle(&message);
                            receive(message.message_type(), serde_json::to_value(&message.content)?);
                        }
                        Some(Event::Shell(_) | Event::IoPub(_)) => continue,
                        Some(Event::Silent(why)) => {
                            self.process.kill().await;
                            return Ok(Ended::Died(format!("{why}; it was killed")));
                        }
                        None => return Ok(self.lost().await),
                    }
                    if reply.is_some() && !is_late {
                        deadline = Instant::now() + OUTPUT_LAG;
                    }
                }
                told = self.process.obituary() => {
                    return Ok(Ended::Died(format!("the kernel died: {told}")));
                }
                () = sleep_until(deadline) => match &reply {
                    // Answered, but its "idle" never came: the cell is done all the same.
                    Some(ended) if !is_late => return Ok(ended.clone()),
                    _ if is_late => {
                        self.process.kill().await;
                        return Ok(Ended::TimedOut { is_interrupted: false });
                    }
                    _ => {
                        is_late = true;
                        deadline = Instant::now() + GRACE;
                        self.interrupt().await;
                    }
                },
            }
        }
    }

    /// The connections ended: the kernel is dying, or does not behave as one.
    async fn lost(&mut self) -> Ended {
        match timeout(GRACE, self.process.obituary()).await {
            Ok(told) => Ended::Died(format!("the kernel died: {told}")),
            Err(_) => {
                self.process.kill().await;
                Ended::Died("the kernel closed its ports".to_owned())
            }
        }
    }

    async fn interrupt(&mut self) {
        if self.is_interrupted_by_message {
            // A kernel that cannot even be asked to stop is killed when its grace is over.
            let _ = timeout(GRACE, self.wire.control(InterruptRequest {}.into())).await;
        } else {
            self.process.interrupt();
        }
    }

    /// Asks the kernel to end, and makes it.
    pub async fn shutdown(mut self) {
        let request: JupyterMessage = ShutdownRequest { restart: false }.into();
        let _ = timeout(GRACE, self.wire.control(request)).await;
        let _ = timeout(GRACE, self.process.obituary()).await;
        self.process.kill().await;
    }
}

fn argv(spec: &KernelSpec, connection_file: &Path) -> Vec<String> {
    let file = connection_file.to_string_lossy();
    (spec.argv.iter())
        .map(|word| word.replace("{connection_file}", &file))
        .collect()
}

fn is_child_of(message: &JupyterMessage, id: &str) -> bool {
    (message.parent_header.as_ref()).is_some_and(|parent| parent.msg_id == id)
}

fn is_idle(message: &JupyterMessage) -> bool {
    matches!(&message.content, JupyterMessageContent::Status(status) if status.execution_state == ExecutionState::Idle)
}

fn ended(reply: ExecuteReply) -> Ended {
    if reply.status == ReplyStatus::Ok {
        return Ended::Ok;
    }
    match reply.error {
        Some(error) => Ended::Error(error.ename, error.evalue),
        None => Ended::Error("error".to_owned(), "the kernel gave no message".to_owned()),
    }
}
