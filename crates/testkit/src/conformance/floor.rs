//! The least grades that an isolation level may be declared with.
//!
//! A level is a promise about strangers' code, and a wall is worth little if its owner cannot end
//! what is behind it, or believes what it prints. So:
//!
//! | level | evidence | value channel | cancel | destroy | output of failures |
//! | --- | --- | --- | --- | --- | --- |
//! | `none` | any | any | any | any | any |
//! | `process`, `user_kernel` | daemon | nonce | instance | confirmed | kept |
//! | `micro_vm` | any | nonce | instance | any | kept |
//!
//! Walls on our own host have a supervisor there that saw the end and can confirm the removal. A
//! virtual machine may be a cloud's: its end and its removal are then the cloud's claim, and no
//! client can have better.

use ampoule_core::{
    CancelGrade, Capabilities, DestroyGrade, EvidenceGrade, IsolationLevel, ValueChannel,
};

/// What keeps these capabilities from their isolation level, one line each.
pub(super) fn shortfalls(capabilities: &Capabilities) -> Vec<String> {
    let level = capabilities.isolation;
    let ours = matches!(level, IsolationLevel::Process | IsolationLevel::UserKernel);
    let demands = [
        (
            ours && capabilities.evidence == EvidenceGrade::Claimed,
            "`evidence` is `claimed`, and at least `daemon` is needed",
        ),
        (
            level > IsolationLevel::None && capabilities.value_channel == ValueChannel::Shared,
            "`value_channel` is `shared`, and at least `nonce` is needed",
        ),
        (
            level > IsolationLevel::None && capabilities.cancel == CancelGrade::None,
            "`cancel` is `none`, and at least `instance` is needed",
        ),
        (
            ours && capabilities.destroy == DestroyGrade::Requested,
            "`destroy` is `requested`, and `confirmed` is needed",
        ),
        (
            level > IsolationLevel::None && !capabilities.output_on_failure,
            "`output_on_failure` is missing",
        ),
    ];
    demands
        .into_iter()
        .filter(|(short, _)| *short)
        .map(|(_, said)| format!("{said} for the level {level:?}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use ampoule_core::NetworkPolicy;

    use super::*;

    fn strong(isolation: IsolationLevel) -> Capabilities {
        Capabilities {
            languages: Vec::new(),
            templates: Vec::new(),
            isolation,
            evidence: EvidenceGrade::Daemon,
            value_channel: ValueChannel::Nonce,
            cancel: CancelGrade::Instance,
            destroy: DestroyGrade::Confirmed,
            output_on_failure: true,
            stream_output: false,
            artifacts: false,
            networks: vec![NetworkPolicy::None],
            network_hurdle: None,
            max_wall: Duration::from_secs(1),
            max_memory: 1,
            min_memory: BTreeMap::new(),
        }
    }

    /// Each grade, one lower, and whether the level forgives it.
    #[test]
    fn each_grade_below_the_floor_is_said() {
        let lower: [(fn(&mut Capabilities), _); 5] = [
            (|grades| grades.evidence = EvidenceGrade::Claimed, [0, 1, 1, 0]),
            (|grades| grades.value_channel = ValueChannel::Shared, [0, 1, 1, 1]),
            (|grades| grades.cancel = CancelGrade::None, [0, 1, 1, 1]),
            (|grades| grades.destroy = DestroyGrade::Requested, [0, 1, 1, 0]),
            (|grades| grades.output_on_failure = false, [0, 1, 1, 1]),
        ];
        let levels = [
            IsolationLevel::None,
            IsolationLevel::Process,
            IsolationLevel::UserKernel,
            IsolationLevel::MicroVm,
        ];
        for (place, level) in levels.into_iter().enumerate() {
            assert_eq!(shortfalls(&strong(level)), Vec::<String>::new());
            for (lower, expected) in lower {
                let mut grades = strong(level);
                lower(&mut grades);
                let expected: [usize; 4] = expected;
                assert_eq!(shortfalls(&grades).len(), expected[place], "{grades:?}");
            }
        }
    }
}
