//! The compiler that a checkout pins.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The compiler of a checkout.
pub struct Toolchain {
    /// The compiler, not a rustup proxy.
    pub rustc: PathBuf,
    /// The cargo beside it.
    pub cargo: PathBuf,
    /// What `rustc -vV` says.
    pub version: String,
    /// Target triple of the host.
    pub target: String,
    /// Where the compiler's own shared libraries are.
    pub target_libdir: PathBuf,
}

impl Toolchain {
    /// Asks the `rustc` that `repo` pins.
    pub fn of(repo: &Path) -> Result<Toolchain> {
        let ask = |arguments: &[&str]| -> Result<String> {
            let output = crate::shim::restored(Path::new("rustc"))
                .args(arguments)
                .current_dir(repo)
                .env_remove("RUSTUP_TOOLCHAIN_SOURCE")
                .output()
                .context("cannot run rustc: install Rust with rustup")?;
            if !output.status.success() {
                bail!(
                    "rustc {}: {}",
                    arguments.join(" "),
                    String::from_utf8_lossy(&output.stderr).trim()
                );
            }
            Ok(String::from_utf8(output.stdout)?.trim().to_owned())
        };
        let sysroot = PathBuf::from(ask(&["--print", "sysroot"])?);
        let version = ask(&["-vV"])?;
        let target = version
            .lines()
            .find_map(|line| line.strip_prefix("host: "))
            .context("rustc has no host")?;
        Ok(Toolchain {
            rustc: sysroot.join("bin/rustc"),
            cargo: sysroot.join("bin/cargo"),
            target: target.to_owned(),
            target_libdir: PathBuf::from(ask(&["--print", "target-libdir"])?),
            version,
        })
    }
}
