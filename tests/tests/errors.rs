//! What goes wrong, as Docker words it: exit codes, texts that people and scripts look for, HTTP statuses. Compared line
//! by line with dockerd; where a text here is not its own, it says more than Docker's.

#![allow(clippy::unwrap_used)] // a failed step fails the test

use std::path::Path;

use serde_json::{Value, json};
use system_tests::containers::{CLIS, code, err, inspect, is_builtin, out, with_busybox};
use system_tests::{Daemon, fails, ok, told, until};

/// Flags and command, exit code, text.
type Case<'a> = (&'a [&'a str], i32, &'a str);

/// Runs each of them with both programs, after `verb`.
#[track_caller]
fn all(daemon: &Daemon, verb: &[&str], cases: &[Case<'_>]) {
    for (name, cli) in CLIS {
        for (arguments, exit, text) in cases {
            let output = cli(daemon, &[verb, arguments].concat());
            let said = format!("{}{}", out(&output), err(&output));
            assert!(said.contains(text), "{name} {verb:?} {arguments:?}: {said}");
            assert_eq!(code(&output), *exit, "{name} {verb:?} {arguments:?}: {said}");
        }
    }
}

fn idle(daemon: &Daemon, name: &str) {
    ok(&daemon.docker(&["run", "-d", "--network", "none", "--name", name, "busybox", "sleep", "10000"]));
}

#[test]
fn a_program_that_cannot_be_run_is_told_and_the_container_stays_created() {
    let Some(daemon) = with_busybox() else { return };
    let script = daemon.dir().join("script");
    std::fs::write(&script, "#!/no/such\n").unwrap();
    ok(&std::process::Command::new("chmod").arg("755").arg(&script).output().unwrap());
    let script = format!("{}:/script", script.display());
    all(
        &daemon,
        &["run", "--rm", "--network", "none"],
        &[
            (&["busybox", "nosuch"], 127, "exec: \"nosuch\": executable file not found in $PATH: unknown"),
            (&["busybox", "/nosuch"], 127, "exec: \"/nosuch\": stat /nosuch: no such file or directory: unknown"),
            (&["busybox", "/etc/passwd"], 126, "exec: \"/etc/passwd\": permission denied: unknown"),
            (&["--entrypoint", "/nosuch", "busybox"], 127, "stat /nosuch: no such file or directory: unknown"),
            (&["-e", "PATH=/nowhere", "busybox", "true"], 127, "executable file not found in $PATH: unknown"),
            (&["--user", "nosuch", "busybox", "true"], 125, "unable to find user nosuch: no matching entries in passwd file"),
            (&["--user", "0:nosuch", "busybox", "true"], 125, "unable to find group nosuch: no matching entries in group file"),
            (&["--user", "2147483648", "busybox", "true"], 125, "uids and gids must be in range 0-2147483647"),
            (&["--group-add", "nosuch", "busybox", "true"], 125, "Unable to find group nosuch: no matching entries in group"),
        ],
    );
    if is_builtin() {
        all(
            &daemon,
            &["run", "--rm", "--network", "none"],
            &[
                (&["busybox", "/etc"], 126, "exec: \"/etc\": is a directory: unknown"),
                (&["busybox", "/etc/passwd/x"], 125, "stat /etc/passwd/x: not a directory: unknown"),
                (&["-v", &script, "busybox", "/script"], 127, "exec: \"/script\": no such file or directory: unknown"),
                (&["-w", "/etc/passwd", "busybox", "true"], 125, "Cannot mkdir: /etc/passwd is not a directory"),
                (
                    &["-v", "/etc/passwd:/etc", "busybox", "true"],
                    125,
                    "not a directory: Are you trying to mount a directory onto",
                ),
                (
                    &["-v", "/tmp:/etc/passwd", "busybox", "true"],
                    125,
                    "not a directory: Are you trying to mount a directory onto",
                ),
                (&["--sysctl", "net.ipv4.nosuch=1", "busybox", "true"], 127, "nosuch: no such file or directory"),
            ],
        );
    }
    for (name, program, exit) in [("p127", "nosuch", "127"), ("p126", "/etc/passwd", "126")] {
        let made = daemon.docker(&["run", "-d", "--restart", "always", "--network", "none", "--name", name, "busybox", program]);
        assert_eq!(code(&made).to_string(), exit, "{}", err(&made));
        assert_eq!(
            inspect(&daemon, name, "{{.State.Status}} {{.State.ExitCode}} {{.RestartCount}}"),
            format!("created {exit} 0")
        );
        assert!(inspect(&daemon, name, "{{.State.Error}}").contains(&format!("exec: \"{program}\"")));
        let restarted = daemon.ask("POST", &format!("/containers/{name}/restart"), None);
        assert_eq!(restarted.0, 400, "{restarted:?}");
        assert!(
            restarted.1["message"].as_str().unwrap().starts_with(&format!("Cannot restart container {name}: ")),
            "{restarted:?}"
        );
    }
    ok(&daemon.docker(&["create", "--network", "none", "--name", "who", "--user", "nosuch", "busybox", "true"]));
    let (status, answer) = daemon.ask("POST", "/containers/who/start", None);
    let text = "unable to find user nosuch: no matching entries in passwd file";
    assert_eq!((status, answer["message"].as_str()), (500, Some(text)));
    assert_eq!(inspect(&daemon, "who", "{{.State.Status}} {{.State.ExitCode}} {{.State.Error}}"), format!("created 128 {text}"));
}

#[test]
fn a_further_process_that_cannot_be_run_is_told() {
    let Some(daemon) = with_busybox() else { return };
    idle(&daemon, "c1");
    ok(&daemon.docker(&["create", "--network", "none", "--name", "made", "busybox", "true"]));
    all(
        &daemon,
        &["exec"],
        &[
            (&["c1", "nosuch"], 127, "executable file not found in $PATH"),
            (&["c1", "/etc/passwd"], 126, "exec: \"/etc/passwd\": permission denied"),
            (&["-w", "/nosuch", "c1", "true"], 126, "set in config.json failed: no such file or directory"),
            (&["-u", "nosuch", "c1", "true"], 126, "unable to find user nosuch: no matching entries in passwd file"),
            (&["nobody", "true"], 1, "No such container: nobody"),
            (&["made", "true"], 1, " is not running"),
        ],
    );
    let failed = daemon.docker(&["exec", "-d", "c1", "nosuch"]);
    let words = "OCI runtime exec failed: exec failed: ";
    assert!(err(&failed).contains(words) && err(&failed).contains("in $PATH: unknown"), "{}", err(&failed));
    ok(&daemon.docker(&["pause", "c1"]));
    let paused = "Container c1 is paused, unpause the container before exec";
    all(&daemon, &["exec"], &[(&["c1", "true"], 1, paused)]);
    ok(&daemon.docker(&["rm", "-f", "c1", "made"]));
}

#[test]
fn wrong_flags_are_told_when_a_container_is_made() {
    let Some(daemon) = with_busybox() else { return };
    idle(&daemon, "c1");
    let image = |flags: &[&'static str]| [flags, &["busybox", "true"]].concat();
    let cases: &[(&[&str], &str)] = &[
        (&["--memory", "1k"], "Minimum memory limit allowed is 6MB"),
        (&["--memory", "100m", "--memory-swap", "50m"], "Minimum memoryswap limit should be larger than memory limit, see usage"),
        (&["--cpus", "1000"], "Range of CPUs is from 0.01 to "),
        (&["--cpus", "0.001"], "Range of CPUs is from 0.01 to "),
        (&["--cpu-shares=-1"], "invalid CPU shares (-1): value must be a positive integer"),
        (&["--cpuset-cpus", "x"], "Invalid value x for cpuset cpus: invalid format: x"),
        (&["--cpuset-cpus", "9999"], "Requested CPUs are not available - requested 9999, available: "),
        (&["--blkio-weight", "5"], "Range of blkio weight is from 10 to 1000"),
        (&["--cgroup-parent", "../up"], "invalid cgroup parent \"../up\""),
        (&["--oom-score-adj", "5000"], "Invalid value 5000, range for oom score adj is [-1000, 1000]"),
        (&["--restart", "bad"], "invalid restart policy: unknown policy 'bad'"),
        (&["--security-opt", "bad=x"], "invalid --security-opt 2: \"bad=x\""),
        (&["--stop-signal", "BAD"], "nvalid signal: BAD"),
        (&["--cap-add", "BAD"], "invalid CapAdd: unknown capability: \"CAP_BAD\""),
        (&["--volumes-from", "nosuch"], "No such container: nosuch"),
        (&["--pid", "container:nosuch"], "No such container: nosuch"),
        (&["--ipc", "container:nosuch"], "No such container: nosuch"),
        (&["--uts", "host", "--hostname", "x"], "conflicting options: hostname and the UTS mode"),
        (&["--name", "c1"], "Conflict. The container name \"/c1\" is already in use by container "),
        (&["--runtime", "nosuch"], "nknown or invalid runtime name: nosuch"),
        (&["--mount", "type=bind,source=/no/such,target=/x"], "bind source path does not exist: /no/such"),
        (&["-v", "/a:/b:bad"], "invalid mode: bad"),
        (&["-w", "relative"], "the working directory 'relative' is invalid, it needs to be an absolute path"),
    ];
    for (flags, text) in cases {
        all(&daemon, &["create", "--network", "none"], &[(&image(flags), 1, text)]);
    }
    let long = "a".repeat(65);
    all(&daemon, &["run", "--network", "none"], &[(&["--hostname", &long, "busybox", "true"], 125, "invalid argument")]);
    // Fields of wrong types say nothing in vain, and one word is a list of one.
    for (body, text) in [
        (
            json!({"Image": "busybox", "HostConfig": {"Isolation": "hyperv"}}),
            "Invalid isolation: \"hyperv\" - linux only supports 'default'",
        ),
        (json!({"Image": "busybox", "User": 7}), "invalid JSON: User must be a string"),
        (
            json!({"Image": "busybox", "HostConfig": {"Privileged": "yes"}}),
            "invalid JSON: HostConfig.Privileged must be true or false",
        ),
    ] {
        let (status, answer) = daemon.ask("POST", "/containers/create", Some(&body));
        assert_eq!((status, answer["message"].as_str()), (400, Some(text)));
    }
    let word = json!({"Image": "busybox", "Cmd": "true", "HostConfig": {"NetworkMode": "none"}});
    assert_eq!(daemon.ask("POST", "/containers/create?name=word", Some(&word)).0, 201);
    assert_eq!(inspect(&daemon, "word", "{{json .Config.Cmd}}"), "[\"true\"]");
    assert_eq!(ok(&daemon.docker(&["ps", "-aq"])).lines().count(), 2, "what was refused left nothing");
    ok(&daemon.docker(&["rm", "-f", "c1", "word"]));
}

#[test]
fn operations_that_make_no_sense_are_told() {
    let Some(daemon) = with_busybox() else { return };
    idle(&daemon, "c1");
    ok(&daemon.docker(&["create", "--network", "none", "--name", "made", "busybox", "true"]));
    all(
        &daemon,
        &[],
        &[
            (&["kill", "nobody"], 1, "Cannot kill container: nobody: No such container: nobody"),
            (&["kill", "made"], 1, "Cannot kill container: made: Container "),
            (&["unpause", "c1"], 1, " is not paused"),
            (&["rm", "c1"], 1, "stop the container before removing or force remove"),
            (
                &["rename", "made", "c1"],
                1,
                "Error when allocating new name: Conflict. The container name \"/c1\" is already in use",
            ),
            (&["rename", "made", "a b"], 1, "Error when allocating new name: Invalid container name (/a b), only ["),
            (&["update", "--memory", "1k", "c1"], 1, "Minimum memory limit allowed is 6MB"),
            (&["ps", "--filter", "health=bad"], 1, "filter value for health: bad"),
            (&["ps", "--filter", "publish=bad"], 1, "error while looking up for publish bad"),
            (&["events", "--since", "10", "--until", "5"], 1, "`since` time (10) cannot be after `until` time (5)"),
            (&["commit", "-c", "bad", "made", "x"], 1, "bad is not a valid change command"),
            (&["commit", "-c", "EXPOSE bad", "made", "x"], 1, "Invalid containerPort: bad"),
            (&["commit", "-c", "ONBUILD FROM x", "made", "x"], 1, "FROM isn't allowed as an ONBUILD trigger"),
            (&["rmi", "UPPER"], 1, "must be lowercase"),
            (&["tag", "busybox", "sha256:1"], 1, "refusing to create an ambiguous tag using digest algorithm as name"),
            (&["images", "--filter", "before=nosuch"], 1, "No such image: nosuch:latest"),
            (&["network", "create", "--subnet", "10.201.0.0/24", "--gateway", "10.201.0.0", "net"], 1, "Address already in use"),
        ],
    );
    ok(&daemon.docker(&["rm", "-f", "c1", "made"]));
}

#[test]
fn the_answers_are_what_clients_can_read() {
    let Some(daemon) = with_busybox() else { return };
    let cases = [
        ("GET", "/containers/json?limit=bad", 400, "bad parameter: limit: "),
        ("POST", "/commit", 400, "invalid name or ID supplied: \"\""),
        ("POST", "/swarm/init", 501, "swarm is not supported"),
        ("GET", "/services", 503, "This node is not a swarm manager"),
        ("POST", "/auth", 501, "login is not supported"),
        ("GET", "/images/search?term=x", 501, "search is not supported"),
        ("GET", "/plugins/x/json", 404, "plugin \"x\" not found"),
        ("GET", "/nothing", 404, "page not found: /nothing"),
    ];
    for (method, path, status, text) in cases {
        let (answered, body) = daemon.ask(method, path, None);
        let message = body["message"].as_str().unwrap_or_default();
        assert!(answered == status && message.starts_with(text), "{method} {path}: {answered} {body}");
    }
    assert_eq!(daemon.ask("GET", "/plugins", None), (200, json!([])));
    // What only an image's lack may be: clients pull it then.
    for (host, text) in [
        (json!({"VolumesFrom": ["nosuch"]}), "No such container: nosuch"),
        (json!({"PidMode": "container:x"}), "No such container: x"),
    ] {
        let (status, body) = daemon.ask("POST", "/containers/create", Some(&json!({"Image": "busybox", "HostConfig": host})));
        assert_eq!((status, body["message"].as_str()), (400, Some(text)));
    }
}

#[test]
fn a_terminal_has_its_size_from_the_start() {
    let Some(daemon) = with_busybox() else { return };
    let body = |size: Value| json!({"Image": "busybox", "Cmd": ["stty", "size"], "Tty": true, "HostConfig": {"NetworkMode": "none", "ConsoleSize": size}});
    assert_eq!(daemon.ask("POST", "/containers/create?name=sized", Some(&body(json!([33, 101])))).0, 201);
    ok(&daemon.docker(&["start", "sized"]));
    until("the size is told", || ok(&daemon.docker(&["logs", "sized"])).trim() == "33 101");
    assert_eq!(daemon.ask("POST", "/containers/create", Some(&body(json!([-1, 5])))).0, 400);
    idle(&daemon, "c1");
    for (created, started, size) in [(json!([21, 77]), Value::Null, "21 77"), (json!([1, 2]), json!([44, 55]), "44 55")] {
        let wanted = json!({"Cmd": ["sh", "-c", "stty size > /size; echo done > /done"], "Tty": true, "ConsoleSize": created});
        let (_, made) = daemon.ask("POST", "/containers/c1/exec", Some(&wanted));
        let path = format!("/exec/{}/start", made["Id"].as_str().unwrap());
        assert_eq!(daemon.ask("POST", &path, Some(&json!({"Detach": true, "Tty": true, "ConsoleSize": started}))).0, 200);
        until("it has run", || code(&daemon.docker(&["exec", "c1", "rm", "/done"])) == 0);
        assert_eq!(ok(&daemon.docker(&["exec", "c1", "cat", "/size"])).trim(), size);
    }
    ok(&daemon.docker(&["rm", "-f", "c1", "sized"]));
}

#[test]
fn a_privileged_container_sees_the_cgroups_that_docker_shows_it() {
    let Some(daemon) = with_busybox() else { return };
    let is_v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let own = std::fs::read_link("/proc/self/ns/cgroup").unwrap();
    let sees_hosts = |flags: &[&str]| {
        let run = [&["run", "--rm", "--network", "none"], flags, &["busybox", "readlink", "/proc/self/ns/cgroup"]].concat();
        ok(&daemon.docker(&run)).trim() == own.to_str().unwrap()
    };
    assert_eq!(sees_hosts(&["--privileged"]), !is_v2);
    assert!(!sees_hosts(&["--privileged", "--cgroupns", "private"]));
    assert!(sees_hosts(&["--cgroupns", "host"]));
    assert!(!sees_hosts(&[]));
}

#[test]
fn want_of_memory_while_the_daemon_is_away_is_told_when_it_returns() {
    let Some(mut daemon) = with_busybox() else { return };
    let script = "until [ -e /go ]; do sleep 0.1; done; tail /dev/zero; echo past > /past; sleep 10000";
    let limits = ["--memory", "16m", "--memory-swap", "16m"];
    ok(&daemon
        .docker(&[&["run", "-d", "--network", "none", "--name", "hog"], &limits[..], &["busybox", "sh", "-c", script]].concat()));
    let pid = inspect(&daemon, "hog", "{{.State.Pid}}");
    daemon.kill();
    std::fs::write(format!("/proc/{pid}/root/go"), "").unwrap();
    until("its memory has run out", || Path::new(&format!("/proc/{pid}/root/past")).exists());
    daemon.restart();
    told(&daemon, &["--filter", "event=oom", "--filter", "container=hog"], "{{.Action}}", |events| events == ["oom"]);
    assert_eq!(inspect(&daemon, "hog", "{{.State.Status}} {{.State.OOMKilled}}"), "running true");
    daemon.kill();
    daemon.restart();
    assert_eq!(inspect(&daemon, "hog", "{{.State.Status}} {{.State.OOMKilled}}"), "running true");
    // What the daemon before told of is not told again, not at the end either.
    ok(&daemon.docker(&["rm", "-f", "hog"]));
    let of_it = ["--filter", "container=hog"];
    let events = told(&daemon, &of_it, "{{.Action}}", |events| events.contains(&"destroy"));
    assert!(!events.iter().any(|event| event == "oom"), "{events:?}");
}

#[test]
fn a_body_that_is_not_called_json_is_refused() {
    let daemon = Daemon::start();
    let post = |path: &str, kind: &str| {
        let (kind, url) = (format!("Content-Type: {kind}"), format!("http://d{path}"));
        ok(&daemon.curl(&["-X", "POST", "-H", &kind, "-d", "{}", "-w", "%{http_code}", &url]))
    };
    let paths =
        ["/containers/create", "/v1.41/volumes/create", "/networks/create", "/networks/n/connect", "/networks/n/disconnect"];
    let others = ["/commit?container=c", "/containers/c/update", "/containers/c/exec", "/exec/e/start"];
    for path in paths.into_iter().chain(others) {
        let said = post(path, "text/plain");
        assert!(said.ends_with("400"), "{path}: {said}");
        assert!(said.contains("unsupported Content-Type header (text/plain): must be 'application/json'"), "{path}: {said}");
    }
    let said = post("/volumes/create", "");
    assert!(said.ends_with("400") && said.contains("malformed Content-Type header (): mime: no media type"), "{said}");
    assert!(post("/volumes/create", "application/json; charset=utf-8").ends_with("201"));
    // What takes no JSON asks for no name of it.
    assert!(post("/networks/prune", "text/plain").ends_with("200"));
    // An empty body needs none.
    assert_eq!(daemon.ask("POST", "/containers/create", None).0, 400);
    let refused = fails(&daemon.ctl(&["volume", "create", "--opt", "size=bad", "v1"]));
    assert!(refused.contains("invalid size: 'bad'"), "{refused}");
    let refused = fails(&daemon.ctl(&["volume", "create", "--opt", "size=1g", "v1"]));
    assert!(refused.contains("quota size requested but no quota support"), "{refused}");
    ok(&daemon.ctl(&["volume", "create", "--opt", "size=0", "v1"]));
}
