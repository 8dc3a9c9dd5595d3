//! The vocabulary of a GGUF file as the `tokenizer.json` that says the same.
//!
//! Two kinds are read. `gpt2` is byte-level BPE: tokens, merges, and in `tokenizer.ggml.pre` the name of the rule that splits
//! text before it is merged, which the file does not spell out. `llama` is SentencePiece's BPE: tokens with scores, from
//! which the merges follow: every way to put a token together from two others, best score first.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::error::Problem;
use super::header::Header;
use crate::tokenizer::Built;

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const SCORES: &str = "tokenizer.ggml.scores";

/// Llama 3's split, as its `tokenizer.json` has it.
const LLAMA3_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Kinds of tokens by their numbers; the others (normal, unused, byte) are plain entries.
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// The tokens at a document's ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ends {
    /// The beginning-of-text token.
    pub(super) bos: Option<u32>,
    /// Whether the model expects it before a document.
    pub(super) add_bos: bool,
    /// End a document or a reply.
    pub(super) stops: Vec<u32>,
}

/// Reads the special tokens and whether a document begins with one.
///
/// Where `add_bos_token` is absent, SentencePiece and Llama 3 add one and the other byte-level vocabularies do not.
pub(super) fn ends(header: &Header) -> Result<Ends, Problem> {
    let id = |name: &str| -> Result<Option<u32>, Problem> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let id = header.unsigned(&key)?;
        id.map(|id| u32::try_from(id).map_err(|_| Problem::key(key, format!("is {id}, no token id")))).transpose()
    };
    let sentence_piece = header.text(MODEL)? == Some("llama");
    let by_kind = sentence_piece || matches!(header.text(PRE)?.and_then(split_of), Some(Split::Llama3));
    let add_bos = header.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(by_kind);
    let (bos, eos) = (id("bos")?, id("eos")?);
    let (bos, eos) = if sentence_piece { (bos.or(Some(1)), eos.or(Some(2))) } else { (bos, eos) };
    let mut stops: Vec<u32> = eos.into_iter().collect();
    stops.extend(id("eot")?.filter(|eot| Some(*eot) != eos));
    Ok(Ends { bos, add_bos, stops })
}

/// How text is split before byte-level merges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Split {
    /// GPT-2's words, numbers and signs.
    Gpt2,
    /// The same, every digit on its own.
    Digits,
    /// Llama 3's, digits in threes; whole words of the vocabulary are taken before any merge.
    Llama3,
}

/// The split that a name stands for.
fn split_of(pre: &str) -> Option<Split> {
    match pre {
        "default" | "gpt-2" | "gpt2" | "phi-2" | "olmo" | "mpt" | "jais" => Some(Split::Gpt2),
        "smollm" | "refact" | "starcoder" | "codeshell" | "command-r" => Some(Split::Digits),
        "llama-bpe" | "llama3" | "llama-v3" => Some(Split::Llama3),
        _ => None,
    }
}

impl Split {
    fn pre_tokenizer(self) -> Value {
        let byte_level = |use_regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex });
        let first = match self {
            Self::Gpt2 => return byte_level(true),
            Self::Digits => json!({ "type": "Digits", "individual_digits": true }),
            Self::Llama3 => json!({
                "type": "Split", "pattern": { "Regex": LLAMA3_SPLIT }, "behavior": "Isolated", "invert": false,
            }),
        };
        json!({ "type": "Sequence", "pretokenizers": [first, byte_level(self == Self::Digits)] })
    }
}

/// The tokens and what is common to both kinds.
struct Vocabulary<'a> {
    tokens: Vec<&'a str>,
    ids: HashMap<&'a str, u32>,
    types: Vec<i64>,
    ends: Ends,
}

