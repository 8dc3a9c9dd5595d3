//! The table of cases: every norm, SwiGLU and cross-entropy kernel, over rows that fit and rows that do not.

use tch::{Device, Kind, Tensor};
use testkit::SplitMix64;
use torch_ext::autograd::backward;
use torch_ext::cuda::TableKernel;
use torch_ext::fused::cross_entropy::{self, Targets};
use torch_ext::fused::kernel::{Element, Kernel, Pass, every_kernel};
use torch_ext::fused::norm::{Gradients, Inputs, Norm};
use torch_ext::fused::{FusedError, Machine, Use, layer_norm, rms_norm, swiglu as operation, swiglu_on};

use crate::budget::{Answer, judge};
use crate::reference;

const EPSILON: f64 = 1e-5;
const IGNORED: i64 = -100;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Operation {
    Norm {
        norm: Norm,
        residual: bool,
        bias: bool,
    },
    /// `halves`: gate and up are halves of the rows of one tensor.
    SwiGlu {
        halves: bool,
    },
    /// `apart`: numbers between rows that are not theirs.
    CrossEntropy {
        apart: i64,
        weights: bool,
        gradient: Option<f64>,
    },
}

/// One case.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Case {
    pub(crate) operation: Operation,
    pub(crate) element: Element,
    pub(crate) rows: i64,
    pub(crate) columns: i64,
}

/// Every case.
pub(crate) fn table() -> Vec<Case> {
    let mut cases = Vec::new();
    for element in Element::ALL {
        for (norm, layer) in [(Norm::Rms, false), (Norm::Layer, true)] {
            let kernels = every_kernel().into_iter();
            let longest = kernels.filter(|kernel| kernel.spec.pass == Pass::Norm { layer });
            let longest = longest.filter(|kernel| kernel.spec.element == element).map(|kernel| kernel.most_columns());
            for (number, longest) in longest.enumerate() {
                // A full row, and one that begins at multiples of 16 bytes by chance alone.
                for (rows, columns) in [(17, longest), (3 + 8 * number, longest - 37)] {
                    let residual = cases.len() % 2 == 0;
                    let operation = Operation::Norm { norm, residual, bias: layer && cases.len() % 4 < 2 };
                    cases.push(Case { operation, element, rows: rows as i64, columns: columns as i64 });
                }
            }
            for (rows, columns) in [(1, 1), (70, 5), (33, 96)] {
                let operation = Operation::Norm { norm, residual: columns != 5, bias: layer };
                cases.push(Case { operation, element, rows, columns });
            }
        }
        for (halves, rows, columns) in [(false, 1, 1), (false, 5, 1001), (true, 9, 40), (true, 3, 4104), (true, 3, 7)] {
            cases.push(Case { operation: Operation::SwiGlu { halves }, element, rows, columns });
        }
        for (apart, rows, columns) in [(0, 6, 1), (0, 9, 1001), (5, 4, 32_003), (8, 5, 64), (0, 3, 49_160)] {
            let weights = columns % 2 == 1;
            let gradient = (columns != 64).then_some(0.125);
            let operation = Operation::CrossEntropy { apart, weights, gradient };
            cases.push(Case { operation, element, rows, columns });
        }
    }
    cases
}

/// Numbers of a case.
struct Random(SplitMix64);

impl Random {
    /// Normal numbers rounded to a type.
    fn tensor(&mut self, shape: &[i64], kind: Kind) -> Tensor {
        let count = usize::try_from(shape.iter().product::<i64>()).unwrap();
        Tensor::from_slice(&self.0.normals(count)).view(shape).to_kind(kind)
    }

    /// The same, with rows of very different size and level.
    fn rows(&mut self, rows: i64, columns: i64, kind: Kind) -> Tensor {
        let sizes: Vec<f64> = (0..rows).map(|row| [1.0, 0.003, 30.0][row as usize % 3]).collect();
        let normal = self.tensor(&[rows, columns], Kind::Double) + 0.5;
        (normal * Tensor::from_slice(&sizes).view([rows, 1])).to_kind(kind)
    }
}

