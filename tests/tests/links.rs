//! `--link`, driven by the docker CLI and by `ctl`: in the default network by `/etc/hosts` and variables, in networks of
//! users by names that one container alone is answered.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::process::Output;

use system_tests::containers::{CLIS, Cli, inspect, with_busybox};
use system_tests::networks::{address, idle};
use system_tests::{Daemon, fails, ok, until};

fn exec(daemon: &Daemon, name: &str, script: &str) -> Output {
    daemon.docker(&["exec", name, "sh", "-c", script])
}

fn hosts(daemon: &Daemon, name: &str) -> Vec<String> {
    ok(&exec(daemon, name, "cat /etc/hosts")).lines().map(str::to_owned).collect()
}

/// The line by which a container knows another one.
fn line(daemon: &Daemon, alias: &str, other: &str) -> String {
    let hostname = inspect(daemon, other, "{{.Config.Hostname}}");
    let own = if alias == other { String::new() } else { format!(" {other}") };
    format!("{}\t{alias} {hostname}{own}", address(daemon, other))
}

fn env(daemon: &Daemon, name: &str, script: &str) -> Vec<String> {
    ok(&exec(daemon, name, script)).lines().map(str::to_owned).collect()
}

/// A container that runs, and one that knows it as `store`.
fn pair(daemon: &Daemon, cli: Cli) {
    let words = ["run", "-d", "--name", "db", "-e", "SECRET=a=b", "--expose", "5432", "--expose", "53/udp"];
    ok(&cli(daemon, &[&words[..], &["busybox", "sleep", "10000"]].concat()));
    let words = ["run", "-d", "--name", "web", "--link", "db:my-store", "--add-host", "x:192.0.2.1", "-e", "MY_STORE_ENV_OWN=1"];
    ok(&cli(daemon, &[&words[..], &["busybox", "sleep", "10000"]].concat()));
}

#[test]
fn a_linked_container_is_known_by_its_alias() {
    let Some(daemon) = with_busybox() else { return };
    for (which, cli) in CLIS {
        pair(&daemon, cli);
        let (own, db) = (address(&daemon, "web"), address(&daemon, "db"));
        let hosts = hosts(&daemon, "web");
        let tail = [
            "192.0.2.1\tx".to_owned(),
            line(&daemon, "my-store", "db"),
            format!("{own}\t{}", inspect(&daemon, "web", "{{.Config.Hostname}}")),
        ];
        assert!(hosts.ends_with(&tail), "{which}: {hosts:?}");
        assert!(exec(&daemon, "web", "ping -c 1 -w 60 my-store").status.success(), "{which}");
        for script in ["tr '\\0' '\\n' < /proc/1/environ", "env"] {
            let env = env(&daemon, "web", script);
            for want in [
                format!("MY_STORE_PORT=tcp://{db}:5432"),
                format!("MY_STORE_PORT_5432_TCP=tcp://{db}:5432"),
                format!("MY_STORE_PORT_5432_TCP_ADDR={db}"),
                "MY_STORE_PORT_5432_TCP_PORT=5432".to_owned(),
                "MY_STORE_PORT_5432_TCP_PROTO=tcp".to_owned(),
                format!("MY_STORE_PORT_53_UDP=udp://{db}:53"),
                "MY_STORE_NAME=/web/my-store".to_owned(),
                "MY_STORE_ENV_SECRET=a=b".to_owned(),
                "MY_STORE_ENV_OWN=1".to_owned(),
            ] {
                assert!(env.contains(&want), "{which}: {script}: {want}: {env:?}");
            }
            assert!(!env.iter().any(|pair| pair.starts_with("MY_STORE_ENV_PATH=")), "{which}: {env:?}");
        }
        assert_eq!(inspect(&daemon, "web", "{{json .HostConfig.Links}}"), "[\"/db:/web/my-store\"]", "{which}");
        assert_eq!(inspect(&daemon, "db", "{{json .HostConfig.Links}}"), "null", "{which}");
        let named =
            |flags: &[&str]| ok(&cli(&daemon, &[&["ps", "--filter", "name=^/db$", "--format", "{{.Names}}"], flags].concat()));
        assert_eq!((named(&[]).trim(), named(&["--no-trunc"]).trim()), ("db", "db,web/my-store"), "{which}");
        assert_eq!(inspect(&daemon, "web/my-store", "{{.Name}}"), "/db", "{which}");
        assert_eq!(ok(&cli(&daemon, &["exec", "web/my-store", "hostname"])), ok(&cli(&daemon, &["exec", "db", "hostname"])));
        // The name follows that of whoever has it.
        ok(&cli(&daemon, &["rename", "web", "front"]));
        assert_eq!(named(&["--no-trunc"]).trim(), "db,front/my-store", "{which}");
        ok(&cli(&daemon, &["rm", "-f", "front", "db"]));
        assert_eq!(ok(&cli(&daemon, &["ps", "-aq"])), "");
    }
}

