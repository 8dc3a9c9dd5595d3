//! Shared by the tests of the contract.

pub(crate) mod budget;
pub(crate) mod cases;
pub(crate) mod pairwise;
pub(crate) mod plain;
pub(crate) mod random;
pub(crate) mod runners;
#[cfg(feature = "torch")]
pub(crate) mod turns;
