//! The daemon's progress messages: bars on a terminal, lines elsewhere.

use std::collections::HashMap;
use std::io::IsTerminal;

use anyhow::Result;
use hyper::body::Incoming;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

use crate::client::stream::Lines;
use crate::failure::Exit;
use crate::format::json::text;
use crate::out;

/// Where progress goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// Standard output.
    Stdout,
    /// Standard error: standard output is for something else.
    Stderr,
    /// Nowhere.
    Nowhere,
}

/// Shows a stream of messages to its end; a message that is an error becomes one.
pub async fn show(body: Incoming, to: To) -> Result<()> {
    let mut lines = Lines::new(body);
    let mut view = View::new(to);
    while let Some(message) = lines.next().await? {
        let error = message["errorDetail"]["message"].as_str().or_else(|| message["error"].as_str());
        if let Some(error) = error {
            drop(view);
            return Err(Exit::with(1, error));
        }
        view.take(&message);
    }
    Ok(())
}

struct View {
    to: To,
    bars: Option<(MultiProgress, HashMap<String, ProgressBar>)>,
}

impl View {
    fn new(to: To) -> View {
        let (person, target) = match to {
            To::Stdout => (out::is_terminal(), ProgressDrawTarget::stdout()),
            To::Stderr => (std::io::stderr().is_terminal(), ProgressDrawTarget::stderr()),
            To::Nowhere => (false, ProgressDrawTarget::hidden()),
        };
        View { to, bars: person.then(|| (MultiProgress::with_draw_target(target), HashMap::new())) }
    }

    fn take(&mut self, message: &Value) {
        let stream = text(message, "stream");
        if !stream.is_empty() {
            return self.line(stream.trim_end_matches('\n'));
        }
        let (id, status) = (text(message, "id"), text(message, "status"));
        if status.is_empty() {
            return;
        }
        let detail = &message["progressDetail"];
        let layer = !id.is_empty() && !status.starts_with("Pulling from");
        if let (Some((all, bars)), true) = (&self.bars, layer) {
            let bar = bars.get(id).cloned().unwrap_or_else(|| new_bar(all, id));
            update(&bar, status, detail);
            if let Some((_, bars)) = &mut self.bars {
                bars.insert(id.to_owned(), bar);
            }
            return;
        }
        if detail["current"].is_number() {
            return;
        }
        if id.is_empty() { self.line(status) } else { self.line(&format!("{id}: {status}")) }
    }

    fn line(&self, line: &str) {
        match (&self.bars, self.to) {
            (Some((all, _)), _) => drop(all.println(line)),
            (None, To::Stdout) => out::line(line),
            (None, To::Stderr) => out::error_line(line),
            (None, To::Nowhere) => {}
        }
    }
}

fn new_bar(all: &MultiProgress, id: &str) -> ProgressBar {
    let bar = all.add(ProgressBar::new(0));
    bar.set_prefix(id.to_owned());
    bar
}

fn update(bar: &ProgressBar, status: &str, detail: &Value) {
    let counted = detail["total"].as_u64().filter(|total| *total > 0);
    let template = match counted {
        Some(_) => "{prefix}: {msg:18} [{bar:40}] {decimal_bytes}/{decimal_total_bytes}",
        None if detail["current"].is_number() => "{prefix}: {msg:18} {decimal_bytes}",
        None => "{prefix}: {msg}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    if let Some(total) = counted {
        bar.set_length(total);
    }
    if let Some(current) = detail["current"].as_u64() {
        bar.set_position(current);
    }
    bar.set_message(status.to_owned());
    if matches!(status, "Pull complete" | "Already exists" | "Pushed" | "Loaded") {
        bar.abandon();
    }
}

/// A counter of bytes sent, on a terminal; nothing elsewhere.
pub fn upload(total: Option<u64>, what: &str) -> ProgressBar {
    let bar = match (std::io::stderr().is_terminal(), total) {
        (false, _) => return ProgressBar::hidden(),
        (true, Some(total)) => ProgressBar::new(total),
        (true, None) => ProgressBar::new_spinner(),
    };
    let template = match total {
        Some(_) => "{msg} [{bar:40}] {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec}",
        None => "{msg} {decimal_bytes} {decimal_bytes_per_sec}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_message(what.to_owned());
    bar
}
