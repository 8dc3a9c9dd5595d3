//! SwiGLU's product (Shazeer 2020): `p = silu(g) u` with `silu(g) = g s`, `s = 1 / (1 + e^-g)`.
//!
//! For the gradient `dp`: `dg = dp u s (1 + g (1 - s))`, `du = dp silu(g)`. In float32 on the CPU both ways are one pass of
//! our own, on CUDA a kernel of ours where it may be used; elsewhere libtorch's operations, in float32, on the CPU piece by piece. Nothing here is
//! recorded for gradients.

use attention::tiled::rows;
use tch::{Kind, Tensor};
use torch_ext::fused::swiglu::{self as fused, SwiGluGradients};
use torch_ext::fused::{Use, told};

use super::host::{in_rows, pieces, singles, singles_mut, unset_like};

/// What [`backward`] finds.
#[derive(Debug)]
pub(super) struct Pulled {
    /// By the gate.
    pub gate: Tensor,
    /// By what it lets through.
    pub up: Tensor,
    /// The product once more.
    pub product: Tensor,
}

/// `silu(gate) * up`, all of one shape and in one piece.
pub(super) fn forward(gate: &Tensor, up: &Tensor) -> Tensor {
    let by_rows = || {
        let mut out = unset_like(gate);
        rows::swiglu(singles(gate)?, singles(up)?, singles_mut(&mut out)?);
        Some(out)
    };
    let by_kernel = || told(fused::forward(&fused::where_used(gate, Use::of_process())?, gate, up));
    by_rows().or_else(by_kernel).unwrap_or_else(|| {
        let mut open = gate.silu();
        open.g_mul_(up)
    })
}

/// The gradients for `grad`, by the product, which may be written over; the product is `kept`, or computed again.
pub(super) fn backward(gate: &Tensor, up: &Tensor, grad: Tensor, kept: Option<Tensor>) -> Pulled {
    match by_rows(gate, up, &grad, kept.is_none()) {
        Some((by_up, product)) => Pulled { gate: grad, up: by_up, product: kept.unwrap_or(product) },
        None => match by_kernel(gate, up, &grad, kept.is_none()) {
            Some(found) => {
                let product = kept.or(found.product).unwrap_or_else(|| forward(gate, up));
                Pulled { gate: found.gate, up: found.up, product }
            }
            None => {
                let up_grad = by_libtorch(gate, up, &grad);
                Pulled { gate: grad, up: up_grad, product: kept.unwrap_or_else(|| forward(gate, up)) }
            }
        },
    }
}

/// The gradient by the gate takes the place of `grad`; the product once more where it is wanted.
fn by_kernel(gate: &Tensor, up: &Tensor, grad: &Tensor, again: bool) -> Option<SwiGluGradients> {
    let machine = fused::where_used(gate, Use::of_process())?;
    told(fused::backward_over(&machine, gate, up, grad, again))
}

/// The gradient by the gate takes the place of `grad`; that by `up` and, where it is wanted, the product are returned.
fn by_rows(gate: &Tensor, up: &Tensor, grad: &Tensor, again: bool) -> Option<(Tensor, Tensor)> {
    singles(grad)?;
    let (gate, up, mut grad) = (singles(gate)?, singles(up)?, grad.shallow_clone());
    let mut by_up = unset_like(&grad);
    let mut product = if again { unset_like(&grad) } else { Tensor::empty([0], (Kind::Float, grad.device())) };
    let place = if again { Some(singles_mut(&mut product)?) } else { None };
    rows::swiglu_backward(gate, up, singles_mut(&mut grad)?, singles_mut(&mut by_up)?, place);
    Some((by_up, product))
}

/// The gradient by the gate takes the place of `grad`; that by `up` is returned.
fn by_libtorch(gate: &Tensor, up: &Tensor, grad: &Tensor) -> Tensor {
    let up_grad = unset_like(up);
    let rows = [gate, up, grad, &up_grad].map(in_rows);
    for (start, count) in pieces(&rows[0]) {
        let [gate, up, grad, up_grad] = rows.each_ref().map(|rows| rows.narrow(0, start, count));
        piece_by_libtorch(&gate, &up, grad, up_grad);
    }
    up_grad
}

/// The same for some rows; the gradient by `up` goes to `up_grad`.
fn piece_by_libtorch(gate: &Tensor, up: &Tensor, mut grad: Tensor, mut up_grad: Tensor) {
    let kind = if gate.kind() == Kind::Double { Kind::Double } else { Kind::Float };
    let (g, dp) = (gate.to_kind(kind), grad.to_kind(kind));
    let share = g.sigmoid();
    let open = &g * &share;
    let slope = &share + &open * share.rsub(&Tensor::from(1.0).to_kind(kind));
    up_grad.copy_(&(&dp * open));
    grad.copy_(&(dp * up.to_kind(kind) * slope));
}
