//! The configuration file: checked once, whole, and refused by name.
