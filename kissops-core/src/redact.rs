//! [`Redactor`]: every secret that is known, and `***` in its place.
