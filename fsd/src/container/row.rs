//! A container as the database keeps it.

use engine::selinux::Labels;
use fs_base::{ContainerId, Digest};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use volumes::MountPoint;

use super::health::Health;

/// One container.
#[derive(Debug, Clone)]
pub struct ContainerRow {
    /// Its id.
    pub id: ContainerId,
    /// Its name, without a slash.
    pub name: String,
    /// Its image; it keeps the image from being removed.
    pub image: Digest,
    /// The image as it was given.
    pub image_name: String,
    /// Nanoseconds since the epoch.
    pub created: i64,
    /// What it is.
    pub definition: Definition,
    /// How it is.
    pub state: State,
}

/// What a container is: fixed when it is created.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Definition {
    /// Docker's `Config`, the image's defaults merged in.
    pub config: Value,
    /// Docker's `HostConfig`, defaults filled in.
    pub host_config: Value,
    /// What it mounts.
    pub mounts: Vec<MountPoint>,
    /// Its SELinux labels; `None` if it was made, and not started since, by a daemon that gives none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
}

impl Definition {
    fn text<'a>(value: &'a Value, key: &str) -> &'a str {
        value[key].as_str().unwrap_or_default()
    }

    fn texts(value: &Value, key: &str) -> Vec<String> {
        value[key].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    fn flag(value: &Value, key: &str) -> bool {
        value[key].as_bool().unwrap_or(false)
    }

    /// The command: entrypoint and arguments together.
    pub fn command(&self) -> Vec<String> {
        let mut command = Definition::texts(&self.config, "Entrypoint");
        command.extend(Definition::texts(&self.config, "Cmd"));
        command
    }

    /// A text of the config; empty if it is not there.
    pub fn config_text(&self, key: &str) -> &str {
        Definition::text(&self.config, key)
    }

    /// A list of texts of the config.
    pub fn config_texts(&self, key: &str) -> Vec<String> {
        Definition::texts(&self.config, key)
    }

    /// A flag of the config.
    pub fn config_flag(&self, key: &str) -> bool {
        Definition::flag(&self.config, key)
    }

    /// A flag of the host config.
    pub fn host_flag(&self, key: &str) -> bool {
        Definition::flag(&self.host_config, key)
    }

    /// A text of the host config; empty if it is not there.
    pub fn host_text(&self, key: &str) -> &str {
        Definition::text(&self.host_config, key)
    }

    /// Whether it goes when it ends.
    pub fn auto_remove(&self) -> bool {
        self.host_flag("AutoRemove")
    }
}

/// Where a container is in its life. The words are Docker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Made, never started (or its start failed).
    Created,
    /// Its first process runs.
    Running,
    /// Its first process has ended, and it is about to be started again.
    Restarting,
    /// Its first process has ended.
    Exited,
    /// It could not be wholly removed.
    Dead,
}

/// How a container is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Where it is in its life.
    pub status: Status,
    /// Whether its processes are stopped where they are.
    #[serde(default)]
    pub paused: bool,
    /// Its first process on the host; 0 if it does not run.
    pub pid: i32,
    /// Of its last end.
    pub exit_code: i32,
    /// Why it could not be started, or what went wrong at its end.
    pub error: String,
    /// Whether its last end was for want of memory.
    pub oom_killed: bool,
    /// How many processes of this run the kernel ended for want of memory, as far as that was told.
    #[serde(default)]
    pub oom_kills: u64,
    /// Nanoseconds since the epoch; 0 is never.
    pub started: i64,
    /// Nanoseconds since the epoch; 0 is never.
    pub finished: i64,
    /// How often its restart policy has started it since a person did.
    #[serde(default)]
    pub restart_count: u32,
    /// Whether a person ended it last: then some policies leave it alone.
    #[serde(default)]
    pub stopped_by_hand: bool,
    /// How its checks found it; `None` if it has none.
    #[serde(default)]
    pub health: Option<Health>,
    /// The AppArmor profile of its last run; empty if it had none.
    #[serde(default)]
    pub apparmor: String,
}

impl State {
    /// Of a new container.
    pub fn created() -> State {
        State {
            status: Status::Created,
            paused: false,
            pid: 0,
            exit_code: 0,
            error: String::new(),
            oom_killed: false,
            oom_kills: 0,
            started: 0,
            finished: 0,
            restart_count: 0,
            stopped_by_hand: false,
            health: None,
            apparmor: String::new(),
        }
    }

    /// Whether its first process is there, paused or not.
    pub fn is_running(&self) -> bool {
        self.status == Status::Running
    }

    /// Whether it runs, or will again by itself: what Docker counts as running.
    pub fn is_up(&self) -> bool {
        matches!(self.status, Status::Running | Status::Restarting)
    }

    /// Docker's word for it.
    pub fn word(&self) -> &'static str {
        match self.status {
            Status::Created => "created",
            Status::Running if self.paused => "paused",
            Status::Running => "running",
            Status::Restarting => "restarting",
            Status::Exited => "exited",
            Status::Dead => "dead",
        }
    }

    /// After a start.
    pub fn running(&self, pid: i32, now: i64) -> State {
        State {
            status: Status::Running,
            paused: false,
            pid,
            started: now,
            error: String::new(),
            oom_killed: false,
            oom_kills: 0,
            exit_code: 0,
            stopped_by_hand: false,
            ..self.clone()
        }
    }

    /// After a start that failed.
    pub fn not_started(&self, code: i32, error: String) -> State {
        let status = if self.status == Status::Restarting { Status::Exited } else { self.status };
        State { status, pid: 0, exit_code: code, error, ..self.clone() }
    }

    /// After its end.
    pub fn exited(&self, code: i32, oom_killed: bool, finished: i64) -> State {
        // Nobody looks after it any more. (moby, `CloseMonitorChannel`)
        let health = self.health.map(|_| Health::Unhealthy);
        State { status: Status::Exited, paused: false, pid: 0, exit_code: code, oom_killed, finished, health, ..self.clone() }
    }

    /// After an end, when it is going to be started again.
    pub fn restarting(self) -> State {
        State { status: Status::Restarting, restart_count: self.restart_count + 1, ..self }
    }
}
