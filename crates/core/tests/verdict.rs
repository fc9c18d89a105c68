//! The verdict over the whole lattice of evidence.

use ampoule_core::{
    Culprit, DeniedCall, DiskEvidence, Evidence, Exit, FrameEvidence, LimitKind, MemoryEvidence,
    Meters, NetworkEvidence, Outcome, ProcessEvidence, ProgramError, StopReason, Verdict, verdict,
};
use proptest::prelude::*;

fn frames() -> impl Strategy<Value = FrameEvidence> {
    prop_oneof![
        Just(FrameEvidence::Absent),
        Just(FrameEvidence::Value),
        ("[A-Za-z]{0,12}", ".{0,40}").prop_map(|(kind, message)| FrameEvidence::Error(
            ProgramError { kind, message, line: None }
        )),
        ".{0,20}".prop_map(FrameEvidence::Malformed),
    ]
}

prop_compose! {
    fn evidences()(
        exit in prop::option::of(prop_oneof![(0..256_i32).prop_map(Exit::Code), (1..65_i32).prop_map(Exit::Signal)]),
        stopped in prop::option::of(prop::sample::select(vec![
            StopReason::Result, StopReason::Wall, StopReason::Cpu, StopReason::Output,
            StopReason::Cancelled, StopReason::Platform, StopReason::NetworkHelper, StopReason::Memory, StopReason::Processes,
        ])),
        frame in frames(),
        oom_kills in 0..3_u64, peak in prop::option::of(0..300_u64), heap_aborts: bool,
        inherited in prop::option::of(0..100_u64),
        refused in 0..2_u64, watched: bool, most in prop::option::of(0..100_u64), full: bool, unroutable in 0..2_u64,
        denied in prop::collection::vec("[a-z]{1,8}", 0..3),
    ) -> Evidence {
        Evidence {
            exit, stopped, frame,
            memory: MemoryEvidence { oom_kills, peak, inherited, limit: 256, heap_aborts },
            meters: if watched { Meters::Watch } else { Meters::CgroupV2 },
            processes: ProcessEvidence { refused, peak: most.filter(|_| watched), limit: 64 },
            disk: DiskEvidence { full },
            network: NetworkEvidence { unroutable, unheard: 0 },
            denied: denied.into_iter().map(|name| DeniedCall { name, count: 1, probe: false }).collect(),
            ..Evidence::default()
        }
    }
}

proptest! {
    /// What the program says of itself never moves a verdict from one kind to another.
    #[test]
    fn claims_never_decide(mut evidence in evidences(), kind in ".{0,20}", message in ".{0,40}") {
        prop_assume!(matches!(evidence.frame, FrameEvidence::Error(_)));
        let before = std::mem::discriminant(&outcome_kind(&verdict(&evidence)));
        evidence.frame = FrameEvidence::Error(ProgramError { kind, message, line: Some(1) });
        prop_assert_eq!(before, std::mem::discriminant(&outcome_kind(&verdict(&evidence))));
    }

    /// An exit code alone never makes a limit, a denial or a success.
    #[test]
    fn exit_codes_are_the_programs_own(code in 0..256_i32) {
        let evidence = Evidence { exit: Some(Exit::Code(code)), ..Evidence::default() };
        prop_assert_eq!(
            verdict(&evidence),
            Verdict::Ended(Outcome::Failed { exit_code: Some(code), signal: None, error: None })
        );
    }

    /// A signal that nobody sent as a limit stays a signal.
    #[test]
    fn signals_are_not_limits(signal in 1..65_i32) {
        let evidence = Evidence { exit: Some(Exit::Signal(signal)), ..Evidence::default() };
        prop_assert_eq!(
            verdict(&evidence),
            Verdict::Ended(Outcome::Failed { exit_code: None, signal: Some(signal), error: None })
        );
    }

    /// Success needs exactly one value frame, and nothing of ours that ended the run earlier.
    #[test]
    fn success_needs_a_value(evidence in evidences()) {
        if verdict(&evidence) == Verdict::Ended(Outcome::Succeeded) {
            prop_assert_eq!(&evidence.frame, &FrameEvidence::Value);
            prop_assert!(matches!(evidence.stopped, None | Some(StopReason::Result)));
        }
    }

    /// A limit or a denial is never claimed without a fact that shows it.
    #[test]
    fn limits_and_denials_have_a_fact(evidence in evidences()) {
        match verdict(&evidence) {
            Verdict::Ended(Outcome::LimitExceeded { limit }) => {
                let shown = match limit {
                    LimitKind::Time => evidence.stopped == Some(StopReason::Wall),
                    LimitKind::Cpu => evidence.stopped == Some(StopReason::Cpu),
                    LimitKind::Output => evidence.stopped == Some(StopReason::Output),
                    LimitKind::Memory => evidence.memory.oom_kills > 0
                        || evidence.stopped == Some(StopReason::Memory)
                        || evidence.memory.heap_aborts,
                    LimitKind::Processes => {
                        evidence.processes.refused > 0
                            || (evidence.meters == Meters::Watch
                                && evidence.processes.peak > Some(64))
                            || evidence.stopped == Some(StopReason::Processes)
                    }
                    LimitKind::Disk => evidence.disk.full,
                };
                prop_assert!(shown, "{:?}", evidence);
            }
            Verdict::Ended(Outcome::Denied { what }) => {
                prop_assert!(!what.is_empty());
                prop_assert!(!evidence.denied.is_empty() || evidence.network.unroutable > 0);
            }
            Verdict::PlatformFailed { .. } => {
                let short = evidence.memory.oom_kills > 0 || evidence.processes.refused > 0;
                prop_assert!(
                    evidence.exit.is_none()
                        || matches!(
                            evidence.stopped,
                            Some(StopReason::Platform | StopReason::NetworkHelper)
                        )
                        || short
                );
            }
            Verdict::Ended(_) => {}
        }
    }
}

