//! Trees through FUSE beside fuse-overlayfs and the kernel's overlayfs: the same layers, as directories, the same work,
//! each time on a fresh mount with an empty upper directory. As root.
//!
//! Every server is a process of its own and all work is under a timeout.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use benches::measure::{Samples, memory, processes_of, run, text, time};
use benches::report::Report;
use clap::Parser;
use fs_base::sys::fuse;

/// Measure trees that are served by FUSE
#[derive(Debug, Parser)]
struct Arguments {
    /// An image as `docker save` writes it
    image: PathBuf,
    /// Runs of each measurement; the best counts
    #[arg(long, default_value_t = 4)]
    rounds: usize,
    /// Only rows whose name has this in it
    #[arg(long, default_value = "")]
    only: String,
    /// Write the figures to this file too
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Who serves the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peer {
    /// Ours, on directories.
    Ours,
    /// Ours, on the layers in the image file, read-only.
    File,
    Old,
    Kernel,
}

impl Peer {
    const ALL: [Peer; 4] = [Peer::Ours, Peer::File, Peer::Old, Peer::Kernel];

    fn name(self) -> &'static str {
        match self {
            Peer::Ours => "fsd-fuse",
            Peer::File => "fsd-fuse on the image file",
            Peer::Old => "fuse-overlayfs",
            Peer::Kernel => "overlayfs",
        }
    }
}

/// One row: what is done before the clock runs, and what is measured.
struct Work {
    name: &'static str,
    before: &'static str,
    script: &'static str,
    cold: bool,
    writes: bool,
}

const fn reads(name: &'static str, before: &'static str, script: &'static str, cold: bool) -> Work {
    Work { name, before, script, cold, writes: false }
}

const fn writes(name: &'static str, before: &'static str, script: &'static str) -> Work {
    Work { name, before, script, cold: false, writes: true }
}

/// `$BIG` is the directory of the tree that holds most files, `$OUT` a folder outside of it.
const WORKS: [Work; 16] = [
    reads("find -ls, cold", "", "find . -ls > /dev/null", true),
    reads("find -ls, warm", "find . -ls > /dev/null", "find . -ls > /dev/null", false),
    reads("full read, cold", "", "tar -cf - . | cat > /dev/null", true),
    reads("full read, warm", "tar -cf - . | cat > /dev/null", "tar -cf - . | cat > /dev/null", false),
    reads("grep -r, warm", "grep -r zzqqzz usr/share > /dev/null || true", "grep -r zzqqzz usr/share > /dev/null || true", false),
    writes("untar 12,000 files", "", "mkdir new; tar -xf $OUT/many.tar -C new"),
    writes(
        "touch 5,000 lower files",
        "find . -xdev -type f 2> /dev/null | head -5000 > $OUT/list",
        "xargs -a $OUT/list -d '\\n' touch",
    ),
    writes("rm -rf 14,000 lower files", "", "find $BIG -type f | head -14000 > $OUT/list; xargs -a $OUT/list -d '\\n' rm -f"),
    writes("rm -rf of a lower tree", "", "rm -rf $BIG"),
    writes("1 GiB written", "", "dd if=/dev/zero of=big bs=1M count=1024 status=none"),
    writes(
        "1 GiB read",
        "dd if=/dev/zero of=big bs=1M count=1024 status=none; cat big > /dev/null",
        "dd if=big of=/dev/null bs=1M status=none",
    ),
    writes("4 KiB random reads and writes", "dd if=/dev/zero of=big bs=1M count=256 status=none", RANDOM),
    writes(
        "git add and commit, 12,000 files",
        "mkdir r; tar -xf $OUT/many.tar -C r; git init -q r",
        "cd r; git add .; git -c user.name=n -c user.email=e commit -qm c",
    ),
    writes(
        "git status",
        "mkdir r; tar -xf $OUT/many.tar -C r; cd r; git init -q .; git add .; git status > /dev/null",
        "cd r; git status > /dev/null",
    ),
    writes("small files written and read back", "", "for i in $(seq 3000); do echo $i > f$i; done; cat f* > /dev/null; rm -f f*"),
    writes("a C build", C_SOURCES, "make -s -j2 -C c"),
];

