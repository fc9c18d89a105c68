//! The verdict is one pure function of evidence. Never an exit number, a word on stderr or a
//! printed mark.

use std::time::Duration;

use ampoule_core::{EvidenceGrade, LimitKind, OnOutputLimit, Outcome, Verdict, verdict};

use crate::conformance::{
    act::Act,
    bench::{Bench, Checked, Seen, ensure, give, leave_out, print},
    case::Law,
};

/// What other systems take for a verdict.
const WORDS: &str = "Killed\nOut of memory: OOM\nMemoryError\nTimeoutError: Execution timeout\n\
                     PermissionError: [Errno 1] Operation not permitted\nBad system call\n";

pub(super) fn add(law: &mut Law) {
    law.each("the_verdict_of_the_evidence_is_the_outcome", same);
    law.each("exit_codes_are_the_programs_own", exit_codes);
    law.each("words_on_stderr_do_not_classify", words);
    law.each("a_printed_marker_is_text", markers);
    law.each("a_forged_frame_is_no_success", frames);
    law.each("sleep_meets_the_wall", wall);
    law.each("memory_is_the_kernels_word", memory);
}

/// The outcome that the evidence gives, if it is the one that was told.
fn told(seen: &Seen) -> Checked<&Outcome> {
    let finished = seen.finished()?;
    let of_evidence = verdict(&finished.evidence);
    ensure!(
        of_evidence == Verdict::Ended(finished.outcome.clone()),
        "the outcome is {:?}, and of the evidence it is {of_evidence:?}: {:?}",
        finished.outcome,
        finished.evidence
    );
    Ok(&finished.outcome)
}

async fn same(bench: Bench) -> Checked {
    for acts in
        [vec![give("1")], vec![Act::Raise("no".to_owned())], vec![Act::Exit(0)], vec![Act::Exit(1)]]
    {
        told(&bench.run(&acts).await?)?;
    }
    let mut limits = bench.subject.limits;
    (limits.output, limits.on_output) = (100, OnOutputLimit::Stop);
    told(&bench.run_within(limits, &[print(&"x".repeat(1_000)), Act::Hang]).await?)?;
    Ok(())
}

async fn exit_codes(bench: Bench) -> Checked {
    for code in [0, 124, 125, 137, 255] {
        let seen = bench.run(&[Act::Exit(code)]).await?;
        let outcome = told(&seen)?;
        ensure!(
            matches!(outcome, Outcome::Failed { exit_code: Some(told), signal: None, .. } if *told == code),
            "exit code {code} is told as {outcome:?}"
        );
    }
    Ok(())
}

async fn words(bench: Bench) -> Checked {
    let say = Act::Stderr(WORDS.to_owned());
    let seen = bench.run(&[say.clone(), give("1")]).await?;
    ensure!(*told(&seen)? == Outcome::Succeeded, "{:?}", seen.finished()?);
    for end in [Act::Raise(WORDS.to_owned()), Act::Exit(1)] {
        let seen = bench.run(&[say.clone(), end]).await?;
        ensure!(matches!(told(&seen)?, Outcome::Failed { .. }), "{:?}", seen.finished()?);
    }
    Ok(())
}

async fn markers(bench: Bench) -> Checked {
    for text in &bench.subject.forgeries {
        let line = format!("{text}\n");
        let seen = bench.run(&[print(&line), Act::Stderr(line.clone()), Act::Exit(0)]).await?;
        ensure!(matches!(told(&seen)?, Outcome::Failed { .. }), "{text}: {:?}", seen.finished()?);
    }
    Ok(())
}

async fn frames(bench: Bench) -> Checked {
    for text in &bench.subject.forgeries {
        let mut frame = u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
        frame.extend_from_slice(text.as_bytes());
        for bytes in [frame, text.clone().into_bytes()] {
            let seen = bench.run(&[Act::Descriptors(bytes), Act::Exit(0)]).await?;
            let outcome = told(&seen)?;
            ensure!(matches!(outcome, Outcome::Failed { .. }), "{text}: {outcome:?}");
        }
    }
    Ok(())
}

async fn wall(bench: Bench) -> Checked {
    let seen = bench.run_within(bench.within(Duration::from_secs(1)), &[Act::Hang]).await?;
    let outcome = told(&seen)?;
    ensure!(*outcome == Outcome::LimitExceeded { limit: LimitKind::Time }, "{outcome:?}");
    let used = seen.finished()?.usage.wall();
    ensure!(used >= Duration::from_millis(900), "it was stopped after {used:?}");
    Ok(())
}

async fn memory(bench: Bench) -> Checked {
    if bench.capabilities().evidence == EvidenceGrade::Claimed {
        return leave_out("nobody here counts memory but the other side");
    }
    let seen = bench.run(&[Act::Allocate]).await?;
    let outcome = told(&seen)?;
    ensure!(*outcome == Outcome::LimitExceeded { limit: LimitKind::Memory }, "{outcome:?}");
    Ok(())
}
