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

use crate::filter::{COMPLETE_LINE, ERROR_LINE, Event, Filter, PANIC_LINE, take_text};
use crate::frame::Frame;

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

/// The command evcxr is to start instead of the cell process.
pub fn command(frame_socket: &std::path::Path) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.env(PROXY_VAR, frame_socket);
    Ok(command)
}
