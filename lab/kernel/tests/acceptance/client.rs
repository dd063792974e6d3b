//! A small Jupyter client: starts the kernel as Jupyter would and runs cells in it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use jupyter_protocol::{
    ConnectionInfo, ExecuteRequest, JupyterMessage, JupyterMessageContent, UnknownMessage,
};
use jupyter_zmq_client::{
    ClientControlConnection, ClientIoPubConnection, ClientShellConnection,
    create_client_control_connection, create_client_iopub_connection,
    create_client_shell_connection_with_identity, peek_ports_with_listeners,
    peer_identity_for_session,
};
use serde_json::{Value, json};

/// A running kernel and the sockets to it.
pub struct Kernel {
    pub process: tokio::process::Child,
    shell: ClientShellConnection,
    iopub: ClientIoPubConnection,
    control: ClientControlConnection,
    /// Replies to other cells than the one that was waited for.
    early: Vec<JupyterMessage>,
    _directory: tempfile::TempDir,
}

/// All that came of one cell.
#[derive(Debug, Default)]
pub struct Reply {
    pub status: String,
    pub name: String,
    pub message: String,
    pub traceback: String,
    pub stdout: String,
    pub stderr: String,
    /// `display_data`, in order.
    pub displays: Vec<Value>,
    /// `update_display_data`, in order.
    pub updates: Vec<Value>,
    /// `text/plain` of the result.
    pub result: Option<String>,
    /// The end of the cell was published and heard.
    pub heard: bool,
    pub seconds: f64,
}

/// The kernel under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_llmkit-kernel");

/// How long a cell may take: the first may have to build the library.
const PATIENCE: Duration = Duration::from_secs(900);

/// Held from choosing ports until a kernel has bound them, so that no other kernel of these tests chooses the same.
static PORTS: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The checkout under test.
pub fn repo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("two levels down")
        .to_path_buf()
}

impl Kernel {
    /// Starts a kernel without a spare: what is tested is this process.
    pub async fn start() -> Kernel {
        Kernel::start_with(&[("LLMKIT_NO_SPARE", "1"), ("LLMKIT_COLD_START", "1")]).await
    }

    pub async fn start_with(variables: &[(&str, &str)]) -> Kernel {
        Kernel::start_by(tokio::process::Command::new(BINARY), variables).await
    }

    /// Starts a kernel by a `command` that hands its arguments on to the binary.
    pub async fn start_by(
        mut command: tokio::process::Command,
        variables: &[(&str, &str)],
    ) -> Kernel {
        let directory = tempfile::tempdir().expect("temporary directory");
        let ports_taken = PORTS.lock().await;
        let ip = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
        let (ports, listeners) = peek_ports_with_listeners(ip, 5).await.expect("free ports");
        let connection = ConnectionInfo {
            transport: jupyter_protocol::connection_info::Transport::TCP,
            ip: ip.to_string(),
            stdin_port: ports[0],
            control_port: ports[1],
            hb_port: ports[2],
            shell_port: ports[3],
            iopub_port: ports[4],
            signature_scheme: "hmac-sha256".to_owned(),
            key: "secret".to_owned(),
            kernel_name: Some("llmkit".to_owned()),
        };
        let file = directory.path().join("connection.json");
        std::fs::write(&file, serde_json::to_string(&connection).expect("json"))
            .expect("connection file");
        drop(listeners);
        let process = command
            .arg("kernel")
            .arg("--connection-file")
            .arg(&file)
            .arg("--repo")
            .arg(repo())
            .envs(variables.iter().copied())
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("start the kernel");
        let session = "acceptance";
        let identity = peer_identity_for_session(session).expect("identity");
        let wait = Instant::now();
        let (iopub, shell, control) = loop {
            let iopub = create_client_iopub_connection(&connection, "", session).await;
            let shell = create_client_shell_connection_with_identity(
                &connection,
                session,
                identity.clone(),
            )
            .await;
            let control = create_client_control_connection(&connection, session).await;
            match (iopub, shell, control) {
                (Ok(iopub), Ok(shell), Ok(control)) => break (iopub, shell, control),
                _ if wait.elapsed() < Duration::from_secs(120) => {
                    tokio::time::sleep(Duration::from_millis(50)).await
                }
                _ => panic!("the kernel did not open its sockets in two minutes"),
            }
        };
        drop(ports_taken);
        let mut kernel = Kernel {
            process,
            shell,
            iopub,
            control,
            early: Vec::new(),
            _directory: directory,
        };
        // A cell that changes nothing tells when the subscription and the evaluator are there.
        for _ in 0..20 {
            if kernel.run("()").await.heard {
                return kernel;
            }
        }
        panic!("nothing that the kernel publishes is heard");
    }

    /// Runs one cell to its end.
    pub async fn run(&mut self, code: &str) -> Reply {
        let id = self.send(code).await;
        self.finish(&id).await
    }

