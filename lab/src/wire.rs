//! The sockets of one kernel, read by tasks of their own so that nothing is lost while we wait for something else.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result};
use jupyter_protocol::messaging::JupyterMessage;
use jupyter_zmq_client::{
    ClientControlConnection, ClientHeartbeatConnection, ConnectionInfo, DealerSendConnection,
    RuntimeError, create_client_control_connection, create_client_heartbeat_connection,
    create_client_iopub_connection, create_client_shell_connection_with_identity,
    peer_identity_for_session,
};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// How often a heartbeat is asked for, and how long it may stay unanswered.
const HEARTBEAT_PAUSE: Duration = Duration::from_secs(5);
const HEARTBEAT_LIMIT: Duration = Duration::from_secs(60);

/// Something that came from the kernel.
pub enum Event {
    /// A reply.
    Shell(JupyterMessage),
    /// An output, or a change of state.
    IoPub(JupyterMessage),
    /// No heartbeat: what can be said of it.
    Silent(String),
}

/// Connections to a kernel; reading ends when it is dropped.
pub struct Wire {
    shell: DealerSendConnection,
    control: ClientControlConnection,
    /// What the kernel sends, in the order of each socket.
    pub events: UnboundedReceiver<Event>,
    _readers: JoinSet<()>,
}

impl Wire {
    /// Connects as soon as the kernel has opened its ports, however long that takes.
    ///
    /// # Errors
    /// If the session cannot be given a name.
    pub async fn connect(info: &ConnectionInfo) -> Result<Wire> {
        let session = uuid::Uuid::new_v4().to_string();
        let identity = peer_identity_for_session(&session).context("name the session")?;
        let shell = patiently(|| {
            create_client_shell_connection_with_identity(info, &session, identity.clone())
        })
        .await;
        let mut iopub = patiently(|| create_client_iopub_connection(info, "", &session)).await;
        let control = patiently(|| create_client_control_connection(info, &session)).await;
        let heartbeat = patiently(|| create_client_heartbeat_connection(info)).await;

        let (shell, mut replies) = shell.split();
        let (sender, events) = mpsc::unbounded_channel();
        let mut readers = JoinSet::new();
        let to = sender.clone();
        readers.spawn(async move {
            while let Some(message) = next(replies.read().await) {
                forward(&to, message.map(Event::Shell));
            }
        });
        let to = sender.clone();
        readers.spawn(async move {
            while let Some(message) = next(iopub.read().await) {
                forward(&to, message.map(Event::IoPub));
            }
        });
        readers.spawn(listen_for_heartbeat(heartbeat, sender));
        Ok(Wire {
            shell,
            control,
            events,
            _readers: readers,
        })
    }

    /// Sends a request on the shell channel.
    ///
    /// # Errors
    /// If the socket is broken.
    pub async fn send(&mut self, request: JupyterMessage) -> Result<()> {
        self.shell.send(request).await.context("ask the kernel")
    }

    /// Sends a request on the control channel; its answer is not read.
    ///
    /// # Errors
    /// If the socket is broken.
    pub async fn control(&mut self, request: JupyterMessage) -> Result<()> {
        self.control.send(request).await.context("ask the kernel")
    }
}

/// Tries to connect again and again, for ever: the library's own pauses grow to half a minute, longer than a kernel's
/// start. The caller sets the limit, and sees the kernel die.
async fn patiently<T, F>(connect: impl Fn() -> F) -> T
where
    F: Future<Output = jupyter_zmq_client::Result<T>>,
{
    let mut limit = Duration::from_millis(300);
    loop {
        match timeout(limit, connect()).await {
            Ok(Ok(connection)) => return connection,
            // A port between our letting go of it and the kernel's taking it answers in odd ways.
            Ok(Err(_)) => sleep(Duration::from_millis(20)).await,
            Err(_) => limit = (limit * 5 / 4).min(Duration::from_secs(3)),
        }
    }
}

/// A message, `Some(None)` for one that is to be skipped, or `None` at the end of the connection.
fn next(read: jupyter_zmq_client::Result<JupyterMessage>) -> Option<Option<JupyterMessage>> {
    match read {
        Ok(message) => Some(Some(message)),
        Err(RuntimeError::ZmqError(_) | RuntimeError::IoError(_)) => None,
        Err(error) => {
            eprintln!("skipped a message of the kernel: {error}");
            Some(None)
        }
    }
}

fn forward(to: &UnboundedSender<Event>, event: Option<Event>) {
    if let Some(event) = event {
        // Nobody listens any more: the kernel is being dropped.
        let _ = to.send(event);
    }
}

async fn listen_for_heartbeat(
    mut heartbeat: ClientHeartbeatConnection,
    to: UnboundedSender<Event>,
) {
    loop {
        match timeout(HEARTBEAT_LIMIT, heartbeat.single_heartbeat()).await {
            Ok(Ok(())) => sleep(HEARTBEAT_PAUSE).await,
            Ok(Err(_)) => return,
            Err(_) => {
                let why = format!("the kernel gave no sign of life for {HEARTBEAT_LIMIT:?}");
                forward(&to, Some(Event::Silent(why)));
                return;
            }
        }
    }
}
