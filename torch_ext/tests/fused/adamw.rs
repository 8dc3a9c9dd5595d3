//! Steps of the optimizer: on state of fewer bits the very bits that the CPU leaves, in mixed precision within the budget.

use tch::{Device, Kind, Tensor};
use testkit::SplitMix64;
use torch_ext::cuda::TableKernel;
use torch_ext::fused::Machine;
use torch_ext::fused::adamw::{MixedPart, kernel_of_low, kernel_of_mixed, low, mixed};
use torch_ext::fused::kernel::{Kernel, Pass, every_kernel};
use torch_ext::optim::low::zero_moment;
use torch_ext::optim::{AdamWStep, Draws, LowMoments, LowPart, Quantised, adamw_low};

use crate::budget::{Answer, judge};
use crate::cases::numbers;
use crate::twin::{Mutation, Twin};

/// What a step keeps.
#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Mixed,
    Bfloat16,
    Int8,
}

/// Several steps on one parameter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Steps {
    state: State,
    weights: Kind,
    gradients: Kind,
    count: i64,
    /// Place of the first number in its parameter.
    first: u64,
}

/// Every kernel, on counts that fill no block.
pub(crate) fn steps() -> Vec<Steps> {
    let mut steps = Vec::new();
    for (state, weights) in [
        (State::Mixed, Kind::BFloat16),
        (State::Mixed, Kind::Half),
        (State::Bfloat16, Kind::BFloat16),
        (State::Bfloat16, Kind::Float),
        (State::Int8, Kind::BFloat16),
        (State::Int8, Kind::Float),
    ] {
        let brain = if state == State::Mixed { weights } else { Kind::BFloat16 };
        for gradients in [Kind::Float, brain] {
            for (count, first) in [(9000, 0), (1, 0), (2821, (1 << 35) + 512)] {
                steps.push(Steps { state, weights, gradients, count, first });
            }
        }
    }
    steps
}

/// A parameter and everything that belongs to it.
struct Slot {
    weights: Tensor,
    /// Mixed: the float32 weights.
    master: Tensor,
    moments: [Tensor; 2],
    scales: [Tensor; 2],
}

impl Slot {
    fn tensors(&self) -> Vec<(&'static str, &Tensor)> {
        let [mean, square] = &self.moments;
        let [mean_scales, square_scales] = &self.scales;
        vec![
            ("weights", &self.weights),
            ("master", &self.master),
            ("means", mean),
            ("squares", square),
            ("scales of means", mean_scales),
            ("scales of squares", square_scales),
        ]
    }

    fn to(&self, device: Device) -> Self {
        let moved = |tensor: &Tensor| tensor.to_device(device).copy();
        Self {
            weights: moved(&self.weights),
            master: moved(&self.master),
            moments: self.moments.each_ref().map(moved),
            scales: self.scales.each_ref().map(moved),
        }
    }

    fn low<'a>(&'a self, steps: &Steps, gradient: &'a Tensor) -> LowPart<'a> {
        let [mean, square] = &self.moments;
        let [mean_scales, square_scales] = &self.scales;
        let moments = match steps.state {
            State::Int8 => LowMoments::Int8 {
                mean: Quantised { codes: mean, scales: mean_scales },
                square: Quantised { codes: square, scales: square_scales },
            },
            _ => LowMoments::Bfloat16 { mean, square },
        };
        LowPart { parameter: &self.weights, gradient, moments, first: steps.first }
    }

    fn mixed<'a>(&'a self, gradient: &'a Tensor) -> MixedPart<'a> {
        let [mean, square] = &self.moments;
        MixedPart { master: &self.master, parameter: &self.weights, gradient, mean, square }
    }
}

/// Steps that are taken, one after the other.
const TAKEN: u64 = 3;

impl Steps {
    fn slot(&self) -> Slot {
        let cpu = |kind| (kind, Device::Cpu);
        let weights = Tensor::from_slice(&SplitMix64::new(1).normals(self.count as usize)) * 0.02;
        let zeros = |count: i64, kind| Tensor::zeros([count], cpu(kind));
        let (moments, scales) = match self.state {
            State::Mixed => ([(); 2].map(|()| zeros(self.count, Kind::Float)), [(); 2].map(|()| zeros(0, Kind::Float))),
            State::Bfloat16 => {
                ([(); 2].map(|()| zeros(self.count, Kind::BFloat16)), [(); 2].map(|()| zeros(0, Kind::Float)))
            }
            State::Int8 => {
                let [mean, square] =
                    [true, false].map(|signed| zero_moment(&[self.count], signed, Device::Cpu).unwrap());
                ([mean.0, square.0], [mean.1, square.1])
            }
        };
        let weights = weights.to_kind(self.weights);
        let master = weights.to_kind(Kind::Float).copy();
        Slot { weights, master, moments, scales }
    }

