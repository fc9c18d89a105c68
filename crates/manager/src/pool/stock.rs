//! The stock: what is ready, what is on its way, and what is to be done next. It does nothing by
//! itself and knows no clock.

use std::{
    cmp::Reverse,
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use ampoule_core::{Result, Sandbox, SandboxSpec};
use tokio::time::Instant;

use super::{KindLoad, PoolConfig, PoolLoad};

/// How long a kind that nobody named is kept without being used.
const IDLE: Duration = Duration::from_secs(60);
/// How often all that is ready is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// The first pause after a failure, and the longest.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The most kinds that are kept at once, beside those that were named: callers choose them, and a
/// plan looks at each.
const MOST_KINDS: usize = 64;

/// What speaks against filling the pool as fast as it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pressure {
    None,
    /// Requests wait for a place.
    Requests,
    /// The machine is short of memory.
    Memory,
}

/// What the keeper is to do, and when it is to look again at the latest.
pub(super) struct Plan {
    /// Kinds, with what `create` is to be asked for.
    pub(super) boots: Vec<(Arc<SandboxSpec>, SandboxSpec)>,
    /// Sandboxes to be destroyed.
    pub(super) gone: Vec<Box<dyn Sandbox>>,
    pub(super) wake: Instant,
}

/// What the end of a boot has changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    /// The first failure of its kind.
    Fails,
    /// The first success after failures.
    Recovered,
}

/// Every kind with its ready sandboxes.
#[derive(Debug)]
pub(super) struct Stock {
    config: PoolConfig,
    kinds: HashMap<Arc<SandboxSpec>, Kind>,
    /// Sandboxes that nobody may take any more.
    gone: Vec<Box<dyn Sandbox>>,
    /// Sandboxes in `gone`, and those that are being destroyed.
    dying: usize,
    booting: usize,
    hits: u64,
    misses: u64,
    next_look: Option<Instant>,
    is_closed: bool,
}

#[derive(Debug)]
struct Kind {
    /// What is asked for: the limits of one execution in it, which whoever asked first was allowed.
    spec: SandboxSpec,
    is_named: bool,
    ready: VecDeque<Ready>,
    booting: usize,
    /// Runs that are not to be replaced yet.
    held: usize,
    uses: usize,
    last_use: Instant,
    failure: Option<Failure>,
    hits: u64,
    misses: u64,
}

#[derive(Debug)]
struct Ready {
    sandbox: Box<dyn Sandbox>,
    since: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    pause: Duration,
    retry_at: Instant,
}

impl Ready {
    fn is_fit(&self, now: Instant, max_age: Duration) -> bool {
        now.duration_since(self.since) < max_age && self.sandbox.is_ready()
    }
}

impl Kind {
    fn new(spec: SandboxSpec, now: Instant) -> Self {
        Self {
            spec,
            is_named: false,
            ready: VecDeque::new(),
            booting: 0,
            held: 0,
            uses: 0,
            last_use: now,
            failure: None,
            hits: 0,
            misses: 0,
        }
    }

    /// How many more are to be made ready.
    fn missing(&self, ready: usize) -> usize {
        let wanted = if self.is_named { ready } else { self.uses.min(ready) };
        wanted.saturating_sub(self.ready.len() + self.booting + self.held)
    }
}

impl Stock {
    pub(super) fn new(config: PoolConfig) -> Self {
        Self {
            config,
            kinds: HashMap::new(),
            gone: Vec::new(),
            dying: 0,
            booting: 0,
            hits: 0,
            misses: 0,
            next_look: None,
            is_closed: false,
        }
    }

    /// Keeps a kind for good.
    pub(super) fn name(&mut self, spec: SandboxSpec, now: Instant) {
        if !self.is_closed {
            let kind = Arc::new(spec.built_in());
            self.kinds.entry(kind).or_insert_with(|| Kind::new(spec, now)).is_named = true;
        }
    }

