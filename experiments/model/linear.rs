//! A linear map and its derivatives: the one place where a weight meets activations, so that what changes weights (an
//! adapter, another number format) changes them here and nowhere else.
//!
//! For `y = x W^T + b` and the gradient `dy` by `y`: `dx = dy W`, `dW = dy^T x`, `db` the sum of `dy` over rows. An adapter
//! adds its own: see [`LowRank`].

use tch::{Device, Kind, Tensor};

use super::host::unset_like;
use super::lora::LowRank;
use super::nf4::Nf4Matrix;
use super::products;

/// How the weight of a map is held.
#[derive(Debug)]
pub enum Weight {
    /// `[out, in]` in the model's element type.
    Full(Tensor),
    /// In four bits, computed again wherever it is used; never trained.
    Nf4(Nf4Matrix),
}

/// A linear map `x W^T + b`, and `(alpha / rank) x A^T B^T` where it is adapted.
#[derive(Debug)]
pub struct Linear {
    /// `W`, `[out, in]`.
    pub weight: Weight,
    /// `b`, `[out]`.
    pub bias: Option<Tensor>,
    /// `A` and `B`.
    pub adapter: Option<LowRank>,
}

/// Gradients by some tensors, each in its place; none for one that asks for none.
pub type Gradients = Vec<Option<Tensor>>;

impl Linear {
    /// A plain map.
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight: Weight::Full(weight), bias, adapter: None }
    }

    /// `[.., out]` of `x` `[.., in]`; differentiable.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let product = match &self.weight {
            Weight::Full(weight) => self.product(x, weight),
            Weight::Nf4(weight) => weight.product(x, self.bias.as_ref()),
        };
        match &self.adapter {
            Some(adapter) => adapter.added_to(&product, x),
            None => product,
        }
    }

    /// `x W^T + b`.
    fn product(&self, x: &Tensor, weight: &Tensor) -> Tensor {
        match (products::product(x, weight), &self.bias) {
            (Some(y), None) => y,
            (Some(mut y), Some(bias)) => y.g_add_(bias),
            (None, bias) => x.linear(weight, bias.as_ref()),
        }
    }

    /// Adds what `x` `[rows, in]` and the gradient `dy` `[rows, out]` say of the map's tensors to `sums`, which is in the
    /// order of [`Linear::parameters`]; of those that ask for no gradient nothing is computed. Nothing is recorded.
    pub fn gather(&self, x: &Tensor, dy: &Tensor, sums: &mut Gradients) {
        let mut places = sums.iter_mut();
        if let (Some(weight), Some(sum)) = (self.weight.full(), self.weight.full().and_then(|_| places.next()))
            && weight.requires_grad()
        {
            let added = sum.is_some();
            let sum = sum.get_or_insert_with(|| unset_like(weight));
            products::gathered(dy, x, sum, added).expect("rows of the map's widths");
        }
        if let (Some(bias), Some(sum)) = (&self.bias, self.bias.as_ref().and_then(|_| places.next()))
            && bias.requires_grad()
        {
            let of_pass = dy.sum_dim_intlist([0_i64].as_slice(), false, Kind::Float).to_kind(bias.kind());
            *sum = Some(sum.take().map_or_else(|| of_pass.shallow_clone(), |before| before + &of_pass));
        }
        if let (Some(adapter), Some(down), Some(up)) = (&self.adapter, places.next(), places.next()) {
            adapter.gather(x, dy, down, up);
        }
    }

    /// `dx` `[rows, in]` for `dy` `[rows, out]`, added to `onto` where there is one, which is then written over.
    pub fn pulled(&self, dy: &Tensor, onto: Option<Tensor>) -> Tensor {
        let dequantised;
        let weight = match &self.weight {
            Weight::Full(weight) => weight,
            Weight::Nf4(weight) => {
                dequantised = weight.dequantised(dy.kind());
                &dequantised
            }
        };
        let added = onto.is_some();
        let mut dx = onto.unwrap_or_else(|| Tensor::empty([dy.size()[0], weight.size()[1]], (dy.kind(), dy.device())));
        products::pulled(dy, weight, &mut dx, added).expect("rows of the map's widths");
        match &self.adapter {
            Some(adapter) => adapter.pulled(dy, dx),
            None => dx,
        }
    }

    /// Another handle on the same tensors.
    pub(super) fn handle(&self) -> Self {
        let bias = self.bias.as_ref().map(Tensor::shallow_clone);
        Self { weight: self.weight.handle(), bias, adapter: self.adapter.as_ref().map(LowRank::handle) }
    }

    /// Its tensors in full, with what follows the map's name in a checkpoint, those of an adapter named as in PEFT.
    pub fn parameters(&self) -> Vec<(&'static str, &Tensor)> {
        let weight = self.weight.full().map(|weight| ("weight", weight));
        let adapter = self.adapter.iter().flat_map(LowRank::parameters);
        weight.into_iter().chain(self.bias.as_ref().map(|bias| ("bias", bias))).chain(adapter).collect()
    }
}

