//! kiln-runner.
