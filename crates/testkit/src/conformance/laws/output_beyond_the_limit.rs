//! Beyond the output limit the rest is discarded and counted, and the program goes on; a policy may
//! stop it instead.

use ampoule_core::{LimitKind, Limits, OnOutputLimit, Outcome};

use crate::conformance::{
    act::Act,
    bench::{Bench, Checked, Seen, ensure, give, print},
    case::Law,
};

/// The limit of both streams together, and what each writes.
const LIMIT: u64 = 4_000;
const WRITTEN: usize = 10_000;

pub(super) fn add(law: &mut Law) {
    law.each("output_beyond_the_limit_is_discarded_and_counted", discarded);
    law.each("both_streams_share_the_limit", shared);
    law.each("a_policy_may_stop_at_the_output_limit", stopped);
}

fn limits(bench: &Bench, on_output: OnOutputLimit) -> Limits {
    Limits { output: LIMIT, on_output, ..bench.subject.limits }
}

/// What is kept is within the limit, and not much less: a part may be kept free for stderr.
fn bounded(seen: &Seen) -> Checked {
    let kept = seen.stdout().len() as u64;
    ensure!(kept <= LIMIT, "{kept} bytes are kept of at most {LIMIT}");
    ensure!(kept >= LIMIT / 2, "only {kept} bytes are kept of {LIMIT}");
    let counted = seen.finished()?.evidence.output;
    ensure!(counted.stdout == kept, "{kept} bytes came and {counted:?} is said");
    Ok(())
}

async fn discarded(bench: Bench) -> Checked {
    let acts = [print(&"x".repeat(WRITTEN)), give("7")];
    let seen = bench.run_within(limits(&bench, OnOutputLimit::Discard), &acts).await?;
    ensure!(*seen.outcome()? == Outcome::Succeeded, "{:?}", seen.finished()?);
    ensure!(seen.value()? == 7, "it did not go on: {seen:?}");
    bounded(&seen)?;
    let counted = seen.finished()?.evidence.output;
    ensure!(counted.stdout + counted.discarded == WRITTEN as u64, "{counted:?} of {WRITTEN}");
    Ok(())
}

async fn shared(bench: Bench) -> Checked {
    let text = "x".repeat(WRITTEN);
    let acts = [print(&text), Act::Stderr(text), give("7")];
    let seen = bench.run_within(limits(&bench, OnOutputLimit::Discard), &acts).await?;
    let kept = (seen.stdout().len() + seen.stderr().len()) as u64;
    ensure!(kept <= LIMIT, "{kept} bytes are kept of at most {LIMIT}");
    let counted = seen.finished()?.evidence.output;
    ensure!(kept + counted.discarded == 2 * WRITTEN as u64, "{counted:?} of twice {WRITTEN}");
    Ok(())
}

async fn stopped(bench: Bench) -> Checked {
    let acts = [print(&"x".repeat(WRITTEN)), Act::Hang];
    let seen = bench.run_within(limits(&bench, OnOutputLimit::Stop), &acts).await?;
    let outcome = seen.outcome()?;
    ensure!(*outcome == Outcome::LimitExceeded { limit: LimitKind::Output }, "{outcome:?}");
    bounded(&seen)
}
