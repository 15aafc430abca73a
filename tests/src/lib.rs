//! kiln-tests.
