//! What a kernel says while cells run, gathered as a front end would show it at the end.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

/// MIME type of a running operation's progress: shown, never stored.
const PROGRESS: &str = "application/vnd.llmkit.progress+json";
/// MIME type of a recorded claim: counted, never stored.
const CLAIM: &str = "application/vnd.llmkit.claim+json";

/// The outputs of a notebook's cells.
#[derive(Debug, Default)]
pub struct Outputs {
    cells: Vec<Vec<Value>>,
    /// Where each display with an id stands: cell and position.
    displays: HashMap<String, Vec<(usize, usize)>>,
    /// The next output replaces what the cell has shown so far.
    is_clearing: bool,
    /// Claims recorded so far.
    pub claims: usize,
    said: Option<Instant>,
}

impl Outputs {
    /// Starts the next cell; messages go to it from now on.
    pub fn start_cell(&mut self) {
        self.cells.push(Vec::new());
        self.is_clearing = false;
    }

    /// Takes in one message of the IOPub channel; gives a line to be shown where it reports progress.
    pub fn receive(&mut self, kind: &str, content: Value) -> Option<String> {
        let mut line = None;
        match kind {
            "stream" => self.stream(
                content["name"].as_str().unwrap_or("stdout"),
                content["text"].as_str().unwrap_or(""),
            ),
            "display_data" | "execute_result" => line = self.display(kind, content),
            "update_display_data" => line = self.update(content),
            "error" => {
                let mut output = json!({"output_type": "error"});
                for field in ["ename", "evalue"] {
                    output[field] = json!(content[field].as_str().unwrap_or(""));
                }
                output["traceback"] = match &content["traceback"] {
                    Value::Array(lines) => Value::Array(lines.clone()),
                    _ => json!([]),
                };
                self.push(output);
            }
            "clear_output" if content["wait"] == true => self.is_clearing = true,
            "clear_output" => self.clear(),
            _ => {}
        }
        line
    }

    /// The outputs of cell `at` (in order of [`Outputs::start_cell`]).
    pub fn cell(&self, at: usize) -> Vec<Value> {
        self.cells.get(at).cloned().unwrap_or_default()
    }

    /// How many cells were started.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    fn stream(&mut self, name: &str, text: &str) {
        if let Some(last) = self.cells.last_mut().and_then(|cell| cell.last_mut())
            && !self.is_clearing
            && last["output_type"] == "stream"
            && last["name"] == name
            && let Value::String(so_far) = &mut last["text"]
        {
            so_far.push_str(text);
            return;
        }
        self.push(json!({"output_type": "stream", "name": name, "text": text}));
    }

    fn display(&mut self, kind: &str, mut content: Value) -> Option<String> {
        let id = content["transient"]["display_id"]
            .as_str()
            .map(str::to_owned);
        let mut data = take_object(&mut content["data"]);
        if data.remove(CLAIM).is_some() {
            self.claims += 1;
        }
        let progress = data.remove(PROGRESS);
        if let Some(progress) = progress {
            // A bar is not a result: whatever stands in for it on a screen goes with it.
            return self.progress(&progress, &data.remove("text/plain").unwrap_or_default());
        }
        if data.is_empty() {
            return None;
        }
        let mut output = json!({
            "output_type": kind,
            "data": data,
            "metadata": take_object(&mut content["metadata"]),
        });
        if kind == "execute_result" {
            output["execution_count"] = content["execution_count"].take();
        }
        self.push(output);
        if let (Some(id), Some(cell)) = (id, self.cells.last()) {
            let place = (self.cells.len() - 1, cell.len() - 1);
            self.displays.entry(id).or_default().push(place);
        }
        None
    }

    fn update(&mut self, mut content: Value) -> Option<String> {
        let mut data = take_object(&mut content["data"]);
        data.remove(CLAIM);
        if let Some(progress) = data.remove(PROGRESS) {
            return self.progress(&progress, &data.remove("text/plain").unwrap_or_default());
        }
        let metadata = take_object(&mut content["metadata"]);
        let id = content["transient"]["display_id"].as_str().unwrap_or("");
        for &(cell, at) in self.displays.get(id).into_iter().flatten() {
            if let Some(output) = self.cells.get_mut(cell).and_then(|cell| cell.get_mut(at)) {
                output["data"] = Value::Object(data.clone());
                output["metadata"] = Value::Object(metadata.clone());
            }
        }
        None
    }

    /// A line for a running operation, at most one a second.
    /// The line that the kernel says of a running operation, if it is time for one.
    fn progress(&mut self, state: &Value, line: &Value) -> Option<String> {
        let is_finished = state["finished"] == true;
        if !is_finished && (self.said).is_some_and(|said| said.elapsed() < Duration::from_secs(1)) {
            return None;
        }
        self.said = Some(Instant::now());
        line.as_str().map(str::to_owned)
    }

    fn push(&mut self, output: Value) {
        if self.is_clearing {
            self.clear();
        }
        if let Some(cell) = self.cells.last_mut() {
            cell.push(output);
        }
    }

    fn clear(&mut self) {
        self.is_clearing = false;
        let Some(at) = self.cells.len().checked_sub(1) else {
            return;
        };
        self.cells[at].clear();
        for places in self.displays.values_mut() {
            places.retain(|(cell, _)| *cell != at);
        }
    }
}

