//! The command line: which words there are, and which verb each stands for.

use anyhow::Result;
use clap::{ArgAction, Args, Parser, Subcommand};
use fsd_api::ObjectKind;

use crate::client::{Client, DEFAULT_HOST};
use crate::cmd::about::{Info, Version};
use crate::cmd::changes::MountDiff;
use crate::cmd::commit::Commit;
use crate::cmd::cp::{Cp, ImageCp};
use crate::cmd::create::Create;
use crate::cmd::df::Df;
use crate::cmd::duplicates::Duplicates;
use crate::cmd::images::{History, Images, PruneImages, Push, Rmi, Tag};
use crate::cmd::inspect::{Inspect, InspectOne};
use crate::cmd::lifecycle::{Containers, Kill, Port, Rename, Rm, Stop, Top};
use crate::cmd::look::{Cat, LsTree};
use crate::cmd::manual::{Completions, Man};
use crate::cmd::mounts::{MountContainer, MountImage, MountLs, Umount};
use crate::cmd::network::Network;
use crate::cmd::ps::Ps;
use crate::cmd::pull::{Export, Import, Load, Pull, Save};
use crate::cmd::run::Run;
use crate::cmd::stats::Stats;
use crate::cmd::streams::{Attach, Diff, Exec, Logs, Start};
use crate::cmd::system::{Check, Events, Prune, PruneContainers};
use crate::cmd::update::Update;
use crate::cmd::volume::Volume;

/// Images, containers and volumes of a storage daemon
#[derive(Debug, Parser)]
#[command(name = "ctl", version, disable_help_flag = true, disable_version_flag = true, args_override_self = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub verb: Verb,
}

/// What goes with every verb.
#[derive(Debug, Args)]
pub struct Global {
    /// The daemon's socket
    #[arg(short = 'H', long = "host", env = "FSD_HOST", default_value = DEFAULT_HOST, value_name = "unix://SOCKET", hide_env_values = true)]
    pub host: String,
    /// Print help
    #[arg(long, action = ArgAction::Help, global = true)]
    help: Option<bool>,
    /// Print version information and quit
    #[arg(short = 'v', long, action = ArgAction::Version)]
    version: Option<bool>,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    Attach(Attach),
    Commit(Commit),
    #[command(subcommand)]
    Container(Box<ContainerVerb>),
    Cp(Cp),
    Create(Box<Create>),
    Diff(Diff),
    Events(Events),
    Exec(Exec),
    Export(Export),
    History(History),
    #[command(subcommand)]
    Image(ImageVerb),
    Images(Images),
    Import(Import),
    Info(Info),
    Inspect(Inspect),
    Kill(Kill),
    Load(Load),
    Logs(Logs),
    #[command(subcommand)]
    Mount(MountVerb),
    #[command(subcommand)]
    Network(Network),
    /// Pause all processes within one or more containers
    Pause(Containers),
    Port(Port),
    Ps(Ps),
    Pull(Pull),
    Push(Push),
    Rename(Rename),
    /// Restart one or more containers
    Restart(Stop),
    Rm(Rm),
    Rmi(Rmi),
    Run(Box<Run>),
    Save(Save),
    Start(Start),
    Stats(Stats),
    Stop(Stop),
    #[command(subcommand)]
    System(SystemVerb),
    Tag(Tag),
    Top(Top),
    Umount(Umount),
    /// Unpause all processes within one or more containers
    Unpause(Containers),
    Update(Update),
    Version(Version),
    #[command(subcommand)]
    Volume(Volume),
    /// Block until one or more containers stop, then print their exit codes
    Wait(Containers),
    Completions(Completions),
    #[command(hide = true)]
    Man(Man),
}

