//! RAGFlow's own variables.
//!
//! Its compose hands the whole `.env` to the executor manager. What belongs to RAGFlow's side there
//! must neither change nor stop the service: nobody reads it, and `ampoule config` and the debug log
//! say so.

use serde::Serialize;

/// A variable that is not applied here.
#[derive(Debug, Serialize)]
pub(crate) struct Foreign {
    pub(crate) name: &'static str,
    /// Who reads it in RAGFlow.
    pub(crate) reader: &'static str,
    /// What it is there, and what there is here instead.
    pub(crate) meaning: &'static str,
    /// Its default there.
    pub(crate) default: &'static str,
}

const fn foreign(
    name: &'static str,
    reader: &'static str,
    meaning: &'static str,
    default: &'static str,
) -> Foreign {
    Foreign { name, reader, meaning, default }
}

const MANAGER: &str = "executor manager";
const RAGFLOW: &str = "RAGFlow";
const LOCAL: &str = "local provider";

/// Every such variable.
pub(crate) static FOREIGN: &[Foreign] = &[
    foreign(
        "SANDBOX_ENABLE_SECCOMP",
        MANAGER,
        "the system call filter; here it is always on",
        "`false`",
    ),
    foreign(
        "SANDBOX_CONTAINER_NETWORK",
        MANAGER,
        "a network of Docker's; here `network.policy`",
        "`none`",
    ),
    foreign(
        "SANDBOX_EXECUTOR_MANAGER_PORT",
        MANAGER,
        "the host's side of compose's port mapping; here `listen`. `make start` applies it",
        "`9385`",
    ),
    foreign("SANDBOX_EXECUTOR_MANAGER_IMAGE", RAGFLOW, "the manager's own image", ""),
    foreign("SANDBOX_EXECUTOR_MANAGER_URL", RAGFLOW, "where RAGFlow finds the manager", ""),
    foreign("SANDBOX_EXECUTOR_MANAGER_TIMEOUT", RAGFLOW, "how long RAGFlow waits for it", ""),
    foreign("SANDBOX_EXECUTOR_MANAGER_MAX_RETRIES", RAGFLOW, "how often RAGFlow asks again", ""),
    foreign(
        "SANDBOX_PROVIDER_TYPE",
        RAGFLOW,
        "which of its providers RAGFlow uses; here `provider`",
        "`self_managed`",
    ),
    foreign("SANDBOX_ENABLED", RAGFLOW, "whether RAGFlow runs code at all", ""),
    foreign("SANDBOX_HOST", RAGFLOW, "the manager's host", "`sandbox-executor-manager`"),
    foreign(
        "SANDBOX_ARTIFACT_BUCKET",
        RAGFLOW,
        "where RAGFlow keeps artifacts",
        "`sandbox-artifacts`",
    ),
    foreign("SANDBOX_ARTIFACT_EXPIRE_DAYS", RAGFLOW, "how long it keeps them", "`7`"),
    foreign("COMPONENT_EXEC_TIMEOUT", RAGFLOW, "how long a component may take", "`600`"),
    foreign("COMPOSE_PROFILES", RAGFLOW, "what compose starts; must name `sandbox`", ""),
    foreign("SANDBOX_LOCAL_ENABLED", LOCAL, "whether it may be used", "`false`"),
    foreign(
        "SANDBOX_LOCAL_PYTHON_BIN",
        LOCAL,
        "its Python; here `AMPOULE_PYTHON_BIN`",
        "`python3`",
    ),
    foreign("SANDBOX_LOCAL_NODE_BIN", LOCAL, "its Node.js; here `AMPOULE_NODE_BIN`", "`node`"),
    foreign("SANDBOX_LOCAL_WORK_DIR", LOCAL, "where its programs run", "`/tmp/ragflow-codeexec`"),
    foreign("SANDBOX_LOCAL_TIMEOUT", LOCAL, "wall clock; here `limits.timeout`", "`30`"),
    foreign("SANDBOX_LOCAL_MAX_MEMORY_MB", LOCAL, "address space; here `limits.memory`", "`512`"),
    foreign("SANDBOX_LOCAL_MAX_OUTPUT_BYTES", LOCAL, "output; here `limits.output`", "`1048576`"),
    foreign("SANDBOX_LOCAL_MAX_ARTIFACTS", LOCAL, "number of artifacts", "`20`"),
    foreign("SANDBOX_LOCAL_MAX_ARTIFACT_BYTES", LOCAL, "size of an artifact", "`10485760`"),
];
