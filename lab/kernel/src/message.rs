//! Messages to Jupyter.

use anyhow::{Context, Result};
use jupyter_protocol::{JupyterMessage, JupyterMessageContent, UnknownMessage};
use jupyter_zmq_client::KernelIoPubConnection;
use serde_json::{Value, json};
use tokio::sync::Mutex;

/// Tells what the kernel is doing: `busy` or `idle`.
pub async fn status(
    iopub: &Mutex<KernelIoPubConnection>,
    request: &JupyterMessage,
    state: &str,
) -> Result<()> {
    let content = json!({ "execution_state": state });
    iopub
        .lock()
        .await
        .send(message("status", content, request))
        .await
        .context("publish status")
}

/// A message in answer to `request`.
pub fn message(kind: &str, content: Value, request: &JupyterMessage) -> JupyterMessage {
    let content = UnknownMessage {
        msg_type: kind.to_owned(),
        content,
    };
    JupyterMessage::new(
        JupyterMessageContent::UnknownMessage(content),
        Some(request),
    )
}

/// What a front end asks first.
pub fn kernel_info() -> Value {
    json!({
        "status": "ok",
        "protocol_version": "5.3",
        "implementation": "llmkit",
        "implementation_version": env!("CARGO_PKG_VERSION"),
        "banner": "llmkit: a laboratory for LLM-inference methods. :help lists what is there.",
        "help_links": [],
        "language_info": {
            "name": "rust", "version": "", "mimetype": "text/rust", "file_extension": ".rs",
            "pygments_lexer": "rust", "codemirror_mode": "rust", "nbconvert_exporter": "rust",
        },
    })
}
