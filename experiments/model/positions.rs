//! A position plan as tensors: rotation in float32, result cast back.

use attention::Backend;
use rope_scaling::PositionPlan;
use tch::{Device, Kind, Tensor};

use super::extrapolation::Extrapolation;
use super::rotation::{Angles, RotationError, Turned, fits, goes_to_kernel, rotated_by_kernel, rotated_in_place};
use super::shifted_sparse::ShiftedSparse;
use crate::error::Failure;

/// [`PositionPlan`] on a device.
#[derive(Debug)]
pub struct PlanTensors {
    rotary: Option<Rotary>,
    alibi: Option<Vec<f64>>,
    score_factor: f64,
    length: usize,
    fingerprint: u64,
    extrapolation: Option<Extrapolation>,
    sparse: Option<ShiftedSparse>,
}

/// Cos and sin `[positions, rotary_dim / 2]`, attention factor included.
#[derive(Debug)]
struct Rotary {
    cos: Tensor,
    sin: Tensor,
    half: i64,
    /// Both, `[positions, rotary_dim / 2, 2]`, as the CUDA kernel reads them; none elsewhere.
    angles: Option<Tensor>,
    /// Sequences side by side that have positions of their own: rows are then `[sequences, length]`. 1: all share them.
    sequences: i64,
}

impl Rotary {
    /// Rows of a table for positions `offset ..`, as they multiply `[batch, heads, length, rotary_dim / 2]`.
    fn rows(&self, table: &Tensor, offset: i64, length: i64) -> Tensor {
        match self.sequences {
            1 => table.narrow(0, offset, length),
            sequences => table.view([sequences, 1, length, self.half]),
        }
    }
}

impl PlanTensors {
    /// Copies a plan to `device`.
    pub fn new(plan: &PositionPlan, device: Device) -> Self {
        let rotary = plan.rotary().map(|table| {
            let rows = table.positions().len() as i64;
            let half = table.cos().len() as i64 / rows.max(1);
            let tensor = |values: &[f32]| Tensor::from_slice(values).view([rows, half]).to_device(device);
            let (cos, sin) = (tensor(table.cos()), tensor(table.sin()));
            let angles = device.is_cuda().then(|| Tensor::stack(&[&cos, &sin], 2));
            Rotary { cos, sin, half, angles, sequences: 1 }
        });
        Self {
            rotary,
            alibi: plan.alibi_slopes().map(<[f64]>::to_vec),
            score_factor: plan.score_factor(),
            length: plan.length(),
            fingerprint: plan.fingerprint(),
            extrapolation: None,
            sparse: None,
        }
    }

    /// The same for sequences side by side, each of whose tokens stands at a position of its own: one list for each, all of
    /// one length. Such a plan reads whole sequences, with no tokens before.
    ///
    /// # Errors
    ///
    /// When a position is outside the plan, lists differ in length, or positions are not rotated.
    pub fn at(&self, positions: &[&[u32]]) -> Result<Self, Failure> {
        let Some(Rotary { cos, sin, half, .. }) = &self.rotary else {
            return Err(Failure::config("tokens with positions of their own need rotary positions"));
        };
        let length = positions.first().map_or(0, |list| list.len());
        let rows: Vec<i64> = positions.iter().flat_map(|list| list.iter().map(|&place| i64::from(place))).collect();
        if positions.iter().any(|list| list.len() != length) || rows.iter().any(|&row| row >= cos.size()[0]) {
            return Err(Failure::config(format!("positions reach beyond the {} of the plan", self.length)));
        }
        let rows = Tensor::from_slice(&rows).to_device(cos.device());
        let chosen = |table: &Tensor| table.index_select(0, &rows);
        let sequences = positions.len() as i64;
        let rotary = Rotary { cos: chosen(cos), sin: chosen(sin), half: *half, angles: None, sequences };
        Ok(Self { rotary: Some(rotary), alibi: None, ..self.plain() })
    }

    /// With attention inside groups, for training.
    #[must_use]
    pub fn with_sparse(self, sparse: Option<ShiftedSparse>) -> Self {
        Self { sparse, ..self }
    }

    /// Attention inside groups, if that is how it is trained.
    pub fn sparse(&self) -> Option<ShiftedSparse> {
        self.sparse
    }

    /// Everything but the tables.
    fn plain(&self) -> Self {
        Self {
            rotary: None,
            alibi: None,
            score_factor: self.score_factor,
            length: self.length,
            fingerprint: self.fingerprint,
            extrapolation: self.extrapolation,
            sparse: self.sparse,
        }
    }

    /// With scores multiplied by `factor` as well, as a model of muP does.
    #[must_use]
    pub(super) fn with_score_factor(self, factor: f64) -> Self {
        Self { score_factor: self.score_factor * factor, ..self }
    }

    /// With a method that decides positions inside attention, beside the plan; un-rotated keys then go into a cache.
    #[must_use]
    pub fn with_extrapolation(self, extrapolation: Option<Extrapolation>) -> Self {
        Self { extrapolation, ..self }
    }

    /// The method that decides positions inside attention, if any.
    pub fn extrapolation(&self) -> Option<Extrapolation> {
        self.extrapolation
    }

