//! Signals: passed on to the container, or to put the terminal right before the end.

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// The signals that are passed on, by number and name.
const PROXIED: &[(i32, &str)] = &[(1, "HUP"), (2, "INT"), (3, "QUIT"), (10, "USR1"), (12, "USR2"), (15, "TERM"), (18, "CONT")];

/// SIGWINCH.
pub const WINDOW: i32 = 28;

/// The names of the signals that come in from now on.
pub fn proxied() -> Result<mpsc::UnboundedReceiver<&'static str>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    for &(number, name) in PROXIED {
        let mut stream = signal(SignalKind::from_raw(number))?;
        let sender = sender.clone();
        tokio::spawn(async move { while stream.recv().await.is_some() && sender.send(name).is_ok() {} });
    }
    Ok(receiver)
}

/// Ends the program properly on SIGHUP, SIGTERM and SIGINT: with the terminal as it was.
pub fn end_on_termination() -> Result<()> {
    for (kind, number) in [(SignalKind::hangup(), 1), (SignalKind::terminate(), 15), (SignalKind::interrupt(), 2)] {
        let mut stream = signal(kind)?;
        tokio::spawn(async move {
            if stream.recv().await.is_some() {
                crate::out::quit(128 + number);
            }
        });
    }
    Ok(())
}
