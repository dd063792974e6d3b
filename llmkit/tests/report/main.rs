//! Figures through the public API: every kind drawn, the same bytes twice, bad data refused by name.
#![cfg(feature = "notebook")]

mod saving;

use llmkit::report::{Axis, Colours, Figure, Legend, Reference, Venue};

/// One figure of every kind.
fn every_kind() -> Vec<(&'static str, Figure)> {
    let x = [1.0, 2.0, 4.0, 8.0];
    let y = [3.0, 1.0, 0.5, 0.01];
    let many: Vec<f64> = (0..400).map(|i| f64::from(i * 37 % 101) - 50.0).collect();
    let line = || {
        Figure::new("Error ‖W − Ŵ‖ <β>")
            .x(Axis::log2("group size"))
            .y(Axis::log("error (dB)"))
            .line("GPTQ & co", &x, &y)
            .line("RTN", &x, &[4.0, 2.0, 1.0, 0.5])
    };
    vec![
        (
            "line",
            line().reference_line(Reference::power(-1.0, 4.0), "∝ g⁻¹"),
        ),
        ("outside", line().legend(Legend::Outside)),
        ("above", line().legend(Legend::Above).venue(Venue::Neurips)),
        (
            "scatter",
            Figure::new("")
                .scatter("a", &many, &many)
                .annotate("here", 0.0, 0.0),
        ),
        (
            "bars",
            Figure::new("")
                .x(Axis::categories(
                    "format",
                    ["int4", "nf4", "mxfp4 with a rather long name"],
                ))
                .bar("speed", &[1.0, -2.0, 3.0])
                .bar_with_errors("size", &[2.0, 2.0, 2.0], &[0.1, 0.2, 5.0]),
        ),
        (
            "intervals",
            Figure::new("")
                .y(Axis::symlog("y", 0.1))
                .error_bars("e", &x, &y, &[-9.0, 0.5, 0.1, 0.0], &[99.0, 2.0, 1.0, 0.2])
                .band("b", &x, &[1.0, 1.0, 1.0, 1.0], &[2.0, 3.0, 2.0, 3.0]),
        ),
        (
            "histogram",
            Figure::new("")
                .histogram("w", &many, 20)
                .density("v", &many, 10),
        ),
        (
            "heat",
            Figure::new("").heat_map("weight", 20, &many, Colours::Diverging),
        ),
        (
            "boxes",
            Figure::new("")
                .box_plot("a", &many)
                .box_plot("b", &[1.0])
                .box_plot_of("n", "b", &x),
        ),
        (
            "gantt",
            Figure::new("")
                .task("gpu 0", "prefill", 0.0, 3.0)
                .task("gpu 1", "decode", 3.0, 9.0),
        ),
        (
            "panels",
            Figure::panels("both", 2, [line(), line(), line()]).shared_axes(),
        ),
    ]
}

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn count(haystack: &[u8], needle: &[u8]) -> usize {
    haystack
        .windows(needle.len())
        .filter(|window| window == &needle)
        .count()
}

#[test]
fn every_kind_is_drawn_and_survives_json() {
    for (kind, figure) in every_kind() {
        let rendered = figure
            .render()
            .unwrap_or_else(|error| panic!("{kind}: {error}"));
        let again = Figure::from_json(&figure.to_json().unwrap()).unwrap();
        assert_eq!(again, figure, "{kind}");
        let second = again.render().unwrap();
        assert_eq!(second.svg(), rendered.svg(), "{kind}");
        assert_eq!(
            second.pdf(false).unwrap(),
            rendered.pdf(false).unwrap(),
            "{kind}"
        );
        assert_eq!(second.png().unwrap(), rendered.png().unwrap(), "{kind}");
        let outlined = rendered.outlined_svg(2.0).unwrap();
        assert!(
            !outlined.contains("<text") && outlined.contains("<path"),
            "{kind}"
        );
        assert!(
            !rendered.svg().contains("NaN") && !rendered.svg().contains("inf"),
            "{kind}"
        );
        assert!(
            figure
                .to_csv()
                .unwrap()
                .iter()
                .filter(|&&byte| byte == b'\n')
                .count()
                > 1,
            "{kind}"
        );
    }
}

#[test]
fn text_is_escaped_and_powers_are_superscripts() {
    let svg = every_kind()[0].1.to_svg().unwrap();
    assert!(svg.contains("&lt;β&gt;") && svg.contains("GPTQ &amp; co"));
    assert!(svg.contains("10⁻¹") && svg.contains("2³") && svg.contains("Libertinus Serif"));
}

