//! Comparison classes and seeded data shared by the tests.
