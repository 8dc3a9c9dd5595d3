//! LongRoPE's divisors in a file of their own: one JSON object in the words of a Hugging Face `rope_scaling`.
//!
//! | key | what |
//! |---|---|
//! | `long_factor` | divisors beyond the original context, one for each rotated pair, fastest first |
//! | `short_factor` | divisors up to it; absent: 1 for every pair |
//! | `factor` | longer context over original context; absent: the reader must be told |
//! | `original_max_position_embeddings` | the original context in tokens; a model with another is refused; absent: any |
//! | `attention_factor` | factor on cosine and sine; absent: `sqrt(1 + ln s / ln L0)` |
//! | `start_tokens` | first tokens that keep unscaled positions; absent: 0 |
//! | `rope_type`, `type` | `longrope` or its older name `su`; may be absent |
//! | `found_by` | where the numbers come from, in any form; not read |
//!
//! The `config.json` of a LongRoPE model is read as well: the object then lies under `rope_scaling` or `rope_parameters`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::fields::Fields;
use super::finding::{Finding, HfErrors};
use super::suggest::did_you_mean;

/// Keys of the file.
const KEYS: [&str; 9] = [
    "rope_type",
    "type",
    "factor",
    "original_max_position_embeddings",
    "short_factor",
    "long_factor",
    "attention_factor",
    "start_tokens",
    "found_by",
];

/// Keys that a `rope_parameters` object has beside them.
const BESIDE: [&str; 2] = ["rope_theta", "partial_rotary_factor"];

/// What a file of LongRoPE factors says. Whether it fits a model, [`extend`](super::extend()) decides.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct LongRopeFactors {
    /// Divisors up to the original context; none: 1 for every pair.
    pub short: Option<Vec<f64>>,
    /// Divisors beyond it.
    pub long: Vec<f64>,
    /// Longer context over original context.
    pub factor: Option<f64>,
    /// Factor on cosine and sine; none: `sqrt(1 + ln s / ln L0)`.
    pub attention_factor: Option<f64>,
    /// First tokens that keep unscaled positions.
    pub start_tokens: usize,
    /// The original context for which the divisors are meant, in tokens.
    pub original_context: Option<usize>,
}

impl LongRopeFactors {
    /// Reads the object of a file, or the config of a LongRoPE model.
    ///
    /// # Errors
    ///
    /// Every finding at once: another scheme, unknown keys, a missing `long_factor`, values that are no numbers.
    pub fn from_json(file: &Value) -> Result<Self, HfErrors> {
        let wrong =
            |problem: &str| HfErrors::one(Finding { pointer: String::new(), value: None, problem: problem.to_owned() });
        let object = file.as_object().ok_or_else(|| wrong("must be a JSON object"))?;
        let inside = |key: &str| Some((key.to_owned(), object.get(key)?.as_object()?));
        let Some((key, nested)) = inside("rope_scaling").or_else(|| inside("rope_parameters")) else {
            return Self::read(object, "", None);
        };
        let mut top = Fields::new(object, "");
        let original = top.count("original_max_position_embeddings");
        Self::read(nested, &format!("/{key}"), original)
    }

    fn read(object: &Map<String, Value>, pointer: &str, original: Option<usize>) -> Result<Self, HfErrors> {
        let mut fields = Fields::new(object, pointer);
        let beside = |key: &&str| !pointer.is_empty() && BESIDE.contains(key);
        for key in fields.keys().filter(|key| !KEYS.contains(key) && !beside(key)) {
            fields.object_to(key, format!("unknown key{}", did_you_mean(key, KEYS)));
        }
        for key in ["rope_type", "type"] {
            if fields.text(key).is_some_and(|name| name != "longrope" && name != "su") {
                fields.object_to(key, "must be \"longrope\": the file holds factors of LongRoPE");
            }
        }
        if fields.get("long_factor").is_none() {
            fields.object_to("long_factor", "is missing: it holds one divisor for each rotated pair");
        }
        let start_tokens = match fields.get("start_tokens").and_then(Value::as_u64) {
            Some(0) => 0,
            _ => fields.count("start_tokens").unwrap_or(0),
        };
        let factors = Self {
            short: fields.numbers("short_factor"),
            long: fields.numbers("long_factor").unwrap_or_default(),
            factor: fields.number("factor"),
            attention_factor: fields.number("attention_factor"),
            start_tokens,
            original_context: fields.count("original_max_position_embeddings").or(original),
        };
        HfErrors::unless_empty(fields.findings, factors)
    }

