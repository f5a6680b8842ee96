//! Classic BPF, written from its end to its beginning.
//!
//! Every jump goes forward, so what a jump leads to is there before the jump, and its distance is known at once. A
//! conditional jump spans at most 255 instructions: a decision out of reach is written a second time, anything else is
//! reached by way of an unconditional jump.
//!
//! Only the instructions that the kernel can follow ahead of time are used: for a call that is allowed whatever its
//! arguments are, it then finds that out once, when the filter is installed, and never runs the filter for it
//! (`seccomp_is_const_allow` in `kernel/seccomp.c`, since Linux 5.11).

use std::collections::HashMap;

use fs_base::sys::seccomp::Instruction;

/// The farthest that a conditional jump goes.
const REACH: usize = u8::MAX as usize;

// Source: `linux/bpf_common.h`: class, size and mode, or class and operation.
const LOAD_WORD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const RETURN: u16 = 0x06;

/// A test of the accumulator against a constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    Equal = 0x15,
    Greater = 0x25,
    GreaterOrEqual = 0x35,
}

/// Where control goes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// The filter ends with this answer.
    Return(u32),
    /// An instruction, counted from the program's end.
    Place(usize),
}

/// A program that grows at its front.
#[derive(Default)]
pub(super) struct Program {
    /// Last instruction first.
    reversed: Vec<Instruction>,
    /// The place that each answer was last written at.
    returns: HashMap<u32, usize>,
}

impl Program {
    /// `if accumulator TEST value then yes else no`.
    pub(super) fn branch(&mut self, test: Test, value: u32, yes: Target, no: Target) -> Target {
        if yes == no {
            return yes;
        }
        // To make one reachable may move the other away by one instruction, hence one to spare.
        let yes = self.reachable(yes, REACH - 1);
        let no = self.reachable(no, REACH);
        let here = self.reversed.len();
        self.push(Instruction { code: test as u16, skip_true: (here - yes - 1) as u8, skip_false: (here - no - 1) as u8, value })
    }

    /// Puts a word of the call's description into the accumulator, then goes on at `next`, which must use it.
    pub(super) fn load(&mut self, offset: u32, next: Target) -> Target {
        self.before(LOAD_WORD, offset, next)
    }

    /// Keeps of the accumulator what is in `mask`, then goes on at `next`, which must use it.
    pub(super) fn mask(&mut self, mask: u32, next: Target) -> Target {
        if mask == u32::MAX { next } else { self.before(AND, mask, next) }
    }

    /// The program, which starts at `start`.
    pub(super) fn finish(mut self, start: Target) -> Vec<Instruction> {
        self.fall_into(start);
        self.reversed.reverse();
        self.reversed
    }

    fn before(&mut self, code: u16, value: u32, next: Target) -> Target {
        self.fall_into(next);
        self.push(Instruction { code, skip_true: 0, skip_false: 0, value })
    }

    /// Makes `next` what follows the instruction that is written next.
    fn fall_into(&mut self, next: Target) {
        match next {
            Target::Return(answer) => {
                self.write_return(answer);
            }
            Target::Place(place) if place + 1 == self.reversed.len() => {}
            Target::Place(place) => {
                self.write_jump(place);
            }
        }
    }

    /// The place of an instruction that leads to `target` and that the next one can skip to over at most `most` others.
    fn reachable(&mut self, target: Target, most: usize) -> usize {
        let near = |place: usize| self.reversed.len() - place - 1 <= most;
        match target {
            Target::Return(answer) => match self.returns.get(&answer) {
                Some(place) if near(*place) => *place,
                _ => self.write_return(answer),
            },
            Target::Place(place) if near(place) => place,
            Target::Place(place) => self.write_jump(place),
        }
    }

    fn write_return(&mut self, answer: u32) -> usize {
        let place = self.reversed.len();
        self.push(Instruction { code: RETURN, skip_true: 0, skip_false: 0, value: answer });
        self.returns.insert(answer, place);
        place
    }

    fn write_jump(&mut self, to: usize) -> usize {
        let place = self.reversed.len();
        self.push(Instruction { code: JUMP, skip_true: 0, skip_false: 0, value: (place - to - 1) as u32 });
        place
    }

    fn push(&mut self, instruction: Instruction) -> Target {
        self.reversed.push(instruction);
        Target::Place(self.reversed.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::interpreter::{Call, run};
    use super::*;

    #[test]
    fn jumps_reach_over_any_distance() {
        // Each test leads to an answer of its own or to the next one, and the last one back to the first answer.
        for count in [1, 100, 126, 127, 128, 129, 254, 255, 256, 257, 600, 1500] {
            let mut program = Program::default();
            let far = program.load(16, Target::Return(7));
            let mut next = far;
            for value in (1..=count).rev() {
                let answer = if value % 3 == 0 { far } else { Target::Return(1000 + value) };
                next = program.branch(Test::Equal, value, answer, next);
            }
            let start = program.load(0, next);
            let filter = program.finish(start);
            for value in 0..=count + 1 {
                let hit = (1..=count).contains(&value) && value % 3 != 0;
                let expected = if hit { 1000 + value } else { 7 };
                let (answer, _) = run(&filter, &Call { nr: value, arch: 0, args: [0; 6] });
                assert_eq!(answer, expected, "{value} of {count}");
            }
        }
    }

    #[test]
    fn a_choice_between_the_same_is_none() {
        let mut program = Program::default();
        let same = Target::Return(5);
        assert_eq!(program.branch(Test::Greater, 1, same, same), same);
        assert_eq!(program.finish(same).len(), 1);
    }
}
