//! The command line of the container storage daemon: Docker's words, flags, tables and exit codes, over HTTP on a unix
//! socket, and words of its own for what Docker can't do (look into an image, mount it, compare two trees, check the store).
//!
//! The way of a command: [`cli`] reads the words → a verb in [`cmd`] asks the daemon through [`client`] → [`mod@format`]
//! lays out the answer → [`out`] writes it. [`term`] holds a terminal while a container has it, [`copy`] packs and unpacks
//! what `cp` carries, [`opts`] reads the values of flags, [`failure`] knows the exit codes.

#![allow(rustdoc::invalid_html_tags)] // the text of a flag is shown by clap, as it stands

mod auth;
mod cli;
mod client;
mod cmd;
mod copy;
mod failure;
mod format;
mod opts;
mod out;
mod progress;
mod term;

use clap::Parser;
use clap::error::ErrorKind;

/// Exit code for a command line that can't be read, as docker's.
const BAD_USAGE: i32 = 125;

fn main() {
    let code = match cli::Cli::try_parse() {
        Ok(cli) => run(cli),
        Err(error) => refuse(&error),
    };
    out::quit(code);
}

fn run(cli: cli::Cli) -> i32 {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            out::error_line(format!("start the event loop: {error}"));
            return 1;
        }
    };
    let result = client::Client::new(&cli.global.host).and_then(|client| runtime.block_on(cli.verb.run(&client)));
    // A thread may still be reading standard input: nobody waits for it.
    runtime.shutdown_background();
    match result {
        Ok(()) => 0,
        Err(error) => failure::report(&error),
    }
}

/// Says what is wrong with the command line, or prints the help that it asks for.
fn refuse(error: &clap::Error) -> i32 {
    let text = error.render();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            if out::is_terminal() {
                out::bytes(text.ansi().to_string().as_bytes());
            } else {
                out::bytes(text.to_string().as_bytes());
            }
            0
        }
        kind => {
            out::error_line(text.to_string().trim_end());
            let missing = matches!(kind, ErrorKind::MissingRequiredArgument | ErrorKind::InvalidSubcommand);
            if missing || kind == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand { 1 } else { BAD_USAGE }
        }
    }
}