#[test]
fn pdf_embeds_fonts_or_has_none() {
    let rendered = every_kind()[0].1.render().unwrap();
    let with_fonts = rendered.pdf(false).unwrap();
    assert!(count(&with_fonts, b"/FontFile") >= 2, "regular and bold");
    assert!(count(&with_fonts, b"LibertinusSerif") >= 2);
    let outlined = rendered.pdf(true).unwrap();
    assert_eq!(count(&outlined, b"/Font"), 0);
    for pdf in [&with_fonts, &outlined] {
        assert_eq!(count(pdf, b"CreationDate"), 0);
        assert_eq!(count(pdf, b"/Type/Page/") + count(pdf, b"/Type /Page\n"), 1);
    }
}

#[test]
fn widths_are_the_venues() {
    for venue in Venue::ALL {
        for full_width in [false, true] {
            let mut figure = every_kind().remove(0).1.venue(venue);
            figure.full_width = full_width;
            let rendered = figure.render().unwrap();
            let width = venue.width_inches(full_width);
            assert_eq!(rendered.inches.0, width);
            assert!(rendered.svg().contains(&format!("width=\"{width}in\"")));
            let png = rendered.png().unwrap();
            let pixels = u32::from_be_bytes(png[16..20].try_into().unwrap());
            assert_eq!(pixels, (width * 300.0).round() as u32);
            let dots = png.windows(4).position(|window| window == b"pHYs").unwrap();
            assert_eq!(
                u32::from_be_bytes(png[dots + 4..dots + 8].try_into().unwrap()),
                11_811
            );
            assert!(venue.font_points() - 1.0 >= 6.0);
        }
    }
}

#[test]
fn bad_data_is_refused_by_name() {
    let base = || Figure::new("t");
    let no_floats: [f64; 0] = [];
    for (figure, words) in [
        (
            base().line("GPTQ", &[1.0, 2.0], &[1.0]),
            &["GPTQ", "2 x", "1 y"][..],
        ),
        (
            base()
                .y(Axis::log("e"))
                .line("RTN", &[1.0, 2.0], &[3.0, -1.5]),
            &["RTN", "-1.5", "index 1", "logarithmic"],
        ),
        (
            base().x(Axis::log("e")).scatter("S", &[0.0], &[3.0]),
            &["S", "x = 0"],
        ),
        (base().bar("B", &[1.0]), &["B", "categories"]),
        (
            base().x(Axis::categories("", ["a", "b"])).bar("B", &[1.0]),
            &["B", "2 categories", "got 1"],
        ),
        (
            base()
                .x(Axis::linear("x").range(2.0, 1.0))
                .line("a", &[1.0], &[1.0]),
            &["x axis", "first < last"],
        ),
        (
            base().heat_map("h", 3, &[1.0, 2.0], Colours::Sequential),
            &["h", "3 columns"],
        ),
        (
            base().heat_map("h", 0, &no_floats, Colours::Sequential),
            &["h"],
        ),
        (
            base().heat_map("h", 1, &[0.0], Colours::SequentialLog),
            &["h", "positive"],
        ),
        (base().task("l", "T", 3.0, 1.0), &["T", "start ≤ end"]),
        (base().histogram("H", &[1.0], 0), &["H", "bins"]),
        (
            base().line("huge", &[1.0, 2.0], &[f64::MAX, -f64::MAX]),
            &["span"],
        ),
        (base().aspect(f64::NAN), &["aspect"]),
        (
            base().aspect(0.06).line("a", &[1.0], &[1.0]),
            &["labels leave"],
        ),
        (Figure::panels("p", 2, []), &["panels"]),
    ] {
        let error = figure.render().unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "{word:?} not in {error:?}");
        }
    }
    assert!(Figure::from_json("{}").is_err());
    let future = base()
        .to_json()
        .unwrap()
        .replace("\"version\": 1", "\"version\": 2");
    assert!(
        Figure::from_json(&future)
            .unwrap_err()
            .to_string()
            .contains("version 1")
    );
}

