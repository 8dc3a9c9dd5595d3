use super::*;

fn zeros(dims: &[i64], kind: Kind) -> Tensor {
    Tensor::zeros(dims, (kind, Device::Cpu))
}

fn angles(length: i64, pairs: i64) -> Tensor {
    zeros(&[length, pairs, 2], Kind::Float)
}

fn refusal(x: &Tensor, angles: &Tensor) -> String {
    rotation_params(x, angles, false).unwrap_err().to_string()
}

#[test]
fn the_kernel_is_told_where_a_tensor_lies_and_which_way_to_turn() {
    let x = zeros(&[2, 5, 3, 64], Kind::BFloat16).transpose(1, 2);
    let table = angles(9, 16);
    let told = rotation_params(&x, &table.narrow(0, 4, 5), true).unwrap();
    assert_eq!((told.batch, told.query_heads, told.key_heads, told.query_len, told.pairs), (2, 3, 0, 5, 16));
    assert_eq!(told.q_strides, Strides { batch: 960, head: 64, row: 192 });
    assert_eq!((told.q, told.k), (x.data_ptr() as u64, 0));
    assert_eq!(told.angles - table.data_ptr() as u64, 4 * 16 * 2 * 4);
    assert_eq!((told.inverse, told.offset), (1, 0));
}

#[test]
fn what_the_kernel_cannot_do_is_refused_in_words() {
    let x = zeros(&[1, 2, 5, 64], Kind::Half);
    let mut elsewhere = x.shallow_clone();
    assert_eq!(
        rotate(&mut elsewhere, &angles(5, 32), false).unwrap_err().to_string(),
        "rotation in place on CUDA takes tensors on one CUDA device; x is on Cpu"
    );
    assert!(rotation_params(&x, &angles(5, 32), false).is_ok());
    assert_eq!(refusal(&x, &angles(5, 20)), "rotation in place on CUDA takes pairs in multiples of 8, not 20");
    assert!(refusal(&x.to_kind(Kind::Double), &angles(5, 32)).ends_with("x is Double"));
    assert!(refusal(&x, &angles(5, 32).to_kind(Kind::Half)).ends_with("angles is Half"));
    for (x, angles) in
        [(x.shallow_clone(), angles(4, 32)), (x.shallow_clone(), angles(5, 40)), (x.get(0), angles(5, 32))]
    {
        assert!(matches!(rotation_params(&x, &angles, false), Err(RotateError::Dims { .. })));
    }
    assert!(refusal(&x.get(0), &angles(5, 32)).contains("x is [2, 5, 64] and angles [5, 32, 2]"));
    let many = zeros(&[70_000, 1, 1, 16], Kind::Half);
    assert!(refusal(&many, &angles(1, 8)).ends_with("as [70000, 1, 1, 16]"));
}

#[test]
fn tensors_that_cannot_be_written_where_they_lie_are_refused() {
    let table = angles(5, 8);
    let whole = zeros(&[1, 2, 5, 24], Kind::Float);
    assert!(rotation_params(&whole.narrow(3, 4, 16), &table, false).is_ok());
    let wrong = [
        // Rows in pieces, rows askew, and heads that are one and the same.
        zeros(&[1, 2, 16, 5], Kind::Float).transpose(2, 3),
        whole.narrow(3, 1, 16),
        zeros(&[1, 1, 5, 16], Kind::Float).expand([1, 2, 5, 16], true),
    ];
    for x in wrong {
        assert!(matches!(rotation_params(&x, &table, false), Err(RotateError::Layout { tensor: "x", .. })));
    }
    let apart = zeros(&[5, 8, 3], Kind::Float).narrow(2, 0, 2);
    assert!(matches!(rotation_params(&whole, &apart, false), Err(RotateError::Layout { tensor: "angles", .. })));
}

#[test]
fn places_are_told_apart_by_dims_and_strides() {
    assert!(is_disjoint(&[2, 3, 4], &[12, 4, 1]) && is_disjoint(&[2, 4, 3], &[12, 1, 4]));
    assert!(is_disjoint(&[1, 4], &[0, 1]));
    // Rows that lie half over each other.
    assert!(!is_disjoint(&[3, 4], &[2, 1]) && !is_disjoint(&[2, 4], &[0, 1]));
}

#[test]
fn float64_has_no_rotation_to_verify() {
    assert!(!rotation_verified(DType::F64, Arch::SM_90A));
    assert!(!rotation_verified(DType::BF16, "sm_123".parse().unwrap()));
}
