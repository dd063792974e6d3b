//! Act-order made static: channels are sorted once by what flows through them, so that a group holds channels of like weight.
//!
//! GPTQ with act-order quantizes columns in descending order of Hₖₖ = mean xₖ². If groups follow that order, each input needs to know
//! its group (`g_idx`), and a kernel gathers. Sorting the channels of the network itself gives the same order with groups that
//! lie side by side:
//!
//! | channels | moved | sorted by |
//! |---|---|---|
//! | residual stream, one order for all layers | columns of embedding, head and readers, gains, rows of writers | Σ over layers of mean x², each layer's shares |
//! | values, within each value head | rows (and bias) of attn_v, columns of attn_output in all query heads of the group | mean x² over the heads of the group |
//! | feed-forward | rows of ffn_gate and ffn_up, columns of ffn_down | mean x² |
//!
//! Source: E. Frantar et al., GPTQ's repository, `--act-order` and `--static-groups` (2023); the rule that heads of a group move together
//! is that of AWQ's scales, see [`smooth`](super::smooth).
//!
//! Cost: a pass over the weights; nothing when the network runs.
//!
//! **Where we differ.** There, the order is a layer's own; here the three matrices that read the stream share one with all
//! layers, which is what makes it free. Queries and keys are not moved: RoPE ties their channels to frequencies.

use super::{Report, Transform};
use crate::quant::parts::{Parts, edit};
use crate::quant::site::Site;
use crate::quant::{Measure, Statistics};
use crate::{Result, interrupt};

const SQUARES: [Measure; 1] = [Measure::MeanSquare];

/// Sorts channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permute;

impl Transform for Permute {
    fn name(&self) -> String {
        "permute".into()
    }

    fn apply(&self, parts: &mut dyn Parts, statistics: &Statistics) -> Result<Report> {
        let c = parts.config().clone();
        let mut report = Report::default();
        let mut shares = vec![0f64; c.width];
        for n in 0..c.layers {
            for site in [Site::Attention, Site::FeedForward] {
                let squares = &statistics
                    .of(&site.activation(n), c.width, &SQUARES)?
                    .mean_square;
                let total: f64 = squares.iter().map(|&it| f64::from(it)).sum();
                if total > 0.0 {
                    let of = squares.iter().map(|&it| f64::from(it) / total);
                    shares.iter_mut().zip(of).for_each(|(sum, it)| *sum += it);
                }
            }
        }
        permute_stream(parts, &descending(&shares))?;
        report.done(
            "residual stream",
            "sorted by its part in the inputs of all layers",
        );
        for n in 0..c.layers {
            interrupt::check("permute")?;
            let shared = Site::Values.shared(parts);
            let mut sums = vec![0f64; c.kv_heads * c.head_dim];
            let seen = &statistics
                .of(&Site::Values.activation(n), shared.len(), &SQUARES)?
                .mean_square;
            shared
                .iter()
                .zip(seen)
                .for_each(|(&at, &it)| sums[at] += f64::from(it));
            let order: Vec<usize> = (sums.chunks_exact(c.head_dim).enumerate())
                .flat_map(|(group, sums)| {
                    let order = descending(sums);
                    order.into_iter().map(move |at| group * c.head_dim + at)
                })
                .collect();
            permute_values(parts, n, &order)?;
            report.done(Site::Values.place(n), "sorted within each value head");
            if parts.has_ffn_rotation(n) {
                report.skipped(Site::Down.place(n), "its input is rotated on its way");
                continue;
            }
            let seen = statistics.of(&Site::Down.activation(n), c.ffn_width, &SQUARES)?;
            let order = descending(
                &seen
                    .mean_square
                    .iter()
                    .map(|&it| f64::from(it))
                    .collect::<Vec<_>>(),
            );
            let name = |part: &str| format!("blk.{n}.{part}.weight");
            edit(parts, &name("ffn_gate"), |w| w.permute_rows(&order))?;
            edit(parts, &name("ffn_up"), |w| w.permute_rows(&order))?;
            edit(parts, &name("ffn_down"), |w| w.permute_columns(&order))?;
            report.done(Site::Down.place(n), "sorted");
        }
        Ok(report)
    }
}

/// Indices from the largest value to the smallest, equal ones as they stand.
fn descending(values: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    order
}

