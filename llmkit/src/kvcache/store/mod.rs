//! How keys and values are kept.
//!
//! A store belongs to one sequence. Attention asks it for blocks of 64 positions in the layout of
//! [`kernels::attention`](crate::kernels::attention); a store that keeps something else (fewer bits, pages) decodes a block when
//! asked.
//!
//! A new store is one new file and two lines here: `pub mod x;` and a row in [`all`]; the contract tests loop over [`all`].
//!
//! | contract | meaning |
//! |---|---|
//! | what is written is read | blocks hold what was written, up to the store's own [`error`](Store::error) |
//! | forks are independent | writing to a fork leaves the original as it is, and the other way round |
//! | rolling back forgets | after [`truncate`](Store::truncate) the next write lands where the kept tokens end |

use std::fmt;

use crate::kernels::attention::Block;
use crate::kernels::panel::{Element, Line};
use crate::kernels::team::Team;

pub mod contiguous;

pub use contiguous::Contiguous;

/// Sizes of what is kept for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Layers.
    pub layers: usize,
    /// Key/value heads, G.
    pub groups: usize,
    /// Features of a head, D.
    pub head_dim: usize,
}

impl Shape {
    /// Features of a head filled up to whole panels: what blocks are made of. The features added are zero.
    pub fn padded_dim(&self) -> usize {
        self.head_dim.next_multiple_of(crate::kernels::panel::LANES)
    }
}

/// Where a store decodes a block it does not keep in the kernels' layout.
#[derive(Debug, Default)]
pub struct Decoded {
    /// Keys of the block.
    pub keys: Vec<Line>,
    /// Values of the block.
    pub values: Vec<Line>,
}

/// Keys and values of one sequence.
pub trait Store: fmt::Debug + Send + Sync {
    /// Unique name with all parameters.
    fn name(&self) -> String;

    /// Sizes.
    fn shape(&self) -> Shape;

    /// Tokens kept.
    fn tokens(&self) -> usize;

    /// Writes keys and values (T, G·D) of `layer` for the T tokens that follow those kept. They count once
    /// [`commit`](Self::commit) says that all layers have them; until then they are readable and may be overwritten. A prompt's go there on all
    /// threads of `team`.
    ///
    /// # Panics
    /// If the sizes do not fit the shape.
    fn write(&mut self, layer: usize, keys: &[f32], values: &[f32], team: &Team);

    /// Counts `tokens` more tokens as kept.
    fn commit(&mut self, tokens: usize);

    /// Forgets all but the first `tokens` tokens. More than there are: nothing happens.
    fn truncate(&mut self, tokens: usize);

    /// Keys and values of positions 64·`index` … of a head, valid until the store or `decoded` changes.
    /// Positions that were never written hold finite numbers.
    ///
    /// # Panics
    /// If there is no such block.
    fn block<'a>(
        &'a self,
        layer: usize,
        group: usize,
        index: usize,
        decoded: &'a mut Decoded,
    ) -> Block<'a>;

    /// Says that `layer` is going to be written and read soon, for the token that follows those kept: time to fetch what lies far away.
    fn expect(&self, _layer: usize) {}

    /// The largest difference between what is written and what is read, as a share of the largest magnitude written.
    fn error(&self) -> f32;

    /// Bytes in memory.
    fn bytes(&self) -> usize;

    /// A store of its own with the same content.
    fn fork(&self) -> Box<dyn Store>;

    /// An empty store of the same kind and shape.
    fn empty(&self) -> Box<dyn Store>;
}

/// A row of [`all`]: the file's name, and its stores for a shape.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// Name of the module.
    pub name: &'static str,
    /// Empty stores, one for each setting worth comparing.
    pub members: fn(Shape) -> Vec<Box<dyn Store>>,
}

