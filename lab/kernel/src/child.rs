//! Between evcxr and the process that runs cells stands a small proxy.
//!
//! evcxr reads the cell process's stdout line by line and keeps to itself what we need to know: that a cell
//! panicked, that a `?` returned early, what was displayed and when. The proxy sees the raw bytes first. It sends
//! output and displays to the kernel as they come (so partial lines stream, and a cell may display many things), and
//! passes on to evcxr only evcxr's own protocol lines. Being a process of its own, it outlives a crash of the cell
//! process and delivers its last words.
//!
//! ```text
//! kernel ── evcxr ──stdin──────────────────────────────► cell process
//!    ▲        ▲                                             │ stdout, stderr
//!    │        └── protocol lines ── proxy ◄─────────────────┘
//!    └────────── frames (output, displays, panics) ┘ └── control socket: flush, interrupt ──► prelude
//! ```

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec};

/// Set for the proxy process; holds the path of the kernel's frame socket.
pub const PROXY_VAR: &str = "LLMKIT_PROXY";
/// Set for the cell process; holds the path of the proxy's control socket, which the prelude connects to.
const CONTROL_VAR: &str = "LLMKIT_CONTROL";

/// Control byte: make everything printed so far visible, then answer with the same byte.
const FLUSH: u8 = b'f';
/// Byte from the kernel to the proxy: answer with [`Frame::Pong`].
pub const PING: u8 = b'p';
/// Byte from the kernel to the prelude: ask running operations to stop.
pub const INTERRUPT: u8 = b'i';
/// Byte from the kernel to the prelude: forget earlier requests to stop.
pub const RESET: u8 = b'r';

const PANIC_LINE: &[u8] = b"EVCXR_PANIC_NOTIFICATION";
const ERROR_LINE: &[u8] = b"EVCXR_ERROR_OCCURRED";
const COMPLETE_LINE: &[u8] = b"EVCXR_EXECUTION_COMPLETE";
const CHANGED_TYPE_LINE: &[u8] = b"EVCXR_VARIABLE_CHANGED_TYPE:";
const BEGIN_LINE: &[u8] = b"EVCXR_BEGIN_CONTENT ";
const END_LINE: &[u8] = b"EVCXR_END_CONTENT";

/// What the kernel learns from the cell process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Text printed on stdout.
    Stdout(String),
    /// Text printed on stderr.
    Stderr(String),
    /// One MIME block.
    Block(String, String),
    /// A cell's code panicked and the panic was caught around the cell.
    Panicked,
    /// A `?` at the top level of a cell returned early.
    ReturnedError,
    /// The cell's code has run and all its output has been sent.
    Complete,
    /// The cell process ended.
    Exited(String),
    /// Answer to [`PING`]: everything the cell process had printed has been sent.
    Pong,
}

impl Frame {
    fn encode(&self) -> Vec<u8> {
        let (kind, payload) = match self {
            Frame::Stdout(text) => (b'o', text.clone()),
            Frame::Stderr(text) => (b'e', text.clone()),
            Frame::Block(mime, content) => (b'd', format!("{mime}\n{content}")),
            Frame::Panicked => (b'p', String::new()),
            Frame::ReturnedError => (b'q', String::new()),
            Frame::Complete => (b'c', String::new()),
            Frame::Exited(how) => (b'x', how.clone()),
            Frame::Pong => (b'g', String::new()),
        };
        let mut bytes = vec![kind];
        bytes.extend((payload.len() as u64).to_le_bytes());
        bytes.extend(payload.as_bytes());
        bytes
    }

    /// Reads the next frame; `None` at the end of the stream.
    pub fn read(from: &mut impl Read) -> Option<Frame> {
        let mut head = [0; 9];
        from.read_exact(&mut head).ok()?;
        let length = u64::from_le_bytes(head[1..].try_into().ok()?);
        let mut payload = Vec::new();
        // Grows with what really arrives, not with what the header claims.
        from.take(length).read_to_end(&mut payload).ok()?;
        let text = String::from_utf8_lossy(&payload).into_owned();
        Some(match head[0] {
            b'o' => Frame::Stdout(text),
            b'e' => Frame::Stderr(text),
            b'd' => {
                let (mime, content) = text.split_once('\n')?;
                Frame::Block(mime.to_owned(), content.to_owned())
            }
            b'p' => Frame::Panicked,
            b'q' => Frame::ReturnedError,
            b'c' => Frame::Complete,
            b'x' => Frame::Exited(text),
            b'g' => Frame::Pong,
            _ => return None,
        })
    }
}

