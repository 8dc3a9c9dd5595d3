//! SwiGLU (Shazeer 2020, equation 6) by kernels: `silu(gate) * up`, with rows anywhere or in one piece.

use tch::Tensor;

use super::FusedError;
use super::kernel::{Element, Kernel, Pass, Spec};
use super::machine::{Machine, OnDevice, Parameters, Use};
use super::tensors::{address, address_of, blocks, check, dense, element, empty, is_aligned};

/// As `Params` in `swiglu_params.cuh`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct Params {
    gate: u64,
    up: u64,
    out: u64,
    grad: u64,
    dgate: u64,
    dup: u64,
    stride: i64,
    grad_stride: i64,
    rows: i64,
    columns: i64,
    row_blocks: i64,
}

// SAFETY: laid out as the text has it: 6 addresses and five numbers, all of 64 bits.
unsafe impl Parameters for Params {
    const POINTERS: u32 = 6;
}

/// What backward leaves.
#[derive(Debug)]
pub struct SwiGluGradients {
    /// By the gate.
    pub gate: Tensor,
    /// By the other factor.
    pub up: Tensor,
    /// The product again, where it was asked for.
    pub product: Option<Tensor>,
}

/// The kernels: forward and backward.
#[must_use]
pub fn kernels(element: Element) -> [Kernel; 2] {
    [Pass::SwiGlu, Pass::SwiGluBackward].map(|pass| Kernel::of(Spec { pass, element, group: 0 }))
}

/// The device of a gate, where the kernels may be used.
#[must_use]
pub fn where_used(gate: &Tensor, wish: Use) -> Option<OnDevice> {
    let [forward, backward] = kernels(Element::of(gate.kind())?);
    OnDevice::of(gate, &[&forward, &backward], wish)
}

/// `silu(gate) * up` in one piece. Both have one shape and are read where they lie if they are halves of the rows of one
/// tensor, as one projection for both leaves them.
///
/// # Errors
///
/// When they do not belong together; what the machine says.
pub fn forward<M: Machine>(machine: &M, gate: &Tensor, up: &Tensor) -> Result<Tensor, FusedError> {
    let job = Job::new("swiglu", gate, up)?;
    let out = empty(&gate.size(), gate.kind(), gate)?;
    let params = Params { out: address(&out), ..job.params };
    job.run(machine, &kernels(job.element)[0], &params, &[&job.gate, &job.up, &out])?;
    Ok(out)
}

/// Gradients by gate and up, given that by the product; the product again for `with_product`, in the same pass over memory.
///
/// # Errors
///
/// As [`forward`].
pub fn backward<M: Machine>(
    machine: &M,
    gate: &Tensor,
    up: &Tensor,
    grad: &Tensor,
    with_product: bool,
) -> Result<SwiGluGradients, FusedError> {
    let into = empty(&gate.size(), gate.kind(), gate)?;
    backward_into(machine, (gate, up), grad, into, with_product)
}

/// The same with the gradient by the gate in place of that by the product, which is spent.
///
/// # Errors
///
/// As [`forward`].
pub fn backward_over<M: Machine>(
    machine: &M,
    gate: &Tensor,
    up: &Tensor,
    grad: &Tensor,
    with_product: bool,
) -> Result<SwiGluGradients, FusedError> {
    let grad = dense(grad)?;
    backward_into(machine, (gate, up), &grad, grad.shallow_clone(), with_product)
}

/// Writes the gradient by the gate into `dgate`, which is in one piece and may be `grad`.
fn backward_into<M: Machine>(
    machine: &M,
    (gate, up): (&Tensor, &Tensor),
    grad: &Tensor,
    dgate: Tensor,
    with_product: bool,
) -> Result<SwiGluGradients, FusedError> {
    let job = Job::new("swiglu_backward", gate, up)?;
    check("swiglu_backward", ("a gradient", grad), &gate.size(), gate)?;
    let grad = dense(grad)?;
    let one = || empty(&gate.size(), gate.kind(), gate);
    let (dup, product) = (one()?, with_product.then(one).transpose()?);
    let params = Params {
        out: address_of(product.as_ref()),
        grad: address(&grad),
        dgate: address(&dgate),
        dup: address(&dup),
        grad_stride: job.params.columns,
        ..job.params
    };
    let tensors: Vec<&Tensor> = [&job.gate, &job.up, &grad, &dgate, &dup].into_iter().chain(product.as_ref()).collect();
    job.run(machine, &kernels(job.element)[1], &params, &tensors)?;
    Ok(SwiGluGradients { gate: dgate, up: dup, product })
}

