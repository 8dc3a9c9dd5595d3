//! Models and tokenizers for tests: small enough to work out by hand, and honest about every trait's contract.
//!
//! Public because other crates test against them too; nothing here is meant for real evaluation.

mod codec;
mod models;

pub use codec::{ByteCodec, WordCodec};
pub use models::{Fake, Formula, Induction, Rule, Scripted, Uniform};
