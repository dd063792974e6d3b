//! The llmkit kernel: one binary, several roles, chosen by the name it is called by and its first argument.
//!
//! | role | who starts it |
//! |---|---|
//! | `kernel --connection-file F --repo DIR` | Jupyter; hands over to a warm spare where there is one |
//! | `stock --connection-file F --repo DIR` | Jupyter; the unchanged evcxr kernel on the same prelude |
//! | `spare --repo DIR [--detach]` | the lab and every kernel, to have a warm one ready |
//! | `snapshot --repo DIR [--check]` | the lab: builds what cells link to |
//! | `profile --repo DIR` | whoever wonders where a kernel's start goes |
//! | `cargo`, `rustup` (by name) | evcxr and rust-analyzer, through `PATH`: see [`shim`] |
//! | the evaluation process (by environment) | evcxr, through [`child`] |

mod cell;
mod child;
mod display;
mod evaluate;
mod explain;
mod filter;
mod frame;
mod interrupt;
mod jobs;
mod launch;
mod lay_out;
mod message;
mod metadata;
mod parent;
mod publish;
mod running;
mod server;
mod session;
mod shim;
mod snapshot;
mod spare;
mod toolchain;
mod work;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

/// Arguments after the role: `--name value` pairs and bare flags.
struct Arguments(Vec<String>);

impl Arguments {
    fn value(&self, name: &str) -> Option<&str> {
        let at = self.0.iter().position(|argument| argument == name)?;
        self.0.get(at + 1).map(String::as_str)
    }

    fn is_set(&self, name: &str) -> bool {
        self.0.iter().any(|argument| argument == name)
    }

    fn path(&self, name: &str) -> Result<PathBuf> {
        let value = self
            .value(name)
            .with_context(|| format!("missing argument {name}"))?;
        std::path::absolute(value).with_context(|| format!("{name} {value}"))
    }
}

fn main() -> ExitCode {
    // Roles chosen by name or environment come first: they run many times a cell and must start in a millisecond.
    let mut arguments = std::env::args();
    let called_as = arguments.next().unwrap_or_default();
    let name = Path::new(&called_as)
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    match name.as_deref() {
        Some("cargo") => return shim::cargo(arguments.collect()),
        Some("rustup") => return shim::rustup(arguments.collect()),
        _ => {}
    }
    if std::env::var_os(child::PROXY_VAR).is_some() {
        return child::proxy();
    }
    if std::env::var_os("EVCXR_IS_RUNTIME").is_some() {
        child::die_with_parent();
        evcxr::runtime_hook();
    }
    let role = arguments.next();
    match run(role.as_deref(), &Arguments(arguments.collect())) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("llmkit-kernel: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(role: Option<&str>, arguments: &Arguments) -> Result<ExitCode> {
    match role {
        Some("kernel") => {
            parent::end_with_it();
            launch::launch(
                &arguments.path("--repo")?,
                &arguments.path("--connection-file")?,
            )
        }
        Some("stock") => stock(
            &arguments.path("--repo")?,
            &arguments.path("--connection-file")?,
        ),
        Some("spare") => spare::serve(&arguments.path("--repo")?, arguments.is_set("--detach")),
        // What `stock` starts: evcxr_jupyter's own command line.
        Some("--control_file") => evcxr_jupyter::main().map(|()| ExitCode::SUCCESS),
        Some("profile") => profile(&arguments.path("--repo")?),
        Some("snapshot") => {
            snapshot::command(&arguments.path("--repo")?, arguments.is_set("--check"))
        }
        _ => bail!(
            "expected kernel, stock, spare or snapshot; got {}",
            role.unwrap_or("nothing")
        ),
    }
}

/// Times the steps of a start and of the first cells.
fn profile(repo: &Path) -> Result<ExitCode> {
    let mut last = std::time::Instant::now();
    let mut lap = |what: &str| {
        eprintln!("{:6.3} s  {what}", last.elapsed().as_secs_f64());
        last = std::time::Instant::now();
    };
    let snapshot = snapshot::ensure(repo)?;
    lap("find the snapshot");
    snapshot.enter()?;
    let mut evaluator = evaluate::Evaluator::new()?;
    lap("start evcxr (rust-analyzer loads its crates)");
    evaluator.warm_up();
    lap("warm up");
    for code in [
        "let a = 1;",
        "let v = vec![1.5, 2.5];",
        "v.iter().sum::<f64>()",
        "let t = Tensor::zeros((2, 2), DType::F32, &Device::Cpu)?;",
        "let f = df!(\"x\" => [1, 2, 3])?;",
        "f.clone().lazy().filter(col(\"x\").gt(lit(1))).collect()?",
        "println!(\"{}\", a);",
    ] {
        let outcome = evaluator.execute(code, Box::new(|_| {}));
        lap(&format!(
            "{code}{}",
            if outcome.is_ok() { "" } else { "  FAILED" }
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// The unchanged evcxr kernel, with our prelude and prebuilt library in its environment.
fn stock(repo: &Path, connection_file: &Path) -> Result<ExitCode> {
    use std::os::unix::process::CommandExt;
    let snapshot = snapshot::ensure(repo)?;
    snapshot.enter()?;
    // `evcxr_jupyter` reads its own command line, so it starts afresh with the arguments it expects. It would also
    // point a kernel the user installed at this program; with a JUPYTER_PATH of ours it finds none.
    let error = std::process::Command::new(snapshot.stock_binary())
        .args(["--control_file".as_ref(), connection_file.as_os_str()])
        .env("JUPYTER_PATH", snapshot.directory.join("config"))
        .exec();
    bail!("cannot start the stock kernel: {error}")
}