/// Manage containers
#[derive(Debug, Subcommand)]
pub enum ContainerVerb {
    Attach(Attach),
    Commit(Commit),
    Cp(Cp),
    Create(Create),
    Diff(Diff),
    Exec(Exec),
    Export(Export),
    /// Display detailed information on one or more containers
    Inspect(InspectOne),
    Kill(Kill),
    Logs(Logs),
    #[command(visible_aliases = ["ps", "list"])]
    Ls(Ps),
    Mount(MountContainer),
    /// Pause all processes within one or more containers
    Pause(Containers),
    Port(Port),
    Prune(PruneContainers),
    Rename(Rename),
    /// Restart one or more containers
    Restart(Stop),
    #[command(visible_alias = "remove")]
    Rm(Rm),
    Run(Run),
    Start(Start),
    Stats(Stats),
    Stop(Stop),
    Top(Top),
    #[command(visible_alias = "unmount")]
    Umount(Umount),
    /// Unpause all processes within one or more containers
    Unpause(Containers),
    Update(Update),
    /// Block until one or more containers stop, then print their exit codes
    Wait(Containers),
}

/// Manage images
#[derive(Debug, Subcommand)]
pub enum ImageVerb {
    Cat(Cat),
    Cp(ImageCp),
    #[command(visible_alias = "dedup")]
    Duplicates(Duplicates),
    History(History),
    Import(Import),
    /// Display detailed information on one or more images
    Inspect(InspectOne),
    Load(Load),
    #[command(visible_alias = "list")]
    Ls(Images),
    LsTree(LsTree),
    Mount(MountImage),
    Prune(PruneImages),
    Pull(Pull),
    Push(Push),
    #[command(visible_alias = "remove")]
    Rm(Rmi),
    Save(Save),
    Tag(Tag),
    #[command(visible_alias = "unmount")]
    Umount(Umount),
}

/// Mounts on the host
#[derive(Debug, Subcommand)]
pub enum MountVerb {
    Diff(MountDiff),
    #[command(visible_alias = "list")]
    Ls(MountLs),
    #[command(visible_alias = "remove")]
    Rm(Umount),
}

/// Manage the daemon and its store
#[derive(Debug, Subcommand)]
pub enum SystemVerb {
    Check(Check),
    Df(Df),
    Events(Events),
    Info(Info),
    Prune(Prune),
}

impl Verb {
    /// Does what was asked.
    pub async fn run(self, client: &Client) -> Result<()> {
        match self {
            Verb::Attach(args) => args.run(client).await,
            Verb::Commit(args) => args.run(client).await,
            Verb::Container(verb) => verb.run(client).await,
            Verb::Cp(args) => args.run(client).await,
            Verb::Create(args) => args.run(client).await,
            Verb::Diff(args) => args.run(client).await,
            Verb::Events(args) => args.run(client).await,
            Verb::Exec(args) => args.run(client).await,
            Verb::Export(args) => args.run(client).await,
            Verb::History(args) => args.run(client).await,
            Verb::Image(verb) => verb.run(client).await,
            Verb::Images(args) => args.run(client).await,
            Verb::Import(args) => args.run(client).await,
            Verb::Info(args) => args.run(client).await,
            Verb::Inspect(args) => args.run(client).await,
            Verb::Kill(args) => args.run(client).await,
            Verb::Load(args) => args.run(client).await,
            Verb::Logs(args) => args.run(client).await,
            Verb::Mount(MountVerb::Diff(args)) => args.run(client).await,
            Verb::Mount(MountVerb::Ls(args)) => args.run(client).await,
            Verb::Mount(MountVerb::Rm(args)) | Verb::Umount(args) => args.run(client, None).await,
            Verb::Network(verb) => verb.run(client).await,
            Verb::Pause(args) => args.post(client, "pause").await,
            Verb::Port(args) => args.run(client).await,
            Verb::Ps(args) => args.run(client).await,
            Verb::Pull(args) => args.run(client).await,
            Verb::Push(args) => args.run(client).await,
            Verb::Rename(args) => args.run(client).await,
            Verb::Restart(args) => args.restart(client).await,
            Verb::Rm(args) => args.run(client).await,
            Verb::Rmi(args) => args.run(client).await,
            Verb::Run(args) => args.run(client).await,
            Verb::Save(args) => args.run(client).await,
            Verb::Start(args) => args.run(client).await,
            Verb::Stats(args) => args.run(client).await,
            Verb::Stop(args) => args.run(client).await,
            Verb::System(verb) => verb.run(client).await,
            Verb::Tag(args) => args.run(client).await,
            Verb::Top(args) => args.run(client).await,
            Verb::Unpause(args) => args.post(client, "unpause").await,
            Verb::Update(args) => args.run(client).await,
            Verb::Version(args) => args.run(client).await,
            Verb::Volume(verb) => verb.run(client).await,
            Verb::Wait(args) => args.wait(client).await,
            Verb::Completions(args) => {
                args.run();
                Ok(())
            }
            Verb::Man(args) => args.run(),
        }
    }
}

