//! Reads a system-call policy from JSON and refuses one that is unclear.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::{Arch, RET_ALLOW, RET_ERRNO, RET_USER_NOTIF};

/// The policy that is built in.
/// The text of the built-in policy.
pub const DEFAULT_POLICY: &str = include_str!("../../../../policies/seccomp.json");

/// The only layout of a policy file so far.
const VERSION: u32 = 1;

/// `ENOSYS` on every architecture of the table.
const ENOSYS: u16 = 38;

/// The largest error number the kernel returns for a filter (`MAX_ERRNO`).
const MAX_ERRNO: u16 = 4095;

/// A validated policy: which system calls run, which are refused and which are reported.
#[derive(Clone, Debug)]
pub struct Policy {
    pub(super) default: Action,
    pub(super) rules: Vec<Rule>,
    /// Rules that come before those, where a watch counts memory.
    watched: Vec<Rule>,
    digest: String,
}

/// The reason a policy is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The text is not JSON, or its outermost layer has the wrong shape.
    #[error("read the system-call policy")]
    Json(#[source] serde_json::Error),
    /// One rule has the wrong shape.
    #[error("read rule {rule} of the system-call policy")]
    Shape {
        /// Which rule: its place and its first call.
        rule: String,
        /// What the parser says; lines count from the start of the rule.
        #[source]
        source: serde_json::Error,
    },
    /// One rule has the right shape and makes no sense.
    #[error("accept rule {rule} of the system-call policy: {problem}")]
    Rule {
        /// Which rule: its place and its first call, or `default`, `foreign_architecture`, `x32`.
        rule: String,
        /// What is wrong with it.
        problem: Problem,
    },
    /// The file is of a layout this program does not know.
    #[error("accept the system-call policy: version {0} is unknown; hint: this program reads 1")]
    Version(u32),
    /// The compiled program is longer than the kernel takes.
    #[error(
        "compile the system-call policy: {0} instructions, and the kernel takes at most 4096; hint: use fewer rules with arguments"
    )]
    TooLong(usize),
}

/// What is wrong with a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// It gives no reason.
    #[error("`reason` is missing or empty")]
    NoReason,
    /// An arm gives no reason.
    #[error("arm {0} of `when` has no `reason`")]
    NoArmReason(usize),
    /// It names no call.
    #[error("`calls` is empty")]
    NoCalls,
    /// No architecture of the table has a call of that name.
    #[error("unknown system call `{0}`")]
    UnknownCall(String),
    /// The call is in this rule or an earlier one already.
    #[error("`{0}` is listed twice")]
    DuplicateCall(String),
    /// Neither an action nor arms, or both.
    #[error("give either `action`, or `when` and `otherwise`")]
    ActionOrArms,
    /// An error number outside 1 to 4095.
    #[error("errno {0} is not between 1 and 4095")]
    BadErrno(u16),
    /// The default lets calls through that nobody named.
    #[error("the default must refuse; hint: use `enosys`")]
    DefaultAllows,
    /// An arm without conditions would hide all that follow.
    #[error("arm {0} of `when` has no conditions; hint: use `otherwise`")]
    NoConditions(usize),
    /// An arm repeats the conditions of an earlier one.
    #[error("arm {arm} of `when` is never reached, it repeats arm {earlier}")]
    Unreachable {
        /// The later arm, counted from 0.
        arm: usize,
        /// The earlier arm.
        earlier: usize,
    },
    /// A condition cannot hold, cannot fail, or cannot be expressed.
    #[error("condition {condition} in arm {arm} of `when`: {why}")]
    Condition {
        /// The arm, counted from 0.
        arm: usize,
        /// The condition, counted from 0.
        condition: usize,
        /// What is wrong with it.
        why: String,
    },
}

/// What happens to a call. To kill is not among them: a program can send itself SIGSYS, so a kill
/// proves nothing, and it is kept for calling conventions that cannot be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Action {
    Allow,
    Notify,
    Enosys,
    Errno(u16),
}

impl Action {
    /// The value a filter returns for it.
    pub(super) fn ret(self) -> u32 {
        match self {
            Self::Allow => RET_ALLOW,
            Self::Notify => RET_USER_NOTIF,
            Self::Enosys => RET_ERRNO | u32::from(ENOSYS),
            Self::Errno(errno) => RET_ERRNO | u32::from(errno),
        }
    }

