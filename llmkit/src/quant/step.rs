//! What the integer formats share: the width of a code and the step between two points.

use half::f16;

use crate::{Error, Result};

/// The widths the integer formats offer.
pub(super) const WIDTHS: std::ops::RangeInclusive<u32> = 2..=8;

/// Refuses a width outside [`WIDTHS`].
pub(super) fn check_bits(bits: u32) -> Result<u32> {
    if WIDTHS.contains(&bits) {
        Ok(bits)
    } else {
        Err(Error::argument("bits", "2 … 8", bits))
    }
}

/// The largest f16 that is at most `step` (which is not negative).
///
/// Toward zero, not to nearest: a step that is never too long makes the ends of a block land on the ends of its
/// grid, so that fitting a grid to decoded weights gives the same grid back. The price is [`clipped`]. The name of the `format` is for messages.
pub(super) fn storable(step: f64, format: impl FnOnce() -> String) -> Result<f32> {
    if step > f64::from(f16::MAX) {
        let largest = format!("at most {} (the largest f16)", f16::MAX);
        return Err(Error::argument(
            format!("scale of {}", format()),
            largest,
            format!("{step:e}"),
        ));
    }
    let nearest = f16::from_f64(step);
    let below = if nearest.to_f64() > step {
        f16::from_bits(nearest.to_bits() - 1)
    } else {
        nearest
    };
    Ok(below.to_f32())
}

/// How far beyond the last point a block can reach because its step was cut to f16: `steps` times the gap between
/// the step and the next f16, which is 2⁻¹⁰ of it or 2⁻²⁴, whichever is more.
pub(super) fn clipped(scale: f32, steps: u32) -> f64 {
    let gap = (f64::from(scale) * 2f64.powi(-10)).max(2f64.powi(-24));
    f64::from(steps) * gap
}

/// f32 scales below this are stored as zero: what they multiply would leave f32's normal range.
pub(super) const LEAST_F32_SCALE: f64 = 7.888_609_052_210_118e-31; // 2⁻¹⁰⁰

/// The largest f32 of at most `bits` significant bits that is at most `scale` (which is not negative); zero below
/// [`LEAST_F32_SCALE`].
///
/// Toward zero for the reason of [`storable`], and short so that a product with a code of 24 − `bits` significant
/// bits is exact.
pub(super) fn cut_f32(scale: f64, bits: u32) -> f32 {
    if scale < LEAST_F32_SCALE {
        return 0.0;
    }
    // An f64 has 53 significant bits; those below `bits` are cleared.
    f64::from_bits(scale.to_bits() & (u64::MAX << (53 - bits))) as f32
}

/// The nearest whole number, ties away from zero, for |x| < 2³¹: as `f64::round`, without a call.
#[inline]
pub(super) fn nearest(x: f64) -> i32 {
    // The number below 1/2: with 1/2 itself, what is just below a tie would be rounded up by the addition.
    (x + 0.499_999_999_999_999_94_f64.copysign(x)) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_is_round() {
        let ties = (-600..600).map(|it| f64::from(it) / 2.0);
        for x in ties.flat_map(|it| [it.next_down(), it, it.next_up(), it + 0.3]) {
            assert_eq!(f64::from(nearest(x)), x.round(), "{x}");
        }
        assert_eq!(nearest(2e9 + 0.5), 2_000_000_001);
    }

    #[test]
    fn a_step_is_cut_never_stretched() -> Result<()> {
        for step in [
            0.0,
            1e-9,
            5.9e-8,
            6.1e-5,
            1e-3,
            0.1,
            1.0,
            1.0 / 3.0,
            60_001.7,
            65_504.0,
        ] {
            let stored = storable(step, || "test".to_owned())?;
            assert_eq!(f16::from_f32(stored).to_f32(), stored, "an f16");
            let (below, above) = (f64::from(stored), f64::from(stored) + clipped(stored, 1));
            assert!(
                below <= step && step <= above,
                "{below} <= {step} <= {above}"
            );
        }
        for scale in [1e-30, 0.1, 1.0 / 3.0, 7.3e35] {
            let stored = f64::from(cut_f32(scale, 17));
            assert!(stored <= scale && scale <= stored * (1.0 + 2f64.powi(-16)));
            assert_eq!(f64::from((stored * 127.0) as f32), stored * 127.0, "exact");
        }
        assert_eq!((cut_f32(0.0, 20), cut_f32(7e-31, 20)), (0.0, 0.0));
        let error = storable(65_505.0, || "int8".to_owned())
            .unwrap_err()
            .to_string();
        assert!(error.contains("int8") && error.contains("65504"), "{error}");
        Ok(())
    }
}
