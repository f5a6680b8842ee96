//! What a profile says about each call, in numbers, and which of its rules count.

use std::collections::HashMap;

use fs_base::sys::seccomp::Flags;
use fs_base::{Error, Result};
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompFilterFlag as FilterFlag,
    LinuxSeccompOperator as Operator, LinuxSyscall,
};

/// Answers of a filter. Source: `SECCOMP_RET_*` in `linux/seccomp.h`; the lower 16 bits carry a value.
pub(super) const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
pub(super) const ALLOW: u32 = 0x7fff_0000;
const VALUE: u32 = 0xffff;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// "No such system call."
pub(super) const NO_SUCH_CALL: u32 = ERRNO | ENOSYS;
/// The largest errno that the kernel passes on. Source: `MAX_ERRNO` in `linux/err.h`.
const MAX_ERRNO: u32 = 4095;

/// A comparison of one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Comparison {
    /// Which argument: 0 to 5.
    pub(super) index: usize,
    pub(super) operator: Operator,
    /// What to compare with; the mask of a masked comparison.
    pub(super) value: u64,
    /// What a masked comparison compares with.
    pub(super) masked: u64,
}

/// What a profile says about one call.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Decision {
    /// The answer, whatever the arguments are.
    pub(super) always: Option<u32>,
    /// The answer if all comparisons hold; the first that fits counts.
    pub(super) sometimes: Vec<(Vec<Comparison>, u32)>,
}

/// A profile in numbers.
pub(super) struct Rules<'a> {
    /// The answer to what no rule fits.
    pub(super) default: u32,
    /// Every call that is named, even if nothing is said about it that is not the default.
    pub(super) calls: HashMap<&'a str, Decision>,
    pub(super) flags: Flags,
}

impl<'a> Rules<'a> {
    /// Reads a profile with the rules of runc and libseccomp, which are those of Docker: what equals the default is left
    /// out, the first rule without a condition makes all others about its call void, and comparisons of one rule must
    /// all hold, unless two of them are about the same argument: then one suffices.
    pub(super) fn read(spec: &'a LinuxSeccomp) -> Result<Rules<'a>> {
        let default = answer(spec.default_action(), spec.default_errno_ret())?;
        let mut rules = Rules { default, calls: HashMap::new(), flags: flags(spec.flags().as_deref())? };
        if spec.listener_path().is_some() || spec.listener_metadata().is_some() {
            return Err(no_agent("listenerPath"));
        }
        for rule in spec.syscalls().iter().flatten() {
            rules.add(rule)?;
        }
        Ok(rules)
    }

    fn add(&mut self, rule: &'a LinuxSyscall) -> Result<()> {
        let answer = answer(rule.action(), rule.errno_ret())?;
        let args = rule.args().as_deref().unwrap_or_default();
        for name in rule.names() {
            if name.is_empty() {
                return Err(Error::invalid("seccomp profile: empty string is not a valid syscall"));
            }
            let comparisons = args.iter().map(|arg| comparison(name, arg)).collect::<Result<Vec<_>>>()?;
            let decision = self.calls.entry(name).or_default();
            if answer == self.default || decision.always.is_some() {
                continue;
            }
            if comparisons.is_empty() {
                *decision = Decision { always: Some(answer), sometimes: Vec::new() };
            } else if is_any_of(&comparisons) {
                decision.sometimes.extend(comparisons.into_iter().map(|one| (vec![one], answer)));
            } else {
                decision.sometimes.push((comparisons, answer));
            }
        }
        Ok(())
    }

    /// The answer to a call that is newer than the profile. runc's way: a program asks whether the kernel has a call and
    /// does without it otherwise, so "not permitted" would break it where "no such call" does not.
    pub(super) fn unknown(&self) -> u32 {
        match self.default {
            ALLOW | LOG => self.default,
            trace if trace & !VALUE == TRACE => trace,
            _ => NO_SUCH_CALL,
        }
    }
}

impl Decision {
    /// What a call of many calls is told for this one of them, if anything. The arguments can't be seen there, so a
    /// condition can't be checked: one that would permit permits nothing there, any other forbids all.
    pub(super) fn without_arguments(&self) -> Option<u32> {
        let permits = |answer: u32| matches!(answer, ALLOW | LOG);
        self.always.or_else(|| self.sometimes.iter().map(|(_, answer)| *answer).find(|answer| !permits(*answer)))
    }
}

fn is_any_of(comparisons: &[Comparison]) -> bool {
    comparisons.iter().enumerate().any(|(place, one)| comparisons[..place].iter().any(|other| other.index == one.index))
}

fn comparison(name: &str, arg: &LinuxSeccompArg) -> Result<Comparison> {
    if arg.index() > 5 {
        let index = arg.index();
        return Err(Error::invalid(format!("seccomp profile: {name}: there is no argument {index}, the last one is 5")));
    }
    Ok(Comparison { index: arg.index(), operator: arg.op(), value: arg.value(), masked: arg.value_two().unwrap_or_default() })
}

fn answer(action: Action, errno: Option<u32>) -> Result<u32> {
    let with_value = |answer: u32, most: u32| match errno {
        Some(value) if value > most => {
            Err(Error::invalid(format!("seccomp profile: errnoRet {value} of {action} is more than {most}")))
        }
        value => Ok(answer | value.unwrap_or(EPERM)),
    };
    match action {
        // A number that goes with another action is left where somebody only changed the action, and runc takes that.
        Action::ScmpActAllow => Ok(ALLOW),
        Action::ScmpActErrno => with_value(ERRNO, MAX_ERRNO),
        Action::ScmpActKill | Action::ScmpActKillThread => Ok(KILL_THREAD),
        Action::ScmpActKillProcess => Ok(KILL_PROCESS),
        Action::ScmpActTrap => Ok(TRAP),
        Action::ScmpActLog => Ok(LOG),
        Action::ScmpActTrace => with_value(TRACE, VALUE),
        Action::ScmpActNotify => Err(no_agent("SCMP_ACT_NOTIFY")),
    }
}

fn no_agent(what: &str) -> Error {
    Error::unsupported(format!("seccomp profile: {what} is not supported: no agent can be asked about a system call"))
}

/// The profile's flags; runc's default if it has none.
fn flags(list: Option<&[FilterFlag]>) -> Result<Flags> {
    let Some(list) = list else { return Ok(Flags { allow_speculation: true, ..Flags::default() }) };
    let mut flags = Flags::default();
    for flag in list {
        match flag {
            FilterFlag::SeccompFilterFlagLog => flags.log = true,
            FilterFlag::SeccompFilterFlagTsync => flags.all_threads = true,
            FilterFlag::SeccompFilterFlagSpecAllow => flags.allow_speculation = true,
            FilterFlag::SeccompFilterFlagWaitKillableRecv => return Err(no_agent("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV")),
        }
    }
    Ok(flags)
}
