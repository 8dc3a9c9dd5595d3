//! Ticks and number formats.
//!
//! The drawing library labels little more than decades on logarithmic axes, so ticks are chosen here.

/// Powers of two within `lo..=hi`, thinned to at most `most`.
pub(crate) fn powers_of_two(lo: f64, hi: f64, most: usize) -> Vec<f64> {
    if !(lo > 0.0 && hi >= lo && hi.is_finite()) || most == 0 {
        return Vec::new();
    }
    let (first, last) = ((lo.log2() - 1e-9).ceil() as i32, (hi.log2() + 1e-9).floor() as i32);
    let count = usize::try_from(last - first + 1).unwrap_or(0);
    let step = count.div_ceil(most).max(1);
    (first..=last).step_by(step).map(|e| f64::from(e).exp2()).collect()
}

/// Round numbers within `lo..=hi` for a logarithmic axis: decades when the range is wide, then 1-2-5, then finer
/// steps, and evenly spaced numbers when the range is narrow.
pub(crate) fn logarithmic(lo: f64, hi: f64, most: usize) -> Vec<f64> {
    const LEVELS: [&[f64]; 4] = [&[1.0], &[1.0, 3.0], &[1.0, 2.0, 5.0], &[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0]];
    if !(lo > 0.0 && hi > lo && hi.is_finite()) {
        return Vec::new();
    }
    let inside = |t: &f64| *t >= lo * (1.0 - 1e-9) && *t <= hi * (1.0 + 1e-9);
    let (first, last) = (lo.log10().floor() as i32, hi.log10().ceil() as i32);
    let mut best = Vec::new();
    for level in LEVELS {
        let ticks: Vec<f64> =
            (first..=last).flat_map(|e| level.iter().map(move |m| m * 10_f64.powi(e))).filter(inside).collect();
        if ticks.len() <= most && ticks.len() > best.len() {
            best = ticks;
        }
    }
    if best.len() >= 4 { best } else { linear(lo, hi, most) }
}

/// Multiples of a 1-2-5 step within `lo..=hi`, at most `most` of them.
pub(crate) fn linear(lo: f64, hi: f64, most: usize) -> Vec<f64> {
    if !(hi > lo && lo.is_finite() && hi.is_finite()) || most < 2 {
        return Vec::new();
    }
    let rough = (hi - lo) / (most as f64 - 1.0);
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].iter().map(|m| m * power).find(|s| *s >= rough * (1.0 - 1e-9));
    let step = step.unwrap_or(10.0 * power);
    let (first, last) = ((lo / step - 1e-9).ceil(), (hi / step + 1e-9).floor());
    let count = (last - first) as usize + 1;
    (0..count).map(|i| rounded((first + i as f64) * step, 12)).collect()
}

/// `value` to `digits` significant digits.
fn rounded(value: f64, digits: usize) -> f64 {
    if value == 0.0 { 0.0 } else { format!("{value:.*e}", digits - 1).parse().unwrap_or(value) }
}

/// A context length: `512`, `1K` for 1024, `1.5K` for 1536, `1,000`.
pub(crate) fn tokens(length: usize) -> String {
    const K: usize = 1024;
    match length {
        0 => "0".to_owned(),
        n if n % (K * K) == 0 => format!("{}M", n / (K * K)),
        n if n % K == 0 => format!("{}K", n / K),
        n if n > K && n % (K / 2) == 0 => format!("{}.5K", n / K),
        n => grouped(&n.to_string()),
    }
}

/// A measured number to four significant digits, or `not finite`.
pub(crate) fn number(value: f64) -> String {
    significant(value, 4)
}

/// A measured value to four significant digits, the last ones shown where they are zeros, so that a column of them reads
/// as equally exact: `58.52`, `71.50`, `270.0`.
pub(crate) fn measured(value: f64) -> String {
    let short = rounded(value, 4);
    if !short.is_finite() || !(1e-4..1e3).contains(&short.abs()) {
        return number(value);
    }
    let decimals = 3 - short.abs().log10().floor() as i32;
    format!("{short:.*}", decimals.max(0) as usize)
}

/// The ends of an interval: as many digits as [`measured`] gives its value.
pub(crate) fn interval(low: f64, high: f64) -> String {
    format!("{} to {}", measured(low), measured(high))
}

