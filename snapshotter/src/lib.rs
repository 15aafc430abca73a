//! kiln-snapshotter.
