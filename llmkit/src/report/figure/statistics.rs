//! Small summaries that figures draw: bins, quartiles, and series thinned to what paper can show.

use super::spec::{Scale, Stat};
use super::values::Num;

/// Points kept of one series; more than any page can show.
pub(super) const MAX_POINTS: usize = 20_000;

/// Cells kept along each side of a heat map.
pub(super) const MAX_CELLS: usize = 96;

/// Equal bins over the finite values (by decades or octaves on a logarithmic scale, where only positive values
/// count): edges and counts. Nothing finite gives no bins.
pub(super) fn histogram(values: &[f64], bins: usize, scale: &Scale) -> (Vec<f64>, Vec<f64>) {
    let is_log = matches!(scale, Scale::Log(_));
    let usable = |value: &&f64| value.is_finite() && (!is_log || **value > 0.0);
    let forward = |value: f64| if is_log { value.ln() } else { value };
    let back = |value: f64| if is_log { value.exp() } else { value };
    let (low, high) = values
        .iter()
        .filter(usable)
        .map(|&value| forward(value))
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
            (low.min(value), high.max(value))
        });
    if low > high || bins == 0 {
        return (Vec::new(), Vec::new());
    }
    // All values equal: one unit (or 10 %) around them, so that the bin has a width.
    let (low, high) = if high - low <= low.abs().max(high.abs()) * 1e-12 {
        let half = (low.abs() * 0.05).max(0.5);
        (low - half, high + half)
    } else {
        (low, high)
    };
    let step = high / bins as f64 - low / bins as f64;
    let mut counts = vec![0.0; bins];
    for &value in values.iter().filter(usable) {
        let bin = (forward(value) / step - low / step) as usize;
        counts[bin.min(bins - 1)] += 1.0;
    }
    let edges = (0..=bins)
        .map(|bin| back(low + step * bin as f64))
        .collect();
    (edges, counts)
}

/// The box of a sample; `None` if nothing in it is finite. Quartiles by linear interpolation (type 7, as NumPy's).
pub(super) fn boxed(values: &[f64], category: usize) -> Option<Stat> {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let (&first, &last) = (sorted.first()?, sorted.last()?);
    let quantile = |share: f64| {
        let place = share * (sorted.len() - 1) as f64;
        let (below, part) = (place.floor() as usize, place.fract());
        let above = (below + 1).min(sorted.len() - 1);
        sorted[below] * (1.0 - part) + sorted[above] * part
    };
    let (q1, q2, q3) = (quantile(0.25), quantile(0.5), quantile(0.75));
    let reach = 1.5 * (q3 - q1);
    let inside = |value: &&f64| **value >= q1 - reach && **value <= q3 + reach;
    let low = sorted.iter().find(inside).copied().unwrap_or(first).min(q1);
    let high = sorted
        .iter()
        .rev()
        .find(inside)
        .copied()
        .unwrap_or(last)
        .max(q3);
    let outliers: Vec<Num> = sorted
        .iter()
        .filter(|value| !inside(value))
        .map(|&value| Num::new(value))
        .collect();
    let kept = every_nth(outliers.len(), 500);
    Some(Stat {
        category,
        five: [low, q1, q2, q3, high].map(Num::new),
        outliers: kept.map(|i| outliers[i]).collect(),
    })
}

/// Indices of the points of a long line that keep its outline: ends and extremes of each stretch, in order.
pub(super) fn outline(y: &[f64], limit: usize) -> Vec<usize> {
    if y.len() <= limit {
        return (0..y.len()).collect();
    }
    let stretches = (limit / 4).max(1);
    let mut kept = Vec::with_capacity(limit);
    for stretch in 0..stretches {
        let range = stretch * y.len() / stretches..(stretch + 1) * y.len() / stretches;
        if range.is_empty() {
            continue;
        }
        let mut four = [range.start, range.start, range.start, range.end - 1];
        for i in range {
            // A NaN loses every comparison unless it is the first; then anything beats it.
            if y[i] < y[four[1]] || y[four[1]].is_nan() {
                four[1] = i;
            }
            if y[i] > y[four[2]] || y[four[2]].is_nan() {
                four[2] = i;
            }
        }
        four.sort_unstable();
        kept.extend(four);
    }
    kept.dedup();
    kept
}

