//! Bowline: long context for LLaMA-family models.
//!
//! Load a checkpoint ([`model`]), change how it encodes positions (`rope_scaling`), train it on longer text ([`train`]),
//! measure perplexity and retrieval against context length (`eval`), and publish a report (`plots`). [`study`] does all
//! of it by one file; [`cli`] is the program.

pub mod assets;
pub mod atomic;
pub mod cli;
pub mod config;
pub mod data;
pub mod describe;
pub mod disk;
pub mod error;
pub mod evaluate;
pub mod fault;
pub mod hub;
pub mod json;
pub mod model;
pub mod plan;
pub mod recipes;
pub mod runtime;
pub mod search;
pub mod sniff;
pub mod study;
pub mod tokenizer;
pub mod train;
