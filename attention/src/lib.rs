//! Attention problems, an f64 reference, and the backends that are judged against it.
