//! Venues: how wide a figure is printed and how large its letters are.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// A venue's style. Widths are of the text block its LaTeX style sets, from the style files named at each venue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Venue {
    /// `icml2025.sty`: text 6.75 in, two columns of 3.25 in with 0.25 in between; 10 pt text, 9 pt captions.
    #[default]
    Icml,
    /// `neurips_2024.sty`: one column of 5.5 in; 10 pt text.
    Neurips,
    /// `acl.sty`: A4, text 16 cm = 6.30 in, columns 7.7 cm = 3.03 in, 0.6 cm between; 11 pt text.
    Acl,
    /// `mlsys2025.sty` (made from ICML's): 6.75 in and 3.25 in; 10 pt text.
    Mlsys,
    /// `IEEEtran.cls`, journals: text 7.16 in, columns 3.5 in; 10 pt text, 8 pt captions.
    Ieee,
}

impl Venue {
    /// Every venue.
    pub const ALL: [Venue; 5] = [
        Venue::Icml,
        Venue::Neurips,
        Venue::Acl,
        Venue::Mlsys,
        Venue::Ieee,
    ];

    /// The name on the command line and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Venue::Icml => "icml",
            Venue::Neurips => "neurips",
            Venue::Acl => "acl",
            Venue::Mlsys => "mlsys",
            Venue::Ieee => "ieee",
        }
    }

    /// Printed width in inches, of one column or of the whole text.
    pub fn width_inches(self, full_width: bool) -> f64 {
        match (self, full_width) {
            (Venue::Icml | Venue::Mlsys, false) => 3.25,
            (Venue::Icml | Venue::Mlsys, true) => 6.75,
            (Venue::Neurips, _) => 5.5,
            (Venue::Acl, false) => 3.03,
            (Venue::Acl, true) => 6.30,
            (Venue::Ieee, false) => 3.5,
            (Venue::Ieee, true) => 7.16,
        }
    }

    /// Size of labels in points; ticks and legends are one point smaller.
    pub fn font_points(self) -> f64 {
        match self {
            Venue::Icml | Venue::Mlsys | Venue::Acl | Venue::Ieee => 8.0,
            Venue::Neurips => 9.0,
        }
    }

    /// Width of data lines in points.
    pub fn line_points(self) -> f64 {
        match self {
            Venue::Neurips => 1.1,
            _ => 1.0,
        }
    }
}

impl std::str::FromStr for Venue {
    type Err = Error;

    fn from_str(name: &str) -> Result<Venue> {
        let known = Venue::ALL.map(Venue::name);
        Venue::ALL
            .into_iter()
            .find(|venue| venue.name() == name.to_lowercase())
            .ok_or_else(|| Error::argument("venue", known.join(", "), name))
    }
}
