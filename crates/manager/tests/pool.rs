//! The pool over the fake provider: what is ready, who gets it, and that nothing of it is left.
//!
//! Time stands still in these tests and is moved by hand: what should happen later is seen to
//! happen then, and not before.

use std::{
    collections::{BTreeMap, HashSet},
    num::NonZeroUsize,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ampoule_core::{
    Arguments, Bounds, CancellationToken, Code, Error, ErrorKind, ExecuteRequest, Language, Limits,
    NetworkPolicy, Profile, Provider, SandboxSpec, TemplateHint, TemplateName, TrustGroup,
};
use ampoule_manager::{Manager, ManagerConfig, PoolConfig, PoolLoad, PoolUse, new_execution_id};
use ampoule_providers::memory::{Memory, MemoryConfig};
use futures_util::StreamExt;
use tokio::time::sleep;

const MINUTE: Duration = Duration::from_secs(60);

/// Long enough for everything that is to happen at once, and short beside every pause of the pool.
const SOON: Duration = Duration::from_millis(30);

struct Bench {
    memory: Arc<Memory>,
    manager: Manager,
}

fn pool(ready: usize, most: usize, boots: usize) -> PoolConfig {
    let boots = NonZeroUsize::new(boots).unwrap();
    PoolConfig { ready, most, boots, max_age: 15 * MINUTE, spare_memory: 0 }
}

fn bench(memory: MemoryConfig, pool: PoolConfig) -> Bench {
    let memory = Arc::new(Memory::new(memory));
    let provider: Arc<dyn Provider> = memory.clone();
    let config = ManagerConfig {
        concurrency: NonZeroUsize::new(4).unwrap(),
        queue: 1000,
        queue_deadline: MINUTE,
        bounds: Bounds { wall: MINUTE, memory: 1 << 30, ..Bounds::default() },
        pool,
    };
    Bench { memory, manager: Manager::new(provider, config) }
}

fn python() -> SandboxSpec {
    SandboxSpec::of(Language::new("python"))
}

fn request(script: &str) -> ExecuteRequest {
    ExecuteRequest {
        id: new_execution_id(),
        language: Language::new("python"),
        code: Code::new(script).unwrap(),
        arguments: Arguments::none(),
        limits: Limits::default(),
        network: NetworkPolicy::None,
        profile: Profile::Fast,
        trust_group: TrustGroup::default(),
    }
}

const QUICK: &str = r#"[{"value": 1}]"#;

fn in_group(name: &str) -> ExecuteRequest {
    ExecuteRequest { trust_group: TrustGroup::new(name).unwrap(), ..request(QUICK) }
}

impl Bench {
    /// A bench of which the pool is full of Python.
    async fn warm(memory: MemoryConfig, pool: PoolConfig) -> Self {
        let bench = bench(memory, pool);
        bench.manager.warm_up([python()]);
        sleep(SOON).await;
        assert_eq!(bench.load().ready, pool.ready);
        bench
    }

    /// Runs a program to its end, and what follows from it.
    async fn run(&self, request: ExecuteRequest) -> PoolUse {
        let used = self.run_only(request).await;
        sleep(SOON).await;
        used
    }

    async fn run_only(&self, request: ExecuteRequest) -> PoolUse {
        let execution = self.manager.execute(request, CancellationToken::new()).await.unwrap();
        let used = execution.pool;
        execution.events.for_each(|event| async { drop(event.unwrap()) }).await;
        used
    }

    fn load(&self) -> PoolLoad {
        self.manager.pool_load()
    }

    /// How many sandboxes of the kind of a request are ready.
    fn ready_for(&self, request: &ExecuteRequest) -> usize {
        let kind = request.spec().built_in();
        self.load().kinds.iter().filter(|known| known.spec == kind).map(|known| known.ready).sum()
    }

    /// Shuts down, and checks that every sandbox there ever was is destroyed.
    async fn end(self) {
        self.manager.shutdown(MINUTE).await.unwrap();
        let census = self.memory.census();
        assert_eq!((census.live, census.running), (0, 0));
        assert_eq!(census.created, census.destroyed);
        let load = self.load();
        assert_eq!((load.ready, load.booting, load.dying), (0, 0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_named_is_ready_before_it_is_asked_for_and_replaced_behind_the_answer() {
    let memory = MemoryConfig { destroy_time: Duration::from_millis(5), ..MemoryConfig::default() };
    let bench = Bench::warm(memory, pool(3, 64, 1)).await;
    assert_eq!(bench.run_only(request(QUICK)).await, PoolUse::Hit);
    assert_eq!(bench.load().ready, 2, "not before the answer");
    sleep(SOON).await;
    assert_eq!(bench.load().ready, 3);
    assert_eq!((bench.load().hits, bench.load().misses), (1, 0));
    assert_eq!(bench.memory.census().created, 4);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_long_run_is_replaced_while_it_goes_on() {
    let bench = Bench::warm(MemoryConfig::default(), pool(1, 64, 1)).await;
    let long = request(r#"[{"sleep_ms": 5000}, {"value": 1}]"#);
    let run = bench.manager.execute(long, CancellationToken::new()).await.unwrap();
    sleep(Duration::from_millis(5)).await;
    assert_eq!(bench.load().ready, 0, "it may be over at once");
    sleep(SOON).await;
    assert_eq!(bench.load().ready, 1);
    run.events.for_each(|event| async { drop(event.unwrap()) }).await;
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_used_is_kept_as_often_as_it_is_used_and_dropped_when_it_is_not() {
    let bench = bench(MemoryConfig::default(), pool(2, 64, 1));
    assert_eq!(bench.run(request(QUICK)).await, PoolUse::Miss);
    assert_eq!(bench.load().ready, 1);
    assert_eq!(bench.run(request(QUICK)).await, PoolUse::Hit);
    assert_eq!(bench.load().ready, 2);
    assert_eq!(bench.run(request(QUICK)).await, PoolUse::Hit);
    assert_eq!(bench.load().ready, 2, "no more than `ready`");
    sleep(MINUTE - 10 * SOON).await;
    assert_eq!(bench.load().ready, 2);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(bench.load(), PoolLoad { hits: 2, misses: 1, ..PoolLoad::default() });
    assert_eq!(bench.memory.census().live, 0);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_looked_after_per_execution_makes_no_other_kind() {
    let bench = Bench::warm(MemoryConfig::default(), pool(1, 64, 1)).await;
    let limits = Limits { wall: 2 * SOON, output: 10, ..Limits::default() };
    let asked = ExecuteRequest { limits, ..request(r#"["hang"]"#) };
    assert_eq!(bench.run(asked).await, PoolUse::Hit, "and its own wall clock ends it");
    let limits = Limits { memory: 512 << 20, ..Limits::default() };
    assert_eq!(bench.run(ExecuteRequest { limits, ..request(QUICK) }).await, PoolUse::Miss);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn strict_requests_and_trust_groups_never_share() {
    let bench = Bench::warm(MemoryConfig::default(), pool(2, 64, 1)).await;
    let strict = || ExecuteRequest { profile: Profile::Strict, ..request(QUICK) };
    for other in [strict, || in_group("a"), || in_group("b")] {
        assert_eq!(bench.run(other()).await, PoolUse::Miss, "nobody had one ready");
        assert_eq!(bench.run(other()).await, PoolUse::Hit, "and now there is its own");
    }
    assert_eq!(bench.ready_for(&request(QUICK)), 2, "those of the others are untouched");
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_source_chooses_its_template() {
    let mut memory = MemoryConfig::default();
    let template = TemplateName::new("python-data");
    memory.capabilities.templates = vec![TemplateHint {
        language: Language::new("python"),
        template: template.clone(),
        imports: vec!["numpy".to_owned()],
    }];
    let bench = bench(memory, pool(1, 64, 1));
    bench.manager.warm_up([SandboxSpec { template: Some(template.clone()), ..python() }]);
    sleep(SOON).await;
    assert_eq!(bench.run(request(QUICK)).await, PoolUse::Miss);
    assert_eq!(bench.run(request("import numpy\n")).await, PoolUse::Hit);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn no_more_boots_at_a_time_than_allowed_and_no_more_ready_than_bounded() {
    let now = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let (count, peak) = (Arc::clone(&now), Arc::clone(&most));
    let memory = MemoryConfig {
        on_create: Some(Arc::new(move |_| {
            let begun = count.fetch_add(1, Ordering::SeqCst) + 1;
            peak.fetch_max(begun, Ordering::SeqCst);
            Ok(())
        })),
        create_time: Duration::from_secs(1),
        ..MemoryConfig::default()
    };
    let bench = bench(memory, pool(8, 5, 2));
    bench.manager.warm_up([python(), SandboxSpec::of(Language::new("javascript"))]);
    for second in 0..4_usize {
        sleep(SOON).await;
        let load = bench.load();
        assert_eq!((load.ready, load.booting), (2 * second.min(2), 2.min(5 - 2 * second.min(2))));
        if second == 2 {
            break;
        }
        sleep(Duration::from_secs(1) - SOON).await;
        sleep(Duration::from_millis(1)).await;
    }
    sleep(MINUTE).await;
    assert_eq!((bench.load().ready, bench.load().booting), (5, 0));
    assert_eq!(now.load(Ordering::SeqCst), 5);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_miss_waits_for_no_boot() {
    let memory = MemoryConfig { create_time: Duration::from_secs(1), ..MemoryConfig::default() };
    let bench = bench(memory, pool(8, 64, 1));
    bench.manager.warm_up([SandboxSpec::of(Language::new("javascript"))]);
    sleep(SOON).await;
    let began = tokio::time::Instant::now();
    assert_eq!(bench.run_only(request(QUICK)).await, PoolUse::Miss);
    assert!(began.elapsed() < Duration::from_millis(1100));
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_died_while_it_waited_is_passed_over_and_replaced() {
    let dead = Arc::new(Mutex::new(HashSet::new()));
    let known = Arc::clone(&dead);
    let memory = MemoryConfig {
        is_gone: Some(Arc::new(move |id| known.lock().unwrap().contains(id.as_str()))),
        ..MemoryConfig::default()
    };
    let bench = Bench::warm(memory, pool(3, 64, 1)).await;
    dead.lock().unwrap().extend(["memory-1".to_owned(), "memory-2".to_owned()]);
    assert_eq!(bench.run(request(QUICK)).await, PoolUse::Hit, "the third is alive");
    assert_eq!(bench.load().ready, 3);
    // All of it, as when the launcher is gone: nobody has to ask.
    dead.lock().unwrap().extend((1..=6).map(|number| format!("memory-{number}")));
    sleep(Duration::from_secs(2)).await;
    assert_eq!(bench.load().ready, 3);
    assert_eq!(bench.run(request(QUICK)).await, PoolUse::Hit);
    bench.end().await;
}

/// Refuses to start programs in sandboxes that were prepared ahead.
#[tokio::test(start_paused = true)]
async fn a_stock_that_only_looks_ready_fails_no_request() {
    let refuses = Arc::new(AtomicBool::new(true));
    let first = Arc::clone(&refuses);
    let memory = MemoryConfig {
        behaviour: Arc::new(move |_| {
            let refused = r#"[{"refuse": ["unavailable", "it is gone"]}]"#;
            let script = if first.swap(false, Ordering::SeqCst) { refused } else { QUICK };
            Ok(serde_json::from_str(script).unwrap())
        }),
        ..MemoryConfig::default()
    };
    let bench = Bench::warm(memory, pool(1, 64, 1)).await;
    assert_eq!(bench.run(request("x")).await, PoolUse::Miss);
    refuses.store(true, Ordering::SeqCst);
    let told = bench.run(request("x")).await;
    assert_eq!(told, PoolUse::Miss, "once more, with the next of the stock");
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_program_that_may_have_begun_is_not_run_again() {
    let runs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&runs);
    let memory = MemoryConfig {
        behaviour: Arc::new(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            Ok(serde_json::from_str(r#"[{"fail": ["unavailable", "gone"]}]"#).unwrap())
        }),
        ..MemoryConfig::default()
    };
    let bench = Bench::warm(memory, pool(1, 64, 1)).await;
    let error = bench.manager.run(request("x"), CancellationToken::new()).await.unwrap_err();
    assert!(error.program_may_have_started());
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_waited_too_long_is_replaced() {
    let old = PoolConfig { max_age: Duration::from_secs(30), ..pool(2, 64, 1) };
    let bench = Bench::warm(MemoryConfig::default(), old).await;
    sleep(Duration::from_secs(29)).await;
    assert_eq!(bench.memory.census().created, 2);
    sleep(Duration::from_secs(3)).await;
    assert_eq!((bench.memory.census().created, bench.load().ready), (4, 2));
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn with_no_room_left_the_kind_unused_for_longest_gives_way() {
    let bench = bench(MemoryConfig::default(), pool(2, 3, 1));
    for name in ["a", "a", "b", "b"] {
        bench.run(in_group(name)).await;
    }
    let of = |name| bench.ready_for(&in_group(name));
    assert_eq!((of("a"), of("b")), (1, 2));
    bench.run(in_group("c")).await;
    sleep(SOON).await;
    assert_eq!((of("a"), of("b"), of("c")), (0, 2, 1));
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn callers_cannot_make_it_keep_ever_more_kinds() {
    let bench = bench(MemoryConfig::default(), pool(1, 200, 4));
    for number in 0..150 {
        bench.run(in_group(&format!("g{number}"))).await;
        assert!(bench.load().kinds.len() <= 64);
    }
    assert_eq!(bench.run(in_group("g149")).await, PoolUse::Hit, "the last are still kept");
    assert_eq!(bench.run(in_group("g0")).await, PoolUse::Miss);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn failures_to_create_are_tried_again_ever_more_rarely_and_fail_no_request() {
    let tries = Arc::new(AtomicUsize::new(0));
    let fails = Arc::new(AtomicBool::new(true));
    let (count, failing) = (Arc::clone(&tries), Arc::clone(&fails));
    let memory = MemoryConfig {
        on_create: Some(Arc::new(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            match failing.load(Ordering::SeqCst) {
                true => Err(Error::new(ErrorKind::Unavailable, "create a sandbox", "it is away")),
                false => Ok(()),
            }
        })),
        ..MemoryConfig::default()
    };
    let bench = bench(memory, pool(1, 64, 1));
    bench.manager.warm_up([python()]);
    // At 0, 100, 300, 700, 1500, 3100, 6300, 11300 ms and then each 5 s.
    let mut seen = BTreeMap::new();
    for moment in [50, 150, 350, 750, 1550, 3150, 6350, 11_350, 16_350] {
        let before = seen.keys().next_back().copied().unwrap_or(0);
        sleep(Duration::from_millis(moment - before)).await;
        seen.insert(moment, tries.load(Ordering::SeqCst));
    }
    assert_eq!(seen.into_values().collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    fails.store(false, Ordering::SeqCst);
    assert_eq!(bench.run(request(QUICK)).await, PoolUse::Miss, "a request asks for itself");
    sleep(Duration::from_secs(6)).await;
    assert_eq!(bench.load().ready, 1);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn while_requests_wait_one_boot_at_a_time_goes_on() {
    let memory = MemoryConfig { create_time: MINUTE / 6, ..MemoryConfig::default() };
    let bench = bench(memory, pool(8, 64, 4));
    let manager = &bench.manager;
    let long = || request(r#"[{"sleep_ms": 50000}, {"value": 1}]"#);
    let runs = (0..5).map(|_| manager.run(long(), CancellationToken::new()));
    let runs = futures_util::future::join_all(runs);
    let look = async {
        sleep(MINUTE / 6 + SOON).await;
        assert_eq!((manager.load().running, manager.load().waiting), (4, 1));
        assert_eq!(bench.load().booting, 1);
    };
    let (ends, ()) = tokio::join!(runs, look);
    assert!(ends.into_iter().all(|end| end.is_ok()));
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn without_spare_memory_none_is_made_ready_and_runs_go_on() {
    let short = PoolConfig { spare_memory: u64::MAX, ..pool(2, 64, 1) };
    let bench = bench(MemoryConfig::default(), short);
    bench.manager.warm_up([python()]);
    sleep(MINUTE).await;
    assert_eq!((bench.load().ready, bench.load().booting), (0, 0));
    bench.run_only(request(QUICK)).await;
    assert_eq!((bench.load().hits, bench.load().misses), (0, 1));
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_drained_pool_fills_again() {
    let memory = MemoryConfig { create_time: Duration::from_millis(5), ..MemoryConfig::default() };
    let bench = bench(memory, pool(16, 64, 2));
    bench.manager.warm_up([python()]);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.load().ready, 16);
    let runs = (0..100).map(|_| bench.run_only(request(QUICK)));
    futures_util::future::join_all(runs).await;
    assert_eq!(bench.load().hits + bench.load().misses, 100);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.load().ready, 16);
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn with_none_ready_there_is_no_pool() {
    let bench = bench(MemoryConfig::default(), PoolConfig::off());
    bench.manager.warm_up([python()]);
    assert_eq!(bench.run(request(QUICK)).await, PoolUse::Miss);
    assert_eq!(bench.run(request(QUICK)).await, PoolUse::Miss);
    assert_eq!(bench.load(), PoolLoad::default());
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn with_the_network_open_nothing_is_kept() {
    let mut memory = MemoryConfig::default();
    memory.capabilities.networks.push(NetworkPolicy::Open);
    let memory = Arc::new(Memory::new(memory));
    let provider: Arc<dyn Provider> = memory.clone();
    let bounds = Bounds { network: NetworkPolicy::Open, ..Bounds::default() };
    let config = ManagerConfig { bounds, pool: pool(2, 64, 1), ..ManagerConfig::default() };
    let bench = Bench { memory, manager: Manager::new(provider, config) };
    bench.manager.warm_up([SandboxSpec { network: NetworkPolicy::Open, ..python() }]);
    let open = ExecuteRequest { network: NetworkPolicy::Open, ..request(QUICK) };
    assert_eq!(bench.run(open).await, PoolUse::Miss);
    assert_eq!(bench.load(), PoolLoad::default());
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_amid_boots_leaves_nothing() {
    let memory = MemoryConfig {
        create_time: Duration::from_secs(1),
        destroy_time: Duration::from_millis(200),
        ..MemoryConfig::default()
    };
    let bench = bench(memory, pool(8, 64, 3));
    bench.manager.warm_up([python()]);
    sleep(Duration::from_millis(1500)).await;
    let load = bench.load();
    assert_eq!((load.ready, load.booting), (3, 3));
    bench.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_manager_that_is_let_go_destroys_what_was_ready() {
    let bench = Bench::warm(MemoryConfig::default(), pool(4, 64, 4)).await;
    let Bench { memory, manager } = bench;
    drop(manager);
    sleep(SOON).await;
    let census = memory.census();
    assert_eq!((census.live, census.created), (0, census.destroyed));
}

/// Every sandbox runs one program: the fake refuses a second, and a refusal would fail the run or
/// count as a miss that no boot explains.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_at_once_share_no_sandbox_and_leave_none() {
    let used = Arc::new(Mutex::new(Vec::new()));
    let bench = Arc::new(bench(MemoryConfig::default(), pool(8, 16, 4)));
    bench.manager.warm_up([python()]);
    let runs = (0..500).map(|number: usize| {
        let (bench, used) = (Arc::clone(&bench), Arc::clone(&used));
        tokio::spawn(async move {
            let asked = match number % 4 {
                0 => in_group("a"),
                1 => ExecuteRequest { profile: Profile::Strict, ..request(QUICK) },
                _ => request(QUICK),
            };
            let use_ = bench.run_only(asked).await;
            used.lock().unwrap().push(use_);
        })
    });
    for run in futures_util::future::join_all(runs).await {
        run.unwrap();
    }
    let hits = used.lock().unwrap().iter().filter(|used| **used == PoolUse::Hit).count() as u64;
    let load = bench.load();
    assert_eq!((load.hits, load.hits + load.misses), (hits, 500));
    let bench = Arc::into_inner(bench).unwrap();
    bench.manager.idle().await;
    let created = bench.memory.census().created;
    assert!(created >= 500, "{created} sandboxes for 500 programs");
    bench.end().await;
}