    /// The object of a file, without what is absent.
    pub fn to_json(&self) -> Map<String, Value> {
        let mut keys = vec![("rope_type", json!("longrope"))];
        keys.extend(self.factor.map(|factor| ("factor", json!(factor))));
        keys.extend(self.original_context.map(|tokens| ("original_max_position_embeddings", json!(tokens))));
        keys.extend(self.attention_factor.map(|factor| ("attention_factor", json!(factor))));
        keys.extend((self.start_tokens > 0).then(|| ("start_tokens", json!(self.start_tokens))));
        keys.extend(self.short.as_ref().map(|short| ("short_factor", json!(short))));
        keys.push(("long_factor", json!(self.long)));
        keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RopeScaling;
    use crate::hf::{ExtendError, Extension, HfPositions, Reach, extend};

    fn factors() -> LongRopeFactors {
        LongRopeFactors {
            short: None,
            long: vec![1.0, 1.5, 4.0, 3.0],
            factor: Some(4.0),
            attention_factor: Some(1.1),
            start_tokens: 8,
            original_context: Some(256),
        }
    }

    #[test]
    fn what_is_written_reads_back_alone_and_inside_a_config() {
        let full = LongRopeFactors { short: Some(vec![1.0; 4]), ..factors() };
        for written in [factors(), full, LongRopeFactors { long: vec![2.0], ..LongRopeFactors::default() }] {
            let file = Value::Object(written.to_json());
            assert_eq!(LongRopeFactors::from_json(&file), Ok(written.clone()));
            let config = json!({"hidden_size": 64, "rope_theta": 1e4, "rope_scaling": file});
            assert_eq!(LongRopeFactors::from_json(&config), Ok(written));
        }
        let older = json!({"original_max_position_embeddings": 4096,
            "rope_scaling": {"type": "su", "short_factor": [1.0], "long_factor": [2.0]}});
        assert_eq!(LongRopeFactors::from_json(&older).unwrap().original_context, Some(4096));
        let newer = json!({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "long_factor": [2.0]}});
        assert_eq!(LongRopeFactors::from_json(&newer).unwrap().long, [2.0]);
    }

    #[test]
    fn every_mistake_of_a_file_is_said() {
        let file = json!({"rope_type": "yarn", "long_facter": [1.0], "short_factor": [1, "2"], "start_tokens": -1});
        let errors = LongRopeFactors::from_json(&file).unwrap_err();
        let pointers: Vec<&str> = errors.findings().iter().map(|finding| finding.pointer.as_str()).collect();
        assert_eq!(pointers, ["/long_facter", "/rope_type", "/long_factor", "/start_tokens", "/short_factor"]);
        assert!(errors.to_string().contains("did you mean \"long_factor\""), "{errors}");
        assert!(LongRopeFactors::from_json(&json!([1.0])).is_err());
    }

    #[test]
    fn a_model_is_extended_by_factors_that_fit_it() {
        let model = HfPositions::plain(8, 10_000.0, 256).unwrap();
        let by = |factors: LongRopeFactors| extend(&model, &Extension::LongRope(factors), Reach::Factor(4.0));
        let extended = by(factors()).unwrap();
        let expected = RopeScaling::LongRope {
            short: vec![1.0; 4],
            long: vec![1.0, 1.5, 4.0, 3.0],
            factor: 4.0,
            attention_factor: Some(1.1),
            start_tokens: 8,
        };
        assert_eq!((extended.max_position_embeddings, &extended.scaling), (1024, &expected));
        // Up to the original context as pretrained but for the attention factor; beyond it each pair by its divisor,
        // except for the first tokens.
        let plain = RopeScaling::None.frequencies(&extended.geometry, 1);
        assert_eq!(extended.scaling.frequencies(&extended.geometry, 256).inv_freq, plain.inv_freq);
        let long = extended.scaling.frequencies(&extended.geometry, 257);
        assert_eq!((long.at(7), long.at(8)), (plain.inv_freq.as_slice(), long.inv_freq.as_slice()));
        assert!((long.inv_freq[2] - plain.inv_freq[2] / 4.0).abs() < 1e-15);
        let refused = |change: &dyn Fn(&mut LongRopeFactors)| {
            let mut factors = factors();
            change(&mut factors);
            by(factors).unwrap_err()
        };
        assert!(matches!(refused(&|f| f.long.truncate(3)), ExtendError::Scaling(_)));
        assert!(matches!(refused(&|f| f.long[1] = 0.0), ExtendError::Scaling(_)));
        assert!(matches!(refused(&|f| f.short = Some(vec![1.0; 5])), ExtendError::Scaling(_)));
        let other = refused(&|f| f.original_context = Some(4096));
        assert_eq!(other, ExtendError::OtherOriginal { meant: 4096, model: 256 });
    }
}
