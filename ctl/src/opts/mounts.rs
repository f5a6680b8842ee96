//! `-v`, `--mount`, `--tmpfs`.

use std::path::{Component, Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use serde_json::{Map, Value, json};

use super::values::boolean;

/// What `-v` said.
#[derive(Debug, PartialEq, Eq)]
pub enum Bind {
    /// `/path`: an anonymous volume.
    Anonymous(String),
    /// `source:target[:options]`, for `HostConfig.Binds`.
    Bind(String),
}

/// Reads a `-v`; a source that begins with a dot is taken from the current directory, as docker does.
pub fn volume(text: &str, current: &Path) -> Result<Bind> {
    let parts: Vec<&str> = text.split(':').collect();
    match parts.as_slice() {
        [""] => bail!("invalid empty volume spec"),
        [target] => Ok(Bind::Anonymous((*target).to_owned())),
        ["", ..] | [_, "", ..] => bail!("invalid volume specification: '{text}'"),
        [source, rest @ ..] if rest.len() <= 2 => {
            let local = *source == "." || *source == ".." || source.starts_with("./") || source.starts_with("../");
            if !local {
                return Ok(Bind::Bind(text.to_owned()));
            }
            Ok(Bind::Bind(format!("{}:{}", clean(&current.join(source)).display(), rest.join(":"))))
        }
        _ => bail!("invalid volume specification: '{text}'"),
    }
}

/// Go's `filepath.Clean` of an absolute path.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean
}

/// Reads a `--mount` into a value of `HostConfig.Mounts`.
pub fn mount(text: &str, current: &Path) -> Result<Value> {
    let mut mount = Mount::default();
    for field in csv(text)? {
        mount.set(&field, current)?;
    }
    mount.finish()
}

#[derive(Default)]
struct Mount {
    kind: Option<String>,
    fields: Map<String, Value>,
    bind: Map<String, Value>,
    volume: Map<String, Value>,
    tmpfs: Map<String, Value>,
    image: Map<String, Value>,
}

impl Mount {
    fn set(&mut self, field: &str, current: &Path) -> Result<()> {
        let (key, value) = field.split_once('=').map_or((field, None), |(key, value)| (key, Some(value)));
        let key = key.to_lowercase();
        if let ("readonly" | "ro", None) = (key.as_str(), value) {
            self.fields.insert("ReadOnly".into(), true.into());
            return Ok(());
        }
        if let ("volume-nocopy", None) = (key.as_str(), value) {
            self.volume.insert("NoCopy".into(), true.into());
            return Ok(());
        }
        if let ("bind-nonrecursive", None) = (key.as_str(), value) {
            self.bind.insert("NonRecursive".into(), true.into());
            return Ok(());
        }
        let value = value.ok_or_else(|| anyhow!("invalid field '{field}' must be a key=value pair"))?;
        let flag = || boolean(value).ok_or_else(|| anyhow!("invalid value for {key}: {value}"));
        match key.as_str() {
            "type" => self.kind = Some(value.to_lowercase()),
            "source" | "src" => {
                let local = value == "." || value.starts_with("./") || value.starts_with("../");
                let source = if local { clean(&current.join(value)).display().to_string() } else { value.to_owned() };
                self.fields.insert("Source".into(), source.into());
            }
            "target" | "dst" | "destination" => drop(self.fields.insert("Target".into(), value.into())),
            "readonly" | "ro" => drop(self.fields.insert("ReadOnly".into(), flag()?.into())),
            "consistency" => drop(self.fields.insert("Consistency".into(), value.to_lowercase().into())),
            "bind-propagation" => drop(self.bind.insert("Propagation".into(), value.to_lowercase().into())),
            "bind-nonrecursive" => drop(self.bind.insert("NonRecursive".into(), flag()?.into())),
            "bind-recursive" => self.bind_recursive(value)?,
            "volume-subpath" => drop(self.volume.insert("Subpath".into(), value.into())),
            "volume-nocopy" => drop(self.volume.insert("NoCopy".into(), flag()?.into())),
            "volume-label" => add(&mut self.volume, "Labels", value),
            "volume-driver" => {
                let driver = self.volume.entry("DriverConfig").or_insert_with(|| json!({}));
                driver["Name"] = value.into();
            }
            "volume-opt" => {
                let driver = self.volume.entry("DriverConfig").or_insert_with(|| json!({}));
                if let Some(driver) = driver.as_object_mut() {
                    add(driver, "Options", value);
                }
            }
            "image-subpath" => drop(self.image.insert("Subpath".into(), value.into())),
            "tmpfs-size" => {
                let size =
                    super::super::format::units::parse_bytes(value).map_err(|_| anyhow!("invalid value for {key}: {value}"))?;
                self.tmpfs.insert("SizeBytes".into(), size.into());
            }
            "tmpfs-mode" => {
                let mode = u32::from_str_radix(value, 8).map_err(|_| anyhow!("invalid value for {key}: {value}"))?;
                self.tmpfs.insert("Mode".into(), mode.into());
            }
            _ => bail!("unexpected key '{key}' in '{field}'"),
        }
        Ok(())
    }

