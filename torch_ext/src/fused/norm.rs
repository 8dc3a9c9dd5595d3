//! RMSNorm (Zhang and Sennrich 2019, equation 4) and LayerNorm (Ba et al. 2016, equation 3), by kernels.
//!
//! Forward reads a row once and writes it once, with a residual reads two and writes two. Backward reads gradient and row and
//! writes a row; parts of the gradient by the weight are float32 rows, one for each group that goes through the rows, and
//! are added up in one order.

use tch::{Kind, TchError, Tensor};

use super::FusedError;
use super::kernel::{self, Element, Kernel, Pass, Spec};
use super::machine::{Machine, OnDevice, Parameters, Use};
use super::tensors::{address, address_of, blocks, check, dense, element, empty, unfit};

/// Which norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// `x / sqrt(mean(x^2) + epsilon) * weight`.
    Rms,
    /// `(x - mean) / sqrt(variance + epsilon) * weight + bias`.
    Layer,
}

/// What a norm is taken of: rows of the last dimension of `x`, of its sum with `residual` if there is one.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// `[.., columns]`.
    pub x: &'a Tensor,
    /// In the shape of `x`.
    pub residual: Option<&'a Tensor>,
    /// `[columns]`.
    pub weight: &'a Tensor,
    /// `[columns]`, of LayerNorm alone.
    pub bias: Option<&'a Tensor>,
    /// Added to mean square or variance.
    pub epsilon: f64,
}

/// What forward leaves.
#[derive(Debug)]
pub struct Normed {
    /// In the shape of `x`.
    pub out: Tensor,
    /// What was normed: `x`, or its sum with the residual in their type.
    pub sum: Tensor,
    /// Their statistics.
    pub statistics: Statistics,
}

/// Statistics of rows `[rows]`, float32.
#[derive(Debug)]
pub struct Statistics {
    /// Means, of LayerNorm alone.
    pub mean: Option<Tensor>,
    /// One over root of mean square or variance.
    pub rstd: Tensor,
}

/// What backward is given.
#[derive(Debug, Clone, Copy)]
pub struct Gradients<'a> {
    /// By what was normed.
    pub grad: &'a Tensor,
    /// By the sum, which goes on as the residual stream; added to the answer.
    pub grad_sum: Option<&'a Tensor>,
}

/// What backward leaves.
#[derive(Debug)]
pub struct NormGradients {
    /// By `x`, and by the residual if there was one.
    pub x: Tensor,
    /// By the weight, in its type.
    pub weight: Tensor,
    /// By the bias, of LayerNorm alone.
    pub bias: Option<Tensor>,
}

/// As `Params` in `norm_params.cuh`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct Params {
    x: u64,
    residual: u64,
    weight: u64,
    bias: u64,
    out: u64,
    sum: u64,
    mean: u64,
    rstd: u64,
    grad: u64,
    grad_sum: u64,
    dx: u64,
    dweight_parts: u64,
    dbias_parts: u64,
    dweight: u64,
    dbias: u64,
    rows: i64,
    parts: i64,
    columns: i32,
    epsilon: f32,
}

// SAFETY: laid out as the text has it, without holes: 15 addresses, two numbers of 64 bits and two of 32.
unsafe impl Parameters for Params {
    const POINTERS: u32 = 15;
}