    /// Gradients of a step, of sizes over many decades; some are zero.
    fn gradient(&self, step: u64) -> Tensor {
        let mut random = SplitMix64::new(17 + step);
        let size = |place: usize| 10_f64.powi(-((place / 256 + place) as i32 % 7));
        let numbers: Vec<f64> = (0..self.count as usize).map(|place| random.normal() * size(place)).collect();
        let gradient = Tensor::from_slice(&numbers).to_kind(self.gradients);
        if self.count > 600 {
            let _ = gradient.narrow(0, 256, 300).zero_();
        }
        gradient
    }

    fn step(step: u64) -> AdamWStep {
        AdamWStep {
            step,
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.95,
            weight_decay: 0.1,
            epsilon: 1e-8,
            gradient_scale: 0.75,
        }
    }

    fn draws(step: u64) -> Draws {
        Draws { seed: 0x0123_4567_89ab_cdef, step, parameter: 5 }
    }

    /// Its kernel.
    pub(crate) fn kernel(&self) -> Kernel {
        let (slot, gradient) = (self.slot(), self.gradient(1));
        match self.state {
            State::Mixed => kernel_of_mixed(&slot.mixed(&gradient)).unwrap(),
            _ => kernel_of_low(&slot.low(self, &gradient)).unwrap(),
        }
    }

    /// The steps by a machine, judged.
    pub(crate) fn judged<M: Machine>(&self, machine: &M, device: Device) -> Result<(), String> {
        let (cpu, there) = (self.slot(), self.slot().to(device));
        let mut reference = Reference::of(&cpu);
        for step in 1..=TAKEN {
            let gradient = self.gradient(step);
            let on_device = gradient.to_device(device);
            let (numbers, draws) = (Self::step(step), Self::draws(step));
            match self.state {
                State::Mixed => mixed(machine, &there.mixed(&on_device), &numbers).map_err(|e| e.to_string())?,
                _ => {
                    low(machine, &there.low(self, &on_device), &numbers, &draws).map_err(|e| e.to_string())?;
                    adamw_low(&cpu.low(self, &gradient), &numbers, &draws).map_err(|e| e.to_string())?;
                }
            }
            reference.advance(&gradient, &numbers);
        }
        if self.state == State::Mixed { reference.judge(&there) } else { same_bits(&cpu, &there) }
    }
}

fn same_bits(expected: &Slot, found: &Slot) -> Result<(), String> {
    for ((name, expected), (_, found)) in expected.tensors().into_iter().zip(found.tensors()) {
        let found = found.to_device(Device::Cpu);
        if !found.view_dtype(Kind::Uint8).equal(&expected.view_dtype(Kind::Uint8)) {
            let (expected, found) = (numbers(expected), numbers(&found));
            let at = expected.iter().zip(&found).position(|(one, other)| one != other);
            return Err(format!("{name} differ, first at {at:?}: {:?}", at.map(|at| (expected[at], found[at]))));
        }
    }
    Ok(())
}

/// The paper's step in f64, and in float32 operation by operation.
struct Reference {
    exact: [Vec<f64>; 3],
    plain: [Vec<f32>; 3],
}

impl Reference {
    fn of(slot: &Slot) -> Self {
        let weights = numbers(&slot.master);
        let zeros = vec![0.0; weights.len()];
        let plain = weights.iter().map(|&x| x as f32).collect();
        Self {
            plain: [plain, vec![0.0; weights.len()], vec![0.0; weights.len()]],
            exact: [weights, zeros.clone(), zeros],
        }
    }