    fn check(self) -> Result<(), Problem> {
        match self {
            Self::Errno(errno) if !(1..=MAX_ERRNO).contains(&errno) => {
                Err(Problem::BadErrno(errno))
            }
            _ => Ok(()),
        }
    }
}

/// Calls that share a decision.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) calls: Vec<String>,
    pub(super) arms: Vec<Arm>,
    /// What happens when no arm matches, or always where there is none.
    pub(super) otherwise: Action,
}

/// A decision for arguments that meet all conditions.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Arm {
    pub(super) all: Vec<Condition>,
    pub(super) action: Action,
    #[serde(default)]
    reason: String,
}

/// A test of one argument.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "RawCondition")]
pub(super) struct Condition {
    pub(super) arg: u8,
    pub(super) width: Width,
    pub(super) test: Test,
}

/// How much of an argument the kernel reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Width {
    Low32,
    Full64,
}

impl Width {
    pub(super) fn max(self) -> u64 {
        match self {
            Self::Low32 => u64::from(u32::MAX),
            Self::Full64 => u64::MAX,
        }
    }
}

/// The comparisons, all unsigned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Test {
    Eq(u64),
    Ne(u64),
    Lt(u64),
    Le(u64),
    Gt(u64),
    Ge(u64),
    MaskedEq { mask: u64, value: u64 },
    OneOf(Vec<u64>),
}

impl Condition {
    /// Whether an argument meets the condition.
    pub(super) fn holds(&self, argument: u64) -> bool {
        let seen = argument & self.width.max();
        match &self.test {
            Test::Eq(value) => seen == *value,
            Test::Ne(value) => seen != *value,
            Test::Lt(value) => seen < *value,
            Test::Le(value) => seen <= *value,
            Test::Gt(value) => seen > *value,
            Test::Ge(value) => seen >= *value,
            Test::MaskedEq { mask, value } => seen & mask == *value,
            Test::OneOf(values) => values.contains(&seen),
        }
    }

    /// Says what is wrong with the condition taken alone.
    fn fault(&self) -> Option<String> {
        let max = self.width.max();
        let too_wide = |value: &u64| *value > max;
        if self.arg > 5 {
            return Some(format!("a call has arguments 0 to 5, not {}", self.arg));
        }
        let wide = match &self.test {
            Test::Eq(value)
            | Test::Ne(value)
            | Test::Lt(value)
            | Test::Le(value)
            | Test::Gt(value)
            | Test::Ge(value) => too_wide(value),
            Test::MaskedEq { mask, value } => too_wide(mask) || too_wide(value),
            Test::OneOf(values) => values.iter().any(too_wide),
        };
        let why = match &self.test {
            _ if wide => "a value does not fit in 32 bits",
            Test::Lt(0) => "nothing is less than 0",
            Test::Gt(value) if *value == max => "nothing is greater than the largest value",
            Test::Ge(0) => "everything is at least 0",
            Test::Le(value) if *value == max => "everything is at most the largest value",
            Test::MaskedEq { mask: 0, .. } => "the mask is 0",
            Test::MaskedEq { mask, value } if value & !mask != 0 => {
                "the value has bits outside the mask"
            }
            Test::OneOf(values) if values.is_empty() => "`values` is empty",
            Test::OneOf(values) if values.iter().collect::<HashSet<_>>().len() < values.len() => {
                "two names have one value"
            }
            _ => return None,
        };
        Some(why.to_owned())
    }

    /// The values that alone can meet the condition, if they are few.
    fn candidates(&self) -> Option<&[u64]> {
        match &self.test {
            Test::Eq(value) => Some(std::slice::from_ref(value)),
            Test::OneOf(values) => Some(values),
            _ => None,
        }
    }

    /// Whether this condition names values and `other` excludes every one of them.
    fn excluded_by(&self, other: &Self) -> bool {
        // The high half of a value known in its low half only may still please a 64-bit test.
        let comparable = self.arg == other.arg && self.width >= other.width;
        comparable
            && self.candidates().is_some_and(|known| known.iter().all(|value| !other.holds(*value)))
    }
}

impl Policy {
    /// The policy of `policies/seccomp.json`, as it was when this program was built.
    ///
    /// # Panics
    ///
    /// Never in a released build: a test parses the same text.
    pub fn default_policy() -> Self {
        Self::parse(DEFAULT_POLICY).expect("the built-in policy is valid; a test parses it")
    }

