//! What the kernel does with a filter, for tests: classic BPF over the description of one call.

use fs_base::sys::seccomp::Instruction;

/// One system call, as a filter sees it. Source: `struct seccomp_data` in `linux/seccomp.h`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) nr: u32,
    pub(super) arch: u32,
    pub(super) args: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.nr,
            4 => self.arch,
            16..=60 if offset.is_multiple_of(8) => self.args[(offset as usize - 16) / 8] as u32,
            20..=60 if offset.is_multiple_of(4) => (self.args[(offset as usize - 16) / 8] >> 32) as u32,
            _ => panic!("load of offset {offset}"),
        }
    }
}

/// The filter's answer, and how many instructions it took.
pub(super) fn run(filter: &[Instruction], call: &Call) -> (u32, usize) {
    let (mut at, mut accumulator) = (0, 0);
    for count in 1.. {
        let Instruction { code, skip_true, skip_false, value } = filter[at];
        at += 1;
        let holds = match code {
            0x20 => {
                accumulator = call.word(value);
                continue;
            }
            0x54 => {
                accumulator &= value;
                continue;
            }
            0x05 => {
                at += value as usize;
                continue;
            }
            0x06 => return (value, count),
            0x15 => accumulator == value,
            0x25 => accumulator > value,
            0x35 => accumulator >= value,
            _ => panic!("instruction {code:#x}"),
        };
        at += usize::from(if holds { skip_true } else { skip_false });
    }
    unreachable!()
}
