//! From a profile to a filter: for each way into the kernel a search tree over the numbers of its calls.
//!
//! The numbers are cut into runs with the same answer. The tree asks about the borders between runs, so its depth grows
//! with the logarithm of how often the answer changes, and not with the number of calls.

use fs_base::sys::seccomp::{Flags, Instruction, MAX_INSTRUCTIONS};
use fs_base::{Error, Result};
use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompOperator as Operator};

use super::abi::{ARM_PRIVATE, Abi, Machine, X32_BIT, is_int, multiplexed};
use super::program::{Program, Target, Test};
use super::rules::{Comparison, Decision, KILL_PROCESS, Rules};

/// Offsets in what a filter sees of a call. Source: `struct seccomp_data` in `linux/seccomp.h`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// A program of the kernel's that decides about system calls, ready to be installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    instructions: Vec<Instruction>,
    flags: Flags,
}

impl Filter {
    /// What [`fs_base::sys::seccomp::install`] takes.
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// How the profile wants it installed.
    pub fn flags(&self) -> Flags {
        self.flags
    }

    /// Puts the calling thread, and what it starts from now on, under this filter.
    pub fn install(&self) -> Result<()> {
        fs_base::sys::seccomp::install(&self.instructions, self.flags)
    }
}

/// Compiles a profile for this machine.
///
/// A call by an architecture that the profile does not list ends the process. Names that an architecture does not have
/// are left out; a call newer than all that the profile names is answered with ENOSYS, unless it is allowed anyway.
pub fn compile(spec: &LinuxSeccomp) -> Result<Filter> {
    compile_for(spec, Machine::here()?)
}

pub(super) fn compile_for(spec: &LinuxSeccomp, machine: Machine) -> Result<Filter> {
    let rules = Rules::read(spec)?;
    let listed = spec.architectures().iter().flatten().filter_map(|arch| machine.abi(*arch));
    let mut abis = vec![machine.native()];
    for abi in listed {
        if !abis.contains(&abi) {
            abis.push(abi);
        }
    }
    let mut compiler = Compiler { rules: &rules, program: Program::default() };
    let start = compiler.architectures(&abis);
    let instructions = compiler.program.finish(start);
    if instructions.len() > MAX_INSTRUCTIONS {
        let count = instructions.len();
        return Err(Error::invalid(format!(
            "seccomp profile: it makes a filter of {count} instructions, the kernel takes {MAX_INSTRUCTIONS}"
        ))
        .with_hint("give it fewer rules with arguments, or fewer architectures"));
    }
    Ok(Filter { instructions, flags: rules.flags })
}

/// Numbers from this one up to that of the next run lead to the target.
#[derive(Debug, Clone, Copy)]
struct Run {
    first: u32,
    target: Target,
}

struct Compiler<'a> {
    rules: &'a Rules<'a>,
    program: Program,
}

