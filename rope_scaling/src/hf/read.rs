//! From the object of a `config.json` to checked positions.

use std::fmt::Display;

use serde_json::{Map, Value};

use super::declared::Declared;
use super::fields::Fields;
use super::finding::{Finding, HfErrors};
use super::record::{self, Record};
use super::suggest::nearest;
use super::{DEFAULT_BASE, HfPositions, POSITION_KEYS};
use crate::error::GeometryError;
use crate::geometry::RopeGeometry;
use crate::real::Real;
use crate::scaling::RopeScaling;

/// What transformers assumes when a LLaMA config names no context.
const DEFAULT_CONTEXT: usize = 2048;

/// Keys under which `rope_parameters` may be nested, one object a kind of layer.
const LAYER_TYPES: [&str; 3] = ["full_attention", "sliding_attention", "chunked_attention"];

/// Reads the positions of a whole `config.json` object.
///
/// Accepts every spelling met in the wild: `rope_scaling` with `type`, `rope_type` or both beside a top-level
/// `rope_theta`; `rope_parameters` with the base inside; null; `su` for LongRoPE; `rope_condense_ratio`. Nothing in
/// `auto_map` is run.
///
/// # Errors
///
/// Every finding at once: unknown schemes and keys, missing or unreadable values, values out of range, spellings that
/// disagree, scaling declared twice.
pub fn from_hf(config: &Value) -> Result<HfPositions, HfErrors> {
    let Some(object) = config.as_object() else {
        let problem = "a config must be a JSON object".to_owned();
        return Err(HfErrors::one(Finding { pointer: String::new(), value: Some(config.clone()), problem }));
    };
    let mut reader = Reader { top: Fields::new(object, ""), object, notes: Vec::new() };
    let positions = reader.positions();
    HfErrors::unless_empty(reader.top.findings, positions)
}

/// The original context of a linear model whose longer context is `max`, when the factor divides it.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be whole and at least 1")]
pub(super) fn original_of_linear(max: usize, factor: f64) -> Option<usize> {
    let original = f64::count(max) / factor;
    (original.fract() == 0.0 && original >= 1.0).then_some(original as usize)
}

struct Reader<'a> {
    top: Fields<'a>,
    object: &'a Map<String, Value>,
    notes: Vec<String>,
}

