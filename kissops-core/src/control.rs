//! The HTTP API as a router to mount.
