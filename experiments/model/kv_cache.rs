//! Keys and values of tokens already read, with the identity of the plan that rotated them.

use tch::{Device, Kind, Tensor};

use super::config::ModelConfig;
use super::pass::Pass;
use crate::error::Failure;

/// Buffers `[batch, key_heads, capacity, head_dim]` for every block, filled up to a length.
///
/// Keys are stored rotated. A cache filled under one plan is refused under another, so that keys of two sets of
/// frequencies never meet (the fault of dynamic NTK with a cache in transformers 4: issue 25104 of that project).
#[derive(Debug)]
pub struct KvCache {
    keys: Vec<Tensor>,
    values: Vec<Tensor>,
    length: i64,
    capacity: i64,
    fingerprint: u64,
}

impl KvCache {
    /// An empty cache for `capacity` tokens.
    ///
    /// # Errors
    ///
    /// When the memory cannot be had.
    pub fn new(
        config: &ModelConfig,
        capacity: usize,
        fingerprint: u64,
        kind: Kind,
        device: Device,
    ) -> Result<Self, Failure> {
        let (_, key_heads, head_dim) = config.head_shape();
        let shape = [1, key_heads, capacity as i64, head_dim];
        let buffers = || (0..config.layers).map(|_| Tensor::f_zeros(shape, (kind, device))).collect::<Result<_, _>>();
        Ok(Self { keys: buffers()?, values: buffers()?, length: 0, capacity: capacity as i64, fingerprint })
    }

    /// Bytes of a cache for `capacity` tokens.
    pub fn bytes(config: &ModelConfig, capacity: usize, kind: Kind) -> usize {
        2 * config.layers * config.key_heads * config.head_dim * capacity * kind.elt_size_in_bytes()
    }

    /// An empty cache of one block alone, for sequences `(batch, capacity)` of the kind and on the device of `like`.
    pub(super) fn of_one_block(
        config: &ModelConfig,
        (batch, capacity): (i64, i64),
        fingerprint: u64,
        like: &Tensor,
    ) -> Result<Self, Failure> {
        let (_, key_heads, head_dim) = config.head_shape();
        let shape = [batch, key_heads, capacity, head_dim];
        let buffer = || Tensor::f_empty(shape, (like.kind(), like.device())).map(|buffer| vec![buffer]);
        Ok(Self { keys: buffer()?, values: buffer()?, length: 0, capacity, fingerprint })
    }

    /// Tokens held.
    pub fn len(&self) -> usize {
        self.length as usize
    }

    /// Whether nothing was read yet.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Tokens that fit.
    pub fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// Forgets everything after the first `length` tokens.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length as i64);
    }

    /// A copy that can grow on its own.
    pub fn branched(&self) -> Self {
        let copies = |tensors: &[Tensor]| tensors.iter().map(Tensor::copy).collect();
        Self { keys: copies(&self.keys), values: copies(&self.values), ..*self }
    }

    /// That a pass continues this cache under the same plan.
    pub(super) fn check(&self, pass: &Pass) -> Result<(), Failure> {
        if self.fingerprint != pass.plan.fingerprint() {
            return Err(Failure::config(
                "the cache holds keys rotated under another position plan; read the prompt again under this one",
            ));
        }
        if self.length != pass.offset {
            return Err(Failure::config(format!(
                "the cache holds {} tokens, but the pass starts at position {}",
                self.length, pass.offset
            )));
        }
        Ok(())
    }

    /// Stores keys and values `[batch, key_heads, length, head_dim]` of one block; returns all up to now.
    pub(super) fn appended(&self, block: usize, keys: &Tensor, values: &Tensor) -> (Tensor, Tensor) {
        let added = keys.size()[2];
        let stored = |buffer: &Tensor, new: &Tensor| {
            buffer.narrow(2, self.length, added).copy_(new);
            buffer.narrow(2, 0, self.length + added)
        };
        (stored(&self.keys[block], keys), stored(&self.values[block], values))
    }

    /// Counts tokens that every block has stored.
    pub(super) fn advance(&mut self, added: i64) {
        self.length += added;
    }
}
