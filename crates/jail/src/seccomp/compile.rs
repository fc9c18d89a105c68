//! Compiles a policy to a classic BPF program for seccomp.
//!
//! The program is built from its end to its beginning. Every jump of BPF goes forward, so its targets
//! are there already and their distance is known, and the decisions that are needed everywhere (allow,
//! notify, the default) are shared by all jumps within reach. A conditional jump reaches 255
//! instructions; for a farther target a decision is simply repeated, and code is reached by way of an
//! unconditional jump, which takes 32 bits.

use std::collections::HashMap;

use super::policy::{Arm, Condition, Policy, PolicyError, Test, Width};
use super::{Arch, RET_KILL_PROCESS, X32_BIT};

pub use crate::fences::Instruction;

/// The longest program the kernel takes (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;

/// `BPF_LD | BPF_W | BPF_ABS`: load a word of the call's data.
pub(super) const LOAD: u16 = 0x20;
/// `BPF_ALU | BPF_AND | BPF_K`.
pub(super) const AND: u16 = 0x54;
/// `BPF_JMP | BPF_JA`: jump always.
pub(super) const JUMP: u16 = 0x05;
/// `BPF_JMP | BPF_JEQ | BPF_K`.
pub(super) const JUMP_EQ: u16 = 0x15;
/// `BPF_JMP | BPF_JGT | BPF_K`, unsigned.
pub(super) const JUMP_GT: u16 = 0x25;
/// `BPF_JMP | BPF_JGE | BPF_K`, unsigned.
pub(super) const JUMP_GE: u16 = 0x35;
/// `BPF_JMP | BPF_JSET | BPF_K`: jump if any bit is set.
pub(super) const JUMP_SET: u16 = 0x45;
/// `BPF_RET | BPF_K`.
pub(super) const RETURN: u16 = 0x06;

/// Where the kernel puts the call's number (`struct seccomp_data`).
const OFFSET_NUMBER: u32 = 0;
/// Where it puts the architecture.
const OFFSET_ARCH: u32 = 4;
/// Where it puts the first of six 64-bit arguments.
const OFFSET_ARGS: u32 = 16;

/// A program the kernel can install as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program(Vec<Instruction>);

impl Program {
    /// The instructions in order of execution: at least one, at most [`MAX_INSTRUCTIONS`].
    pub fn instructions(&self) -> &[Instruction] {
        &self.0
    }
}

#[cfg(test)]
impl Program {
    /// A program that no compiler made, to test the simulator.
    pub(super) fn from_raw(instructions: Vec<Instruction>) -> Self {
        Self(instructions)
    }
}

impl Policy {
    /// Compiles the policy for `arch`. Calls of every other architecture are killed.
    pub fn compile(&self, arch: Arch) -> Result<Program, PolicyError> {
        let mut code = Assembler::default();
        let ranges = self.ranges(arch);
        let tree = code.tree(self, &ranges);
        let kill = Target::Return(RET_KILL_PROCESS);
        let known = match arch {
            Arch::X86_64 => code.branch(JUMP_SET, X32_BIT, kill, tree),
            Arch::Aarch64 => tree,
        };
        let number = code.load(OFFSET_NUMBER, known);
        let check = code.branch(JUMP_EQ, arch.audit(), number, kill);
        code.load(OFFSET_ARCH, check);
        code.finish()
    }

    /// Covers all numbers with ranges, each of which has one leaf and differs from its neighbours.
    fn ranges(&self, arch: Arch) -> Vec<Range> {
        let by_number = self.by_number(arch);
        let leaf = |number: &u32| match by_number.get(number) {
            Some(&rule) if self.rules[rule].arms.is_empty() => {
                Leaf::Return(self.rules[rule].otherwise.ret())
            }
            Some(&rule) => Leaf::Arguments(rule),
            None => Leaf::Return(self.default.ret()),
        };
        // A leaf can change only at a number that is named and at the one after it.
        let mut starts: Vec<u32> =
            by_number.keys().flat_map(|&number| [number, number + 1]).chain([0]).collect();
        starts.sort_unstable();
        let mut ranges: Vec<Range> =
            starts.iter().map(|&start| Range { start, leaf: leaf(&start) }).collect();
        ranges.dedup_by(|next, previous| next.leaf == previous.leaf);
        ranges
    }
}

/// Numbers from `start` up to the next range.
struct Range {
    start: u32,
    leaf: Leaf,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaf {
    /// A decision by number alone.
    Return(u32),
    /// The rule with this index looks at the arguments.
    Arguments(usize),
}

/// Where a jump can go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Target {
    /// Any instruction that returns this value.
    Return(u32),
    /// An instruction, by its place counted from the program's end.
    At(usize),
}

