//! The kernel as people use it: every promise of the lab about cells, kept by a real kernel on the real library.
//!
//! These tests need the snapshot; the first one that starts builds it if need be.

mod client;
mod processes;

use std::time::{Duration, Instant};

use client::Kernel;
use serde_json::json;

/// Defines `kept`, runs `bad`, and checks that `kept` is still there.
async fn fails_and_keeps(bad: &str, name: &str, message: &str, line: &str) {
    let mut kernel = Kernel::start().await;
    let reply = kernel.run("let kept = vec![1, 2, 3];").await;
    assert_eq!(reply.status, "ok", "{reply:?}");
    let reply = kernel.run(bad).await;
    assert_eq!(
        (reply.status.as_str(), reply.name.as_str()),
        ("error", name),
        "{reply:?}"
    );
    assert!(reply.message.contains(message), "{reply:?}");
    assert!(reply.traceback.contains(line), "{reply:?}");
    assert!(
        reply.traceback.lines().count() < 20,
        "a short message: {reply:?}"
    );
    let reply = kernel.run("kept.len()").await;
    assert_eq!(reply.result.as_deref(), Some("3"), "{reply:?}");
    kernel.shut_down().await;
}

#[tokio::test]
async fn an_index_panic_is_an_error_with_its_line() {
    fails_and_keeps(
        "let a = 1;\nlet q = vec![1, 2];\nq[5]",
        "panic",
        "index is 5",
        "line 3",
    )
    .await;
}

#[tokio::test]
async fn a_failed_question_mark_is_an_error_with_its_line() {
    fails_and_keeps(
        "let a = 1;\nlet n: i32 = \"seven\".parse()?;",
        "error",
        "invalid digit",
        "line 2",
    )
    .await;
}

#[tokio::test]
async fn a_failed_assertion_is_an_error_with_its_line() {
    fails_and_keeps(
        "// why\nassert!(1 + 1 == 3, \"arithmetic\");",
        "panic",
        "arithmetic",
        "line 2",
    )
    .await;
}

#[tokio::test]
async fn a_type_error_is_an_error_with_its_line() {
    fails_and_keeps(
        "let a = 1;\nlet n: i32 = \"seven\";",
        "compile error",
        "mismatched types (line 2",
        "E0308",
    )
    .await;
}

#[tokio::test]
async fn a_panic_in_the_library_names_the_line_of_the_cell() {
    fails_and_keeps(
        "let a = 1;\nlet n: Option<i32> = None;\nn.expect(\"a number\");",
        "panic",
        "a number",
        "line 3",
    )
    .await;
}

#[tokio::test]
async fn ending_the_process_is_an_error_that_says_what_was_lost() {
    let mut kernel = Kernel::start().await;
    kernel.run("let lost = 5;").await;
    let reply = kernel.run("std::process::exit(3)").await;
    assert_eq!(
        (reply.status.as_str(), reply.name.as_str()),
        ("error", "process ended"),
        "{reply:?}"
    );
    assert!(
        reply.message.contains("exit code 3") && reply.message.contains("lost"),
        "{reply:?}"
    );
    let reply = kernel.run("1 + 1").await;
    assert_eq!(
        reply.result.as_deref(),
        Some("2"),
        "the next cell works: {reply:?}"
    );
}

#[tokio::test]
async fn stdout_without_a_newline_neither_hangs_nor_gets_lost() {
    let mut kernel = Kernel::start().await;
    let reply = kernel.run("print!(\"no newline\");").await;
    assert_eq!(
        (reply.status.as_str(), reply.stdout.as_str()),
        ("ok", "no newline")
    );
    let reply = kernel
        .run("use std::io::Write; print!(\"flushed\"); std::io::stdout().flush().unwrap();")
        .await;
    assert_eq!(
        (reply.status.as_str(), reply.stdout.as_str()),
        ("ok", "flushed")
    );
    let reply = kernel.run("println!(\"next\");").await;
    assert_eq!(
        (reply.status.as_str(), reply.stdout.as_str()),
        ("ok", "next\n")
    );
}

#[tokio::test]
async fn an_endless_loop_stops_within_two_seconds() {
    let mut kernel = Kernel::start().await;
    kernel.run("let lost = 5;").await;
    let id = kernel
        .send("println!(\"running\"); loop { std::hint::spin_loop(); }")
        .await;
    kernel.wait_for("stream").await;
    let pressed = Instant::now();
    kernel.interrupt().await;
    let reply = kernel.finish(&id).await;
    let seconds = pressed.elapsed().as_secs_f64();
    assert!(seconds < 2.5, "{seconds} s");
    assert_eq!(
        (reply.status.as_str(), reply.name.as_str()),
        ("error", "Interrupted"),
        "{reply:?}"
    );
    assert!(reply.message.contains("lost: lost"), "{reply:?}");
    assert_eq!(kernel.run("2 + 2").await.result.as_deref(), Some("4"));
}

