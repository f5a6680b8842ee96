//! `ps`.

use anyhow::Result;
use clap::Args;
use serde_json::Value;

use crate::client::query::Filters;
use crate::client::{Client, Query};
use crate::format::json::{labels, list, number, text};
use crate::format::list::{Columns, Style, print, row};
use crate::format::names::{Reference, ellipsis, quote, short_id};
use crate::format::{time, units};

/// List containers
#[derive(Debug, Args)]
pub struct Ps {
    /// Show all containers (default shows just running)
    #[arg(short = 'a', long)]
    all: bool,
    /// Filter output based on conditions provided
    #[arg(short = 'f', long, value_name = "filter")]
    filter: Vec<String>,
    /// Format output using a custom template: 'table', 'table TEMPLATE', 'json', 'TEMPLATE'
    #[arg(long, value_name = "string")]
    format: Option<String>,
    /// Show n last created containers (includes all states)
    #[arg(short = 'n', long, value_name = "int", allow_hyphen_values = true)]
    last: Option<i64>,
    /// Show the latest created container (includes all states)
    #[arg(short = 'l', long)]
    latest: bool,
    /// Don't truncate output
    #[arg(long)]
    no_trunc: bool,
    /// Only display container IDs
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Display total file sizes
    #[arg(short = 's', long)]
    size: bool,
}

/// The columns of a list of containers.
pub const COLUMNS: Columns = Columns {
    titles: &[
        ("ID", "CONTAINER ID"),
        ("Names", "NAMES"),
        ("Image", "IMAGE"),
        ("Command", "COMMAND"),
        ("CreatedAt", "CREATED AT"),
        ("RunningFor", "CREATED"),
        ("Ports", "PORTS"),
        ("State", "STATE"),
        ("Status", "STATUS"),
        ("Size", "SIZE"),
        ("Labels", "LABELS"),
        ("Mounts", "MOUNTS"),
        ("LocalVolumes", "LOCAL VOLUMES"),
        ("Networks", "NETWORKS"),
        ("Platform", "PLATFORM"),
    ],
    table: "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}",
    quiet: "ID",
};

impl Ps {
    /// Does it.
    pub async fn run(self, client: &Client) -> Result<()> {
        let format = self.format.as_deref();
        let size = self.size || format.is_some_and(|format| format.contains(".Size"));
        let limit = if self.latest { Some(1) } else { self.last.filter(|last| *last > 0) };
        let path = Query::new("/containers/json")
            .flag("all", self.all)
            .filters(&Filters::parse(&self.filter)?)
            .maybe("limit", limit.map(|limit| limit.to_string()))
            .flag("size", size)
            .build();
        let containers = client.get(&path).await?;
        let rows: Vec<Value> =
            containers.as_array().into_iter().flatten().map(|container| container_row(container, !self.no_trunc)).collect();
        let mut columns = COLUMNS;
        if self.size {
            columns.table = "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}\t{{.Size}}";
        }
        print(&columns, &rows, Style { format, quiet: self.quiet })
    }
}

/// One container's row.
pub fn container_row(container: &Value, short: bool) -> Value {
    let id = text(container, "Id");
    let command = text(container, "Command");
    let command = if short { ellipsis(command, 20) } else { command.to_owned() };
    let created = number(container, "Created");
    let label_map = container["Labels"].as_object().cloned().unwrap_or_default();
    let mounts = list(container, "Mounts");
    let local = mounts.iter().filter(|mount| text(mount, "Driver") == "local").count();
    let networks: Vec<&str> = container["NetworkSettings"]["Networks"]
        .as_object()
        .map(|all| all.keys().map(String::as_str).collect())
        .unwrap_or_default();
    row([
        ("ID", if short { short_id(id) } else { id }.into()),
        ("Names", names(container, short).into()),
        ("Image", image(container, short).into()),
        ("Command", quote(&command).into()),
        ("CreatedAt", time::local(created).into()),
        ("RunningFor", time::ago(created).into()),
        ("Ports", ports(list(container, "Ports")).into()),
        ("State", text(container, "State").into()),
        ("Status", text(container, "Status").into()),
        ("Size", size(container).into()),
        ("Labels", labels(&container["Labels"]).into()),
        ("LabelMap", Value::Object(label_map)),
        ("Mounts", mount_names(mounts, short).into()),
        ("LocalVolumes", local.to_string().into()),
        ("Networks", networks.join(",").into()),
        ("Platform", Value::Null),
    ])
}

fn names(container: &Value, short: bool) -> String {
    let names: Vec<&str> =
        list(container, "Names").iter().filter_map(Value::as_str).map(|name| name.strip_prefix('/').unwrap_or(name)).collect();
    match names.iter().find(|name| short && !name.contains('/')) {
        Some(own) => (*own).to_owned(),
        None => names.join(","),
    }
}

