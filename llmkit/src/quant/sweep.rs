//! One matrix through many formats.

use super::format::AnyFormat;
use super::{Granularity, Matrix, Method, error};
use crate::Result;
use crate::progress::Progress;

/// One line of a [`Sweep`]: what a format costs and what it loses.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Name of the format.
    pub format: String,
    /// Nominal bits of a code.
    pub bits: u32,
    /// Which weights share a grid.
    pub granularity: Granularity,
    /// Bytes stored, everything counted.
    pub bytes: usize,
    /// True bits a weight.
    pub bits_per_weight: f64,
    /// Mean squared error, squared units of the weights.
    pub mse: f64,
    /// Signal to noise ratio in dB.
    pub sqnr_db: f64,
    /// Largest absolute error, units of the weights.
    pub max_error: f64,
}

/// A matrix measured in many formats. In notebooks, `Sweep::table` is the table and the columns are the figure.
#[derive(Debug, Clone)]
pub struct Sweep {
    /// Name of the method that chose the codes.
    pub method: String,
    /// One line a format, in the order given.
    pub rows: Vec<Measured>,
}

/// Quantizes `weights` with `method` into each of `formats` and measures what comes back.
///
/// # Errors
/// Those of the method; [`Error::Interrupted`](crate::Error::Interrupted) if the user pressed stop.
pub fn sweep(weights: &Matrix, method: &dyn Method, formats: &[AnyFormat]) -> Result<Sweep> {
    let mut progress = Progress::new(method.name(), formats.len() as u64, "formats");
    let mut rows = Vec::new();
    for format in formats {
        let quantized = method.quantize(weights, format.as_ref())?;
        let decoded = quantized.decode()?;
        rows.push(Measured {
            format: format.name(),
            bits: format.code_bits(),
            granularity: format.granularity(),
            bytes: quantized.bytes(),
            bits_per_weight: quantized.bits_per_weight(),
            mse: error::mse(weights.data(), decoded.data())?,
            sqnr_db: error::sqnr_db(weights.data(), decoded.data())?,
            max_error: error::max_abs(weights.data(), decoded.data())?,
        });
        progress.advance(1)?;
    }
    Ok(Sweep {
        method: method.name(),
        rows,
    })
}

impl Sweep {
    /// The lines of one granularity only, in order.
    pub fn only(&self, granularity: Granularity) -> Sweep {
        let rows = self
            .rows
            .iter()
            .filter(|row| row.granularity == granularity);
        Sweep {
            method: self.method.clone(),
            rows: rows.cloned().collect(),
        }
    }

    /// True bits a weight, line by line.
    pub fn bits_per_weight(&self) -> Vec<f64> {
        self.rows.iter().map(|row| row.bits_per_weight).collect()
    }

    /// True bytes a weight, line by line.
    pub fn bytes_per_weight(&self) -> Vec<f64> {
        self.rows
            .iter()
            .map(|row| row.bits_per_weight / 8.0)
            .collect()
    }

    /// Signal to noise ratio in dB, line by line.
    pub fn sqnr_db(&self) -> Vec<f64> {
        self.rows.iter().map(|row| row.sqnr_db).collect()
    }

    /// SQNR in dB less [`DB_PER_BIT`](error::DB_PER_BIT) for every stored bit a weight, line by line: constant where
    /// the 6.02 dB law holds, and higher is better at equal bytes.
    pub fn db_over_law(&self) -> Vec<f64> {
        let rest = |row: &Measured| row.sqnr_db - error::DB_PER_BIT * row.bits_per_weight;
        self.rows.iter().map(rest).collect()
    }

    /// Noise power over signal power, line by line: 1 = all is lost, 10⁻⁴ = 40 dB.
    pub fn noise_to_signal(&self) -> Vec<f64> {
        let ratio = |row: &Measured| 10f64.powf(-row.sqnr_db / 10.0);
        self.rows.iter().map(ratio).collect()
    }

