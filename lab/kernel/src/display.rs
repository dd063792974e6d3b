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

/// A progress bar: label, share, rate and time left. The state itself goes along for headless runners.
pub fn progress(state: &Value) -> Bundle {
    let number = |name: &str| state[name].as_f64().unwrap_or(0.0);
    let (done, total, seconds) = (number("done"), number("total"), number("seconds"));
    let unit = state["unit"].as_str().unwrap_or_default();
    let label = state["label"].as_str().unwrap_or_default();
    let finished = state["finished"].as_bool().unwrap_or(false);
    let rate = done / seconds.max(1e-9);
    let mut line = amount(done, unit);
    if total > 0.0 {
        line += &format!(
            " of {} ({:.0} %)",
            amount(total, unit),
            100.0 * done / total
        );
    }
    line += &format!(" · {}/s", amount(rate, unit));
    if finished {
        line += &format!(" · {seconds:.1} s");
    } else if total > done && rate > 0.0 {
        line += &format!(" · {:.0} s left", (total - done) / rate);
    }
    let share = if total > 0.0 {
        format!("value=\"{done}\" max=\"{total}\"")
    } else {
        String::new()
    };
    let bar = if finished {
        "✓".to_owned()
    } else {
        format!("<progress {share} style=\"width:16em;vertical-align:middle\"></progress>")
    };
    let html = format!(
        "<div style=\"font-variant-numeric:tabular-nums\">{bar} <b>{}</b> {}</div>",
        escape(label),
        escape(&line)
    );
    Map::from_iter([
        ("text/plain".to_owned(), json!(format!("{label}: {line}"))),
        ("text/html".to_owned(), json!(html)),
        (PROGRESS_MIME.to_owned(), state.clone()),
    ])
}

fn amount(value: f64, unit: &str) -> String {
    match (unit, value) {
        ("B", v) if v >= 1e9 => format!("{:.2} GB", v / 1e9),
        ("B", v) if v >= 1e6 => format!("{:.1} MB", v / 1e6),
        ("B", v) if v >= 1e3 => format!("{:.0} kB", v / 1e3),
        (_, v) if v >= 100.0 || v.fract() == 0.0 => format!("{v:.0} {unit}"),
        (_, v) => format!("{v:.1} {unit}"),
    }
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
    fn a_bar_shows_share_rate_and_time_left() {
        let state = json!({ "id": 1, "label": "a<b", "done": 50, "total": 200, "unit": "tokens", "seconds": 5.0, "finished": false });
        let bundle = progress(&state);
        assert_eq!(
            bundle["text/plain"],
            "a<b: 50 tokens of 200 tokens (25 %) · 10 tokens/s · 15 s left"
        );
        assert!(
            bundle["text/html"]
                .as_str()
                .is_some_and(|html| html.contains("a&lt;b"))
        );
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
