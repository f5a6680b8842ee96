//! The daemon's manual pages, in section 8 as it is one for administrators.

use std::path::Path;

use clap::CommandFactory;
use fs_base::{IoContext, Result};

use crate::config::Cli;

/// Writes `fsd.8`, and a page for each word of the command line, into a folder, which is made if missing.
pub fn write(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).at("make directory", dir)?;
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    pages(&command, dir)
}

fn pages(command: &clap::Command, dir: &Path) -> Result<()> {
    clap_mangen::Man::new(command.clone()).section("8").generate_to(dir).at("write manual pages into", dir)?;
    command.get_subcommands().filter(|word| !word.is_hide_set()).try_for_each(|word| pages(word, dir))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed step fails the test
mod tests {
    #[test]
    fn every_word_but_the_hidden_one_has_its_page() {
        let dir = tempfile::tempdir().unwrap();
        super::write(&dir.path().join("man8")).unwrap();
        let read = |name: &str| std::fs::read_to_string(dir.path().join("man8").join(name));
        let page = read("fsd.8").unwrap();
        for text in [".TH fsd 8", "FSD_ROOT", "\\fB\\-\\-storage\\-driver\\fR", "fsd\\-config(8)"] {
            assert!(page.contains(text), "{text}: {page}");
        }
        assert!(read("fsd-config.8").is_ok() && read("fsd-config-check.8").is_ok());
        assert!(read("fsd-man.8").is_err() && !page.contains("fsd\\-man"));
    }
}