impl Norm {
    fn operation(self) -> &'static str {
        match self {
            Self::Rms => "rms_norm",
            Self::Layer => "layer_norm",
        }
    }

    fn is_layer(self) -> bool {
        self == Self::Layer
    }

    /// The kernels of a norm: forward, backward, and the sums of parts. None where there are none.
    #[must_use]
    pub fn kernels(self, element: Element, columns: usize) -> Option<[Kernel; 3]> {
        let layer = self.is_layer();
        let sums = Kernel::of(Spec { pass: Pass::ColumnSums, element, group: 0 });
        let forward = kernel::norm(Pass::Norm { layer }, element, columns)?;
        Some([forward, kernel::norm(Pass::NormBackward { layer }, element, columns)?, sums])
    }

    /// The device of the tensors, where kernels take them and may be used there.
    #[must_use]
    pub fn where_used(self, inputs: &Inputs<'_>, wish: Use) -> Option<OnDevice> {
        let columns = inputs.x.size().last().and_then(|&columns| usize::try_from(columns).ok())?;
        let kernels = Element::of(inputs.x.kind()).and_then(|element| self.kernels(element, columns))?;
        // A weight of another type than the rows is libtorch's to multiply by.
        let fits = columns > 0 && inputs.weight.kind() == inputs.x.kind();
        OnDevice::of(inputs.x, &kernels.each_ref(), wish).filter(|_| fits)
    }

    /// Checks the tensors; their rows, their columns, and the kernels for them.
    fn job(self, inputs: &Inputs<'_>) -> Result<Job, FusedError> {
        let Inputs { x, residual, weight, bias, epsilon } = *inputs;
        let (operation, shape) = (self.operation(), x.size());
        let element = element(operation, x)?;
        let Some(&columns) = shape.last() else { return unfit(operation, "takes tensors of one dimension or more") };
        check(operation, ("a weight", weight), &[columns], x)?;
        residual.map_or(Ok(()), |residual| check(operation, ("a residual", residual), &shape, x))?;
        bias.map_or(Ok(()), |bias| check(operation, ("a bias", bias), &[columns], x))?;
        if bias.is_some() && self == Self::Rms {
            return unfit(operation, "has no bias");
        }
        match self.kernels(element, usize::try_from(columns).unwrap_or(usize::MAX)) {
            Some(kernels) if columns > 0 => {
                Ok(Job { norm: self, kernels, rows: x.numel() as i64 / columns, columns, epsilon, shape })
            }
            _ => unfit(operation, format!("does not take rows of {columns} numbers")),
        }
    }

    /// Forward by kernels on `machine`.
    ///
    /// # Errors
    ///
    /// When tensors do not belong together or rows are longer than a kernel holds; what the machine says.
    pub fn forward<M: Machine>(self, machine: &M, inputs: &Inputs<'_>) -> Result<Normed, FusedError> {
        self.forward_into(machine, inputs, |x| empty(&x.size(), x.kind(), x))
    }

    /// The same with the sum in place of `inputs.x`.
    ///
    /// # Errors
    ///
    /// As [`Norm::forward`].
    pub fn forward_over<M: Machine>(self, machine: &M, inputs: &Inputs<'_>) -> Result<Normed, FusedError> {
        let normed = self.forward_into(machine, inputs, |x| Ok(x.shallow_clone()))?;
        if address(&normed.sum) != address(inputs.x) {
            inputs.x.detach().f_copy_(&normed.sum)?;
        }
        Ok(normed)
    }

    /// Forward with the sum in what `place` makes of `x` in one piece, which it may be itself: a thread reads what it writes.
    fn forward_into<M: Machine>(
        self,
        machine: &M,
        inputs: &Inputs<'_>,
        place: impl Fn(&Tensor) -> Result<Tensor, TchError>,
    ) -> Result<Normed, FusedError> {
        let job = self.job(inputs)?;
        let x = dense(inputs.x)?;
        let [residual, bias] = [inputs.residual, inputs.bias].map(|tensor| tensor.map(dense).transpose());
        let (residual, bias, weight) = (residual?, bias?, dense(inputs.weight)?);
        let out = empty(&job.shape, x.kind(), &x)?;
        let sum = residual.as_ref().map(|_| place(&x)).transpose()?;
        let rstd = empty(&[job.rows], Kind::Float, &x)?;
        let mean = self.is_layer().then(|| empty(&[job.rows], Kind::Float, &x)).transpose()?;
        let params = Params {
            x: address(&x),
            residual: address_of(residual.as_ref()),
            weight: address(&weight),
            bias: address_of(bias.as_ref()),
            out: address(&out),
            sum: address_of(sum.as_ref()),
            mean: address_of(mean.as_ref()),
            rstd: address(&rstd),
            ..job.params()?
        };
        let tensors = [Some(&x), residual.as_ref(), Some(&weight), bias.as_ref(), Some(&out), sum.as_ref()];
        let tensors: Vec<&Tensor> = tensors.into_iter().chain([mean.as_ref(), Some(&rstd)]).flatten().collect();
        job.run(machine, &job.kernels[0], [job.groups(&job.kernels[0], job.rows)?, 1], &params, &tensors)?;
        Ok(Normed { out, sum: sum.unwrap_or(x), statistics: Statistics { mean, rstd } })
    }

    /// Backward by kernels on `machine` for a norm of `inputs.x`, to which nothing is added any more; without `statistics` they
    /// are found again, which costs no pass over memory. The same bits every time on one kind of device.
    ///
    /// # Errors
    ///
    /// As [`Norm::forward`].
    pub fn backward<M: Machine>(
        self,
        machine: &M,
        inputs: &Inputs<'_>,
        statistics: Option<&Statistics>,
        gradients: Gradients<'_>,
    ) -> Result<NormGradients, FusedError> {
        let job = self.job(inputs)?;
        let operation = self.operation();
        if !statistics.is_none_or(|of| of.fits(&job, inputs.x)) {
            return unfit(operation, format!("goes back with statistics that are not those of {} rows", job.rows));
        }
        if inputs.residual.is_some() {
            return unfit(operation, "goes back through the sum, which has no residual to be added");
        }
        check(operation, ("a gradient", gradients.grad), &job.shape, inputs.x)?;
        gradients.grad_sum.map_or(Ok(()), |grad| check(operation, ("a gradient", grad), &job.shape, inputs.x))?;
        let (x, weight, grad) = (dense(inputs.x)?, dense(inputs.weight)?, dense(gradients.grad)?);
        let (mean, rstd) = (statistics.and_then(|of| of.mean.as_ref()), statistics.map(|of| &of.rstd));
        let grad_sum = gradients.grad_sum.map(dense).transpose()?;
        let [_, backward, sums] = &job.kernels;
        let parts = job.parts(backward, machine.multiprocessors());
        let in_parts = || empty(&[parts, job.columns], Kind::Float, &x);
        let column = || empty(&[job.columns], x.kind(), &x);
        let (dx, dweight, dweight_parts) = (empty(&job.shape, x.kind(), &x)?, column()?, in_parts()?);
        let has_bias = inputs.bias.is_some();
        let (dbias, dbias_parts) = (has_bias.then(column).transpose()?, has_bias.then(in_parts).transpose()?);
        let params = Params {
            x: address(&x),
            weight: address(&weight),
            mean: address_of(mean),
            rstd: address_of(rstd),
            grad: address(&grad),
            grad_sum: address_of(grad_sum.as_ref()),
            dx: address(&dx),
            dweight_parts: address(&dweight_parts),
            dbias_parts: address_of(dbias_parts.as_ref()),
            dweight: address(&dweight),
            dbias: address_of(dbias.as_ref()),
            parts,
            ..job.params()?
        };
        let tensors = [&x, &weight, &grad, &dx, &dweight, &dweight_parts];
        let others = [mean, rstd, grad_sum.as_ref(), dbias.as_ref(), dbias_parts.as_ref()];
        let tensors: Vec<&Tensor> = tensors.into_iter().chain(others.into_iter().flatten()).collect();
        job.run(machine, backward, [job.groups(backward, parts)?, 1], &params, &tensors)?;
        let of_columns = blocks(operation, (job.columns + 31) / 32)?;
        job.run(machine, sums, [of_columns, 1 + u32::from(has_bias)], &params, &tensors)?;
        Ok(NormGradients { x: dx, weight: dweight, bias: dbias })
    }
}

