//! The memory of this process.

/// Lets go of the pages of this program's code, and of its libraries'. What runs next faults its pages back in from the
/// page cache. For a process that has done much and will wait for long: code that only the start needed is not counted
/// as its own for as long as it lives. Where /proc can't be read, nothing happens.
pub fn give_back_code() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for (start, length) in maps.lines().filter_map(code_of) {
        // SAFETY: a private mapping of a file that was never writable has no page of its own: what is dropped here
        // is read again from the file when it is next used. Nothing unmaps it meanwhile but the dynamic loader, and then
        // the call fails or touches other such pages.
        unsafe { libc::madvise(std::ptr::without_provenance_mut(start), length, libc::MADV_DONTNEED) };
    }
}

/// Gives freed memory back that the allocator keeps for later. For a process that has done something large and may not
/// do the like for long. Only glibc's allocator keeps it and can be asked.
pub fn give_back_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: any thread may call it at any time; nothing that is in use is touched.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Start and length of the mapping, if it is one of a file's code. Source: proc_pid_maps(5).
fn code_of(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (range, permissions, inode) = (fields.next()?, fields.next()?, fields.nth(2)?);
    let (start, end) = range.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    // The kernel's own pages ([vdso]) have no inode.
    (permissions == "r-xp" && inode != "0").then_some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_of_files_is_given_back() {
        assert_eq!(code_of("1000-3000 r-xp 00002000 fe:00 17   /usr/bin/x"), Some((0x1000, 0x2000)));
        for line in [
            "1000-3000 r--p 0 fe:00 17 /x",
            "1000-3000 rw-p 0 fe:00 17 /x",
            "1000-3000 r-xp 0 00:00 0 [vdso]",
            "",
            "x-y r-xp 0 fe:00 17",
        ] {
            assert_eq!(code_of(line), None, "{line}");
        }
    }

    #[test]
    fn a_process_runs_on_without_its_code() {
        let work = || (1..2000u32).map(|n| f64::from(n).sqrt().to_string().len()).sum::<usize>();
        let before = work();
        for _ in 0..10 {
            give_back_code();
            assert_eq!(work(), before);
        }
    }
}
