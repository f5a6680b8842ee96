//! `fsd`, the container storage daemon: images as layers, mounted without unpacking, behind the Docker Engine API.
//!
//! The way of a request: [`serve`] takes it off the socket, [`api`] decodes it and calls a service ([`image`],
//! [`mod@volume`], [`mounts`], [`check`]), which works on the [`app::App`]: the database and the layer store.

mod api;
mod app;
mod check;
mod config;
mod container;
mod db;
mod events;
mod format;
mod image;
mod manual;
mod mounts;
mod network;
mod reference;
mod registry;
mod reserve;
mod serve;
mod system;
mod userns;
mod volume;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use fs_base::{Error, Result};

use app::App;
use config::{Cli, Command, Config, ConfigCommand};

fn main() -> ExitCode {
    if let Some(dir) = network::helper::asked_for() {
        return told(network::helper::run(&dir));
    }
    let cli = Cli::parse();
    let result = match &cli.command {
        Some(Command::Config { what: ConfigCommand::Check }) => Config::load(&cli.options).map(|config| println!("{config:#?}")),
        Some(Command::Check(options)) => match Config::load(&cli.options).and_then(|config| check_offline(&config, options)) {
            Ok(true) => Ok(()),
            Ok(false) => return ExitCode::FAILURE,
            Err(error) => Err(error),
        },
        Some(Command::Man { dir }) => manual::write(dir),
        None => Config::load(&cli.options).and_then(run),
    };
    told(result)
}

fn told(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fsd: {error}");
            if let Some(hint) = error.hint() {
                eprintln!("hint: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Whether the store is clean.
fn check_offline(config: &Config, options: &config::Check) -> Result<bool> {
    log_to_journal_or_stderr(config);
    use_one_cryptography();
    let query = fsd_api::CheckQuery { data: options.data, repair: options.repair, force: options.force };
    let json = options.format.is_some();
    let summary = check::run_offline(config, &query, &mut |event| match event {
        event if json => println!("{}", serde_json::to_string(event).unwrap_or_default()),
        fsd_api::CheckEvent::Progress(_) => {}
        fsd_api::CheckEvent::Finding(finding) => println!("{finding}"),
        fsd_api::CheckEvent::Summary(summary) => println!("{summary}"),
    })?;
    Ok(summary.is_clean())
}

/// Only the first provider counts, and there is no other in this process.
fn use_one_cryptography() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn run(config: Config) -> Result<()> {
    log_to_journal_or_stderr(&config);
    #[cfg(debug_assertions)]
    fail_on_purpose()?;
    use_one_cryptography();
    serve::refuse_live(&config.socket)?;
    if let Err(error) = fs_base::sys::limits::raise_open_files() {
        tracing::warn!(%error, "only few layers can be mounted at once");
    }
    let app = Arc::new(App::open(config)?);
    let listener = serve::listen(&app.config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(64)
        .thread_keep_alive(std::time::Duration::from_secs(5))
        .enable_all()
        .build()
        .map_err(|error| Error::io("start", "the runtime", error))?;
    runtime.block_on(serve::serve(app, listener))
}

/// A test names the durable step that is to fail. See `fs_base::durable::fault`; no release listens.
#[cfg(debug_assertions)]
fn fail_on_purpose() -> Result<()> {
    use fs_base::durable::fault;
    if let Ok(plan) = std::env::var("FSD_FAULT") {
        fault::arm(plan.parse()?, |step| eprintln!("{step}"));
    }
    Ok(())
}

/// The journal, if this process was started with its standard error there; else standard error.
fn log_to_journal_or_stderr(config: &Config) {
    use std::io::IsTerminal;
    use tracing_subscriber::prelude::*;
    let registry = tracing_subscriber::registry().with(config.log);
    match std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok()) {
        Some(journal) => registry.with(journal).init(),
        None => registry
            .with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal()))
            .init(),
    }
}
