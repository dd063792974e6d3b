//! Figures in files: the same bytes twice, several processes at once, processes that die half-way.

use std::path::Path;
use std::process::{Command, Stdio};

use llmkit::report::{ExportOptions, Figure, Venue, export, stems};
use sha2::{Digest, Sha256};

use super::{count, every_kind, temporary};

#[test]
fn saving_twice_changes_nothing() {
    let directory = temporary();
    let (_, figure) = every_kind().remove(0);
    let figure = figure.seed(7);
    let saved = figure.save_under(directory.path(), "quant/gptq").unwrap();
    let read = |path: &Path| std::fs::read(path).unwrap();
    let manifest = directory.path().join("manifest.json");
    let before: Vec<Vec<u8>> = saved.files.iter().map(|path| read(path)).collect();
    let line = read(&manifest);
    for path in &saved.files {
        std::fs::remove_file(path).unwrap();
    }
    figure.save_under(directory.path(), "quant/gptq").unwrap();
    let after: Vec<Vec<u8>> = saved.files.iter().map(|path| read(path)).collect();
    assert_eq!(before, after);
    assert_eq!(
        line,
        read(&manifest),
        "neither date nor commit alone changes the manifest"
    );
    let json: serde_json::Value = serde_json::from_slice(&line).unwrap();
    let entry = &json["quant/gptq"];
    assert_eq!(
        (entry["seed"].as_u64(), entry["inches"][0].as_f64()),
        (Some(7), Some(3.25))
    );
    assert_eq!(entry["files"].as_object().unwrap().len(), 5);
    assert_eq!(entry["files"]["png"]["sha256"].as_str().unwrap().len(), 64);
    assert!(figure.save_under(directory.path(), "../escape").is_err());
    assert!(
        !directory
            .path()
            .parent()
            .unwrap()
            .join("escape.svg")
            .exists()
    );
}

#[test]
fn a_damaged_manifest_is_left_as_it_is() {
    let directory = temporary();
    let manifest = directory.path().join("manifest.json");
    std::fs::write(&manifest, "{ half").unwrap();
    let error = every_kind()[0]
        .1
        .save_under(directory.path(), "a/b")
        .unwrap_err();
    assert!(error.to_string().contains("manifest.json"), "{error}");
    assert_eq!(std::fs::read_to_string(&manifest).unwrap(), "{ half");
}

#[test]
fn exports_have_the_venues_width() {
    let directory = temporary();
    let out = directory.path().join("export");
    every_kind()[0]
        .1
        .save_under(directory.path(), "quant/gptq")
        .unwrap();
    let options = ExportOptions {
        outline_text: true,
        has_title: false,
        ..ExportOptions::default()
    };
    let files = export(
        directory.path(),
        "quant/gptq",
        Venue::Neurips,
        options,
        &out,
    )
    .unwrap();
    assert_eq!(files.len(), 3);
    let pdf = std::fs::read(&files[0]).unwrap();
    assert_eq!(count(&pdf, b"/FontFile"), 0);
    let svg = std::fs::read_to_string(&files[1]).unwrap();
    assert!(
        svg.contains("width=\"528\"") && !svg.contains("<text"),
        "{}",
        &svg[..200]
    );
    assert_eq!(stems(directory.path()).unwrap()[0].0, "quant/gptq");
    let missing = export(directory.path(), "quant/nothing", Venue::Acl, options, &out).unwrap_err();
    assert!(missing.to_string().contains("nothing.json"), "{missing}");
}

/// Not a test of its own: what each process of the next test runs.
#[test]
fn saver_process() {
    let (Some(directory), Ok(who)) = (
        std::env::var_os("LLMKIT_TEST_SAVE"),
        std::env::var("LLMKIT_TEST_WHO"),
    ) else {
        return;
    };
    for i in 0..6 {
        let figure = Figure::new(format!("{who}-{i}")).line("a", &[1.0, 2.0], &[f64::from(i), 1.0]);
        figure
            .save_under(Path::new(&directory), &format!("{who}/figure-{i}"))
            .unwrap();
        figure
            .save_under(Path::new(&directory), "same/figure")
            .unwrap();
    }
}