fn image(container: &Value, short: bool) -> String {
    let (image, id) = (text(container, "Image"), text(container, "ImageID"));
    if image.is_empty() {
        return "<no image>".to_owned();
    }
    if !short {
        return image.to_owned();
    }
    if short_id(id) == short_id(image) {
        return short_id(id).to_owned();
    }
    let reference = Reference::parse(image);
    match reference.tag {
        Some(tag) => format!("{}:{tag}", reference.name),
        None => reference.name.to_owned(),
    }
}

fn size(container: &Value) -> String {
    let written = units::size3(number(container, "SizeRw") as f64);
    match number(container, "SizeRootFs") {
        whole @ 1.. => format!("{written} (virtual {})", units::size3(whole as f64)),
        _ => written,
    }
}

fn mount_names(mounts: &[Value], short: bool) -> String {
    let names: Vec<String> = mounts
        .iter()
        .map(|mount| {
            let name = text(mount, "Name");
            let name = if name.is_empty() { text(mount, "Source") } else { name };
            if short { ellipsis(name, 15) } else { name.to_owned() }
        })
        .collect();
    names.join(",")
}

/// `0.0.0.0:8080->80/tcp, 443/tcp`, neighbouring ports in one.
pub fn ports(given: &[Value]) -> String {
    let mut sorted: Vec<&Value> = given.iter().collect();
    sorted.sort_by_key(|port| (number(port, "PrivatePort"), text(port, "IP"), number(port, "PublicPort"), text(port, "Type")));
    let (mut done, mut mapped) = (Vec::new(), Vec::new());
    let mut groups: Vec<(String, i64, i64)> = Vec::new();
    for port in sorted {
        let (ip, private, public, kind) =
            (text(port, "IP"), number(port, "PrivatePort"), number(port, "PublicPort"), text(port, "Type"));
        if !ip.is_empty() && public != private {
            mapped.push(format!("{}->{private}/{kind}", host_port(ip, &public.to_string())));
            continue;
        }
        let key = if ip.is_empty() { kind.to_owned() } else { format!("{ip}/{kind}") };
        match groups.iter_mut().find(|group| group.0 == key) {
            Some(group) if private == group.2 + 1 => group.2 = private,
            Some(group) => {
                done.push(port_group(group));
                *group = (key, private, private);
            }
            None => groups.push((key, private, private)),
        }
    }
    done.extend(groups.iter().map(port_group));
    done.append(&mut mapped);
    done.join(", ")
}

fn host_port(ip: &str, port: &str) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

fn port_group((key, first, last): &(String, i64, i64)) -> String {
    let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
    match key.rsplit_once('/') {
        Some((ip, kind)) => format!("{}->{range}/{kind}", host_port(ip, &range)),
        None => format!("{range}/{key}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ports_are_grouped_as_dockers() {
        let port =
            |ip: &str, public: i64, private: i64| json!({"IP": ip, "PublicPort": public, "PrivatePort": private, "Type": "tcp"});
        assert_eq!(ports(&[port("0.0.0.0", 8080, 80), port("", 0, 443)]), "443/tcp, 0.0.0.0:8080->80/tcp");
        assert_eq!(ports(&[port("", 0, 80), port("", 0, 81), port("", 0, 90)]), "80-81/tcp, 90/tcp");
        assert_eq!(ports(&[port("::", 80, 80)]), "[::]:80->80/tcp");
    }

    #[test]
    fn a_row_is_dockers() {
        let container = json!({"Id": "0123456789abcdef", "Names": ["/w1"], "Image": "docker.io/library/a:1@sha256:1", "ImageID": "sha256:9",
            "Command": "sh -c 'sleep 1000000000'", "Created": 0, "Ports": [], "Labels": {"b": "2", "a": "1"}, "State": "exited",
            "Status": "Exited (0) 2 days ago", "SizeRw": 2, "SizeRootFs": 21_500_000, "Mounts": [{"Name": "averyverylongname", "Driver": "local"}]});
        let row = container_row(&container, true);
        assert_eq!(row["ID"], "0123456789ab");
        assert_eq!(row["Image"], "a:1");
        assert_eq!(row["Command"], "\"sh -c 'sleep 100000…\"");
        assert_eq!(row["Size"], "2B (virtual 21.5MB)");
        assert_eq!(row["Labels"], "a=1,b=2");
        assert_eq!(row["Mounts"], "averyverylongn…");
        assert_eq!(row["LocalVolumes"], "1");
    }
}
