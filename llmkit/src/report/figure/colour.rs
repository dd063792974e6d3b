//! Colours that are told apart by everyone, also in grey.

/// Red, green, blue.
pub(super) type Rgb = [u8; 3];

pub(super) const BLACK: Rgb = [0, 0, 0];
pub(super) const WHITE: Rgb = [255, 255, 255];
/// Spines and ticks.
pub(super) const SPINE: Rgb = [60, 60, 60];
/// Reference lines and their words.
pub(super) const QUIET: Rgb = [95, 95, 95];
/// Lines behind the data.
pub(super) const GRID: Rgb = [228, 228, 228];

/// Okabe and Ito's palette (jfly.uni-koeln.de/color, 2008) without its yellow, which vanishes on paper; the first
/// three also differ in grey; markers, dashes and hatching tell the others apart there.
const SERIES: [Rgb; 7] = [
    [0, 114, 178],
    [230, 159, 0],
    [0, 158, 115],
    [213, 94, 0],
    [86, 180, 233],
    [0, 0, 0],
    [204, 121, 167],
];

/// Colour of the `index`-th series.
pub(super) fn series(index: usize) -> Rgb {
    SERIES[index % SERIES.len()]
}

/// Cividis: from dark blue through grey to yellow, even in grey and to colour-blind eyes; nine stops of the map by Nuñez, Anderton and Renslow (PLOS ONE 2018).
const SEQUENTIAL: [Rgb; 9] = [
    [0, 32, 76],
    [0, 48, 111],
    [57, 72, 107],
    [87, 93, 109],
    [112, 113, 115],
    [138, 134, 120],
    [166, 157, 117],
    [196, 181, 108],
    [255, 233, 69],
];

/// Blue – white – red, stops of Moreland's and ColorBrewer's RdBu family.
const DIVERGING: [Rgb; 9] = [
    [5, 48, 97],
    [33, 102, 172],
    [67, 147, 195],
    [146, 197, 222],
    [247, 247, 247],
    [244, 165, 130],
    [214, 96, 77],
    [178, 24, 43],
    [103, 0, 31],
];

/// Colour at `share` (0…1) of a map; NaN is light grey.
pub(super) fn mapped(is_diverging: bool, share: f64) -> Rgb {
    if !share.is_finite() {
        return [214, 214, 214];
    }
    let stops = if is_diverging {
        &DIVERGING
    } else {
        &SEQUENTIAL
    };
    // 64 steps: finer is not seen, and equal neighbours can be drawn as one.
    let share = (share.clamp(0.0, 1.0) * 63.0).round() / 63.0;
    let place = share * (stops.len() - 1) as f64;
    let below = (place as usize).min(stops.len() - 2);
    let part = place - below as f64;
    std::array::from_fn(|i| {
        let (from, to) = (f64::from(stops[below][i]), f64::from(stops[below + 1][i]));
        (from + (to - from) * part).round() as u8
    })
}

/// A colour thinned with white: 1 = itself, 0 = white.
pub(super) fn tint(colour: Rgb, strength: f64) -> Rgb {
    colour.map(|part| (255.0 - (255.0 - f64::from(part)) * strength).round() as u8)
}

/// Brightness as the eye sees it, 0…1 (Rec. 709 weights on gamma-coded values).
pub(super) fn brightness([red, green, blue]: Rgb) -> f64 {
    (0.2126 * f64::from(red) + 0.7152 * f64::from(green) + 0.0722 * f64::from(blue)) / 255.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequential_colours_brighten_steadily() {
        let brights: Vec<f64> = (0..64)
            .map(|i| brightness(mapped(false, f64::from(i) / 63.0)))
            .collect();
        assert!(brights.windows(2).all(|pair| pair[1] > pair[0]));
    }

    #[test]
    fn neighbours_differ_in_grey() {
        for pair in SERIES[..3].windows(2) {
            assert!(
                (brightness(pair[0]) - brightness(pair[1])).abs() > 0.06,
                "{pair:?}"
            );
        }
    }

    #[test]
    fn missing_cells_have_a_colour() {
        assert_eq!(mapped(true, f64::NAN), [214, 214, 214]);
        assert_eq!(mapped(true, 7.0), DIVERGING[8]);
        assert_eq!(tint(BLACK, 0.0), WHITE);
    }
}
