//! What the kernel does to a cell before evcxr sees it, and how it reads positions back.
//!
//! Two small insertions, both on lines the user wrote, so that line numbers stay true:
//!
//! * in front of the first statement, a call that tells the prelude a cell starts (and is our landmark when a panic
//!   reports a line of the generated file);
//! * in front of each `?`, a method call that remembers the line if the value is an error: evcxr reports a failed
//!   `?` without saying where.
//!
//! If the changed cell does not compile, the kernel compiles the original: the user never sees the insertions, and
//! a cell they do not fit works as it would have without them.

use ra_ap_syntax::ast::{self, AstNode};
use ra_ap_syntax::{Edition, SourceFile, TextSize};

/// Name of the prelude's function that marks the start of a cell.
const MARK: &str = "llmkit_prelude::hooks::cell";
/// Name of the prelude's method that remembers where a `?` failed.
const AT: &str = "at_line__";

/// Code with the kernel's insertions, or `None` where there is nothing to insert into (commands, empty cells).
pub fn instrument(code: &str, number: u64) -> Option<String> {
    let (start, body) = body(code)?;
    let wrapped_head = "fn cell() {\n";
    let wrapped = format!("{wrapped_head}{body}\n}}");
    let parsed = SourceFile::parse(&wrapped, Edition::Edition2024);
    let mut insertions: Vec<(usize, String)> = Vec::new();
    for node in parsed.syntax_node().descendants() {
        let Some(expression) = ast::TryExpr::cast(node) else {
            continue;
        };
        let Some(operator) = expression.question_mark_token() else {
            continue;
        };
        let at = usize::from(operator.text_range().start() - TextSize::of(wrapped_head));
        let line = line_of(code, start + at);
        insertions.push((start + at, format!(".{AT}({line})")));
    }
    insertions.push((start, format!("{MARK}({number}); ")));
    insertions.sort();
    let mut out = String::with_capacity(code.len() + 64 * insertions.len());
    let mut copied = 0;
    for (at, text) in insertions {
        out.push_str(&code[copied..at]);
        out.push_str(&text);
        copied = at;
    }
    out.push_str(&code[copied..]);
    Some(out)
}

/// The part of a cell that is Rust: everything after leading evcxr commands, shell lines, comments and inner
/// attributes. Commands further down make a cell none of our business.
fn body(code: &str) -> Option<(usize, &str)> {
    let mut start = 0;
    for line in code.split_inclusive('\n') {
        let text = line.trim();
        if text.is_empty()
            || text.starts_with("//")
            || text.starts_with(':')
            || text.starts_with('!')
            || text.starts_with("#!")
        {
            start += line.len();
            continue;
        }
        let rest = &code[start..];
        let has_command = rest.lines().any(|line| line.starts_with([':', '!']));
        return (!has_command).then(|| {
            (
                start + line.len() - line.trim_start().len(),
                rest.trim_start(),
            )
        });
    }
    None
}

/// 1-based line of a byte offset.
fn line_of(code: &str, offset: usize) -> usize {
    code[..offset].matches('\n').count() + 1
}

/// The line of the cell that a line of evcxr's generated source belongs to.
///
/// evcxr writes each statement on lines of its own among generated ones, so the two are aligned by their text, in
/// order, from the mark on.
pub fn cell_line(source: &str, code: &str, number: u64, generated_line: usize) -> Option<usize> {
    let instrumented = instrument(code, number)?;
    let cell: Vec<&str> = instrumented.lines().collect();
    let mark = format!("{MARK}({number});");
    let mut at = cell.iter().position(|line| line.contains(&mark))?;
    let marked = source.lines().position(|line| line.contains(&mark))?;
    let mut found = None;
    for (index, line) in source.lines().enumerate().skip(marked) {
        if index + 1 > generated_line {
            break;
        }
        let text = line.trim();
        found = None;
        if text.is_empty() {
            continue;
        }
        if let Some(ahead) = cell[at..].iter().position(|line| line.contains(text)) {
            at += ahead;
            found = Some(at + 1);
        }
    }
    found
}

/// One line of a cell, for quoting in an error.
pub fn quote(code: &str, line: usize) -> Option<&str> {
    code.lines().nth(line.checked_sub(1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_mark_learns_its_line_and_the_cell_gets_a_mark() {
        let out = instrument("let a = f()?;\nlet b = g(a?)?.h()?;\n", 7).expect("has code");
        assert_eq!(
            out,
            "llmkit_prelude::hooks::cell(7); let a = f().at_line__(1)?;\n\
             let b = g(a.at_line__(2)?).at_line__(2)?.h().at_line__(2)?;\n"
        );
    }

    #[test]
    fn question_marks_that_are_not_operators_stay() {
        for code in [
            "println!(\"really?\");",
            "fn f<T: ?Sized>(_: &T) {}",
            "// why?\nlet x = 'a';",
        ] {
            let out = instrument(code, 1).expect("has code");
            assert!(!out.contains(AT), "{out}");
        }
    }

    #[test]
    fn commands_are_left_alone() {
        assert_eq!(instrument(":vars", 1), None);
        assert_eq!(instrument("// only a comment\n", 1), None);
        assert_eq!(instrument("let x = 1;\n:vars", 1), None);
        assert_eq!(
            instrument(":opt 2\nx", 3).as_deref(),
            Some(":opt 2\nllmkit_prelude::hooks::cell(3); x")
        );
    }

    #[test]
    fn lines_of_the_generated_file_are_lines_of_the_cell() {
        let code = "// title\n\nlet v = vec![1]; let w = 2;\nfor i in 0..9 {\n    v[i];\n}\nw";
        let generated = "a\nllmkit_prelude::hooks::cell(2);\n let v = vec![1];\n let w = 2;\nfor i in 0..9 {\n    v[i];\n}\n\
                         (\nw\n).evcxr_display();\nend";
        let line = |generated_line| cell_line(generated, code, 2, generated_line);
        assert_eq!([line(2), line(3), line(4)], [Some(3); 3]);
        assert_eq!([line(5), line(6), line(7)], [Some(4), Some(5), Some(6)]);
        assert_eq!(line(9), Some(7));
        assert_eq!([line(1), line(11)], [None, None]);
        assert_eq!(quote(code, 5), Some("    v[i];"));
    }

    #[test]
    fn broken_code_is_instrumented_without_harm() {
        for code in ["let x = ;", "fn (", "?", "\"unclosed", "é?"] {
            let _ = instrument(code, 1);
        }
    }
}