    /// Parses and validates a policy. Errors name the rule.
    pub fn parse(json: &str) -> Result<Self, PolicyError> {
        let raw: RawPolicy = serde_json::from_str(json).map_err(PolicyError::Json)?;
        if raw.version != VERSION {
            return Err(PolicyError::Version(raw.version));
        }
        let refuse = |rule: &str, problem| PolicyError::Rule { rule: rule.to_owned(), problem };
        for (name, reason) in [
            ("`default`", &raw.default.reason),
            ("`foreign_architecture`", &raw.foreign_architecture.reason),
            ("`x32`", &raw.x32.reason),
        ] {
            if reason.trim().is_empty() {
                return Err(refuse(name, Problem::NoReason));
            }
        }
        // Neither kill is stored: their type has one value, which the compiler always applies.
        let (KillOnly::Kill, KillOnly::Kill) = (raw.foreign_architecture.action, raw.x32.action);
        raw.default.action.check().map_err(|problem| refuse("`default`", problem))?;
        if raw.default.action == Action::Allow {
            return Err(refuse("`default`", Problem::DefaultAllows));
        }
        let read = |list: &[Box<RawValue>]| {
            let mut seen = HashSet::new();
            let mut rules = Vec::with_capacity(list.len());
            for (index, text) in list.iter().enumerate() {
                let rule: RawRule = serde_json::from_str(text.get())
                    .map_err(|source| PolicyError::Shape { rule: label(index, text), source })?;
                let rule = rule.check(&mut seen);
                rules.push(rule.map_err(|problem| refuse(&label(index, text), problem))?);
            }
            Ok(rules)
        };
        let (rules, watched) = (read(&raw.rules)?, read(&raw.watched)?);
        let digest = Sha256::digest(json).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { default: raw.default.action, rules, watched, digest })
    }

    /// The policy where a watch counts memory and no control group does: `watched` rules come before
    /// the others of their calls, and decide alone if they have no conditions.
    #[must_use]
    pub fn watched(mut self) -> Self {
        for narrower in std::mem::take(&mut self.watched) {
            for call in &narrower.calls {
                let mut arms = narrower.arms.clone();
                let mut otherwise = narrower.otherwise;
                for rule in self.rules.iter_mut().filter(|rule| rule.calls.contains(call)) {
                    rule.calls.retain(|name| name != call);
                    if !arms.is_empty() {
                        arms.extend(rule.arms.iter().cloned());
                        otherwise = rule.otherwise;
                    }
                }
                self.rules.push(Rule { calls: vec![call.clone()], arms, otherwise });
            }
        }
        self
    }

    /// The SHA-256 of the policy's text, as 64 hexadecimal digits.
    pub fn digest(&self) -> String {
        self.digest.clone()
    }

    /// The name of the call `number` on `arch`, if the table has it.
    pub fn name_of(arch: Arch, number: u32) -> Option<&'static str> {
        arch.name(number)
    }

    /// The rules that name a call of `arch`, by its number.
    pub(super) fn by_number(&self, arch: Arch) -> HashMap<u32, usize> {
        let numbered = |(index, rule): (usize, &Rule)| {
            rule.calls
                .iter()
                .filter_map(|name| arch.number(name))
                .map(|number| (number, index))
                .collect::<Vec<_>>()
        };
        self.rules.iter().enumerate().flat_map(numbered).collect()
    }
}

