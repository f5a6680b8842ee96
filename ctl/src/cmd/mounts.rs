//! Trees on the host: `image mount`, `container mount`, `volume mount`, their `umount`, and `mount ls`.

use anyhow::{Result, bail};
use clap::Args;
use fsd_api::{MountInfo, MountRequest, Mounted, ObjectKind};
use serde_json::Value;

use crate::client::query::escape;
use crate::client::{Client, Query};
use crate::cmd::fuse;
use crate::failure::Several;
use crate::format::list::{Columns, Style, print, row};
use crate::format::time;
use crate::out;

/// How a tree is mounted.
#[derive(Debug, Args)]
struct How {
    /// Serve it by FUSE, even if the kernel could mount it; so it is always for users other than root
    #[arg(long)]
    fuse: bool,
    /// Let it be written to; what is written goes when it is unmounted
    #[arg(long)]
    rw: bool,
    /// By FUSE: mount it again when the process that serves it dies
    #[arg(long)]
    restart: bool,
}

impl How {
    /// Asks the daemon, and says where it is.
    async fn mount(&self, client: &Client, kind: &str, name: &str, target: Option<&str>) -> Result<()> {
        let target = target.map(std::path::absolute).transpose()?;
        let Ok(target) = target.map(|target| target.into_os_string().into_string()).transpose() else {
            bail!("the directory to mount over is not UTF-8");
        };
        let request = MountRequest { target, fuse: self.fuse, rw: self.rw, restart: self.restart };
        let path = format!("/fsd/v1/{kind}/{}/mount", escape(name));
        let answer = client.post(&path, Some(&serde_json::to_value(request)?)).await?;
        let mounted: Mounted = serde_json::from_value(answer)?;
        out::line(mounted.target);
        Ok(())
    }
}

/// Mount an image on the host and print where; without an image, list what is mounted
#[derive(Debug, Args)]
pub struct MountImage {
    #[command(flatten)]
    how: How,
    /// Which image of the file, if it has several
    #[arg(long, value_name = "name", requires = "fuse")]
    name: Option<String>,
    /// The image; with --fuse also a file or directory: what `docker save` writes, or an OCI layout
    image: Option<String>,
    /// A directory, empty or to be made; without it the daemon makes one
    target: Option<String>,
}

impl MountImage {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let Some(image) = &self.image else { return MountLs::of(ObjectKind::Image).run(client).await };
        if self.how.fuse && (self.name.is_some() || fuse::is_file(image)) {
            return fuse::mount_file(image, self.name.as_deref(), self.target.as_deref(), self.how.rw, self.how.restart);
        }
        self.how.mount(client, "images", image, self.target.as_deref()).await
    }
}

/// Mount a container's tree on the host and print where; without a container, list what is mounted
///
/// Shown is its image and what it has changed, as it is now and as it changes, but not its volumes. Nothing can be written;
/// with --rw to a directory that goes with the mount, never to the container.
///
/// Of a container with users of its own (--userns, a daemon with --userns-remap) owners are shown as the host knows them,
/// whether it runs or not: its root's files belong to the user that its root is on the host. With --fuse or --rw they are
/// those inside, as in `ctl cp`, `ctl diff` and images.
#[derive(Debug, Args)]
pub struct MountContainer {
    #[command(flatten)]
    how: How,
    /// The container, running or not
    container: Option<String>,
    /// A directory, empty or to be made; without it the daemon makes one
    target: Option<String>,
}

impl MountContainer {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let Some(container) = &self.container else { return MountLs::of(ObjectKind::Container).run(client).await };
        self.how.mount(client, "containers", container, self.target.as_deref()).await
    }
}

/// Mount a volume on the host and print where; without a volume, list what is mounted
///
/// Nothing can be written; with --rw to a directory that goes with the mount, never to the volume.
#[derive(Debug, Args)]
pub struct MountVolume {
    #[command(flatten)]
    how: How,
    /// The volume
    volume: Option<String>,
    /// A directory, empty or to be made; without it the daemon makes one
    target: Option<String>,
}

impl MountVolume {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let Some(volume) = &self.volume else { return MountLs::of(ObjectKind::Volume).run(client).await };
        self.how.mount(client, "volumes", volume, self.target.as_deref()).await
    }
}

/// Unmount what was mounted on the host
#[derive(Debug, Args)]
pub struct Umount {
    /// Detach now, even if files on it are open
    #[arg(short = 'l', long)]
    lazy: bool,
    /// Everything that you have mounted; as root, that anybody has
    #[arg(short = 'a', long)]
    all: bool,
    /// Mounts by id or by target, or what is mounted: images, containers, volumes
    #[arg(value_name = "ID|TARGET|NAME", required_unless_present = "all")]
    mounts: Vec<String>,
}

