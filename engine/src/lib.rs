//! Containers: the OCI runtime spec, the built-in runtime, the shim, logs and attach.
//!
//! Nothing is here yet; the daemon answers container requests with "page not found".