    /// A ready sandbox of a kind, the oldest first; either way the kind counts as used, and what was
    /// taken is not replaced before [`Stock::settle`].
    pub(super) fn take(
        &mut self,
        kind: &Arc<SandboxSpec>,
        asked: &SandboxSpec,
        now: Instant,
    ) -> Option<Box<dyn Sandbox>> {
        if self.is_closed {
            return None;
        }
        if !self.kinds.contains_key(kind) {
            self.make_room_for_a_kind();
            self.kinds.insert(Arc::clone(kind), Kind::new(asked.clone(), now));
        }
        let found = self.kinds.get_mut(kind)?;
        found.uses = found.uses.saturating_add(1);
        found.last_use = now;
        found.held += 1;
        while let Some(ready) = found.ready.pop_front() {
            if ready.is_fit(now, self.config.max_age) {
                found.hits += 1;
                self.hits += 1;
                return Some(ready.sandbox);
            }
            self.dying += 1;
            self.gone.push(ready.sandbox);
        }
        found.misses += 1;
        self.misses += 1;
        None
    }

    /// Lets what a run has taken be replaced; says whether there is anything to do now.
    pub(super) fn settle(&mut self, kind: &SandboxSpec) -> bool {
        // A kind that was dropped meanwhile has forgotten its runs.
        let Some(kind) = self.kinds.get_mut(kind) else { return false };
        kind.held = kind.held.saturating_sub(1);
        kind.missing(self.config.ready) > 0
    }

    pub(super) fn discard(&mut self, sandbox: Box<dyn Sandbox>) {
        self.dying += 1;
        self.gone.push(sandbox);
    }

    pub(super) fn has_gone(&self) -> bool {
        !self.gone.is_empty()
    }

    /// Bytes that have to be available.
    pub(super) fn spare_memory(&self) -> u64 {
        self.config.spare_memory
    }

    /// Says what is to be done now; it counts as begun.
    pub(super) fn plan(&mut self, now: Instant, pressure: Pressure) -> Plan {
        if self.next_look.is_none_or(|at| at <= now) {
            self.look(now);
            self.next_look = Some(now + LOOK);
        }
        let most_boots = match pressure {
            Pressure::None => self.config.boots.get(),
            Pressure::Requests => 1,
            Pressure::Memory => 0,
        };
        let mut boots = Vec::new();
        while self.booting < most_boots {
            let is_full = self.held() >= self.config.most;
            let Some(key) = self.neediest(now, is_full) else { break };
            if is_full {
                self.make_room(&key);
                break;
            }
            let Some(kind) = self.kinds.get_mut(&key) else { break };
            kind.booting += 1;
            self.booting += 1;
            let spec = kind.spec.clone();
            boots.push((key, spec));
        }
        let failures = self.kinds.values().filter_map(|kind| kind.failure);
        let retries = failures.map(|failure| failure.retry_at).filter(|at| *at > now);
        let wake = retries.chain(self.next_look).min().unwrap_or(now + LOOK);
        Plan { boots, gone: std::mem::take(&mut self.gone), wake }
    }

    /// Takes in what a boot has come to.
    pub(super) fn booted(
        &mut self,
        key: &SandboxSpec,
        created: Result<Box<dyn Sandbox>>,
        now: Instant,
    ) -> Change {
        self.booting = self.booting.saturating_sub(1);
        let Some(kind) = self.kinds.get_mut(key) else {
            created.into_iter().for_each(|sandbox| self.discard(sandbox));
            return Change::None;
        };
        kind.booting = kind.booting.saturating_sub(1);
        match created {
            Ok(sandbox) => {
                kind.ready.push_back(Ready { sandbox, since: now });
                match kind.failure.take() {
                    Some(_) => Change::Recovered,
                    None => Change::None,
                }
            }
            Err(_) => {
                let earlier = kind.failure;
                let pause = earlier.map_or(PAUSE, |failure| match failure.retry_at <= now {
                    true => (failure.pause * 2).min(LONGEST_PAUSE),
                    // Begun together with one that failed already: the same failure.
                    false => failure.pause,
                });
                kind.failure = Some(Failure { pause, retry_at: now + pause });
                if earlier.is_none() { Change::Fails } else { Change::None }
            }
        }
    }

