//! fsd/api
