use std::collections::BTreeSet;

use super::*;

/// As Debian and Fedora have it.
const LXC_CONTEXTS: &str = r#"
# for containers
process = "system_u:system_r:container_t:s0"
content = "system_u:object_r:virt_var_lib_t:s0"
file = "system_u:object_r:container_file_t:s0"
ro_file="system_u:object_r:container_ro_file_t:s0"
; process = "no:such:process_t:s0"
sandbox_lxc_process = "system_u:system_r:container_t:s0"
"#;

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|&text| text.to_owned()).collect()
}

fn choose(options: &[&str]) -> (String, String) {
    let contexts = Contexts::parse(LXC_CONTEXTS).unwrap();
    let labels = contexts.choose(&words(options), || Ok("s0:c1,c2".to_owned())).unwrap();
    (labels.process, labels.mount)
}

#[test]
fn a_label_is_taken_apart_and_put_together() {
    for text in ["u:r:t", "u:r:t:s0", "u:r:t:s0-s0:c0.c1023", "u:r:t:s0:c1,c2"] {
        assert_eq!(text.parse::<Label>().unwrap().to_string(), text);
    }
    assert_eq!(level_of("u:r:t:s0:c1,c2"), Some("s0:c1,c2"));
    assert_eq!(level_of("u:r:t"), None);
    assert_eq!(shared("u:r:t:s0:c1,c2").unwrap(), "u:r:t:s0");
    assert_eq!(shared("u:r:t").unwrap(), "u:r:t", "a policy without levels");
    for bad in ["", "u", "u:r", "u::t:s0", ":r:t", "u:r:"] {
        assert!(bad.parse::<Label>().is_err(), "{bad:?}");
    }
}

#[test]
fn what_the_policy_says_of_containers_is_read() {
    let contexts = Contexts::parse(LXC_CONTEXTS).unwrap();
    assert_eq!(contexts.process.to_string(), "system_u:system_r:container_t:s0");
    assert_eq!(contexts.file.to_string(), "system_u:object_r:container_file_t:s0");
    assert_eq!(contexts.of_layers(), "system_u:object_r:container_ro_file_t:s0");
    let bare = Contexts::parse("process = u:r:t\nfile = u:r:f").unwrap();
    assert_eq!(bare.of_layers(), "u:r:f", "a policy without one for them");
    for (bad, why) in [
        ("", "\"process\" is not set"),
        ("process = \"a:b:c:s0\"", "\"file\" is not set"),
        ("process = \"a:b\"\nfile = \"a:b:c\"", "invalid SELinux label \"a:b\""),
    ] {
        assert_eq!(Contexts::parse(bad).unwrap_err().to_string(), why);
    }
}

#[test]
fn a_container_gets_the_labels_that_it_asks_for() {
    let of = |process: &str, file: &str| (process.to_owned(), file.to_owned());
    let file = "system_u:object_r:container_file_t:s0:c1,c2";
    assert_eq!(choose(&[]), of("system_u:system_r:container_t:s0:c1,c2", file));
    assert_eq!(choose(&["type:mine_t"]), of("system_u:system_r:mine_t:s0:c1,c2", file));
    assert_eq!(choose(&["role:r"]), of("system_u:r:container_t:s0:c1,c2", file));
    let theirs = "u:object_r:container_file_t:s0:c1,c2";
    assert_eq!(choose(&["user:u"]), of("u:system_r:container_t:s0:c1,c2", theirs));
    let named = "system_u:object_r:f_t:s0:c1,c2";
    assert_eq!(choose(&["filetype:f_t"]), of("system_u:system_r:container_t:s0:c1,c2", named));
    let level = of("system_u:system_r:container_t:s0:c7,c9", "system_u:object_r:container_file_t:s0:c7,c9");
    assert_eq!(choose(&["level:s0:c7,c9"]), level, "a level has a colon of its own");
    let private = of("", "system_u:object_r:container_file_t:s0:c1022,c1023");
    assert_eq!(choose(&["disable"]), private);
    assert_eq!(choose(&["type:mine_t", "disable"]), private, "wherever it stands");
}

#[test]
fn what_is_no_option_is_refused_and_takes_no_level() {
    let contexts = Contexts::parse(LXC_CONTEXTS).unwrap();
    for bad in ["nested", "type", "type:", "kind:x", "", "Disable"] {
        let said = contexts.choose(&words(&[bad]), || panic!("{bad:?}: it was given a level")).unwrap_err().to_string();
        assert!(said.starts_with(&format!("bad label option {bad:?}, valid options 'disable' or \n'user, role, ")), "{said}");
    }
    contexts.choose(&words(&["level:s0"]), || panic!("it has one")).unwrap();
    let bare = Contexts::parse("process = u:r:t\nfile = u:r:f").unwrap();
    let labels = bare.choose(&[], || panic!("a policy without levels")).unwrap();
    assert_eq!((labels.process.as_str(), labels.mount.as_str()), ("u:r:t", "u:r:f"));
    assert_eq!(bare.unconfined().mount, "u:r:f");
}

