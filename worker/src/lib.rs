//! kiln-worker.
