//! The contracts of [`Format`](crate::quant::Format), run over every format and every sample, and bugs that they catch.

use half::f16;

use crate::Result;
use crate::quant::format::{
    AnyFormat, Format, Granularity, Grid, IntAffine, Load, Store, Whole, all,
};
use crate::quant::method::Rtn;
use crate::quant::{Matrix, Method, Quantized, samples};

/// Every contract on one format and one matrix; the first that is broken, in words.
fn broken_contract(format: &dyn Format, weights: &Matrix) -> Result<(), String> {
    let (rows, cols) = (weights.rows(), weights.cols());
    let blocks = || format.granularity().blocks(rows, cols);
    let say = |error: crate::Error| error.to_string();
    let whole = format.fit_whole(weights).map_err(say)?;
    let mut codes = vec![0; rows * cols];
    let mut grids = Vec::new();
    for (index, block) in blocks().enumerate() {
        let original = &weights.data()[block.clone()];
        let grid = format.fit(&whole, index, original).map_err(say)?;
        format.round(&grid, 0, original, &mut codes[block.clone()]);
        rounded(format, &grid, original, &codes[block.clone()])?;
        decided(format, &grid, original)?;
        let encoded = format
            .encode(&whole, index, original, &mut codes[block.clone()])
            .map_err(say)?;
        bounded(format, &grid, original, &codes[block])?;
        if encoded != grid {
            return Err(format!("encode: {encoded:?}, fitted {grid:?}"));
        }
        grids.push(grid);
    }

    let packed = Quantized::pack(format, rows, cols, &whole, &codes, &grids).map_err(say)?;
    if packed.unpack() != (whole, grids.clone(), codes.clone()) {
        return Err("lossless packing: codes or grids changed".into());
    }
    let stored = packed.code_bytes().len() + packed.grid_bytes().len();
    if packed.bytes() != stored || format.bytes(rows, cols) != stored {
        let said = format.bytes(rows, cols);
        return Err(format!("honest size: {said} said, {stored} stored"));
    }
    let bits = 8.0 * stored as f64 / (rows * cols) as f64;
    if packed.bits_per_weight() != bits {
        return Err(format!("honest size: {bits} bits a weight"));
    }

    let decoded = packed.decode().map_err(say)?;
    let whole = format.fit_whole(&decoded).map_err(say)?;
    for ((index, block), grid) in blocks().enumerate().zip(&grids) {
        let once = &decoded.data()[block.clone()];
        let mut codes = vec![0; block.len()];
        let mut twice = vec![0.0; block.len()];
        format.round(grid, 0, once, &mut codes);
        format.values(grid, 0, &codes, &mut twice);
        if once != twice {
            return Err(format!("projection: {block:?} moved on its own grid"));
        }
        if format.is_projection() {
            let again = format
                .encode(&whole, index, once, &mut codes)
                .map_err(say)?;
            format.values(&again, 0, &codes, &mut twice);
            if once != twice {
                return Err(format!(
                    "projection: encoding again moved {block:?}: {grid:?}, {again:?}"
                ));
            }
        }
    }
    Ok(())
}

/// Codes are the format's and no weight is farther away than the bound.
fn bounded(format: &dyn Format, grid: &Grid, block: &[f32], codes: &[u8]) -> Result<(), String> {
    let mut values = vec![0.0; block.len()];
    format.values(grid, 0, codes, &mut values);
    let bound = format.max_error(grid, block);
    for ((&weight, &code), &value) in block.iter().zip(codes).zip(&values) {
        if u32::from(code) >= format.levels() {
            return Err(format!("levels: code {code} of {}", format.levels()));
        }
        let error = (f64::from(weight) - f64::from(value)).abs();
        // Not a number is not within any bound.
        if error.is_nan() || error > bound {
            return Err(format!(
                "bounded: {weight} is off by {error}, bound {bound}"
            ));
        }
    }
    Ok(())
}

