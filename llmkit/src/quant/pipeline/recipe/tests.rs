use super::*;
use crate::Result;

#[test]
fn texts_are_read_and_written() -> Result<()> {
    for (text, full) in [
        ("gptq:int4-g64", "gptq:int4-symmetric-g64"),
        (" rtn : nf4-g64 ", "rtn:nf4-g64"),
        (
            "sequential, gptq-act-order:int3-affine-channel",
            "sequential,gptq-act-order:int3-affine-channel",
        ),
        (
            "packed,true-sequential,gptq-damp0.1:int8-g32",
            "true-sequential,packed,gptq-damp0.1:int8-symmetric-g32",
        ),
        (
            "packed, rotate,smooth-a0.5,awq,gptq:int4-g64,eora-r16",
            "rotate-seed0,smooth-a0.5,awq-for-int4-symmetric-g64,packed,gptq:int4-symmetric-g64,eora-r16",
        ),
        (
            "rtn:int8-channel@a8-token",
            "rtn:int8-symmetric-channel@a8-token",
        ),
        (
            "smooth,smooth-a0.9,rtn:int8-channel@a6-tensor-p99.9, lorc-r4",
            "smooth-a0.5,smooth-a0.9,rtn:int8-symmetric-channel@a6-tensor-p99.9,lorc-r4",
        ),
        (
            "gptq:int4-g64@a8-outliers6,ffn_down=int8-g64,blk.0=rtn:nf4-g64,lorc-r2",
            "gptq:int4-symmetric-g64@a8-outliers6,ffn_down=gptq:int8-symmetric-g64,blk.0=rtn:nf4-g64,lorc-r2",
        ),
    ] {
        let recipe: Recipe = text.parse()?;
        assert_eq!(recipe.to_string(), full);
        assert_eq!(full.parse::<Recipe>()?.to_string(), full, "read back");
    }
    Ok(())
}

#[test]
fn what_is_wrong_is_named() {
    for (text, says) in [
        ("", "at its end"),
        ("gptq", "\"gptq\" at its end"),
        ("gptq:int4-g64,packed", "\"packed\" at its end"),
        ("gqtp:int4-g64", "method: expected"),
        ("gptq:int4-g0", "at least one weight"),
        ("gptq:int9-g64", "2 … 8"),
        ("rotat,gptq:int4-g64", "one of sequential"),
        ("rotat,gptq:int4-g64", "permute"),
        ("smooth-a7,gptq:int4-g64", "alpha"),
        ("packed,packed,rtn:int4-g64", "twice"),
        ("sequential,true-sequential,rtn:int4-g64", "two sequences"),
        ("gptq:e8p-channel", "one by one"),
        ("rtn:int8-channel@", "a8-token"),
        ("rtn:int8-channel@a9-token", "2 … 8"),
        ("rtn:int8-channel@a1-token", "2 … 8"),
        ("rtn:int8-channel@a8-g20", "multiple of 32"),
        ("rtn:int8-channel@a8-tensor-p20", "50 … 100"),
        ("rtn:int8-channel@a8-outliers-1", "positive"),
        ("rtn:int8-channel@a8-outliersNaN", "positive"),
        ("rtn:int4-g64,lorc-r0", "any rank from 1"),
        ("rtn:int4-g64,lorc-r2,eora-r2", "after the correction"),
        (
            "rtn:int4-g64,ffn_up=int4-g64,ffn_up=nf4-g64",
            "two exceptions",
        ),
        ("rtn:int4-g64,ffn_up=nothing", "format"),
        ("rtn:int4-g64,ffn_up=gptq:e8p-channel", "one by one"),
        ("rtn:int4-g64,rtn:int4-g64", "at its end"),
    ] {
        let error = text.parse::<Recipe>().unwrap_err().to_string();
        assert!(error.contains(says), "{text:?}: {error}");
    }
}

#[test]
fn the_narrowest_exception_counts() -> Result<()> {
    let text = "rtn:int4-g64,ffn_up=int5-g64,blk.1=int6-g64,blk.1.ffn_up=int8-g64,blk.11.attn_q.weight=nf4-g64";
    let recipe: Recipe = text.parse()?;
    for (name, format) in [
        ("blk.0.attn_q", "int4-symmetric-g64"),
        ("blk.0.ffn_up", "int5-symmetric-g64"),
        ("blk.1.attn_q", "int6-symmetric-g64"),
        ("blk.1.ffn_up", "int8-symmetric-g64"),
        ("blk.11.ffn_up", "int5-symmetric-g64"),
        ("blk.11.attn_q", "nf4-g64"),
    ] {
        let scheme = recipe.scheme_of(&format!("{name}.weight"));
        assert_eq!(scheme.format.name(), format, "{name}");
    }
    Ok(())
}