impl ContainerVerb {
    async fn run(self, client: &Client) -> Result<()> {
        match self {
            ContainerVerb::Attach(args) => args.run(client).await,
            ContainerVerb::Commit(args) => args.run(client).await,
            ContainerVerb::Cp(args) => args.run(client).await,
            ContainerVerb::Create(args) => args.run(client).await,
            ContainerVerb::Diff(args) => args.run(client).await,
            ContainerVerb::Exec(args) => args.run(client).await,
            ContainerVerb::Export(args) => args.run(client).await,
            ContainerVerb::Inspect(args) => args.run(client, "container").await,
            ContainerVerb::Kill(args) => args.run(client).await,
            ContainerVerb::Logs(args) => args.run(client).await,
            ContainerVerb::Ls(args) => args.run(client).await,
            ContainerVerb::Mount(args) => args.run(client).await,
            ContainerVerb::Pause(args) => args.post(client, "pause").await,
            ContainerVerb::Port(args) => args.run(client).await,
            ContainerVerb::Prune(args) => args.run(client).await,
            ContainerVerb::Rename(args) => args.run(client).await,
            ContainerVerb::Restart(args) => args.restart(client).await,
            ContainerVerb::Rm(args) => args.run(client).await,
            ContainerVerb::Run(args) => args.run(client).await,
            ContainerVerb::Start(args) => args.run(client).await,
            ContainerVerb::Stats(args) => args.run(client).await,
            ContainerVerb::Stop(args) => args.run(client).await,
            ContainerVerb::Top(args) => args.run(client).await,
            ContainerVerb::Umount(args) => args.run(client, Some(ObjectKind::Container)).await,
            ContainerVerb::Unpause(args) => args.post(client, "unpause").await,
            ContainerVerb::Update(args) => args.run(client).await,
            ContainerVerb::Wait(args) => args.wait(client).await,
        }
    }
}

impl ImageVerb {
    async fn run(self, client: &Client) -> Result<()> {
        match self {
            ImageVerb::Cat(args) => args.run(client).await,
            ImageVerb::Cp(args) => args.run(client).await,
            ImageVerb::Duplicates(args) => args.run(client).await,
            ImageVerb::History(args) => args.run(client).await,
            ImageVerb::Import(args) => args.run(client).await,
            ImageVerb::Inspect(args) => args.run(client, "image").await,
            ImageVerb::Load(args) => args.run(client).await,
            ImageVerb::Ls(args) => args.run(client).await,
            ImageVerb::LsTree(args) => args.run(client).await,
            ImageVerb::Mount(args) => args.run(client).await,
            ImageVerb::Prune(args) => args.run(client).await,
            ImageVerb::Pull(args) => args.run(client).await,
            ImageVerb::Push(args) => args.run(client).await,
            ImageVerb::Rm(args) => args.run(client).await,
            ImageVerb::Save(args) => args.run(client).await,
            ImageVerb::Tag(args) => args.run(client).await,
            ImageVerb::Umount(args) => args.run(client, Some(ObjectKind::Image)).await,
        }
    }
}

impl SystemVerb {
    async fn run(self, client: &Client) -> Result<()> {
        match self {
            SystemVerb::Check(args) => args.run(client).await,
            SystemVerb::Df(args) => args.run(client).await,
            SystemVerb::Events(args) => args.run(client).await,
            SystemVerb::Info(args) => args.run(client).await,
            SystemVerb::Prune(args) => args.run(client).await,
        }
    }
}