    fn bind_recursive(&mut self, value: &str) -> Result<()> {
        match value {
            "enabled" => {}
            "disabled" => drop(self.bind.insert("NonRecursive".into(), true.into())),
            "writable" => drop(self.bind.insert("ReadOnlyNonRecursive".into(), true.into())),
            "readonly" => drop(self.bind.insert("ReadOnlyForceRecursive".into(), true.into())),
            _ => bail!(
                "invalid value for bind-recursive: {value} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")"
            ),
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Value> {
        let kind = self.kind.unwrap_or_else(|| "volume".to_owned());
        if kind.is_empty() {
            bail!("type is required");
        }
        if self.fields.get("Target").is_none_or(|target| target == "") {
            bail!("target is required");
        }
        for (options, name, wanted) in [
            (self.bind, "BindOptions", "bind"),
            (self.volume, "VolumeOptions", "volume"),
            (self.tmpfs, "TmpfsOptions", "tmpfs"),
            (self.image, "ImageOptions", "image"),
        ] {
            if options.is_empty() {
                continue;
            }
            if kind != wanted {
                bail!("cannot mix '{wanted}-*' options with mount type '{kind}'");
            }
            self.fields.insert(name.into(), options.into());
        }
        let mut whole = Map::from_iter([("Type".to_owned(), Value::from(kind))]);
        whole.append(&mut self.fields);
        Ok(whole.into())
    }
}

fn add(map: &mut Map<String, Value>, key: &str, pair: &str) {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    map.entry(key).or_insert_with(|| json!({}))[name] = value.into();
}

/// The fields of one line of CSV; a field in quotes may hold commas.
fn csv(text: &str) -> Result<Vec<String>> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => field.extend(chars.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    if quoted {
        bail!("parse error on line 1: extraneous or missing \" in quoted-field");
    }
    fields.push(field);
    Ok(fields)
}

/// Reads a `--tmpfs PATH[:OPTIONS]`.
pub fn tmpfs(text: &str) -> (String, Value) {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    (path.to_owned(), options.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Value> {
        mount(text, Path::new("/work"))
    }

    #[test]
    fn binds() {
        let read = |text| volume(text, Path::new("/work/x"));
        assert_eq!(read("/data").unwrap(), Bind::Anonymous("/data".into()));
        assert_eq!(read("v:/data:ro").unwrap(), Bind::Bind("v:/data:ro".into()));
        assert_eq!(read("/h:/data").unwrap(), Bind::Bind("/h:/data".into()));
        assert_eq!(read("../y:/data:ro").unwrap(), Bind::Bind("/work/y:/data:ro".into()));
        assert_eq!(read(".:/data").unwrap(), Bind::Bind("/work/x:/data".into()));
        for bad in ["", ":/a", "a:", "a:b:c:d"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn mounts() {
        assert_eq!(
            read("type=bind,src=./a,dst=/b,readonly,bind-propagation=rslave").unwrap(),
            json!({"Type": "bind", "Source": "/work/a", "Target": "/b", "ReadOnly": true, "BindOptions": {"Propagation": "rslave"}})
        );
        assert_eq!(
            read("source=v,target=/b,volume-nocopy,volume-label=k=v,\"volume-opt=o=a,b\",volume-driver=local").unwrap(),
            json!({"Type": "volume", "Source": "v", "Target": "/b", "VolumeOptions": {"NoCopy": true, "Labels": {"k": "v"},
                "DriverConfig": {"Options": {"o": "a,b"}, "Name": "local"}}})
        );
        assert_eq!(
            read("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1770").unwrap(),
            json!({"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1_048_576, "Mode": 0o1770}})
        );
        for (bad, text) in [
            ("type=bind,src=/a", "target is required"),
            ("type=bind,dst=/a,volume-nocopy=true", "cannot mix 'volume-*' options with mount type 'bind'"),
            ("dst=/a,colour=red", "unexpected key 'colour' in 'colour=red'"),
            ("dst=/a,readonly=maybe", "invalid value for readonly: maybe"),
            ("dst=/a,nonsense", "invalid field 'nonsense' must be a key=value pair"),
        ] {
            assert_eq!(read(bad).unwrap_err().to_string(), text);
        }
    }
}
