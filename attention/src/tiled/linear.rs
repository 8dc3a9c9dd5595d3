//! The three products of a linear map on rows of float32 in main memory, in the register tiling that attention's products have.
//!
//! For `y = x W^T` with `W` `[outputs, inputs]` and the gradient `dy` by `y`: [`forward`] is `y`, [`pulled`] `dx = dy W`, and
//! [`gathered`] `dW = dy^T x`. A library that knows nothing of who calls packs both operands of every product. Here rows are read
//! as they lie in memory; only the weight, which is small beside them, is cut into panels as wide as the register tile, once a
//! call. Each task has rows of its own and each sum one order, so the bits are the same on any number of threads.
//!
//! ```
//! use attention::tiled::linear::{self, Map};
//!
//! let weight: Vec<f32> = (0..16 * 32).map(|n| (n % 3) as f32).collect();
//! let map = Map { weight: &weight, inputs: 32, outputs: 16 };
//! assert!(map.fits());
//! let (x, mut y) = (vec![1.0; 5 * 32], vec![0.0; 5 * 16]);
//! linear::forward(map, &x, &mut y, false);
//! assert_eq!(y[3], weight[3 * 32..4 * 32].iter().sum::<f32>());
//! ```

use super::simd::product::{Left, Product};
use super::simd::{Simd, Work, with_best};
use super::workers::{Buffer, for_each, threads};

/// Rows of a task: with the widths of small models they stay in a level 2 cache while every panel passes.
const ROWS: usize = 64;

/// Terms of a sum that are taken at once, at most: a panel of so many stays in a level 2 cache beside the rows. That it leaves the
/// one of level 1 costs less than adding to the result more often.
const DEPTH: usize = 512;

/// A weight.
#[derive(Debug, Clone, Copy)]
pub struct Map<'a> {
    /// `[outputs, inputs]`.
    pub weight: &'a [f32],
    /// Numbers of a row that goes in.
    pub inputs: usize,
    /// Numbers of a row that comes out.
    pub outputs: usize,
}

impl Map<'_> {
    /// Whether both widths are such as products take: multiples of 8 at least.
    #[must_use]
    pub fn fits(self) -> bool {
        let step = with_best(Step);
        self.inputs.is_multiple_of(step) && self.outputs.is_multiple_of(step)
    }

    fn check(self, x: usize, y: usize) {
        let Self { weight, inputs, outputs } = self;
        assert!(self.fits() && weight.len() == inputs * outputs, "a weight of {inputs} by {outputs}");
        let rows = x.checked_div(inputs).unwrap_or(0);
        assert!(x == rows * inputs && y == rows * outputs, "{x} and {y} numbers in rows of {inputs} and {outputs}");
    }
}

/// `y = x W^T`, `[rows, outputs]` of `x` `[rows, inputs]`; added to what is in `y` where so asked.
///
/// # Panics
///
/// When lengths do not fit or the map does not.
pub fn forward(map: Map<'_>, x: &[f32], y: &mut [f32], add: bool) {
    map.check(x.len(), y.len());
    let pack = |first: usize, width: usize, panel: &mut [f32]| {
        let rows = map.weight[first * map.inputs..].chunks_exact(map.inputs);
        for (column, row) in rows.take(width).enumerate() {
            panel[column..].iter_mut().step_by(width).zip(row).for_each(|(to, from)| *to = *from);
        }
    };
    by_panels(Rows { left: x, depth: map.inputs, columns: map.outputs, add }, pack, y);
}

/// `dx = dy W`, `[rows, inputs]` of `dy` `[rows, outputs]`; added to what is in `dx` where so asked.
///
/// # Panics
///
/// As [`forward`].
pub fn pulled(map: Map<'_>, dy: &[f32], dx: &mut [f32], add: bool) {
    map.check(dx.len(), dy.len());
    let pack = |first: usize, width: usize, panel: &mut [f32]| {
        for (to, row) in panel.chunks_exact_mut(width).zip(map.weight.chunks_exact(map.inputs)) {
            to.copy_from_slice(&row[first..first + width]);
        }
    };
    by_panels(Rows { left: dy, depth: map.outputs, columns: map.inputs, add }, pack, dx);
}

