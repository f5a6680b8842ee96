//! What `cp` carries: the rules for names, packing of local files, and unpacking that stays where it was told to.

pub mod attributes;
pub mod pack;
pub mod pipe;
pub mod plan;
pub mod unpack;

#[cfg(test)]
mod tests;