fn outcome_kind(verdict: &Verdict) -> Option<Outcome> {
    match verdict {
        Verdict::Ended(outcome) => Some(outcome.clone()),
        Verdict::PlatformFailed { .. } => None,
    }
}

#[test]
fn a_heap_that_aborts_at_its_limit_is_memory_and_elsewhere_a_signal() {
    let aborted = |peak| Evidence {
        exit: Some(Exit::Signal(6)),
        memory: MemoryEvidence {
            peak: Some(peak),
            limit: 100,
            heap_aborts: true,
            ..MemoryEvidence::default()
        },
        ..Evidence::default()
    };
    assert_eq!(verdict(&aborted(70)).culprit(), Culprit::Limit);
    assert_eq!(verdict(&aborted(20)).culprit(), Culprit::Program);
    // What a forked interpreter began with is in its heap too, and in no peak.
    let mut forked = aborted(60);
    forked.memory.inherited = Some(9);
    assert_eq!(verdict(&forked).culprit(), Culprit::Program);
    forked.memory.inherited = Some(10);
    assert_eq!(verdict(&forked).culprit(), Culprit::Limit);
}

#[test]
fn what_an_interpreter_tries_by_itself_does_not_decide() {
    let tried = |probe| Evidence {
        exit: Some(Exit::Code(1)),
        denied: vec![DeniedCall { name: "io_uring_setup".into(), count: 1, probe }],
        ..Evidence::default()
    };
    assert_eq!(verdict(&tried(true)).culprit(), Culprit::Program);
    assert_eq!(verdict(&tried(false)).culprit(), Culprit::Policy);
}

#[test]
fn an_error_before_a_good_end_is_exit_code_1() {
    let code = |frame| {
        let evidence = Evidence { exit: Some(Exit::Code(0)), frame, ..Evidence::default() };
        match verdict(&evidence) {
            Verdict::Ended(Outcome::Failed { exit_code, .. }) => exit_code,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(code(FrameEvidence::Error(ProgramError::default())), Some(1));
    assert_eq!(code(FrameEvidence::Malformed("rubbish".into())), Some(0));
    assert_eq!(code(FrameEvidence::Absent), Some(0));
}

#[test]
fn a_machine_that_is_short_is_not_the_programs_limit() {
    let killed = |peak| Evidence {
        exit: Some(Exit::Signal(9)),
        memory: MemoryEvidence { oom_kills: 1, peak, limit: 100, ..MemoryEvidence::default() },
        ..Evidence::default()
    };
    assert_eq!(verdict(&killed(Some(99))).culprit(), Culprit::Limit);
    assert_eq!(verdict(&killed(None)).culprit(), Culprit::Limit);
    assert_eq!(verdict(&killed(Some(20))).culprit(), Culprit::Platform);
    let refused = |peak| Evidence {
        exit: Some(Exit::Code(1)),
        processes: ProcessEvidence { refused: 1, peak, limit: 64 },
        ..Evidence::default()
    };
    assert_eq!(verdict(&refused(Some(64))).culprit(), Culprit::Limit);
    assert_eq!(verdict(&refused(Some(10))).culprit(), Culprit::Platform);
}