/// A place for a gradient by each of `count` tensors.
pub(super) fn places(count: usize) -> Gradients {
    std::iter::repeat_with(|| None).take(count).collect()
}

/// Adds `left right` to a sum that may not have begun.
pub(super) fn add(sum: &mut Option<Tensor>, left: &Tensor, right: &Tensor) {
    match sum {
        Some(sum) => drop(sum.addmm_(left, right)),
        none => *none = Some(left.mm(right)),
    }
}

impl Weight {
    /// The tensor, unless it is quantised.
    pub fn full(&self) -> Option<&Tensor> {
        match self {
            Self::Full(weight) => Some(weight),
            Self::Nf4(_) => None,
        }
    }

    /// `[out, in]`.
    pub fn shape(&self) -> [i64; 2] {
        match self {
            Self::Full(weight) => <[i64; 2]>::try_from(weight.size()).unwrap_or_default(),
            Self::Nf4(weight) => weight.shape(),
        }
    }

    /// In `kind` on its device; of quantised weights, what they stand for.
    pub fn dequantised(&self, kind: Kind) -> Tensor {
        match self {
            Self::Full(weight) => weight.detach().to_kind(kind),
            Self::Nf4(weight) => weight.dequantised(kind),
        }
    }

    /// The same in NF4 on `device`.
    ///
    /// # Errors
    ///
    /// When memory cannot be had.
    pub fn quantised_on(&self, device: Device) -> Result<Self, tch::TchError> {
        Ok(match self {
            Self::Full(weight) => Self::Nf4(Nf4Matrix::quantised(&weight.f_to_device(device)?)?),
            Self::Nf4(weight) => Self::Nf4(weight.handle()),
        })
    }

    /// Another handle on the same numbers.
    pub fn handle(&self) -> Self {
        match self {
            Self::Full(weight) => Self::Full(weight.shallow_clone()),
            Self::Nf4(weight) => Self::Nf4(weight.handle()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::host;
    use super::super::lora::{LowRankConfig, PassNumber};
    use super::*;

    fn drawn(name: &str, shape: &[i64]) -> Tensor {
        host::drawn(5, name, shape)
    }

    /// A map of 64 to 24 with a bias and an adapter that drops a part, its base frozen, in full or in NF4.
    fn adapted(nf4: bool, pass: &PassNumber) -> Linear {
        let mut linear = Linear::new(drawn("weight", &[24, 64]), Some(drawn("bias", &[24]).set_requires_grad(true)));
        let config = LowRankConfig { rank: 4, alpha: 8.0, dropout: 0.3, seed: 1 };
        let mut made = LowRank::new("map", [24, 64], config, pass, (Kind::Float, Device::Cpu)).unwrap();
        made.up = drawn("up", &[24, 4]);
        for (_, tensor) in made.parameters() {
            let _ = tensor.set_requires_grad(true);
        }
        linear.adapter = Some(made);
        if nf4 {
            linear.weight = linear.weight.quantised_on(Device::Cpu).unwrap();
        }
        linear
    }

    #[test]
    fn the_derivatives_written_out_are_those_of_the_graph() {
        let pass = PassNumber::default();
        pass.set(3);
        for nf4 in [false, true] {
            let linear = adapted(nf4, &pass);
            let (x, dy) = (drawn("x", &[7, 64]).set_requires_grad(true), drawn("dy", &[7, 24]));
            (linear.forward(&x) * &dy).sum(Kind::Float).backward();
            let mut sums: Gradients = linear.parameters().iter().map(|_| None).collect();
            let (onto, before) = (drawn("onto", &[7, 64]), drawn("onto", &[7, 64]));
            let dx = tch::no_grad(|| {
                linear.gather(&x, &dy, &mut sums);
                // Twice, as two tiles of a pass do.
                linear.gather(&x, &dy, &mut sums);
                linear.pulled(&dy, Some(onto))
            });
            assert!((dx - before).allclose(&x.grad(), 1e-4, 1e-4, false), "nf4: {nf4}");
            let names: Vec<&str> = linear.parameters().iter().map(|(name, _)| *name).collect();
            let all = ["weight", "bias", "lora_A.weight", "lora_B.weight"];
            assert_eq!(names, all[usize::from(nf4)..]);
            for ((name, parameter), sum) in linear.parameters().into_iter().zip(sums) {
                match sum {
                    None => assert_eq!(name, "weight", "the base is frozen"),
                    Some(sum) => assert!((sum / 2.0).allclose(&parameter.grad(), 1e-4, 1e-4, false), "{name}"),
                }
            }
        }
    }
}