/// The tokenizer of a file, whose whole content is `bytes`; none when it has no vocabulary.
///
/// # Errors
///
/// A key that is missing, contradicts another, or names a kind that is not read.
pub fn vocabulary(header: &Header, bytes: &[u8]) -> Result<Option<Built>, Problem> {
    let Some(model) = header.text(MODEL)? else { return Ok(None) };
    let build: fn(&Header, &[u8], &Vocabulary) -> Result<Value, Problem> = match model {
        "no_vocab" | "none" => return Ok(None),
        "gpt2" => byte_level,
        "llama" => sentence_piece,
        other => {
            let what = format!("is {other:?}; gpt2 (byte-level BPE) and llama (SentencePiece BPE) are read");
            return Err(Problem::key(MODEL, what));
        }
    };
    let vocabulary = Vocabulary::read(header, bytes)?;
    let tokenizer = build(header, bytes, &vocabulary)?;
    let Ends { bos, add_bos, stops } = vocabulary.ends.clone();
    let named = |id: Option<u32>| id.map_or(Value::Null, |id| json!(vocabulary.tokens[id as usize]));
    let mut settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": named(bos),
        "eos_token": named(stops.first().copied()),
        "add_bos_token": add_bos,
        "clean_up_tokenization_spaces": false,
        "model_max_length": header.unsigned("llama.context_length")?,
    });
    if let Some(template) = header.text("tokenizer.chat_template")? {
        settings["chat_template"] = json!(template);
    }
    Ok(Some(Built { tokenizer, settings, bos: bos.filter(|_| add_bos), stops }))
}

impl<'a> Vocabulary<'a> {
    fn read(header: &Header, bytes: &'a [u8]) -> Result<Self, Problem> {
        let list = header.array(TOKENS)?.ok_or_else(|| Problem::key(TOKENS, "is missing"))?;
        let tokens = list.texts(bytes, TOKENS)?;
        let mut ids = HashMap::with_capacity(tokens.len());
        for (token, id) in tokens.iter().zip(0_u32..) {
            if let Some(first) = ids.insert(*token, id) {
                return Err(Problem::key(TOKENS, format!("token {token:?} is there twice, as {first} and as {id}")));
            }
        }
        let types = match header.array(TYPES)? {
            Some(array) => array.integers(bytes, TYPES)?,
            None => vec![1; tokens.len()],
        };
        same_length(TYPES, types.len(), tokens.len())?;
        let ends = ends(header)?;
        match ends.bos.iter().chain(&ends.stops).find(|id| **id as usize >= tokens.len()) {
            Some(id) => {
                let name = if ends.bos == Some(*id) { "bos" } else { "eos" };
                let what = format!("is {id}, and {TOKENS} has {} entries", tokens.len());
                Err(Problem::key(format!("tokenizer.ggml.{name}_token_id"), what))
            }
            None => Ok(Self { tokens, ids, types, ends }),
        }
    }

    /// Entries for `added_tokens`: control tokens, and those that a user defined, are found in the text as they stand.
    fn added(&self) -> Vec<Value> {
        let entry = |(id, kind): (usize, &i64)| {
            let special = match *kind {
                UNKNOWN | CONTROL => true,
                USER_DEFINED => false,
                _ => return None,
            };
            Some(json!({
                "id": id, "content": self.tokens[id], "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": special,
            }))
        };
        self.types.iter().enumerate().filter_map(entry).collect()
    }

    /// The whole file around the parts in which the kinds differ.
    fn document(&self, normalizer: &Value, pre_tokenizer: &Value, decoder: &Value, model: Map<String, Value>) -> Value {
        let post = match self.ends.bos.filter(|_| self.ends.add_bos) {
            None => Value::Null,
            Some(id) => {
                let token = self.tokens[id as usize];
                let bos = json!({ "SpecialToken": { "id": token, "type_id": 0 } });
                let text = |id: &str, kind: u8| json!({ "Sequence": { "id": id, "type_id": kind } });
                json!({
                    "type": "TemplateProcessing", "single": [bos, text("A", 0)],
                    "pair": [bos, text("A", 0), bos, text("B", 1)],
                    "special_tokens": { token: { "id": token, "ids": [id], "tokens": [token] } },
                })
            }
        };
        json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": self.added(),
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": post, "decoder": decoder,
            "model": model,
        })
    }

    /// The BPE model of either kind.
    fn bpe(&self, unknown: Option<&str>, byte_fallback: bool, merges: Vec<[&str; 2]>) -> Map<String, Value> {
        let vocab: Map<String, Value> =
            self.tokens.iter().zip(0_u32..).map(|(token, id)| ((*token).to_owned(), json!(id))).collect();
        let fields = [
            ("type", json!("BPE")),
            ("dropout", Value::Null),
            ("unk_token", json!(unknown)),
            ("continuing_subword_prefix", Value::Null),
            ("end_of_word_suffix", Value::Null),
            ("fuse_unk", json!(byte_fallback)),
            ("byte_fallback", json!(byte_fallback)),
            ("ignore_merges", json!(false)),
            ("vocab", Value::Object(vocab)),
            ("merges", json!(merges)),
        ];
        fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

fn byte_level(header: &Header, bytes: &[u8], vocabulary: &Vocabulary) -> Result<Value, Problem> {
    let pre = header.text(PRE)?.unwrap_or("default");
    let split = split_of(pre).ok_or_else(|| {
        let what =
            format!("is {pre:?}, a rule for splitting text that is not known here; smollm, llama-bpe and gpt-2 are");
        Problem::key(PRE, what)
    })?;
    let list = header.array(MERGES)?.ok_or_else(|| Problem::key(MERGES, "is missing"))?;
    let mut merges = Vec::with_capacity(list.count);
    for (at, merge) in list.texts(bytes, MERGES)?.into_iter().enumerate() {
        // The first part may itself begin with a space.
        let cut = merge.char_indices().skip(1).find(|(_, c)| *c == ' ').map(|(cut, _)| cut);
        let Some((left, right)) = cut.map(|cut| (&merge[..cut], &merge[cut + 1..])) else {
            return Err(Problem::key(MERGES, format!("entry {at}, {merge:?}, is not two tokens with a space between")));
        };
        merges.push([left, right]);
    }
    let mut model = vocabulary.bpe(None, false, merges);
    model.insert("ignore_merges".to_owned(), json!(split == Split::Llama3));
    let decoder = json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true });
    Ok(vocabulary.document(&Value::Null, &split.pre_tokenizer(), &decoder, model))
}

