//! What is left, whoever ends first.

use std::{sync::Arc, time::Duration};

use ampoule_core::{
    CancellationToken, Collector, ErrorKind, Event, Outcome, Provider as _, ProviderExt as _,
};
use ampoule_testkit::{Failure, Suite, eventually, processes_with, unique_word};
use futures_util::StreamExt as _;

use crate::rig::{Rig, limits, request};

fn sleeper(word: &str) -> String {
    format!(
        "import subprocess, sys, time\ndef main():\n  subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)', '{word}'])\n  print('ready')\n  time.sleep(60)"
    )
}

/// Controls, because those run one after another: while they take every slot, no other test has one.
pub(crate) fn add_controls(suite: &mut Suite, rig: &Arc<Rig>) {
    let dropping = Arc::clone(rig);
    suite.control("a_dropped_creation_gives_its_slot_back", move || {
        let rig = &dropping;
        rig.runtime.block_on(async {
            let spec = request("python", "def main(): return 1", limits()).spec();
            // Dropped at every moment, more often than there are slots.
            for moment in 0..80_u64 {
                let soon = Duration::from_micros(moment * 250);
                let _ = tokio::time::timeout(soon, rig.native.create(spec.clone())).await;
            }
            // Those that were dropped late are still on their way back.
            let mut tries = 0;
            let sandbox = loop {
                match rig.native.create(spec.clone()).await {
                    Err(error) if error.kind() == ErrorKind::Busy && tries < 200 => tries += 1,
                    other => break other?,
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            };
            sandbox.destroy().await
        })?;
        Ok(())
    });
    let rig = Arc::clone(rig);
    suite.control("more_than_the_slots_is_an_error_and_not_a_wait", move || {
        rig.runtime.block_on(async {
            let request = request("python", "def main(): return 1", limits());
            let mut held = Vec::new();
            let refused = loop {
                match rig.native.create(request.spec()).await {
                    Ok(sandbox) => held.push(sandbox),
                    Err(error) => break error,
                }
            };
            assert_eq!(refused.kind(), ErrorKind::Busy, "{refused}");
            for sandbox in held {
                sandbox.destroy().await?;
            }
            Ok::<_, ampoule_core::Error>(())
        })?;
        Ok(())
    });
}

pub(crate) fn add(suite: &mut Suite, rig: &Arc<Rig>) {
    let mut with_rig = |name: &str, test: fn(&Rig) -> Result<(), Failure>| {
        let rig = Arc::clone(rig);
        suite.test(format!("lifecycle::{name}"), move || test(&rig));
    };
    with_rig("a_cancelled_run_is_gone_before_it_says_so", |rig| {
        let word = unique_word();
        let cancel = CancellationToken::new();
        rig.runtime.block_on(async {
            let request = request("python", &sleeper(&word), limits());
            let mut sandbox = rig.native.create(request.spec()).await?;
            let mut events = sandbox.execute(request, cancel.clone()).await?;
            assert!(matches!(events.next().await, Some(Ok(Event::Stdout(_)))));
            eventually("the child runs", || !processes_with(&word).is_empty()).map_err(|_| {
                ampoule_core::Error::new(ErrorKind::Internal, "test", "the child never ran")
            })?;
            cancel.cancel();
            let result = Collector::collect(events).await?;
            assert_eq!(result.finished.outcome, Outcome::Cancelled);
            assert_eq!(processes_with(&word), Vec::<String>::new());
            sandbox.destroy().await
        })?;
        Ok(())
    });
    with_rig("a_dropped_stream_ends_its_run", |rig| {
        let word = unique_word();
        rig.runtime.block_on(async {
            let request = request("python", &sleeper(&word), limits());
            let mut sandbox = rig.native.create(request.spec()).await?;
            let mut events = sandbox.execute(request, CancellationToken::new()).await?;
            events.next().await;
            drop(events);
            sandbox.destroy().await
        })?;
        assert_eq!(processes_with(&word), Vec::<String>::new());
        Ok(())
    });
    with_rig("a_dropped_sandbox_leaves_nothing", |rig| {
        let word = unique_word();
        rig.runtime.block_on(async {
            let request = request("python", &sleeper(&word), limits());
            let mut sandbox = rig.native.create(request.spec()).await?;
            let mut events = sandbox.execute(request, CancellationToken::new()).await?;
            events.next().await;
            drop((sandbox, events));
            Ok::<_, ampoule_core::Error>(())
        })?;
        eventually("the run is gone", || processes_with(&word).is_empty())
    });
    with_rig("a_sandbox_runs_one_program_and_no_second", |rig| {
        rig.runtime.block_on(async {
            let request = request("python", "def main(): return 1", limits());
            let mut sandbox = rig.native.create(request.spec()).await?;
            let events = sandbox.execute(request.clone(), CancellationToken::new()).await?;
            Collector::collect(events).await?;
            let again = sandbox.execute(request, CancellationToken::new()).await;
            assert_eq!(again.err().map(|error| error.kind()), Some(ErrorKind::Unsupported));
            sandbox.destroy().await
        })?;
        Ok(())
    });
    with_rig("many_at_once_are_all_answered_right", |rig| {
        let runs = (0..60).map(|number| {
            let code = format!("def main():\n  print({number})\n  return {number}");
            let request = request("python", &code, limits());
            async move { (number, rig.native.run(request, CancellationToken::new()).await) }
        });
        let results: Vec<_> =
            rig.runtime.block_on(futures_util::stream::iter(runs).buffer_unordered(12).collect());
        for (number, result) in results {
            let result = result?;
            assert_eq!(result.value.ok_or("no value")?.get(), number.to_string());
            assert_eq!(result.stdout, format!("{number}\n"));
        }
        Ok(())
    });
    with_rig("destroy_does_not_wait_for_a_reader", |rig| {
        rig.runtime.block_on(async {
            let code = "def main():\n  for n in range(5000): print(n, flush=True)\n  return 1";
            let request = request("python", code, limits());
            let mut sandbox = rig.native.create(request.spec()).await?;
            let unread = sandbox.execute(request, CancellationToken::new()).await?;
            tokio::time::sleep(Duration::from_millis(300)).await;
            let destroyed = tokio::time::timeout(Duration::from_secs(10), sandbox.destroy()).await;
            assert!(destroyed.is_ok(), "it waited");
            drop(unread);
            Ok::<_, ampoule_core::Error>(())
        })?;
        Ok(())
    });
}
