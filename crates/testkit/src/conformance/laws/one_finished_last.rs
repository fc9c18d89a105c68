//! A stream ends in exactly one `Finished`, last; or in `Err` when the platform failed. How the
//! program ended is an outcome, never an error.

use std::time::Duration;

use ampoule_core::{Event, EvidenceGrade, Outcome};

use crate::conformance::{
    act::Act,
    bench::{Bench, Checked, Stop, ensure, give, print},
    case::Law,
};

pub(super) fn add(law: &mut Law) {
    law.each("every_end_is_one_finished_and_last", every_end);
    law.each("a_value_is_a_success", success);
    law.each("an_uncaught_error_is_an_outcome", uncaught);
    law.each("an_exit_code_is_an_outcome", exit_code);
    law.each("a_signal_is_an_outcome", signal);
    law.once("a_failure_of_the_platform_is_an_err", platform);
}

async fn every_end(bench: Bench) -> Checked {
    let ends = [
        vec![print("x"), give("1")],
        vec![print("x"), Act::Raise("no".to_owned())],
        vec![print("x"), Act::Exit(0)],
        vec![print("x"), Act::Exit(3)],
        vec![print("x"), Act::Hang],
    ];
    for acts in ends {
        let wall = if acts.contains(&Act::Hang) { 1 } else { 30 };
        let seen = bench.run_within(bench.within(Duration::from_secs(wall)), &acts).await?;
        let ends = seen.items.iter().filter(|item| matches!(item, Ok(Event::Finished(_)))).count();
        ensure!(ends == 1, "{acts:?}: {ends} ends and not one among {:?}", seen.items);
        let last = seen.items.last();
        ensure!(matches!(last, Some(Ok(Event::Finished(_)))), "{acts:?}: the last is {last:?}");
    }
    Ok(())
}

async fn success(bench: Bench) -> Checked {
    let seen = bench.run(&[give("null")]).await?;
    ensure!(*seen.outcome()? == Outcome::Succeeded, "{:?}", seen.finished()?);
    ensure!(seen.value()?.is_null(), "{seen:?}");
    Ok(())
}

async fn uncaught(bench: Bench) -> Checked {
    let seen = bench.run(&[Act::Raise("no".to_owned())]).await?;
    ensure!(matches!(seen.outcome()?, Outcome::Failed { .. }), "{:?}", seen.finished()?);
    ensure!(seen.values().is_empty(), "a value of a program that failed: {seen:?}");
    Ok(())
}

async fn exit_code(bench: Bench) -> Checked {
    let seen = bench.run(&[Act::Exit(3)]).await?;
    let outcome = seen.outcome()?;
    ensure!(
        matches!(outcome, Outcome::Failed { exit_code: Some(3), signal: None, .. }),
        "{outcome:?}"
    );
    Ok(())
}

async fn signal(bench: Bench) -> Checked {
    let seen = bench.run(&[Act::Kill(9)]).await?;
    let outcome = seen.outcome()?;
    ensure!(matches!(outcome, Outcome::Failed { .. }), "{outcome:?}");
    // A daemon may tell 137, which the kernel tells from an exit.
    if bench.capabilities().evidence == EvidenceGrade::Kernel {
        ensure!(matches!(outcome, Outcome::Failed { signal: Some(9), .. }), "{outcome:?}");
    }
    Ok(())
}

async fn platform(bench: Bench) -> Checked {
    let seen = bench.run(&[print("x"), Act::FailPlatform]).await?;
    let Some(Err(error)) = seen.items.last() else {
        return Err(Stop::Broken(format!("it ended without an error: {:?}", seen.items)));
    };
    ensure!(error.program_may_have_started(), "nobody is told that the program started: {error}");
    let ends = seen.items.iter().filter(|item| !matches!(item, Ok(Event::Stdout(_)))).count();
    ensure!(ends == 1, "more than the error: {:?}", seen.items);
    Ok(())
}
