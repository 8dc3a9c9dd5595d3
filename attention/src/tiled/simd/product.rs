//! Matrix products on small blocks: `out[r][c] (+)= sum_k a(r, k) b[k][c]`.
//!
//! A register tile of `R` rows by up to three vectors of columns stays in registers over the whole depth: at each step the
//! vectors of b are loaded once, each element of a is broadcast, and nothing else touches memory. Rows of a may lie along
//! memory or across it, so no operand needs to be packed.

use super::{Simd, Work};

/// How the left operand lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tiled) enum Left {
    /// `a(r, k)` at `r * stride + k`.
    Rows,
    /// `a(r, k)` at `k * stride + r`.
    Columns,
}

/// One product. Strides are in numbers.
#[derive(Debug)]
pub(in crate::tiled) struct Product<'a> {
    pub(in crate::tiled) a: &'a [f32],
    pub(in crate::tiled) a_stride: usize,
    pub(in crate::tiled) left: Left,
    pub(in crate::tiled) b: &'a [f32],
    pub(in crate::tiled) b_stride: usize,
    pub(in crate::tiled) out: &'a mut [f32],
    pub(in crate::tiled) out_stride: usize,
    /// Rows of the result; any number.
    pub(in crate::tiled) rows: usize,
    /// Columns of the result; a multiple of [`Simd::STEP`].
    pub(in crate::tiled) columns: usize,
    /// Terms of each sum.
    pub(in crate::tiled) depth: usize,
    /// Whether the result is added to what is there.
    pub(in crate::tiled) add: bool,
}

impl Product<'_> {
    /// Computes it.
    pub(in crate::tiled) fn compute<S: Simd>(self, simd: S) {
        simd.operate(self);
    }

    /// `columns` columns of it, from `start` on.
    #[inline(always)]
    pub(super) fn part(&mut self, start: usize, columns: usize) -> Product<'_> {
        let Self { a, a_stride, left, b, b_stride, ref mut out, out_stride, rows, depth, add, .. } = *self;
        let (b, out) = (b.get(start..).unwrap_or_default(), out.get_mut(start..).unwrap_or_default());
        Product { a, a_stride, left, b, b_stride, out, out_stride, rows, columns, depth, add }
    }

    /// Every access of the loops lies in the slices. A broken promise here is a bug of this crate, never of its user.
    fn check(&self, lanes: usize) {
        let Self { a_stride, b_stride, out_stride, rows, columns, depth, .. } = *self;
        // Rows of b may overlap, as those of a repeated row do; rows of the result may not.
        assert!(columns.is_multiple_of(lanes) && columns <= out_stride, "columns of a product");
        if rows == 0 || columns == 0 {
            return;
        }
        let end = |count: usize, stride: usize, last: usize| (count - 1) * stride + last;
        assert!(end(rows, out_stride, columns) <= self.out.len(), "result of a product");
        if depth == 0 {
            return;
        }
        assert!(end(depth, b_stride, columns) <= self.b.len(), "right operand of a product");
        let a_end = match self.left {
            Left::Rows => end(rows, a_stride, depth),
            Left::Columns => end(depth, a_stride, rows),
        };
        assert!(a_end <= self.a.len(), "left operand of a product");
    }
}

impl Work for Product<'_> {
    type Answer = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        simd.multiply(&mut self);
    }
}

/// The product in tiles of `R` rows and `C` vectors, at most three.
#[inline(always)]
pub(super) fn run<S: Simd, const R: usize, const C: usize>(simd: S, product: &mut Product<'_>) {
    product.check(S::LANES);
    let mut column = 0;
    while column < product.columns {
        // Two and two rather than three and one: a single vector leaves too few sums to hide the latency.
        let vectors = match (product.columns - column) / S::LANES {
            4 => 2,
            left => left.min(C),
        };
        match (vectors, product.left) {
            (1, Left::Rows) => down::<S, R, 1, true>(simd, product, column),
            (2, Left::Rows) => down::<S, R, 2, true>(simd, product, column),
            (_, Left::Rows) => down::<S, R, C, true>(simd, product, column),
            (1, Left::Columns) => down::<S, R, 1, false>(simd, product, column),
            (2, Left::Columns) => down::<S, R, 2, false>(simd, product, column),
            (_, Left::Columns) => down::<S, R, C, false>(simd, product, column),
        }
        column += vectors * S::LANES;
    }
}

