//! The searches for scales of sub-blocks that k-quants share. f32 in the order of ggml's own code, on purpose: another
//! order of summation picks another scale now and then.

/// Blocks whose greatest magnitude is below this count as zero.
pub(super) const LEAST: f32 = 1e-15;

/// Nearest integer, ties to even, by adding 1.5·2²³: right for |x| < 2²², wrapped beyond as ggml wraps it.
pub(super) fn nearest_int(x: f32) -> i32 {
    (((x + 12_582_912.0).to_bits() & 0x007f_ffff) as i32) - 0x0040_0000
}

/// The weight of greatest magnitude, the first of equals, and that magnitude.
fn extreme(x: &[f32]) -> (f32, f32) {
    x.iter().fold((0f32, 0f32), |(max, greatest), &x| {
        if x.abs() > greatest {
            (x, x.abs())
        } else {
            (max, greatest)
        }
    })
}

/// Scale and codes (from 0) for codes −`half` … `half` − 1: twenty scales near m/−half, the least-squares scale for the
/// codes of each with `weights`, or x² if there are none. (`make_qx_quants`, kind 1.)
pub(super) fn symmetric(x: &[f32], weights: Option<&[f32]>, half: i32, codes: &mut [u8]) -> f32 {
    let (max, greatest) = extreme(x);
    if greatest < LEAST {
        codes.fill(0);
        return 0.0;
    }
    let code = |inverse: f32, x: f32| nearest_int(inverse * x).clamp(-half, half - 1);
    let write = |inverse: f32, codes: &mut [u8]| {
        for (&x, to) in x.iter().zip(codes) {
            *to = (code(inverse, x) + half) as u8;
        }
    };
    let sums = |inverse: f32| {
        x.iter()
            .enumerate()
            .fold((0f32, 0f32), |(lx, l2), (i, &x)| {
                let w = weights.map_or(x * x, |weights| weights[i]);
                let l = code(inverse, x) as f32;
                (lx + w * x * l, l2 + w * l * l)
            })
    };
    let first = -(half as f32) / max;
    write(first, codes);
    let (lx, l2) = sums(first);
    let mut scale = if l2 != 0.0 { lx / l2 } else { 0.0 };
    let mut best = scale * lx;
    for i in (-9..=9).filter(|&i| i != 0) {
        let inverse = -(half as f32 + 0.1 * i as f32) / max;
        let (lx, l2) = sums(inverse);
        if l2 > 0.0 && lx * lx > best * l2 {
            write(inverse, codes);
            scale = lx / l2;
            best = scale * lx;
        }
    }
    scale
}

/// Scale and codes (from 0) for codes −`half` … `half` − 1: codes are improved one by one while the least-squares fit with
/// weights x² gains, at most five rounds. (`make_q3_quants` with `do_rmse`.)
pub(super) fn improved(x: &[f32], half: i32, codes: &mut [u8]) -> f32 {
    let (max, greatest) = extreme(x);
    if greatest < LEAST {
        codes.fill(0);
        return 0.0;
    }
    let inverse = -(half as f32) / max;
    let clamp = |l: i32| l.clamp(-half, half - 1);
    let mut best: Vec<i32> = x.iter().map(|&x| clamp(nearest_int(inverse * x))).collect();
    let (mut sum_lx, mut sum_l2) = (0f32, 0f32);
    for (&x, &l) in x.iter().zip(&best) {
        let (w, l) = (x * x, l as f32);
        sum_lx += w * x * l;
        sum_l2 += w * l * l;
    }
    for _ in 0..5 {
        let mut has_changed = false;
        for (&x, best) in x.iter().zip(&mut best) {
            let (w, l) = (x * x, *best as f32);
            let mut lx = sum_lx - w * x * l;
            if lx > 0.0 {
                let mut l2 = sum_l2 - w * l * l;
                let new = clamp(nearest_int(x * l2 / lx));
                if new != *best {
                    lx += w * x * new as f32;
                    l2 += w * new as f32 * new as f32;
                    if l2 > 0.0 && lx * lx * sum_l2 > sum_lx * sum_lx * l2 {
                        (*best, sum_lx, sum_l2) = (new, lx, l2);
                        has_changed = true;
                    }
                }
            }
        }
        if !has_changed {
            break;
        }
    }
    for (to, l) in codes.iter_mut().zip(best) {
        *to = (l + half) as u8;
    }
    if sum_l2 > 0.0 { sum_lx / sum_l2 } else { 0.0 }
}

/// What [`affine`] tries.
pub(super) struct Tries {
    /// Greatest code.
    pub last: u8,
    /// The first inverse scale is (last + `from`) / range …
    pub from: f32,
    /// … the others so much more each …
    pub by: f32,
    /// … and so many of them.
    pub steps: u32,
    /// Absolute error instead of squared.
    pub is_absolute: bool,
}