impl Umount {
    /// Does it, among mounts of one kind if one is meant.
    pub async fn run(self, client: &Client, kind: Option<ObjectKind>) -> Result<()> {
        let mut several = Several::default();
        // What was mounted without the daemon is unmounted without it too.
        let (alone, others): (Vec<&String>, Vec<&String>) = self.mounts.iter().partition(|name| fuse::is_mounted(name));
        let mut mounted = if others.is_empty() && !self.all { Vec::new() } else { mounts(client).await? };
        mounted.retain(|mount| kind.is_none_or(|kind| mount.kind == kind));
        for name in alone {
            if several.note(fuse::unmount(name)).is_some() {
                out::line(name);
            }
        }
        let own = rustix::process::geteuid();
        let is_ours = |mount: &&MountInfo| own.is_root() || mount.uid == own.as_raw();
        let all: Vec<String> = mounted.iter().filter(is_ours).map(|mount| mount.id.clone()).collect();
        let wanted: Vec<&String> = if self.all { all.iter().collect() } else { others };
        for name in wanted {
            if let Some(id) = several.note(find(&mounted, name)) {
                let path = Query::new(format!("/fsd/v1/mounts/{}", escape(&id))).with("lazy", self.lazy.to_string()).build();
                if several.note(client.delete(&path).await).is_some() {
                    out::line(name);
                }
            }
        }
        several.finish()
    }
}

/// What a person names, as an id: an id or its beginning, a target, or an object that is mounted once.
pub fn find(mounts: &[MountInfo], name: &str) -> Result<String> {
    let target = std::path::absolute(name).ok().and_then(|path| path.to_str().map(str::to_owned));
    let target = target.map(|target| target.trim_end_matches('/').to_owned());
    let exact = mounts.iter().find(|mount| mount.id == name || Some(&mount.target) == target.as_ref());
    if let Some(mount) = exact {
        return Ok(mount.id.clone());
    }
    let like: Vec<&MountInfo> = mounts.iter().filter(|mount| mount.object == name || mount.id.starts_with(name)).collect();
    match like.as_slice() {
        [one] => Ok(one.id.clone()),
        [] => bail!("Error: no such mount: {name}"),
        several => {
            let targets: Vec<&str> = several.iter().map(|mount| mount.target.as_str()).collect();
            bail!("{name} is mounted more than once; say which: {}", targets.join(", "))
        }
    }
}

/// All that the daemon knows of.
pub async fn mounts(client: &Client) -> Result<Vec<MountInfo>> {
    Ok(serde_json::from_slice(&client.get_bytes("/fsd/v1/mounts").await?)?)
}

/// List what is mounted on the host
#[derive(Debug, Default, Args)]
pub struct MountLs {
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json', 'TEMPLATE'
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Only show targets
    #[arg(short = 'q', long)]
    quiet: bool,
    #[arg(skip)]
    kind: Option<ObjectKind>,
}

impl MountLs {
    /// Only what shows one kind of thing.
    fn of(kind: ObjectKind) -> MountLs {
        MountLs { kind: Some(kind), ..MountLs::default() }
    }

    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let columns = Columns {
            titles: &[
                ("ID", "MOUNT ID"),
                ("Kind", "KIND"),
                ("Object", "NAME"),
                ("Target", "TARGET"),
                ("Driver", "DRIVER"),
                ("Mode", "MODE"),
                ("User", "USER"),
                ("CreatedSince", "CREATED"),
                ("State", "STATE"),
            ],
            table: "{{.ID}}\t{{.Kind}}\t{{.Object}}\t{{.Target}}\t{{.Driver}}\t{{.CreatedSince}}\t{{.State}}",
            quiet: "Target",
        };
        let mut mounts = mounts(client).await?;
        mounts.retain(|mount| self.kind.is_none_or(|kind| mount.kind == kind));
        let rows = mounts.iter().map(mount_row).collect::<Result<Vec<Value>>>()?;
        print(&columns, &rows, Style { format: self.format.as_deref(), quiet: self.quiet })
    }
}

fn mount_row(mount: &MountInfo) -> Result<Value> {
    Ok(row([
        ("ID", mount.id.as_str().into()),
        ("Kind", serde_json::to_value(mount.kind)?),
        ("Object", mount.object.as_str().into()),
        ("Target", mount.target.as_str().into()),
        ("Driver", mount.driver.as_str().into()),
        ("Mode", if mount.rw { "rw" } else { "ro" }.into()),
        ("User", mount.uid.into()),
        ("CreatedSince", time::unix(&mount.created).map(time::ago).unwrap_or_default().into()),
        ("State", serde_json::to_value(mount.state)?),
    ]))
}
