//! Guest devices over the platform's traits.
#![forbid(unsafe_code)]
