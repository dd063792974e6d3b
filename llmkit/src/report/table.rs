//! Tables on the screen: HTML and text. Those for a paper are `latex.rs`.

use polars::prelude::{AnyValue, Column, DataFrame, DataType};

use super::emit::escape_html;
use super::figure::Values;
use super::number::Notation;

/// Rows shown before "… n more rows".
const MAX_ROWS: usize = 20;
/// Columns shown before "… n more columns".
const MAX_COLUMNS: usize = 24;
/// Letters of a cell shown before "…".
const MAX_LETTERS: usize = 80;

/// A table's cells as text.
pub(super) struct Cells {
    pub(super) columns: Vec<Head>,
    /// One list a row, in the order of `columns`; `None` = missing.
    pub(super) rows: Vec<Vec<Option<String>>>,
    shape: (usize, usize),
}

pub(super) struct Head {
    pub(super) name: String,
    dtype: String,
    pub(super) is_number: bool,
}

impl Cells {
    pub(super) fn of(table: &DataFrame, max_rows: usize, max_columns: usize) -> Cells {
        let (rows, columns) = (table.height().min(max_rows), table.width().min(max_columns));
        let shown: Vec<&Column> = table.columns().iter().take(columns).collect();
        let written: Vec<Vec<Option<String>>> = shown
            .iter()
            .map(|column| write_column(column, rows))
            .collect();
        Cells {
            columns: shown
                .iter()
                .map(|column| Head {
                    name: column.name().to_string(),
                    dtype: column.dtype().to_string(),
                    is_number: column.dtype().is_primitive_numeric(),
                })
                .collect(),
            rows: (0..rows)
                .map(|row| written.iter().map(|column| column[row].clone()).collect())
                .collect(),
            shape: table.shape(),
        }
    }

    /// "3 rows × 2 columns".
    fn shape_line(&self) -> String {
        let (rows, columns) = self.shape;
        let plural = |count: usize, noun: &str| {
            format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
        };
        format!("{} × {}", plural(rows, "row"), plural(columns, "column"))
    }

    /// "… 7 more rows", "… 2 more columns".
    fn more_lines(&self) -> Vec<String> {
        let hidden_rows = self.shape.0 - self.rows.len();
        let hidden_columns = self.shape.1 - self.columns.len();
        [(hidden_rows, "rows"), (hidden_columns, "columns")]
            .into_iter()
            .filter(|(hidden, _)| *hidden > 0)
            .map(|(hidden, what)| format!("… {hidden} more {what}"))
            .collect()
    }
}

/// The first `rows` cells of a column; floats all with the same number of decimals.
fn write_column(column: &Column, rows: usize) -> Vec<Option<String>> {
    let head = column.head(Some(rows));
    let is_float = matches!(column.dtype(), DataType::Float32 | DataType::Float64);
    let notation = is_float
        .then(|| head.values().ok())
        .flatten()
        .map(|values| Notation::of_column(values.into_iter()));
    (0..rows)
        .map(|row| {
            let value = head.get(row).unwrap_or(AnyValue::Null);
            match (value, notation) {
                (AnyValue::Null, _) => None,
                (AnyValue::Float64(value), Some(notation)) => Some(notation.write(value)),
                (AnyValue::Float32(value), Some(notation)) => {
                    Some(notation.write(f64::from(value)))
                }
                (value, _) => Some(match value.get_str() {
                    Some(text) => text.to_owned(),
                    None => value.to_string(),
                }),
            }
        })
        .collect()
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= MAX_LETTERS {
        return text.to_owned();
    }
    text.chars().take(MAX_LETTERS - 1).chain(['…']).collect()
}

/// The table as HTML: names and types on top, numbers to the right, at most 20 rows. Colours are the page's own, so it
/// suits light and dark themes.
pub fn table_html(table: &DataFrame) -> String {
    let cells = Cells::of(table, MAX_ROWS, MAX_COLUMNS);
    let line = "1px solid var(--jp-border-color1, rgba(128,128,128,.5))";
    let align = |head: &Head| if head.is_number { "right" } else { "left" };
    let mut html = String::from(
        "<div class=\"llmkit-table\" style=\"overflow-x:auto\"><table style=\"border-collapse:collapse;\
         font-variant-numeric:tabular-nums;width:auto;margin:0\"><thead>",
    );
    html += &format!("<tr style=\"border-top:{line}\">");
    for head in &cells.columns {
        html += &format!(
            "<th style=\"text-align:{};padding:3px 10px 0;font-weight:600\">{}</th>",
            align(head),
            escape_html(&shorten(&head.name))
        );
    }
    html += &format!("</tr><tr style=\"border-bottom:{line}\">");
    for head in &cells.columns {
        html += &format!(
            "<td style=\"text-align:{};padding:0 10px 3px;opacity:.6;font-size:85%\">{}</td>",
            align(head),
            escape_html(&head.dtype)
        );
    }
    html += "</tr></thead><tbody>";
    for row in &cells.rows {
        html += "<tr>";
        for (head, cell) in cells.columns.iter().zip(row) {
            let style = format!(
                "text-align:{};padding:2px 10px;white-space:pre",
                align(head)
            );
            html += &match cell {
                None => format!("<td style=\"{style};opacity:.5\">null</td>"),
                Some(text) if text.chars().count() > MAX_LETTERS => format!(
                    "<td style=\"{style}\" title=\"{}\">{}</td>",
                    escape_html(&text.chars().take(2000).collect::<String>()),
                    escape_html(&shorten(text))
                ),
                Some(text) => format!("<td style=\"{style}\">{}</td>", escape_html(text)),
            };
        }
        html += "</tr>";
    }
    html += &format!(
        "</tbody></table><div style=\"opacity:.6;font-size:85%;border-top:{line};display:inline-block;padding:2px 10px\">"
    );
    for more in cells.more_lines() {
        html += &format!("{more}<br>");
    }
    html += &format!("{}</div></div>", cells.shape_line());
    html
}

