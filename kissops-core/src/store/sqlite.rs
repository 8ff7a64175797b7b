//! [`Store`](crate::store::Store) in one `SQLite` file.
