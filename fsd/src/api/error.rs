//! Errors as Docker's clients want them.

use axum::Json;
use axum::response::{IntoResponse, Response};
use fs_base::{Class, Error};
use fsd_api::ErrorBody;
use http::StatusCode;

/// An error on its way out.
#[derive(Debug)]
pub struct Failure(pub Error);

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Failure(error) = self;
        if matches!(error.class(), Class::Internal | Class::Corrupt | Class::Unavailable) {
            tracing::error!(%error, "request failed");
        } else {
            tracing::debug!(%error, "request refused");
        }
        let status = StatusCode::from_u16(error.class().http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let hint = error.hint().filter(|hint| !hint.is_empty()).map(str::to_owned);
        (status, Json(ErrorBody { message: fsd_api::words::of_system(&error.to_string()), hint })).into_response()
    }
}
