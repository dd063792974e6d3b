//! From blocks to Jupyter's display data, and the HTML of a progress bar.

use serde_json::{Map, Value, json};

/// Progress of a long operation; one JSON object, see `llmkit::progress::State`.
pub const PROGRESS_MIME: &str = "application/vnd.llmkit.progress+json";

/// One display: MIME type → content.
pub type Bundle = Map<String, Value>;

/// Adds a block to a bundle, JSON as JSON.
pub fn insert(bundle: &mut Bundle, mime: String, content: String) {
    let value = if mime.ends_with("json") {
        serde_json::from_str(&content).unwrap_or(Value::String(content))
    } else {
        Value::String(content)
    };
    bundle.insert(mime, value);
}

/// A progress bar and what the library says of it; once ended, ✓ or, short of its total, ■. The state itself goes along for headless runners.
pub fn progress(state: &Value) -> Bundle {
    let text = |name: &str| state[name].as_str().unwrap_or_default();
    let (label, line) = (text("label"), text("text"));
    let (done, total) = (state["done"].as_u64(), state["total"].as_u64());
    let share = match (done, total) {
        (Some(done), Some(total @ 1..)) => format!("value=\"{done}\" max=\"{total}\""),
        _ => String::new(),
    };
    let bar = match (state["finished"] == true, total) {
        (true, Some(total @ 1..)) if done < Some(total) => "■".to_owned(),
        (true, _) => "✓".to_owned(),
        _ => format!("<progress {share} style=\"width:16em;vertical-align:middle\"></progress>"),
    };
    let html = format!(
        "<div style=\"font-variant-numeric:tabular-nums\">{bar} <b>{}</b> {}</div>",
        escape(label),
        escape(line)
    );
    Map::from_iter([
        ("text/plain".to_owned(), json!(format!("{label}: {line}"))),
        ("text/html".to_owned(), json!(html)),
        (PROGRESS_MIME.to_owned(), state.clone()),
    ])
}

/// Text made safe for HTML.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_shows_what_the_library_says_of_it() {
        let state = json!({ "id": 1, "label": "a<b", "done": 50, "total": 200, "finished": false, "text": "50 of 200" });
        let bundle = progress(&state);
        assert_eq!(bundle["text/plain"], "a<b: 50 of 200");
        let html = bundle["text/html"].as_str().unwrap_or_default();
        assert!(
            html.contains("a&lt;b") && html.contains("value=\"50\" max=\"200\""),
            "{html}"
        );
    }

    #[test]
    fn an_ended_bar_says_whether_it_was_completed() {
        let html = |done: u64, total: u64| {
            let state = json!({ "label": "a", "done": done, "total": total, "finished": true });
            progress(&state)["text/html"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        assert!(html(200, 200).contains('✓') && html(3, 0).contains('✓'));
        assert!(html(50, 200).contains('■') && !html(50, 200).contains('✓'));
    }

    #[test]
    fn json_blocks_become_json_and_broken_ones_stay_text() {
        let mut bundle = Bundle::new();
        insert(&mut bundle, "application/x+json".into(), "{\"a\":1}".into());
        insert(&mut bundle, "application/y+json".into(), "{".into());
        assert_eq!(bundle["application/x+json"]["a"], 1);
        assert_eq!(bundle["application/y+json"], "{");
    }
}