fn take_object(value: &mut Value) -> Map<String, Value> {
    match value.take() {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started() -> Outputs {
        let mut outputs = Outputs::default();
        outputs.start_cell();
        outputs
    }

    #[test]
    fn streams_are_joined_until_something_else_comes() {
        let mut outputs = started();
        for (name, text) in [
            ("stdout", "a"),
            ("stdout", "b\n"),
            ("stderr", "e"),
            ("stdout", "c"),
        ] {
            outputs.receive("stream", json!({"name": name, "text": text}));
        }
        outputs.start_cell();
        outputs.receive("stream", json!({"name": "stdout", "text": "next"}));
        let texts: Vec<_> = outputs.cell(0).iter().map(|o| o["text"].clone()).collect();
        assert_eq!(texts, ["ab\n", "e", "c"]);
        assert_eq!(outputs.cell(1).len(), 1);
    }

    #[test]
    fn updates_reach_displays_of_earlier_cells_and_nothing_else() {
        let mut outputs = started();
        let display = |id: &str, text: &str| json!({"data": {"text/plain": text}, "metadata": {}, "transient": {"display_id": id}});
        outputs.receive("display_data", display("x", "one"));
        outputs.receive("display_data", display("y", "other"));
        outputs.start_cell();
        outputs.receive("display_data", display("x", "one again"));
        outputs.receive("update_display_data", display("x", "two"));
        outputs.receive("update_display_data", display("unknown", "lost"));
        assert_eq!(outputs.cell(0)[0]["data"]["text/plain"], "two");
        assert_eq!(outputs.cell(0)[1]["data"]["text/plain"], "other");
        assert_eq!(outputs.cell(1)[0]["data"]["text/plain"], "two");
        assert!(outputs.cell(0)[0].get("transient").is_none());
    }

    #[test]
    fn clearing_forgets_the_cell_and_waits_when_asked_to() {
        let mut outputs = started();
        let display = json!({"data": {"text/plain": "old"}, "transient": {"display_id": "x"}});
        outputs.receive("display_data", display.clone());
        outputs.receive("clear_output", json!({"wait": true}));
        assert_eq!(outputs.cell(0).len(), 1, "waits for the next output");
        outputs.receive("stream", json!({"name": "stdout", "text": "new"}));
        assert_eq!(outputs.cell(0).len(), 1);
        assert_eq!(outputs.cell(0)[0]["text"], "new");
        outputs.receive("update_display_data", display);
        assert_eq!(
            outputs.cell(0)[0]["text"],
            "new",
            "a cleared display is gone"
        );
        outputs.receive("clear_output", json!({"wait": false}));
        assert!(outputs.cell(0).is_empty());
    }

    #[test]
    fn progress_is_shown_at_most_once_a_second_and_never_stored() {
        let mut outputs = started();
        let state = |done: u64, finished: bool| {
            json!({"data": {PROGRESS: {"id": 0, "label": "load", "done": done, "total": 4, "unit": "layers", "seconds": 2.0, "finished": finished},
                "text/plain": format!("load: {done} layers of 4")}, "transient": {"display_id": "bar"}})
        };
        let first = outputs.receive("display_data", state(1, false));
        assert_eq!(first.as_deref(), Some("load: 1 layers of 4"));
        assert_eq!(
            outputs.receive("update_display_data", state(2, false)),
            None
        );
        let last = outputs.receive("update_display_data", state(4, true));
        assert_eq!(last.as_deref(), Some("load: 4 layers of 4"));
        assert!(outputs.cell(0).is_empty());
    }

    #[test]
    fn claims_are_counted_and_what_shows_them_is_kept() {
        let mut outputs = started();
        outputs.receive("display_data", json!({"data": {CLAIM: {"id": "a"}}}));
        outputs.receive(
            "execute_result",
            json!({"data": {CLAIM: {"id": "b"}, "text/html": "<b>holds</b>"}, "execution_count": 3}),
        );
        assert_eq!(outputs.claims, 2);
        assert_eq!(outputs.cell(0).len(), 1);
        assert_eq!(
            outputs.cell(0)[0],
            json!({"output_type": "execute_result", "execution_count": 3, "metadata": {}, "data": {"text/html": "<b>holds</b>"}})
        );
    }

    #[test]
    fn messages_out_of_shape_do_no_harm() {
        let mut outputs = Outputs::default();
        for kind in ["stream", "display_data", "error", "clear_output", "status"] {
            outputs.receive(kind, Value::Null);
        }
        outputs.start_cell();
        outputs.receive("error", json!({"ename": 3}));
        assert_eq!(outputs.cell(0)[0]["traceback"], json!([]));
        assert!(outputs.cell(9).is_empty());
    }
}