#[test]
fn processes_that_save_at_once_lose_nothing() {
    let directory = temporary();
    let children: Vec<_> = ["one", "two", "three"]
        .into_iter()
        .map(|who| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "saving::saver_process"])
                .env("LLMKIT_TEST_SAVE", directory.path())
                .env("LLMKIT_TEST_WHO", who)
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let known = stems(directory.path()).unwrap();
    assert_eq!(known.len(), 19, "{known:?}");
    let leftovers = std::fs::read_dir(directory.path()).unwrap().flatten();
    let unfinished =
        leftovers.filter(|entry| entry.file_name().to_string_lossy().contains("unfinished"));
    assert_eq!(unfinished.count(), 0);
    // The shared stem's files belong together: one title in the specification and in the manifest.
    let json = std::fs::read_to_string(directory.path().join("same/figure.json")).unwrap();
    let title = &known
        .iter()
        .find(|(stem, ..)| stem == "same/figure")
        .unwrap()
        .1;
    assert_eq!(&Figure::from_json(&json).unwrap().title, title);
}

/// The two states of one figure. Few points, so that the picture in pixels, written third, is its largest file.
fn version(second: bool) -> Figure {
    let points: Vec<f64> = (0..if second { 9 } else { 5 }).map(f64::from).collect();
    Figure::new("killed").scatter("a", &points, &points)
}

/// Not a test of its own: a process that saves the second version, and is killed on the way.
#[test]
fn killed_process() {
    if let Some(directory) = std::env::var_os("LLMKIT_TEST_KILLED") {
        version(true)
            .save_under(Path::new(&directory), "quant/killed")
            .unwrap();
    }
}

/// The system kills a process that writes a file beyond its limit, at that byte: a kill in the middle of a save, at a
/// place that does not depend on timing.
#[test]
fn a_process_killed_while_it_saves_leaves_whole_files_and_the_next_save_works() {
    let (directory, whole) = (temporary(), temporary());
    let contents = |root: &Path| -> Vec<Vec<u8>> {
        let file = |ending| root.join("quant").join(format!("killed.{ending}"));
        let endings = ["svg", "pdf", "png", "csv", "json"];
        endings
            .map(|ending| std::fs::read(file(ending)).unwrap())
            .into()
    };
    version(true)
        .save_under(whole.path(), "quant/killed")
        .unwrap();
    let second = contents(whole.path());
    version(false)
        .save_under(directory.path(), "quant/killed")
        .unwrap();
    let first = contents(directory.path());

    let mut killed = Vec::new();
    for blocks in (0..=128).step_by(8) {
        let status = Command::new("sh")
            .args([
                "-c",
                "ulimit -c 0; ulimit -f \"$0\"; exec \"$1\" --exact saving::killed_process",
            ])
            .arg(blocks.to_string())
            .arg(std::env::current_exe().unwrap())
            .env("LLMKIT_TEST_KILLED", directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        let now = contents(directory.path());
        let renewed = (now.iter().zip(&first).zip(&second))
            .map(|((now, first), second)| {
                assert!(
                    now == first || now == second,
                    "{blocks} blocks: half a file"
                );
                now == second
            })
            .filter(|is_new| *is_new)
            .count();
        if !status.success() {
            killed.push(renewed);
        }
        assert_eq!(
            stems(directory.path()).unwrap().len(),
            1,
            "the manifest can be read"
        );
    }
    assert!(killed.contains(&0), "killed at the first file: {killed:?}");
    assert!(
        killed.iter().any(|count| *count > 0),
        "and between two: {killed:?}"
    );

    version(true)
        .save_under(directory.path(), "quant/killed")
        .unwrap();
    assert_eq!(contents(directory.path()), second);
    let manifest = std::fs::read(directory.path().join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let svg = Sha256::digest(&second[0]);
    let svg: String = svg.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        manifest["quant/killed"]["files"]["svg"]["sha256"],
        svg.as_str()
    );
    for folder in [
        directory.path().to_path_buf(),
        directory.path().join("quant"),
    ] {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            assert!(!name.contains("unfinished"), "{name} is left");
        }
    }
}
