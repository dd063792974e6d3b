//! Tables for a paper: LaTeX with booktabs.

use polars::prelude::DataFrame;

use super::table::Cells;

/// A table for a paper.
pub trait Latex {
    /// The whole table in LaTeX (package `booktabs`), numbers to the right, text escaped, floats with about four
    /// digits. `label` is used as `\label{tab:…}` as it is.
    ///
    /// ```
    /// use llmkit::report::Latex;
    /// use polars::df;
    /// let table = df!("method" => ["RTN", "GPTQ"], "perplexity" => [29.41, 28.36])?;
    /// assert!(table.latex("4-bit weights", "weights").contains(r"\toprule"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    fn latex(&self, caption: &str, label: &str) -> String;
}

impl Latex for DataFrame {
    fn latex(&self, caption: &str, label: &str) -> String {
        let cells = Cells::of(self, usize::MAX, usize::MAX);
        let columns: String = cells
            .columns
            .iter()
            .map(|head| if head.is_number { 'r' } else { 'l' })
            .collect();
        let row = |cells: Vec<String>| format!("    {} \\\\\n", cells.join(" & "));
        let mut latex = String::from("\\begin{table}\n  \\centering\n");
        latex += &format!("  \\caption{{{}}}\n", escape_latex(caption));
        // A label is a name, not text: only what TeX allows in one.
        let label: String = label
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || "-_:./".contains(*c))
            .collect();
        latex += &format!(
            "  \\label{{tab:{label}}}\n  \\begin{{tabular}}{{{columns}}}\n    \\toprule\n"
        );
        latex += &row(cells
            .columns
            .iter()
            .map(|head| escape_latex(&head.name))
            .collect());
        latex += "    \\midrule\n";
        for cells in cells
            .rows
            .iter()
            .zip(std::iter::repeat(&cells.columns))
            .map(|(row, heads)| {
                row.iter()
                    .zip(heads)
                    .map(|(cell, head)| match cell {
                        None => "--".to_owned(),
                        Some(number) if head.is_number => latex_number(number),
                        Some(text) => escape_latex(text),
                    })
                    .collect()
            })
        {
            latex += &row(cells);
        }
        latex + "    \\bottomrule\n  \\end{tabular}\n\\end{table}\n"
    }
}

/// A number in mathematics where it has a sign or a power.
fn latex_number(number: &str) -> String {
    match number.split_once("×10") {
        Some((mantissa, power)) => {
            let digit = |c: char| "⁰¹²³⁴⁵⁶⁷⁸⁹".chars().position(|known| known == c);
            let power: String = power
                .chars()
                .map(|c| digit(c).map_or('-', |d| (b'0' + d as u8) as char))
                .collect();
            format!("${mantissa} \\times 10^{{{power}}}$")
        }
        None if number.starts_with('-') || number.contains("inf") => {
            format!("${}$", number.replace("inf", "\\infty"))
        }
        None => number.to_owned(),
    }
}

/// Text with TeX's special characters made plain.
fn escape_latex(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => {
                escaped.push('\\');
                escaped.push(character);
            }
            '\\' => escaped.push_str("\\textbackslash{}"),
            '~' => escaped.push_str("\\textasciitilde{}"),
            '^' => escaped.push_str("\\textasciicircum{}"),
            '<' => escaped.push_str("\\textless{}"),
            '>' => escaped.push_str("\\textgreater{}"),
            '|' => escaped.push_str("\\textbar{}"),
            '"' => escaped.push_str("\\textquotedbl{}"),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::table::tests::sample;

    #[test]
    fn latex_is_escaped() {
        let latex = sample().latex("50% of {x}", "a}b\\c");
        assert!(latex.contains("RTN \\& co") && latex.contains("100\\%\\_GPTQ"));
        assert!(latex.contains("x\\textbackslash{}y"));
        assert!(
            latex.contains("\\caption{50\\% of \\{x\\}}") && latex.contains("\\label{tab:abc}")
        );
        assert!(latex.contains("\\begin{tabular}{lrrr}"));
        assert!(latex.contains("$1.500 \\times 10^{-9}$") && latex.contains("$-7.500$"));
    }
}
