//! Device rules as a program for cgroup v2.
//!
//! Rules are read as v1's files would be written: in their order, each for the kinds of access that it names, the later
//! one wins. So the program asks them from the last to the first, and lets go of the kinds of access that are settled.
//! What no rule speaks of is allowed.

use fs_base::sys::bpf::Instruction;
use fs_base::{Error, Result};
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

// Operations. Source: linux/bpf.h and linux/bpf_common.h.
const LOAD_WORD: u8 = 0x61;
const COPY: u8 = 0xbf;
const SET: u8 = 0xb7;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const SKIP_UNLESS_EQUAL: u8 = 0x55;
const SKIP_IF_ANY_BIT: u8 = 0x45;
const SKIP: u8 = 0x05;
const EXIT: u8 = 0x95;

// Registers.
const ANSWER: u8 = 0;
const QUESTION: u8 = 1;
const KIND: u8 = 2;
/// The kinds of access that are asked for and not settled yet.
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// All of `BPF_DEVCG_ACC_*`.
const ANY_ACCESS: i32 = 7;

/// The program that holds these rules.
pub(super) fn compile(rules: &[LinuxDeviceCgroup]) -> Result<Vec<Instruction>> {
    // struct bpf_cgroup_dev_ctx: the access in the upper half and the kind in the lower of one word, then the numbers.
    let mut program = vec![
        load(KIND, 0),
        Instruction { registers: KIND << 4 | ACCESS, ..op(COPY, ACCESS, 0) },
        op(SHIFT_RIGHT, ACCESS, 16),
        op(AND, KIND, 0xffff),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    for rule in rules.iter().rev() {
        add(&mut program, rule)?;
    }
    program.extend([op(SET, ANSWER, 1), op(EXIT, 0, 0)]);
    Ok(program)
}

fn op(code: u8, register: u8, value: i32) -> Instruction {
    Instruction { code, registers: register, offset: 0, value }
}

fn load(register: u8, place: i16) -> Instruction {
    Instruction { code: LOAD_WORD, registers: QUESTION << 4 | register, offset: place, value: 0 }
}

fn skip(code: u8, register: u8, value: i32, offset: i16) -> Instruction {
    Instruction { code, registers: register, offset, value }
}

fn add(program: &mut Vec<Instruction>, rule: &LinuxDeviceCgroup) -> Result<()> {
    let bad = || Error::invalid(format!("invalid device rule {rule}"));
    let access = match rule.access().as_deref().unwrap_or("") {
        "" => ANY_ACCESS,
        text => text.chars().try_fold(0, |bits, c| bit(c).map(|bit| bits | bit)).ok_or_else(bad)?,
    };
    let kind = match rule.typ().unwrap_or_default() {
        LinuxDeviceType::A => None,
        LinuxDeviceType::B => Some(1),
        LinuxDeviceType::C | LinuxDeviceType::U => Some(2),
        LinuxDeviceType::P => return Err(bad()),
    };
    let number = |number: Option<i64>| match number {
        None | Some(-1) => Ok(None),
        Some(number) => i32::try_from(number).ok().filter(|number| *number >= 0).map(Some).ok_or_else(bad),
    };
    let conditions = [(KIND, kind), (MAJOR, number(rule.major())?), (MINOR, number(rule.minor())?)];
    let verdict = if rule.allow() {
        [op(AND, ACCESS, ANY_ACCESS & !access), skip(SKIP_UNLESS_EQUAL, ACCESS, 0, 2), op(SET, ANSWER, 1), op(EXIT, 0, 0)]
    } else {
        [skip(SKIP_IF_ANY_BIT, ACCESS, access, 1), skip(SKIP, 0, 0, 2), op(SET, ANSWER, 0), op(EXIT, 0, 0)]
    };
    let conditions: Vec<_> = conditions.iter().filter_map(|(register, value)| Some((*register, (*value)?))).collect();
    for (at, (register, value)) in conditions.iter().enumerate() {
        let rest = conditions.len() - at - 1 + verdict.len();
        program.push(skip(SKIP_UNLESS_EQUAL, *register, *value, rest as i16));
    }
    program.extend(verdict);
    Ok(())
}

/// `BPF_DEVCG_ACC_MKNOD`, `_READ` and `_WRITE`.
fn bit(access: char) -> Option<i32> {
    match access {
        'm' => Some(1),
        'r' => Some(2),
        'w' => Some(4),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What the kernel would make of it.
    fn run(program: &[Instruction], kind: i32, access: i32, major: i32, minor: i32) -> bool {
        let question = [access << 16 | kind, major, minor];
        let (mut registers, mut at) = ([0_i32; 6], 0);
        loop {
            let Instruction { code, registers: names, offset, value } = program[at];
            let (to, from) = (usize::from(names & 15), usize::from(names >> 4));
            let mut jump = 0;
            match code {
                LOAD_WORD => registers[to] = question[offset as usize / 4],
                COPY => registers[to] = registers[from],
                SET => registers[to] = value,
                AND => registers[to] &= value,
                SHIFT_RIGHT => registers[to] >>= value,
                SKIP => jump = offset,
                SKIP_UNLESS_EQUAL if registers[to] != value => jump = offset,
                SKIP_IF_ANY_BIT if registers[to] & value != 0 => jump = offset,
                EXIT => return registers[0] == 1,
                _ => {}
            }
            at += 1 + jump as usize;
        }
    }

    fn rules(value: serde_json::Value) -> Vec<LinuxDeviceCgroup> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_later_rule_wins_for_each_kind_of_access() {
        let program = compile(&rules(json!([
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "c", "access": "m" },
            { "allow": true, "type": "c", "major": 1, "minor": 3, "access": "r" },
            { "allow": true, "type": "c", "major": 1, "minor": 3, "access": "w" },
            { "allow": true, "type": "b", "major": 8, "access": "rw" },
            { "allow": false, "type": "b", "major": 8, "minor": 2, "access": "w" },
        ])))
        .unwrap();
        let (block, char, make, read, write) = (1, 2, 1, 2, 4);
        for (kind, access, major, minor, expected) in [
            (char, read | write, 1, 3, true),
            (char, read | write | make, 1, 3, true),
            (char, read, 1, 5, false),
            (char, make, 1, 5, true),
            (block, make, 8, 0, false),
            (block, read | write, 8, 1, true),
            (block, read, 8, 2, true),
            (block, read | write, 8, 2, false),
            (block, read, 1, 3, false),
        ] {
            assert_eq!(run(&program, kind, access, major, minor), expected, "{kind} {access} {major}:{minor}");
        }
        assert!(run(&compile(&[]).unwrap(), block, write, 8, 0));
        for bad in [json!({ "access": "x" }), json!({ "type": "p" }), json!({ "major": -7 })] {
            assert!(compile(&rules(json!([bad]))).is_err());
        }
    }
}