/// The contracts of one block that was fitted and rounded.
fn rounded(format: &dyn Format, grid: &Grid, block: &[f32], codes: &[u8]) -> Result<(), String> {
    bounded(format, grid, block, codes)?;
    // Error feedback rounds vector by vector: that must be the same.
    let step = format.vector().min(block.len());
    let (mut piece, mut value) = (vec![0; step], vec![0.0; step]);
    let mut values = vec![0.0; block.len()];
    format.values(grid, 0, codes, &mut values);
    for at in (0..block.len()).step_by(step) {
        format.round(grid, at, &block[at..at + step], &mut piece);
        format.values(grid, at, &piece, &mut value);
        if piece != codes[at..at + step] || value != values[at..at + step] {
            return Err(format!("runs: vector at {at} depends on its neighbours"));
        }
    }
    if step > 1 {
        return Ok(());
    }
    for ((at, &weight), &code) in block.iter().enumerate().zip(codes) {
        let distance = |point: f32| (f64::from(weight) - f64::from(point)).abs();
        let error = distance(format.value(grid, at, code));
        for other in (0..format.levels()).map(|code| code as u8) {
            let point = format.value(grid, at, other);
            if distance(point) < error {
                return Err(format!(
                    "nearest: {weight} became {code}, {other} is nearer"
                ));
            }
            if point.is_finite() && format.value(grid, at, format.code(grid, at, point)) != point {
                return Err(format!("projection: point {point} is not its own code"));
            }
        }
    }
    Ok(())
}

/// What is decided of a block stays when the rest of it is rounded again.
fn decided(format: &dyn Format, grid: &Grid, block: &[f32]) -> Result<(), String> {
    if format.vector() != usize::MAX {
        return Ok(());
    }
    let mut codes = vec![0; block.len()];
    for from in (0..block.len()).step_by(format.stride()) {
        let before = codes[..from].to_vec();
        format.round_rest(grid, from, &block[from..], &mut codes);
        if codes[..from] != before {
            return Err(format!(
                "rest: rounding from {from} on changed what was before it"
            ));
        }
    }
    let mut values = vec![0.0; block.len()];
    format.values(grid, 0, &codes, &mut values);
    match values.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(format!("rest: weight {at} became {}", values[at])),
        None => Ok(()),
    }
}

