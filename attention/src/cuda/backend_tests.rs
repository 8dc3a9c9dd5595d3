use super::*;
use crate::mask::Mask;
use crate::shape::AttnShape;

const SHAPE: AttnShape = AttnShape { batch: 2, query_heads: 4, key_heads: 2, query_len: 5, key_len: 9, head_dim: 64 };

fn problem() -> AttnProblem {
    AttnProblem::new(SHAPE).unwrap().with_mask(Mask::causal(&SHAPE)).unwrap()
}

fn tensor(dims: [usize; 4]) -> Tensor {
    Tensor::zeros(dims.map(signed), (Kind::BFloat16, Device::Cpu))
}

#[test]
fn what_has_no_kernel_is_declined_by_name() {
    assert_eq!(fits(Generation::First, &problem(), DType::BF16), Ok(()));
    assert_eq!(fits(Generation::First, &problem(), DType::F64), Err(Feature::DType(DType::F64)));
    let of = |shape| fits(Generation::First, &AttnProblem::new(shape).unwrap(), DType::F16);
    assert_eq!(of(AttnShape { head_dim: 20, ..SHAPE }), Err(Feature::HeadDim(20)));
    assert_eq!(of(AttnShape { head_dim: 512, ..SHAPE }), Err(Feature::HeadDim(512)));
    assert!(matches!(of(AttnShape { key_len: 1 << 30, ..SHAPE }), Err(Feature::Other(_))));
    assert!(matches!(of(AttnShape { batch: 40_000, ..SHAPE }), Err(Feature::Other(_))));
}

#[test]
fn a_machine_without_a_device_and_tensors_elsewhere_are_declined_by_name() {
    if !cuda::state().is_available() {
        let message = Cuda::ANY.supports(&problem(), DType::BF16).unwrap_err().to_string();
        assert!(message.contains("no CUDA device"), "{message}");
    }
    let (q, k) = (tensor(SHAPE.query_dims()), tensor(SHAPE.key_dims()));
    let message = Cuda::ANY.attend(&problem(), &q, &k, &k).unwrap_err().to_string();
    assert_eq!(message, "attention backend cuda does not do tensors on cpu");
    let attended = Attended { output: q.shallow_clone(), lse: q.shallow_clone() };
    assert!(matches!(Cuda::ANY.backward(&problem(), &q, &k, &k, &attended, &q), Err(AttnError::Unsupported(_))));
}

#[test]
fn rows_askew_or_in_pieces_are_not_read_in_place() {
    let whole = tensor([2, 4, 6, 64]);
    assert!(is_readable(&whole));
    // The layout that a model's projections give.
    assert!(is_readable(&tensor([2, 6, 4, 64]).transpose(1, 2)));
    // A gradient that is the same everywhere but along a row.
    assert!(is_readable(&tensor([1, 1, 1, 64]).expand([2, 4, 6, 64], true)));
    assert!(!is_readable(&tensor([2, 4, 64, 6]).transpose(2, 3)));
    assert!(!is_readable(&tensor([1, 1, 1, 1]).expand([2, 4, 6, 64], true)));
    // Two bytes off, and rows of an odd length.
    assert!(!is_readable(&tensor([2, 4, 6, 72]).narrow(3, 1, 64)));
    assert!(!is_readable(&tensor([2, 4, 6, 65]).narrow(3, 0, 64)));
    // A step between sequences that is never taken may be anything.
    assert!(is_readable(&tensor([1, 1, 1, 65]).narrow(3, 0, 64)));
}

#[test]
fn a_copy_is_readable_and_means_what_the_tensor_means() {
    let floats = (Kind::Float, Device::Cpu);
    // In one piece, but four bytes off: no reason for libtorch to copy it.
    let askew = Tensor::arange(2 * 6 * 64 + 1, floats).narrow(0, 1, 2 * 6 * 64).view([1, 2, 6, 64]);
    let negated = Tensor::ones([1, 2, 6, 64], floats).internal_neg_view();
    assert!(askew.is_contiguous() && negated.is_neg());
    for tensor in [askew, negated, Tensor::ones([1, 1, 1, 1], floats).expand([1, 2, 6, 64], true)] {
        assert!(!is_readable(&tensor));
        let copy = copied(&tensor).unwrap();
        assert!(is_readable(&copy) && copy.equal(&tensor));
    }
}

#[test]
fn every_kernel_that_a_problem_needs_is_in_the_table() {
    for dtype in [DType::BF16, DType::F16, DType::F32] {
        for head_dim in [32, 64, 72, 80, 96, 128, 192, 256] {
            let problem = AttnProblem::new(AttnShape { head_dim, ..SHAPE }).unwrap();
            for problem in [problem.clone(), problem.with_soft_cap(3.0).unwrap()] {
                let specs = specs(Generation::First, &problem, dtype).unwrap();
                assert!(specs.into_iter().all(|spec| super::super::kernels::kernel(spec).is_some()), "{specs:?}");
            }
        }
    }
}
