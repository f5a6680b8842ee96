//! What can go wrong, with the exit code and the words for it.

use std::fmt;

use fsd_api::words::of_system;

/// An answer of the daemon that says no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The HTTP status.
    pub status: u16,
    /// The daemon's message.
    pub message: String,
    /// What to do about it, if the daemon said so.
    pub hint: Option<String>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error response from daemon: {}", self.message)
    }
}

impl std::error::Error for Refused {}

/// The program is to end with this code; the message, if any, goes to standard error as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// The exit code.
    pub code: i32,
    /// What to say, if anything is left to say.
    pub message: Option<String>,
}

impl Exit {
    /// Nothing more to say.
    pub fn silent(code: i32) -> anyhow::Error {
        Exit { code, message: None }.into()
    }

    /// An exit code of its own for an error.
    pub fn with(code: i32, message: impl fmt::Display) -> anyhow::Error {
        Exit { code, message: Some(message.to_string()) }.into()
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message.as_deref().unwrap_or_default())
    }
}

impl std::error::Error for Exit {}

/// The HTTP status of a refusal, if the daemon refused.
pub fn status_of(error: &anyhow::Error) -> Option<u16> {
    error.downcast_ref::<Refused>().map(|refused| refused.status)
}

/// Does something for each of several names; says what went wrong with some only after all were tried.
#[derive(Debug, Default)]
pub struct Several(Vec<anyhow::Error>);

impl Several {
    /// Notes the outcome for one name; `None` if it failed.
    pub fn note<T>(&mut self, result: anyhow::Result<T>) -> Option<T> {
        result.map_err(|error| self.0.push(error)).ok()
    }

    /// The errors of all, one a line.
    pub fn finish(self) -> anyhow::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        if self.0.len() == 1 {
            return self.0.into_iter().next().map_or(Ok(()), Err);
        }
        let lines: Vec<String> = self.0.iter().map(|error| format!("{error:#}")).collect();
        Err(Exit::with(1, lines.join("\n")))
    }
}

/// Says an error on standard error and gives the exit code for it.
pub fn report(error: &anyhow::Error) -> i32 {
    if let Some(exit) = error.downcast_ref::<Exit>() {
        if let Some(message) = &exit.message {
            crate::out::error_line(of_system(message));
        }
        return exit.code;
    }
    crate::out::error_line(of_system(&format!("{error:#}")));
    if let Some(hint) = error.downcast_ref::<Refused>().and_then(|refused| refused.hint.as_deref()) {
        crate::out::error_line(format!("hint: {hint}"));
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_all_errors_are_said() {
        let mut several = Several::default();
        assert_eq!(several.note(Ok(1)), Some(1));
        several.note::<()>(Err(anyhow::anyhow!("one")));
        several.note::<()>(Err(anyhow::anyhow!("two")));
        assert_eq!(several.finish().unwrap_err().to_string(), "one\ntwo");
    }
}
