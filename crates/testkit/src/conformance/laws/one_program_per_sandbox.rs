//! A sandbox runs one program. A second is refused, and does not disturb the first.

use ampoule_core::{CancelGrade, CancellationToken, ErrorKind, Outcome, Sandbox};

use crate::conformance::{
    act::Act,
    bench::{Bench, Checked, Stop, ensure, give, leave_out, print},
    case::Law,
};

pub(super) fn add(law: &mut Law) {
    law.each("a_sandbox_runs_one_program_and_no_second", after);
    law.each("a_sandbox_is_ready_until_it_is_used", readiness);
    law.each("a_second_program_does_not_disturb_the_first", beside);
}

async fn readiness(bench: Bench) -> Checked {
    let request = bench.request(&[give("1")])?;
    let mut sandbox = bench.create(request.spec()).await?;
    ensure!(sandbox.is_ready(), "a sandbox that was just created is not ready");
    let mut events = sandbox.execute(request, CancellationToken::new()).await?;
    ensure!(!sandbox.is_ready(), "a sandbox with a program in it is ready for another");
    let seen = bench.to_end(&mut events).await?;
    ensure!(seen.value()? == 1, "{seen:?}");
    ensure!(!sandbox.is_ready(), "a sandbox whose program has ended is ready for another");
    bench.destroy(sandbox).await
}

async fn second_is_refused(bench: &Bench, sandbox: &mut dyn Sandbox) -> Checked {
    let request = bench.request(&[print("second"), give("2")])?;
    match sandbox.execute(request, CancellationToken::new()).await {
        Ok(_) => Err(Stop::Broken("a second program was not refused".to_owned())),
        Err(error) => {
            ensure!(error.kind() == ErrorKind::Unsupported, "it was refused as {error:?}");
            ensure!(!error.program_may_have_started(), "{error:?}");
            Ok(())
        }
    }
}

async fn after(bench: Bench) -> Checked {
    let mut live = bench.start_acts(&[give("1")]).await?;
    let seen = bench.to_end(&mut live.events).await?;
    ensure!(seen.value()? == 1, "{seen:?}");
    second_is_refused(&bench, &mut *live.sandbox).await?;
    bench.destroy(live.sandbox).await
}

async fn beside(bench: Bench) -> Checked {
    if bench.capabilities().cancel == CancelGrade::None {
        return leave_out("the first run could not be ended");
    }
    let mut live = bench.start_acts(&[print("first"), Act::Hang]).await?;
    let first = bench.first_output(&mut live.events).await?;
    second_is_refused(&bench, &mut *live.sandbox).await?;
    live.cancel.cancel();
    let seen = bench.to_end(&mut live.events).await?.after(first);
    ensure!(seen.stdout() == "first", "stdout is {:?}", seen.stdout());
    ensure!(*seen.outcome()? == Outcome::Cancelled, "{:?}", seen.finished()?);
    bench.destroy(live.sandbox).await
}
