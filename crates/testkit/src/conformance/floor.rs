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