/// Asks the system to kill this process when the one that started it ends, however it ends.
pub fn die_with_parent() {
    // Where the system cannot, the end of stdin ends the process, only later.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
}

/// The proxy process: starts the cell process and stays until it ends.
pub fn proxy() -> ExitCode {
    die_with_parent();
    match run_proxy() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("llmkit proxy: {error:#}");
            ExitCode::from(98)
        }
    }
}

fn run_proxy() -> Result<ExitCode> {
    let frame_socket = PathBuf::from(std::env::var_os(PROXY_VAR).context("no frame socket")?);
    let mut from_kernel = UnixStream::connect(&frame_socket).context("connect to the kernel")?;
    let frames = Arc::new(Mutex::new(
        from_kernel.try_clone().context("clone the frame socket")?,
    ));
    let control_path = frame_socket.with_file_name("control.sock");
    let _ = std::fs::remove_file(&control_path);
    let listener = UnixListener::bind(&control_path).context("open the control socket")?;
    let control: Arc<Mutex<Option<UnixStream>>> = Arc::default();

    let mut child = crate::shim::restored(&std::env::current_exe()?)
        .env_remove(PROXY_VAR)
        .env(CONTROL_VAR, &control_path)
        .env("LLMKIT_KERNEL", "1")
        .stdin(Stdio::inherit())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("start the cell process")?;
    let mut stdout = child.stdout.take().context("stdout of the cell process")?;
    let mut stderr = child.stderr.take().context("stderr of the cell process")?;

    std::thread::spawn({
        let control = control.clone();
        let control_path = control_path.clone();
        move || {
            if let Ok((stream, _)) = listener.accept() {
                let _ = std::fs::remove_file(&control_path);
                let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
                if let Ok(mut control) = control.lock() {
                    *control = Some(stream);
                }
            }
        }
    });
    // Held while stderr is being passed on, so that a pong comes after what was printed before the ping.
    let stderr_busy = Arc::new(Mutex::new(()));
    std::thread::spawn({
        let control = control.clone();
        let stderr_busy = stderr_busy.clone();
        let frames = frames.clone();
        let stderr_fd = stderr
            .as_fd()
            .try_clone_to_owned()
            .context("clone stderr")?;
        move || {
            let mut byte = [0];
            while from_kernel.read_exact(&mut byte).is_ok() {
                if byte[0] == PING {
                    while is_readable(&stderr_fd) {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    drop(stderr_busy.lock());
                    let _ = send(&frames, &Frame::Pong);
                } else if let Some(stream) =
                    control.lock().ok().as_deref_mut().and_then(Option::as_mut)
                {
                    let _ = stream.write_all(&byte);
                }
            }
        }
    });
    let errors = std::thread::spawn({
        let frames = frames.clone();
        move || {
            let mut pending = Vec::new();
            let mut buffer = [0; 8192];
            while wait_readable(&stderr) {
                let _busy = stderr_busy.lock();
                let Ok(count @ 1..) = stderr.read(&mut buffer) else {
                    break;
                };
                pending.extend_from_slice(&buffer[..count]);
                if let Some(text) = take_text(&mut pending) {
                    let _ = send(&frames, &Frame::Stderr(text));
                }
            }
        }
    });

    let mut filter = Filter::default();
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = stdout.read(&mut buffer) {
        let mut events = filter.feed(&buffer[..count]);
        if events.last() == Some(&Event::Protocol(COMPLETE_LINE.to_vec()))
            && request_flush(&control)
        {
            // What the cell left in its own buffer is in the pipe now.
            events.pop();
            while is_readable(&stdout) {
                match stdout.read(&mut buffer) {
                    Ok(count @ 1..) => events.extend(filter.feed(&buffer[..count])),
                    _ => break,
                }
            }
            events.push(Event::Protocol(COMPLETE_LINE.to_vec()));
        }
        for event in events {
            deliver(event, &frames)?;
        }
    }
    for event in filter.finish() {
        deliver(event, &frames)?;
    }
    let status = child.wait().context("wait for the cell process")?;
    let _ = errors.join();
    let _ = std::fs::remove_file(&control_path);
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown status".to_owned(),
    };
    let _ = send(&frames, &Frame::Exited(how));
    Ok(ExitCode::from(
        status
            .code()
            .and_then(|code| u8::try_from(code).ok())
            .unwrap_or(1),
    ))
}

