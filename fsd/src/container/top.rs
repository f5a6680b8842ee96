//! The processes of a container, as the host's `ps` lists them.

use std::process::Command;

use fs_base::{Error, Result};
use serde_json::{Value, json};

use super::{group, pause};
use crate::app::App;

/// Docker's options where none are given.
const OPTIONS: &str = "-ef";

/// `GET /containers/{name}/top`.
pub fn top(app: &App, name: &str, options: &str) -> Result<Value> {
    let row = app.db.find_container(name)?;
    pause::running(&row)?;
    let options = if options.is_empty() { OPTIONS } else { options };
    refuse_renamed_pid(options)?;
    let pids = group::of(&row)?.processes()?;
    let (titles, processes) = parse(&list(options, &pids)?, &pids)?;
    app.events.container("top", &row, &[]);
    Ok(json!({"Titles": titles, "Processes": processes}))
}

/// A column that is called PID and is none would show other containers' processes. Source: moby, `validatePSArgs`.
fn refuse_renamed_pid(options: &str) -> Result<()> {
    for word in options.split_whitespace() {
        if let Some((column, title)) = word.split_once('=')
            && title.starts_with("PID")
            && column != "pid"
        {
            return Err(Error::invalid(format!("specifying \"{column}={title}\" is not allowed")));
        }
    }
    Ok(())
}

/// Asks for these processes alone; options that don't go with that are asked for all.
fn list(options: &str, pids: &[i32]) -> Result<String> {
    let numbers = pids.iter().map(i32::to_string).collect::<Vec<_>>().join(",");
    let ps = |more: Option<String>| {
        let words = options.split(' ').filter(|word| !word.is_empty());
        let output = Command::new("ps").args(words).args(more).env("LC_ALL", "C").output();
        output.map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::unsupported("ps: executable file not found in $PATH")
                .with_hint("`top` asks the host's ps: install it (Debian: apt-get install procps)"),
            _ => Error::io("run", "ps", error),
        })
    };
    let mut output = ps(Some(format!("-q{numbers}")))?;
    if !output.status.success() {
        output = ps(None)?;
    }
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let first = said.lines().next().filter(|line| !line.is_empty()).unwrap_or("failed");
        return Err(Error::internal(format!("ps: {first}")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

type Table = (Vec<String>, Vec<Vec<String>>);

/// The lines whose PID is one of these. The last column takes the rest of its line.
fn parse(text: &str, pids: &[i32]) -> Result<Table> {
    let mut lines = text.lines();
    let titles: Vec<String> = lines.next().unwrap_or_default().split_ascii_whitespace().map(str::to_owned).collect();
    let place = titles
        .iter()
        .position(|title| title == "PID")
        .ok_or_else(|| Error::internal("Couldn't find PID field in ps output").with_hint("let the options show the PID"))?;
    let mut processes = Vec::new();
    // With `-m` the lines of threads follow their process's, with a dash for the number.
    let mut in_it = false;
    for line in lines {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let Some(number) = fields.get(place) else { continue };
        if *number != "-" {
            in_it = number.parse().is_ok_and(|pid: i32| pids.contains(&pid));
        }
        if in_it {
            let last = titles.len().min(fields.len()).saturating_sub(1);
            let mut process: Vec<String> = fields[..last].iter().map(|&field| field.to_owned()).collect();
            process.push(fields[last..].join(" "));
            processes.push(process);
        }
    }
    Ok((titles, processes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_processes_are_shown() {
        let text = "UID   PID CMD\nroot  1  init\nroot 20 sh -c  x\nroot - -\nroot 3 other\nroot - -\n";
        let (titles, processes) = parse(text, &[20]).unwrap();
        assert_eq!(titles, ["UID", "PID", "CMD"]);
        assert_eq!(processes, [vec!["root", "20", "sh -c x"], vec!["root", "-", "-"]]);
        assert!(parse("UID CMD\n", &[]).unwrap_err().to_string().contains("Couldn't find PID field"));
    }

    #[test]
    fn no_other_column_is_called_pid() {
        assert!(refuse_renamed_pid("-o pid,comm -e").is_ok());
        let error = refuse_renamed_pid("-eo uid=PID").unwrap_err().to_string();
        assert_eq!(error, "specifying \"uid=PID\" is not allowed");
    }
}
