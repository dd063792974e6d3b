//! The bundled letters: Libertinus Serif (SIL Open Font Licence), which goes with the Times of most venues and has
//! Greek, superscripts and subscripts.

use std::sync::{Arc, OnceLock};

use plotters::style::{FontDesc, FontFamily, FontStyle, register_font};
use resvg::usvg::{self, fontdb};

/// The family as SVG names it: the bundled font, then what a browser without it has.
pub(super) const FAMILY: &str = "Libertinus Serif, Times New Roman, Times, serif";

/// The name of the bundled font.
pub(super) const NAME: &str = "Libertinus Serif";

/// plotters sizes fonts by an em of 1.24; this makes `font-size` come out as asked.
pub(super) const PLOTTERS_EM: f64 = 1.24;

/// Files wanted from the bundle, by a name inside them: text in two weights, then mathematics and code as fallbacks.
fn bundled() -> [&'static [u8]; 4] {
    let all: Vec<&'static [u8]> = typst_assets::fonts().collect();
    // Order of `typst_assets::fonts`: Regular and Bold lead, NewCMMath-Regular is the ninth, DejaVu Sans Mono last.
    [0, 1, 8, 16].map(|place| all.get(place).copied().unwrap_or_default())
}

/// The font database that text is set from: the bundled fonts and nothing of the machine's.
pub(super) fn database() -> Arc<fontdb::Database> {
    static DATABASE: OnceLock<Arc<fontdb::Database>> = OnceLock::new();
    DATABASE
        .get_or_init(|| {
            let mut database = fontdb::Database::new();
            for font in bundled() {
                database.load_font_source(fontdb::Source::Binary(Arc::new(font)));
            }
            database.set_serif_family(NAME);
            Arc::new(database)
        })
        .clone()
}

/// Settings under which our SVG is read.
pub(super) fn options() -> usvg::Options<'static> {
    usvg::Options {
        font_family: NAME.into(),
        fontdb: database(),
        ..usvg::Options::default()
    }
}

/// Width of `text` set at `size`, in the units of `size`.
pub(super) fn width(text: &str, size: f64, is_bold: bool) -> f64 {
    // Measured large, since plotters rounds to whole units.
    measured(text, is_bold) * calibration() * size / MEASURED_AT
}

const MEASURED_AT: f64 = 1000.0;

fn measured(text: &str, is_bold: bool) -> f64 {
    static REGISTERED: OnceLock<()> = OnceLock::new();
    REGISTERED.get_or_init(|| {
        let [regular, bold, ..] = bundled();
        // A font that does not parse leaves the estimate below.
        let _ = register_font(FAMILY, FontStyle::Normal, regular);
        let _ = register_font(FAMILY, FontStyle::Bold, bold);
    });
    let style = if is_bold {
        FontStyle::Bold
    } else {
        FontStyle::Normal
    };
    FontDesc::new(FontFamily::Name(FAMILY), MEASURED_AT, style)
        .box_size(text)
        .map_or(text.chars().count() as f64 * 500.0, |(width, _)| {
            f64::from(width)
        })
}

/// plotters scales a font by its height, SVG by its em: one line set both ways gives the ratio.
fn calibration() -> f64 {
    static RATIO: OnceLock<f64> = OnceLock::new();
    *RATIO.get_or_init(|| {
        let line = "Hamburgefonstiv 0123456789";
        let svg = format!(
            "<svg xmlns='http://www.w3.org/2000/svg' width='20000' height='2000'>\
             <text y='1000' font-family='{NAME}' font-size='{MEASURED_AT}'>{line}</text></svg>"
        );
        let set = usvg::Tree::from_str(&svg, &options())
            .map_or(0.0, |tree| f64::from(tree.root().bounding_box().width()));
        if set > 0.0 {
            set / measured(line, false)
        } else {
            0.9
        }
    })
}

/// `text`, or as much of it as fits into `room` with an ellipsis.
pub(super) fn fit(text: &str, size: f64, is_bold: bool, room: f64) -> String {
    if width(text, size, is_bold) <= room {
        return text.to_owned();
    }
    let mut letters: Vec<char> = text.chars().take(400).collect();
    while letters.pop().is_some() {
        let shorter: String = letters.iter().collect::<String>().trim_end().to_owned() + "…";
        if width(&shorter, size, is_bold) <= room {
            return shorter;
        }
    }
    "…".into()
}

/// `text` in at most `lines` lines no wider than `room`, broken at spaces; the last is cut if it must be.
pub(super) fn wrap(text: &str, size: f64, is_bold: bool, room: f64, lines: usize) -> Vec<String> {
    let mut wrapped: Vec<String> = Vec::new();
    let mut words = text.split_whitespace().peekable();
    while words.peek().is_some() && wrapped.len() + 1 < lines {
        let mut line = String::new();
        while let Some(word) = words.peek() {
            let longer = if line.is_empty() {
                (*word).to_owned()
            } else {
                format!("{line} {word}")
            };
            if !line.is_empty() && width(&longer, size, is_bold) > room {
                break;
            }
            line = longer;
            words.next();
        }
        wrapped.push(fit(&line, size, is_bold, room));
    }
    let rest = words.collect::<Vec<_>>().join(" ");
    if !rest.is_empty() {
        wrapped.push(fit(&rest, size, is_bold, room));
    }
    wrapped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_agree_with_what_is_drawn() {
        for (text, is_bold) in [
            ("prompt length (tokens)", false),
            ("10⁻³ ‖W − Ŵ‖₂ / σ", false),
            ("WWWiii", true),
        ] {
            let weight = if is_bold { "bold" } else { "normal" };
            let svg = format!(
                "<svg xmlns='http://www.w3.org/2000/svg' width='9000' height='900'>\
                 <text y='500' font-family='{NAME}' font-weight='{weight}' font-size='100'>{text}</text></svg>"
            );
            let tree = usvg::Tree::from_str(&svg, &options()).unwrap();
            let drawn = f64::from(tree.root().bounding_box().width());
            let told = width(text, 100.0, is_bold);
            assert!(
                (told / drawn - 1.0).abs() < 0.06,
                "{text}: {told} against {drawn}"
            );
        }
    }

    #[test]
    fn the_bundle_is_in_the_order_we_count_on() {
        let families: Vec<String> = database()
            .faces()
            .map(|face| format!("{} {}", face.families[0].0, face.weight.0))
            .collect();
        assert_eq!(
            families[..2],
            ["Libertinus Serif 400", "Libertinus Serif 700"]
        );
        assert!(
            families[2].starts_with("NewComputerModern Math 4"),
            "{families:?}"
        );
        assert_eq!(families[3], "DejaVu Sans Mono 400");
    }

    #[test]
    fn long_text_is_cut_or_wrapped() {
        let room = width("a fairly short", 100.0, false);
        let cut = fit("a fairly short line and then some", 100.0, false, room);
        assert!(cut.ends_with('…') && width(&cut, 100.0, false) <= room);
        let lines = wrap("a fairly short line and then some", 100.0, false, room, 3);
        assert!(lines.len() <= 3 && lines.iter().all(|line| width(line, 100.0, false) <= room));
        assert!(wrap("", 100.0, false, room, 2).is_empty());
        assert_eq!(fit("abc", 100.0, false, 0.0), "…");
    }
}