/// A tensor's numbers in order.
pub(crate) fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.detach().to_device(Device::Cpu).to_kind(Kind::Double).contiguous().view(-1)).unwrap()
}

impl Case {
    pub(crate) fn describe(&self) -> String {
        format!("{self:?}")
    }

    /// The kernels that answer it.
    pub(crate) fn kernels(&self) -> Vec<Kernel> {
        match self.operation {
            Operation::Norm { norm, .. } => {
                norm.kernels(self.element, usize::try_from(self.columns).unwrap()).unwrap().into()
            }
            Operation::SwiGlu { .. } => torch_ext::fused::swiglu::kernels(self.element).into(),
            Operation::CrossEntropy { .. } => vec![cross_entropy::kernel(self.element)],
        }
    }

    fn kind(&self) -> Kind {
        self.element.kind()
    }

    fn random(&self) -> Random {
        Random(SplitMix64::new((self.rows * 100_003 + self.columns) as u64))
    }

    /// The answers by a machine, from tensors on a device, beside what they are judged by.
    pub(crate) fn answers<M: Machine + Clone + Send + 'static>(
        &self,
        machine: &M,
        device: Device,
    ) -> Result<Vec<Judged>, FusedError> {
        match self.operation {
            Operation::Norm { norm, residual, bias } => self.norm(machine, device, norm, residual, bias),
            Operation::SwiGlu { halves } => self.swiglu(machine, device, halves),
            Operation::CrossEntropy { apart, weights, gradient } => {
                self.cross_entropy(machine, device, apart, weights, gradient)
            }
        }
    }

    /// Their judgement: the part of the budget that was used.
    pub(crate) fn judged<M: Machine + Clone + Send + 'static>(
        &self,
        machine: &M,
        device: Device,
    ) -> Result<f64, String> {
        let mut used: f64 = 0.0;
        for Judged { found, exact, plain, width } in self.answers(machine, device).map_err(|error| error.to_string())? {
            used = used.max(judge(&exact, &plain, &found, width)?);
        }
        Ok(used)
    }

    fn judgement(&self, name: &'static str, found: &Tensor, exact: Vec<f64>, plain: &Tensor) -> Judged {
        let found = Answer { name, kind: found.kind(), numbers: numbers(found) };
        let width = match plain.size()[..] {
            [_, columns] => usize::try_from(columns).unwrap(),
            _ => exact.len(),
        };
        Judged { found, exact, plain: numbers(plain), width }
    }

    fn norm<M: Machine>(
        &self,
        machine: &M,
        device: Device,
        norm: Norm,
        has_residual: bool,
        has_bias: bool,
    ) -> Result<Vec<Judged>, FusedError> {
        let (kind, shape) = (self.kind(), [self.rows, self.columns]);
        let mut random = self.random();
        let [x, residual] = [(); 2].map(|()| random.rows(self.rows, self.columns, kind));
        let [weight, bias] = [(); 2].map(|()| random.tensor(&[self.columns], kind));
        let [grad, grad_sum] = [(); 2].map(|()| random.tensor(&shape, kind));
        let layer = norm == Norm::Layer;
        let [dx, dresidual, dweight, dbias] = [&x, &residual, &weight, &bias].map(|tensor| tensor.to_device(device));
        let inputs = Inputs {
            x: &dx,
            residual: has_residual.then_some(&dresidual),
            weight: &dweight,
            bias: has_bias.then_some(&dbias),
            epsilon: EPSILON,
        };
        let normed = norm.forward(machine, &inputs)?;
        let spent = dx.copy();
        let again = norm.forward_over(machine, &Inputs { x: &spent, ..inputs })?;
        let [dgrad, dgrad_sum] = [&grad, &grad_sum].map(|tensor| tensor.to_device(device));
        let gradients = Gradients { grad: &dgrad, grad_sum: has_residual.then_some(&dgrad_sum) };
        // Of half of the cases the statistics are found again.
        let kept = (self.rows % 2 == 1).then_some(&normed.statistics);
        let found = norm.backward(machine, &Inputs { x: &normed.sum, residual: None, ..inputs }, kept, gradients)?;

        let sum = if has_residual { &x + &residual } else { x.shallow_clone() };
        let all = [&sum, &weight, &grad, &grad_sum, &bias].map(numbers);
        let bias_numbers = has_bias.then_some(&all[4][..]);
        let exact = reference::norm(layer, &all[0], &all[1], bias_numbers, EPSILON);
        let [by_x, by_weight, by_bias] =
            reference::norm_backward(layer, &all[0], &all[1], &exact, &all[2], has_residual.then_some(&all[3][..]));
        let leaf = |tensor: &Tensor| tensor.copy().set_requires_grad(true);
        let [leaf_x, leaf_weight, leaf_bias] = [&sum, &weight, &bias].map(leaf);
        let plain_bias = has_bias.then_some(&leaf_bias);
        let plain = match norm {
            Norm::Rms => rms_norm(&leaf_x, None, &leaf_weight, EPSILON, Use::Never)?,
            Norm::Layer => layer_norm(&leaf_x, None, &leaf_weight, plain_bias, EPSILON, Use::Never)?,
        };
        match has_residual {
            true => backward(&[&plain.normed, &leaf_x], &[Some(&grad), Some(&grad_sum)])?,
            false => backward(&[&plain.normed], &[Some(&grad)])?,
        }
        let mut judged = vec![
            self.judgement("sum", &normed.sum, all[0].clone(), &sum),
            self.judgement("sum in place", &spent, all[0].clone(), &sum),
            self.judgement("normed", &normed.out, exact.out.clone(), &plain.normed),
            self.judgement("normed of it", &again.out, exact.out, &plain.normed),
            self.judgement("gradient by x", &found.x, by_x, &leaf_x.grad()),
            self.judgement("gradient by the weight", &found.weight, by_weight, &leaf_weight.grad()),
        ];
        judged.extend(found.bias.map(|bias| self.judgement("gradient by the bias", &bias, by_bias, &leaf_bias.grad())));
        Ok(judged)
    }

    fn swiglu<M: Machine + Clone + Send + 'static>(
        &self,
        machine: &M,
        device: Device,
        halves: bool,
    ) -> Result<Vec<Judged>, FusedError> {
        let (kind, columns) = (self.kind(), self.columns);
        let mut random = self.random();
        let whole = random.tensor(&[self.rows, 2 * columns], kind) * 3.0;
        let grad = random.tensor(&[self.rows, columns], kind);
        let parts = |whole: &Tensor| [whole.narrow(1, 0, columns), whole.narrow(1, columns, columns)];
        let on_device = whole.to_device(device);
        let [gate, up] = parts(&on_device).map(|part| if halves { part } else { part.contiguous() });
        // Through the graph, in which the halves stay what they are.
        let [gate, up] = [gate, up].map(|part| part.detach().set_requires_grad(true));
        let product = swiglu_on(machine.clone(), &gate, &up)?;
        backward(&[&product], &[Some(&grad.to_device(device))])?;
        let spent = grad.to_device(device).copy();
        let again = torch_ext::fused::swiglu::backward_over(machine, &gate, &up, &spent, true)?;

        let [leaf_gate, leaf_up] = parts(&whole).map(|part| part.copy().set_requires_grad(true));
        let plain = operation(&leaf_gate, &leaf_up, Use::Never)?;
        backward(&[&plain], &[Some(&grad)])?;
        let [out, by_gate, by_up] = reference::swiglu(&numbers(&leaf_gate), &numbers(&leaf_up), &numbers(&grad));
        Ok(vec![
            self.judgement("product", &product, out.clone(), &plain),
            self.judgement("product again", &again.product.unwrap(), out, &plain),
            self.judgement("gradient in place", &spent, by_gate.clone(), &leaf_gate.grad()),
            self.judgement("gradient by gate", &gate.grad(), by_gate, &leaf_gate.grad()),
            self.judgement("gradient by up", &up.grad(), by_up, &leaf_up.grad()),
        ])
    }

    fn cross_entropy<M: Machine>(
        &self,
        machine: &M,
        device: Device,
        apart: i64,
        weighted: bool,
        gradient: Option<f64>,
    ) -> Result<Vec<Judged>, FusedError> {
        let (rows, columns) = (self.rows, self.columns);
        let mut random = self.random();
        let sharp: Vec<f64> = (0..rows).map(|row| [1.0, 4.0, 12.0][row as usize % 3]).collect();
        let whole = random.tensor(&[rows, columns + apart], Kind::Double) * Tensor::from_slice(&sharp).view([rows, 1]);
        let whole = whole.to_kind(self.kind());
        // A row that does not count, and in some cases one whose target is no column.
        let target = |row: i64| match row {
            1 => IGNORED,
            5 => columns,
            row => (row * 7919 + 5) % columns,
        };
        let targets: Vec<i64> = (0..rows).map(target).collect();
        // One row counts for nothing by its weight.
        let weights: Vec<f32> = (0..rows).map(|row| if row == 3 { 0.0 } else { 0.5 + row as f32 }).collect();
        let [of_targets, of_weights] = [Tensor::from_slice(&targets), Tensor::from_slice(&weights)];
        let [on_targets, on_weights] = [&of_targets, &of_weights].map(|tensor| tensor.to_device(device));
        let asked = |columns, weights| Targets { columns, ignored: IGNORED, weights, gradient };

        let memory = whole.to_device(device).copy();
        let mut logits = memory.narrow(1, 0, columns);
        let asked_here = asked(&on_targets, weighted.then_some(&on_weights));
        let losses = cross_entropy::by_kernel(machine, &mut logits, &asked_here)?;
        let mut plain_logits = whole.narrow(1, 0, columns).copy();
        let plain = cross_entropy::plain(&mut plain_logits, &asked(&of_targets, weighted.then_some(&of_weights)))?;

        let scale = gradient.unwrap_or(0.0);
        let factors: Vec<f64> =
            weights.iter().map(|&weight| scale * if weighted { f64::from(weight) } else { 1.0 }).collect();
        let before = numbers(&whole.narrow(1, 0, columns));
        let width = usize::try_from(columns).unwrap();
        let counted =
            targets.iter().enumerate().map(|(row, &target)| if weighted && row == 3 { IGNORED } else { target });
        let counted: Vec<i64> = counted.collect();
        let [exact, by_logits] = reference::cross_entropy(&before, width, &counted, IGNORED, &factors);
        let by_logits = if gradient.is_some() { by_logits } else { before };
        let beside = |whole: &Tensor| whole.narrow(1, columns, apart);
        let kept = numbers(&beside(&whole));
        Ok(vec![
            self.judgement("losses", &losses, exact, &plain),
            self.judgement("gradient by logits", &logits, by_logits, &plain_logits),
            self.judgement("what lies between rows", &beside(&memory), kept, &beside(&whole)),
        ])
    }
}

/// An answer beside the reference and the plain one.
pub(crate) struct Judged {
    pub(crate) found: Answer,
    exact: Vec<f64>,
    plain: Vec<f64>,
    /// Numbers of a row; a vector is one row.
    width: usize,
}

#[test]
fn the_cases_reach_every_kernel_but_the_optimizers() {
    let reached: std::collections::BTreeSet<String> =
        table().iter().flat_map(Case::kernels).map(|kernel| kernel.name()).collect();
    let wanted = every_kernel().into_iter().filter(|kernel| !matches!(kernel.spec.pass, Pass::AdamW { .. }));
    assert_eq!(reached, wanted.map(|kernel| kernel.name()).collect());
}
