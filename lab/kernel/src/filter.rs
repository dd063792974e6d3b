//! Separates evcxr's protocol from what cells print, as the bytes come.

/// evcxr's line after a panic.
pub const PANIC_LINE: &[u8] = b"EVCXR_PANIC_NOTIFICATION";
/// … after a `?` that returned early.
pub const ERROR_LINE: &[u8] = b"EVCXR_ERROR_OCCURRED";
/// … at the end of a cell.
pub const COMPLETE_LINE: &[u8] = b"EVCXR_EXECUTION_COMPLETE";
const CHANGED_TYPE_LINE: &[u8] = b"EVCXR_VARIABLE_CHANGED_TYPE:";
const BEGIN_LINE: &[u8] = b"EVCXR_BEGIN_CONTENT ";
const END_LINE: &[u8] = b"EVCXR_END_CONTENT";

/// What the filter found in the stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// What the cell printed.
    Text(String),
    /// MIME type and content of a display.
    Block(String, String),
    /// A line of evcxr's, without its end.
    Protocol(Vec<u8>),
}

/// Separates evcxr's protocol from what cells print.
#[derive(Default)]
pub struct Filter {
    /// Bytes of a line not yet complete and not yet delivered.
    pending: Vec<u8>,
    /// The open MIME block.
    block: Option<(String, Vec<u8>)>,
}

impl Filter {
    /// What `bytes`, that come next, complete.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        self.pending.extend_from_slice(bytes);
        while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
            let mut line: Vec<u8> = self.pending.drain(..=end).collect();
            line.pop();
            self.line(line, &mut events);
        }
        // A partial line that cannot become a protocol line is shown at once: dots and carriage returns stream.
        if self.block.is_none()
            && !may_be_protocol(&self.pending)
            && let Some(text) = take_text(&mut self.pending)
        {
            push_text(&mut events, text);
        }
        events
    }

    fn line(&mut self, mut line: Vec<u8>, events: &mut Vec<Event>) {
        if let Some((mime, mut content)) = self.block.take() {
            if line == END_LINE {
                events.push(Event::Block(
                    mime,
                    String::from_utf8_lossy(&content).into_owned(),
                ));
                return;
            }
            if line != PANIC_LINE {
                if !content.is_empty() {
                    content.push(b'\n');
                }
                content.extend(line);
                self.block = Some((mime, content));
                return;
            }
        }
        // A cell that printed without a final newline puts its text in front of the protocol line.
        for marker in [COMPLETE_LINE, PANIC_LINE, ERROR_LINE] {
            if line.ends_with(marker) {
                let text = line.len() - marker.len();
                if text > 0 {
                    push_text(events, String::from_utf8_lossy(&line[..text]).into_owned());
                }
                events.push(Event::Protocol(marker.to_vec()));
                return;
            }
        }
        if let Some(mime) = find(&line, BEGIN_LINE) {
            if mime > 0 {
                push_text(events, String::from_utf8_lossy(&line[..mime]).into_owned());
            }
            let mime = String::from_utf8_lossy(&line[mime + BEGIN_LINE.len()..])
                .trim()
                .to_owned();
            self.block = Some((mime, Vec::new()));
        } else if line.starts_with(CHANGED_TYPE_LINE)
            || line.starts_with(b"EVCXR_GET_INPUT")
            || line.starts_with(b"EVCXR_INPUT")
        {
            events.push(Event::Protocol(line));
        } else {
            line.push(b'\n');
            push_text(events, String::from_utf8_lossy(&line).into_owned());
        }
    }

    /// What is left when the stream ends.
    pub fn finish(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        if let Some((mime, content)) = self.block.take() {
            push_text(
                &mut events,
                format!("[display of {mime} cut short: {} bytes]\n", content.len()),
            );
        }
        if !self.pending.is_empty() {
            push_text(
                &mut events,
                String::from_utf8_lossy(&self.pending).into_owned(),
            );
            self.pending.clear();
        }
        events
    }
}

fn push_text(events: &mut Vec<Event>, text: String) {
    match events.last_mut() {
        Some(Event::Text(last)) => last.push_str(&text),
        _ => events.push(Event::Text(text)),
    }
}

fn find(line: &[u8], marker: &[u8]) -> Option<usize> {
    line.windows(marker.len())
        .position(|window| window == marker)
}

/// Whether an incomplete line may yet turn out to end in, or be, a protocol line.
fn may_be_protocol(pending: &[u8]) -> bool {
    const START: &[u8] = b"EVCXR_";
    find(pending, START).is_some()
        || (1..START.len()).any(|length| pending.ends_with(&START[..length]))
}

/// Takes the valid UTF-8 at the front, leaving a character that is cut in two for later.
pub fn take_text(pending: &mut Vec<u8>) -> Option<String> {
    let valid = match std::str::from_utf8(pending) {
        Ok(_) => pending.len(),
        // Not a cut character but garbage: show it as such rather than wait for ever.
        Err(error) if error.error_len().is_some() => pending.len(),
        Err(error) => error.valid_up_to(),
    };
    (valid > 0)
        .then(|| String::from_utf8_lossy(&pending.drain(..valid).collect::<Vec<_>>()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Event {
        Event::Text(text.to_owned())
    }

    #[test]
    fn text_without_a_newline_stands_before_the_protocol_line() {
        let mut filter = Filter::default();
        assert_eq!(
            filter.feed(b"abcEVCXR_EXECUTION_COMPLETE\n"),
            [text("abc"), Event::Protocol(COMPLETE_LINE.to_vec())]
        );
    }

    #[test]
    fn partial_lines_stream_and_protocol_lines_cut_in_two_do_not() {
        let mut filter = Filter::default();
        assert_eq!(filter.feed(b"50 %\r"), [text("50 %\r")]);
        assert_eq!(filter.feed(b"doneEVC"), []);
        assert_eq!(
            filter.feed(b"XR_EXECUTION_COMPLETE\n"),
            [text("done"), Event::Protocol(COMPLETE_LINE.to_vec())]
        );
    }

    #[test]
    fn blocks_keep_their_lines_and_follow_text_on_the_same_line() {
        let mut filter = Filter::default();
        assert_eq!(
            filter.feed(b"x=EVCXR_BEGIN_CONTENT text/html\n<b>\n\n</b>\nEVCXR_END_CONTENT\ny\n"),
            [
                text("x="),
                Event::Block("text/html".into(), "<b>\n\n</b>".into()),
                text("y\n")
            ]
        );
    }

    #[test]
    fn a_panic_inside_a_block_closes_it() {
        let mut filter = Filter::default();
        assert_eq!(
            filter.feed(b"EVCXR_BEGIN_CONTENT text/html\n<b>\nEVCXR_PANIC_NOTIFICATION\n"),
            [Event::Protocol(PANIC_LINE.to_vec())]
        );
    }

    #[test]
    fn characters_cut_in_two_are_put_together() {
        let mut filter = Filter::default();
        let bytes = "né".as_bytes();
        assert_eq!(filter.feed(&bytes[..2]), [text("n")]);
        assert_eq!(filter.feed(&bytes[2..]), [text("é")]);
    }

    #[test]
    fn what_is_left_at_the_end_is_delivered() {
        let mut filter = Filter::default();
        assert_eq!(filter.feed(b"EVCXR_half"), []);
        assert_eq!(filter.finish(), [text("EVCXR_half")]);
    }
}