    /// Identity of what the plan does to a position; see [`PositionPlan::fingerprint`].
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint ^ self.extrapolation.map_or(0, Extrapolation::fingerprint)
    }

    /// Positions that the plan covers.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Slopes per query head, already scaled.
    pub fn alibi_slopes(&self) -> Option<&[f64]> {
        self.alibi.as_deref()
    }

    /// The factor on `q k^T`.
    pub fn score_scale(&self, head_dim: usize) -> f64 {
        self.score_factor / (head_dim as f64).sqrt()
    }

    /// `x` `[batch, heads, length, head_dim]` rotated as positions `offset ..`, pairs `(i, i + rotary_dim / 2)`
    /// (Su et al. 2021, equation 34, in the half-split order of the Hugging Face checkpoints).
    pub fn rotated(&self, x: &Tensor, offset: i64) -> Tensor {
        let length = x.size()[2];
        self.rotated_by(x, |rotary, table| rotary.rows(table, offset, length))
    }

    /// The same for a tensor that nothing else reads, in a model that attends by `backend`: where it can, the rotation is
    /// written over it.
    ///
    /// # Errors
    ///
    /// When the plan does not reach as far as the positions, or the CUDA kernel fails.
    pub fn rotated_over(&self, x: Tensor, offset: i64, backend: Backend) -> Result<Tensor, RotationError> {
        let length = x.size()[2];
        if let Some(angles) = self.rotary.as_ref().and_then(|rotary| rotary.angles.as_ref()) {
            let angles = angles.narrow(0, offset, length);
            if goes_to_kernel(&x, &angles, backend) {
                return rotated_by_kernel(&x, &angles);
            }
        }
        match self.angles(offset, length) {
            Some((cos, sin)) if fits(&x) => rotated_in_place(&x, Angles { cos: &cos, sin: &sin }),
            _ => Ok(self.rotated(&x, offset)),
        }
    }

    /// The gradient by `x` for `grad` `[batch, heads, length, head_dim]`, that by what [`PlanTensors::rotated_over`] gave for
    /// positions `offset ..`: as `[batch, length, heads, head_dim]` in one piece, which the projection before wants.
    pub(super) fn turned_back(&self, grad: &Tensor, offset: i64, backend: Backend) -> Result<Tensor, RotationError> {
        let (grad, length) = (grad.transpose(1, 2), grad.size()[2]);
        let Some(rotary) = &self.rotary else { return Ok(grad.contiguous()) };
        let turned = Turned::copy_of(&grad)?;
        if let Some(angles) = &rotary.angles {
            let angles = angles.narrow(0, offset, length);
            if goes_to_kernel(&turned.heads(), &angles, backend) {
                return turned.back_by_kernel(&angles);
            }
        }
        match self.angles(offset, length) {
            Some((cos, sin)) if fits(&turned.heads()) => turned.back(Angles { cos: &cos, sin: &sin }),
            _ => {
                let heads = turned.heads();
                let back =
                    self.turned(&heads, &|rotary: &Rotary, table: &Tensor| rotary.rows(table, offset, length), -1.0);
                Ok(back.transpose(1, 2).contiguous())
            }
        }
    }

    /// Another handle on the same plan.
    pub(super) fn handle(&self) -> Self {
        let rotary = self.rotary.as_ref().map(|Rotary { cos, sin, half, angles, sequences }| Rotary {
            cos: cos.shallow_clone(),
            sin: sin.shallow_clone(),
            half: *half,
            angles: angles.as_ref().map(Tensor::shallow_clone),
            sequences: *sequences,
        });
        Self { rotary, alibi: self.alibi.clone(), ..*self }
    }

    /// Cos and sin `[length, rotary_dim / 2]` of positions `offset ..`, or `[sequences * length, rotary_dim / 2]`; none without
    /// a rotation.
    pub(super) fn angles(&self, offset: i64, length: i64) -> Option<(Tensor, Tensor)> {
        let Rotary { cos, sin, sequences, .. } = self.rotary.as_ref()?;
        // Of sequences with positions of their own, the rows of all of them.
        let (offset, length) = if *sequences > 1 { (0, cos.size()[0]) } else { (offset, length) };
        Some((cos.narrow(0, offset, length), sin.narrow(0, offset, length)))
    }

    /// `x` `[batch, heads, length, head_dim]` rotated as `positions`, one for each of `length`, all inside the plan.
    pub fn rotated_at(&self, x: &Tensor, positions: &[i64]) -> Tensor {
        let rows = Tensor::from_slice(positions).to_device(x.device());
        self.rotated_by(x, |_, table| table.index_select(0, &rows))
    }

    fn rotated_by(&self, x: &Tensor, rows: impl Fn(&Rotary, &Tensor) -> Tensor) -> Tensor {
        self.turned(x, &rows, 1.0)
    }

    /// `x` rotated by the angles of `rows`, or by their opposites where `direction` is -1.
    fn turned(&self, x: &Tensor, rows: &impl Fn(&Rotary, &Tensor) -> Tensor, direction: f64) -> Tensor {
        let Some(rotary) = &self.rotary else { return x.shallow_clone() };
        let heads = x.size()[1];
        if x.device() == Device::Cpu && heads > 1 {
            // Head by head: what comes in between is in float32, and several times as large.
            let turned: Vec<Tensor> =
                (0..heads).map(|head| self.turned(&x.narrow(1, head, 1), rows, direction)).collect();
            return Tensor::cat(&turned, 1);
        }
        let (head_dim, half) = (x.size()[3], &rotary.half);
        let (cos, sin) = (rows(rotary, &rotary.cos), rows(rotary, &rotary.sin) * direction);
        let wide = x.to_kind(Kind::Float);
        let (first, second) = (wide.narrow(3, 0, *half), wide.narrow(3, *half, *half));
        let mut parts = vec![&first * &cos - &second * &sin, &second * &cos + &first * &sin];
        if 2 * half < head_dim {
            parts.push(wide.narrow(3, 2 * half, head_dim - 2 * half));
        }
        Tensor::cat(&parts, 3).to_kind(x.kind())
    }
}
