//! GGUF files made value by value, to be damaged one value at a time.

use std::path::PathBuf;

/// A metadata value.
#[derive(Debug, Clone)]
pub(crate) enum Meta {
    /// 32 bits from 0.
    Number(u32),
    /// 64 bits with a sign.
    Signed(i64),
    /// Single precision.
    Single(f32),
    /// True or false.
    Flag(bool),
    /// A text.
    Text(String),
    /// A list of texts.
    Texts(Vec<String>),
    /// A list of 32-bit numbers with a sign.
    Numbers(Vec<i32>),
    /// A list of singles.
    Singles(Vec<f32>),
}

/// A tensor: name, sizes with the innermost first, type number, bytes.
pub(crate) type Stored = (String, Vec<u64>, u32, Vec<u8>);

/// What a file is made of.
#[derive(Debug, Clone)]
pub(crate) struct Gguf {
    /// Version in the header.
    pub(crate) version: u32,
    /// Metadata pairs in order.
    pub(crate) pairs: Vec<(String, Meta)>,
    /// Tensors in order.
    pub(crate) tensors: Vec<Stored>,
}

const ALIGNMENT: usize = 32;

impl Gguf {
    /// A model of one block and 22 tokens: width 32, two heads over one, embedding in Q8_0, matrices in Q4_1, norms in F32.
    pub(crate) fn tiny() -> Self {
        let number = |key: &str, value: u32| (format!("llama.{key}"), Meta::Number(value));
        let text = |key: &str, value: &str| (key.to_owned(), Meta::Text(value.to_owned()));
        let letters = "<s> </s> a b c d e f g h i o H l w r \u{120} , 1 2 he lo";
        let tokens: Vec<String> = letters.split(' ').map(str::to_owned).collect();
        let mut kinds = vec![1; tokens.len()];
        kinds[..2].fill(3);
        let merges = ["h e", "l o"].map(str::to_owned).to_vec();
        let pairs = vec![
            text("general.architecture", "llama"),
            number("context_length", 64),
            number("embedding_length", 32),
            number("feed_forward_length", 32),
            number("block_count", 1),
            number("attention.head_count", 2),
            number("attention.head_count_kv", 1),
            ("llama.attention.layer_norm_rms_epsilon".to_owned(), Meta::Single(1e-5)),
            ("llama.rope.freq_base".to_owned(), Meta::Single(10_000.0)),
            number("rope.dimension_count", 16),
            text("tokenizer.ggml.model", "gpt2"),
            text("tokenizer.ggml.pre", "smollm"),
            ("tokenizer.ggml.token_type".to_owned(), Meta::Numbers(kinds)),
            ("tokenizer.ggml.merges".to_owned(), Meta::Texts(merges)),
            ("tokenizer.ggml.bos_token_id".to_owned(), Meta::Number(0)),
            ("tokenizer.ggml.eos_token_id".to_owned(), Meta::Number(1)),
            ("tokenizer.ggml.add_bos_token".to_owned(), Meta::Flag(false)),
            ("tokenizer.ggml.tokens".to_owned(), Meta::Texts(tokens)),
        ];
        let matrix = |name: &str, rows: u64| {
            // Scale 0.0078 (0x2000), minimum -0.062 (0xac00), nibbles that differ from row to row.
            let row = |r: u64| [vec![0, 0x20, 0, 0xac], (0..16).map(|i| (r * 37 + i * 11) as u8).collect()].concat();
            (format!("blk.0.{name}.weight"), vec![32, rows], 3, (0..rows).flat_map(row).collect())
        };
        let ones = |name: &str| (name.to_owned(), vec![32], 0, [0, 0, 0x80, 0x3f].repeat(32));
        let embedding =
            |r: u8| [vec![0, 0x20], (0..32).map(|i: u8| r.wrapping_mul(53).wrapping_add(i * 7)).collect()].concat();
        let tensors = vec![
            ("token_embd.weight".to_owned(), vec![32, 22], 8, (0..22).flat_map(embedding).collect()),
            ones("blk.0.attn_norm.weight"),
            matrix("attn_q", 32),
            matrix("attn_k", 16),
            matrix("attn_v", 16),
            matrix("attn_output", 32),
            ones("blk.0.ffn_norm.weight"),
            matrix("ffn_gate", 32),
            matrix("ffn_up", 32),
            matrix("ffn_down", 32),
            ones("output_norm.weight"),
        ];
        Self { version: 3, pairs, tensors }
    }

    /// The value of a key, which is added when it is not there.
    pub(crate) fn set(&mut self, key: &str, value: Meta) -> &mut Self {
        match self.pairs.iter_mut().find(|(known, _)| known == key) {
            Some((_, old)) => *old = value,
            None => self.pairs.push((key.to_owned(), value)),
        }
        self
    }

    /// Without a key.
    pub(crate) fn without(&mut self, key: &str) -> &mut Self {
        self.pairs.retain(|(known, _)| known != key);
        self
    }

    /// A tensor by its name.
    pub(crate) fn tensor(&mut self, name: &str) -> &mut Stored {
        self.tensors.iter_mut().find(|(known, ..)| known == name).unwrap()
    }

    /// The bytes of the file.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.pairs.len() as u64).to_le_bytes());
        for (key, value) in &self.pairs {
            text(&mut out, key);
            value.write(&mut out);
        }
        let mut offset = 0_u64;
        for (name, sizes, kind, data) in &self.tensors {
            text(&mut out, name);
            out.extend((sizes.len() as u32).to_le_bytes());
            sizes.iter().for_each(|size| out.extend(size.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset += data.len().next_multiple_of(ALIGNMENT) as u64;
        }
        for (.., data) in &self.tensors {
            out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
            out.extend(data);
        }
        out
    }

    /// Writes it into a folder.
    pub(crate) fn write(&self, dir: &std::path::Path, name: &str) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, self.bytes()).unwrap();
        path
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

impl Meta {
    fn write(&self, out: &mut Vec<u8>) {
        let list = |kind: u32, count: usize, out: &mut Vec<u8>| {
            out.extend(9_u32.to_le_bytes());
            out.extend(kind.to_le_bytes());
            out.extend((count as u64).to_le_bytes());
        };
        match self {
            Self::Number(n) => out.extend([4_u32.to_le_bytes(), n.to_le_bytes()].concat()),
            Self::Signed(n) => out.extend([&11_u32.to_le_bytes()[..], &n.to_le_bytes()].concat()),
            Self::Single(x) => out.extend([6_u32.to_le_bytes(), x.to_le_bytes()].concat()),
            Self::Flag(flag) => out.extend([&7_u32.to_le_bytes()[..], &[u8::from(*flag)]].concat()),
            Self::Text(string) => {
                out.extend(8_u32.to_le_bytes());
                text(out, string);
            }
            Self::Texts(texts) => {
                list(8, texts.len(), out);
                texts.iter().for_each(|string| text(out, string));
            }
            Self::Numbers(numbers) => {
                list(5, numbers.len(), out);
                numbers.iter().for_each(|n| out.extend(n.to_le_bytes()));
            }
            Self::Singles(numbers) => {
                list(6, numbers.len(), out);
                numbers.iter().for_each(|x| out.extend(x.to_le_bytes()));
            }
        }
    }
}