    /// Sends a cell without waiting for it.
    pub async fn send(&mut self, code: &str) -> String {
        let request = ExecuteRequest {
            stop_on_error: true,
            ..ExecuteRequest::new(code.to_owned())
        };
        let message: JupyterMessage = request.into();
        let id = message.header.msg_id.clone();
        self.shell.send(message).await.expect("send the cell");
        id
    }

    /// Waits until the kernel publishes a message of a kind; it is not seen again by [`Kernel::finish`].
    pub async fn wait_for(&mut self, kind: &str) {
        let heard =
            async { while self.iopub.read().await.expect("iopub").header.msg_type != kind {} };
        let waited = tokio::time::timeout(PATIENCE, heard).await;
        waited.unwrap_or_else(|_| panic!("the kernel did not publish {kind}"));
    }

    /// Collects what comes of a cell until it is idle and its reply is here.
    pub async fn finish(&mut self, id: &str) -> Reply {
        let start = Instant::now();
        let mut reply = Reply::default();
        let (mut is_idle, mut is_answered) = (false, false);
        let is_own = |message: &JupyterMessage| {
            (message.parent_header.as_ref()).is_some_and(|parent| parent.msg_id == id)
        };
        let mut early = (self.early.iter())
            .position(is_own)
            .map(|at| self.early.remove(at));
        while !(is_idle && is_answered) {
            assert!(start.elapsed() < PATIENCE, "no answer to the cell");
            tokio::select! {
                message = self.iopub.read() => {
                    let message = message.expect("iopub");
                    if is_own(&message) && take(&mut reply, &message) {
                        is_idle = true;
                        reply.heard = true;
                    }
                }
                message = async {
                    match early.take() {
                        Some(message) => Ok(message),
                        None => self.shell.read().await,
                    }
                } => {
                    let message = message.expect("shell");
                    if is_own(&message) {
                        let content = content(&message);
                        reply.status = content["status"].as_str().unwrap_or_default().to_owned();
                        is_answered = true;
                        // Aborted cells and lost subscriptions have no more to say.
                        is_idle |= reply.status == "aborted";
                    } else {
                        self.early.push(message);
                    }
                }
                () = tokio::time::sleep(Duration::from_secs(3)), if is_answered => is_idle = true,
                () = tokio::time::sleep(PATIENCE) => {}
            }
        }
        reply.seconds = start.elapsed().as_secs_f64();
        reply
    }

    /// The stop button.
    pub async fn interrupt(&mut self) {
        self.control
            .send(request("interrupt_request", json!({})))
            .await
            .expect("interrupt");
        self.control.read().await.expect("interrupt reply");
    }

    /// Asks something else on the shell socket and returns the reply's content.
    pub async fn ask(&mut self, kind: &str, content: Value) -> Value {
        let message = request(kind, content);
        let id = message.header.msg_id.clone();
        self.shell.send(message).await.expect("send");
        loop {
            let message = self.shell.read().await.expect("shell");
            if message
                .parent_header
                .as_ref()
                .is_some_and(|parent| parent.msg_id == id)
            {
                return self::content(&message);
            }
        }
    }

    /// Ends the kernel as Jupyter does.
    pub async fn shut_down(mut self) {
        self.control
            .send(request("shutdown_request", json!({ "restart": false })))
            .await
            .expect("shutdown");
        let ended = tokio::time::timeout(Duration::from_secs(5), self.process.wait()).await;
        assert!(
            ended.is_ok(),
            "the kernel did not end within 5 s of a shutdown request"
        );
    }
}

fn request(kind: &str, content: Value) -> JupyterMessage {
    let content = UnknownMessage {
        msg_type: kind.to_owned(),
        content,
    };
    JupyterMessage::new(JupyterMessageContent::UnknownMessage(content), None)
}

fn content(message: &JupyterMessage) -> Value {
    serde_json::to_value(&message.content).expect("content")
}

/// Adds one published message to a reply; true at `idle`.
fn take(reply: &mut Reply, message: &JupyterMessage) -> bool {
    let content = content(message);
    let text = |name: &str| content[name].as_str().unwrap_or_default().to_owned();
    match message.header.msg_type.as_str() {
        "stream" if content["name"] == "stdout" => reply.stdout += &text("text"),
        "stream" => reply.stderr += &text("text"),
        "display_data" => reply.displays.push(content["data"].clone()),
        "update_display_data" => reply.updates.push(content["data"].clone()),
        "execute_result" => {
            reply.result = content["data"]["text/plain"].as_str().map(str::to_owned)
        }
        "error" => {
            reply.name = text("ename");
            reply.message = text("evalue");
            let lines = content["traceback"].as_array().cloned().unwrap_or_default();
            reply.traceback = lines
                .iter()
                .filter_map(Value::as_str)
                .collect::<Vec<_>>()
                .join("\n");
        }
        "status" => return content["execution_state"] == "idle",
        _ => {}
    }
    false
}