#[test]
fn a_label_goes_over_to_another_container() {
    let labels = choose(&["type:mine_t", "user:u"]);
    let options = options_of(&labels.0).unwrap();
    assert_eq!(options, ["user:u", "role:system_r", "type:mine_t", "level:s0:c1,c2"]);
    let contexts = Contexts::parse(LXC_CONTEXTS).unwrap();
    let theirs = contexts.choose(&options, || panic!("it has one")).unwrap();
    assert_eq!((theirs.process, theirs.mount), labels);
    assert!(options_of("").unwrap().is_empty());
}

#[test]
fn levels_are_of_two_categories_and_nobody_elses() {
    let mut taken = BTreeSet::new();
    for _ in 0..2_000 {
        let level = free_level(&taken).unwrap();
        let (low, high) = level.strip_prefix("s0:c").unwrap().split_once(",c").unwrap();
        let (low, high) = (low.parse::<u32>().unwrap(), high.parse::<u32>().unwrap());
        assert!(low < high && high < 1024 && level != UNUSED, "{level}");
        assert!(taken.insert(level));
    }
}

/// Each random number stands for a level of its own, so that none is likelier than another.
#[test]
fn no_level_is_likelier_than_another() {
    let (count, none) = (1024 * 1023 / 2, BTreeSet::new());
    let mut seen = BTreeSet::new();
    for step in (0..count).step_by(97) {
        let level = super::label::free_level_from(step, &none).unwrap();
        assert_eq!(super::label::free_level_from(step + 7 * count, &none).unwrap(), level);
        assert!(seen.insert(level));
    }
    let (mut adjacent, mut low_half, mut random) = (0, 0, 1u64);
    for _ in 0..10_000 {
        // Knuth's generator, so that it is the same each time.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let level = super::label::free_level_from(random >> 8, &none).unwrap();
        let (low, high) = level.strip_prefix("s0:c").unwrap().split_once(",c").unwrap();
        let (low, high) = (low.parse::<u32>().unwrap(), high.parse::<u32>().unwrap());
        adjacent += u32::from(low + 1 == high);
        low_half += u32::from(low < 512);
    }
    // One in 512, and three in four.
    assert!((5..=40).contains(&adjacent), "{adjacent}");
    assert!((7_300..=7_700).contains(&low_half), "{low_half}");
    assert_eq!(super::label::free_level_from(0, &none).unwrap(), "s0:c0,c1");
    assert_eq!(super::label::free_level_from(1022, &none).unwrap(), "s0:c0,c1023");
    assert_eq!(super::label::free_level_from(1023, &none).unwrap(), "s0:c1,c2");
    assert_eq!(super::label::free_level_from(count - 1, &none).unwrap(), "s0:c0,c1", "after the one that is never given");
}

#[test]
fn the_last_free_level_is_found_and_then_there_is_none() {
    let all = (0..1024).flat_map(|low| (low + 1..1024).map(move |high| format!("s0:c{low},c{high}")));
    let mut taken: BTreeSet<String> = all.collect();
    assert_eq!(taken.len(), 1024 * 1023 / 2);
    let said = free_level(&taken).unwrap_err().to_string();
    assert_eq!(said, "there is no SELinux level left that no container has", "not even the one that is never given");
    taken.remove("s0:c5,c600");
    assert_eq!(free_level(&taken).unwrap(), "s0:c5,c600");
}

/// A file that takes everything stands for the kernel's.
fn host(config: &str, lxc_contexts: Option<&str>) -> (tempfile::TempDir, SELinux) {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::create_dir_all(path("etc/mine/contexts")).unwrap();
    std::fs::create_dir(path("fs")).unwrap();
    std::fs::write(path("etc/config"), config).unwrap();
    std::fs::write(path("own"), "system_u:system_r:init_t:s0\0").unwrap();
    std::fs::write(path("fs/context"), "").unwrap();
    if let Some(text) = lxc_contexts {
        std::fs::write(path("etc/mine/contexts/lxc_contexts"), text).unwrap();
    }
    let selinux = SELinux {
        file_system: path("fs"),
        own: path("own"),
        config: path("etc/config"),
        policies: path("etc"),
        preferred: path("preferred"),
    };
    (dir, selinux)
}

#[test]
fn the_contexts_are_those_of_the_policy_in_use() {
    let (dir, selinux) = host("# this one\nSELINUX=enforcing\nSELINUXTYPE=mine\n", Some(LXC_CONTEXTS));
    assert_eq!(selinux.contexts().unwrap(), Contexts::parse(LXC_CONTEXTS).unwrap());
    std::fs::write(dir.path().join("preferred"), "process = \"a:b:c:s0\"\nfile = \"a:b:d:s0\"").unwrap();
    assert_eq!(selinux.contexts().unwrap().process.to_string(), "a:b:c:s0", "what is said for every policy wins");
    let (_dir, selinux) = host("SELINUX=enforcing\n", Some(LXC_CONTEXTS));
    assert!(selinux.contexts().unwrap_err().to_string().ends_with("no SELINUXTYPE is set"));
    let (_dir, selinux) = host("SELINUXTYPE=mine\n", None);
    let said = selinux.contexts().unwrap_err().to_string();
    assert!(said.contains("etc/mine/contexts/lxc_contexts"), "{said}");
}

#[test]
fn a_folder_is_not_the_kernels_file_system() {
    let (_dir, selinux) = host("SELINUXTYPE=mine\n", Some(LXC_CONTEXTS));
    assert!(!selinux.is_enabled());
}