/// All rows of `C` vectors of columns.
#[inline(always)]
fn down<S: Simd, const R: usize, const C: usize, const ROWS: bool>(simd: S, product: &mut Product<'_>, column: usize) {
    let mut row = 0;
    while product.rows - row >= R {
        tile::<S, R, C, ROWS>(simd, product, row, column);
        row += R;
    }
    if R > 4 && product.rows - row >= 4 {
        tile::<S, 4, C, ROWS>(simd, product, row, column);
        row += 4;
    }
    if product.rows - row >= 2 {
        tile::<S, 2, C, ROWS>(simd, product, row, column);
        row += 2;
    }
    if product.rows > row {
        tile::<S, 1, C, ROWS>(simd, product, row, column);
    }
}

/// One register tile: `R` rows from `row` on, `C` vectors from `column` on.
#[inline(always)]
fn tile<S: Simd, const R: usize, const C: usize, const ROWS: bool>(
    simd: S,
    product: &mut Product<'_>,
    row: usize,
    column: usize,
) {
    let (a_stride, b_stride, out_stride) = (product.a_stride, product.b_stride, product.out_stride);
    let a_start = product.a.as_ptr().wrapping_add(row.wrapping_mul(if ROWS { a_stride } else { 1 }));
    let mut a = [a_start; R];
    for (r, pointer) in a.iter_mut().enumerate() {
        *pointer = a_start.wrapping_add(r.wrapping_mul(if ROWS { a_stride } else { 1 }));
    }
    let mut b = product.b.as_ptr().wrapping_add(column);
    let mut sums = [[simd.splat(0.0); C]; R];
    let mut step: usize = 0;
    for _ in 0..product.depth {
        let mut right = [simd.splat(0.0); C];
        for (c, vector) in right.iter_mut().enumerate() {
            // SAFETY: row k of b, columns `column + c * LANES ..`; `check` has compared with the slice's length.
            *vector = unsafe { simd.load(b.wrapping_add(c * S::LANES)) };
        }
        for r in 0..R {
            // SAFETY: element (row + r, k) of a; `check` has compared with the slice's length.
            let left = unsafe { simd.broadcast(a[r].wrapping_add(step)) };
            for c in 0..C {
                sums[r][c] = simd.mul_add(left, right[c], sums[r][c]);
            }
        }
        step = step.wrapping_add(if ROWS { 1 } else { a_stride });
        b = b.wrapping_add(b_stride);
    }
    let out_start = product.out.as_mut_ptr().wrapping_add(row.wrapping_mul(out_stride)).wrapping_add(column);
    for (r, sums) in sums.iter().enumerate() {
        for (c, &sum) in sums.iter().enumerate() {
            let out = out_start.wrapping_add(r.wrapping_mul(out_stride)).wrapping_add(c * S::LANES);
            let sum = if product.add {
                // SAFETY: element (row + r, column + c * LANES) of out; `check` has compared with the slice's length.
                simd.add(unsafe { simd.load(out) }, sum)
            } else {
                sum
            };
            // SAFETY: as above.
            unsafe { simd.store(out, sum) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiled::simd::{Isa, dispatch};

    /// A product of whole numbers, exact in any order of summation, beside NaN wherever nothing may be read.
    struct Trial {
        left: Left,
        rows: usize,
        /// Columns in the least that a product takes.
        steps: usize,
        depth: usize,
        add: bool,
    }

    impl Work for &Trial {
        type Answer = (Vec<f32>, Vec<f32>);

        /// What was found, and what it should be.
        fn run<S: Simd>(self, simd: S) -> Self::Answer {
            let &Trial { left, rows, steps, depth, add } = self;
            let columns = steps * S::STEP;
            let number = |at: usize, by: usize| ((at * by) % 7) as f32 - 3.0;
            let (a_rows, a_columns) = if left == Left::Rows { (rows, depth) } else { (depth, rows) };
            let a = matrix(a_rows, a_columns, a_columns + 3, |at| number(at, 5));
            let b = matrix(depth, columns, columns + 1, |at| number(at, 3));
            let before = matrix(rows, columns, columns + 2, |at| number(at, 11));
            let mut out = before.clone();
            let (a_stride, b_stride, out_stride) = (a_columns + 3, columns + 1, columns + 2);
            let (a_read, b_read) = (a.as_slice(), b.as_slice());
            let product = Product {
                a: a_read,
                a_stride,
                left,
                b: b_read,
                b_stride,
                out: &mut out,
                out_stride,
                rows,
                columns,
                depth,
                add,
            };
            product.compute(simd);
            let mut expected = before;
            for (r, c) in (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c))) {
                let left = |k: usize| if left == Left::Rows { a[r * a_stride + k] } else { a[k * a_stride + r] };
                let sum = (0..depth).fold(0.0, |sum, k| sum + left(k) * b[k * b_stride + c]);
                let place = &mut expected[r * out_stride + c];
                *place = if add { *place + sum } else { sum };
            }
            (out, expected)
        }
    }

    /// Rows of `columns` numbers, NaN in the gaps between them.
    fn matrix(rows: usize, columns: usize, stride: usize, number: impl Fn(usize) -> f32) -> Vec<f32> {
        let cell = |at: usize| if at % stride < columns { number(at) } else { f32::NAN };
        (0..((rows.max(1) - 1) * stride + columns) * usize::from(rows > 0)).map(cell).collect()
    }

    #[test]
    fn every_remainder_of_rows_and_vectors_is_exact() {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            for (rows, steps) in (0..20).flat_map(|rows| (1..13).map(move |steps| (rows, steps))) {
                for (left, add, depth) in [(Left::Rows, true, 5), (Left::Columns, false, 3), (Left::Rows, false, 0)] {
                    let trial = Trial { left, rows, steps, depth, add };
                    let (found, expected) = dispatch(isa, &trial).unwrap();
                    let bits = |numbers: &[f32]| numbers.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                    // Gaps are NaN in both, so whatever was written outside the columns would show.
                    assert_eq!(bits(&found), bits(&expected), "{isa}, {left:?}, {rows} rows, {steps} steps");
                }
            }
        }
    }

    /// Three steps over one row of b, each time the same.
    struct Repeated;

    impl Work for Repeated {
        type Answer = (Vec<f32>, usize);

        fn run<S: Simd>(self, simd: S) -> Self::Answer {
            let (columns, left, add) = (S::LANES, Left::Rows, false);
            let (a, b, mut out) = ([1.0, 2.0, 4.0], vec![0.5; columns], vec![f32::NAN; columns]);
            let (rows, depth, b_stride) = (1, 3, 0);
            let (a, b) = (&a, &b);
            let to = &mut out;
            Product { a, a_stride: 3, left, b, b_stride, out: to, out_stride: columns, rows, columns, depth, add }
                .compute(simd);
            (out, columns)
        }
    }

    #[test]
    fn a_right_operand_whose_rows_are_one_row_is_read_again_and_again() {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let (found, columns) = dispatch(isa, Repeated).unwrap();
            assert_eq!(found, vec![3.5; columns], "{isa}");
        }
    }

    struct TooShort;

    impl Work for TooShort {
        type Answer = ();

        fn run<S: Simd>(self, simd: S) {
            let (a, b, mut out) = ([0.0; 7], [0.0; 64], [0.0; 64]);
            let (rows, columns, depth) = (2, S::LANES, 4);
            let (left, add) = (Left::Rows, false);
            Product {
                a: &a,
                a_stride: 4,
                left,
                b: &b,
                b_stride: 16,
                out: &mut out,
                out_stride: 16,
                rows,
                columns,
                depth,
                add,
            }
            .compute(simd);
        }
    }

    #[test]
    #[should_panic(expected = "left operand")]
    fn an_operand_that_ends_too_soon_is_refused_at_the_door() {
        let _ = dispatch(Isa::Portable, TooShort);
    }
}