/// At most `limit` indices evenly spread over `0..length`.
pub(super) fn every_nth(length: usize, limit: usize) -> impl Iterator<Item = usize> {
    (0..length).step_by(length.div_ceil(limit.max(1)).max(1))
}

/// A matrix of `columns` columns reduced to at most [`MAX_CELLS`] a side by averaging the finite values of each
/// block: (columns, values). A block without finite values is NaN.
pub(super) fn block_means(values: &[f64], columns: usize) -> (usize, Vec<f64>) {
    let rows = values.len() / columns.max(1);
    let (small_rows, small_columns) = (rows.min(MAX_CELLS), columns.min(MAX_CELLS));
    if (small_rows, small_columns) == (rows, columns) {
        return (columns, values.to_vec());
    }
    let mut means = Vec::with_capacity(small_rows * small_columns);
    for row in 0..small_rows {
        for column in 0..small_columns {
            let (mut sum, mut count) = (0.0, 0.0);
            for i in row * rows / small_rows..(row + 1) * rows / small_rows {
                let across =
                    column * columns / small_columns..(column + 1) * columns / small_columns;
                for &value in &values[i * columns..][across] {
                    if value.is_finite() {
                        sum += value;
                        count += 1.0;
                    }
                }
            }
            means.push(if count > 0.0 { sum / count } else { f64::NAN });
        }
    }
    (small_columns, means)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_hold_every_finite_value() {
        let values = [0.0, 1.0, 1.0, 2.0, f64::NAN, f64::INFINITY];
        let (edges, counts) = histogram(&values, 2, &Scale::Linear);
        assert_eq!(edges, [0.0, 1.0, 2.0]);
        assert_eq!(counts, [1.0, 3.0]);
        assert!(histogram(&[f64::NAN], 4, &Scale::Linear).0.is_empty());
        let (edges, counts) = histogram(&[7.0; 9], 4, &Scale::Linear);
        assert!(edges[0] < 7.0 && edges[4] > 7.0);
        assert_eq!(counts.iter().sum::<f64>(), 9.0);
        let (_, counts) = histogram(&[f64::MAX, -f64::MAX], 4, &Scale::Linear);
        assert_eq!(counts.iter().sum::<f64>(), 2.0);
        let (edges, counts) = histogram(&[-1.0, 1.0, 100.0], 2, &Scale::Log(10));
        assert!((edges[1] - 10.0).abs() < 1e-9);
        assert_eq!(counts, [1.0, 1.0]);
    }

    #[test]
    fn quartiles_and_outliers() {
        let mut values: Vec<f64> = (1..=9).map(f64::from).collect();
        values.push(100.0);
        let stat = boxed(&values, 0).unwrap();
        assert_eq!(stat.five.map(Num::get), [1.0, 3.25, 5.5, 7.75, 9.0]);
        assert_eq!(stat.outliers, [Num::new(100.0)]);
        assert_eq!(boxed(&[3.0], 0).unwrap().five, [Num::new(3.0); 5]);
        assert!(boxed(&[f64::NAN], 0).is_none());
    }

    #[test]
    fn an_outline_keeps_the_spike() {
        let mut y = vec![0.0; 100_000];
        y[54_321] = 9.0;
        let kept = outline(&y, 1000);
        assert!(kept.len() <= 1000 && kept.contains(&54_321));
        assert!(kept.is_sorted() && kept[0] == 0 && *kept.last().unwrap() == 99_999);
    }

    #[test]
    fn block_means_keep_the_mean() {
        let values: Vec<f64> = (0..192 * 192).map(|i| (i % 7) as f64).collect();
        let (columns, means) = block_means(&values, 192);
        assert_eq!((columns, means.len()), (96, 96 * 96));
        let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
        assert!((mean(&values) - mean(&means)).abs() < 1e-9);
    }
}
