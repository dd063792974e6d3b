//! What all front ends see: the kernel's state, streams, displays, progress, errors, on the socket that is for everybody.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use jupyter_protocol::JupyterMessage;
use jupyter_zmq_client::KernelIoPubConnection;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::display;
use crate::evaluate::{Event, Failure};
use crate::message::message;

/// The socket, shared.
#[derive(Clone)]
pub struct Publisher(Arc<Mutex<KernelIoPubConnection>>);

impl Publisher {
    /// On this socket.
    pub fn new(iopub: KernelIoPubConnection) -> Publisher {
        Publisher(Arc::new(Mutex::new(iopub)))
    }

    /// Tells what the kernel is doing: `busy` or `idle`.
    pub async fn status(&self, request: &JupyterMessage, state: &str) -> Result<()> {
        let content = json!({ "execution_state": state });
        self.publish("status", content, request).await
    }

    /// A message of any kind, because of `request`.
    pub async fn publish(
        &self,
        kind: &str,
        content: Value,
        request: &JupyterMessage,
    ) -> Result<()> {
        self.0
            .lock()
            .await
            .send(message(kind, content, request))
            .await
            .with_context(|| format!("publish {kind}"))
    }

    /// Publishes one event. A progress bar's first state opens a display, later ones update it.
    pub async fn show(
        &self,
        event: Event,
        bars: &mut HashMap<u64, String>,
        request: &JupyterMessage,
    ) -> Result<()> {
        match event {
            Event::Stream(name, text) => {
                self.publish("stream", json!({ "name": name, "text": text }), request)
                    .await
            }
            Event::Display(data) => {
                self.publish(
                    "display_data",
                    json!({ "data": data, "metadata": {} }),
                    request,
                )
                .await
            }
            Event::Progress(state) => {
                let bar = state["id"].as_u64().unwrap_or(0);
                let is_new = !bars.contains_key(&bar);
                let id = bars
                    .entry(bar)
                    .or_insert_with(|| uuid::Uuid::new_v4().to_string());
                let kind = if is_new {
                    "display_data"
                } else {
                    "update_display_data"
                };
                let data = display::progress(&state);
                self.publish(
                    kind,
                    json!({ "data": data, "metadata": {}, "transient": { "display_id": id } }),
                    request,
                )
                .await
            }
        }
    }

    /// Publishes a failure; returns what the reply says of it.
    pub async fn fail(
        &self,
        failure: &Failure,
        count: u64,
        request: &JupyterMessage,
    ) -> Result<Value> {
        let error = json!({ "ename": failure.name, "evalue": failure.message, "traceback": failure.traceback });
        self.publish("error", error.clone(), request).await?;
        let mut content = json!({ "status": "error", "execution_count": count });
        if let (Some(content), Some(error)) = (content.as_object_mut(), error.as_object()) {
            content.extend(error.clone());
        }
        Ok(content)
    }
}
