//! Every method against the pairs of its paper: a distance for each query and key, or none where the pair is hidden.

use rope_scaling::Precision;
use tch::Device;

use super::*;

const HEADS: usize = 4;
const KEY_HEADS: usize = 2;
const HEAD_DIM: usize = 8;
const LENGTH: usize = 53;

/// Rotary distance of a visible pair, straight from the papers' equations.
fn distance(method: Extrapolation, m: i64, n: i64) -> Option<i64> {
    let d = m - n;
    if d < 0 {
        return None;
    }
    match method {
        // Jin et al. 2024, equations 3 and 4.
        Extrapolation::SelfExtend { group, window } => {
            let (g, w) = (group as i64, window as i64);
            Some(if d < w { d } else { m / g - n / g + w - w / g })
        }
        // Su 2023: min(m - n, w).
        Extrapolation::ReRope { window } => Some(d.min(window as i64)),
        // Han et al. 2023, section 4: a mask like the letter lambda, distances up to a ceiling.
        Extrapolation::LmInfinite { window, sinks } => {
            (d < window as i64 || n < sinks as i64).then(|| d.min(window as i64))
        }
        // Xiao et al. 2023, section 3.2: positions inside the cache of sinks and window.
        Extrapolation::Streaming { window, sinks } => {
            let (w, s) = (window as i64, sinks as i64);
            if d < w {
                Some(d)
            } else if n < s {
                // The query is the last of the cache, or the cache is not full yet.
                Some(m.min(s + w - 1) - n)
            } else {
                None
            }
        }
        // An et al. 2024, section 3: intra-chunk, successive-chunk and inter-chunk.
        Extrapolation::Dca { chunk, local } => {
            let (s, c) = (chunk as i64, (chunk + local) as i64);
            let key = n % s;
            Some(match m / s - n / s {
                0 => m % s - key,
                1 => (s + m % s).min(c - 1) - key,
                _ => c - 1 - key,
            })
        }
    }
}

const METHODS: [Extrapolation; 9] = [
    Extrapolation::SelfExtend { group: 4, window: 11 },
    Extrapolation::SelfExtend { group: 3, window: 7 },
    Extrapolation::ReRope { window: 9 },
    Extrapolation::LmInfinite { window: 10, sinks: 3 },
    Extrapolation::Streaming { window: 10, sinks: 4 },
    Extrapolation::Streaming { window: 6, sinks: 0 },
    Extrapolation::Dca { chunk: 12, local: 5 },
    Extrapolation::Dca { chunk: 8, local: 8 },
    Extrapolation::ReRope { window: 500 },
];

/// Inverse frequencies of the plan.
fn frequencies() -> Vec<f64> {
    (0..HEAD_DIM / 2).map(|i| 10000_f64.powf(-2.0 * i as f64 / HEAD_DIM as f64)).collect()
}