/// Gate and up as the kernels read them.
struct Job {
    operation: &'static str,
    element: Element,
    gate: Tensor,
    up: Tensor,
    params: Params,
}

impl Job {
    fn new(operation: &'static str, gate: &Tensor, up: &Tensor) -> Result<Self, FusedError> {
        let element = element(operation, gate)?;
        check(operation, ("an up", up), &gate.size(), gate)?;
        let (gate, up) = (gate.detach(), up.detach());
        let whole = |n: i64| n % element.per_piece() as i64 == 0;
        let numel = gate.numel() as i64;
        let (gate, up, [rows, columns, stride]) = match row_stride(&gate) {
            Some([rows, columns, stride])
                if row_stride(&up) == Some([rows, columns, stride])
                    && is_aligned(&gate)
                    && is_aligned(&up)
                    && whole(columns)
                    && whole(stride) =>
            {
                (gate, up, [rows, columns, stride])
            }
            _ => (dense(&gate)?, dense(&up)?, [1, numel, numel]),
        };
        let per_block = i64::from(kernels(element)[0].threads()) * element.per_piece() as i64;
        let row_blocks = (columns + per_block - 1) / per_block;
        let params =
            Params { gate: address(&gate), up: address(&up), stride, rows, columns, row_blocks, ..Params::default() };
        Ok(Self { operation, element, gate, up, params })
    }

    fn run<M: Machine>(
        &self,
        machine: &M,
        kernel: &Kernel,
        params: &Params,
        tensors: &[&Tensor],
    ) -> Result<(), FusedError> {
        let grid = blocks(self.operation, params.rows.saturating_mul(params.row_blocks))?;
        if grid == 0 {
            return Ok(());
        }
        // SAFETY: both kernels take `Params`. Gate and up reach as far as `rows` rows of `stride` numbers, of which `columns` are
        // read, as checked; the others are in one piece and of as many numbers.
        unsafe { machine.launch(kernel, [grid, 1, 1], params, tensors) }
    }
}

/// Rows, columns and elements between rows of a tensor whose rows lie at even steps, several to a step of a larger tensor; none
/// for one in one piece or in no order.
fn row_stride(tensor: &Tensor) -> Option<[i64; 3]> {
    let (shape, strides) = (tensor.size(), tensor.stride());
    let (&columns, outer) = shape.split_last()?;
    let (&last, steps) = strides.split_last()?;
    let &stride = steps.last()?;
    let mut expected = stride;
    for (&dim, &step) in outer.iter().zip(steps).rev() {
        if dim != 1 && step != expected {
            return None;
        }
        expected = expected.checked_mul(dim)?;
    }
    (last == 1 && stride > columns).then(|| [outer.iter().product(), columns, stride])
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn halves_of_rows_are_read_where_they_lie_and_nothing_else() {
        let whole = Tensor::zeros([2, 3, 32], (Kind::BFloat16, Device::Cpu));
        assert_eq!(row_stride(&whole.narrow(2, 16, 16)), Some([6, 16, 32]));
        assert_eq!(row_stride(&whole), None);
        assert_eq!(row_stride(&whole.transpose(0, 1).narrow(2, 0, 16)), None);
        assert_eq!(row_stride(&whole.narrow(1, 0, 2).narrow(2, 0, 16)), None);
        assert_eq!(row_stride(&whole.transpose(1, 2)), None);
        let job = Job::new("swiglu", &whole.narrow(2, 0, 16), &whole.narrow(2, 16, 16)).unwrap();
        assert_eq!((job.params.rows, job.params.columns, job.params.stride), (6, 16, 32));
        // Rows that are no whole pieces are copied.
        let job = Job::new("swiglu", &whole.narrow(2, 0, 15), &whole.narrow(2, 16, 15)).unwrap();
        assert_eq!((job.params.rows, job.params.columns), (1, 90));
    }

    #[test]
    fn tensors_that_do_not_belong_together_are_refused() {
        let ones = |shape: &[i64], kind| Tensor::ones(shape, (kind, Device::Cpu));
        let refused = |gate: &Tensor, up: &Tensor| Job::new("swiglu", gate, up).err().map(|error| error.to_string());
        let message = refused(&ones(&[2, 3], Kind::Half), &ones(&[3, 2], Kind::Half)).unwrap();
        assert!(message.starts_with("swiglu was given an up Half[3, 2]"), "{message}");
        assert!(refused(&ones(&[2], Kind::Half), &ones(&[2], Kind::Float)).is_some());
        let message = refused(&ones(&[2], Kind::Double), &ones(&[2], Kind::Double)).unwrap();
        assert_eq!(message, "swiglu takes bfloat16, float16 and float32, not Double");
    }
}
