//! How much a thread may get in the way of others.

use std::marker::PhantomData;

/// Source: ioprio_set(2), linux/ioprio.h: a thread by its id (0: the caller), the class in the bits from 13 on.
const WHO_PROCESS: libc::c_int = 1;
const CLASS_SHIFT: u32 = 13;
const CLASS_IDLE: libc::c_long = 3;

/// The calling thread's I/O is served when nobody else wants the disk, until this is dropped. How far that goes is the
/// I/O scheduler's business; where the kernel refuses, nothing changes.
#[derive(Debug)]
pub struct IdleIo {
    before: libc::c_long,
    /// It is this thread's, so it stays on it.
    _thread: PhantomData<*const ()>,
}

impl IdleIo {
    /// Begins it.
    #[must_use = "it ends when this is dropped"]
    pub fn enter() -> IdleIo {
        // SAFETY: has no memory effects.
        let before = unsafe { libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, 0) };
        set(CLASS_IDLE << CLASS_SHIFT);
        IdleIo { before, _thread: PhantomData }
    }
}

impl Drop for IdleIo {
    fn drop(&mut self) {
        set(self.before.max(0));
    }
}

fn set(priority: libc::c_long) {
    // SAFETY: has no memory effects.
    unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, priority) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_idle_and_then_as_before() {
        // SAFETY: has no memory effects.
        let class = || unsafe { libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, 0) } >> CLASS_SHIFT;
        let before = class();
        {
            let _idle = IdleIo::enter();
            assert_eq!(class(), CLASS_IDLE);
        }
        assert_eq!(class(), before);
    }
}