#[test]
fn edge_data_is_drawn_without_panic() {
    let none: [f64; 0] = [];
    let nan = f64::NAN;
    let long = "a very long name ".repeat(40);
    let cases = [
        Figure::new(""),
        Figure::new("").line("empty", &none, &none),
        Figure::new("").line("nan", &[nan, nan], &[1.0, nan]),
        Figure::new("").line("one", &[1.0], &[1.0]),
        Figure::new("").line("constant", &[1.0, 2.0], &[5.0, 5.0]),
        Figure::new("")
            .y(Axis::log("y"))
            .line("constant", &[1.0, 2.0], &[5.0, 5.0]),
        Figure::new("")
            .y(Axis::log("y"))
            .line("inf", &[1.0, 2.0, 3.0], &[5.0, f64::INFINITY, 1.0]),
        Figure::new("").line("tiny", &[0.0, 5e-324], &[1e-310, 2e-310]),
        Figure::new("").line("large", &[1e307, 1e308], &[1e300, -1e300]),
        Figure::new("").line("close", &[1.0, 1.0 + 1e-15], &[1e9, 1e9 + 1e-6]),
        Figure::new("")
            .y(Axis::log("y"))
            .line("decades", &[1.0, 2.0], &[1e-300, 1e300]),
        Figure::new(&long)
            .x(Axis::linear(&long))
            .y(Axis::linear(&long))
            .line(&long, &[1.0, 2.0], &[1.0, 2.0])
            .line("b", &[1.0], &[2.0]),
        Figure::new("")
            .legend(Legend::Outside)
            .line(&long, &[1.0, 2.0], &[1.0, 2.0])
            .line("b", &[1.0], &[2.0]),
        Figure::new("")
            .x(Axis::categories("", vec![long.as_str(); 30]))
            .bar("b", &[1.0; 30]),
        Figure::new("")
            .x(Axis::categories("", [""; 0]))
            .bar("b", &none),
        Figure::new("")
            .x(Axis::categories("", ["a", "b"]))
            .y(Axis::log("y"))
            .bar("b", &[1.0, nan]),
        Figure::new("")
            .histogram("h", &none, 5)
            .histogram("c", &[2.0; 4], 5),
        Figure::new("").heat_map("h", 1, &[nan], Colours::Sequential),
        Figure::new("").heat_map("h", 2, &[1.0; 4], Colours::Diverging),
        Figure::new("").box_plot("a", &none).box_plot("b", &[nan]),
        Figure::new("")
            .task("a", "b", 1.0, 1.0)
            .task("a", "c", nan, 2.0),
        Figure::new("").x(Axis::linear("").range(0.0, 1.0)).line(
            "outside",
            &[5.0, 1e15],
            &[1.0, 1e200],
        ),
        Figure::new("control \u{1} \u{ffff} 日本 🙂")
            .annotate("\u{7}", 1.0, nan)
            .annotate(&long, 1.0, 1.0),
        Figure::new("")
            .reference_line(Reference::horizontal(nan), "a")
            .reference_line(Reference::power(-400.0, 1e300), "b"),
        Figure::new("")
            .y(Axis::log(""))
            .reference_line(Reference::horizontal(-1.0), "a")
            .line("l", &[1.0], &[2.0]),
    ];
    for (i, figure) in cases.into_iter().enumerate() {
        for figure in [figure.clone(), figure.full_width()] {
            let rendered = figure
                .render()
                .unwrap_or_else(|error| panic!("case {i}: {error}"));
            rendered
                .pdf(false)
                .unwrap_or_else(|error| panic!("case {i}: {error}"));
            let again = Figure::from_json(&figure.to_json().unwrap()).unwrap();
            assert_eq!(again.to_svg().unwrap(), rendered.svg(), "case {i}");
        }
    }
}

#[test]
fn what_is_left_out_is_counted() {
    let figure = Figure::new("")
        .line("GPTQ", &[1.0, 2.0, 3.0], &[1.0, f64::NAN, f64::INFINITY])
        .histogram("W", &[1.0, f64::NAN], 3);
    let notes = figure.notes().join("\n");
    assert!(
        notes.contains("GPTQ: 2 of 3") && notes.contains("W: 1 of 2"),
        "{notes}"
    );
}

#[test]
fn huge_series_stay_small() {
    let x: Vec<f64> = (0..1_000_000).map(f64::from).collect();
    let y: Vec<f64> = x
        .iter()
        .map(|x| (x * 0.001).sin() + (x * 12.9898).sin())
        .collect();
    let figure = Figure::new("")
        .line("noise", &x, &y)
        .scatter("dots", &x, &y);
    let svg = figure.to_svg().unwrap();
    assert!(svg.len() < 1_500_000, "{} bytes", svg.len());
    assert!(figure.to_json().unwrap().len() < 2_500_000);
    assert!(figure.notes().join("\n").contains("of 1000000 points kept"));
}
