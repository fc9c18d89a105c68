//! What a program wrote before it was stopped, or failed, is there: whole lines and unfinished ones.

use std::time::Duration;

use ampoule_core::{CancelGrade, LimitKind, Outcome};

use crate::conformance::{
    act::Act,
    bench::{Bench, Checked, Seen, ensure, leave_out, print},
    case::Law,
};

pub(super) fn add(law: &mut Law) {
    law.each("output_before_a_timeout_is_kept", timeout);
    law.each("output_before_a_cancellation_is_kept", cancelled);
    law.each("output_before_a_failure_is_kept", failure);
}

fn before(end: Act) -> [Act; 4] {
    [print("before\n"), Act::Stderr("aside\n".to_owned()), print("ééé"), end]
}

fn kept(seen: &Seen) -> Checked {
    ensure!(seen.stdout() == "before\nééé", "stdout is {:?}", seen.stdout());
    ensure!(seen.stderr().contains("aside\n"), "stderr is {:?}", seen.stderr());
    Ok(())
}

fn needs_output(bench: &Bench) -> Checked {
    if bench.capabilities().output_on_failure {
        return Ok(());
    }
    leave_out("the output of a program that did not succeed is not kept")
}

async fn timeout(bench: Bench) -> Checked {
    needs_output(&bench)?;
    let seen = bench.run_within(bench.within(Duration::from_secs(2)), &before(Act::Hang)).await?;
    let outcome = seen.outcome()?;
    ensure!(*outcome == Outcome::LimitExceeded { limit: LimitKind::Time }, "{outcome:?}");
    kept(&seen)
}

async fn cancelled(bench: Bench) -> Checked {
    needs_output(&bench)?;
    if bench.capabilities().cancel == CancelGrade::None {
        return leave_out("cancelling ends nothing");
    }
    let mut live = bench.start_acts(&before(Act::Hang)).await?;
    let mut seen = bench.first_output(&mut live.events).await?;
    while !(seen.stdout().ends_with("ééé") && seen.stderr().contains("aside\n")) {
        seen = bench.first_output(&mut live.events).await?.after(seen);
    }
    live.cancel.cancel();
    let seen = bench.to_end(&mut live.events).await?.after(seen);
    bench.destroy(live.sandbox).await?;
    ensure!(*seen.outcome()? == Outcome::Cancelled, "{:?}", seen.finished()?);
    kept(&seen)
}

async fn failure(bench: Bench) -> Checked {
    needs_output(&bench)?;
    for end in [Act::Exit(3), Act::Raise("no".to_owned())] {
        let seen = bench.run(&before(end)).await?;
        ensure!(matches!(seen.outcome()?, Outcome::Failed { .. }), "{:?}", seen.finished()?);
        kept(&seen)?;
    }
    Ok(())
}
