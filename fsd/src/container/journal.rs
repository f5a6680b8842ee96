//! What systemd's journal has of a container, read by `journalctl`: the format of its files is systemd's own affair, and
//! its library would have to be there wherever this program runs.

use std::process::Stdio;
use std::time::Duration;

use engine::log::{Entry, Export, Query, Record, journal};
use fs_base::{ContainerId, Error, IoContext, Result};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStdout, Command};

const PROGRAM: &str = "journalctl";
/// Bytes that one read takes.
const PIECE: usize = 64 << 10;
/// How long journald may take to write down what was sent to it.
const SYNC: Duration = Duration::from_secs(10);

/// Reads what is there, and what comes.
#[derive(Debug)]
pub struct JournalReader {
    id: ContainerId,
    query: Query,
    /// What reads now; none after the end.
    source: Option<Source>,
    /// Where it is to be gone on with.
    from: From,
}

#[derive(Debug)]
struct Source {
    child: Child,
    output: ChildStdout,
    export: Export,
    piece: Vec<u8>,
}

/// Where to begin.
#[derive(Debug)]
enum From {
    /// With all of it, nothing older than this (in nanoseconds) if that is given.
    Start(Option<i64>),
    /// At this place.
    At(String),
    /// Behind this place.
    After(String),
}

impl JournalReader {
    /// Opens what the journal has of a container, and what comes, if it is to `follow`.
    pub async fn open(id: &ContainerId, query: Query, follow: bool) -> Result<JournalReader> {
        sync().await?;
        let from = match query.tail {
            None => From::Start(query.since),
            Some(count) => tail(id, query, count).await?,
        };
        let source = Some(Source::start(id, &from, follow)?);
        Ok(JournalReader { id: id.clone(), query, source, from })
    }

    /// The next lines, one at least; `None` at the end. Nothing is lost if it is not waited for.
    pub async fn read(&mut self) -> Result<Option<Vec<Record>>> {
        let Some(source) = &mut self.source else { return Ok(None) };
        let mut records = Vec::new();
        while records.is_empty() {
            let (entries, has_ended) = source.read().await?;
            for entry in entries {
                if self.query.until.is_some_and(|until| entry.record.nanos > until) {
                    self.source = None;
                    return Ok(Some(records).filter(|records| !records.is_empty()));
                }
                self.from = From::After(entry.cursor);
                if self.query.wants(&entry.record) {
                    records.push(entry.record);
                }
            }
            if has_ended {
                self.source = None;
                break;
            }
        }
        Ok(Some(records).filter(|records| !records.is_empty()))
    }

    /// No more will come: what is there is read, and then it ends.
    pub async fn finish(&mut self) -> Result<()> {
        if self.source.take().is_some() {
            sync().await?;
            self.source = Some(Source::start(&self.id, &self.from, false)?);
        }
        Ok(())
    }
}

impl Source {
    fn start(id: &ContainerId, from: &From, follow: bool) -> Result<Source> {
        let mut command = of(id);
        match from {
            From::Start(None) => &mut command,
            // journald's own time of an entry is never before that of its line.
            From::Start(Some(nanos)) => {
                command.arg(format!("--since=@{}.{:06}", nanos / 1_000_000_000, nanos % 1_000_000_000 / 1000))
            }
            From::At(cursor) => command.arg(format!("--cursor={cursor}")),
            From::After(cursor) => command.arg(format!("--after-cursor={cursor}")),
        };
        if follow {
            command.args(["--follow", "--no-tail"]);
        }
        Source::of(command)
    }

    fn of(mut command: Command) -> Result<Source> {
        let mut child = command.spawn().map_err(not_there)?;
        let output = child.stdout.take().ok_or_else(|| Error::internal("journalctl has no output"))?;
        Ok(Source { child, output, export: Export::default(), piece: vec![0; PIECE] })
    }

    /// The next entries, and whether that was all.
    async fn read(&mut self) -> Result<(Vec<Entry>, bool)> {
        let count = self.output.read(&mut self.piece).await.at("read", PROGRAM)?;
        self.export.push(&self.piece[..count]);
        let mut entries = Vec::new();
        while let Some(entry) = self.export.read()? {
            entries.push(entry);
        }
        if count == 0 {
            self.end().await?;
        }
        Ok((entries, count == 0))
    }

    async fn end(&mut self) -> Result<()> {
        let mut text = String::new();
        if let Some(errors) = &mut self.child.stderr {
            // What can't be read of its complaint is not worth another.
            let _ = errors.take(PIECE as u64).read_to_string(&mut text).await;
        }
        let status = self.child.wait().await.at("wait for", PROGRAM)?;
        // It also fails where nothing was logged yet on this host.
        if status.success() || text.trim().is_empty() {
            return Ok(());
        }
        Err(Error::unavailable(format!("{PROGRAM}: {}", text.trim())))
    }
}

/// The place of the `count`-th line from the end that is wanted.
async fn tail(id: &ContainerId, query: Query, count: u64) -> Result<From> {
    let mut command = of(id);
    command.arg("--reverse");
    let mut source = Source::of(command)?;
    let (mut left, mut has_ended) = (count, false);
    while !has_ended {
        let entries;
        (entries, has_ended) = source.read().await?;
        for entry in entries {
            if left == 0 {
                return Ok(From::After(entry.cursor));
            }
            if query.until.is_some_and(|until| entry.record.nanos > until) || !query.wants(&entry.record) {
                continue;
            }
            left -= 1;
            if left == 0 {
                return Ok(From::At(entry.cursor));
            }
        }
    }
    Ok(From::Start(query.since))
}

/// What reads the entries of a container that the daemon's own user has written: anybody may write to the journal.
fn of(id: &ContainerId) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .args(["--quiet", "--no-pager", "--all", "--output=export"])
        .arg(format!("{}={id}", journal::OWNER))
        .arg(format!("_UID={}", rustix::process::geteuid().as_raw()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Has journald write down all that was sent to it, as far as it does so in time.
async fn sync() -> Result<()> {
    let mut command = Command::new(PROGRAM);
    command.arg("--sync").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().map_err(not_there)?;
    // Without it the last lines come a moment later.
    let _ = tokio::time::timeout(SYNC, child.wait()).await;
    Ok(())
}

fn not_there(error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::NotFound {
        return Error::unsupported(format!("configured logging driver does not support reading without {PROGRAM}"))
            .with_hint("install journalctl, which belongs to systemd");
    }
    Error::io("run", PROGRAM, error)
}
