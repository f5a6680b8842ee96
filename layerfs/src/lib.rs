//! Image layers as a tar plus an EROFS index: ingest, mounts, merged trees, diff, check.
//!
//! Words: a **layer** is `data`, the uncompressed tar byte for byte, and `index`, an EROFS image of its metadata
//! that points into `data`. Its name is its **diffID**, the digest of `data`. A **chain** is the layers of an image,
//! bottom first.
//!
//! Start from [`ingest::ingest`] and [`erofs::Index`].

pub mod erofs;
pub mod ingest;
pub mod tar;
