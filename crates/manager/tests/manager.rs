//! The manager over the fake provider: admission, cancellation, and that `destroy` always happens.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use ampoule_core::{
    Arguments, Bounds, CancellationToken, Code, Error, ErrorKind, Event, ExecuteRequest, Language,
    Limits, NetworkPolicy, Outcome, Profile, Provider, TrustGroup,
};
use ampoule_manager::{Manager, ManagerConfig, Panicked, PoolConfig, new_execution_id};
use ampoule_providers::memory::{Memory, MemoryConfig};
use futures_util::StreamExt;

/// Far beyond what any of these tests takes; it only turns a hang into a failure.
const LONG: Duration = Duration::from_secs(60);

struct Bench {
    memory: Arc<Memory>,
    manager: Manager,
}

fn bench_with(memory: MemoryConfig, config: ManagerConfig) -> Bench {
    let memory = Arc::new(Memory::new(memory));
    let provider: Arc<dyn Provider> = memory.clone();
    Bench { memory, manager: Manager::new(provider, config) }
}

fn bench(concurrency: usize, queue: usize) -> Bench {
    bench_with(MemoryConfig::default(), config(concurrency, queue))
}

fn config(concurrency: usize, queue: usize) -> ManagerConfig {
    ManagerConfig {
        concurrency: NonZeroUsize::new(concurrency).unwrap(),
        queue,
        queue_deadline: LONG,
        bounds: Bounds { wall: Duration::from_secs(600), ..Bounds::default() },
        pool: PoolConfig::off(),
    }
}

fn request(script: &str) -> ExecuteRequest {
    ExecuteRequest {
        id: new_execution_id(),
        language: Language::new("python"),
        code: Code::new(script).unwrap(),
        arguments: Arguments::none(),
        limits: Limits { wall: Duration::from_secs(600), ..Limits::default() },
        network: NetworkPolicy::None,
        profile: Profile::Fast,
        trust_group: TrustGroup::default(),
    }
}

const HANG: &str = r#"[{"stdout": "began"}, "hang"]"#;

impl Bench {
    async fn execute(&self, script: &str) -> Result<ampoule_manager::Execution, Error> {
        self.manager.execute(request(script), CancellationToken::new()).await
    }

    /// Waits until nothing runs, and checks that every sandbox there ever was is destroyed.
    async fn assert_all_destroyed(&self, created: u64) {
        tokio::time::timeout(LONG, self.manager.idle()).await.expect("the manager becomes idle");
        let census = self.memory.census();
        assert_eq!(
            (census.created, census.destroyed, census.live, census.running),
            (created, created, 0, 0)
        );
        let load = self.manager.load();
        assert_eq!((load.running, load.waiting), (0, 0));
    }
}

#[tokio::test]
async fn events_arrive_in_order_and_the_sandbox_is_destroyed() {
    let bench = bench(1, 0);
    let script =
        r#"[{"stdout": "a"}, {"stderr": "b"}, {"artifact": ["x.csv", "1"]}, {"value": 7}]"#;
    let execution = bench.execute(script).await.unwrap();
    let kinds: Vec<&str> = execution
        .events
        .map(|event| match event.unwrap() {
            Event::Stdout(_) => "stdout",
            Event::Stderr(_) => "stderr",
            Event::Value(_) => "value",
            Event::Artifact(_) => "artifact",
            Event::Finished(_) => "finished",
        })
        .collect()
        .await;
    assert_eq!(kinds, ["stdout", "stderr", "artifact", "value", "finished"]);
    bench.assert_all_destroyed(1).await;
}

#[tokio::test]
async fn a_dropped_stream_cancels_the_run() {
    let bench = bench(1, 0);
    let mut execution = bench.execute(HANG).await.unwrap();
    assert!(matches!(execution.events.next().await, Some(Ok(Event::Stdout(_)))));
    drop(execution);
    bench.assert_all_destroyed(1).await;
}

#[tokio::test]
async fn a_caller_who_leaves_while_the_sandbox_is_created_cancels_too() {
    let memory = MemoryConfig { create_time: Duration::from_millis(50), ..MemoryConfig::default() };
    let bench = bench_with(memory, config(1, 0));
    let left = tokio::time::timeout(Duration::from_millis(1), bench.execute(HANG)).await;
    assert!(left.is_err());
    bench.assert_all_destroyed(1).await;
}

