//! Sandboxes come and go: unused, dropped, running, unread, many at once; and none after the
//! shutdown.

use std::{collections::BTreeSet, time::Duration};

use ampoule_core::{ErrorKind, Event};
use futures_util::{StreamExt as _, stream};
use tokio::time::sleep;

use crate::conformance::{
    act::Act,
    bench::{Bench, Checked, Stop, ensure, give, print},
    case::{Law, When},
};

pub(super) fn add(law: &mut Law) {
    law.each("an_unused_sandbox_can_be_destroyed_or_dropped", unused);
    law.each("destroy_does_not_wait_for_a_reader", unread);
    law.each("many_at_once_are_all_answered_right", many);
    law.add("after_a_shutdown_nothing_runs_and_nothing_is_created", When::Last, false, shutdown);
}

async fn unused(bench: Bench) -> Checked {
    let spec = bench.request(&[give("1")])?.spec();
    let mut ids = BTreeSet::new();
    for number in 0..8 {
        let sandbox = bench.create(spec.clone()).await?;
        let id = sandbox.id().to_string();
        ensure!(ids.insert(id.clone()), "the id `{id}` is used twice");
        if number % 2 == 0 {
            bench.destroy(sandbox).await?;
        } else {
            drop(sandbox);
        }
    }
    Ok(())
}

async fn unread(bench: Bench) -> Checked {
    // Pieces of output apart from each other, until whoever hands them on has to wait.
    let piece = |number| [print(&format!("{number}\n")), Act::Pause(1)];
    let mut acts: Vec<_> = (0..200).flat_map(piece).collect();
    acts.push(Act::Hang);
    let live = bench.start_acts(&acts).await?;
    sleep(Duration::from_millis(500)).await;
    bench.destroy(live.sandbox).await?;
    drop(live.events);
    Ok(())
}

async fn many(bench: Bench) -> Checked {
    let runs = (0..20).map(|number| {
        let bench = bench.clone();
        async move {
            let seen =
                bench.run(&[print(&format!("{number}\n")), give(&number.to_string())]).await?;
            ensure!(seen.value()? == number, "{number}: {seen:?}");
            ensure!(seen.stdout() == format!("{number}\n"), "{number}: {seen:?}");
            Ok(())
        }
    });
    let ends: Vec<Checked> = stream::iter(runs).buffer_unordered(8).collect().await;
    ends.into_iter().collect()
}

async fn shutdown(bench: Bench) -> Checked {
    let provider = &bench.subject.provider;
    let mut live = bench.start_acts(&[print("ready\n"), Act::Hang]).await?;
    let spec = bench.request(&[give("1")])?.spec();
    let unused = bench.create(spec.clone()).await?;
    bench.within_patience("shutdown", provider.shutdown()).await??;
    let gone = || !unused.is_ready();
    bench.eventually("the end of a sandbox that waits, in its own word,", gone).await?;
    let seen = bench.to_end(&mut live.events).await?;
    let last = seen.items.last();
    ensure!(
        matches!(last, Some(Err(_) | Ok(Event::Finished(_)))),
        "a run that the shutdown met ended with {last:?}"
    );
    // Whatever it says of a sandbox that is gone, it says it in time.
    let _ = bench.within_patience("destroy", live.sandbox.destroy()).await?;
    let _ = bench.within_patience("destroy", unused.destroy()).await?;
    match provider.create(spec).await {
        Ok(_) => Err(Stop::Broken("a sandbox after the shutdown".to_owned())),
        Err(error) => {
            ensure!(error.kind() == ErrorKind::Unavailable, "it is refused as {error:?}");
            provider.shutdown().await?;
            Ok(())
        }
    }
}
