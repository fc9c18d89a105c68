//! Runs a compiled filter as the kernel would, and reads the policy directly as its oracle.
//!
//! The two share nothing but the parsed policy: [`evaluate`] looks a call up by name and compares
//! whole 64-bit arguments, [`simulate`] knows only instructions and words.

use super::compile::{
    AND, Instruction, JUMP, JUMP_EQ, JUMP_GE, JUMP_GT, JUMP_SET, LOAD, Program, RETURN,
};
use super::policy::Policy;
use super::{Arch, RET_KILL_PROCESS, X32_BIT};

/// What the kernel tells a filter about a call (`struct seccomp_data`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallData {
    /// The number of the call.
    pub number: u32,
    /// The architecture, an `AUDIT_ARCH_…` value.
    pub arch: u32,
    /// Where the caller is.
    pub instruction_pointer: u64,
    /// The arguments.
    pub args: [u64; 6],
}

impl CallData {
    /// The bytes as the kernel lays them out, little-endian.
    fn bytes(&self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..4].copy_from_slice(&self.number.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.arch.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.instruction_pointer.to_le_bytes());
        for (slot, arg) in bytes[16..].chunks_exact_mut(8).zip(self.args) {
            slot.copy_from_slice(&arg.to_le_bytes());
        }
        bytes
    }

    /// The word at `offset`, which the kernel wants aligned and inside.
    fn word(&self, offset: u32) -> Option<u32> {
        let offset = usize::try_from(offset).ok().filter(|offset| offset % 4 == 0)?;
        let word = self.bytes().get(offset..offset + 4)?.try_into().ok()?;
        Some(u32::from_le_bytes(word))
    }
}

/// What a filter returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The returned value: one of the `RET_…` constants of this module, or [`super::RET_ERRNO`] with an error.
    pub value: u32,
    /// How many instructions ran.
    pub executed: usize,
}

/// A program the kernel would refuse, or that this simulator does not cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadProgram {
    /// Execution leaves the program.
    #[error("simulate the filter: instruction {0} is outside of it")]
    Outside(usize),
    /// An operation the compiler does not use.
    #[error("simulate the filter: operation {code:#x} at instruction {at} is unknown")]
    Unknown {
        /// The place of the instruction.
        at: usize,
        /// Its operation.
        code: u16,
    },
    /// A load outside of the call's data, or not aligned.
    #[error("simulate the filter: instruction {at} loads from {offset}")]
    Load {
        /// The place of the instruction.
        at: usize,
        /// The offset it loads from.
        offset: u32,
    },
}

/// Runs `program` on a call.
pub fn simulate(program: &Program, call: &CallData) -> Result<Outcome, BadProgram> {
    let instructions = program.instructions();
    let mut accumulator = 0_u32;
    let mut at = 0_usize;
    let mut executed = 0;
    // Jumps only go forward, so this ends.
    loop {
        let &Instruction { code, jt, jf, k } =
            instructions.get(at).ok_or(BadProgram::Outside(at))?;
        executed += 1;
        let jump = |holds: bool| usize::from(if holds { jt } else { jf });
        let skip = match code {
            LOAD => {
                accumulator = call.word(k).ok_or(BadProgram::Load { at, offset: k })?;
                0
            }
            AND => {
                accumulator &= k;
                0
            }
            JUMP => usize::try_from(k).map_err(|_| BadProgram::Outside(usize::MAX))?,
            JUMP_EQ => jump(accumulator == k),
            JUMP_GT => jump(accumulator > k),
            JUMP_GE => jump(accumulator >= k),
            JUMP_SET => jump(accumulator & k != 0),
            RETURN => return Ok(Outcome { value: k, executed }),
            _ => return Err(BadProgram::Unknown { at, code }),
        };
        at = at.saturating_add(1).saturating_add(skip);
    }
}

/// What `policy` says about a call on `arch`, as the value a filter should return.
pub fn evaluate(policy: &Policy, arch: Arch, call: &CallData) -> u32 {
    if call.arch != arch.audit() || (arch == Arch::X86_64 && call.number & X32_BIT != 0) {
        return RET_KILL_PROCESS;
    }
    let rule = arch.name(call.number).and_then(|name| {
        policy.rules.iter().find(|rule| rule.calls.iter().any(|listed| listed == name))
    });
    let Some(rule) = rule else { return policy.default.ret() };
    let matching = rule.arms.iter().find(|arm| {
        arm.all.iter().all(|condition| condition.holds(call.args[usize::from(condition.arg)]))
    });
    matching.map_or(rule.otherwise, |arm| arm.action).ret()
}
