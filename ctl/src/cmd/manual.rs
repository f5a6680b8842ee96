//! Completions for shells, and manual pages.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::out;

/// Print a completion script for a shell
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    /// Does it.
    pub fn run(self) {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "ctl", &mut script);
        out::bytes(&script);
    }
}

/// Write the manual pages into a folder
#[derive(Debug, Args)]
pub struct Man {
    /// The folder
    dir: PathBuf,
}

impl Man {
    /// Does it.
    pub fn run(self) -> Result<()> {
        std::fs::create_dir_all(&self.dir).with_context(|| format!("create {}", self.dir.display()))?;
        clap_mangen::generate_to(Cli::command(), &self.dir)
            .with_context(|| format!("write manual pages into {}", self.dir.display()))
    }
}
