//! A model with adapters: what is trained of it, and the plain model that it stands for.

use tch::{Device, Kind, Tensor};

use super::block::Block;
use super::config::{Family, ModelConfig};
use super::linear::Weight;
use super::llama::Llama;
use super::lora::{LowRank, LowRankConfig, PassNumber};
use super::nf4::nf4_bytes;
use super::peft::BaseModel;
use crate::config::{Adapter, Base};
use crate::error::Failure;

/// What the adapters of a model were made by.
#[derive(Debug, Clone)]
pub struct Adapted {
    /// Rank, targets, and what is trained beside them.
    pub config: Adapter,
    /// The pass that dropout draws for.
    pub pass: PassNumber,
    /// The model that they adapt.
    pub base: BaseModel,
}

/// Parameters of an adapted model by what becomes of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AdaptedCount {
    /// Of `A` and `B`: new, trained.
    pub low_rank: u64,
    /// Of the base, trained whole.
    pub whole: u64,
    /// Of the base, frozen, in the model's element type.
    pub frozen: u64,
    /// Bytes of the base's matrices that are in NF4.
    pub nf4_bytes: u64,
    /// Largest of those matrices, in weights: it is computed again wherever it is used.
    pub largest_nf4: u64,
}

impl AdaptedCount {
    /// Counts for a model of this shape under `adapter`.
    pub fn of(model: &ModelConfig, adapter: &Adapter) -> Self {
        let mut count = Self::default();
        for (name, shape) in model.expected_tensors() {
            let weights: u64 = shape.iter().map(|&n| n as u64).product();
            let projection = name.strip_suffix(".weight").filter(|name| name.ends_with("_proj"));
            if projection.is_some_and(|name| adapter.has_target(name)) {
                count.low_rank += adapter.rank as u64 * shape.iter().map(|&n| n as u64).sum::<u64>();
            }
            match projection {
                Some(_) if adapter.base == Base::Nf4 => {
                    count.nf4_bytes += nf4_bytes(weights);
                    count.largest_nf4 = count.largest_nf4.max(weights);
                }
                _ if adapter.trains_whole(&name) => count.whole += weights,
                _ => count.frozen += weights,
            }
        }
        count
    }

    /// Parameters that gradients and optimizer state are held for.
    #[must_use]
    pub const fn trained(&self) -> u64 {
        self.low_rank + self.whole
    }
}

impl Block {
    /// Puts its matrices onto `device` in NF4, and everything else there as it is.
    ///
    /// # Errors
    ///
    /// When memory cannot be had.
    pub(super) fn quantise_on(&mut self, device: Device) -> Result<(), Failure> {
        for (_, linear) in self.linears_mut() {
            linear.weight = linear.weight.quantised_on(device)?;
            linear.bias.as_mut().map_or(Ok(()), |bias| move_to(bias, device))?;
        }
        [&mut self.input_norm.weight, &mut self.post_norm.weight].into_iter().try_for_each(|it| move_to(it, device))
    }
}

fn move_to(tensor: &mut Tensor, device: Device) -> Result<(), Failure> {
    *tensor = tensor.f_to_device(device)?;
    Ok(())
}

impl Llama {
    /// Gives every target of `adapter` a new adapter, a function of `seed`; those that were there are merged, and the base is
    /// quantised, onto `device`, where it is to be. The model computes what it did before, up to the quantisation.
    ///
    /// # Errors
    ///
    /// When the model is of a family that takes no adapters, or memory cannot be had.
    pub fn adapt(&mut self, adapter: &Adapter, seed: u64, (base, device): (BaseModel, Device)) -> Result<(), Failure> {
        if self.config.family == Family::Btlm {
            let what = "the BTLM family's projections lie in one matrix, which PEFT's names cannot tell apart";
            return Err(Failure::config(format!("adapter: {what}; train every parameter, or a LLaMA model")));
        }
        if self.adapter.is_some() {
            self.merge();
        }
        if adapter.base == Base::Nf4 {
            self.quantise_on(device)?;
        }
        let (rank, alpha, dropout) = (adapter.rank, adapter.alpha, adapter.dropout);
        let (pass, form) = (PassNumber::default(), (self.embedding.kind(), self.embedding.device()));
        let config = LowRankConfig { rank, alpha, dropout, seed };
        for (index, block) in self.blocks.iter_mut().enumerate() {
            for (name, linear) in block.linears_mut() {
                if adapter.has_target(name) {
                    let name = format!("model.layers.{index}.{name}");
                    linear.adapter = Some(LowRank::new(&name, linear.weight.shape(), config, &pass, form)?);
                }
            }
        }
        self.adapter = Some(Adapted { config: adapter.clone(), pass, base });
        Ok(())
    }

    /// Puts the matrices of the blocks onto `device` in NF4, one after another, and everything else there as it is.
    ///
    /// # Errors
    ///
    /// When memory cannot be had.
    pub fn quantise_on(&mut self, device: Device) -> Result<(), Failure> {
        self.blocks.iter_mut().try_for_each(|block| block.quantise_on(device))?;
        [&mut self.embedding, &mut self.norm.weight]
            .into_iter()
            .chain(&mut self.head)
            .try_for_each(|it| move_to(it, device))
    }

    /// What training moves, with its name: every parameter, or those of the adapters and what is trained whole beside them.
    pub fn trained(&self) -> Vec<(String, &Tensor)> {
        let mut all = self.parameters();
        if let Some(Adapted { config, .. }) = &self.adapter {
            all.retain(|(name, _)| name.contains(".lora_") || config.trains_whole(name));
        }
        all
    }

    /// Adds what the adapters say to the weights, of quantised ones what they stand for, and lets the adapters go. The sums
    /// are formed in float32 and rounded once.
    pub fn merge(&mut self) {
        let kind = self.embedding.kind();
        for block in &mut self.blocks {
            for (_, linear) in block.linears_mut() {
                let sum = match (linear.adapter.take(), &linear.weight) {
                    (None, Weight::Full(_)) => continue,
                    (None, weight) => weight.dequantised(kind),
                    (Some(adapter), weight) => weight.dequantised(Kind::Float) + adapter.update(),
                };
                linear.weight = Weight::Full(sum.to_kind(kind));
            }
        }
        self.adapter = None;
    }
}
