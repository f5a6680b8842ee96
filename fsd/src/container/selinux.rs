//! The SELinux labels of containers: chosen when a container is made, and its own until it is removed.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use engine::config::ManagedFile;
use engine::selinux::{Contexts, Labels, SELinux, free_level, level_of, options_of, shared};
use fs_base::sys::label;
use fs_base::{Error, MountSpec, Result};
use serde_json::{Value, json};
use volumes::relabel;

use super::to_engine::{label_options, refused};
use super::{ContainerRow, Definition, files};
use crate::app::App;
use crate::db::Db;

/// How the daemon labels containers.
#[derive(Debug)]
pub struct Labelling {
    host: SELinux,
    contexts: Contexts,
    /// Levels of containers that have no row yet.
    pending: Mutex<Vec<String>>,
}

impl Labelling {
    /// `None` if it is not wanted, or if this host has no SELinux: dockerd warns of that, too.
    pub fn of_host(wanted: bool) -> Result<Option<Labelling>> {
        if !wanted {
            return Ok(None);
        }
        let host = SELinux::of_host();
        if !host.is_enabled() {
            tracing::warn!("SELinux could not be enabled: this host does not have it, so containers get no labels");
            return Ok(None);
        }
        let contexts = host.contexts().map_err(|error| {
            error
                .context("selinux-enabled: the host's policy has no labels for containers")
                .with_hint("install the policy for them (container-selinux), or leave --selinux-enabled out")
        })?;
        Ok(Some(Labelling { host, contexts, pending: Mutex::default() }))
    }

    fn pending(&self) -> MutexGuard<'_, Vec<String>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Labels by these options, with a level that neither these containers nor others under way have.
    fn choose(&self, rows: impl FnOnce() -> Result<Vec<ContainerRow>>, options: &[String]) -> Result<Chosen<'_>> {
        let mut pending = self.pending();
        let found = self.contexts.choose(options, || {
            let rows = rows()?;
            let known = rows.iter().filter_map(|row| level_of(&row.definition.labels.as_ref()?.process));
            let taken: BTreeSet<String> = known.map(str::to_owned).chain(pending.iter().cloned()).collect();
            free_level(&taken)
        })?;
        let canonical = |label: String| if label.is_empty() { Ok(label) } else { self.host.canonical(&label) };
        let labels = Labels { process: canonical(found.process)?, mount: canonical(found.mount)? };
        let level = level_of(&labels.process).map(str::to_owned);
        pending.extend(level.clone());
        Ok(Chosen { labels: Some(labels), pending: Some(self).zip(level) })
    }
}

/// Labels of a container that is about to have a row. While this lives no other gets the same level.
#[derive(Debug, Default)]
pub struct Chosen<'a> {
    /// `None` where there are none.
    pub labels: Option<Labels>,
    pending: Option<(&'a Labelling, String)>,
}

impl Drop for Chosen<'_> {
    fn drop(&mut self) {
        if let Some((of, level)) = self.pending.take() {
            let mut pending = of.pending();
            if let Some(at) = pending.iter().position(|one| *one == level) {
                pending.swap_remove(at);
            }
        }
    }
}

/// Chooses the labels of a container that is about to be made, and notes in its `HostConfig` what it gets from others. Says
/// what the person should know.
pub fn choose<'a>(app: &'a App, host_config: &mut Value) -> Result<(Chosen<'a>, Option<String>)> {
    let mut options = label_options(host_config)?;
    let Some(labelling) = &app.selinux else {
        let warning = check_without(&options, SELinux::of_host().is_enabled())?;
        return Ok((Chosen::default(), warning));
    };
    if options.is_empty() {
        options = inherited(app, host_config)?;
        note(host_config, &options);
    }
    labelling.choose(|| app.db.containers(), &options).map(|chosen| (chosen, None))
}

/// Without labels there is only the option to have none, which tools give everywhere. Where the host could keep a label that
/// the daemon gives to none, the container would be less confined than was asked for; where there is no SELinux at all,
/// everybody knows of a warning, and the same command is right on every host.
fn check_without(options: &[String], host_has_it: bool) -> Result<Option<String>> {
    let asked: Vec<String> =
        options.iter().filter(|option| *option != "disable").map(|option| format!("label={option}")).collect();
    match asked.first() {
        None => Ok(None),
        Some(option) if host_has_it => {
            let error = refused(option, "containers have no SELinux labels");
            Err(error.with_hint("start the daemon with --selinux-enabled"))
        }
        Some(_) => Ok(Some(format!("SELinux is not enabled on this host: --security-opt {} has no effect", asked.join(" ")))),
    }
}