/// Names a rule by its place and its first call, as far as its text gives one.
fn label(index: usize, text: &RawValue) -> String {
    let value: serde_json::Value = serde_json::from_str(text.get()).unwrap_or_default();
    match value["calls"][0].as_str() {
        Some(call) => format!("{index} (`{call}`)"),
        None => index.to_string(),
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    version: u32,
    #[serde(default, rename = "about")]
    _about: String,
    default: RawDecision<Action>,
    foreign_architecture: RawDecision<KillOnly>,
    x32: RawDecision<KillOnly>,
    rules: Vec<Box<RawValue>>,
    #[serde(default)]
    watched: Vec<Box<RawValue>>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDecision<A> {
    action: A,
    #[serde(default)]
    reason: String,
}

#[derive(Clone, Copy, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum KillOnly {
    Kill,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    calls: Vec<String>,
    action: Option<Action>,
    when: Option<Vec<Arm>>,
    otherwise: Option<Action>,
    #[serde(default)]
    reason: String,
}

impl RawRule {
    fn check(self, seen: &mut HashSet<String>) -> Result<Rule, Problem> {
        if self.reason.trim().is_empty() {
            return Err(Problem::NoReason);
        }
        if self.calls.is_empty() {
            return Err(Problem::NoCalls);
        }
        for call in &self.calls {
            if !Arch::ALL.iter().any(|arch| arch.number(call).is_some()) {
                return Err(Problem::UnknownCall(call.clone()));
            }
            if !seen.insert(call.clone()) {
                return Err(Problem::DuplicateCall(call.clone()));
            }
        }
        let (arms, otherwise) = match (self.action, self.when, self.otherwise) {
            (Some(action), None, None) => (Vec::new(), action),
            (None, Some(arms), Some(otherwise)) if !arms.is_empty() => (arms, otherwise),
            _ => return Err(Problem::ActionOrArms),
        };
        otherwise.check()?;
        for (index, arm) in arms.iter().enumerate() {
            arm.action.check()?;
            check_arm(index, arm)?;
            if let Some(earlier) = arms[..index].iter().position(|other| other.all == arm.all) {
                return Err(Problem::Unreachable { arm: index, earlier });
            }
        }
        Ok(Rule { calls: self.calls, arms, otherwise })
    }
}

fn check_arm(index: usize, arm: &Arm) -> Result<(), Problem> {
    if arm.reason.trim().is_empty() {
        return Err(Problem::NoArmReason(index));
    }
    if arm.all.is_empty() {
        return Err(Problem::NoConditions(index));
    }
    for (condition, one) in arm.all.iter().enumerate() {
        let contradiction =
            || arm.all.iter().position(|other| one.excluded_by(other)).map(contradicts);
        if let Some(why) = one.fault().or_else(contradiction) {
            return Err(Problem::Condition { arm: index, condition, why });
        }
    }
    Ok(())
}

fn contradicts(other: usize) -> String {
    format!("it contradicts condition {other}")
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCondition {
    arg: u8,
    width: u8,
    op: Op,
    value: Option<Number>,
    mask: Option<Number>,
    values: Option<Named>,
}

#[derive(Clone, Copy, Debug, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Op {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    MaskedEq,
    OneOf,
}

impl TryFrom<RawCondition> for Condition {
    type Error = String;

    fn try_from(raw: RawCondition) -> Result<Self, String> {
        let width = match raw.width {
            32 => Width::Low32,
            64 => Width::Full64,
            other => return Err(format!("`width` is 32 or 64, not {other}")),
        };
        let test = match (raw.op, raw.value, raw.mask, raw.values) {
            (Op::Eq, Some(Number(value)), None, None) => Test::Eq(value),
            (Op::Ne, Some(Number(value)), None, None) => Test::Ne(value),
            (Op::Lt, Some(Number(value)), None, None) => Test::Lt(value),
            (Op::Le, Some(Number(value)), None, None) => Test::Le(value),
            (Op::Gt, Some(Number(value)), None, None) => Test::Gt(value),
            (Op::Ge, Some(Number(value)), None, None) => Test::Ge(value),
            (Op::MaskedEq, Some(Number(value)), Some(Number(mask)), None) => {
                Test::MaskedEq { mask, value }
            }
            (Op::OneOf, None, None, Some(Named(values))) => Test::OneOf(values),
            (op, ..) => {
                return Err(format!(
                    "{op:?} takes other fields; hint: `one_of` takes `values`, `masked_eq` takes `mask` and `value`, the rest `value`"
                ));
            }
        };
        Ok(Self { arg: raw.arg, width, test })
    }
}

/// A number, written as JSON does or as `"0x…"`.
struct Number(u64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(untagged)]
        enum Written {
            Decimal(u64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Decimal(value) => Ok(Self(value)),
            Written::Text(text) => text
                .strip_prefix("0x")
                .and_then(|digits| u64::from_str_radix(digits, 16).ok())
                .map(Self)
                .ok_or_else(|| de::Error::custom(format!("`{text}` is not a number like 0x1f"))),
        }
    }
}

/// Values with their names: an object, in which a name may occur only once. A plain map would keep
/// the last of two in silence, and a value would go missing from the policy.
struct Named(Vec<u64>);

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Named;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object of names and numbers")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Named, M::Error> {
                let mut names = HashSet::new();
                let mut values = Vec::new();
                while let Some((name, Number(value))) = map.next_entry::<String, Number>()? {
                    if !names.insert(name.clone()) {
                        return Err(de::Error::custom(format!("`{name}` is listed twice")));
                    }
                    values.push(value);
                }
                Ok(Named(values))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}