const RANDOM: &str = "python3 -c '
import os, random
random.seed(1); f = os.open(\"big\", os.O_RDWR); block = b\"x\" * 4096
for i in range(50000):
    at = random.randrange(65536) * 4096
    os.pwrite(f, block, at) if i % 2 else os.pread(f, 4096, at)
'";

const C_SOURCES: &str = "mkdir c; for i in $(seq 60); do printf '#include <stdio.h>\\n#include <stdlib.h>\\n#include <string.h>\\nint f%d(int x) { char b[64]; snprintf(b, 64, \"%%d\", x); return (int)strlen(b); }\\n' $i > c/f$i.c; done
    printf 'int main(void) { return 0; }\\n' > c/main.c
    printf 'O = $(patsubst %%.c,%%.o,$(wildcard *.c))\\nprog: $O\\n\\tcc -o $@ $O\\n' > c/Makefile";

/// The layers as directories, the bottom one first, and what the works need.
struct Stage {
    dir: PathBuf,
    image: PathBuf,
    layers: usize,
    big: String,
}

impl Stage {
    fn new(dir: &Path, image: &Path) -> Result<Stage> {
        let script = r#"
            mkdir archive; tar -xf "$0" -C archive
            number=0
            for layer in $(python3 -c 'import json; print(*json.load(open("archive/manifest.json"))[0]["Layers"])'); do
                mkdir L$number; tar -xf archive/$layer -C L$number --numeric-owner; number=$((number + 1))
            done
            rm -r archive
            find L* -name .wh..wh..opq | while read -r mark; do setfattr -n trusted.overlay.opaque -v y "$(dirname "$mark")"; rm "$mark"; done
            find L* -name '.wh.*' | while read -r mark; do name=$(basename "$mark"); mknod "$(dirname "$mark")/${name#.wh.}" c 0 0; rm "$mark"; done
            mkdir many; for i in $(seq 12000); do d=many/$((i / 100)); [ -d $d ] || mkdir $d; echo content of file $i > $d/$i; done
            tar -cf many.tar many; rm -r many; mkdir tree upper work"#;
        let status = Command::new("bash").args(["-euc", script]).arg(image.canonicalize()?).current_dir(dir).status()?;
        ensure!(status.success(), "the image can't be unpacked");
        let layers = (0..1000).take_while(|number| dir.join(format!("L{number}")).exists()).count();
        let find = "cd $(for d in L*; do echo $(find $d | wc -l) $d; done | sort -rn | head -1 | cut -d' ' -f2)
            find . -mindepth 2 -maxdepth 5 -type d | while read -r d; do echo $(find $d | wc -l) $d; done | sort -rn | awk '$1 < 20000' | head -1 | cut -d' ' -f2";
        let output = Command::new("bash").args(["-ec", find]).current_dir(dir).output()?;
        let big = String::from_utf8(output.stdout)?.trim().to_owned();
        ensure!(!big.is_empty(), "the image has no directory to remove");
        Ok(Stage { dir: dir.to_owned(), image: image.canonicalize()?, layers, big })
    }

    fn tree(&self) -> PathBuf {
        self.dir.join("tree")
    }

    /// Mounts afresh.
    fn mount(&self, peer: Peer) -> Result<()> {
        for name in ["upper", "work"] {
            std::fs::remove_dir_all(self.dir.join(name))?;
            std::fs::create_dir(self.dir.join(name))?;
        }
        let lowers: Vec<String> = (0..self.layers).rev().map(|n| self.dir.join(format!("L{n}")).display().to_string()).collect();
        let options = format!("lowerdir={},upperdir={1}/upper,workdir={1}/work", lowers.join(":"), self.dir.display());
        let tree = self.tree();
        let own = std::env::current_exe()?.with_file_name("fsd-fuse");
        match peer {
            Peer::Ours => run(text(&own)?, &["-o", &options, text(&tree)?]),
            Peer::File => run(text(&own)?, &["--image", text(&self.image)?, text(&tree)?]),
            // It says that it does not know an option of its own and goes on.
            Peer::Old => run("fuse-overlayfs", &["-o", &options, text(&tree)?]),
            Peer::Kernel => run("mount", &["-t", "overlay", "overlay", "-o", &options, text(&tree)?]),
        }?;
        Ok(())
    }

    fn unmount(&self) -> Result<()> {
        let mut last = Ok(());
        for _ in 0..50 {
            last = fuse::unmount(&self.tree(), false);
            if last.is_ok() {
                // The server has gone too before the next one is measured.
                std::thread::sleep(Duration::from_millis(300));
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(last?)
    }

    fn shell(&self, script: &str) -> Result<f64> {
        let mut command = Command::new("timeout");
        command.args(["-k", "5", "300", "bash", "-c", script]).current_dir(self.tree()).stdin(Stdio::null());
        command.env("OUT", &self.dir).env("BIG", &self.big);
        let (seconds, output) = time(|| Ok(command.output()?))?;
        ensure!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(seconds)
    }

    fn measure(&self, peer: Peer, work: &Work) -> Result<f64> {
        self.mount(peer)?;
        let result = (|| {
            if !work.before.is_empty() {
                self.shell(work.before)?;
            }
            if work.cold {
                rustix::fs::sync();
                std::fs::write("/proc/sys/vm/drop_caches", "3").context("drop caches")?;
            }
            self.shell(work.script)
        })();
        self.unmount()?;
        result
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fuse::unmount(&self.tree(), true);
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let beside = arguments.image.canonicalize()?;
    let dir = tempfile::tempdir_in(beside.parent().context("a path with a folder is wanted")?)?;
    let stage = Stage::new(dir.path(), &arguments.image)?;
    let mut report = Report::new("fuse", &arguments.image.display().to_string());
    for work in WORKS.iter().filter(|work| work.name.contains(&arguments.only)) {
        let mut samples: [Samples; 4] = std::array::from_fn(|_| Samples::default());
        for _ in 0..arguments.rounds {
            for (peer, samples) in Peer::ALL.into_iter().zip(&mut samples).filter(|(peer, _)| !work.writes || *peer != Peer::File)
            {
                samples.add(stage.measure(peer, work).with_context(|| format!("{} on {}", work.name, peer.name()))?);
            }
        }
        let [ours, file, old, kernel] = samples.map(|samples| samples.best());
        let ours = ours.context("no run")?;
        report.seconds(work.name, ours).of_at_most(Peer::Old.name(), old, 1.0).of(Peer::Kernel.name(), kernel);
        if let Some(file) = file {
            let name = format!("{}, image file", work.name);
            report.seconds(&name, file).of_at_most(Peer::Old.name(), old, 1.0).of(Peer::Kernel.name(), kernel);
        }
    }
    for peer in [Peer::Ours, Peer::File] {
        stage.mount(peer)?;
        stage.shell("find . -ls > /dev/null; tar -cf - . | cat > /dev/null")?;
        let server = processes_of(&stage.tree())?.into_iter().max().context("no server")?;
        report.megabytes(&format!("memory after find and full read: {}", peer.name()), memory(server)?.rss).at_most(64.0);
        stage.unmount()?;
    }
    report.finish(arguments.json.as_deref())
}
