//! From checked positions to the keys of a `config.json`, both spellings with the same meaning.

use serde_json::{Map, Value, json};

use super::record::{self, Record};
use super::{HfPositions, POSITION_KEYS};
use crate::geometry::RopeGeometry;
use crate::real::Real;
use crate::scaling::RopeScaling;

impl HfPositions {
    /// The keys to put into a config: `rope_theta` and `rope_scaling` for transformers 4, `rope_parameters` for 5,
    /// `max_position_embeddings`, and where needed `partial_rotary_factor`, `original_max_position_embeddings` and our
    /// own `bowline_positions`. [`from_hf`](super::from_hf) reads them back to the same positions.
    ///
    /// A dynamic NTK model is written with its original context as `max_position_embeddings`, as the format demands. Dynamic
    /// YaRN is written as `dynamic-yarn`, the name in YaRN's own repository, which transformers does not know.
    pub fn to_hf(&self) -> Map<String, Value> {
        let base = self.scaling_free_base();
        let share = rotary_share(&self.geometry);
        let parameters = self.hub_parameters();
        let name = hub_name(&self.scaling);

        let mut old = Map::from_iter([("type".to_owned(), json!(name)), ("rope_type".to_owned(), json!(name))]);
        let mut new = Map::from_iter([("rope_type".to_owned(), json!(name)), ("rope_theta".to_owned(), json!(base))]);
        old.extend(parameters.clone());
        new.extend(parameters);
        if let Some(share) = share {
            new.insert("partial_rotary_factor".to_owned(), json!(share));
        }
        let plain = name == "default" && self.finetuned.is_none();

        let mut keys = Map::new();
        keys.insert("max_position_embeddings".to_owned(), json!(self.written_context()));
        keys.insert("rope_theta".to_owned(), json!(base));
        keys.insert("rope_scaling".to_owned(), if plain { Value::Null } else { Value::Object(old) });
        keys.insert("rope_parameters".to_owned(), Value::Object(new));
        if let Some(share) = share {
            keys.insert("partial_rotary_factor".to_owned(), json!(share));
        }
        if matches!(self.scaling, RopeScaling::LongRope { .. }) {
            // transformers 4 looks for it here only.
            let original = json!(self.geometry.original_context());
            keys.insert("original_max_position_embeddings".to_owned(), original);
        }
        if let Some(record) = Record::of(self) {
            keys.insert(record::KEY.to_owned(), record);
        }
        keys
    }

    /// Replaces every position key of `config` by those of [`to_hf`](Self::to_hf), so that none is left stale.
    pub fn merge_into(&self, config: &mut Map<String, Value>) {
        for key in POSITION_KEYS {
            config.shift_remove(key);
        }
        config.extend(self.to_hf());
    }

    /// The base that transformers must be told.
    fn scaling_free_base(&self) -> f64 {
        match self.scaling {
            RopeScaling::NtkAware { .. } => {
                self.scaling.effective_base(&self.geometry, self.geometry.original_context())
            }
            _ => self.geometry.base(),
        }
    }

    fn written_context(&self) -> usize {
        match self.scaling {
            RopeScaling::DynamicNtk { .. } => self.geometry.original_context(),
            _ => self.max_position_embeddings,
        }
    }

    /// The scheme's parameters as transformers spells them.
    fn hub_parameters(&self) -> Map<String, Value> {
        let mut parameters = match self.scaling {
            // Expressed by the base alone.
            RopeScaling::NtkAware { .. } => Map::new(),
            _ => self.scaling.parameters(),
        };
        if parameters.get("truncate") == Some(&Value::Bool(true)) {
            // The default, and unknown to older readers.
            parameters.shift_remove("truncate");
        }
        // Kept in our own record, since the format has no word for it.
        parameters.shift_remove("start_tokens");
        if matches!(self.scaling, RopeScaling::NtkByParts { .. }) {
            parameters.insert("attention_factor".to_owned(), json!(1.0));
        }
        let needs_original = matches!(
            self.scaling,
            RopeScaling::Yarn { .. }
                | RopeScaling::NtkByParts { .. }
                | RopeScaling::DynamicYarn { .. }
                | RopeScaling::Llama3 { .. }
                | RopeScaling::LongRope { .. }
        );
        if needs_original {
            let original = json!(self.geometry.original_context());
            parameters.insert("original_max_position_embeddings".to_owned(), original);
        }
        if let Some(finetuned) = self.finetuned {
            parameters.insert("finetuned".to_owned(), json!(finetuned));
        }
        parameters
    }
}

/// The scheme's name in transformers.
fn hub_name(scaling: &RopeScaling) -> &'static str {
    match scaling {
        RopeScaling::NtkAware { .. } => "default",
        RopeScaling::NtkByParts { .. } => "yarn",
        other => other.name(),
    }
}

/// `partial_rotary_factor` for a partly rotated head: a share that readers, who truncate its product with the head size,
/// turn back into the rotary size.
fn rotary_share(geometry: &RopeGeometry) -> Option<f64> {
    let (rotary_dim, head_dim) = (f64::count(geometry.rotary_dim()), f64::count(geometry.head_dim()));
    if geometry.rotary_dim() == geometry.head_dim() {
        return None;
    }
    let share = rotary_dim / head_dim;
    Some(if (share * head_dim).trunc() == rotary_dim { share } else { share.next_up() })
}
