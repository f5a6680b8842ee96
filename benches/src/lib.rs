//! Measurements beside the peers; each is a program in `src/bin`.