/// How far a conditional jump reaches.
const REACH: usize = 255;

/// Instructions in reverse order.
#[derive(Default)]
struct Assembler {
    reversed: Vec<Instruction>,
    /// The latest place of each returned value.
    returns: HashMap<u32, usize>,
    /// The code of each rule that looks at arguments.
    rules: HashMap<usize, Target>,
}

impl Assembler {
    fn finish(mut self) -> Result<Program, PolicyError> {
        self.reversed.reverse();
        match self.reversed.len() {
            0..=MAX_INSTRUCTIONS => Ok(Program(self.reversed)),
            length => Err(PolicyError::TooLong(length)),
        }
    }

    /// Puts an instruction in front of the program.
    fn push(&mut self, code: u16, k: u32, jt: u8, jf: u8) -> Target {
        self.reversed.push(Instruction { code, jt, jf, k });
        Target::At(self.reversed.len() - 1)
    }

    /// How many instructions lie between `place` and the one that is pushed next.
    fn distance(&self, place: usize) -> usize {
        self.reversed.len() - place - 1
    }

    /// A place that leads to `target` and stays in reach when one more instruction comes in between.
    fn near(&mut self, target: Target) -> usize {
        match target {
            Target::At(place) if self.distance(place) < REACH => place,
            Target::At(place) => {
                let far = u32::try_from(self.distance(place)).unwrap_or(u32::MAX);
                self.push(JUMP, far, 0, 0);
                self.reversed.len() - 1
            }
            Target::Return(value) => match self.returns.get(&value) {
                Some(&place) if self.distance(place) < REACH => place,
                _ => {
                    self.push(RETURN, value, 0, 0);
                    let place = self.reversed.len() - 1;
                    self.returns.insert(value, place);
                    place
                }
            },
        }
    }

    /// Jumps to `yes` if the comparison of the accumulator with `k` holds, else to `no`.
    fn branch(&mut self, code: u16, k: u32, yes: Target, no: Target) -> Target {
        if yes == no {
            return yes;
        }
        // The second may push one instruction, which is what `near` leaves room for.
        let (yes, no) = (self.near(yes), self.near(no));
        let offset = |place| {
            u8::try_from(self.distance(place))
                .expect("`near` keeps targets within 255 instructions")
        };
        let (jt, jf) = (offset(yes), offset(no));
        self.push(code, k, jt, jf)
    }

    /// Makes `next` the instruction that follows the one pushed next.
    fn fall_through(&mut self, next: Target) {
        let place = self.near(next);
        if self.distance(place) != 0 {
            let distance = u32::try_from(self.distance(place)).unwrap_or(u32::MAX);
            self.push(JUMP, distance, 0, 0);
        }
    }

    /// Loads the word at `offset` of the call's data, then goes on at `next`.
    fn load(&mut self, offset: u32, next: Target) -> Target {
        self.fall_through(next);
        self.push(LOAD, offset, 0, 0)
    }

    /// Searches the range that holds the number in the accumulator.
    fn tree(&mut self, policy: &Policy, ranges: &[Range]) -> Target {
        if let [only] = ranges {
            return match only.leaf {
                Leaf::Return(value) => Target::Return(value),
                Leaf::Arguments(rule) => self.rule(policy, rule),
            };
        }
        let (low, high) = ranges.split_at(ranges.len() / 2);
        let above = self.tree(policy, high);
        let below = self.tree(policy, low);
        self.branch(JUMP_GE, high[0].start, above, below)
    }

    /// Tries the arms of a rule in order. Calls that share a rule share its code.
    fn rule(&mut self, policy: &Policy, index: usize) -> Target {
        if let Some(&target) = self.rules.get(&index) {
            return target;
        }
        let rule = &policy.rules[index];
        let otherwise = Target::Return(rule.otherwise.ret());
        let target = rule.arms.iter().rev().fold(otherwise, |next, arm| self.arm(arm, next));
        self.rules.insert(index, target);
        target
    }

    fn arm(&mut self, arm: &Arm, no: Target) -> Target {
        let action = Target::Return(arm.action.ret());
        arm.all.iter().rev().fold(action, |yes, condition| self.condition(condition, yes, no))
    }