/// Channel j of the stream becomes what channel `order[j]` was.
fn permute_stream(parts: &mut dyn Parts, order: &[usize]) -> Result<()> {
    let moved = |parts: &mut dyn Parts, name: &str| {
        let values = parts.vector(name)?;
        let values: Vec<f64> = order.iter().map(|&from| values[from]).collect();
        parts.set_vector(name, &values)
    };
    // While the head is the embedding, it moves with it.
    if !parts.is_tied() {
        edit(parts, "output.weight", |w| w.permute_columns(order))?;
    }
    edit(parts, "token_embd.weight", |w| w.permute_columns(order))?;
    moved(parts, "output_norm.weight")?;
    for n in 0..parts.config().layers {
        interrupt::check("permute")?;
        let name = |part: &str| format!("blk.{n}.{part}.weight");
        moved(parts, &name("attn_norm"))?;
        moved(parts, &name("ffn_norm"))?;
        for reader in ["attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"] {
            edit(parts, &name(reader), |w| w.permute_columns(order))?;
        }
        for writer in ["attn_output", "ffn_down"] {
            edit(parts, &name(writer), |w| w.permute_rows(order))?;
        }
    }
    Ok(())
}

/// Row j of attn_v becomes what row `order[j]` was; columns of attn_output follow, head by head.
fn permute_values(parts: &mut dyn Parts, n: usize, order: &[usize]) -> Result<()> {
    let c = parts.config().clone();
    let name = |part: &str| format!("blk.{n}.{part}");
    edit(parts, &name("attn_v.weight"), |w| w.permute_rows(order))?;
    if c.has_biases {
        let bias = parts.vector(&name("attn_v.bias"))?;
        let bias: Vec<f64> = order.iter().map(|&from| bias[from]).collect();
        parts.set_vector(&name("attn_v.bias"), &bias)?;
    }
    let per_group = c.heads / c.kv_heads;
    let columns: Vec<usize> = (0..c.heads)
        .flat_map(|head| {
            let group = head / per_group;
            let of_group = &order[group * c.head_dim..][..c.head_dim];
            of_group
                .iter()
                .map(move |from| head * c.head_dim + from % c.head_dim)
        })
        .collect();
    edit(parts, &name("attn_output.weight"), |w| {
        w.permute_columns(&columns)
    })
}

/// The one transform here.
pub(super) fn members() -> Vec<Box<dyn Transform>> {
    vec![Box::new(Permute)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::equivalence::{Exact, collected, difference, networks};

    #[test]
    fn channels_come_out_sorted() -> Result<()> {
        let network = networks().remove(0);
        let (after, _) = Permute.run(&network, &collected(&network))?;
        let seen = collected(&after);
        let c = network.config();
        let squares = |name: &str, columns| {
            Ok::<_, crate::Error>(seen.of(name, columns, &SQUARES)?.mean_square.clone())
        };
        let down = squares("blk.1.ffn_down.in", c.ffn_width)?;
        assert!(down.windows(2).all(|pair| pair[0] >= pair[1] * 0.9999));
        let values = squares("blk.1.attn_output.in", c.heads * c.head_dim)?;
        let per_group = c.heads / c.kv_heads;
        let first: Vec<f32> = (0..c.head_dim)
            .map(|d| {
                (0..per_group)
                    .map(|head| values[head * c.head_dim + d])
                    .sum()
            })
            .collect();
        assert!(
            first.windows(2).all(|pair| pair[0] >= pair[1] * 0.9999),
            "{first:?}"
        );
        assert!(after.is_tied(), "the head is still the embedding");
        Ok(())
    }

    #[test]
    fn moved_weights_are_the_same_weights() -> Result<()> {
        // Nothing is computed, so every matrix has the same values in another place, bit for bit.
        let network = networks().remove(0);
        let (after, _) = Permute.run(&network, &collected(&network))?;
        for name in network.matrix_names() {
            let sorted = |parts: &dyn Parts| {
                let mut values = parts.matrix(&name).unwrap().values;
                values.sort_by(f64::total_cmp);
                values
            };
            assert!(sorted(&network) == sorted(&after), "{name}");
        }
        Ok(())
    }

    #[test]
    fn an_order_for_each_query_head_of_a_group_is_caught() -> Result<()> {
        // Planted: the columns of attn_output follow as if each query head had values of its own.
        let network = networks().remove(0);
        let c = network.config().clone();
        let before = Exact::of(&network);
        let mut after = before.clone();
        let order: Vec<usize> = (0..c.kv_heads * c.head_dim).map(|at| at ^ 1).collect();
        permute_values(&mut after, 0, &order)?;
        assert!(difference(&before, &after) < 1e-12);
        let mut wrong: Vec<usize> = (0..c.heads * c.head_dim).collect();
        wrong[..order.len()].copy_from_slice(&order);
        let mut after = before.clone();
        edit(&mut after, "blk.0.attn_v.weight", |w| {
            w.permute_rows(&order)
        })?;
        edit(&mut after, "blk.0.attn_output.weight", |w| {
            w.permute_columns(&wrong)
        })?;
        assert!(difference(&before, &after) > 1e-3);
        Ok(())
    }
}
