//! Fast commits.
