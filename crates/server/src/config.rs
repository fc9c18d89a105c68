//! What the operator decides about the doors.

use std::{collections::BTreeMap, time::Duration};

use ampoule_core::{Example, Language, Limits, NetworkPolicy, Profile};

use crate::{ApiToken, Languages, Rate};

/// How the service behaves.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// What a run may use whose request says nothing of it.
    pub limits: Limits,
    /// What a run may reach whose request says nothing of it.
    pub network: NetworkPolicy,
    /// The profile of a run whose request says nothing of it.
    pub profile: Profile,
    /// What every caller must show, but for health and readiness; without it nobody is asked.
    pub token: Option<ApiToken>,
    /// How often one address may call `/run`.
    pub run_rate: Option<Rate>,
    /// How often one address may fail to show the token.
    pub preauth_rate: Option<Rate>,
    /// The languages that callers may name. The service is ready when each of them has run.
    pub languages: Languages,
    /// The program of each language that a readiness run is made with. Of a language without one,
    /// that the provider declares it has to do.
    pub examples: BTreeMap<Language, Example>,
    /// The values of `base_image` that `/run` takes.
    pub base_images: Vec<String>,
    /// Connections at once; more wait to be accepted. Each takes a descriptor, and without one no
    /// sandbox could be taken over.
    pub connections: usize,
    /// The largest body, in bytes.
    pub max_body: usize,
    /// How long a client may take for a header, for the next piece of a body, and for taking a piece
    /// of the answer; a whole body may take ten times as long.
    pub read_timeout: Duration,
    /// How long runs may go on after the shutdown began.
    pub grace: Duration,
    /// How soon a failed readiness run is tried again; the pause doubles up to thirty seconds.
    pub readiness_retry: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            network: NetworkPolicy::None,
            profile: Profile::Fast,
            token: None,
            run_rate: None,
            preauth_rate: Some(Rate::PREAUTH),
            languages: Languages::default(),
            examples: BTreeMap::new(),
            base_images: ["sandbox-base-python:latest", "sandbox-base-nodejs:latest"]
                .map(str::to_owned)
                .to_vec(),
            connections: 16_384,
            max_body: 32 << 20,
            read_timeout: Duration::from_secs(30),
            grace: Duration::from_secs(10),
            readiness_retry: Duration::from_secs(1),
        }
    }
}
