//! kissops.
