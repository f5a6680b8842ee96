//! The drivers there are, best first.

use std::path::Path;

use super::Driver;
use super::erofs::Erofs;
use super::overlay::Overlay;
use super::session::Sessions;

/// All drivers in the order in which they are tried. `fuse` is the program that serves a tree by FUSE, `label` the SELinux
/// label of layers.
pub fn all(fuse: Option<&Path>, label: Option<&str>) -> Vec<Box<dyn Driver>> {
    let label = || label.map(str::to_owned);
    vec![
        Box::new(Erofs::file_backed(label())),
        Box::new(Erofs::on_loop(label())),
        Box::new(Overlay::new(label())),
        Box::new(Sessions::of(fuse)),
    ]
}

/// Their names, in the order in which they are tried.
pub fn names() -> Vec<&'static str> {
    all(None, None).iter().map(|driver| driver.name()).collect()
}