impl Statistics {
    /// Whether they are those of a norm of `x`.
    fn fits(&self, job: &Job, x: &Tensor) -> bool {
        let single = |tensor: &Tensor| {
            tensor.size() == [job.rows]
                && tensor.kind() == Kind::Float
                && tensor.is_contiguous()
                && tensor.device() == x.device()
        };
        self.mean.is_some() == job.norm.is_layer() && self.mean.iter().chain([&self.rstd]).all(single)
    }
}

/// One norm of checked tensors.
struct Job {
    norm: Norm,
    kernels: [Kernel; 3],
    rows: i64,
    columns: i64,
    epsilon: f64,
    shape: Vec<i64>,
}

impl Job {
    fn params(&self) -> Result<Params, FusedError> {
        let columns = i32::try_from(self.columns);
        let columns = columns.or_else(|_| unfit(self.norm.operation(), "does not take rows as long as these"))?;
        Ok(Params { rows: self.rows, columns, epsilon: self.epsilon as f32, ..Params::default() })
    }

    /// Blocks for as many groups of warps.
    fn groups(&self, kernel: &Kernel, groups: i64) -> Result<u32, FusedError> {
        blocks(self.norm.operation(), groups.unsigned_abs().div_ceil(kernel.rows() as u64) as i64)
    }

    /// Groups that go through the rows: as many as the device runs at once, but each has 8 rows or more, so that its part of the
    /// sums costs little beside them.
    fn parts(&self, kernel: &Kernel, multiprocessors: u32) -> i64 {
        let at_once = kernel.resident(multiprocessors) * kernel.rows();
        (self.rows / 8).clamp(1, i64::try_from(at_once).unwrap_or(i64::MAX).max(1))
    }

    fn run<M: Machine>(
        &self,
        machine: &M,
        kernel: &Kernel,
        [x, y]: [u32; 2],
        params: &Params,
        tensors: &[&Tensor],
    ) -> Result<(), FusedError> {
        // Forward has nothing to do without rows; backward has one part even then, of zeros.
        if x == 0 {
            return Ok(());
        }
        // SAFETY: norm kernels take `Params`. Its addresses are of the tensors that come along, each dense, on one device, and of
        // as many rows, columns or parts as it is told.
        unsafe { machine.launch(kernel, [x, y, 1], params, tensors) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structure_has_no_holes() {
        assert_eq!(size_of::<Params>(), 15 * 8 + 2 * 8 + 2 * 4);
    }
}
