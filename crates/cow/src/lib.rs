//! UML's copy-on-write file format, versions 1 to 3.
#![forbid(unsafe_code)]
