//! Results as polars frames: one row a token, or one row a window.

use polars::prelude::{DataFrame, IntoColumn, NamedFrom, Series, df};

use super::stats::sums_by;
use super::{Divergence, Perplexity};
use crate::Result;

impl Perplexity {
    /// One row a scored token: window, nll (nats).
    ///
    /// # Errors
    /// [`Error::Table`](crate::Error::Table) if polars refuses it.
    pub fn table(&self) -> Result<DataFrame> {
        Ok(df!("window" => window_of_each(self), "nll" => &self.nll)?)
    }

    /// One row a window: window, tokens, nll (mean, nats), perplexity (of a token).
    ///
    /// # Errors
    /// As [`Perplexity::table`].
    pub fn window_table(&self) -> Result<DataFrame> {
        let nll = self.by_window();
        let perplexity: Vec<f64> = nll.iter().map(|it| it.exp()).collect();
        let tokens: Vec<u32> = self.window_tokens().iter().map(|&it| it as u32).collect();
        let window: Vec<u32> = (0..tokens.len() as u32).collect();
        Ok(df!("window" => window, "tokens" => tokens, "nll" => nll, "perplexity" => perplexity)?)
    }
}

impl Divergence {
    /// One row a scored token: window, kl (nats), agrees, flips, baseline_nll, nll (nats).
    ///
    /// # Errors
    /// As [`Perplexity::table`].
    pub fn table(&self) -> Result<DataFrame> {
        Ok(df!(
            "window" => window_of_each(&self.baseline),
            "kl" => &self.kl,
            "agrees" => &self.agrees,
            "flips" => &self.flips,
            "baseline_nll" => &self.baseline.nll,
            "nll" => &self.model.nll,
        )?)
    }

    /// One row a window: window, tokens, and the means of kl, agrees, flips, baseline_nll and nll over its tokens.
    ///
    /// # Errors
    /// As [`Perplexity::table`].
    pub fn window_table(&self) -> Result<DataFrame> {
        let sizes = self.baseline.window_tokens();
        let means = |values: Vec<f64>| -> Vec<f64> {
            let sums = sums_by(values, &sizes);
            sums.iter()
                .zip(&sizes)
                .map(|(sum, &n)| sum / n as f64)
                .collect()
        };
        let shares = |of: &[bool]| means(of.iter().map(|&it| f64::from(it)).collect());
        let mut table = self.baseline.window_table()?.select(["window", "tokens"])?;
        for (name, values) in [
            ("kl", means(self.kl.clone())),
            ("agrees", shares(&self.agrees)),
            ("flips", shares(&self.flips)),
            ("baseline_nll", self.baseline.by_window()),
            ("nll", self.model.by_window()),
        ] {
            table.with_column(Series::new(name.into(), values).into_column())?;
        }
        Ok(table)
    }
}

/// The window that each scored token belongs to.
fn window_of_each(of: &Perplexity) -> Vec<u32> {
    let windows = (0u32..).zip(of.window_tokens());
    windows
        .flat_map(|(window, tokens)| std::iter::repeat_n(window, tokens))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::divergence::tests::found;

    #[test]
    fn tokens_and_windows_have_their_rows() {
        let found = found(2, &[0.4, 0.1, 0.2, 0.3], &[1.0; 4], &[1.5, 1.0, 1.0, 0.5]);
        let tokens = found.table().unwrap();
        assert_eq!(tokens.shape(), (4, 6));
        let windows = found.window_table().unwrap();
        assert_eq!(windows.shape(), (2, 7));
        let column = |name: &str| -> Vec<f64> {
            let column = windows.column(name).unwrap();
            column.f64().unwrap().into_no_null_iter().collect()
        };
        assert_eq!(
            (column("nll"), column("agrees")),
            (vec![1.25, 0.75], vec![0.5, 0.5])
        );
        assert_eq!(found.model.table().unwrap().shape(), (4, 2));
        assert_eq!(found.model.window_table().unwrap().shape(), (2, 4));
    }
}