#[tokio::test]
async fn the_cancel_token_ends_the_run_with_its_own_outcome() {
    let bench = bench(1, 0);
    let cancel = CancellationToken::new();
    let mut execution = bench.manager.execute(request(HANG), cancel.clone()).await.unwrap();
    execution.events.next().await.unwrap().unwrap();
    cancel.cancel();
    let Some(Ok(Event::Finished(finished))) = execution.events.next().await else { panic!() };
    assert_eq!(finished.outcome, Outcome::Cancelled);
    bench.assert_all_destroyed(1).await;
}

#[tokio::test]
async fn no_more_runs_at_once_than_places() {
    let bench = bench(2, 100);
    let runs = (0..20).map(|_| async {
        let execution = bench.execute(r#"[{"sleep_ms": 2}, {"value": 1}]"#).await.unwrap();
        assert!(bench.memory.census().live <= 2);
        assert!(bench.manager.load().running <= 2);
        execution.events.for_each(|event| async { drop(event.unwrap()) }).await;
    });
    futures_util::future::join_all(runs).await;
    bench.assert_all_destroyed(20).await;
}

#[tokio::test]
async fn a_place_is_given_back_only_after_destroy() {
    let memory =
        MemoryConfig { destroy_time: Duration::from_millis(20), ..MemoryConfig::default() };
    let bench = bench_with(memory, config(1, 10));
    for _ in 0..3 {
        let execution = bench.execute(r#"[{"value": 1}]"#).await.unwrap();
        assert_eq!(bench.memory.census().live, 1, "the sandbox before is gone");
        let events: Vec<_> = execution.events.collect().await;
        assert_eq!(events.len(), 2, "the answer does not wait for destroy");
    }
    bench.assert_all_destroyed(3).await;
}

#[tokio::test]
async fn a_full_queue_is_busy_at_once() {
    let bench = bench(1, 1);
    let running = bench.execute(HANG).await.unwrap();
    let waiting = bench.execute(r#"[{"value": 1}]"#);
    tokio::pin!(waiting);
    assert!(futures_util::poll!(waiting.as_mut()).is_pending());
    let refused = bench.execute(r#"[{"value": 1}]"#).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Busy);
    assert!(refused.is_retryable());
    assert_eq!(refused.message(), "all 1 places are taken and 1 requests wait");
    drop(running);
    drop(waiting.await.unwrap());
    bench.assert_all_destroyed(2).await;
}

#[tokio::test]
async fn the_queue_has_a_deadline() {
    let config = ManagerConfig { queue_deadline: Duration::from_millis(5), ..config(1, 1) };
    let bench = bench_with(MemoryConfig::default(), config);
    let running = bench.execute(HANG).await.unwrap();
    let refused = bench.execute(HANG).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Busy);
    assert_eq!(refused.message(), "no place became free within 5ms");
    drop(running);
    bench.assert_all_destroyed(1).await;
}

#[tokio::test]
async fn a_withdrawn_request_leaves_the_queue() {
    let bench = bench(1, 2);
    let running = bench.execute(HANG).await.unwrap();
    let cancel = CancellationToken::new();
    let cancelled = bench.manager.execute(request(HANG), cancel.clone());
    let mut dropped = Box::pin(bench.execute(HANG));
    tokio::pin!(cancelled);
    assert!(futures_util::poll!(cancelled.as_mut()).is_pending());
    assert!(futures_util::poll!(dropped.as_mut()).is_pending());
    assert_eq!(bench.manager.load().waiting, 2);
    cancel.cancel();
    assert_eq!(cancelled.await.unwrap_err().kind(), ErrorKind::Cancelled);
    drop(dropped);
    assert_eq!(bench.manager.load().waiting, 0);
    drop(running);
    bench.assert_all_destroyed(1).await;
}

#[tokio::test]
async fn what_the_provider_does_not_declare_is_refused_before_the_queue() {
    let bench = bench(1, 0);
    let _running = bench.execute(HANG).await.unwrap();
    let mut unknown = request(HANG);
    unknown.language = Language::new("cobol");
    let error = bench.manager.execute(unknown, CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let mut greedy = request(HANG);
    greedy.limits.memory = 1 << 50;
    let error = bench.manager.execute(greedy, CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
}

#[tokio::test]
async fn our_failures_leave_nothing_behind() {
    let bench = bench(1, 0);
    for (script, starts) in [
        (r#"[{"refuse": ["internal", "no"]}]"#, false),
        (r#"[{"stdout": "x"}, {"fail": ["internal", "no"]}]"#, true),
        (r#"["unseen"]"#, true),
        (r#"["vanish"]"#, true),
        (r#"["panic"]"#, true),
    ] {
        let run = bench.manager.run(request(script), CancellationToken::new());
        let error = run.await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Internal, "{script}");
        assert_eq!(error.program_may_have_started(), starts, "{script}");
        let panicked =
            std::error::Error::source(&error).is_some_and(|source| source.is::<Panicked>());
        assert_eq!(panicked, script.contains("panic"), "{script}");
        bench.manager.idle().await;
    }
    bench.assert_all_destroyed(5).await;
}

#[tokio::test]
async fn a_failing_create_gives_the_place_back() {
    let memory = MemoryConfig {
        on_create: Some(Arc::new(|_| {
            Err(Error::new(ErrorKind::Unavailable, "create a sandbox", "the back-end is away"))
        })),
        ..MemoryConfig::default()
    };
    let bench = bench_with(memory, config(1, 0));
    for _ in 0..3 {
        let error = bench.execute(HANG).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        bench.assert_all_destroyed(0).await;
    }
}

#[tokio::test]
async fn shutdown_lets_runs_finish_within_the_grace() {
    let bench = bench(1, 1);
    let run = bench.execute(r#"[{"sleep_ms": 50}, {"value": 1}]"#).await.unwrap();
    let waiting = bench.execute(HANG);
    tokio::pin!(waiting);
    assert!(futures_util::poll!(waiting.as_mut()).is_pending());
    let (down, again, waiting) =
        tokio::join!(bench.manager.shutdown(LONG), bench.manager.shutdown(LONG), waiting);
    down.unwrap();
    again.unwrap();
    assert_eq!(waiting.unwrap_err().kind(), ErrorKind::Unavailable);
    let last = run.events.collect::<Vec<_>>().await.pop().unwrap().unwrap();
    let Event::Finished(finished) = last else { panic!() };
    assert_eq!(finished.outcome, Outcome::Succeeded);
    assert_eq!(bench.execute(HANG).await.unwrap_err().kind(), ErrorKind::Unavailable);
    bench.assert_all_destroyed(1).await;
}

#[tokio::test]
async fn shutdown_cancels_what_outlasts_the_grace() {
    let bench = bench(1, 0);
    let run = bench.execute(HANG).await.unwrap();
    bench.manager.shutdown(Duration::ZERO).await.unwrap();
    let last = run.events.collect::<Vec<_>>().await.pop().unwrap().unwrap();
    let Event::Finished(finished) = last else { panic!() };
    assert_eq!(finished.outcome, Outcome::Cancelled);
    bench.assert_all_destroyed(1).await;
}

#[test]
fn ids_are_unique() {
    let ids: std::collections::HashSet<_> = (0..1000).map(|_| new_execution_id()).collect();
    assert_eq!(ids.len(), 1000);
}

#[tokio::test]
async fn what_is_outside_the_operators_bounds_is_refused_before_anything_is_created() {
    let mut narrow = config(1, 1);
    narrow.bounds.wall = Duration::from_secs(60);
    let bench = bench_with(MemoryConfig::default(), narrow);
    let error = bench.execute(r#"["arguments"]"#).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert_eq!(error.message(), "`timeout` is 10m, and at most 1m is allowed");
    let mut asked = request(r#"["arguments"]"#);
    // Beyond the bounds and beyond the provider: said once.
    asked.limits.memory = 128 << 30;
    asked.network = NetworkPolicy::Open;
    let told: Vec<_> =
        bench.manager.excesses(&asked.spec()).iter().map(|excess| excess.field).collect();
    assert_eq!(told, ["timeout", "memory", "network"]);
    bench.assert_all_destroyed(0).await;
}
