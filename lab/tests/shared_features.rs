//! What `lab/shared` is for: the lab, the kernel, the library's tests and what cells link to ask for each crate they share with the same
//! features, so that a first start and the tests compile it once.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Crate and version → the sets of features with which building `package` asks for it (more than one where build scripts want others).
type Wanted = BTreeMap<String, BTreeSet<String>>;

fn wanted(package: &str, args: &[&str]) -> Wanted {
    let out = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--prefix=none", "--format={p} [{f}]"])
        .args(["--package", package])
        .args(args)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .unwrap();
    let says = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "cargo tree of {package}: {says}");
    let mut wanted = Wanted::new();
    for line in String::from_utf8(out.stdout).unwrap().lines() {
        let Some((of, features)) = line.split_once('[') else {
            continue;
        };
        let mut words = of.split(' ');
        if let (Some(name), Some(version)) = (words.next(), words.next()) {
            let features = features.split(']').next().unwrap_or_default();
            let name = format!("{name} {version}");
            wanted.entry(name).or_default().insert(features.to_owned());
        }
    }
    wanted
}

/// Crates of which neither package's sets hold the other's.
fn apart(a: &Wanted, b: &Wanted) -> Vec<String> {
    let differ = a.iter().filter_map(|(name, of_a)| {
        let of_b = b.get(name)?;
        let same = of_a.is_subset(of_b) || of_b.is_subset(of_a);
        (!same).then(|| format!("{name}: {of_a:?} and {of_b:?}"))
    });
    differ.collect()
}

#[test]
fn crates_are_shared_with_the_same_features() {
    let build = ["--edges=normal,build"];
    let all = [
        ("lab", wanted("llmkit-lab", &build)),
        ("kernel", wanted("llmkit-kernel", &build)),
        ("prelude", wanted("llmkit-prelude", &build)),
        ("tests", wanted("llmkit", &["--features=notebook"])),
    ];
    for (i, (a, of_a)) in all.iter().enumerate() {
        assert!(of_a.len() > 50, "{a}: {} crates", of_a.len());
        for (b, of_b) in &all[..i] {
            let mut differ = apart(of_a, of_b);
            // The lab's tables ask for a terminal's width, those of polars do not.
            differ.retain(|it| !it.starts_with("comfy-table "));
            assert!(
                differ.is_empty(),
                "{a} and {b} ask differently, so it is compiled twice; give lab/shared/Cargo.toml the features of both: {differ:#?}"
            );
        }
    }
}

#[test]
fn other_features_are_seen() {
    let with = |features: &[&str]| {
        let sets = features.iter().map(|it| it.to_string()).collect();
        Wanted::from([("syn v2".to_owned(), sets)])
    };
    assert!(apart(&with(&["full"]), &with(&["full"])).is_empty());
    assert!(apart(&with(&["full", "fold"]), &with(&["full"])).is_empty());
    assert_eq!(apart(&with(&["full"]), &with(&["fold"])).len(), 1);
}
