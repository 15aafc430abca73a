//! kiln-registry.