/// What a container that asks for nothing gets by what it shares. Source: moby, `generateSecurityOpt`.
fn inherited(app: &App, host_config: &Value) -> Result<Vec<String>> {
    let modes = ["IpcMode", "PidMode"].map(|key| host_config[key].as_str().unwrap_or_default());
    if host_config["Privileged"] == true || modes.contains(&"host") {
        return Ok(vec!["disable".to_owned()]);
    }
    let mut found = Vec::new();
    for name in modes.iter().filter_map(|mode| mode.strip_prefix("container:")) {
        let other = app.db.find_container(name)?;
        let options = options_of(other.definition.labels.as_ref().map_or("", |labels| &labels.process))?;
        if !found.is_empty() && !options.is_empty() && found != options {
            return Err(Error::invalid("--ipc and --pid containers SELinux labels aren't the same"));
        }
        if !options.is_empty() {
            found = options;
        }
    }
    Ok(found)
}

/// Docker shows it among what was asked for.
fn note(host_config: &mut Value, options: &[String]) {
    if options.is_empty() {
        return;
    }
    let mut all = host_config["SecurityOpt"].as_array().cloned().unwrap_or_default();
    all.extend(options.iter().map(|option| json!(format!("label={option}"))));
    host_config["SecurityOpt"] = json!(all);
}

/// A container that is about to start, with its labels. One that was made while the daemon gave none gets its own now.
pub fn labelled<'a>(app: &App, row: &'a ContainerRow) -> Result<Cow<'a, ContainerRow>> {
    if app.selinux.is_none() || row.definition.labels.is_some() {
        return Ok(Cow::Borrowed(row));
    }
    let mut host_config = row.definition.host_config.clone();
    let (chosen, _) = choose(app, &mut host_config)?;
    let definition = Definition { host_config, labels: chosen.labels.clone(), ..row.definition.clone() };
    app.db.set_container_definition(&row.id, &definition)?;
    Ok(Cow::Owned(ContainerRow { definition, ..row.clone() }))
}

/// A container's labels, where the host has SELinux: one that has them is not let loose because the daemon gives none to
/// those that it makes now.
pub fn of(row: &ContainerRow) -> Option<&Labels> {
    row.definition.labels.as_ref().filter(|_| SELinux::of_host().is_enabled())
}

/// The label of images' files: `None` where there is no container that is told from others by labels.
pub fn of_layers(labelling: Option<&Labelling>, db: &Db) -> Result<Option<String>> {
    if let Some(labelling) = labelling {
        return Ok(Some(labelling.contexts.of_layers()));
    }
    let host = SELinux::of_host();
    if !host.is_enabled() || db.containers()?.iter().all(|row| row.definition.labels.is_none()) {
        return Ok(None);
    }
    match host.contexts() {
        Ok(contexts) => Ok(Some(contexts.of_layers())),
        Err(error) => {
            tracing::warn!(%error, "containers have SELinux labels that the host's policy is not for any more");
            Ok(None)
        }
    }
}

/// Labels what a container that is about to start has on the host: what it wrote before, its mounts, and the daemon's
/// files for it, which it may share with the container whose network it has.
pub fn relabel(app: &App, row: &ContainerRow, specs: &[MountSpec], own_files: &[ManagedFile], is_shared: bool) -> Result<()> {
    let Some(labels) = of(row) else { return Ok(()) };
    let labels = relabel::Labels { private: labels.mount.clone(), shared: shared(&labels.mount)? };
    let of_files = if is_shared { &labels.shared } else { &labels.private };
    let upper = app.container_dir(&row.id).join(files::UPPER);
    if upper.exists() {
        // It may have been written before the container had labels. What a host without SELinux wrote since then has none
        // of its own, and is seen under the container's like all of the tree.
        label::tree_once(&upper, &labels.private)?;
    }
    own_files.iter().try_for_each(|file| label::file(&file.source, of_files))?;
    app.volumes.relabel(&row.definition.mounts, specs, &labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_labels_only_none_can_be_asked_for() {
        let refused = |options: &[&str], has_it| {
            let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
            check_without(&options, has_it).map_err(|error| (error.class(), error.to_string()))
        };
        for has_it in [true, false] {
            assert_eq!(refused(&[], has_it), Ok(None));
            assert_eq!(refused(&["disable", "disable"], has_it), Ok(None));
        }
        let warning = "SELinux is not enabled on this host: --security-opt label=type:x label=level:s0 has no effect";
        assert_eq!(refused(&["disable", "type:x", "level:s0"], false), Ok(Some(warning.to_owned())));
        let (class, said) = refused(&["disable", "type:x"], true).unwrap_err();
        assert_eq!(class, fs_base::Class::Unsupported);
        assert!(said.starts_with("--security-opt label=type:x is not supported: "), "{said}");
    }

    #[test]
    fn what_comes_from_others_is_noted() {
        let mut host_config = json!({"SecurityOpt": ["no-new-privileges"]});
        note(&mut host_config, &["user:u".to_owned(), "level:s0:c1,c2".to_owned()]);
        assert_eq!(host_config["SecurityOpt"], json!(["no-new-privileges", "label=user:u", "label=level:s0:c1,c2"]));
        let mut host_config = json!({"SecurityOpt": null});
        note(&mut host_config, &[]);
        assert_eq!(host_config["SecurityOpt"], Value::Null);
        note(&mut host_config, &["disable".to_owned()]);
        assert_eq!(host_config["SecurityOpt"], json!(["label=disable"]));
    }
}
