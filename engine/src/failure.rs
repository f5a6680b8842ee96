//! An error on its way from one process to another.

use fs_base::{Class, Error};
use serde::{Deserialize, Serialize};

/// Class, message and hint of an [`Error`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Its class.
    pub class: Class,
    /// Its message, causes included.
    pub message: String,
    /// What can be done.
    pub hint: Option<String>,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Failure {
        Failure { class: error.class(), message: error.to_string(), hint: error.hint().map(str::to_owned) }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        let error = Error::new(failure.class, failure.message);
        match failure.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}
