//! The fused loss beside the plain one, which holds all logits.

use std::time::Instant;

use clap::Args;
use serde::Serialize;
use tch::{Device, Kind, Reduction, Tensor};
use torch_ext::memory::{reset_peak, usage};

use super::super::output::{print, print_json};
use super::settle;
use crate::error::Failure;
use crate::runtime::device::{device, device_name};
use crate::train::{head_loss, loss_rows};

/// Loss of a linear head.
#[derive(Debug, Args)]
pub(super) struct LossBench {
    /// Tokens of a pass
    #[arg(long, value_delimiter = ',', default_value = "4096,8192,16384,32768")]
    tokens: Vec<i64>,
    /// Width of the hidden states
    #[arg(long, default_value_t = 576)]
    hidden: i64,
    /// Token ids
    #[arg(long, default_value_t = 32_000)]
    vocab: i64,
    /// Tokens whose logits the fused loss holds at once; 0: chosen by size, as in training
    #[arg(long, default_value_t = 0)]
    piece: usize,
    /// Timed turns of each, after one that is not
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// Device: cpu, cuda or cuda:N [default: cuda:0 when there is one]
    #[arg(long)]
    device: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// One length.
#[derive(Debug, Serialize)]
struct Row {
    case: &'static str,
    device: String,
    tokens: i64,
    hidden: i64,
    vocab: i64,
    /// Tokens whose logits the fused loss holds at once.
    piece: i64,
    /// Seconds forward and backward, the least of the turns.
    fused_seconds: f64,
    plain_seconds: f64,
    /// Time of the plain loss over that of the fused.
    speedup: f64,
    /// Bytes at most beside inputs and their gradients.
    fused_extra_bytes: i64,
    plain_extra_bytes: i64,
    extra_ratio: f64,
}

/// Hidden states, head and targets; bfloat16 on a GPU.
struct Case {
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
}

impl LossBench {
    /// Measures and prints.
    ///
    /// # Errors
    ///
    /// When memory runs out.
    pub(super) fn run(self) -> Result<(), Failure> {
        if self.repeats == 0 || self.hidden < 1 || self.vocab < 1 || self.tokens.iter().any(|&tokens| tokens < 1) {
            return Err(Failure::config("--repeats, --hidden, --vocab and --tokens must be at least 1"));
        }
        let device = device(self.device.as_deref())?;
        let rows: Vec<Row> = self.tokens.iter().map(|&tokens| self.row(device, tokens)).collect::<Result<_, _>>()?;
        if self.json {
            return print_json(&rows);
        }
        for row in rows {
            let mib = |bytes: i64| bytes as f64 / f64::from(1 << 20);
            print(&format!(
                "{} tokens of {}, {} ids: fused {:.0} ms and {:.0} MiB, plain {:.0} ms and {:.0} MiB: {:.2} times as fast \
                 in {:.1} % of the memory\n",
                row.tokens,
                row.hidden,
                row.vocab,
                1e3 * row.fused_seconds,
                mib(row.fused_extra_bytes),
                1e3 * row.plain_seconds,
                mib(row.plain_extra_bytes),
                row.speedup,
                100.0 * row.extra_ratio,
            ));
        }
        Ok(())
    }

    fn row(&self, device: Device, tokens: i64) -> Result<Row, Failure> {
        // Tensors are counted from the first question on.
        usage(device).map_err(|error| Failure::config(error.to_string()))?;
        let case = self.case(device, tokens)?;
        let (mut fused, mut plain) = ((f64::INFINITY, 0), (f64::INFINITY, 0));
        let by_pieces = |case: &Case| fused_loss(case, self.piece);
        for turn in 0..=self.repeats {
            for (best, loss) in [(&mut fused, &by_pieces as Loss<'_>), (&mut plain, &plain_loss)] {
                let (seconds, extra) = case.turn(loss)?;
                *best = (if turn == 0 { best.0 } else { best.0.min(seconds) }, extra);
            }
        }
        Ok(Row {
            case: "loss",
            device: device_name(device),
            tokens,
            hidden: self.hidden,
            vocab: self.vocab,
            piece: loss_rows(self.piece, tokens, device),
            fused_seconds: fused.0,
            plain_seconds: plain.0,
            speedup: plain.0 / fused.0,
            fused_extra_bytes: fused.1,
            plain_extra_bytes: plain.1,
            extra_ratio: fused.1 as f64 / plain.1 as f64,
        })
    }

    fn case(&self, device: Device, tokens: i64) -> Result<Case, Failure> {
        let kind = if device == Device::Cpu { Kind::Float } else { Kind::BFloat16 };
        let drawn = |shape: [i64; 2], std: f64| -> Result<Tensor, Failure> {
            Ok(Tensor::f_empty(shape, (kind, device))?.f_normal_(0.0, std)?)
        };
        let targets = Tensor::f_randint(self.vocab, [tokens], (Kind::Int64, device))?;
        Ok(Case { hidden: drawn([tokens, self.hidden], 1.0)?, head: drawn([self.vocab, self.hidden], 0.02)?, targets })
    }
}

type Loss<'a> = &'a dyn Fn(&Case) -> Result<Tensor, Failure>;

fn fused_loss(case: &Case, piece: usize) -> Result<Tensor, Failure> {
    head_loss(&case.hidden, &case.head, &case.targets, None, piece)
}

fn plain_loss(case: &Case) -> Result<Tensor, Failure> {
    let logits = case.hidden.f_linear(&case.head, None::<&Tensor>)?.f_to_kind(Kind::Float)?;
    Ok(logits.f_cross_entropy_loss(&case.targets, None::<&Tensor>, Reduction::Sum, -100, 0.0)?)
}

impl Case {
    /// Seconds of a turn forward and backward, and bytes at most beside inputs and their gradients.
    fn turn(&self, loss: Loss<'_>) -> Result<(f64, i64), Failure> {
        let device = self.hidden.device();
        // Leaves of their own, so that each turn begins without gradients.
        let leaf = |tensor: &Tensor| tensor.detach().set_requires_grad(true);
        let case = Self { hidden: leaf(&self.hidden), head: leaf(&self.head), targets: self.targets.shallow_clone() };
        let known = |error: torch_ext::memory::MemoryError| Failure::config(error.to_string());
        settle(device);
        reset_peak(device).map_err(known)?;
        let (before, started) = (usage(device).map_err(known)?.now, Instant::now());
        let answer = loss(&case)? / case.targets.numel() as f64;
        answer.f_backward()?;
        settle(device);
        let seconds = started.elapsed().as_secs_f64();
        let bytes = |leaf: &Tensor| leaf.numel() as i64 * leaf.kind().elt_size_in_bytes() as i64;
        Ok((seconds, usage(device).map_err(known)?.peak - before - bytes(&case.hidden) - bytes(&case.head)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_losses_are_the_same_number() {
        let bench = LossBench { tokens: vec![], hidden: 8, vocab: 50, piece: 7, repeats: 1, device: None, json: false };
        let case = bench.case(Device::Cpu, 600).unwrap();
        let [fused, plain] =
            [fused_loss(&case, bench.piece), plain_loss(&case)].map(|loss| loss.unwrap().double_value(&[]));
        assert!((fused / plain - 1.0).abs() < 1e-5, "{fused} {plain}");
    }
}
