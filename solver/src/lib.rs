//! kiln-solver.