/// The table as text, numbers to the right.
pub fn table_text(table: &DataFrame) -> String {
    let cells = Cells::of(table, MAX_ROWS, MAX_COLUMNS);
    let mut lines: Vec<Vec<String>> = vec![
        cells
            .columns
            .iter()
            .map(|head| shorten(&head.name))
            .collect(),
        cells
            .columns
            .iter()
            .map(|head| head.dtype.clone())
            .collect(),
    ];
    for row in &cells.rows {
        let written = row.iter().map(|cell| {
            let text = cell.as_deref().unwrap_or("null");
            shorten(text).replace(char::is_control, " ")
        });
        lines.push(written.collect());
    }
    let widths: Vec<usize> = (0..cells.columns.len())
        .map(|i| {
            lines
                .iter()
                .map(|line| line[i].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for line in &lines {
        let padded: Vec<String> = line
            .iter()
            .zip(&cells.columns)
            .zip(&widths)
            .map(|((cell, head), &width)| {
                if head.is_number {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                }
            })
            .collect();
        text += padded.join("  ").trim_end();
        text.push('\n');
    }
    for more in cells.more_lines() {
        text += &more;
        text.push('\n');
    }
    text + &cells.shape_line()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::report::Latex;
    use polars::prelude::*;

    pub(in crate::report) fn sample() -> DataFrame {
        df!(
            "method <b>" => ["RTN & co", "100%_GPTQ", "x\\y"],
            "ppl" => [Some(29.4123), None, Some(-7.5)],
            "bytes" => [1i64, 22, 333],
            "error" => [1.5e-9f64, 2.0e-9, f64::NAN]
        )
        .unwrap()
    }

    #[test]
    fn html_is_escaped_and_aligned() {
        let html = table_html(&sample());
        assert!(html.contains("method &lt;b&gt;") && html.contains("RTN &amp; co"));
        assert!(!html.contains("<b>"));
        assert!(html.contains("text-align:right;padding:2px 10px;white-space:pre\">333</td>"));
        assert!(html.contains("1.500×10⁻⁹") && html.contains("NaN") && html.contains("null"));
        assert!(
            html.contains("3 rows × 4 columns") && html.contains("f64") && !html.contains("more")
        );
    }

    #[test]
    fn long_and_wide_tables_are_capped_and_say_so() {
        let values: Vec<i32> = (0..1000).collect();
        let columns: Vec<Column> = (0..40)
            .map(|i| Column::new(format!("c{i}").into(), &values))
            .collect();
        let table = DataFrame::new(1000, columns).unwrap();
        for shown in [table_html(&table), table_text(&table)] {
            assert!(shown.contains("… 980 more rows") && shown.contains("… 16 more columns"));
            assert!(shown.contains("1000 rows × 40 columns"));
        }
        assert_eq!(table_html(&table).matches("<tr>").count(), 20);
        assert_eq!(
            table
                .latex("", "x")
                .lines()
                .filter(|line| line.ends_with("\\\\"))
                .count(),
            1001
        );
    }

    #[test]
    fn text_is_aligned() {
        let text = table_text(&sample());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 6);
        assert!(
            lines[2].contains("29.41") && lines[3].contains("null"),
            "{text}"
        );
    }

    #[test]
    fn empty_tables_are_shown() {
        let empty = DataFrame::empty();
        assert!(table_html(&empty).contains("0 rows × 0 columns"));
        assert!(table_text(&empty).contains("0 rows"));
        let none = df!("a" => Vec::<f64>::new()).unwrap();
        assert!(table_html(&none).contains("0 rows × 1 column"));
        assert!(none.latex("c", "l").contains("\\toprule"));
    }
}
