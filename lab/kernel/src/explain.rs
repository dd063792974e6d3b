//! How a failed cell is explained: compiler messages, headlines, backtraces cut to what matters.

use evcxr::{CompilationError, Theme};

use crate::evaluate::Failure;

/// More errors than this help nobody; the rest is counted.
const MAX_REPORTS: usize = 5;

/// The failure that a list of compiler errors makes.
pub fn compile_failure(errors: &[CompilationError], code: &str) -> Failure {
    let mut traceback = Vec::new();
    let mut message = None;
    let errors: Vec<&CompilationError> = errors
        .iter()
        .filter(|error| error.level() != "warning")
        .collect();
    for error in errors.iter().take(MAX_REPORTS) {
        let line = error
            .primary_spanned_message()
            .and_then(|spanned| spanned.span)
            .map(|span| span.start_line);
        let code_tag = error
            .code()
            .map(|code| format!("[{code}]"))
            .unwrap_or_default();
        message.get_or_insert_with(|| match line {
            Some(line) => format!(
                "error{code_tag}: {} (line {line} of the cell)",
                error.message()
            ),
            None => format!("error{code_tag}: {}", error.message()),
        });
        traceback.extend(report(error, code));
    }
    if errors.len() > MAX_REPORTS {
        traceback.push(format!("… and {} more errors", errors.len() - MAX_REPORTS));
    }
    Failure {
        name: "compile error".to_owned(),
        message: message.unwrap_or_else(|| "the cell does not compile".to_owned()),
        traceback,
    }
}

/// One error: the drawn report where the source allows it, else the lines with carets under them.
fn report(error: &CompilationError, code: &str) -> Vec<String> {
    const NAME: &str = "cell";
    if let Some(report) = error.build_report(NAME.to_owned(), code.to_owned(), Theme::Light) {
        let mut text = Vec::new();
        if report
            .write((NAME.to_owned(), ariadne_source(code)), &mut text)
            .is_ok()
        {
            let mut lines: Vec<String> = String::from_utf8_lossy(&text)
                .lines()
                .map(str::to_owned)
                .collect();
            lines.extend(error.help().into_iter().map(|help| format!("help: {help}")));
            return lines;
        }
    }
    let mut lines = vec![format!("error: {}", error.message())];
    for spanned in error.spanned_messages() {
        lines.extend(spanned.lines.iter().cloned());
        if let Some(span) = &spanned.span {
            let from = span.start_column.saturating_sub(1);
            let width = span.end_column.saturating_sub(span.start_column).max(1);
            lines.push(format!(
                "{}{} {}",
                " ".repeat(from),
                "^".repeat(width),
                spanned.label
            ));
        } else {
            lines.push(spanned.label.clone());
        }
    }
    lines.extend(error.help().into_iter().map(|help| format!("help: {help}")));
    lines
}

fn ariadne_source(code: &str) -> ariadne::Source<String> {
    ariadne::Source::from(code.to_owned())
}

/// The short form of a failure: first line, and where.
pub fn short(message: &str, line: Option<usize>) -> String {
    let first = message.lines().next().unwrap_or_default();
    match line {
        Some(line) => format!("{first} (line {line} of the cell)"),
        None => first.to_owned(),
    }
}

const RED: &str = "\u{1b}[1;31m";
const BOLD: &str = "\u{1b}[1m";
const RESET: &str = "\u{1b}[0m";

/// A failure in one coloured line, and the line of the cell it points at.
pub fn headline(name: &str, message: &str, line: Option<usize>, code: &str) -> Vec<String> {
    let mut lines = vec![format!("{RED}{name}{RESET}: {message}")];
    if let Some((line, quoted)) =
        line.and_then(|line| Some((line, crate::cell::quote(code, line)?)))
    {
        lines.push(format!(
            "{BOLD}--> line {line}{RESET} | {}",
            quoted.trim_end()
        ));
    }
    lines
}

/// Lines of the generated file named in a backtrace, innermost first.
pub fn lines_in_cell(backtrace: &str) -> impl Iterator<Item = u64> + '_ {
    backtrace.lines().filter_map(|line| {
        let (_, position) = line.split_once("src/lib.rs:")?;
        line.trim_start()
            .strip_prefix("at ")?
            .strip_suffix(position)?
            .ends_with("/src/lib.rs:")
            .then_some(())?;
        if line.contains("/library/") || line.contains("/registry/") {
            return None;
        }
        position.split(':').next()?.parse().ok()
    })
}

/// The frames of a backtrace between the panic machinery and the cell, one line each; `None` if there are none.
pub fn folded(backtrace: &str) -> Option<String> {
    let names: Vec<&str> = backtrace
        .lines()
        .filter_map(|line| {
            line.trim_start()
                .split_once(": ")
                .filter(|(number, _)| number.parse::<u32>().is_ok())
        })
        .map(|(_, name)| name)
        .skip_while(|name| !name.contains("panicking::") && !name.contains("rust_begin_unwind"))
        .skip_while(|name| {
            [
                "panicking",
                "rust_begin_unwind",
                "core::option",
                "core::result",
                "core::slice",
                "alloc::",
                "<alloc::",
                "<usize as",
                "core::ops",
                "<core::",
            ]
            .iter()
            .any(|machinery| name.contains(machinery))
        })
        .take_while(|name| {
            !name.starts_with("run_user_code")
                && !name.contains("ctx::")
                && !name.contains("evcxr")
                && *name != "<unknown>"
        })
        // A name without a path is an inlined piece of what comes next, or of the cell: it says nothing.
        .filter(|name| {
            name.starts_with('<')
                || name
                    .split('<')
                    .next()
                    .is_some_and(|path| path.contains("::"))
        })
        .take(8)
        .collect();
    (!names.is_empty()).then(|| format!("  through {}", names.join("\n          ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_frames_that_say_where_are_shown() {
        let frames = |names: &[&str]| {
            let line = |(at, name): (usize, &&str)| format!("  {at}: {name}\n");
            let text: String = names.iter().enumerate().map(line).collect();
            folded(&text)
        };
        let library = frames(&[
            "std::panicking::begin_panic_handler",
            "core::panicking::panic_fmt",
            "index<f32, usize>",
            "llmkit::quant::matrix::Matrix::row",
            "{closure#0}",
            "<llmkit::quant::method::Rtn as llmkit::quant::Method>::quantize",
            "ctx::run_user_code_3",
            "std::rt::lang_start",
        ]);
        let library = library.unwrap_or_default();
        assert!(
            library.contains("Matrix::row") && library.contains("Rtn as"),
            "{library}"
        );
        assert_eq!(library.lines().count(), 2, "{library}");
        assert_eq!(
            frames(&[
                "core::panicking::panic_fmt",
                "<unknown>",
                "<unknown>",
                "std::rt::main"
            ]),
            None
        );
    }
}
