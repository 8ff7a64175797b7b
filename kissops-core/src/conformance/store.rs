//! The rules of [`Store`](crate::store::Store).
