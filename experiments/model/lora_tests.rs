use tch::{Device, Kind, Tensor};

use super::*;

const SHAPE: [i64; 2] = [6, 10];

fn adapter(dropout: f64, pass: &PassNumber) -> LowRank {
    let config = LowRankConfig { rank: 3, alpha: 6.0, dropout, seed: 11 };
    let made = LowRank::new("model.layers.0.mlp.up_proj", SHAPE, config, pass, (Kind::Float, Device::Cpu)).unwrap();
    let up = drawn(1, &[SHAPE[0], 3]);
    LowRank { up, ..made }
}

fn drawn(seed: u64, shape: &[i64]) -> Tensor {
    let rng = CounterRng::new(seed);
    let values: Vec<f32> = (0..shape.iter().product::<i64>() as u64).map(|n| rng.normal(n) as f32).collect();
    Tensor::from_slice(&values).view(shape)
}

/// Output and gradients by product, x, A and B of a weighted sum, by `added`.
fn run(made: &LowRank, added: impl Fn(&Tensor, &Tensor, &Tensor, &Tensor) -> Tensor) -> Vec<Tensor> {
    let leaf = |tensor: &Tensor| tensor.detach().copy().set_requires_grad(true);
    let (product, x) = (leaf(&drawn(2, &[2, 4, SHAPE[0]])), leaf(&drawn(3, &[2, 4, SHAPE[1]])));
    let (down, up) = (leaf(&made.down), leaf(&made.up));
    // As a projection leaves it: no leaf, and nothing else reads it.
    let output = added(&(&product * 1.0), &x, &down, &up);
    (&output * drawn(4, &[2, 4, SHAPE[0]])).sum(Kind::Float).backward();
    vec![output.detach(), product.grad(), x.grad(), down.grad(), up.grad()]
}

fn by_node(made: &LowRank) -> Vec<Tensor> {
    run(made, |product, x, down, up| {
        let (down, up) = (down.shallow_clone(), up.shallow_clone());
        LowRank { down, up, scale: made.scale, dropout: made.dropout.clone() }.added_to(product, x)
    })
}

/// The equation, operation by operation, with a mask given.
fn by_equation(made: &LowRank, mask: Option<&Tensor>, kept: f64) -> Vec<Tensor> {
    run(made, |product, x, down, up| {
        let x = mask.map_or_else(|| x.shallow_clone(), |mask| x * mask / kept);
        product + x.matmul(&down.tr()).matmul(&up.tr()) * 2.0
    })
}

fn near(found: &[Tensor], expected: &[Tensor]) -> bool {
    found.iter().zip(expected).all(|(a, b)| a.size() == b.size() && a.allclose(b, 1e-5, 1e-5, false))
}

#[test]
fn a_new_adapter_adds_nothing_and_its_first_factor_is_uniform_within_its_bound() {
    let config = LowRankConfig { rank: 8, alpha: 16.0, dropout: 0.0, seed: 3 };
    let make = |name: &str, seed| {
        let config = LowRankConfig { seed, ..config };
        LowRank::new(name, [20, 400], config, &PassNumber::default(), (Kind::Float, Device::Cpu)).unwrap()
    };
    let made = make("a", 3);
    let product = drawn(1, &[5, 20]);
    let x = drawn(2, &[5, 400]);
    assert!(made.added_to(&product.copy(), &x).equal(&product));
    // Kaiming-uniform with slope sqrt(5): a bound of 1 / sqrt(in), here 0.05, and a deviation of bound / sqrt(3).
    let (most, deviation) = (made.down.abs().max().double_value(&[]), made.down.std(true).double_value(&[]));
    assert!(most <= 0.05 && most > 0.049, "{most}");
    assert!((deviation - 0.05 / 3_f64.sqrt()).abs() < 1e-3, "{deviation}");
    assert!(made.down.equal(&make("a", 3).down));
    assert!(!made.down.equal(&make("b", 3).down) && !made.down.equal(&make("a", 4).down));
}

#[test]
fn output_and_gradients_are_those_of_the_equation() {
    let made = adapter(0.5, &PassNumber::default());
    // No pass is set: nothing is dropped.
    assert!(near(&by_node(&made), &by_equation(&made, None, 1.0)));
    assert!(!near(&by_node(&LowRank { scale: 2.1, ..made.handle() }), &by_equation(&made, None, 1.0)));
}

#[test]
fn what_is_dropped_is_the_same_forward_and_backward_and_another_in_each_pass() {
    let pass = PassNumber::default();
    let made = adapter(0.5, &pass);
    pass.set(7);
    let ones = Tensor::ones([8, SHAPE[1]], (Kind::Float, Device::Cpu));
    let mask = made.dropout.of_this_pass().applied(ones.shallow_clone()) / 2.0;
    let kept = mask.sum(Kind::Float).double_value(&[]);
    assert!((20.0..60.0).contains(&kept), "{kept} of 80");
    let expected = by_equation(&made, Some(&mask.view([2, 4, SHAPE[1]])), 0.5);
    assert!(near(&by_node(&made), &expected));
    let other = adapter(0.5, &pass);
    assert!(near(&by_node(&other), &expected), "a function of seed, name and pass");
    pass.set(8);
    assert!(!near(&by_node(&made), &expected));
}

#[test]
fn the_update_is_what_an_adapter_adds() {
    let made = adapter(0.0, &PassNumber::default());
    let x = drawn(5, &[7, SHAPE[1]]);
    let added = made.added_to(&Tensor::zeros([7, SHAPE[0]], (Kind::Float, Device::Cpu)), &x);
    assert!(added.allclose(&x.matmul(&made.update().tr()), 1e-5, 1e-6, false));
}
