//! Strided tensors over slices.

use std::ops::Range;

use super::TiledError;
use super::element::Element;

/// One tensor `[batch, heads, len, head_dim]` of a problem: element `(b, h, n, d)` is `data[b * strides[0] + h * strides[1] +
/// n * strides[2] + d]`.
#[derive(Debug, Clone, Copy)]
pub struct View<'a, T> {
    /// From the first element on.
    pub data: &'a [T],
    /// Of batch, head and position, in elements; zero repeats.
    pub strides: [usize; 3],
}

impl<'a, T: Element> View<'a, T> {
    /// A tensor whose elements follow each other, of shape `[batch, heads, len, head_dim]`.
    #[must_use]
    pub fn contiguous(data: &'a [T], dims: [usize; 4]) -> Self {
        let [_, heads, len, head_dim] = dims;
        Self { data, strides: [heads * len * head_dim, len * head_dim, head_dim] }
    }

    /// Whether every element lies in the slice.
    pub(super) fn check(&self, tensor: &'static str, dims: [usize; 4]) -> Result<(), TiledError> {
        let [batch, heads, len, head_dim] = dims;
        let steps = [(batch, self.strides[0]), (heads, self.strides[1]), (len, self.strides[2])];
        let last = steps.iter().try_fold(head_dim, |end, &(count, stride)| {
            (count - 1).checked_mul(stride).and_then(|steps| steps.checked_add(end))
        });
        match last {
            Some(needed) if needed <= self.data.len() => Ok(()),
            needed => Err(TiledError::TooShort { tensor, needed, found: self.data.len() }),
        }
    }

    /// Row `position` and what follows it.
    fn after(&self, batch: usize, head: usize, position: usize) -> &'a [T] {
        &self.data[batch * self.strides[0] + head * self.strides[1] + position * self.strides[2]..]
    }

    /// One row.
    pub(super) fn row(&self, batch: usize, head: usize, position: usize, head_dim: usize) -> &'a [T] {
        &self.after(batch, head, position)[..head_dim]
    }

    /// Rows as float32: where they lie if they are float32 and `width` columns may be read, else copied to `space`, with
    /// zeros from `head_dim` to `width`.
    pub(super) fn rows<'s>(&self, place: Place, positions: Range<usize>, width: usize, space: &'s mut [f32]) -> Rows<'s>
    where
        'a: 's,
    {
        let Place { batch, head, head_dim } = place;
        if width == head_dim
            && let Some(data) = T::singles(self.after(batch, head, positions.start))
        {
            return Rows { data, stride: self.strides[2] };
        }
        for (row, position) in space.chunks_exact_mut(width).zip(positions) {
            let (numbers, padding) = row.split_at_mut(head_dim);
            T::widen(self.row(batch, head, position, head_dim), numbers);
            padding.fill(0.0);
        }
        Rows { data: space, stride: width }
    }

    /// Columns as rows: `[head_dim, width]`, lane `n` holding `factor` times row `positions.start + n`, zero beyond them.
    pub(super) fn transposed(
        &self,
        place: Place,
        positions: Range<usize>,
        width: usize,
        factor: f32,
        row: &mut [f32],
        to: &mut [f32],
    ) {
        let Place { batch, head, head_dim } = place;
        for lane in 0..width {
            let row = &mut row[..head_dim];
            match positions.start + lane {
                position if position < positions.end => T::widen(self.row(batch, head, position, head_dim), row),
                _ => row.fill(0.0),
            }
            for (column, &x) in to.chunks_exact_mut(width).zip(&*row) {
                column[lane] = factor * x;
            }
        }
    }
}

/// Whose rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) batch: usize,
    pub(super) head: usize,
    pub(super) head_dim: usize,
}

/// Rows of float32, `stride` apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) data: &'a [f32],
    pub(super) stride: usize,
}

impl<'a> Rows<'a> {
    /// The rows from `row` on.
    pub(super) fn tail(&self, row: usize) -> &'a [f32] {
        &self.data[row * self.stride..]
    }
}
