//! Standard output and error, for people and for pipes: a closed pipe ends the program, it does not panic.

use std::io::{self, IsTerminal, Write};

/// Exit code of a program ended by SIGPIPE, which is what a closed pipe does to docker.
const CLOSED_PIPE: i32 = 141;

/// Writes bytes to standard output, at once.
pub fn bytes(data: &[u8]) {
    let mut stdout = io::stdout().lock();
    settle(stdout.write_all(data).and_then(|()| stdout.flush()));
}

/// Writes a line to standard output.
pub fn line(text: impl AsRef<str>) {
    let mut text = text.as_ref().to_owned();
    text.push('\n');
    bytes(text.as_bytes());
}

/// Writes a line to standard error.
pub fn error_line(text: impl AsRef<str>) {
    let mut stderr = io::stderr().lock();
    let _ = writeln!(stderr, "{}", text.as_ref());
}

/// Whether a person sees standard output.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Deals with what became of a write to standard output.
pub fn settle(result: io::Result<()>) {
    if let Err(error) = result {
        if error.kind() != io::ErrorKind::BrokenPipe {
            error_line(format!("write to standard output: {error}"));
            quit(1);
        }
        quit(CLOSED_PIPE);
    }
}

/// Ends the program; the terminal is put back as it was.
pub fn quit(code: i32) -> ! {
    crate::term::raw::restore();
    std::process::exit(code)
}