fn plan() -> PlanTensors {
    let config = serde_json::json!({
        "model_type": "llama", "hidden_size": HEADS * HEAD_DIM, "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_HEADS, "num_hidden_layers": 1, "intermediate_size": 8, "vocab_size": 16,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    });
    let config = crate::model::ModelConfig::from_hf(&config).unwrap();
    PlanTensors::new(&config.encoding().plan(LENGTH, Precision::Exact).unwrap(), Device::Cpu)
}

fn random(heads: usize) -> Tensor {
    Tensor::randn([1, heads as i64, LENGTH as i64, HEAD_DIM as i64], (Kind::Double, Device::Cpu))
}

fn rows(tensor: &Tensor) -> Vec<Vec<f64>> {
    let flat = Vec::<f64>::try_from(tensor.to_kind(Kind::Double).contiguous().view(-1)).unwrap();
    flat.chunks(HEAD_DIM).map(<[f64]>::to_vec).collect()
}

/// `q . R(distance) k` in the half-split order.
fn score(q: &[f64], k: &[f64], distance: i64) -> f64 {
    let half = HEAD_DIM / 2;
    frequencies()
        .iter()
        .enumerate()
        .map(|(i, f)| {
            let (sin, cos) = (distance as f64 * f).sin_cos();
            let (re, im) = (q[i] * k[i] + q[i + half] * k[i + half], q[i] * k[i + half] - q[i + half] * k[i]);
            re * cos + im * sin
        })
        .sum::<f64>()
        / (HEAD_DIM as f64).sqrt()
}

/// Dense attention pair by pair, `[heads * LENGTH][HEAD_DIM]`.
fn expected(method: Extrapolation, q: &Tensor, k: &Tensor, v: &Tensor) -> Vec<Vec<f64>> {
    let (q, k, v) = (rows(q), rows(k), rows(v));
    let mut out = Vec::new();
    for (head, m) in (0..HEADS).flat_map(|head| (0..LENGTH).map(move |m| (head, m))) {
        let key = |n: usize| head / (HEADS / KEY_HEADS) * LENGTH + n;
        let pairs = (0..LENGTH).filter_map(|n| Some((n, distance(method, m as i64, n as i64)?)));
        let scores: Vec<(usize, f64)> =
            pairs.map(|(n, d)| (n, score(&q[head * LENGTH + m], &k[key(n)], d).exp())).collect();
        let sum: f64 = scores.iter().map(|(_, e)| e).sum();
        let mut row = vec![0.0; HEAD_DIM];
        for (n, e) in scores {
            row.iter_mut().zip(&v[key(n)]).for_each(|(o, x)| *o += e / sum * x);
        }
        out.push(row);
    }
    out
}

fn difference(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    a.iter().flatten().zip(b.iter().flatten()).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max)
}

#[test]
fn every_method_attends_at_the_distances_of_its_paper() {
    tch::manual_seed(3);
    let (plan, backend) = (plan(), Backend::from_name("reference").unwrap());
    let (q, k, v) = (random(HEADS) * 2.0, random(KEY_HEADS), random(KEY_HEADS));
    for method in METHODS {
        let got = method.attend(backend, &plan, (&q, &k, &v), 0).unwrap();
        let wanted = expected(method, &q, &k, &v);
        let off = difference(&rows(&got), &wanted);
        assert!(off < 2e-6, "{method}: off by {off}");
        // The judgement tells the methods apart.
        let other = Extrapolation::ReRope { window: 4 };
        assert!(difference(&rows(&got), &expected(other, &q, &k, &v)) > 1e-3, "{method}");
    }
}

#[test]
fn queries_after_a_cached_prefix_see_the_same() {
    tch::manual_seed(4);
    let (plan, backend) = (plan(), Backend::from_name("reference").unwrap());
    let (q, k, v) = (random(HEADS) * 2.0, random(KEY_HEADS), random(KEY_HEADS));
    for method in METHODS {
        let whole = method.attend(backend, &plan, (&q, &k, &v), 0).unwrap();
        for (offset, end) in [(0, 1), (1, 9), (12, 13), (13, 37), (40, LENGTH as i64)] {
            let some = q.narrow(2, offset, end - offset);
            let (k, v) = (k.narrow(2, 0, end), v.narrow(2, 0, end));
            let got = method.attend(backend, &plan, (&some, &k, &v), offset).unwrap();
            let off = (got - whole.narrow(2, offset, end - offset)).abs().max().double_value(&[]);
            assert!(off < 1e-6, "{method} from {offset}: off by {off}");
        }
    }
}

#[test]
fn a_spelling_reads_back_and_wrong_ones_are_told() {
    for method in METHODS {
        assert_eq!(method.to_string().parse::<Extrapolation>().unwrap(), method);
    }
    let refused = |text: &str, words: &str| {
        let message = text.parse::<Extrapolation>().unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    };
    refused("self-extend:group=4", "window is missing");
    refused("rerope:window=0", "window must be at least 1");
    refused("rerope:window=4,window=5", "given twice");
    refused("rerope:window=4,sinks=5", "no option sinks");
    refused("rerope:window=many", "not key=tokens");
    refused("dca:chunk=4,local=5", "local must be at most chunk");
    refused("flash", "no method");
    let all: std::collections::BTreeSet<u64> = METHODS.iter().map(|method| method.fingerprint()).collect();
    assert_eq!(all.len(), METHODS.len());
}
