//! `version` and `info`.

use anyhow::Result;
use clap::Args;
use fsd_api::{Info as OwnInfo, ProbeAnswer};
use serde_json::{Value, json};
use std::fmt::Write as _;

use crate::client::Client;
use crate::failure::status_of;
use crate::format::json::{list, number, text};
use crate::format::template::Format;
use crate::format::units;
use crate::out;

/// Show the version information
#[derive(Debug, Args)]
pub struct Version {
    /// Format output using a custom template: 'json', 'TEMPLATE'
    #[arg(short = 'f', long, value_name = "string")]
    format: Option<String>,
}

impl Version {
    /// Does it: ours is shown even if no daemon answers.
    pub async fn run(self, client: &Client) -> Result<()> {
        let server = client.get("/version").await;
        let own = json!({
            "Version": env!("CARGO_PKG_VERSION"), "Os": std::env::consts::OS, "Arch": go_arch(),
        });
        if let Some(format) = self.format.as_deref().filter(|format| !format.is_empty()) {
            let (shown, error) = match server {
                Ok(server) => (server, None),
                Err(error) => (Value::Null, Some(error)),
            };
            let both = json!({"Client": own, "Server": shown});
            let format = if format == "json" { "{{json .}}" } else { format };
            out::line(Format::parse(format, false)?.render(&both)?);
            return error.map_or(Ok(()), Err);
        }
        out::line(format!(
            "Client:\n Version:           {}\n OS/Arch:           {}/{}\n Host:              unix://{}",
            text(&own, "Version"),
            text(&own, "Os"),
            text(&own, "Arch"),
            client.socket().display()
        ));
        out::bytes(server_version(&server?).as_bytes());
        Ok(())
    }
}

fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn server_version(server: &Value) -> String {
    let platform = text(&server["Platform"], "Name");
    let mut out = format!("\nServer:{}\n", if platform.is_empty() { String::new() } else { format!(" {platform}") });
    for component in list(server, "Components") {
        let _ = writeln!(out, " {}:", text(component, "Name"));
        let details = &component["Details"];
        let version = text(component, "Version");
        let _ = writeln!(out, "  {:<17}{version}", "Version:");
        if text(component, "Name") == "Engine" {
            let api = format!("{} (minimum version {})", text(details, "ApiVersion"), text(details, "MinAPIVersion"));
            let os = format!("{}/{}", text(details, "Os"), text(details, "Arch"));
            let rows = [
                ("API version:", api.as_str()),
                ("Go version:", text(details, "GoVersion")),
                ("Git commit:", text(details, "GitCommit")),
                ("Built:", text(details, "BuildTime")),
                ("OS/Arch:", os.as_str()),
                ("Experimental:", text(details, "Experimental")),
            ];
            for (name, value) in rows.into_iter().filter(|(_, value)| !value.is_empty()) {
                let _ = writeln!(out, "  {name:<17}{value}");
            }
            continue;
        }
        for (name, value) in details.as_object().into_iter().flatten() {
            let _ = writeln!(out, "  {:<17}{}", format!("{name}:"), value.as_str().unwrap_or_default());
        }
    }
    out
}

/// Display system-wide information
#[derive(Debug, Args)]
pub struct Info {
    /// Format output using a custom template: 'json', 'TEMPLATE'
    #[arg(short = 'f', long, value_name = "string")]
    format: Option<String>,
}

impl Info {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let info = client.get("/info").await?;
        let own = match client.get_bytes("/fsd/v1/info").await {
            Ok(bytes) => Some(serde_json::from_slice::<OwnInfo>(&bytes)?),
            Err(error) if status_of(&error).is_some() => None,
            Err(error) => return Err(error),
        };
        if let Some(format) = self.format.as_deref().filter(|format| !format.is_empty()) {
            let mut both = info;
            both["Fsd"] = serde_json::to_value(own)?;
            let format = if format == "json" { "{{json .}}" } else { format };
            out::line(Format::parse(format, false)?.render(&both)?);
            return Ok(());
        }
        let mut page = Page::default();
        page.line(0, "Client:");
        page.field(1, "Version", env!("CARGO_PKG_VERSION"));
        page.field(1, "Host", &format!("unix://{}", client.socket().display()));
        page.line(0, "");
        page.line(0, "Server:");
        server(&mut page, &info);
        if let Some(own) = own {
            let shown = list(&info, "DriverStatus").iter().filter_map(|pair| pair[0].as_str()).collect::<Vec<_>>();
            host(&mut page, &own, &shown);
        }
        out::bytes(page.text.as_bytes());
        for warning in list(&info, "Warnings") {
            out::error_line(warning.as_str().unwrap_or_default());
        }
        Ok(())
    }
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, indent: usize, line: &str) {
        let _ = writeln!(self.text, "{}{line}", " ".repeat(indent));
    }

    fn field(&mut self, indent: usize, name: &str, value: &str) {
        if !value.is_empty() {
            self.line(indent, &format!("{name}: {value}"));
        }
    }
}