    /// The sweep as a compact table, one row a width: true bits a weight and SQNR in dB for each granularity.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) unless every granularity has the same widths, each once;
    /// [`Error::Table`](crate::Error::Table) if the table library refuses.
    #[cfg(feature = "notebook")]
    pub fn by_width(&self) -> Result<polars::prelude::DataFrame> {
        use polars::prelude::{Column, DataFrame, NamedFrom, Series};
        let mut granularities: Vec<Granularity> = Vec::new();
        for row in &self.rows {
            if !granularities.contains(&row.granularity) {
                granularities.push(row.granularity);
            }
        }
        let widths = |part: &Sweep| part.rows.iter().map(|row| row.bits).collect::<Vec<_>>();
        let mut columns: Vec<Column> = Vec::new();
        for granularity in granularities {
            let part = self.only(granularity);
            if columns.is_empty() {
                columns.push(Series::new("bits".into(), widths(&part)).into());
            } else if columns[0].as_materialized_series()
                != &Series::new("bits".into(), widths(&part))
            {
                let name = format!("widths of {granularity}");
                let got = format!("{:?}", widths(&part));
                return Err(crate::Error::argument(name, "those of the others", got));
            }
            let mut add = |what: &str, values: Vec<f64>| {
                columns.push(Series::new(format!("{granularity} {what}").into(), values).into());
            };
            add("bits/weight", part.bits_per_weight());
            add("SQNR (dB)", part.sqnr_db());
        }
        Ok(DataFrame::new_infer_height(columns)?)
    }

    /// The sweep as a table: format, true bits a weight, bytes, SQNR, mean squared and largest error.
    ///
    /// # Errors
    /// [`Error::Table`](crate::Error::Table) if the table library refuses.
    #[cfg(feature = "notebook")]
    pub fn table(&self) -> Result<polars::prelude::DataFrame> {
        let column = |value: fn(&Measured) -> f64| self.rows.iter().map(value).collect::<Vec<_>>();
        Ok(polars::df!(
            "format" => self.rows.iter().map(|row| row.format.as_str()).collect::<Vec<_>>(),
            "bits/weight" => self.bits_per_weight(),
            "kB" => column(|row| row.bytes as f64 / 1000.0),
            "SQNR (dB)" => self.sqnr_db(),
            "mean squared error" => column(|row| row.mse),
            "largest error" => column(|row| row.max_error),
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::format::IntAffine;
    use crate::quant::method::Rtn;
    use crate::quant::samples;

    #[test]
    fn a_sweep_measures_what_the_formats_say() -> Result<()> {
        let (_, weights) = samples::all().swap_remove(0);
        let formats = IntAffine::family(2..=8, &[Granularity::Tensor, Granularity::Group(64)])?;
        let sweep = sweep(&weights, &Rtn, &formats)?;
        assert_eq!(sweep.rows.len(), 14);
        let fine = sweep.only(Granularity::Group(64));
        assert_eq!(fine.rows.len(), 7);
        // 16-bit scale and 4-bit zero-point over 64 weights; four rows of 64.
        assert_eq!(fine.bits_per_weight()[2], 4.0 + 20.0 / 64.0);
        for pair in fine.rows.windows(2) {
            assert!(pair[1].sqnr_db > pair[0].sqnr_db && pair[1].bytes > pair[0].bytes);
        }
        for (ratio, db) in fine.noise_to_signal().iter().zip(fine.sqnr_db()) {
            assert!((-10.0 * ratio.log10() - db).abs() < 1e-9);
        }
        #[cfg(feature = "notebook")]
        {
            assert_eq!(sweep.table()?.shape(), (14, 6));
            let compact = sweep.by_width()?;
            assert_eq!(compact.shape(), (7, 5));
            let column = compact.column("g64 SQNR (dB)")?.f64()?.get(6);
            assert_eq!(column, Some(fine.rows[6].sqnr_db));
            let mut ragged = sweep.clone();
            ragged.rows.pop();
            assert!(ragged.by_width().is_err());
        }
        Ok(())
    }
}