#[test]
fn every_format_keeps_every_contract_on_every_sample() {
    let mut broken = Vec::new();
    for format in all().iter().flat_map(|family| {
        let members = (family.members)();
        assert!(!members.is_empty(), "{} has no members", family.name);
        members
    }) {
        let mut accepted = 0;
        for (sample, weights) in samples::all() {
            match format.check(weights.rows(), weights.cols()) {
                Ok(()) => accepted += 1,
                Err(error) => {
                    // A refusal says who refuses and what would do.
                    let says = error.to_string();
                    assert!(says.contains(&format.name()), "{says}");
                    continue;
                }
            }
            if let Err(what) = broken_contract(format.as_ref(), &weights) {
                broken.push(format!("{} on {sample}: {what}", format.name()));
            }
        }
        assert!(accepted > 0, "no sample fits {}", format.name());
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn names_are_unique_and_formats_share_themselves() {
    let mut names: Vec<String> = all()
        .iter()
        .flat_map(|family| (family.members)())
        .inspect(|format| assert_eq!(format.shared().name(), format.name()))
        .map(|format| format.name())
        .collect();
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn a_range_that_cannot_be_stored_is_an_error_not_an_infinity() -> Result<()> {
    let mut extreme = vec![f32::MAX; 256];
    extreme[0] = f32::MIN;
    let weights = Matrix::new(1, 256, extreme)?;
    for format in all().iter().flat_map(|family| (family.members)()) {
        let says = match rounded_back(&weights, &format) {
            Ok(decoded) => {
                assert!(decoded.data().iter().all(|w| w.is_finite()));
                continue;
            }
            Err(error) => error.to_string(),
        };
        assert!(says.contains(&format.name()), "{}: {says}", format.name());
    }
    let error = IntAffine::new(8, Granularity::Tensor)
        .and_then(|format| format.fit(&Whole::default(), 0, weights.data()));
    assert!(error.is_err_and(|error| error.to_string().contains("int8-affine-tensor")));
    Ok(())
}

/// What comes back of `weights` rounded to nearest.
fn rounded_back(weights: &Matrix, format: &AnyFormat) -> Result<Matrix> {
    Rtn.quantize(weights, format.as_ref())?.decode()
}

/// Bugs that real quantizers have shipped, on top of a sound format.
#[derive(Debug, Clone, Copy)]
enum Bug {
    /// z = ⌊−min/s⌋ instead of the nearest integer.
    ZeroPointFloored,
    /// s = range / 2ᵇ instead of range / (2ᵇ − 1).
    StepsOffByOne,
    /// Codes truncated toward zero instead of rounded.
    CodesTruncated,
    /// The grid used for encoding has an f32 scale, the stored one an f16.
    ScaleRoundedOnlyWhenStored,
    /// Range min … max without zero, zero-point clamped into the codes: wrong for blocks of one sign.
    RangeWithoutZero,
    /// Zero-points are stored but not counted.
    ZeroPointsNotCounted,
    /// The rest of a block, rounded again, is written to its beginning.
    RestAtTheBeginning,
}

#[derive(Debug, Clone, Copy)]
struct Planted(IntAffine, Bug);

impl Format for Planted {
    fn name(&self) -> String {
        format!("{} with {:?}", self.0.name(), self.1)
    }
    fn granularity(&self) -> Granularity {
        self.0.granularity()
    }
    fn code_bits(&self) -> u32 {
        self.0.code_bits()
    }
    fn vector(&self) -> usize {
        match self.1 {
            Bug::RestAtTheBeginning => usize::MAX,
            _ => 1,
        }
    }
    fn stride(&self) -> usize {
        2
    }
    fn round_rest(&self, grid: &Grid, _from: usize, rest: &[f32], codes: &mut [u8]) {
        self.round(grid, 0, rest, &mut codes[..rest.len()]);
    }
    fn fit(&self, whole: &Whole, index: usize, block: &[f32]) -> Result<Grid> {
        let Grid(mut params) = self.0.fit(whole, index, block)?;
        let steps = (self.levels() - 1) as f32;
        let lo = block.iter().fold(0f32, |lo, &w| lo.min(w));
        let (least, most) = block
            .iter()
            .fold((f32::MAX, f32::MIN), |(lo, hi), &w| (lo.min(w), hi.max(w)));
        match self.1 {
            Bug::ZeroPointFloored if params[0] > 0.0 => {
                params[1] = (-lo / params[0]).floor().min(steps)
            }
            Bug::StepsOffByOne => params[0] *= steps / (steps + 1.0),
            Bug::ScaleRoundedOnlyWhenStored => params[0] *= 1.0 + 1e-4,
            Bug::RangeWithoutZero if most > least => {
                params[0] = f16::from_f32((most - least) / steps)
                    .to_f32()
                    .max(f16::MIN_POSITIVE.to_f32());
                params[1] = (-least / params[0]).round().clamp(0.0, steps);
            }
            _ => {}
        }
        Ok(Grid(params))
    }
    fn round(&self, grid: &Grid, at: usize, weights: &[f32], codes: &mut [u8]) {
        match self.1 {
            Bug::CodesTruncated if grid.0[0] > 0.0 => {
                for (weight, code) in weights.iter().zip(codes) {
                    *code = ((weight / grid.0[0]).trunc() + grid.0[1])
                        .clamp(0.0, (self.levels() - 1) as f32) as u8;
                }
            }
            _ => self.0.round(grid, at, weights, codes),
        }
    }
    fn values(&self, grid: &Grid, at: usize, codes: &[u8], weights: &mut [f32]) {
        self.0.values(grid, at, codes, weights);
    }
    fn max_error(&self, grid: &Grid, block: &[f32]) -> f64 {
        self.0.max_error(grid, block)
    }
    fn grid_bits(&self) -> usize {
        match self.1 {
            Bug::ZeroPointsNotCounted => 16,
            _ => self.0.grid_bits(),
        }
    }
    fn store(&self, grid: &Grid, codes: &[u8], to: &mut Store) {
        self.0.store(grid, codes, to);
    }
    fn load(&self, whole: &Whole, index: usize, from: &mut Load<'_>, codes: &mut [u8]) -> Grid {
        self.0.load(whole, index, from, codes)
    }
    fn shared(&self) -> AnyFormat {
        AnyFormat::new(*self)
    }
}

#[test]
fn planted_bugs_are_caught_at_every_width() -> Result<()> {
    for (bug, contract) in [
        (Bug::ZeroPointFloored, "bounded"),
        (Bug::StepsOffByOne, "bounded"),
        (Bug::CodesTruncated, "bounded"),
        (Bug::ScaleRoundedOnlyWhenStored, "lossless packing"),
        (Bug::RangeWithoutZero, "bounded"),
        (Bug::ZeroPointsNotCounted, "honest size"),
        (Bug::RestAtTheBeginning, "rest"),
    ] {
        for bits in 2..=8 {
            let planted = Planted(IntAffine::new(bits, Granularity::Channel)?, bug);
            let caught: Vec<String> = samples::all()
                .iter()
                .filter_map(|(_, weights)| broken_contract(&planted, weights).err())
                .collect();
            assert!(
                caught.iter().any(|broken| broken.starts_with(contract)),
                "{}: {caught:?}",
                planted.name()
            );
        }
    }
    Ok(())
}