fn server(page: &mut Page, info: &Value) {
    for (indent, name, key) in [
        (1, "Containers", "Containers"),
        (2, "Running", "ContainersRunning"),
        (2, "Paused", "ContainersPaused"),
        (2, "Stopped", "ContainersStopped"),
        (1, "Images", "Images"),
    ] {
        page.field(indent, name, &number(info, key).to_string());
    }
    page.field(1, "Server Version", text(info, "ServerVersion"));
    page.field(1, "Storage Driver", text(info, "Driver"));
    for pair in list(info, "DriverStatus") {
        page.field(2, pair[0].as_str().unwrap_or_default(), pair[1].as_str().unwrap_or_default());
    }
    page.field(1, "Logging Driver", text(info, "LoggingDriver"));
    page.field(1, "Cgroup Driver", text(info, "CgroupDriver"));
    page.field(1, "Cgroup Version", text(info, "CgroupVersion"));
    let names = |value: &Value| value.as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(" ");
    page.line(1, "Plugins:");
    for kind in ["Volume", "Network", "Log"] {
        page.field(2, kind, &names(&info["Plugins"][kind]));
    }
    let runtimes: Vec<&str> = info["Runtimes"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    page.field(1, "Runtimes", &runtimes.join(" "));
    page.field(1, "Default Runtime", text(info, "DefaultRuntime"));
    page.field(1, "Init Binary", text(info, "InitBinary"));
    security(page, list(info, "SecurityOptions"));
    for (name, key) in [
        ("Kernel Version", "KernelVersion"),
        ("Operating System", "OperatingSystem"),
        ("OSType", "OSType"),
        ("Architecture", "Architecture"),
    ] {
        page.field(1, name, text(info, key));
    }
    page.field(1, "CPUs", &number(info, "NCPU").to_string());
    page.field(1, "Total Memory", &units::binary(number(info, "MemTotal") as f64));
    page.field(1, "Name", text(info, "Name"));
    page.field(1, "ID", text(info, "ID"));
    page.field(1, "Root Dir", text(info, "DockerRootDir"));
    page.field(1, "Debug Mode", if info["Debug"] == true { "true" } else { "false" });
    let insecure = &info["RegistryConfig"]["IndexConfigs"];
    let registries = insecure.as_object().into_iter().flatten().filter(|(_, registry)| registry["Secure"] == false);
    let registries: Vec<&str> = registries.map(|(name, _)| name.as_str()).collect();
    let ranges = list(&info["RegistryConfig"], "InsecureRegistryCIDRs").iter().filter_map(Value::as_str);
    let all: Vec<&str> = registries.into_iter().chain(ranges).collect();
    if !all.is_empty() {
        page.line(1, "Insecure Registries:");
        for registry in all {
            page.line(2, registry);
        }
    }
    page.field(1, "Live Restore Enabled", if info["LiveRestoreEnabled"] == true { "true" } else { "false" });
}

fn security(page: &mut Page, options: &[Value]) {
    if options.is_empty() {
        return;
    }
    page.line(1, "Security Options:");
    for option in options.iter().filter_map(Value::as_str) {
        for part in option.split(',') {
            match part.split_once('=') {
                Some(("name", name)) => page.line(2, name),
                Some(("profile", profile)) => page.field(3, "Profile", profile),
                Some((key, value)) => page.field(3, key, value),
                None => page.line(2, part),
            }
        }
    }
}

/// What only we tell; `shown` are the names of probes that the page has already.
fn host(page: &mut Page, own: &OwnInfo, shown: &[&str]) {
    page.line(1, "Store:");
    page.field(2, "Root", &own.root);
    page.field(2, "Run", &own.run);
    page.field(2, "Layers Mounted", &own.layers_mounted.to_string());
    page.field(2, "Daemon Process", &own.pid.to_string());
    let more: Vec<_> = own.probes.iter().filter(|probe| !shown.contains(&probe.name.as_str())).collect();
    if !more.is_empty() {
        page.line(1, "This host:");
    }
    for probe in more {
        let answer = match probe.answer {
            ProbeAnswer::Supported => "in use",
            ProbeAnswer::Unsupported => "does not work here",
            ProbeAnswer::Unknown => "unknown",
            ProbeAnswer::Passed => "not tried",
        };
        let why = if probe.why.is_empty() { String::new() } else { format!(" ({})", probe.why) };
        page.field(2, &probe.name, &format!("{answer}{why}"));
    }
}