/// A share as whole percent, such as `97`; halves go up, also where binary fractions fall just short of one.
pub(crate) fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.0}", (share * 100.0 + 1e-9).round()) } else { "not finite".to_owned() }
}

/// A tick's own digits, without the tail of binary fractions.
pub(crate) fn tick(value: f64) -> String {
    significant(value, 10)
}

fn significant(value: f64, digits: usize) -> String {
    if !value.is_finite() {
        return "not finite".to_owned();
    }
    let short = rounded(value, digits);
    let size = short.abs();
    if size != 0.0 && !(1e-4..1e9).contains(&size) {
        return format!("{short:e}");
    }
    let whole = format!("{short}");
    match whole.split_once('.') {
        Some((head, tail)) => format!("{}.{tail}", grouped(head)),
        None => grouped(&whole),
    }
}

/// Commas between groups of three digits.
fn grouped(digits: &str) -> String {
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |d| ("-", d));
    let mut out = String::from(sign);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// A count with commas.
pub(crate) fn count(n: u64) -> String {
    grouped(&n.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_ticks_are_powers_of_two() {
        assert_eq!(powers_of_two(200.0, 2100.0, 12), [256.0, 512.0, 1024.0, 2048.0]);
        assert_eq!(powers_of_two(256.0, 2048.0, 12).len(), 4);
        assert!(powers_of_two(1.0, 1e6, 6).len() <= 6);
        assert!(powers_of_two(0.0, 10.0, 6).is_empty() && powers_of_two(4.0, f64::NAN, 6).is_empty());
    }

    #[test]
    fn narrow_logarithmic_ranges_still_get_ticks() {
        let ticks = logarithmic(57.0, 72.0, 7);
        assert!(ticks.len() >= 3 && ticks.iter().all(|t| (57.0..=72.0).contains(t)), "{ticks:?}");
    }

    #[test]
    fn wide_logarithmic_ranges_are_not_crowded() {
        assert_eq!(logarithmic(1.0, 1e5, 7), [1.0, 10.0, 100.0, 1e3, 1e4, 1e5]);
        assert_eq!(logarithmic(3.0, 40.0, 7), [10.0, 20.0, 30.0, 40.0]);
        for hi in [4.0, 9.0, 30.0, 200.0, 5e4, 1e12] {
            let ticks = logarithmic(2.5, hi, 7);
            assert!(ticks.len() >= 3 && ticks.len() <= 13, "{hi}: {ticks:?}");
        }
    }

    #[test]
    fn linear_ticks_step_by_one_two_or_five() {
        assert_eq!(linear(0.0, 1.0, 6), [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]);
        assert_eq!(linear(-3.0, 11.0, 5), [0.0, 5.0, 10.0]);
        assert!(linear(1.0, 1.0, 5).is_empty());
    }

    #[test]
    fn lengths_read_as_people_write_them() {
        let shown = [256, 1000, 1024, 1536, 4096, 5000, 131_072, 1_048_576].map(tokens);
        assert_eq!(shown, ["256", "1,000", "1K", "1.5K", "4K", "5,000", "128K", "1M"]);
    }

    #[test]
    fn numbers_keep_four_digits_and_say_when_there_are_none() {
        assert_eq!(number(60.634_9), "60.63");
        assert_eq!(number(0.1 + 0.2), "0.3");
        assert_eq!(number(123_456.0), "123,500");
        assert_eq!(number(1.5e12), "1.5e12");
        assert_eq!(number(f64::NAN), "not finite");
        assert_eq!(percent(0.966), "97");
    }

    #[test]
    fn measured_values_of_one_size_have_digits_of_one_count() {
        let shown = [58.52, 71.5, 270.0, 999.96, 5.499_6, 0.5, 123_456.0, 0.0].map(measured);
        assert_eq!(shown, ["58.52", "71.50", "270.0", "1,000", "5.500", "0.5000", "123,500", "0"]);
        assert_eq!(measured(f64::INFINITY), "not finite");
        assert_eq!(interval(48.456, 71.5), "48.46 to 71.50");
    }

    #[test]
    fn halves_of_a_percent_all_go_up() {
        let shown = [1.0 / 8.0, 3.0 / 8.0, 23.0 / 40.0, 33.0 / 40.0, 39.0 / 40.0].map(percent);
        assert_eq!(shown, ["13", "38", "58", "83", "98"]);
    }
}