/// `dW = dy^T x`, `[outputs, inputs]` of `dy` `[rows, outputs]` and `x` `[rows, inputs]`; added to what is in `dw` where so asked.
/// Of the map the widths alone are looked at.
///
/// # Panics
///
/// As [`forward`].
pub fn gathered(dy: &[f32], x: &[f32], [outputs, inputs]: [usize; 2], dw: &mut [f32], add: bool) {
    Map { weight: dw, inputs, outputs }.check(x.len(), dy.len());
    // Two tasks a thread, so that one that is held up does not hold up all; which rows of dW are whose decides no bit.
    let rows = outputs.div_ceil(2 * threads()).next_multiple_of(8);
    let work = Gathered { dy, x, outputs, inputs, add };
    for_each(dw.chunks_mut((rows * inputs).max(1)).enumerate(), |(number, dw)| {
        with_best(Gather { work: &work, first: number * rows, dw });
    });
}

/// What a product that runs over rows is given.
struct Rows<'a> {
    /// `[rows, depth]`.
    left: &'a [f32],
    depth: usize,
    columns: usize,
    add: bool,
}

/// Rows against a weight `[depth, columns]`, of whose columns `pack` puts some, first and how many, into a panel of them.
fn by_panels(rows: Rows<'_>, pack: impl Fn(usize, usize, &mut [f32]) + Sync, out: &mut [f32]) {
    let Rows { left, depth, columns, add } = rows;
    if columns == 0 || depth == 0 {
        if !add {
            out.fill(0.0);
        }
        return;
    }
    let width = with_best(Panel);
    let mut buffer = Buffer::new(depth * columns);
    for_each(buffer.as_mut().chunks_mut(depth * width).enumerate(), |(number, panel)| {
        pack(number * width, panel.len() / depth, panel);
    });
    let (panels, width) = (&*buffer.as_mut(), width);
    for_each(left.chunks(ROWS * depth).zip(out.chunks_mut(ROWS * columns)), |(left, out)| {
        with_best(Task { left, depth, panels, width, columns, out, add });
    });
}

/// Some rows against all panels.
struct Task<'a> {
    left: &'a [f32],
    depth: usize,
    /// `[depth, width]` each, the last one perhaps narrower.
    panels: &'a [f32],
    width: usize,
    columns: usize,
    out: &'a mut [f32],
    add: bool,
}

impl Work for Task<'_> {
    type Answer = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { left, depth, panels, width, columns, out, add } = self;
        let rows = left.len() / depth;
        for (first, terms) in blocks(depth) {
            for (number, panel) in panels.chunks(depth * width).enumerate() {
                let wide = panel.len() / depth;
                let product = Product {
                    a: &left[first..],
                    a_stride: depth,
                    left: Left::Rows,
                    b: &panel[first * wide..],
                    b_stride: wide,
                    out: &mut out[number * width..],
                    out_stride: columns,
                    rows,
                    columns: wide,
                    depth: terms,
                    add: add || first > 0,
                };
                product.compute(simd);
            }
        }
    }
}

/// Begin and count of equal parts of a sum of `depth` terms.
fn blocks(depth: usize) -> impl Iterator<Item = (usize, usize)> {
    let size = depth.div_ceil(depth.div_ceil(DEPTH).max(1)).max(1);
    (0..depth).step_by(size).map(move |first| (first, size.min(depth - first)))
}

/// What all tasks of [`gathered`] share.
struct Gathered<'a> {
    dy: &'a [f32],
    x: &'a [f32],
    outputs: usize,
    inputs: usize,
    add: bool,
}

/// Rows of dW from `first` on.
struct Gather<'a> {
    work: &'a Gathered<'a>,
    first: usize,
    dw: &'a mut [f32],
}

impl Work for Gather<'_> {
    type Answer = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { work: &Gathered { dy, x, outputs, inputs, add }, first, dw } = self;
        if dy.is_empty() && !add {
            dw.fill(0.0);
        }
        let chunks = dy.chunks(DEPTH * outputs).zip(x.chunks(DEPTH * inputs)).enumerate();
        for (number, (dy, x)) in chunks {
            let product = Product {
                a: &dy[first..],
                a_stride: outputs,
                left: Left::Columns,
                b: x,
                b_stride: inputs,
                out_stride: inputs,
                rows: dw.len() / inputs,
                columns: inputs,
                depth: x.len() / inputs,
                add: add || number > 0,
                out: &mut *dw,
            };
            product.compute(simd);
        }
    }
}

/// Asks for [`Simd::STEP`].
struct Step;

impl Work for Step {
    type Answer = usize;

    fn run<S: Simd>(self, _simd: S) -> usize {
        S::STEP
    }
}

/// Asks for [`Simd::PANEL`].
struct Panel;

impl Work for Panel {
    type Answer = usize;

