//! Raw mode, taken back on every way out.

use std::io::stdin;
use std::sync::Mutex;

use anyhow::{Context, Result};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Raw mode for as long as this lives.
#[derive(Debug)]
pub struct Raw(());

impl Raw {
    /// Puts the terminal at standard input into raw mode.
    pub fn enter() -> Result<Raw> {
        let before = tcgetattr(stdin()).context("read the terminal's modes")?;
        let mut raw = before.clone();
        raw.make_raw();
        if let Ok(mut saved) = BEFORE.lock() {
            saved.get_or_insert(before);
        }
        tcsetattr(stdin(), OptionalActions::Now, &raw).context("put the terminal into raw mode")?;
        Ok(Raw(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal its modes back, if they were changed.
pub fn restore() {
    if let Ok(mut saved) = BEFORE.lock()
        && let Some(before) = saved.take()
    {
        let _ = tcsetattr(stdin(), OptionalActions::Now, &before);
    }
}

/// Rows and columns of the terminal; `None` if there is none.
pub fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(std::io::stdout()).or_else(|_| tcgetwinsize(stdin())).ok()?;
    (size.ws_row != 0 || size.ws_col != 0).then_some((size.ws_row, size.ws_col))
}