#[tokio::test]
async fn an_operation_of_ours_stops_cleanly_and_leaves_variables() {
    let mut kernel = Kernel::start().await;
    kernel.run("let kept = 5;").await;
    let code = "let mut bar = llmkit::progress::Progress::new(\"count\", 1000, \"steps\");\n\
                for _ in 0..1000 {\n    std::thread::sleep(std::time::Duration::from_millis(20));\n    bar.advance(1)?;\n}";
    let id = kernel.send(code).await;
    kernel.wait_for("display_data").await;
    let pressed = Instant::now();
    kernel.interrupt().await;
    let reply = kernel.finish(&id).await;
    assert!(pressed.elapsed() < Duration::from_secs(2));
    assert_eq!(
        (reply.status.as_str(), reply.name.as_str()),
        ("error", "Interrupted"),
        "{reply:?}"
    );
    assert!(reply.traceback.contains("line 4"), "{reply:?}");
    assert!(
        reply.displays.is_empty() && !reply.updates.is_empty(),
        "the bar is updated in place: {reply:?}"
    );
    assert_eq!(kernel.run("kept").await.result.as_deref(), Some("5"));
}

#[tokio::test]
async fn a_cell_may_display_many_things_between_its_output() {
    let mut kernel = Kernel::start().await;
    let code = "println!(\"one\");\nfor i in 0..2 { println!(\"EVCXR_BEGIN_CONTENT text/html\\n<b>{i}</b>\\nEVCXR_END_CONTENT\"); }\n\
                println!(\"two\");\n7";
    let reply = kernel.run(code).await;
    assert_eq!(reply.stdout, "one\ntwo\n", "{reply:?}");
    assert_eq!(
        reply.displays,
        [
            json!({ "text/html": "<b>0</b>" }),
            json!({ "text/html": "<b>1</b>" })
        ]
    );
    assert_eq!(reply.result.as_deref(), Some("7"));
}

#[tokio::test]
async fn cells_behind_a_failed_one_are_aborted() {
    let mut kernel = Kernel::start().await;
    let bad = kernel.send("panic!(\"stop here\")").await;
    let next = kernel.send("let never = 1;").await;
    assert_eq!(kernel.finish(&bad).await.status, "error");
    assert_eq!(kernel.finish(&next).await.status, "aborted");
    assert_eq!(kernel.run("never").await.name, "compile error");
}

#[tokio::test]
async fn the_library_is_at_hand_and_exists_once() {
    let mut kernel = Kernel::start().await;
    let reply = kernel
        .run("let a = Tensor::arange(0f32, 6., &Device::Cpu)?.reshape((2, 3))?;")
        .await;
    assert_eq!(reply.status, "ok", "{reply:?}");
    let reply = kernel.run("a.sum_all()?.to_scalar::<f32>()?").await;
    assert_eq!(reply.result.as_deref(), Some("15.0"), "{reply:?}");
    let reply = kernel
        .run(
            "let frame = df!(\"x\" => [1, 2, 3])?.lazy().filter(col(\"x\").gt(lit(1))).collect()?;",
        )
        .await;
    assert_eq!(reply.status, "ok", "{reply:?}");
    assert_eq!(
        kernel.run("frame.height()").await.result.as_deref(),
        Some("2")
    );
    // One counter for all cells: a static of the library, not one copy a cell.
    kernel.run("llmkit::interrupt::request();").await;
    let reply = kernel.run("llmkit::interrupt::is_requested()").await;
    assert_eq!(
        reply.result.as_deref(),
        Some("false"),
        "each cell starts with the button released: {reply:?}"
    );
}

/// What any other build leaves in a target directory, which cargo puts into `LD_LIBRARY_PATH`.
#[tokio::test]
async fn a_library_of_the_same_name_elsewhere_is_not_loaded() {
    let elsewhere = tempfile::tempdir().expect("temporary directory");
    let library = elsewhere.path().join("libllmkit_prelude.so");
    std::fs::write(library, "not a library").expect("write it");
    let path = elsewhere.path().to_string_lossy();
    let mut kernel = Kernel::start_with(&[
        ("LLMKIT_NO_SPARE", "1"),
        ("LLMKIT_COLD_START", "1"),
        ("LD_LIBRARY_PATH", &path),
    ])
    .await;
    let reply = kernel.run("df!(\"x\" => [1, 2])?.height()").await;
    assert_eq!(reply.result.as_deref(), Some("2"), "{reply:?}");
}

#[tokio::test]
async fn completion_and_documentation_know_the_library() {
    let mut kernel = Kernel::start().await;
    let reply = kernel
        .ask(
            "complete_request",
            json!({ "code": "llmkit::sess", "cursor_pos": 12 }),
        )
        .await;
    assert!(
        reply["matches"][0]
            .as_str()
            .is_some_and(|text| text.starts_with("session")),
        "{reply}"
    );
    let code = "llmkit::session::param";
    let reply = kernel
        .ask(
            "inspect_request",
            json!({ "code": code, "cursor_pos": code.len(), "detail_level": 0 }),
        )
        .await;
    assert!(
        reply["data"]["text/plain"]
            .as_str()
            .is_some_and(|text| text.contains("notebook parameter")),
        "{reply}"
    );
    let reply = kernel.run(":help").await;
    assert!(reply.result.is_some_and(|text| text.contains("llmkit::")));
}
