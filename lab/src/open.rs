//! `cargo lab`: JupyterLab on `notebooks/`, with a kernel already warm.

use std::net::IpAddr;
use std::process::{ExitStatus, Stdio};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

use crate::kernelspec::{LIVE, jupyter_path};
use crate::place::Place;
use crate::setup;
use crate::venv::Venv;

/// Arguments of `cargo lab` without a command; named as Jupyter names them.
#[derive(Debug, Clone, clap::Args)]
pub struct OpenArgs {
    /// Do not open a browser; the address with its token is printed
    #[arg(long)]
    no_browser: bool,
    /// Port of the server [default: the first free one from 8888]
    #[arg(long)]
    port: Option<u16>,
    /// Address to listen on [default: 127.0.0.1, this machine only]
    #[arg(long)]
    ip: Option<IpAddr>,
}

/// Sets up what is missing, starts JupyterLab and stays until it ends.
///
/// # Errors
/// If setup fails or JupyterLab does not start.
pub fn command(place: &Place, args: &OpenArgs) -> Result<bool> {
    setup::setup(place)?;
    let notebooks = place.notebooks();
    std::fs::create_dir_all(&notebooks)
        .with_context(|| format!("create {}", notebooks.display()))?;
    // Warming goes on in the background; a kernel that is asked for earlier starts by itself.
    let spare = setup::kernel_command(place, "spare")
        .arg("--detach")
        .stdin(Stdio::null())
        .status();
    if !spare.is_ok_and(|status| status.success()) {
        eprintln!("no kernel could be warmed; the first notebook will start more slowly");
    }
    let mut server = server(place, args)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("wait for JupyterLab")?;
    let status = runtime.block_on(stay(&mut server))?;
    Ok(status.success())
}

fn server(place: &Place, args: &OpenArgs) -> Result<Command> {
    let venv = Venv::find(place)?;
    let mut server = Command::new(venv.python());
    server
        .args(["-m", "jupyterlab"])
        .arg(format!(
            "--ServerApp.root_dir={}",
            place.notebooks().display()
        ))
        .arg(format!(
            "--ServerApp.ip={}",
            args.ip.unwrap_or([127, 0, 0, 1].into())
        ))
        .arg(format!("--MultiKernelManager.default_kernel_name={LIVE}"))
        .current_dir(place.notebooks())
        .env("JUPYTER_PATH", jupyter_path(place))
        .env(setup::LAB_PID, std::process::id().to_string());
    if args.no_browser {
        server.arg("--no-browser");
    }
    if let Some(port) = args.port {
        server.arg(format!("--ServerApp.port={port}"));
    }
    if place.notebooks().join("tour.ipynb").is_file() {
        server.arg("--LabApp.default_url=/lab/tree/tour.ipynb");
    }
    if rustix::process::geteuid().is_root() {
        eprintln!("running as root, which Jupyter only does when told to: --allow-root was added");
        server.arg("--allow-root");
    }
    Ok(server)
}

/// Waits for the server. Ctrl-C reaches it directly (it asks before it ends, as always); a request to end is passed on.
async fn stay(server: &mut Command) -> Result<ExitStatus> {
    let mut interrupt = signal(SignalKind::interrupt()).context("watch for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("watch for signals")?;
    let mut hangup = signal(SignalKind::hangup()).context("watch for signals")?;
    let mut child = server
        .spawn()
        .context("start JupyterLab; try `cargo lab doctor`")?;
    let id = child.id().and_then(|id| Pid::from_raw(id as i32));
    loop {
        tokio::select! {
            status = child.wait() => return status.context("wait for JupyterLab"),
            _ = interrupt.recv() => {}
            _ = terminate.recv() => pass_on(id),
            _ = hangup.recv() => pass_on(id),
        }
    }
}

fn pass_on(id: Option<Pid>) {
    if let Some(id) = id {
        // Already ended: then there is nobody left to tell.
        let _ = kill_process(id, Signal::TERM);
    }
}
