//! Text printed as it comes, in whole lines.

/// Prints a growing text in whole lines: a notebook shows nothing of a line until it ends.
pub(super) struct LinePrinter {
    is_on: bool,
    /// Bytes already printed.
    printed: usize,
}

const WRAP_AT: usize = 100;

impl LinePrinter {
    pub fn new(is_on: bool) -> LinePrinter {
        LinePrinter { is_on, printed: 0 }
    }

    /// Prints what is certain of `text`: lines that have ended, and over-long ones up to a blank.
    pub fn show(&mut self, text: &str) {
        if !self.is_on {
            return;
        }
        while let Some((line, used)) = next_line(text.get(self.printed..).unwrap_or_default()) {
            println!("{line}");
            self.printed += used;
        }
    }

    pub fn finish(&mut self, text: &str) {
        self.show(text);
        let rest = text.get(self.printed..).unwrap_or_default();
        if self.is_on && !rest.is_empty() {
            println!("{rest}");
        }
    }
}

/// The next whole line of `rest` and the bytes it takes, if it has one.
fn next_line(rest: &str) -> Option<(&str, usize)> {
    if let Some(end) = rest.find('\n').filter(|&end| end <= WRAP_AT) {
        return Some((&rest[..end], end + 1));
    }
    let blank = rest
        .char_indices()
        .take_while(|&(at, _)| at <= WRAP_AT)
        .filter(|&(_, c)| c == ' ')
        .last()?
        .0;
    (rest.len() > WRAP_AT).then(|| (&rest[..blank], blank + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_at_newlines_and_at_blanks_of_long_lines() {
        assert_eq!(next_line("a\nb"), Some(("a", 2)));
        assert_eq!(next_line("\n"), Some(("", 1)));
        assert_eq!(next_line("not yet"), None);
        assert_eq!(next_line(""), None);
        let long = format!("{} tail", "é".repeat(40));
        assert_eq!(next_line(&long), None, "85 bytes fit");
        let long = format!("{} {}", "x".repeat(90), "y".repeat(30));
        assert_eq!(next_line(&long), Some((&long[..90], 91)));
        assert_eq!(next_line(&"z".repeat(200)), None, "no place to break");
    }
}
