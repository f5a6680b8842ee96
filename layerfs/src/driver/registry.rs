//! The drivers there are, best first.

use std::path::Path;

use super::Driver;
use super::erofs::Erofs;
use super::overlay::Overlay;
use super::session::Sessions;

/// All drivers in the order in which they are tried. `fuse` is the program that serves a tree by FUSE.
pub fn all(fuse: Option<&Path>) -> Vec<Box<dyn Driver>> {
    vec![Box::new(Erofs::file_backed()), Box::new(Erofs::on_loop()), Box::new(Overlay), Box::new(Sessions::of(fuse))]
}

/// Their names, in the order in which they are tried.
pub fn names() -> Vec<&'static str> {
    all(None).iter().map(|driver| driver.name()).collect()
}