/// Scale, minimum (taken off, so not negative) and codes for codes 0 … last: for each inverse scale tried, the codes
/// and the least-squares line through them with `weights`; the least weighted error counts. (`make_qkx2_quants`,
/// and `make_qkx3_quants`.)
pub(super) fn affine(x: &[f32], weights: &[f32], tries: &Tries, codes: &mut [u8]) -> (f32, f32) {
    let last = i32::from(tries.last);
    let (mut min, mut max) = (x[0], x[0]);
    let mut sum_w = weights[0];
    let mut sum_x = sum_w * x[0];
    for (&x, &w) in x.iter().zip(weights).skip(1) {
        if x < min {
            min = x;
        }
        if x > max {
            max = x;
        }
        sum_w += w;
        sum_x += w * x;
    }
    if min > 0.0 {
        min = 0.0;
    }
    if max == min {
        codes.fill(0);
        return (0.0, -min);
    }
    let code =
        |inverse: f32, x: f32, min: f32| nearest_int(inverse * (x - min)).clamp(0, last) as u8;
    let error = |scale: f32, min: f32, codes: &[u8]| {
        let mut sum = 0f32;
        for ((&x, &w), &l) in x.iter().zip(weights).zip(codes) {
            let off = scale * f32::from(l) + min - x;
            sum += w * if tries.is_absolute {
                off.abs()
            } else {
                off * off
            };
        }
        sum
    };
    let inverse = last as f32 / (max - min);
    let mut scale = 1.0 / inverse;
    for (&x, to) in x.iter().zip(codes.iter_mut()) {
        *to = code(inverse, x, min);
    }
    let mut best = error(scale, min, codes);
    let mut tried = vec![0; x.len()];
    for step in 0..=tries.steps {
        // From the minimum that is best so far, not from the least weight.
        let inverse = (tries.from + tries.by * step as f32 + last as f32) / (max - min);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0f32, 0f32, 0f32);
        for ((&x, &w), to) in x.iter().zip(weights).zip(&mut tried) {
            *to = code(inverse, x, min);
            let l = f32::from(*to);
            sum_l += w * l;
            sum_l2 += w * l * l;
            sum_xl += w * l * x;
        }
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        if determinant > 0.0 {
            let mut this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
            let mut this_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
            if this_min > 0.0 {
                this_min = 0.0;
                this_scale = sum_xl / sum_l2;
            }
            let this_error = error(this_scale, this_min, &tried);
            if this_error < best {
                codes.copy_from_slice(&tried);
                (best, scale, min) = (this_error, this_scale, this_min);
            }
        }
    }
    (scale, -min)
}

/// Scale and codes 0 … `last` for numbers that are not negative: nine scales, the least weighted error counts; then codes are improved one
/// by one while the least-squares fit gains, at most five rounds. (`make_qp_quants`.)
pub(super) fn positive(x: &[f32], weights: &[f32], last: i32, codes: &mut [u8]) -> f32 {
    let max = x.iter().fold(0f32, |max, &x| if x > max { x } else { max });
    if max < LEAST {
        codes.fill(0);
        return 0.0;
    }
    let error = |inverse: f32, cut: bool| {
        let scale = 1.0 / inverse;
        x.iter().zip(weights).fold(0f32, |sum, (&x, &w)| {
            let l = nearest_int(inverse * x);
            let off = x - scale * if cut { l.min(last) } else { l } as f32;
            sum + w * off * off
        })
    };
    let mut inverse = last as f32 / max;
    let mut best = error(inverse, false);
    for i in (-4..=4).filter(|&i| i != 0) {
        let tried = (0.1 * i as f32 + last as f32) / max;
        let this = error(tried, true);
        if this < best {
            (best, inverse) = (this, tried);
        }
    }
    let mut chosen: Vec<i32> = (x.iter())
        .map(|&x| nearest_int(inverse * x).min(last))
        .collect();
    let (mut sum_lx, mut sum_l2) = (0f32, 0f32);
    for ((&x, &w), &l) in x.iter().zip(weights).zip(&chosen) {
        sum_lx += w * x * l as f32;
        sum_l2 += w * l as f32 * l as f32;
    }
    for _ in 0..5 {
        let mut has_changed = false;
        for ((&x, &w), l) in x.iter().zip(weights).zip(&mut chosen) {
            let mut lx = sum_lx - w * x * *l as f32;
            let mut l2 = sum_l2 - w * *l as f32 * *l as f32;
            if lx > 0.0 && l2 > 0.0 {
                let new = nearest_int(x * l2 / lx).min(last);
                if new != *l {
                    lx += w * x * new as f32;
                    l2 += w * new as f32 * new as f32;
                    if lx * lx * sum_l2 > sum_lx * sum_lx * l2 {
                        (*l, sum_lx, sum_l2) = (new, lx, l2);
                        has_changed = true;
                    }
                }
            }
        }
        if !has_changed {
            break;
        }
    }
    for (to, l) in codes.iter_mut().zip(chosen) {
        *to = l as u8;
    }
    if sum_l2 > 0.0 { sum_lx / sum_l2 } else { 0.0 }
}
