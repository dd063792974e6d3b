//! How verdicts look: a row as a small table, an estimate as a line.

use super::row::Row;
#[cfg(feature = "notebook")]
use crate::report::{Content, Show};

impl Row {
    /// One line: `quant/rtn: reproduced — 6.03 [6.01, 6.05] dB, expected 6.02 ± 0.1 — each bit gains 6 dB`.
    pub fn text(&self) -> String {
        format!(
            "{}: {} — {} [{}, {}] {}, expected {} — {} ({})",
            self.stem,
            self.verdict,
            short(self.value),
            short(self.low),
            short(self.high),
            self.unit,
            self.expected,
            self.claim,
            self.source(),
        )
    }

    /// The row as an HTML table of one line, with its origin below it.
    pub fn html(&self) -> String {
        let colour = match self.verdict {
            super::Verdict::Reproduced => "#009E73",
            super::Verdict::ShapeOnly => "#0072B2",
            super::Verdict::ScaleLimited | super::Verdict::Unresolved => "#8a6d00",
            super::Verdict::Refuted => "#b3400a",
        };
        let cell = |text: &str| format!("<td style=\"text-align:left\">{}</td>", escape(text));
        let head: String = [
            "claim",
            "paper",
            "expected",
            "measured (95 % interval)",
            "verdict",
        ]
        .iter()
        .map(|name| format!("<th style=\"text-align:left\">{name}</th>"))
        .collect();
        let measured = format!(
            "{} [{}, {}] {}",
            short(self.value),
            short(self.low),
            short(self.high),
            self.unit
        );
        format!(
            "<table><thead><tr>{head}</tr></thead><tbody><tr>{}{}{}{}\
             <td style=\"text-align:left;color:{colour}\"><b>{}</b></td></tr></tbody></table>\
             <div style=\"opacity:.7;font-size:85%\">recorded as {} · configuration {} · commit {} · {} · {}</div>",
            cell(&self.claim),
            cell(&self.source()),
            cell(&format!("{} {}", self.expected, self.unit)),
            cell(&measured),
            self.verdict,
            escape(&self.stem),
            escape(&self.config),
            escape(if self.commit.is_empty() {
                "none"
            } else {
                &self.commit
            }),
            escape(&self.machine),
            escape(&self.date),
        )
    }

    fn source(&self) -> String {
        match self.where_.as_str() {
            "" => self.paper.clone(),
            place => format!("{}, {place}", self.paper),
        }
    }
}

#[cfg(feature = "notebook")]
impl Show for Row {
    fn bundle(&self) -> Vec<(&'static str, Content)> {
        let mut bundle = vec![
            ("text/html", self.html().into()),
            ("text/plain", self.text().into()),
        ];
        // Our kernel is also told of the claim itself, for the runner's table.
        if crate::progress::is_live() {
            bundle.push((
                super::ledger::MIME,
                serde_json::to_string(self).unwrap_or_default().into(),
            ));
        }
        bundle
    }
}

#[cfg(feature = "notebook")]
impl Show for super::Estimate {
    fn bundle(&self) -> Vec<(&'static str, Content)> {
        vec![("text/plain", self.to_string().into())]
    }
}

/// Four significant digits, without trailing zeros.
fn short(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let magnitude = value.abs().log10().floor();
    if !(-4.0..7.0).contains(&magnitude) {
        return format!("{value:.3e}");
    }
    let decimals = (3.0 - magnitude).max(0.0) as usize;
    let text = format!("{value:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_never_lie_by_their_zeros() {
        for (value, text) in [
            (6.020_599_9, "6.021"),
            (0.0, "0"),
            (64.0, "64"),
            (123_456.0, "123456"),
            (-0.012_346, "-0.01235"),
            (1.5e-9, "1.500e-9"),
            (9.999_99, "10"),
            (100.0, "100"),
        ] {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn markup_in_a_claim_stays_text() {
        assert_eq!(escape("<b>&"), "&lt;b&gt;&amp;");
    }
}
