//! When the answer leaves, no process of the run exists; when `destroy` returns, nothing of the
//! sandbox does. The oracle is asked, not the provider.

use std::time::Duration;

use ampoule_core::DestroyGrade;

use crate::conformance::{
    act::Act,
    bench::{Bench, Checked, ensure, give, print},
    case::{Law, When},
};

pub(super) fn add(law: &mut Law) {
    law.each("no_process_outlives_the_answer", outlived);
    law.each("a_run_that_was_stopped_leaves_no_process", stopped);
    law.each("a_dropped_sandbox_leaves_nothing", dropped);
    law.each("destroying_ends_a_run", destroyed);
    law.add("nothing_is_left_at_the_end", When::Last, false, at_the_end);
}

async fn outlived(bench: Bench) -> Checked {
    bench.needs_walls()?;
    bench.needs_sight()?;
    for end in [give("1"), Act::Raise("no".to_owned()), Act::Exit(0)] {
        let word = crate::unique_word();
        let mut live =
            bench.start_acts(&[Act::Child(word.clone()), print("ready\n"), end.clone()]).await?;
        let seen = bench.to_end(&mut live.events).await?;
        let left = bench.processes_with(&word);
        ensure!(seen.stdout().contains("ready"), "the child never ran: {seen:?}");
        ensure!(left.is_empty(), "after {end:?} there is {left:?}");
        bench.destroy(live.sandbox).await?;
    }
    Ok(())
}

async fn stopped(bench: Bench) -> Checked {
    bench.needs_walls()?;
    bench.needs_sight()?;
    let word = crate::unique_word();
    let acts = [Act::Child(word.clone()), print("ready\n"), Act::Hang];
    let seen = bench.run_within(bench.within(Duration::from_secs(3)), &acts).await?;
    let left = bench.processes_with(&word);
    ensure!(seen.stdout().contains("ready"), "the child never ran: {seen:?}");
    ensure!(left.is_empty(), "after a timeout there is {left:?}");
    Ok(())
}

async fn dropped(bench: Bench) -> Checked {
    bench.needs_walls()?;
    let word = crate::unique_word();
    let live = bench.start_with_child(&word).await?;
    drop((live.sandbox, live.events));
    bench.eventually("the end of the child", || bench.processes_with(&word).is_empty()).await
}

async fn destroyed(bench: Bench) -> Checked {
    bench.needs_walls()?;
    let word = crate::unique_word();
    let live = bench.start_with_child(&word).await?;
    bench.destroy(live.sandbox).await?;
    let left = bench.processes_with(&word);
    if bench.capabilities().destroy == DestroyGrade::Confirmed {
        ensure!(left.is_empty(), "after `destroy` there is {left:?}");
    }
    bench.eventually("the end of the child", || bench.processes_with(&word).is_empty()).await
}

async fn at_the_end(bench: Bench) -> Checked {
    let left = || bench.subject.oracle.left_over();
    let waited = bench.eventually("nothing left", || left().is_empty()).await;
    ensure!(waited.is_ok(), "after everything was destroyed there is {:?}", left());
    Ok(())
}
