//! Retrieval tasks.

mod answer;
mod fit;
pub mod key_value;
pub mod multi_document;
pub mod multipasskey;
pub mod needle;
pub mod passkey;
mod plant;
pub mod qa;
pub mod ruler;