fn sentence_piece(header: &Header, bytes: &[u8], vocabulary: &Vocabulary) -> Result<Value, Problem> {
    let list = header.array(SCORES)?.ok_or_else(|| Problem::key(SCORES, "is missing"))?;
    let scores = list.floats(bytes, SCORES)?;
    same_length(SCORES, scores.len(), vocabulary.tokens.len())?;
    const SQUEEZED: &str = "tokenizer.ggml.remove_extra_whitespaces";
    if header.flag(SQUEEZED)? == Some(true) {
        return Err(Problem::key(SQUEEZED, "is true; text is read as it stands"));
    }
    let prefixed = header.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let space = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "\u{2581}" });
    let mut normalizers = vec![space];
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": "\u{2581}" }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if prefixed {
        normalizers.insert(0, json!({ "type": "Prepend", "prepend": "\u{2581}" }));
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    let unknown = vocabulary.types.iter().position(|kind| *kind == UNKNOWN).map(|id| vocabulary.tokens[id]);
    let model = vocabulary.bpe(unknown, true, merges_by_score(vocabulary, &scores));
    let normalizer = json!({ "type": "Sequence", "normalizers": normalizers });
    let decoder = json!({ "type": "Sequence", "decoders": decoders });
    Ok(vocabulary.document(&normalizer, &Value::Null, &decoder, model))
}

/// Every way to put a token together from two others, best score first, then by the ids of token, left and right part.
///
/// Bytes and special tokens are no parts and no products, as they never come out of text.
fn merges_by_score<'a>(vocabulary: &Vocabulary<'a>, scores: &[f32]) -> Vec<[&'a str; 2]> {
    let plain = |id: u32| matches!(vocabulary.types[id as usize], 0 | 1 | USER_DEFINED | 5);
    let mut found: Vec<(u32, u32, u32)> = Vec::new();
    for (token, id) in vocabulary.tokens.iter().zip(0_u32..).filter(|(_, id)| plain(*id)) {
        for (cut, _) in token.char_indices().skip(1) {
            let part = |text: &str| vocabulary.ids.get(text).copied().filter(|id| plain(*id));
            if let (Some(left), Some(right)) = (part(&token[..cut]), part(&token[cut..])) {
                found.push((id, left, right));
            }
        }
    }
    found.sort_by(|a, b| scores[b.0 as usize].total_cmp(&scores[a.0 as usize]).then_with(|| a.cmp(b)));
    let text = |id: u32| vocabulary.tokens[id as usize];
    found.into_iter().map(|(_, left, right)| [text(left), text(right)]).collect()
}

fn same_length(key: &str, found: usize, tokens: usize) -> Result<(), Problem> {
    match found == tokens {
        true => Ok(()),
        false => Err(Problem::key(key, format!("has {found} entries for {tokens} tokens"))),
    }
}