#[test]
fn a_link_follows_the_other_ones_address() {
    let Some(mut daemon) = with_busybox() else { return };
    pair(&daemon, Daemon::docker);
    for round in 0..2 {
        let before = address(&daemon, "db");
        ok(&daemon.docker(&["stop", "-t", "0", "db"]));
        // Whoever comes next may get the address.
        let other = format!("other{round}");
        idle(&daemon, &other, &[]);
        if round == 1 {
            daemon.kill();
            daemon.restart();
        }
        ok(&daemon.docker(&["start", "db"]));
        assert_ne!(address(&daemon, "db"), before);
        let line = line(&daemon, "my-store", "db");
        let hosts = hosts(&daemon, "web");
        assert_eq!(hosts.iter().filter(|text| text.contains("my-store")).collect::<Vec<_>>(), [&line]);
    }
    // At its own next start it is told anew.
    ok(&daemon.docker(&["restart", "-t", "0", "web"]));
    assert!(hosts(&daemon, "web").contains(&line(&daemon, "my-store", "db")));
    let env = env(&daemon, "web", "env");
    assert!(env.contains(&format!("MY_STORE_PORT_5432_TCP_ADDR={}", address(&daemon, "db"))), "{env:?}");
}

#[test]
fn a_link_is_removed_by_its_name() {
    let Some(daemon) = with_busybox() else { return };
    for (which, cli) in CLIS {
        pair(&daemon, cli);
        let missing = fails(&cli(&daemon, &["rm", "--link", "web/other"]));
        assert!(missing.contains("No such container: web/other"), "{which}: {missing}");
        for own in ["db", "/web"] {
            let error = fails(&cli(&daemon, &["rm", "--link", own]));
            assert!(error.contains("Conflict, cannot remove the default link name of the container"), "{which}: {error}");
        }
        assert_eq!(ok(&cli(&daemon, &["rm", "--link", "/web/my-store"])), "/web/my-store\n", "{which}");
        let hosts = hosts(&daemon, "web");
        assert!(!hosts.iter().any(|line| line.contains("my-store")), "{which}: {hosts:?}");
        assert!(hosts.contains(&"192.0.2.1\tx".to_owned()), "{which}: {hosts:?}");
        assert_eq!(inspect(&daemon, "web", "{{json .HostConfig.Links}}"), "null", "{which}");
        assert!(fails(&daemon.docker(&["inspect", "web/my-store"])).contains("web/my-store"), "{which}");
        ok(&cli(&daemon, &["restart", "-t", "0", "web"]));
        let env = env(&daemon, "web", "env");
        assert!(!env.iter().any(|pair| pair.starts_with("MY_STORE_NAME=")), "{which}: {env:?}");
        ok(&cli(&daemon, &["rm", "-f", "web", "db"]));
    }
}

#[test]
fn links_that_can_not_be_had_are_refused_in_dockers_words() {
    let Some(daemon) = with_busybox() else { return };
    ok(&daemon.docker(&["create", "--name", "db", "busybox"]));
    ok(&daemon.docker(&["network", "create", "apart"]));
    idle(&daemon, "far", &["--network", "apart"]);
    idle(&daemon, "host", &["--network", "host"]);
    for (which, cli) in CLIS {
        for (flags, text) in [
            (&["--link", "none:x"][..], "could not get container for none: No such container: none"),
            (&["--link", "db:a:b"], "bad format for links: db:a:b"),
            (&["--link", "db:a/b"], "bad format for links: db:a/b"),
            (
                &["--network", "host", "--link", "db"],
                "conflicting options: host type networking can't be used with links. This would result in undefined behavior",
            ),
            (
                &["--network", "container:far", "--link", "db"],
                "conflicting options: container type network can't be used with links. This would result in undefined behavior",
            ),
            (
                &["--link", "host:x"],
                "conflicting options: host type networking can't be used with links. This would result in undefined behavior",
            ),
        ] {
            let error = fails(&cli(&daemon, &[&["create", "--name", "web"], flags, &["busybox"]].concat()));
            assert!(error.contains(text), "{which}: {flags:?}: {error}");
        }
        for (link, text) in [
            ("db:store", "Cannot link to a non running container: /db AS /web/store"),
            ("far", "Cannot link to /far, as it does not belong to the default network"),
        ] {
            ok(&cli(&daemon, &["create", "--name", "web", "--link", link, "busybox"]));
            let error = fails(&cli(&daemon, &["start", "web"]));
            assert!(error.contains(text), "{which}: {link}: {error}");
            assert_eq!(inspect(&daemon, "web", "{{.State.Status}} {{.State.ExitCode}}"), "created 128", "{which}: {link}");
            ok(&cli(&daemon, &["rm", "web"]));
        }
        let error = fails(&cli(&daemon, &["network", "connect", "--link", "a:b:c", "apart", "db"]));
        assert!(error.contains("bad format for links: a:b:c"), "{which}: {error}");
    }
    // One that is gone is told of by its last name.
    ok(&daemon.docker(&["start", "db"]));
    ok(&daemon.docker(&["rm", "-f", "db"]));
    idle(&daemon, "db", &[]);
    ok(&daemon.docker(&["run", "-d", "--name", "web", "--link", "db:store", "busybox", "sleep", "10000"]));
    ok(&daemon.docker(&["rm", "-f", "db"]));
    ok(&daemon.docker(&["stop", "-t", "0", "web"]));
    let error = fails(&daemon.docker(&["start", "web"]));
    assert!(error.contains("Cannot link to a non running container: /db AS /web/store"), "{error}");
    assert_eq!(inspect(&daemon, "web", "{{json .HostConfig.Links}}"), "[\"/db:/web/store\"]");
}