    fn condition(&mut self, condition: &Condition, yes: Target, no: Target) -> Target {
        let word = Words { arg: u32::from(condition.arg), width: condition.width };
        match &condition.test {
            Test::Eq(value) => self.equal(word, &[*value], yes, no),
            Test::Ne(value) => self.equal(word, &[*value], no, yes),
            Test::OneOf(values) => self.equal(word, values, yes, no),
            Test::Gt(value) => self.ordered(word, JUMP_GT, *value, yes, no),
            Test::Ge(value) => self.ordered(word, JUMP_GE, *value, yes, no),
            Test::Le(value) => self.ordered(word, JUMP_GT, *value, no, yes),
            Test::Lt(value) => self.ordered(word, JUMP_GE, *value, no, yes),
            Test::MaskedEq { mask, value } => {
                let rest = self.masked(word.low(), low(*mask), low(*value), yes, no);
                match word.high() {
                    Some(offset) => self.masked(offset, high(*mask), high(*value), rest, no),
                    None => rest,
                }
            }
        }
    }

    /// Whether the argument is one of `values`.
    fn equal(&mut self, word: Words, values: &[u64], yes: Target, no: Target) -> Target {
        let Some(offset) = word.high() else {
            let lows: Vec<u32> = values.iter().map(|value| low(*value)).collect();
            return self.equal_word(word.low(), &lows, yes, no);
        };
        let mut highs: Vec<u32> = values.iter().map(|value| high(*value)).collect();
        highs.sort_unstable();
        highs.dedup();
        // Each high half leads to its own set of low halves, which does not come back: by then the
        // accumulator holds the other half.
        let mut next = no;
        for half in highs {
            let lows: Vec<u32> = values
                .iter()
                .filter(|value| high(**value) == half)
                .map(|value| low(*value))
                .collect();
            let found = self.equal_word(word.low(), &lows, yes, no);
            next = self.equal_word(offset, &[half], found, next);
        }
        next
    }

    /// Whether the word at `offset` is one of `values`: one load, then a chain.
    fn equal_word(&mut self, offset: u32, values: &[u32], yes: Target, no: Target) -> Target {
        let chain =
            values.iter().rev().fold(no, |next, value| self.branch(JUMP_EQ, *value, yes, next));
        if chain == no { no } else { self.load(offset, chain) }
    }

    /// Whether the argument compares with `value` as `code` says.
    fn ordered(&mut self, word: Words, code: u16, value: u64, yes: Target, no: Target) -> Target {
        let compared = self.branch(code, low(value), yes, no);
        let low_half = if yes == no { yes } else { self.load(word.low(), compared) };
        let Some(offset) = word.high() else { return low_half };
        // The high half decides unless it is equal.
        let tie = self.branch(JUMP_EQ, high(value), low_half, no);
        let decided = self.branch(JUMP_GT, high(value), yes, tie);
        if yes == no { yes } else { self.load(offset, decided) }
    }

    /// Whether the word at `offset` has `value` in the bits of `mask`.
    fn masked(&mut self, offset: u32, mask: u32, value: u32, yes: Target, no: Target) -> Target {
        if mask == 0 || yes == no {
            return yes;
        }
        let test = if value == 0 {
            self.branch(JUMP_SET, mask, no, yes)
        } else {
            let compare = self.branch(JUMP_EQ, value, yes, no);
            self.fall_through(compare);
            self.push(AND, mask, 0, 0)
        };
        self.load(offset, test)
    }
}

/// The halves of an argument in the call's data; both architectures are little-endian.
#[derive(Clone, Copy)]
struct Words {
    arg: u32,
    width: Width,
}

impl Words {
    fn low(self) -> u32 {
        OFFSET_ARGS + 8 * self.arg
    }

    /// The high half, if the condition looks at it.
    fn high(self) -> Option<u32> {
        match self.width {
            Width::Low32 => None,
            Width::Full64 => Some(self.low() + 4),
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
fn low(value: u64) -> u32 {
    value as u32
}

fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::super::simulate::{CallData, simulate};
    use super::*;

    /// No policy so far makes a load go on anywhere but at the latest instruction.
    #[test]
    fn a_load_reaches_a_target_at_any_distance() {
        for between in [0, 1, 2, 254, 255, 256, 1000] {
            let mut code = Assembler::default();
            let target = code.push(RETURN, 7, 0, 0);
            for _ in 0..between {
                code.push(RETURN, 8, 0, 0);
            }
            let other = code.push(RETURN, 9, 0, 0);
            let loaded = code.load(OFFSET_ARCH, target);
            let start = code.branch(JUMP_EQ, 0, loaded, other);
            assert!(start == Target::At(code.reversed.len() - 1));
            let value = simulate(&code.finish().unwrap(), &CallData::default()).unwrap().value;
            assert_eq!(value, 7, "{between} instructions between");
        }
    }
}