impl Reader<'_> {
    fn positions(&mut self) -> HfPositions {
        let head_dim = self.head_dim();
        let max = self.max_position_embeddings();
        self.judge_top_level_keys();
        let old = self.declared("rope_scaling");
        let new = self.declared("rope_parameters");
        let record = Record::read(self.object, &mut self.top.findings);
        let base = self.base(old.as_ref(), new.as_ref());
        let forms = [old.as_ref(), new.as_ref()];
        let partial = self.top.number("partial_rotary_factor");
        let partial = self.agreed("partial_rotary_factor", partial, forms, |declared| declared.partial);
        let original = self.top.count("original_max_position_embeddings");
        let original = self.agreed("original_max_position_embeddings", original, forms, |declared| declared.original);
        let original = self.with_record(original, record.as_ref());
        let scaling = self.scaling(old.as_ref(), new.as_ref(), max, original);
        let declared = old.as_ref().or(new.as_ref());
        let original = self.original(&scaling, declared, max, original);
        let geometry = self.geometry(head_dim, partial, base, original);
        self.validate(&scaling, declared, &geometry, head_dim.is_some());
        let finetuned = [&old, &new].into_iter().flatten().find_map(|declared| declared.finetuned);
        let (notes, pretrained_base) = (Vec::new(), None);
        let mut positions =
            HfPositions { geometry, scaling, max_position_embeddings: max, pretrained_base, finetuned, notes };
        if let Some(record) = record.filter(|_| self.top.findings.is_empty()) {
            record.apply(&mut positions, &mut self.top.findings);
        }
        positions.notes = std::mem::take(&mut self.notes);
        positions
    }

    fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Head size: `head_dim`, else `hidden_size / num_attention_heads`. `None` when it cannot be known.
    fn head_dim(&mut self) -> Option<usize> {
        let heads = self.top.count("num_attention_heads");
        if let (Some(heads), Some(key_heads)) = (heads, self.top.count("num_key_value_heads"))
            && heads % key_heads != 0
        {
            self.top.object_to("num_key_value_heads", format!("must divide num_attention_heads {heads}"));
        }
        if self.top.get("head_dim").is_some() {
            let head_dim = self.top.count("head_dim")?;
            return self.even_head("head_dim", head_dim);
        }
        for key in ["hidden_size", "num_attention_heads"] {
            if self.top.get(key).is_none() {
                self.top.object_to(key, "is missing");
            }
        }
        let (hidden, heads) = (self.top.count("hidden_size")?, heads?);
        if hidden % heads != 0 {
            self.top.object_to("hidden_size", format!("must be a multiple of num_attention_heads {heads}"));
            return None;
        }
        self.even_head("hidden_size", hidden / heads)
    }

    fn even_head(&mut self, key: &str, head_dim: usize) -> Option<usize> {
        if !head_dim.is_multiple_of(2) {
            self.top.object_to(key, format!("gives heads of {head_dim} channels, but rotation needs an even number"));
            return None;
        }
        Some(head_dim)
    }

    fn max_position_embeddings(&mut self) -> usize {
        if self.top.get("max_position_embeddings").is_none() {
            self.note(format!("max_position_embeddings is absent and taken as {DEFAULT_CONTEXT}"));
        }
        self.top.count("max_position_embeddings").unwrap_or(DEFAULT_CONTEXT)
    }

    fn judge_top_level_keys(&mut self) {
        if self.top.get("auto_map").is_some() {
            self.note("auto_map names remote code; it is not run, and the model is read as plain LLaMA");
        }
        if self.top.get("position_embedding_type").and_then(Value::as_str) == Some("alibi") {
            self.top.object_to("position_embedding_type", "the model uses ALiBi, which has no rotary positions");
        }
        for key in self.top.keys().filter(|key| !POSITION_KEYS.contains(key)) {
            if let Some(known) = nearest(key, POSITION_KEYS) {
                self.top.object_to(key, format!("unknown key; did you mean \"{known}\"?"));
            } else if key.starts_with("rope_") {
                self.note(format!("{key} is not known and was not used"));
            }
        }
    }

    /// One of the two objects, through per-layer nesting when all layers agree.
    fn declared(&mut self, key: &str) -> Option<Declared> {
        let value = self.top.get(key)?;
        let Some(object) = value.as_object() else {
            self.top.object_to(key, "must be an object or null");
            return None;
        };
        let layers: Vec<_> = LAYER_TYPES.iter().filter_map(|layer| Some((*layer, object.get(*layer)?))).collect();
        let Some((layer, first)) = layers.first() else {
            return (!object.is_empty()).then(|| Declared::read(object, &format!("/{key}"), &mut self.top.findings));
        };
        match first.as_object() {
            Some(first_object) if layers.iter().all(|(_, other)| other == first) && layers.len() == object.len() => {
                self.note(format!("{key} is given per kind of layer; all kinds agree"));
                Some(Declared::read(first_object, &format!("/{key}/{layer}"), &mut self.top.findings))
            }
            _ => {
                self.top.object_to(key, "kinds of layers with different positions are not supported");
                None
            }
        }
    }

    /// The value of a key that may stand at the top and in either object; all that are there must agree.
    fn agreed<T: PartialEq + Display + Copy>(
        &mut self,
        key: &str,
        at_top: Option<T>,
        forms: [Option<&Declared>; 2],
        of: impl Fn(&Declared) -> Option<T>,
    ) -> Option<T> {
        let mut found: Option<(String, T)> = at_top.map(|value| (format!("/{key}"), value));
        for declared in forms.into_iter().flatten() {
            let Some(value) = of(declared) else { continue };
            let pointer = format!("{}/{key}", declared.pointer);
            match &found {
                Some((other, expected)) if *expected != value => {
                    let problem = format!("is {value}, which disagrees with {other}, which is {expected}");
                    self.top.findings.push(Finding { pointer, value: None, problem });
                }
                Some(_) => {}
                None => found = Some((pointer, value)),
            }
        }
        found.map(|(_, value)| value)
    }

    fn base(&mut self, old: Option<&Declared>, new: Option<&Declared>) -> f64 {
        let at_top = self.top.number("rope_theta");
        let base = self.agreed("rope_theta", at_top, [old, new], |declared| declared.theta);
        let at_top = self.top.get("rope_theta").is_some();
        // Readers of the old spelling look at the top level or assume the default; they never see rope_parameters.
        if let (Some(old), Some(new), Some(base), false) = (old, new, base, at_top)
            && old.theta.is_none()
            && base != DEFAULT_BASE
        {
            let pointer = format!("{}/rope_theta", new.pointer);
            let problem =
                format!("is {base}, but {} stands beside it without a base, which means {DEFAULT_BASE}", old.pointer);
            self.top.findings.push(Finding { pointer, value: None, problem });
        }
        if base.is_none() {
            self.note(format!("rope_theta is absent and taken as {DEFAULT_BASE}"));
        }
        base.unwrap_or(DEFAULT_BASE)
    }

    /// The scheme that both spellings and `rope_condense_ratio` declare together.
    fn scaling(
        &mut self,
        old: Option<&Declared>,
        new: Option<&Declared>,
        max: usize,
        original: Option<usize>,
    ) -> RopeScaling {
        let implied = f64::count(max) / f64::count(original.unwrap_or(max));
        let (older, newer) = (old.map(|d| d.scaling(implied)), new.map(|d| d.scaling(implied)));
        let scaling = match (older, newer) {
            (Some(older), Some(newer)) => {
                if older != newer {
                    let problem = format!("declares {newer:?}, but rope_scaling declares {older:?}");
                    self.top.findings.push(Finding { pointer: "/rope_parameters".to_owned(), value: None, problem });
                }
                older
            }
            (None, Some(newer)) if newer != RopeScaling::None && self.object.contains_key("rope_scaling") => {
                self.note(
                    "rope_scaling is null beside rope_parameters: transformers before 5 runs this model unscaled",
                );
                newer
            }
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => RopeScaling::None,
        };
        if [old, new].into_iter().flatten().any(Declared::half_mscale) {
            self.note("only one of mscale and mscale_all_dim is given; like transformers, neither is used");
        }
        self.condensed(scaling)
    }

    fn condensed(&mut self, scaling: RopeScaling) -> RopeScaling {
        let key = "rope_condense_ratio";
        let Some(ratio) = self.top.number(key) else { return scaling };
        if ratio < 1.0 {
            self.top.object_to(key, "must be at least 1");
            return scaling;
        }
        match scaling {
            _ if ratio == 1.0 => scaling,
            RopeScaling::None => {
                self.note(format!("rope_condense_ratio {ratio} read as linear scaling; transformers ignores the key"));
                RopeScaling::Linear { factor: ratio }
            }
            RopeScaling::Linear { factor } if factor == ratio => {
                self.note(format!("rope_condense_ratio repeats the linear factor {ratio}; applied once"));
                scaling
            }
            _ => {
                let problem = format!("would scale twice, beside {scaling:?}");
                self.top.object_to(key, problem);
                scaling
            }
        }
    }

    /// The declared original context, which a record may be the only one to know.
    fn with_record(&mut self, declared: Option<usize>, record: Option<&Record>) -> Option<usize> {
        let recorded = record.and_then(|record| record.original);
        if let (Some(declared), Some(recorded)) = (declared, recorded)
            && declared != recorded
        {
            let pointer = format!("/{}/original_context", record::KEY);
            let problem = format!("is {recorded}, but original_max_position_embeddings is {declared}");
            self.top.findings.push(Finding { pointer, value: None, problem });
        }
        declared.or(recorded)
    }

    /// The original context by the scheme's own rule.
    fn original(
        &mut self,
        scaling: &RopeScaling,
        declared: Option<&Declared>,
        max: usize,
        original: Option<usize>,
    ) -> usize {
        if let (Some(declared), None) = (declared.filter(|declared| declared.needs_original), original) {
            let pointer = format!("{}/original_max_position_embeddings", declared.pointer);
            let problem = format!("is missing: {} needs the context of the pretraining", scaling.name());
            self.top.findings.push(Finding { pointer, value: None, problem });
        }
        match (scaling, original) {
            (RopeScaling::DynamicNtk { .. }, Some(original)) if original != max => {
                let problem = format!(
                    "is the original context of a dynamic model, but original_max_position_embeddings says {original}"
                );
                self.top.object_to("max_position_embeddings", problem);
                original
            }
            (_, Some(original)) => original,
            (RopeScaling::Linear { factor }, None) if *factor > 1.0 => self.inferred_original(max, *factor),
            (_, None) => max,
        }
    }

    fn inferred_original(&mut self, max: usize, factor: f64) -> usize {
        if let Some(original) = original_of_linear(max, factor) {
            self.note(format!(
                "original context taken as max_position_embeddings {max} / factor {factor} = {original}; if the limit was \
                 not raised with the factor, the model reaches {max} x {factor} tokens and the limit is too low"
            ));
            return original;
        }
        self.note(format!(
            "max_position_embeddings {max} is no multiple of the linear factor {factor}: taken as not raised, so it is the \
             original context"
        ));
        max
    }

    /// The geometry; a stand-in for parts that are already among the findings, so that the rest is judged too.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "truncated as transformers does")]
    fn geometry(&mut self, head_dim: Option<usize>, partial: Option<f64>, base: f64, original: usize) -> RopeGeometry {
        let head_dim = head_dim.unwrap_or(128);
        let rotary_dim = match partial {
            Some(share) if share > 0.0 && share <= 1.0 => (f64::count(head_dim) * share) as usize,
            Some(share) => {
                let problem = format!("must be above 0 and at most 1, is {share}");
                self.push("/partial_rotary_factor", problem);
                head_dim
            }
            None => head_dim,
        };
        RopeGeometry::new(head_dim, rotary_dim, base, original).unwrap_or_else(|error| {
            let pointer = match error {
                GeometryError::Base { .. } => "/rope_theta",
                GeometryError::RotaryDim { .. } => "/partial_rotary_factor",
                GeometryError::HeadDim { .. } => "/head_dim",
                GeometryError::OriginalContext { .. } => "/original_max_position_embeddings",
            };
            self.push(pointer, error.to_string());
            RopeGeometry::stand_in()
        })
    }

    fn push(&mut self, pointer: &str, problem: String) {
        self.top.findings.push(Finding { pointer: pointer.to_owned(), value: None, problem });
    }

    fn validate(
        &mut self,
        scaling: &RopeScaling,
        declared: Option<&Declared>,
        geometry: &RopeGeometry,
        head_known: bool,
    ) {
        let Err(error) = scaling.validate(geometry) else { return };
        let pointer = declared.map_or("", |declared| declared.pointer.as_str());
        let lists_judged = head_known && declared.is_some_and(|declared| !declared.lists_missing());
        for problem in error.problems {
            let list = ["short_factor", "long_factor"].contains(&problem.parameter);
            if !list || lists_judged {
                let text = format!("{}, is {}", problem.reason, problem.value);
                self.push(&format!("{pointer}/{}", problem.parameter), text);
            }
        }
    }
}