    pub(super) fn destroyed(&mut self) {
        self.dying = self.dying.saturating_sub(1);
    }

    /// Gives everything up.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
        for (_, kind) in std::mem::take(&mut self.kinds) {
            kind.ready.into_iter().for_each(|ready| self.discard(ready.sandbox));
        }
    }

    pub(super) fn load(&self) -> PoolLoad {
        let kinds = self.kinds.iter().map(|(spec, kind)| KindLoad {
            spec: spec.as_ref().clone(),
            ready: kind.ready.len(),
            booting: kind.booting,
            hits: kind.hits,
            misses: kind.misses,
        });
        PoolLoad {
            kinds: kinds.collect(),
            ready: self.ready(),
            booting: self.booting,
            dying: self.dying,
            hits: self.hits,
            misses: self.misses,
        }
    }

    fn ready(&self) -> usize {
        self.kinds.values().map(|kind| kind.ready.len()).sum()
    }

    /// What counts against `most`.
    fn held(&self) -> usize {
        self.ready() + self.booting + self.dying
    }

    /// Sorts out what is no longer fit, and the kinds that nobody uses.
    fn look(&mut self, now: Instant) {
        let Self { kinds, gone, config, .. } = self;
        let before = gone.len();
        kinds.retain(|_, kind| {
            let is_idle = !kind.is_named
                && kind.held == 0
                && kind.booting == 0
                && now.duration_since(kind.last_use) >= IDLE;
            let (fit, unfit): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut kind.ready)
                .into_iter()
                .partition(|ready| !is_idle && ready.is_fit(now, config.max_age));
            kind.ready = fit;
            gone.extend(unfit.into_iter().map(|ready| ready.sandbox));
            !is_idle
        });
        self.dying += self.gone.len() - before;
    }

    /// The kind whose next boot is the most wanted: the emptiest; or, where one has to go for it, the
    /// last that was used.
    fn neediest(&self, now: Instant, is_full: bool) -> Option<Arc<SandboxSpec>> {
        let may_try = |kind: &Kind| kind.failure.is_none_or(|failure| failure.retry_at <= now);
        let needy = self
            .kinds
            .iter()
            .filter(|(_, kind)| kind.missing(self.config.ready) > 0 && may_try(kind));
        let found = needy.min_by_key(|(_, kind)| {
            let on_hand = if is_full { 0 } else { kind.ready.len() + kind.booting };
            (on_hand, Reverse(kind.last_use))
        });
        found.map(|(key, _)| Arc::clone(key))
    }

    /// Gives up one ready sandbox of the kind that was not used for the longest time, if `wanted` was
    /// used since; its place is free when it is gone.
    fn make_room(&mut self, wanted: &SandboxSpec) {
        if self.dying > 0 {
            return;
        }
        let Some(since) = self.kinds.get(wanted).map(|kind| kind.last_use) else { return };
        let older = self
            .kinds
            .values_mut()
            .filter(|kind| kind.last_use < since && !kind.ready.is_empty())
            .min_by_key(|kind| kind.last_use);
        if let Some(ready) = older.and_then(|kind| kind.ready.pop_front()) {
            self.discard(ready.sandbox);
        }
    }

    /// Drops the kind that was not used for the longest time, if callers have thought of too many.
    fn make_room_for_a_kind(&mut self) {
        let unnamed = || self.kinds.iter().filter(|(_, kind)| !kind.is_named);
        if unnamed().count() < MOST_KINDS {
            return;
        }
        let oldest = unnamed().min_by_key(|(_, kind)| kind.last_use).map(|(key, _)| key.clone());
        if let Some(kind) = oldest.and_then(|oldest| self.kinds.remove(&oldest)) {
            kind.ready.into_iter().for_each(|ready| self.discard(ready.sandbox));
        }
    }
}
