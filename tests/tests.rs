//! Contracts of the whole: what holds across the crates, and what the real program does. What belongs where:
// Helpers panic with what went wrong, as the tests that call them do.
#![allow(clippy::unwrap_used)]

/// Who may import whom.
mod architecture;
/// Same seed, same bits; stopping and going on; what a run folder promises.
mod determinism;
/// Two ways to compute one thing that must agree: cached and whole, packed and apart, neutral and plain.
mod equivalence;
/// Numbers that another implementation made: likelihoods, gradients, ten optimizer steps.
mod parity;
/// What several of these modules need, and nothing that one alone needs.
mod support;
