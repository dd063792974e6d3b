//! Quantized matrices that run on their codes.

use half::f16;

use crate::kernels::integer::{CHUNK, IntPanels};
use crate::model::linear::Integer;
use crate::quant::{Granularity, Quantized};

/// The matrix as the kernel for integers has it; [`None`] where more than codes and scales is stored, or codes are no integers with one scale for a group of whole chunks of
/// 32 columns.
pub fn packed(quantized: &Quantized) -> Option<Integer> {
    quantized.check_plain("packed").ok()?;
    let zero = quantized.format().zero_point()?;
    let (rows, cols) = (quantized.rows(), quantized.cols());
    let group = match quantized.format().granularity() {
        Granularity::Group(group) if group.is_multiple_of(CHUNK) || group >= cols => group,
        Granularity::Channel => cols,
        Granularity::Group(_) | Granularity::Tensor => return None,
    };
    let bits = quantized.format().code_bits() as usize;
    let (_, grids, codes) = quantized.unpack();
    let groups = cols.div_ceil(group.min(cols));
    let chunk = |row: usize, chunk: usize, out: &mut [u8; CHUNK]| {
        let columns = chunk * CHUNK..cols.min((chunk + 1) * CHUNK);
        let codes = &codes[row * cols..][columns];
        out[..codes.len()].copy_from_slice(codes);
    };
    let scale = |row: usize, g: usize| f16::from_f32(grids[row * groups + g].0[0]);
    let panels = IntPanels::pack_chunks((rows, cols), bits, group, chunk, &scale, Ok(zero));
    Some(Integer::from(panels))
}
