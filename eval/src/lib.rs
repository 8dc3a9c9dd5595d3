//! Perplexity protocols, retrieval tasks, statistics and the report schema; knows models only through a trait.
