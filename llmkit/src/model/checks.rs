//! What is refused before a pass, and what is told during one.

use std::fmt;

use super::llama::{Llama, Piece};
use crate::kernels::activation::position_not_finite;
use crate::kvcache::store::Store;
use crate::{Error, Result};

impl Llama {
    /// Whether all pieces can be run.
    pub(super) fn check(&self, pieces: &[Piece<'_>]) -> Result<()> {
        let c = &self.config;
        for piece in pieces {
            let total = piece.store.tokens() + piece.tokens.len();
            if piece.tokens.is_empty() {
                return Err(Error::argument("tokens", "at least one", "none"));
            }
            if let Some(&id) = piece.tokens.iter().find(|&&id| id as usize >= c.vocabulary) {
                return Err(Error::argument(
                    "token id",
                    format!("below {}", c.vocabulary),
                    id,
                ));
            }
            if total > c.context_tokens {
                return Err(Error::argument(
                    "tokens",
                    format!("at most {} in all", c.context_tokens),
                    total,
                ));
            }
            self.check_store(piece.store)?;
        }
        Ok(())
    }

    pub(super) fn check_store(&self, store: &dyn Store) -> Result<()> {
        let (expected, got) = (self.store_shape(), store.shape());
        match got == expected {
            true => Ok(()),
            false => Err(Error::argument(
                "store",
                format!("{expected:?}"),
                format!("{got:?}"),
            )),
        }
    }

    /// Whether an activation is a number everywhere.
    pub(super) fn check_finite(
        &self,
        name: fmt::Arguments<'_>,
        columns: usize,
        values: &[f32],
    ) -> Result<()> {
        match position_not_finite(self.engine.isa, values, &self.engine.team) {
            None => Ok(()),
            Some(at) => Err(Error::Format {
                file: format!("activation {name}, token {}", at / columns),
                expected: "finite numbers".to_owned(),
                got: values[at].to_string(),
            }),
        }
    }
}
