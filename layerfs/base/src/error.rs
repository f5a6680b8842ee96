//! The one error of the libraries: a class, a message that names the object, and a hint kept apart from it.

use std::fmt;
use std::io;
use std::path::Path;

/// `Result` with our [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What kind of failure an [`Error`] is. Mapped once to an HTTP status, once to an errno, once to an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Class {
    /// The named object is not there.
    NotFound,
    /// The object is in a state, or has a name, that forbids this.
    Conflict,
    /// What was asked for makes no sense as written.
    Invalid,
    /// Not allowed.
    Denied,
    /// This host, driver or version can't do it.
    Unsupported,
    /// In use by something else; trying again later may work.
    Busy,
    /// Stored or received bytes are not what they should be.
    Corrupt,
    /// Something outside (a registry, a plugin, a full disk) does not answer or can't take it.
    Unavailable,
    /// A fault of ours, or of the machine.
    Internal,
}

impl Class {
    /// The HTTP status that the Docker Engine API uses for this class.
    pub fn http_status(self) -> u16 {
        match self {
            Class::NotFound => 404,
            Class::Conflict | Class::Busy => 409,
            Class::Invalid => 400,
            Class::Denied => 403,
            Class::Unsupported => 501,
            Class::Unavailable => 503,
            Class::Corrupt | Class::Internal => 500,
        }
    }

    /// The errno that a filesystem answers with for this class.
    pub fn errno(self) -> i32 {
        match self {
            Class::NotFound => libc::ENOENT,
            Class::Conflict => libc::EEXIST,
            Class::Invalid => libc::EINVAL,
            Class::Denied => libc::EACCES,
            Class::Unsupported => libc::EOPNOTSUPP,
            Class::Busy => libc::EBUSY,
            Class::Corrupt | Class::Internal => libc::EIO,
            Class::Unavailable => libc::EAGAIN,
        }
    }

    /// The class that an errno belongs to.
    pub fn of_io(error: &io::Error) -> Class {
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ESRCH | libc::ENODATA) => Class::NotFound,
            Some(libc::EEXIST | libc::ENOTEMPTY) => Class::Conflict,
            Some(libc::EINVAL | libc::ENAMETOOLONG | libc::ELOOP | libc::ENOTDIR | libc::EISDIR) => Class::Invalid,
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => Class::Denied,
            Some(libc::ENOSYS | libc::EOPNOTSUPP | libc::ENODEV | libc::ENOTBLK) => Class::Unsupported,
            Some(libc::EBUSY | libc::ETXTBSY | libc::EWOULDBLOCK) => Class::Busy,
            Some(libc::ENOSPC | libc::EDQUOT | libc::ECONNREFUSED | libc::ETIMEDOUT) => Class::Unavailable,
            _ => match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => Class::Corrupt,
                io::ErrorKind::NotFound => Class::NotFound,
                io::ErrorKind::PermissionDenied => Class::Denied,
                _ => Class::Internal,
            },
        }
    }
}

/// An error that a person can act on.
///
/// `Display` prints the message and its causes, joined by `: `; the hint is apart, from [`Error::hint`].
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    class: Class,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `class` whose message names the object and what is wrong with it.
    pub fn new(class: Class, message: impl Into<String>) -> Error {
        Error(Box::new(Inner { class, message: message.into(), hint: None, source: None }))
    }

    /// [`Class::NotFound`].
    pub fn not_found(message: impl Into<String>) -> Error {
        Error::new(Class::NotFound, message)
    }

    /// [`Class::Conflict`].
    pub fn conflict(message: impl Into<String>) -> Error {
        Error::new(Class::Conflict, message)
    }

    /// [`Class::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Error {
        Error::new(Class::Invalid, message)
    }

    /// [`Class::Denied`].
    pub fn denied(message: impl Into<String>) -> Error {
        Error::new(Class::Denied, message)
    }

    /// [`Class::Unsupported`].
    pub fn unsupported(message: impl Into<String>) -> Error {
        Error::new(Class::Unsupported, message)
    }

    /// [`Class::Busy`].
    pub fn busy(message: impl Into<String>) -> Error {
        Error::new(Class::Busy, message)
    }

    /// [`Class::Corrupt`].
    pub fn corrupt(message: impl Into<String>) -> Error {
        Error::new(Class::Corrupt, message)
    }

    /// [`Class::Unavailable`].
    pub fn unavailable(message: impl Into<String>) -> Error {
        Error::new(Class::Unavailable, message)
    }

    /// [`Class::Internal`].
    pub fn internal(message: impl Into<String>) -> Error {
        Error::new(Class::Internal, message)
    }

    /// An I/O failure, with the operation that failed and the path it failed on. The class follows the errno.
    pub fn io(operation: &str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Error {
        let source = source.into();
        let class = Class::of_io(&source);
        let hint = match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Some("free some space on that filesystem and try again".to_owned()),
            _ => None,
        };
        Error(Box::new(Inner {
            class,
            message: format!("{operation} {}", path.as_ref().display()),
            hint,
            source: Some(Box::new(source)),
        }))
    }

    /// What the person who sees this can do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Error {
        self.0.hint = Some(hint.into());
        self
    }

    /// The error that caused this one.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        self.0.source = Some(source.into());
        self
    }

    /// The same error under another class.
    #[must_use]
    pub fn with_class(mut self, class: Class) -> Error {
        self.0.class = class;
        self
    }

    /// The same failure seen from further up: `message` in front, class and hint kept.
    #[must_use]
    pub fn context(self, message: impl Into<String>) -> Error {
        let class = self.class();
        let hint = self.0.hint.clone();
        Error(Box::new(Inner { class, message: message.into(), hint, source: Some(Box::new(self)) }))
    }

    /// The class.
    pub fn class(&self) -> Class {
        self.0.class
    }

    /// The hint, if there is one.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The errno at the bottom of this error, if an operating system error caused it.
    pub fn raw_os_error(&self) -> Option<i32> {
        let source = self.0.source.as_deref()?;
        if let Some(error) = source.downcast_ref::<Error>() {
            return error.raw_os_error();
        }
        source.downcast_ref::<io::Error>()?.raw_os_error()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        match &self.0.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    // The causes are part of `Display` already; offering them again would print them twice under `anyhow`.
}

/// Gives an I/O result its operation and path.
pub trait IoContext<T> {
    /// Turns the error into ours: `operation path: cause`.
    fn at(self, operation: &str, path: impl AsRef<Path>) -> Result<T>;
}

impl<T, E: Into<io::Error>> IoContext<T> for std::result::Result<T, E> {
    fn at(self, operation: &str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|error| Error::io(operation, path, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_io_error_names_operation_path_and_cause() {
        let error = Error::io("open", "/nowhere", io::Error::from_raw_os_error(libc::ENOENT));
        assert_eq!(error.to_string(), "open /nowhere: No such file or directory (os error 2)");
        assert_eq!(error.class(), Class::NotFound);
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }

    #[test]
    fn context_keeps_class_hint_and_errno() {
        let error = Error::io("write", "/full", io::Error::from_raw_os_error(libc::ENOSPC)).context("layer sha256:1");
        assert_eq!(error.class(), Class::Unavailable);
        assert!(error.hint().is_some());
        assert_eq!(error.to_string(), "layer sha256:1: write /full: No space left on device (os error 28)");
    }
}
