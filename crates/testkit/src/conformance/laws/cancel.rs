//! When the cancel token fires, what the grade names is gone: the whole tree before
//! `Finished(Cancelled)`, or the whole instance soon after.

use ampoule_core::{CancelGrade, CancellationToken, ErrorKind, Event, Outcome};

use crate::conformance::{
    act::Act,
    bench::{Bench, Checked, ensure, give, leave_out, print},
    case::Law,
};

pub(super) fn add(law: &mut Law) {
    law.each("a_cancelled_run_is_gone_before_it_says_so", tree);
    law.each("a_run_cancelled_before_it_starts_does_not_run", early);
    law.each("cancelling_twice_is_cancelling_once", twice);
    law.each("cancelling_after_the_end_changes_nothing", late);
    law.each("a_dropped_stream_ends_its_run", dropped);
}

fn needs_cancel(bench: &Bench) -> Checked {
    match bench.capabilities().cancel {
        CancelGrade::None => leave_out("cancelling ends nothing"),
        CancelGrade::Instance | CancelGrade::Tree => Ok(()),
    }
}

async fn tree(bench: Bench) -> Checked {
    needs_cancel(&bench)?;
    let word = crate::unique_word();
    let mut live = bench.start_with_child(&word).await?;
    live.cancel.cancel();
    let seen = bench.to_end(&mut live.events).await?;
    let left = bench.processes_with(&word);
    ensure!(*seen.outcome()? == Outcome::Cancelled, "{:?}", seen.finished()?);
    if bench.capabilities().cancel == CancelGrade::Tree {
        ensure!(left.is_empty(), "the run says it is cancelled, and there is {left:?}");
    }
    bench.destroy(live.sandbox).await?;
    bench.eventually("the end of the child", || bench.processes_with(&word).is_empty()).await
}

async fn early(bench: Bench) -> Checked {
    needs_cancel(&bench)?;
    let request = bench.request(&[Act::Hang])?;
    let mut sandbox = bench.create(request.spec()).await?;
    let cancel = CancellationToken::new();
    cancel.cancel();
    match sandbox.execute(request, cancel).await {
        Err(error) => ensure!(error.kind() == ErrorKind::Cancelled, "{error}"),
        Ok(mut events) => {
            let seen = bench.to_end(&mut events).await?;
            ensure!(*seen.outcome()? == Outcome::Cancelled, "{:?}", seen.finished()?);
        }
    }
    bench.destroy(sandbox).await
}

async fn twice(bench: Bench) -> Checked {
    needs_cancel(&bench)?;
    let mut live = bench.start_acts(&[print("ready\n"), Act::Hang]).await?;
    let first = bench.first_output(&mut live.events).await?;
    live.cancel.cancel();
    live.cancel.cancel();
    let seen = bench.to_end(&mut live.events).await?.after(first);
    live.cancel.cancel();
    let ends = seen.items.iter().filter(|item| matches!(item, Ok(Event::Finished(_)))).count();
    ensure!(ends == 1, "{ends} ends among {:?}", seen.items);
    ensure!(*seen.outcome()? == Outcome::Cancelled, "{:?}", seen.finished()?);
    bench.destroy(live.sandbox).await
}

async fn late(bench: Bench) -> Checked {
    let mut live = bench.start_acts(&[give("1")]).await?;
    let seen = bench.to_finished(&mut live.events).await?;
    live.cancel.cancel();
    let after = bench.to_end(&mut live.events).await?;
    ensure!(after.items.is_empty(), "something after the end: {:?}", after.items);
    ensure!(*seen.outcome()? == Outcome::Succeeded, "{:?}", seen.finished()?);
    bench.destroy(live.sandbox).await
}

async fn dropped(bench: Bench) -> Checked {
    needs_cancel(&bench)?;
    let word = crate::unique_word();
    let live = bench.start_with_child(&word).await?;
    drop(live.events);
    bench.eventually("the end of the child", || bench.processes_with(&word).is_empty()).await?;
    bench.destroy(live.sandbox).await
}
