//! What a person reads: sizes, ages, tables, templates.

pub mod json;
pub mod list;
pub mod names;
pub mod tabs;
pub mod template;
pub mod time;
pub mod units;