    fn run<S: Simd>(self, _simd: S) -> usize {
        S::PANEL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole numbers, whose sums are exact in any order.
    fn numbers(count: usize, by: usize) -> Vec<f32> {
        (0..count).map(|at| ((at * by) % 7) as f32 - 3.0).collect()
    }

    /// `out[r][c] += sum_k left(r, k) right(k, c)` from `out` or from zero.
    fn naive(
        [rows, columns, depth]: [usize; 3],
        left: impl Fn(usize, usize) -> f32,
        right: impl Fn(usize, usize) -> f32,
        before: Option<&[f32]>,
    ) -> Vec<f32> {
        let sum = |r: usize, c: usize| (0..depth).map(|k| left(r, k) * right(k, c)).sum::<f32>();
        let at = |r: usize, c: usize| before.map_or(0.0, |before| before[r * columns + c]) + sum(r, c);
        (0..rows * columns).map(|place| at(place / columns, place % columns)).collect()
    }

    #[test]
    fn the_three_products_are_those_of_the_definition() {
        // Whole and broken panels, blocks of a sum and chunks of rows; none of either.
        let sizes =
            [(1, 8, 8), (5, 16, 56), (ROWS + 3, 48, 104), (3, 2 * DEPTH + 8, 40), (DEPTH + 9, 24, 8), (0, 8, 16)];
        for (rows, inputs, outputs) in sizes {
            let (x, dy) = (numbers(rows * inputs, 5), numbers(rows * outputs, 3));
            let weight = numbers(inputs * outputs, 11);
            let map = Map { weight: &weight, inputs, outputs };
            for add in [false, true] {
                let case = format!("{rows} rows, {inputs} to {outputs}, added: {add}");
                // NaN that is not written over would show.
                let start = |count: usize| if add { numbers(count, 13) } else { vec![f32::NAN; count] };
                let (mut y, mut dx, mut dw) = (start(rows * outputs), start(rows * inputs), start(outputs * inputs));
                let before = [&y, &dx, &dw].map(|it| add.then(|| it.clone()));
                forward(map, &x, &mut y, add);
                pulled(map, &dy, &mut dx, add);
                gathered(&dy, &x, [outputs, inputs], &mut dw, add);
                let (of_x, of_dy) = (|r: usize, k: usize| x[r * inputs + k], |r: usize, k: usize| dy[r * outputs + k]);
                let of_weight = |r: usize, c: usize| weight[r * inputs + c];
                let [of_y, of_dx, of_dw] = before.each_ref().map(Option::as_deref);
                assert_eq!(y, naive([rows, outputs, inputs], of_x, |k, c| of_weight(c, k), of_y), "y, {case}");
                assert_eq!(dx, naive([rows, inputs, outputs], of_dy, of_weight, of_dx), "dx, {case}");
                assert_eq!(dw, naive([outputs, inputs, rows], |r, k| of_dy(k, r), of_x, of_dw), "dw, {case}");
            }
        }
    }

    #[test]
    fn blocks_of_a_sum_are_equal_and_cover_it() {
        for depth in [1, DEPTH, DEPTH + 1, 3 * DEPTH - 1] {
            let found: Vec<(usize, usize)> = blocks(depth).collect();
            assert!(found.iter().map(|block| block.1).sum::<usize>() == depth && found.len() == depth.div_ceil(DEPTH));
            assert!(found.iter().all(|block| block.1 <= DEPTH && block.1 + found.len() > depth / found.len()));
        }
        assert_eq!(blocks(0).count(), 0);
    }

    #[test]
    fn threads_decide_no_bit() {
        let (rows, inputs, outputs) = (700, 40, 72);
        let [x, dy, weight] = [rows * inputs, rows * outputs, inputs * outputs]
            .map(|count| (0..count).map(|at| ((at * 37) % 101) as f32 / 13.0 - 3.9).collect::<Vec<f32>>());
        let map = Map { weight: &weight, inputs, outputs };
        let with = |threads: usize| {
            let (mut y, mut dx, mut dw) =
                (vec![0.0; rows * outputs], vec![0.0; rows * inputs], vec![0.0; outputs * inputs]);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                forward(map, &x, &mut y, false);
                pulled(map, &dy, &mut dx, false);
                gathered(&dy, &x, [outputs, inputs], &mut dw, false);
            });
            [y, dx, dw].map(|numbers| numbers.into_iter().map(f32::to_bits).collect::<Vec<u32>>())
        };
        assert_eq!(with(1), with(3));
    }

    #[test]
    #[should_panic(expected = "rows of 16 and 8")]
    fn rows_that_do_not_fit_are_refused_at_the_door() {
        let map = Map { weight: &[0.0; 16 * 8], inputs: 16, outputs: 8 };
        forward(map, &[0.0; 32], &mut [0.0; 8], false);
    }
}
