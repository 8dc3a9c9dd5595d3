//! Rotation of one tensor in place: its formula, its cases, and their judgement.

use attention::DType;
use attention::cuda::kernels::{self, Kernel};
use ndarray::Array4;
use tch::{Kind, Tensor};

use super::random::Random;
use super::runners::torch::{array, kind, tensor};

/// How a tensor lies in the memory that it is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// Positions inside heads.
    Plain,
    /// Heads inside positions, as a projection leaves them.
    Projected,
    /// Plain, with eight channels more behind each vector, which are not its own.
    Apart,
}

/// One rotation.
#[derive(Debug)]
pub(crate) struct Turn {
    dtype: DType,
    dims: [usize; 4],
    pairs: usize,
    /// Position of the first row.
    first: usize,
    pub(crate) inverse: bool,
    layout: Layout,
}

/// Every type, both ways, over shapes that fit no block.
pub(crate) fn turns() -> Vec<Turn> {
    let shapes = [
        ([2, 3, 5, 80], 32, 2),
        ([1, 4, 70, 64], 32, 0),
        ([2, 2, 1, 128], 64, 4000),
        ([1, 5, 33, 256], 128, 7),
        ([1, 2, 17, 24], 8, 3),
    ];
    let mut turns = Vec::new();
    for dtype in [DType::BF16, DType::F16, DType::F32] {
        for (dims, pairs, first) in shapes {
            for inverse in [false, true] {
                let layout = [Layout::Plain, Layout::Projected, Layout::Apart][turns.len() % 3];
                turns.push(Turn { dtype, dims, pairs, first, inverse, layout });
            }
        }
    }
    turns
}

pub(crate) fn angle(position: usize, pair: usize) -> f64 {
    position as f64 * 0.9_f64.powi(pair as i32)
}

/// The formula, for positions `first ..`; `back` turns the other way.
pub(crate) fn rotated(x: &Array4<f64>, pairs: usize, first: usize, back: bool) -> Array4<f64> {
    let sign = if back { -1.0 } else { 1.0 };
    Array4::from_shape_fn(x.dim(), |(batch, head, row, channel)| {
        let at = |channel: usize| x[(batch, head, row, channel)];
        let (sin, cos) = (sign * angle(row + first, channel % pairs)).sin_cos();
        match channel / pairs {
            0 => at(channel) * cos - at(channel + pairs) * sin,
            1 => at(channel - pairs) * sin + at(channel) * cos,
            _ => at(channel),
        }
    })
}

/// Whether an answer is the exact one but for float32 and one rounding.
pub(crate) fn agree(dtype: DType, wanted: &Array4<f64>, found: &Array4<f64>) -> Result<(), String> {
    let near = |found: f64, wanted: f64| (found - wanted).abs() <= 1.01 * dtype.unit_roundoff() * wanted.abs() + 1e-6;
    // A NaN is near nothing.
    let off = found.iter().zip(wanted).find(|(found, wanted)| !near(**found, **wanted));
    off.map_or(Ok(()), |(found, wanted)| Err(format!("{dtype}: {found} instead of {wanted}")))
}

impl Turn {
    pub(crate) fn kernel(&self) -> Kernel {
        kernels::rotation(self.dtype).unwrap()
    }

    /// Memory in one piece that holds the tensor.
    pub(crate) fn whole(&self) -> Tensor {
        let [batch, heads, length, head_dim] = self.dims;
        let dims = match self.layout {
            Layout::Plain => self.dims,
            Layout::Projected => [batch, length, heads, head_dim],
            Layout::Apart => [batch, heads, length, head_dim + 8],
        };
        tensor(&Random::new(11).normal_array(dims), kind(self.dtype))
    }

    /// The tensor itself.
    pub(crate) fn x(&self, whole: &Tensor) -> Tensor {
        match self.layout {
            Layout::Plain => whole.shallow_clone(),
            Layout::Projected => whole.transpose(1, 2),
            Layout::Apart => whole.narrow(3, 0, self.dims[3] as i64),
        }
    }

    /// Cosine and sine of each position and pair.
    pub(crate) fn angles(&self) -> Tensor {
        let length = self.dims[2];
        let positions = self.first..self.first + length;
        let angles = positions.flat_map(|position| (0..self.pairs).map(move |pair| angle(position, pair)));
        let values: Vec<f32> = angles.flat_map(|angle| [angle.cos() as f32, angle.sin() as f32]).collect();
        Tensor::from_slice(&values).view([length as i64, self.pairs as i64, 2]).to_kind(Kind::Float)
    }

    /// The memory before and after the rotation.
    pub(crate) fn judge(&self, before: &Tensor, after: &Tensor) -> Result<(), String> {
        let exact = rotated(&array(&self.x(before)), self.pairs, self.first, self.inverse);
        agree(self.dtype, &exact, &array(&self.x(after)))?;
        let beside = |whole: &Tensor| array(&whole.narrow(3, self.dims[3] as i64, 8));
        if self.layout == Layout::Apart && beside(before) != beside(after) {
            return Err("what lies beside the tensor has changed".to_owned());
        }
        Ok(())
    }
}
