//! The drivers there are, best first.

use super::Driver;
use super::erofs::Erofs;
use super::overlay::Overlay;

/// All drivers in the order in which they are tried.
pub fn all() -> Vec<Box<dyn Driver>> {
    vec![Box::new(Erofs::file_backed()), Box::new(Erofs::on_loop()), Box::new(Overlay)]
}

/// Their names, in the order in which they are tried.
pub fn names() -> Vec<&'static str> {
    all().iter().map(|driver| driver.name()).collect()
}
