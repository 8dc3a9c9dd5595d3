//! Retrieval tasks.

pub mod passkey;
