//! Contracts of the whole: what holds across the crates, and what the real program does. What belongs where:
// Helpers panic with what went wrong, as the tests that call them do.
#![allow(clippy::unwrap_used)]

/// Low-rank adapters, four-bit bases and the variants of training.
mod adapters;
/// Who may import whom.
mod architecture;
/// The model on every attention backend, and the choice among them.
mod backends;
/// What the program does with input that is damaged, hostile or mistaken: a sentence, an exit code, nothing half-written.
mod bad_input;
/// Prompts that begin alike are read once, and answered as if each were read whole.
mod branching;
/// The BTLM family: LayerNorm, biases, ALiBi with position scaling, muP.
mod btlm;
/// The command line itself: help, exit codes, what goes to which stream.
mod cli;
/// Same seed, same bits; stopping and going on; what a run folder promises.
mod determinism;
/// Two ways to compute one thing that must agree: cached and whole, packed and apart, neutral and plain.
mod equivalence;
/// Readers of what strangers write, on thousands of mutated files: an answer each time, which names what is wrong.
mod fuzzed;
/// GGUF files: weights, vocabularies and positions out of one file, and what can be wrong with them.
mod gguf;
/// The CUDA kernels, compiled and judged on a machine without a GPU.
mod kernels;
/// Policies of optimizer state and gradients: what they compute, and going on under each.
mod memory;
/// Methods that read a model beyond its context without training.
mod methods;
/// Numbers that another implementation made: likelihoods, gradients, ten optimizer steps.
mod parity;
/// Long texts in pieces, short windows together: the likelihoods of the plain way.
mod pieces;
/// From a recipe to a report and an exported folder, each command on what the one before it wrote.
mod pipeline;
/// What a run will hold, beside what it holds; every built-in recipe in small.
mod planning;
/// Reports held against what was published for a recipe's model.
mod published;
/// The retrieval commands: grids, samples, resuming, refusals, and results of other programs.
mod retrieval;
/// Position parameters found by measuring.
mod search;
/// Studies whose variants are methods without training, and reports held against each other.
mod studies;
/// What several of these modules need, and nothing that one alone needs.
mod support;
