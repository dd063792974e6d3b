//! Several kernels at once, kernels and compilers that are killed, and the spare that takes over.

use std::time::{Duration, Instant};

use crate::client::{self, Kernel};

#[tokio::test(flavor = "multi_thread")]
async fn four_kernels_at_once_run_twenty_five_cells_each() {
    let kernels = (0..4).map(|which| {
        tokio::spawn(async move {
            let mut kernel = Kernel::start().await;
            kernel.run("let mut total = 0u64;").await;
            for cell in 0..25u64 {
                let reply = kernel
                    .run(&format!("total += {cell} * {which}; total"))
                    .await;
                let expected = (0..=cell).sum::<u64>() * which;
                assert_eq!(
                    reply.result,
                    Some(expected.to_string()),
                    "kernel {which}, cell {cell}: {reply:?}"
                );
            }
            kernel.shut_down().await;
        })
    });
    for kernel in kernels.collect::<Vec<_>>() {
        kernel.await.expect("kernel");
    }
}

#[tokio::test]
async fn a_killed_kernel_leaves_nothing_behind() {
    let mut kernel = Kernel::start().await;
    kernel.run("println!(\"{}\", std::process::id());").await;
    let cells: u32 = kernel
        .run("print!(\"{}\", std::process::id());")
        .await
        .stdout
        .parse()
        .expect("a process id");
    kernel.send("loop {}").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    kernel.process.kill().await.expect("kill");
    let start = Instant::now();
    while std::path::Path::new(&format!("/proc/{cells}/exe")).exists() {
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "the cell process outlived its kernel"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(
        Kernel::start().await.run("1").await.result.as_deref(),
        Some("1")
    );
}

#[tokio::test]
async fn a_kernel_ends_with_a_parent_that_was_killed() {
    let mut parent = tokio::process::Command::new("sh");
    parent.args([
        "-c",
        "JPY_PARENT_PID=$$ \"$0\" \"$@\" & wait",
        client::BINARY,
    ]);
    let variables = [("LLMKIT_NO_SPARE", "1"), ("LLMKIT_COLD_START", "1")];
    let mut kernel = Kernel::start_by(parent, &variables).await;
    let id = kernel.run("print!(\"{}\", std::os::unix::process::parent_id());");
    let id: u32 = id.await.stdout.parse().expect("a process id");
    assert!(is_descendant(
        &id.to_string(),
        kernel.process.id().expect("a shell")
    ));
    kernel.process.kill().await.expect("kill");
    let start = Instant::now();
    while std::path::Path::new(&format!("/proc/{id}/exe")).exists() {
        assert!(start.elapsed() < Duration::from_secs(5), "{id} goes on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A cell that takes the compiler a second or more.
fn slow_to_compile() -> String {
    let function =
        |i: usize| format!("fn f{i}(x: f64) -> String {{ format!(\"{{}}\", x * {i}.0) }}\n");
    (0..1500).map(function).collect::<String>() + "f7(2.0)"
}

#[tokio::test]
async fn a_kill_while_a_cell_compiles_leaves_nothing_that_breaks_the_next() {
    let mut kernel = Kernel::start().await;
    kernel.run("let kept = 5;").await;
    let id = kernel.send(&slow_to_compile()).await;
    let compiler = compiler_of(&kernel).await;
    kill(compiler);
    let reply = kernel.finish(&id).await;
    // The evaluator compiles once more when it learns nothing from the compiler.
    let is_done = reply.result.as_deref() == Some("\"14\"");
    assert!(is_done || reply.status == "error", "{reply:?}");
    let reply = kernel.run("kept").await;
    assert_eq!(reply.result.as_deref(), Some("5"), "{reply:?}");

    kernel.send(&slow_to_compile()).await;
    compiler_of(&kernel).await;
    kernel.process.kill().await.expect("kill");
    let reply = Kernel::start().await.run(&slow_to_compile()).await;
    assert_eq!(reply.result.as_deref(), Some("\"14\""), "{reply:?}");
}

/// The compiler that works for `kernel`, once there is one.
async fn compiler_of(kernel: &Kernel) -> u32 {
    let kernel = kernel.process.id().expect("a running kernel");
    let start = Instant::now();
    loop {
        let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
        let found = processes
            .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
            .filter(|pid| {
                let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
                name.is_ok_and(|name| name.trim() == "rustc")
            })
            .find(|pid| is_descendant(&pid.to_string(), kernel));
        if let Some(pid) = found {
            return pid;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "no compiler");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn kill(pid: u32) {
    let status = std::process::Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status();
    assert!(status.expect("kill").success());
}

#[tokio::test]
async fn a_spare_takes_over_with_the_notebooks_own_session() {
    // Sockets of its own, so that no other test's kernels meet this spare.
    let sockets = tempfile::tempdir().expect("temporary directory");
    let common = [
        ("XDG_RUNTIME_DIR", sockets.path().to_str().expect("UTF-8")),
        ("LLMKIT_NO_SPARE", "1"),
    ];
    let mut spare = tokio::process::Command::new(client::BINARY)
        .arg("spare")
        .arg("--repo")
        .arg(client::repo())
        .envs(common)
        .kill_on_drop(true)
        .spawn()
        .expect("start a spare");
    // It may have the library to build first; once it is warming, launchers wait for it.
    while !has_lock(sockets.path()) {
        assert!(
            spare.try_wait().expect("the spare's state").is_none(),
            "the spare ended"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let variables = [common[0], common[1], ("LLMKIT_PARAMS", "{\"bits\": 3}")];
    let mut kernel = Kernel::start_with(&variables).await;
    let reply = kernel.run("param(\"bits\", 8)").await;
    assert_eq!(reply.result.as_deref(), Some("3"), "{reply:?}");
    let cells = kernel
        .run("print!(\"{}\", std::os::unix::process::parent_id());")
        .await
        .stdout;
    let spare_id = spare.id().expect("a running spare");
    assert!(
        is_descendant(&cells, spare_id),
        "the cells run under the spare {spare_id}"
    );
    kernel.shut_down().await;
    let ended = tokio::time::timeout(Duration::from_secs(5), spare.wait()).await;
    assert!(ended.is_ok(), "the spare that became a kernel ends with it");
}

/// Whether a file named `*.lock` is somewhere under `directory`.
fn has_lock(directory: &std::path::Path) -> bool {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| {
        if path.is_dir() {
            has_lock(&path)
        } else {
            path.extension()
                .is_some_and(|extension| extension == "lock")
        }
    })
}

/// Whether process `pid` descends from `ancestor`.
fn is_descendant(pid: &str, ancestor: u32) -> bool {
    let mut pid = pid.trim().to_owned();
    while pid != ancestor.to_string() {
        let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else {
            return false;
        };
        let Some(parent) = status.lines().find_map(|line| line.strip_prefix("PPid:")) else {
            return false;
        };
        if parent.trim() == "0" {
            return false;
        }
        pid = parent.trim().to_owned();
    }
    true
}
