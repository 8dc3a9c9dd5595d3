//! The judgement: at most twice the error of plain arithmetic in the same precision, plus the answer's own rounding.

use tch::Kind;

/// An answer by name, its numbers and the type that they were rounded to.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) numbers: Vec<f64>,
}

/// Half the distance from 1 to the next number.
pub(crate) fn unit_roundoff(kind: Kind) -> f64 {
    match kind {
        Kind::BFloat16 => 2.0_f64.powi(-8),
        Kind::Half => 2.0_f64.powi(-11),
        _ => 2.0_f64.powi(-24),
    }
}

/// Judges `found` by the reference and by what plain arithmetic gives, in rows of `width`; the part of the budget that was
/// used. Errors count beside the largest number of their row: a row of large numbers excuses no other. Written so that NaN
/// anywhere is a refusal, but where the reference has it, too.
pub(crate) fn judge(exact: &[f64], plain: &[f64], found: &Answer, width: usize) -> Result<f64, String> {
    let Answer { name, kind, numbers } = found;
    if numbers.len() != exact.len() || plain.len() != exact.len() {
        return Err(format!("{name}: {} numbers, not {}", numbers.len(), exact.len()));
    }
    let width = width.max(1);
    let rows = || exact.chunks(width).enumerate();
    let part = |all: &[f64], row: usize| all[row * width..all.len().min((row + 1) * width)].to_vec();
    let most = |exact: &[f64], all: &[f64]| exact.iter().zip(all).map(differs).fold(0.0, worse);
    let of_plain = rows()
        .filter(|(_, exact)| largest(exact) > 0.0)
        .map(|(row, exact)| most(exact, &part(plain, row)) / largest(exact))
        .fold(0.0, worse);
    let mut used = 0.0;
    for (row, exact) in rows() {
        let allowed = match largest(exact) {
            // A row of nothing but zeros excuses what plain arithmetic makes of it.
            0.0 => 2.0 * most(exact, &part(plain, row)),
            largest => (2.0 * of_plain + 4.0 * unit_roundoff(*kind)) * largest,
        };
        let got = part(numbers, row);
        let error = most(exact, &got);
        // NaN is within no bound.
        let within = |error: f64| error <= allowed;
        if !within(error) {
            let at = exact.iter().zip(&got).position(|pair| !within(differs(pair))).unwrap_or(0);
            let (wanted, got) = (exact[at], got[at]);
            return Err(format!(
                "{name} {kind:?} at ({row}, {at}): {got} instead of {wanted}, off by {error:.3e}, allowed {allowed:.3e}"
            ));
        }
        used = f64::max(used, if error == 0.0 { 0.0 } else { error / allowed });
    }
    Ok(used)
}

fn differs((one, other): (&f64, &f64)) -> f64 {
    if one.is_nan() && other.is_nan() { 0.0 } else { (one - other).abs() }
}

fn largest(row: &[f64]) -> f64 {
    row.iter().filter(|x| x.is_finite()).fold(0.0, |most, x| f64::max(most, x.abs()))
}

/// The larger of two differences, NaN above all.
fn worse(one: f64, other: f64) -> f64 {
    if one.is_nan() || other.is_nan() { f64::NAN } else { one.max(other) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(numbers: [f64; 2]) -> Answer {
        Answer { name: "out", kind: Kind::Float, numbers: numbers.to_vec() }
    }

    #[test]
    fn twice_the_plain_error_is_accepted_and_more_or_nan_is_not() {
        let (exact, plain) = ([1.0, 0.5], [1.01, 0.5]);
        let judge = |exact: &[f64], plain: &[f64], found: [f64; 2]| judge(exact, plain, &answer(found), 2);
        assert!(judge(&exact, &plain, [1.0, 0.52]).is_ok());
        assert!(judge(&exact, &plain, [1.0, 0.521]).unwrap_err().contains("at (0, 1)"));
        assert!(judge(&exact, &plain, [f64::NAN, 0.5]).is_err());
        assert!(judge(&[f64::NAN, 0.5], &[f64::NAN, 0.5], [f64::NAN, 0.5]).is_ok());
        assert!(judge(&[f64::NAN, 0.5], &[f64::NAN, 0.5], [1.0, 0.5]).is_err());
    }

    #[test]
    fn a_large_row_excuses_no_small_one() {
        let (exact, plain) = ([100.0, 0.5], [101.0, 0.5]);
        assert!(judge(&exact, &plain, &answer([102.0, 0.51]), 1).is_ok());
        assert!(judge(&exact, &plain, &answer([100.0, 0.52]), 1).is_err());
        assert!(judge(&exact, &plain, &answer([100.0, 0.52]), 2).is_ok());
    }
}