/// Asks the prelude to flush its stdout; false if there is no prelude yet or it does not answer in time.
fn request_flush(control: &Mutex<Option<UnixStream>>) -> bool {
    let Ok(mut control) = control.lock() else {
        return false;
    };
    let Some(stream) = control.as_mut() else {
        return false;
    };
    let mut answer = [0];
    stream.write_all(&[FLUSH]).is_ok() && stream.read_exact(&mut answer).is_ok()
}

/// Whether a read would return data at once.
fn is_readable(stream: &impl AsFd) -> bool {
    poll(stream, Some(&Timespec::default())).contains(PollFlags::IN)
}

/// Waits until a read would return at once, with data or the end; false if it never will.
fn wait_readable(stream: &impl AsFd) -> bool {
    poll(stream, None).intersects(PollFlags::IN | PollFlags::HUP)
}

fn poll(stream: &impl AsFd, timeout: Option<&Timespec>) -> PollFlags {
    let mut polled = [PollFd::new(stream, PollFlags::IN)];
    match rustix::event::poll(&mut polled, timeout) {
        Ok(1) => polled[0].revents(),
        _ => PollFlags::empty(),
    }
}

/// Sends one frame whole. A kernel that no longer listens is not an error of the cell's.
fn send(frames: &Mutex<UnixStream>, frame: &Frame) -> Result<()> {
    let mut stream = frames
        .lock()
        .map_err(|_| anyhow::anyhow!("the frame socket's lock is poisoned"))?;
    match stream.write_all(&frame.encode()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("send a frame"),
        _ => Ok(()),
    }
}

fn deliver(event: Event, frames: &Mutex<UnixStream>) -> Result<()> {
    match event {
        Event::Text(text) => send(frames, &Frame::Stdout(text))?,
        Event::Block(mime, content) => send(frames, &Frame::Block(mime, content))?,
        Event::Protocol(line) => {
            match line.as_slice() {
                PANIC_LINE => send(frames, &Frame::Panicked)?,
                ERROR_LINE => send(frames, &Frame::ReturnedError)?,
                COMPLETE_LINE => send(frames, &Frame::Complete)?,
                _ => {}
            }
            let mut out = std::io::stdout().lock();
            out.write_all(&line)?;
            out.write_all(b"\n")?;
            out.flush()?;
        }
    }
    Ok(())
}

/// What the filter found in the stream.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Text(String),
    Block(String, String),
    Protocol(Vec<u8>),
}

/// Separates evcxr's protocol from what cells print.
#[derive(Default)]
struct Filter {
    /// Bytes of a line not yet complete and not yet delivered.
    pending: Vec<u8>,
    /// The open MIME block.
    block: Option<(String, Vec<u8>)>,
}

impl Filter {
    fn feed(&mut self, bytes: &[u8]) -> Vec<Event> {
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
    fn finish(&mut self) -> Vec<Event> {
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
fn take_text(pending: &mut Vec<u8>) -> Option<String> {
    let valid = match std::str::from_utf8(pending) {
        Ok(_) => pending.len(),
        // Not a cut character but garbage: show it as such rather than wait for ever.
        Err(error) if error.error_len().is_some() => pending.len(),
        Err(error) => error.valid_up_to(),
    };
    (valid > 0)
        .then(|| String::from_utf8_lossy(&pending.drain(..valid).collect::<Vec<_>>()).into_owned())
}

/// The command evcxr is to start instead of the cell process.
pub fn command(frame_socket: &std::path::Path) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env(PROXY_VAR, frame_socket);
    Ok(command)
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

    #[test]
    fn frames_survive_the_wire() {
        let frames = [
            Frame::Stdout("a\nb".into()),
            Frame::Block("text/plain".into(), "x\ny".into()),
            Frame::Exited("exit code 3".into()),
        ];
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        let mut bytes = bytes.as_slice();
        for frame in frames {
            assert_eq!(Frame::read(&mut bytes), Some(frame));
        }
        assert_eq!(Frame::read(&mut bytes), None);
    }
}