    fn advance(&mut self, gradient: &Tensor, n: &AdamWStep) {
        let (correct1, correct2) = (1.0 - n.beta1.powi(n.step as i32), 1.0 - n.beta2.powi(n.step as i32));
        for (at, g) in numbers(gradient).into_iter().enumerate() {
            let [weights, means, squares] = &mut self.exact;
            let (decay, scaled) = (1.0 - n.learning_rate * n.weight_decay, g * n.gradient_scale);
            means[at] = n.beta1 * means[at] + (1.0 - n.beta1) * scaled;
            squares[at] = n.beta2 * squares[at] + (1.0 - n.beta2) * scaled * scaled;
            let root = (squares[at] / correct2).sqrt() + n.epsilon;
            weights[at] = weights[at] * decay - n.learning_rate * means[at] / correct1 / root;
            let [weights, means, squares] = &mut self.plain;
            let scaled = scaled as f32;
            means[at] = n.beta1 as f32 * means[at] + (1.0 - n.beta1) as f32 * scaled;
            squares[at] = n.beta2 as f32 * squares[at] + (1.0 - n.beta2) as f32 * scaled * scaled;
            let root = (squares[at] / correct2 as f32).sqrt() + n.epsilon as f32;
            weights[at] = weights[at] * decay as f32 - n.learning_rate as f32 * means[at] / correct1 as f32 / root;
        }
    }

    fn judge(&self, found: &Slot) -> Result<(), String> {
        let [mean, square] = &found.moments;
        for ((name, tensor), (exact, plain)) in [("master", &found.master), ("mean", mean), ("square", square)]
            .into_iter()
            .zip(self.exact.iter().zip(&self.plain))
        {
            let plain: Vec<f64> = plain.iter().map(|&x| f64::from(x)).collect();
            judge(exact, &plain, &Answer { name, kind: Kind::Float, numbers: numbers(tensor) }, exact.len())?;
        }
        let rounded = found.master.to_device(Device::Cpu).to_kind(found.weights.kind());
        match rounded.equal(&found.weights.to_device(Device::Cpu)) {
            true => Ok(()),
            false => Err("the parameter is not its master, rounded".to_owned()),
        }
    }
}

#[test]
fn every_step_passes_by_the_twin() {
    for steps in steps() {
        steps.judged(&Twin::PLAIN, Device::Cpu).unwrap_or_else(|reason| panic!("{steps:?}: {reason}"));
    }
}

#[test]
fn the_steps_reach_every_kernel_of_the_optimizer() {
    let reached: std::collections::BTreeSet<String> = steps().iter().map(|steps| steps.kernel().name()).collect();
    let wanted = every_kernel().into_iter().filter(|kernel| matches!(kernel.spec.pass, Pass::AdamW { .. }));
    assert_eq!(reached, wanted.map(|kernel| kernel.name()).collect());
}

const fn bug(file: &'static str, from: &'static str, to: &'static str) -> Mutation {
    Mutation { file, from, to }
}

const MUTATIONS: [(State, Mutation); 12] = [
    (State::Mixed, bug("adamw.cu", "weights[i] * p.keep", "weights[i]")),
    (State::Mixed, bug("adamw.cu", "gradients[i] * p.scale", "gradients[i]")),
    (State::Mixed, bug("adamw.cu", "+ p.epsilon", "")),
    (State::Mixed, bug("adamw.cu", "square_root(squares[i]) * p.root", "square_root(squares[i])")),
    (State::Bfloat16, bug("adamw.cu", "p, MEAN_BITS, at", "p, SQUARE_BITS, at")),
    (State::Bfloat16, bug("adamw.cu", "p.first + at", "at")),
    (State::Bfloat16, bug("random.cuh", "round < 10", "round < 9")),
    (State::Bfloat16, bug("random.cuh", "| (u32)(call >> 32) << 2", "")),
    (State::Bfloat16, bug("random.cuh", "(word + random) >> 16", "(word + 0x8000u) >> 16")),
    (State::Int8, bug("adamw.cu", "if (book && numbers[i] > 0.0f) code = max_(code, 1);", "")),
    (State::Int8, bug("adamw.cu", "while (place < 255 && x > middle_of(book, place)) place++;", "")),
    (
        State::Int8,
        bug(
            "adamw.cu",
            "for (int mask = 16; mask > 0; mask /= 2) scale",
            "for (int mask = 8; mask > 0; mask /= 2) scale",
        ),
    ),
];

#[test]
fn every_bug_planted_in_a_step_is_rejected() {
    let mut survivors = Vec::new();
    for (state, mutation) in MUTATIONS {
        let of_state = steps().into_iter().filter(|steps| steps.state == state && steps.gradients != Kind::Float);
        let twin = Twin { mutation: Some(mutation), ..Twin::PLAIN };
        if of_state.clone().all(|steps| steps.judged(&twin, Device::Cpu).is_ok()) {
            survivors.push(mutation);
        }
    }
    assert!(survivors.is_empty(), "nothing rejects {survivors:#?}");
}