impl Compiler<'_> {
    /// The whole program. The native architecture, which is first, is asked about first and lies nearest.
    fn architectures(&mut self, abis: &[Abi]) -> Target {
        let x32 = abis.contains(&Abi::X32);
        let parts: Vec<(u32, Target)> =
            abis.iter().rev().filter(|abi| **abi != Abi::X32).map(|abi| (abi.audit(), self.architecture(*abi, x32))).collect();
        let mut next = Target::Return(KILL_PROCESS);
        for (audit, part) in parts {
            next = self.program.branch(Test::Equal, audit, part, next);
        }
        self.program.load(ARCHITECTURE, next)
    }

    fn architecture(&mut self, abi: Abi, x32: bool) -> Target {
        let beyond = (abi == Abi::X86_64).then(|| Run { first: X32_BIT, target: self.x32(x32) });
        let mut runs = self.runs(abi);
        runs.extend(beyond);
        let tree = self.tree(&runs);
        self.program.load(NUMBER, tree)
    }

    /// What has the bit of x32: a leaf of the tree of x86-64, so that it costs other calls nothing.
    fn x32(&mut self, listed: bool) -> Target {
        if listed {
            let runs = self.runs(Abi::X32);
            return self.tree(&runs);
        }
        // -1 is what a tracer makes of a call to have it skipped; it is of no architecture.
        let skipped = Target::Return(self.rules.default);
        self.program.branch(Test::Equal, u32::MAX, skipped, Target::Return(KILL_PROCESS))
    }

    /// The runs of one way in, in order, neighbours unlike.
    fn runs(&mut self, abi: Abi) -> Vec<Run> {
        let default = Target::Return(self.rules.default);
        let mut calls: Vec<(u32, Target)> = Vec::new();
        let mut newest = None;
        for (name, number) in abi.calls() {
            let Some(decision) = self.rules.calls.get(name) else { continue };
            if abi != Abi::Arm || number < ARM_PRIVATE {
                newest = newest.max(Some(number));
            }
            if *decision != Decision::default() {
                calls.push((number, self.decide(abi, name, decision)));
            }
        }
        if abi == Abi::X86 {
            self.multiplexed(&mut calls);
        }
        calls.sort_unstable_by_key(|(number, _)| *number);

        let mut runs = vec![Run { first: abi.base(), target: default }];
        let after = newest.map(|newest| (newest + 1, Target::Return(self.rules.unknown())));
        let (private, public): (Vec<_>, Vec<_>) =
            calls.into_iter().partition(|(number, _)| abi == Abi::Arm && *number >= ARM_PRIVATE);
        for (first, target) in public {
            add(&mut runs, first, target);
            add(&mut runs, first + 1, default);
        }
        if let Some((first, target)) = after {
            add(&mut runs, first, target);
        }
        for (first, target) in private {
            add(&mut runs, first, target);
            add(&mut runs, first + 1, after.map_or(default, |(_, unknown)| unknown));
        }
        runs.dedup_by(|next, run| next.target == run.target);
        runs
    }

    /// `socketcall` and `ipc`, as far as the profile says nothing about them but about what they stand for.
    fn multiplexed(&mut self, calls: &mut Vec<(u32, Target)>) {
        for (name, number) in Abi::X86.calls() {
            let own = self.rules.calls.get(name);
            if !matches!(name, "socketcall" | "ipc") || own.is_some_and(|own| own.always.is_some()) {
                continue;
            }
            let mut decision = Decision::default();
            let known = |(name, decision): (&&str, &Decision)| Some((multiplexed(name)?, decision.without_arguments()?));
            let mut parts: Vec<_> = self.rules.calls.iter().filter_map(known).collect();
            parts.retain(|((call, _), _)| *call == name);
            parts.sort_unstable();
            for ((_, which), answer) in parts {
                let which = Comparison { index: 0, operator: Operator::ScmpCmpEq, value: which, masked: 0 };
                decision.sometimes.push((vec![which], answer));
            }
            decision.sometimes.extend(own.map(|own| own.sometimes.clone()).into_iter().flatten());
            if decision != Decision::default() {
                calls.retain(|(other, _)| *other != number);
                calls.push((number, self.decide(Abi::X86, name, &decision)));
            }
        }
    }

    /// A search tree over runs.
    fn tree(&mut self, runs: &[Run]) -> Target {
        match runs {
            [] => Target::Return(self.rules.default),
            [only] => only.target,
            // A single call that differs from all around it: one question instead of two.
            [before, one, after] if before.target == after.target && one.first + 1 == after.first => {
                self.program.branch(Test::Equal, one.first, one.target, before.target)
            }
            _ => {
                let middle = runs.len() / 2;
                let upper = self.tree(&runs[middle..]);
                let lower = self.tree(&runs[..middle]);
                self.program.branch(Test::GreaterOrEqual, runs[middle].first, upper, lower)
            }
        }
    }

    /// What decides about one call.
    fn decide(&mut self, abi: Abi, name: &str, decision: &Decision) -> Target {
        let mut next = Target::Return(decision.always.unwrap_or(self.rules.default));
        for (comparisons, answer) in decision.sometimes.iter().rev() {
            let mut fits = Target::Return(*answer);
            for comparison in comparisons.iter().rev() {
                let lower_only = abi.is_32_bit() || is_int(name, comparison.index);
                fits = self.compare(*comparison, lower_only, fits, next);
            }
            next = fits;
        }
        next
    }

    fn compare(&mut self, comparison: Comparison, lower_only: bool, yes: Target, no: Target) -> Target {
        let Comparison { index, operator, value, masked } = comparison;
        let argument = Argument { offset: ARGUMENTS + 8 * index as u32, lower_only };
        match operator {
            Operator::ScmpCmpEq => self.equal(argument, u64::MAX, value, yes, no),
            Operator::ScmpCmpNe => self.equal(argument, u64::MAX, value, no, yes),
            Operator::ScmpCmpMaskedEq => self.equal(argument, value, masked & value, yes, no),
            Operator::ScmpCmpGt => self.order(argument, Test::Greater, value, yes, no),
            Operator::ScmpCmpGe => self.order(argument, Test::GreaterOrEqual, value, yes, no),
            Operator::ScmpCmpLt => self.order(argument, Test::GreaterOrEqual, value, no, yes),
            Operator::ScmpCmpLe => self.order(argument, Test::Greater, value, no, yes),
        }
    }

    fn equal(&mut self, argument: Argument, mask: u64, value: u64, yes: Target, no: Target) -> Target {
        let mut next = yes;
        if mask as u32 != 0 {
            let test = self.program.branch(Test::Equal, value as u32, next, no);
            let masked = self.program.mask(mask as u32, test);
            next = self.program.load(argument.lower(), masked);
        }
        let (upper_mask, upper) = ((mask >> 32) as u32, (value >> 32) as u32);
        if !argument.lower_only && upper_mask != 0 {
            let test = self.program.branch(Test::Equal, upper, next, no);
            let masked = self.program.mask(upper_mask, test);
            next = self.program.load(argument.upper(), masked);
        }
        next
    }

    fn order(&mut self, argument: Argument, test: Test, value: u64, yes: Target, no: Target) -> Target {
        let lower = self.program.branch(test, value as u32, yes, no);
        let lower = self.program.load(argument.lower(), lower);
        if argument.lower_only {
            return lower;
        }
        let upper = (value >> 32) as u32;
        let same = self.program.branch(Test::Equal, upper, lower, no);
        let more = self.program.branch(Test::Greater, upper, yes, same);
        self.program.load(argument.upper(), more)
    }
}

/// Where an argument's two halves are. Both machines store the lower one first.
#[derive(Clone, Copy)]
struct Argument {
    offset: u32,
    lower_only: bool,
}

impl Argument {
    fn lower(self) -> u32 {
        self.offset
    }

    fn upper(self) -> u32 {
        self.offset + 4
    }
}

/// Begins a run; one that begins at the same number gives way.
fn add(runs: &mut Vec<Run>, first: u32, target: Target) {
    match runs.last_mut() {
        Some(last) if last.first == first => last.target = target,
        _ => runs.push(Run { first, target }),
    }
}
