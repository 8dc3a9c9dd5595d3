//! Retrieval tasks.

mod answer;
pub mod multipasskey;
pub mod needle;
pub mod passkey;
mod plant;
