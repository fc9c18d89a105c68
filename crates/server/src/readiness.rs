//! Readiness: real runs that prove that every language works.
//!
//! ```text
//! pending --provider healthy, fences held--> running each language --all succeeded--> ready
//!    ^  \-- failed: try again after a pause --/                            |
//!    \------------------------- the provider is no longer healthy --------/
//! ```
//!
//! One background task moves it; `/readyz` only looks.

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex},
    time::Duration,
};

use ampoule_core::{
    Arguments, CancellationToken, Code, Crossing, ExecuteRequest, FenceProof, Language, Limits,
    NetworkPolicy, Result, SelfTest, TrustGroup,
};
use ampoule_manager::{Manager, new_execution_id, summary};
use futures_util::FutureExt;
use serde::Serialize;
use tracing::{error, info, warn};

use crate::ServerConfig;

/// How often a provider that was healthy is asked again.
const HEALTH_INTERVAL: Duration = Duration::from_secs(15);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const PROVIDER: &str = "provider";
const FENCES: &str = "fences";

/// Something that is not ready yet.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct NotReady {
    name: String,
    reason: String,
}

/// What is ready and what is not.
#[derive(Debug)]
pub(crate) struct Readiness {
    missing: Mutex<BTreeMap<String, String>>,
    /// Tries the provider's fences, where the provider can.
    self_test: Option<Arc<dyn SelfTest>>,
}

impl Readiness {
    pub(crate) fn new(config: &ServerConfig, self_test: Option<Arc<dyn SelfTest>>) -> Self {
        let names = config.languages.canonical().map(Language::as_str);
        let fences = self_test.is_some().then_some(FENCES);
        let readiness = Self { missing: Mutex::default(), self_test };
        for name in names.chain([PROVIDER]).chain(fences) {
            readiness.set(name, Some("not tried yet"));
        }
        readiness
    }

    /// What is not ready, with reasons.
    pub(crate) fn not_ready(&self) -> Vec<NotReady> {
        self.lock()
            .iter()
            .map(|(name, reason)| NotReady { name: name.clone(), reason: reason.clone() })
            .collect()
    }

    /// Says that the service is on its way out.
    pub(crate) fn stop(&self) {
        self.set("service", Some("shutting down"));
    }

    fn set(&self, name: &str, reason: Option<&str>) {
        match reason {
            Some(reason) => self.lock().insert(name.to_owned(), reason.to_owned()),
            None => self.lock().remove(name),
        };
    }

    fn is_ready(&self, name: &str) -> bool {
        !self.lock().contains_key(name)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.missing.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Keeps the readiness true for as long as it is polled.
    pub(crate) async fn watch(&self, manager: &Manager, config: &ServerConfig) {
        let mut pause = config.readiness_retry;
        loop {
            let looked = AssertUnwindSafe(self.look(manager, config)).catch_unwind().await;
            let is_ready = looked.unwrap_or_else(|_| {
                error!("looking for readiness panicked");
                self.set(PROVIDER, Some("an internal fault"));
                false
            });
            if is_ready {
                pause = config.readiness_retry;
                tokio::time::sleep(HEALTH_INTERVAL).await;
            } else {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// Asks the provider, and runs each language that is not ready; says whether all are.
    async fn look(&self, manager: &Manager, config: &ServerConfig) -> bool {
        if let Err(error) = manager.provider().health().await {
            warn!(error = error.chain(), "the provider is not healthy");
            self.set(PROVIDER, Some(error.message()));
            for language in config.languages.canonical() {
                self.set(language.as_str(), Some("the provider is not healthy"));
            }
            return false;
        }
        self.set(PROVIDER, None);
        let mut all = self.try_fences().await;
        for language in config.languages.canonical() {
            let name = language.as_str();
            if self.is_ready(name) {
                continue;
            }
            let problem = prove(manager, config, language).await.unwrap_or_else(|error| {
                warn!(%language, error = error.chain(), "the readiness run failed");
                Some(error.message().to_owned())
            });
            match &problem {
                None => info!(%language, "the language is ready"),
                Some(problem) => warn!(%language, problem, "the language is not ready"),
            }
            all &= problem.is_none();
            self.set(name, problem.as_deref());
        }
        if let (true, Some(self_test)) = (all, &self.self_test) {
            // Nobody waits for it: until it is done programs run all the same. The provider tells of
            // it, and tries it once.
            self_test.prove_forks().await;
        }
        all
    }
}

impl Readiness {
    /// Tries the fences; says whether all held. Of the same processes the proofs are kept, so that
    /// asking often costs nothing.
    async fn try_fences(&self) -> bool {
        let Some(self_test) = &self.self_test else { return true };
        let proofs = self_test.prove().await;
        let problems: Vec<String> = proofs.iter().filter_map(FenceProof::problem).collect();
        if problems.is_empty() {
            if !self.is_ready(FENCES) {
                let count = |is_such: fn(&Crossing) -> bool| {
                    proofs.iter().filter(|proof| is_such(&proof.crossing)).count()
                };
                let held = count(|crossing| matches!(crossing, Crossing::Stopped { .. }));
                let absent = count(|crossing| matches!(crossing, Crossing::Absent));
                info!(held, absent, "the fences held");
            }
            self.set(FENCES, None);
            return true;
        }
        let reason = problems.join("; ");
        error!(reason, "a fence is not to be relied on");
        self.set(FENCES, Some(&reason));
        false
    }
}

/// Runs a language's example; says what was wrong, if anything.
async fn prove(
    manager: &Manager,
    config: &ServerConfig,
    language: &Language,
) -> Result<Option<String>> {
    let Some(example) = config.examples.get(language) else {
        let known = manager.provider().capabilities().languages.contains(language);
        return Ok((!known).then(|| "the provider does not run it".to_owned()));
    };
    // A language that needs more than the default is ready if a request may ask for that much.
    let least = manager.provider().capabilities().least_memory(language);
    let limits = Limits { memory: config.limits.memory.max(least), ..config.limits };
    let request = ExecuteRequest {
        id: new_execution_id(),
        language: language.clone(),
        code: Code::new(&example.code).map_err(|error| invalid("code", &error))?,
        arguments: Arguments::parse(&example.arguments)
            .map_err(|error| invalid("arguments", &error))?,
        limits,
        network: NetworkPolicy::None,
        profile: config.profile,
        trust_group: TrustGroup::default(),
    };
    let result = manager.run(request, CancellationToken::new()).await?;
    let finished = &result.finished;
    if !finished.outcome.is_success() {
        return Ok(Some(summary(&finished.outcome, &finished.evidence)));
    }
    let is_right = result.value.is_some_and(|value| example.returns(&value));
    Ok((!is_right).then(|| "it gave a wrong value".to_owned()))
}

fn invalid(what: &str, error: &dyn std::error::Error) -> ampoule_core::Error {
    let message = format!("its {what} is refused: {error}");
    ampoule_core::Error::new(ampoule_core::ErrorKind::Internal, "prove a language", message)
}
