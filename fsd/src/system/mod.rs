//! The daemon as a whole: what its store is used for.

pub mod df;
