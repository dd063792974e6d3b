//! Ledgers that nobody's measurement wrote.

use super::refused;
use crate::entry;
use crate::seeds;

#[test]
fn ledgers_that_are_none() {
    let honest = String::from_utf8(seeds::of("ledger").remove(0)).unwrap();
    for (from, to) in [
        ("stem,claim", "claim,stem"),
        ("stem,", ""),
        ("notebook\n", "notebook,more\n"),
        ("quant/gptq,", ""),
        ("1.5,1.25", "one,1.25"),
        ("1.5,1.25", "NaN,1.25"),
        ("1.5,1.25", "1.5,-inf"),
        ("1.5,1.25,1.75", "1e999,1.25,inf"),
        ("1.5,1.25,1.75", "1.5,1.75,1.25"),
        ("1.5,1.25,1.75", "2.5,1.25,1.75"),
        ("Distributional", "Surely"),
        ("dB,Reproduced", "dB,Refuted"),
        ("6.02 ± 0.12", "about six"),
        ("6.02 ± 0.12", "6.02 ± NaN"),
        ("\"less, by", "less, \"by"),
    ] {
        assert!(honest.contains(from), "{from}");
        let bytes = honest.replacen(from, to, 1).into_bytes();
        refused(to, entry::ledger, &bytes, &["ledger.csv"]);
    }
    let latin = [honest.as_bytes(), b"caf\xe9,".as_slice()].concat();
    refused("not UTF-8", entry::ledger, &latin, &["ledger.csv"]);
    let quoted = format!("{honest}\"{}", "x".repeat(100_000));
    refused("no end", entry::ledger, quoted.as_bytes(), &["ledger.csv"]);
    refused("zeros", entry::ledger, &[0; 4096], &["ledger.csv"]);
}
