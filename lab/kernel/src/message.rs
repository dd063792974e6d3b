//! Messages to Jupyter.

use jupyter_protocol::{JupyterMessage, JupyterMessageContent, UnknownMessage};
use serde_json::{Value, json};

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