/// Whether a container is told this address for a name.
fn resolves(daemon: &Daemon, from: &str, name: &str, address: &str) -> bool {
    let script = format!("nslookup -type=a {name}. 127.0.0.11 | tail -n +3");
    let said = exec(daemon, from, &script);
    let text = String::from_utf8_lossy(&said.stdout);
    text.split_whitespace().any(|word| word == address)
}

#[test]
fn in_networks_of_users_a_link_is_a_name_for_one_container() {
    let Some(mut daemon) = with_busybox() else { return };
    for network in ["one", "two"] {
        // Nobody is asked but us.
        ok(&daemon.docker(&["network", "create", "--internal", network]));
    }
    idle(&daemon, "db", &["--network", "one"]);
    for (which, cli) in CLIS {
        let run = ["run", "-d", "--name", "web", "--network", "one", "--link", "db:store", "--link", "later:soon"];
        ok(&cli(&daemon, &[&run[..], &["busybox", "sleep", "10000"]].concat()));
        idle(&daemon, "other", &["--network", "one"]);
        let db = address(&daemon, "db");
        until("it knows its alias", || resolves(&daemon, "web", "store", &db) && resolves(&daemon, "web", "store.one", &db));
        assert!(!resolves(&daemon, "other", "store", &db), "{which}: others don't");
        assert!(!resolves(&daemon, "web", "soon", &db), "{which}: who is not there");
        let shown = "{{json .HostConfig.Links}} {{json .NetworkSettings.Networks.one.Links}}";
        assert_eq!(inspect(&daemon, "web", shown), "null [\"db:store\",\"later:soon\"]", "{which}");
        let hosts = hosts(&daemon, "web");
        assert!(!hosts.iter().any(|line| line.contains("store")), "{which}: {hosts:?}");
        idle(&daemon, "later", &["--network", "one"]);
        let later = address(&daemon, "later");
        until("it comes later", || resolves(&daemon, "web", "soon", &later));
        // One that is connected while it runs, in one network only.
        ok(&daemon.docker(&["network", "connect", "two", "db"]));
        ok(&cli(&daemon, &["network", "connect", "--link", "db:far", "two", "web"]));
        let far = inspect(&daemon, "db", "{{.NetworkSettings.Networks.two.IPAddress}}");
        until("it knows the other alias", || resolves(&daemon, "web", "far", &far));
        assert!(!resolves(&daemon, "web", "far.one", &db), "{which}");
        // It outlives the daemon.
        daemon.kill();
        daemon.restart();
        until("it is still known", || resolves(&daemon, "web", "far", &far) && resolves(&daemon, "web", "store", &db));
        ok(&cli(&daemon, &["network", "disconnect", "two", "web"]));
        until("it is known no more", || !resolves(&daemon, "web", "far", &far));
        ok(&daemon.docker(&["network", "disconnect", "two", "db"]));
        ok(&daemon.docker(&["rm", "-f", "web", "other", "later"]));
    }
}

#[test]
fn who_is_linked_comes_first_when_all_start_with_the_daemon() {
    let Some(mut daemon) = with_busybox() else { return };
    idle(&daemon, "db", &["--restart", "always"]);
    idle(&daemon, "web", &["--restart", "always", "--link", "db:store"]);
    ok(&daemon.docker(&["stop", "-t", "0", "web", "db"]));
    daemon.stop();
    daemon.restart();
    until("both run", || ["db", "web"].iter().all(|name| inspect(&daemon, name, "{{.State.Running}}") == "true"));
    assert!(hosts(&daemon, "web").contains(&line(&daemon, "store", "db")));
}
