//! `/events`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use fs_base::{Error, Result};
use http::header;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::error::Failure;
use super::images::any_filters;
use super::own::body_of;
use super::query::Query;
use crate::app::App;
use crate::events::{Event, EventFilter};

#[derive(Deserialize)]
pub struct EventsQuery {
    since: Option<String>,
    until: Option<String>,
    filters: Option<String>,
}

pub async fn events(State(app): State<Arc<App>>, Query(query): Query<EventsQuery>) -> Result<Response, Failure> {
    let filter = EventFilter::parse(any_filters(query.filters.as_deref())?)?;
    let since = query.since.as_deref().map(instant).transpose()?.flatten();
    let until = query.until.as_deref().map(instant).transpose()?.flatten();
    if let (Some(from), Some(to)) = (since, until)
        && from > to
    {
        let (since, until) = (query.since.unwrap_or_default(), query.until.unwrap_or_default());
        return Err(Error::invalid(format!("`since` time ({since}) cannot be after `until` time ({until})")).into());
    }
    let (kept, mut live) = app.events.listen();
    let (to, from) = mpsc::channel::<std::io::Result<Bytes>>(16);
    tokio::spawn(async move {
        let in_time = |event: &Event| until.is_none_or(|until| event.time <= until);
        for event in kept.iter().filter(|event| since.is_some_and(|since| event.time >= since) && in_time(event)) {
            if filter.matches(event) && to.send(Ok(line(event))).await.is_err() {
                return;
            }
        }
        let end = async {
            match until {
                Some(until) => {
                    let left = u64::try_from(until.saturating_sub(crate::db::now())).unwrap_or(0);
                    tokio::time::sleep(std::time::Duration::from_nanos(left)).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::pin!(end);
        loop {
            let event = tokio::select! {
                biased;
                event = live.recv() => event,
                () = to.closed() => return,
                () = &mut end => return,
            };
            // One that fell too far behind is let go rather than told a part.
            let Ok(event) = event else { return };
            if in_time(&event) && filter.matches(&event) && to.send(Ok(line(&event))).await.is_err() {
                return;
            }
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], body_of(from)).into_response())
}

fn line(event: &Event) -> Bytes {
    Bytes::from(format!("{}\n", event.to_json()))
}

/// A moment in nanoseconds: `UNIX`, `UNIX.nanoseconds`, or RFC 3339. Empty or 0 is none.
pub fn instant(text: &str) -> Result<Option<i64>> {
    let bad = || Error::invalid(format!("invalid time {text:?}: use seconds since 1970, or RFC 3339"));
    if text.is_empty() || text == "0" {
        return Ok(None);
    }
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(Some(time.as_nanosecond() as i64));
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().map_err(|_| bad())?;
    if fraction.len() > 9 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad());
    }
    let nanos: i64 = format!("{fraction:0<9}").parse().map_err(|_| bad())?;
    Ok(Some(seconds.saturating_mul(1_000_000_000).saturating_add(nanos)))
}

#[cfg(test)]
mod tests {
    use super::instant;

    #[test]
    fn times_are_read_in_every_form() {
        assert_eq!(instant("10").unwrap(), Some(10_000_000_000));
        assert_eq!(instant("10.5").unwrap(), Some(10_500_000_000));
        assert_eq!(instant("10.000000001").unwrap(), Some(10_000_000_001));
        assert_eq!(instant("1970-01-01T00:00:10Z").unwrap(), Some(10_000_000_000));
        assert_eq!(instant("0").unwrap(), None);
        assert!(instant("yesterday").is_err());
    }
}
