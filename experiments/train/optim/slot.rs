//! A parameter and what the optimizer keeps of it.

use std::ops::Range;

use tch::{Device, Kind, Tensor, no_grad};
use torch_ext::autograd::take_gradient;
use torch_ext::optim::low::zero_moment;

use super::arrival::Arrival;
use super::bytes::BLOCK;
use super::processes::{Reduction, Shard};
use crate::config::{Memory, OptimizerState};
use crate::error::Failure;

/// Numbers of a parameter that a CUDA device works on at once, where their state lives in host memory (192 MB in float32) or
/// takes scratch memory.
const STREAMED: u64 = 1 << 24;

/// One parameter and what belongs to it.
#[derive(Debug)]
pub struct Slot {
    /// Checkpoint name.
    pub name: String,
    /// The parameter itself; shares memory with the model.
    pub parameter: Tensor,
    /// Its place in the order of the backward pass.
    pub(super) arrival: Arrival,
    /// What the learning rate is multiplied by for it.
    pub(super) rate: f64,
    /// Its number among the parameters.
    pub(super) number: u32,
    policy: OptimizerState,
    /// The numbers that this process moves.
    owned: Range<u64>,
    kept: Vec<Kept>,
    /// Gradients gathered over several passes in float32, where the parameter's own are of less.
    gathered: Option<Tensor>,
    /// The gradient of the owned numbers when it is complete, flat.
    ready: Option<Tensor>,
}

/// A tensor of state.
#[derive(Debug)]
struct Kept {
    what: &'static str,
    tensor: Tensor,
    /// Numbers of the parameter that share a number of it.
    per: u64,
}

/// Consecutive numbers of a parameter with their state, flat and on one device.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) parameter: Tensor,
    pub(super) gradient: Tensor,
    /// In the order of the slot's state.
    pub(super) kept: Vec<Tensor>,
    /// Place of the first within the parameter.
    pub(super) first: u64,
    pub(super) policy: OptimizerState,
    pub(super) number: u32,
    /// Whether its state is a copy that goes back where it came from after the step.
    pub(super) away: bool,
}

impl Slot {
    /// Fresh state for a parameter; see the policies of [`OptimizerState`].
    pub(super) fn new(
        (number, name): (usize, String),
        parameter: &Tensor,
        memory: &Memory,
        shard: Shard,
    ) -> Result<Self, Failure> {
        let kind = parameter.kind();
        let served = match memory.optimizer {
            OptimizerState::Mixed => matches!(kind, Kind::Float | Kind::BFloat16 | Kind::Half),
            _ => matches!(kind, Kind::Float | Kind::BFloat16),
        };
        if !served || !parameter.is_contiguous() {
            let layout = if parameter.is_contiguous() { "" } else { ", not in one piece" };
            return Err(Failure::config(format!(
                "{name}: the optimizer (memory.optimizer) does not move weights of {kind:?}{layout}"
            )));
        }
        let owned = shard.range(parameter.numel() as u64);
        // What is owned whole keeps the parameter's shape, in memory as in checkpoints.
        let shape = match owned == (0..parameter.numel() as u64) {
            true => parameter.size(),
            false => vec![(owned.end - owned.start) as i64],
        };
        let kept = fresh(parameter, &owned, &shape, memory)?;
        let arrival = Arrival::of(&name);
        let (parameter, number, policy) = (parameter.shallow_clone(), number as u32, memory.optimizer);
        Ok(Self { name, parameter, arrival, rate: 1.0, number, policy, owned, kept, gathered: None, ready: None })
    }

    /// State tensors by what they are: `mean`, `square`, and `master` or scales where there are any.
    pub fn state(&self) -> impl Iterator<Item = (&'static str, &Tensor)> {
        self.kept.iter().map(|kept| (kept.what, &kept.tensor))
    }