/// Every kind of store, one row a file.
pub fn all() -> Vec<Family> {
    vec![Family {
        name: "contiguous",
        members: |shape| {
            let of = |element| Box::new(Contiguous::of(element, shape)) as Box<dyn Store>;
            [Element::F32, Element::Bf16].map(of).into()
        },
    }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::attention::BLOCK;

    const SHAPE: Shape = Shape {
        layers: 2,
        groups: 3,
        head_dim: 20,
    };

    /// Key and value that token `token` of `mark` has.
    fn feature(
        mark: f32,
        layer: usize,
        token: usize,
        group: usize,
        i: usize,
        is_value: bool,
    ) -> f32 {
        let at = ((layer * 1000 + token) * 8 + group) * 32 + i;
        mark * ((at as f32 * 0.37).sin() + f32::from(u8::from(is_value)))
    }

    fn write(store: &mut dyn Store, mark: f32, count: usize) {
        let first = store.tokens();
        for layer in 0..SHAPE.layers {
            // Nothing that could be seen.
            store.expect(layer);
            let of = |is_value| -> Vec<f32> {
                let token = |t: usize| {
                    (0..SHAPE.groups * SHAPE.head_dim).map(move |at| {
                        let (group, i) = (at / SHAPE.head_dim, at % SHAPE.head_dim);
                        feature(mark, layer, t, group, i, is_value)
                    })
                };
                (first..first + count).flat_map(token).collect()
            };
            store.write(layer, &of(false), &of(true), Team::global());
        }
        store.commit(count);
    }

    fn holds(store: &dyn Store, marks: &[(f32, usize)]) {
        let marks: Vec<f32> = marks
            .iter()
            .flat_map(|&(mark, count)| vec![mark; count])
            .collect();
        assert_eq!(store.tokens(), marks.len());
        let mut decoded = Decoded::default();
        for (token, &mark) in marks.iter().enumerate() {
            for layer in 0..SHAPE.layers {
                for group in 0..SHAPE.groups {
                    let block = store.block(layer, group, token / BLOCK, &mut decoded);
                    for i in 0..SHAPE.padded_dim() {
                        let key = block.key(SHAPE.padded_dim(), token % BLOCK, i);
                        let value = block.value(token % BLOCK, i);
                        let expected = |is_value| match i < SHAPE.head_dim {
                            true => feature(mark, layer, token, group, i, is_value),
                            false => 0.0,
                        };
                        let bound = store.error() * 2.0 * mark.abs();
                        assert!(
                            (key - expected(false)).abs() <= bound,
                            "{} key {token} {i}",
                            store.name()
                        );
                        assert!(
                            (value - expected(true)).abs() <= bound,
                            "{} value {token} {i}",
                            store.name()
                        );
                    }
                }
            }
        }
    }

    fn stores() -> impl Iterator<Item = Box<dyn Store>> {
        all().into_iter().flat_map(|family| (family.members)(SHAPE))
    }

    #[test]
    fn what_is_written_is_read_and_rolling_back_forgets() {
        for mut store in stores() {
            holds(store.as_ref(), &[]);
            write(store.as_mut(), 1.0, 70);
            write(store.as_mut(), 1.5, 1);
            write(store.as_mut(), 2.0, 64);
            holds(store.as_ref(), &[(1.0, 70), (1.5, 1), (2.0, 64)]);
            store.truncate(1000);
            store.truncate(60);
            write(store.as_mut(), -1.0, 10);
            holds(store.as_ref(), &[(1.0, 60), (-1.0, 10)]);
            store.truncate(0);
            write(store.as_mut(), 3.0, 3);
            holds(store.as_ref(), &[(3.0, 3)]);
            assert_eq!(store.empty().tokens(), 0);
            assert!(store.bytes() > 0);
        }
    }

    #[test]
    fn forks_are_independent() {
        for mut store in stores() {
            write(store.as_mut(), 1.0, 65);
            let mut fork = store.fork();
            write(fork.as_mut(), 2.0, 5);
            write(store.as_mut(), 3.0, 70);
            holds(fork.as_ref(), &[(1.0, 65), (2.0, 5)]);
            holds(store.as_ref(), &[(1.0, 65), (3.0, 70)]);
        }
    }

    #[test]
    fn the_table_is_the_directory() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/kvcache/store");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|it| it.unwrap().file_name().to_string_lossy().replace(".rs", ""))
            .filter(|name| name != "mod")
            .collect();
        files.sort();
        let mut names: Vec<&str> = all().iter().map(|it| it.name).collect();
        names.sort_unstable();
        assert_eq!(files, names);
    }
}
