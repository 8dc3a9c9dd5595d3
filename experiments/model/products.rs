//! The three products of a linear map, each by who is fastest: for float32 in main memory and many rows those of
//! [`attention::tiled::linear`], else libtorch's.
//!
//! Ours pack the weight alone, MKL both operands. On two cores with AVX-512 ours took 0.82 to 1.01 of MKL's time from 1024 rows on,
//! for widths from 160 to 2048, and mostly more than it at 512 and below; weights' gradients, which pack nothing, 0.67 to 1.0 up to
//! a quarter of a million numbers of a weight, and what MKL takes beyond (`cargo bench --bench linear`; `docs/benchmarks.md`).

use attention::tiled::linear::{self, Map};
use tch::{TchError, Tensor};
use torch_ext::grad_enabled;

use super::host::{in_rows, singles, singles_mut};

/// Rows from which on it pays to pack a weight.
const MANY_ROWS: i64 = 1024;

/// Rows from which on a weight's gradient is worth threads of ours.
const SOME_ROWS: i64 = 16;

/// Numbers up to which a weight's gradient is ours.
const SMALL_WEIGHT: usize = 1 << 18;

/// `x W^T`, `[.., outputs]` of `x` `[.., inputs]`, where ours is the faster one and nothing is recorded for gradients.
pub(super) fn product(x: &Tensor, weight: &Tensor) -> Option<Tensor> {
    let mut size = x.size();
    let rows = (x.numel() as i64).checked_div(size.pop()?)?;
    size.push(weight.size().first().copied()?);
    if grad_enabled() || rows < MANY_ROWS || singles(weight).is_none() {
        return None;
    }
    let mut y = Tensor::empty(size.as_slice(), (x.kind(), x.device()));
    let map = map(weight, [&in_rows(x), &in_rows(&y)], MANY_ROWS)?;
    linear::forward(map, singles(x)?, singles_mut(&mut y)?, false);
    Some(y)
}

/// `x W^T`, `[rows, outputs]` of `x` `[rows, inputs]`, into `y`. Nothing is recorded.
///
/// # Errors
///
/// As libtorch's, when sizes do not fit or memory runs out.
pub(crate) fn forward(x: &Tensor, weight: &Tensor, y: &mut Tensor) -> Result<(), TchError> {
    let mut ours = || {
        let map = map(weight, [x, y], MANY_ROWS)?;
        linear::forward(map, singles(x)?, singles_mut(y)?, false);
        Some(())
    };
    match ours() {
        Some(()) => Ok(()),
        None => x.f_mm_out(y, &weight.f_tr()?).map(drop),
    }
}

/// `dy W`, `[rows, inputs]` of `dy` `[rows, outputs]`, into `dx`, or added to what is there. Nothing is recorded.
///
/// # Errors
///
/// As [`forward`].
pub(crate) fn pulled(dy: &Tensor, weight: &Tensor, dx: &mut Tensor, added: bool) -> Result<(), TchError> {
    let mut ours = || {
        let map = map(weight, [dx, dy], MANY_ROWS)?;
        linear::pulled(map, singles(dy)?, singles_mut(dx)?, added);
        Some(())
    };
    match (ours(), added) {
        (Some(()), _) => Ok(()),
        (None, false) => dy.f_mm_out(dx, weight).map(drop),
        (None, true) => dx.f_addmm_(dy, weight).map(drop),
    }
}

/// `dy^T x`, `[outputs, inputs]` of `dy` `[rows, outputs]` and `x` `[rows, inputs]`, into `dw`, or added to what is there. Nothing is
/// recorded.
///
/// # Errors
///
/// As [`forward`].
pub(crate) fn gathered(dy: &Tensor, x: &Tensor, dw: &mut Tensor, added: bool) -> Result<(), TchError> {
    let mut ours = || {
        let map = map(dw, [x, dy], SOME_ROWS).filter(|map| map.weight.len() <= SMALL_WEIGHT)?;
        let sizes = [map.outputs, map.inputs];
        linear::gathered(singles(dy)?, singles(x)?, sizes, singles_mut(dw)?, added);
        Some(())
    };
    match (ours(), added) {
        (Some(()), _) => Ok(()),
        (None, false) => dy.f_tr()?.f_mm_out(dw, x).map(drop),
        (None, true) => dw.f_addmm_(&dy.f_tr()?, x).map(drop),
    }
}

/// The map of a weight, where its products can be ours: `x` `[rows, inputs]` and `y` `[rows, outputs]`, and rows enough.
fn map<'a>(weight: &'a Tensor, [x, y]: [&Tensor; 2], least: i64) -> Option<Map<'a>> {
    let ((outputs, inputs), (rows, width)) = (weight.size2().ok()?, x.size2().ok()?);
    let map = Map { weight: singles(weight)?, inputs: inputs as usize, outputs: outputs as usize };
    (rows >= least && width == inputs && y.size() == [rows, outputs] && map.fits()).then_some(map)
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::super::host;
    use super::*;

    fn drawn(name: &str, shape: &[i64]) -> Tensor {
        host::drawn(11, name, shape)
    }

    #[test]
    fn whoever_computes_a_product_it_is_the_one_of_libtorch() {
        // Ours and libtorch's by rows; by a width that no vector divides; by another type.
        let cases = [(1100, 24, 40, Kind::Float), (8, 24, 40, Kind::Float), (1100, 23, 40, Kind::Float)];
        for (rows, inputs, outputs, kind) in cases.into_iter().chain([(1100, 24, 40, Kind::Double)]) {
            let of = |name, shape: &[i64]| drawn(name, shape).to_kind(kind);
            let (x, dy, weight) =
                (of("x", &[rows, inputs]), of("dy", &[rows, outputs]), of("weight", &[outputs, inputs]));
            let ours = rows >= MANY_ROWS && inputs == 24 && kind == Kind::Float;
            assert!(product(&x, &weight).is_none(), "a product that is recorded is libtorch's");
            assert_eq!(tch::no_grad(|| product(&x, &weight)).is_some(), ours);
            let near =
                |a: &Tensor, b: &Tensor| assert!(a.allclose(b, 1e-4, 1e-4, false), "{rows} rows, {inputs}, {kind:?}");
            let mut y = Tensor::full([rows, outputs], f64::NAN, (kind, Device::Cpu));
            forward(&x, &weight, &mut y).unwrap();
            near(&y, &x.mm(&weight.tr()));
            let (mut dx, mut dw) =
                (y.new_full([rows, inputs], f64::NAN, (kind, Device::Cpu)), weight.full_like(f64::NAN));
            for times in [1.0, 2.0] {
                pulled(&dy, &weight, &mut dx, times > 1.0).unwrap();
                near(&dx, &(dy.mm(&weight) * times));
                gathered(&dy, &x, &mut dw, times > 1.0).unwrap();
                near(&dw, &(dy.tr().mm(&x) * times));
            }
        }
    }

    #[test]
    fn leading_dimensions_stay_and_sizes_that_do_not_fit_are_an_error() {
        let (x, weight) = (drawn("x", &[2, 600, 24]), drawn("weight", &[40, 24]));
        let y = tch::no_grad(|| product(&x, &weight)).unwrap();
        assert!(y.size() == [2, 600, 40] && y.allclose(&x.linear(&weight, None::<&Tensor>), 1e-4, 1e-4, false));
        let mut short = Tensor::zeros([1200, 32], (Kind::Float, Device::Cpu));
        assert!(pulled(&drawn("dy", &[1200, 40]), &weight, &mut short, true).is_err());
    }
}