    /// Bytes of its state.
    pub fn bytes(&self) -> u64 {
        self.state().map(|(_, tensor)| (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64).sum()
    }

    pub(super) fn state_mut(&mut self) -> impl Iterator<Item = (&'static str, &mut Tensor)> {
        self.kept.iter_mut().map(|kept| (kept.what, &mut kept.tensor))
    }

    /// The weight that is moved, where the parameter is of less than float32 and is this, rounded. A bfloat16 number has 8
    /// bits, so that an update of less than 1/512 of it would be lost (Micikevicius et al. 2018, section 3.1).
    pub fn master(&self) -> Option<&Tensor> {
        self.state().find(|(what, _)| *what == "master").map(|(_, tensor)| tensor)
    }

    /// Makes the owned numbers of the parameter what their master is, rounded.
    pub(super) fn round_master(&self) -> Result<(), Failure> {
        if let Some(master) = self.master() {
            let (from, count) = (self.owned.start as i64, (self.owned.end - self.owned.start) as i64);
            no_grad(|| self.parameter.view(-1).narrow(0, from, count).f_copy_(&master.view(-1)))?;
        }
        Ok(())
    }

    /// Whether sums of its gradients would lose what comes later.
    pub(super) fn is_brief(&self) -> bool {
        self.parameter.kind() != Kind::Float
    }

    /// Adds the gradient of a pass to those before it in float32.
    pub(super) fn gather(&mut self) -> Result<(), Failure> {
        if let Some(gradient) = taken(&self.parameter)? {
            match &mut self.gathered {
                Some(gathered) => drop(gathered.f_add_(&gradient)?),
                None => self.gathered = Some(gradient.f_to_kind(Kind::Float)?),
            }
        }
        Ok(())
    }

    /// Takes the gradient from the parameter and reduces it; whether there is one.
    pub(super) fn make_ready(&mut self, reduction: Reduction) -> Result<bool, Failure> {
        if self.ready.is_none() {
            let gradient = match self.gathered.take() {
                Some(gathered) => Some(gathered),
                None => taken(&self.parameter)?,
            };
            self.ready = gradient.map(|gradient| reduction.scattered(&gradient, &self.owned));
        }
        Ok(self.ready.is_some())
    }

    /// What [`make_ready`](Self::make_ready) made.
    pub(super) fn ready(&self) -> Option<&Tensor> {
        self.ready.as_ref()
    }

    /// Lets go of every gradient.
    pub(super) fn forget_gradient(&mut self) -> Result<(), Failure> {
        (self.gathered, self.ready) = (None, None);
        taken(&self.parameter).map(drop)
    }

    /// Hands every part of the owned numbers with the gradient that is ready to `step`, and lets go of the gradient.
    pub(super) fn visit(&mut self, mut step: impl FnMut(Part) -> Result<(), Failure>) -> Result<(), Failure> {
        let Some(gradient) = self.ready.take() else { return Ok(()) };
        let away = self.is_away();
        // Off the CPU state of few bits may be moved operation by operation, which takes scratch memory for every number.
        let scratches = self.policy != OptimizerState::Mixed && self.parameter.device() != Device::Cpu;
        let at_once = if away || scratches { STREAMED } else { u64::MAX };
        let mut start = 0;
        let count = self.owned.end - self.owned.start;
        while start < count {
            let range = start..(start.saturating_add(at_once)).min(count);
            let part = self.part(&gradient, &range)?;
            let back: Vec<Tensor> = part.kept.iter().map(Tensor::shallow_clone).collect();
            step(part)?;
            if away {
                for (kept, here) in self.kept.iter().zip(&back) {
                    no_grad(|| kept.within(&range).f_copy_(here))?;
                }
            }
            start = range.end;
        }
        Ok(())
    }

    /// Whether its state lives on another device than the parameter.
    fn is_away(&self) -> bool {
        self.kept.first().is_some_and(|kept| kept.tensor.device() != self.parameter.device())
    }

    /// Owned numbers `range`, counted from the first owned; state that is elsewhere is copied to the parameter's device.
    fn part(&self, gradient: &Tensor, range: &Range<u64>) -> Result<Part, Failure> {
        let device = self.parameter.device();
        let first = self.owned.start + range.start;
        let cut = |tensor: &Tensor, from: u64| {
            no_grad(|| tensor.view(-1).narrow(0, from as i64, (range.end - range.start) as i64))
        };
        let here = |kept: &Kept| -> Result<Tensor, Failure> {
            let within = kept.within(range);
            match within.device() == device {
                true => Ok(within),
                // In order on the stream; nobody writes to the host's copy before the step's results come back.
                false => Ok(within.f_to_device_(device, within.kind(), true, false)?),
            }
        };
        Ok(Part {
            parameter: cut(&self.parameter, first),
            gradient: cut(gradient, range.start),
            kept: self.kept.iter().map(here).collect::<Result<_, _>>()?,
            first,
            policy: self.policy,
            number: self.number,
            away: self.is_away(),
        })
    }
}

impl Kept {
    /// The state of owned numbers `range`, flat; they begin at a multiple of what shares a number.
    fn within(&self, range: &Range<u64>) -> Tensor {
        let (from, to) = (range.start / self.per, range.end.div_ceil(self.per));
        self.tensor.view(-1).narrow(0, from as i64, (to - from) as i64)
    }
}

/// The gradient of a parameter, which has none afterwards.
fn taken(parameter: &Tensor) -> Result<Option<Tensor>, Failure> {
    take_gradient(parameter).map_err(|error| Failure::data(format!("a gradient: {error}")))
}

/// State tensors of `shape` for the owned numbers of a parameter.
fn fresh(parameter: &Tensor, owned: &Range<u64>, shape: &[i64], memory: &Memory) -> Result<Vec<Kept>, Failure> {
    let device = parameter.device();
    let away = memory.optimizer_on_host && device.is_cuda();
    let place = if away { Device::Cpu } else { device };
    let settled = |tensor: Tensor| if away { tensor.f_pin_memory(device) } else { Ok(tensor) };
    let kept = |what, per, tensor: Tensor| Ok::<_, Failure>(Kept { what, per, tensor: settled(tensor)? });
    let zeros = |kind| Tensor::f_zeros(shape, (kind, place));
    match memory.optimizer {
        OptimizerState::Mixed => {
            let mut all = vec![kept("mean", 1, zeros(Kind::Float)?)?, kept("square", 1, zeros(Kind::Float)?)?];
            if parameter.kind() != Kind::Float {
                let (from, count) = (owned.start as i64, (owned.end - owned.start) as i64);
                let exact = no_grad(|| {
                    let flat = parameter.detach().f_view([-1_i64])?.f_narrow(0, from, count)?;
                    flat.f_to_device_(place, Kind::Float, false, true)?.f_view(shape)
                })?;
                all.push(kept("master", 1, exact)?);
            }
            Ok(all)
        }
        OptimizerState::Bfloat16 => {
            Ok(vec![kept("mean", 1, zeros(Kind::BFloat16)?)?, kept("square", 1, zeros(Kind::BFloat16)?)?])
        }
        OptimizerState::Int8 => {
            let (mean, of_mean) = zero_moment(shape, true, place)?;
            let (square, of_square) = zero_moment(shape, false, place)?;
            Ok(vec![
                kept("mean", 1, mean)?,
                kept("square", 1, square)?,
                kept("mean_scale", BLOCK, of_mean)?,
                kept("square_scale", BLOCK, of_square)?,
            ])
        }
    }
}
