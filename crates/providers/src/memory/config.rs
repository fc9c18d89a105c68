//! What the fake does, and for which program.

use std::{fmt, sync::Arc, time::Duration};

use ampoule_core::{
    CancelGrade, Capabilities, DestroyGrade, EvidenceGrade, ExecuteRequest, IsolationLevel,
    Language, NetworkPolicy, ProgramError, RawValue, Result, SandboxId, SandboxSpec, ValueChannel,
};
use serde::Deserialize;

use super::error;

/// Makes a script from a request.
pub type Behaviour = Arc<dyn Fn(&ExecuteRequest) -> Result<Script> + Send + Sync>;

/// Decides whether a sandbox can be created.
pub type OnCreate = Arc<dyn Fn(&SandboxSpec) -> Result<()> + Send + Sync>;

/// Decides whether the provider is healthy.
pub type OnHealth = Arc<dyn Fn() -> Result<()> + Send + Sync>;

/// Decides whether a sandbox has lost, while it waited, what it needs.
pub type IsGone = Arc<dyn Fn(&SandboxId) -> bool + Send + Sync>;

/// How the fake behaves.
#[derive(Clone)]
pub struct MemoryConfig {
    /// What it declares, and therefore refuses.
    pub capabilities: Capabilities,
    /// What each program does; [`Script::of`] unless told.
    pub behaviour: Behaviour,
    /// Called by `create`, which fails if it does.
    pub on_create: Option<OnCreate>,
    /// Called by `health`, which fails if it does.
    pub on_health: Option<OnHealth>,
    /// Called by `is_ready` of a sandbox, which is not if it says so.
    pub is_gone: Option<IsGone>,
    /// How long `create` takes.
    pub create_time: Duration,
    /// How long `destroy` takes.
    pub destroy_time: Duration,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            capabilities: Capabilities {
                languages: vec![Language::new("python"), Language::new("javascript")],
                templates: Vec::new(),
                // Nothing runs, so nothing is isolated.
                isolation: IsolationLevel::None,
                evidence: EvidenceGrade::Claimed,
                value_channel: ValueChannel::Separate,
                cancel: CancelGrade::Tree,
                destroy: DestroyGrade::Confirmed,
                output_on_failure: true,
                stream_output: true,
                artifacts: true,
                networks: vec![NetworkPolicy::None],
                network_hurdle: None,
                max_wall: Duration::from_secs(3600),
                max_memory: 4 << 30,
                min_memory: ["python", "javascript"]
                    .map(|language| (Language::new(language), 16 << 20))
                    .into(),
            },
            behaviour: Arc::new(Script::of),
            on_create: None,
            on_health: None,
            is_gone: None,
            create_time: Duration::ZERO,
            destroy_time: Duration::ZERO,
        }
    }
}

impl fmt::Debug for MemoryConfig {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("MemoryConfig")
            .field("capabilities", &self.capabilities)
            .field("create_time", &self.create_time)
            .field("destroy_time", &self.destroy_time)
            .finish_non_exhaustive()
    }
}

/// What a program does, step by step.
///
/// As text it is a JSON list, the source of the program:
/// `[{"stdout": "hello\n"}, {"sleep_ms": 20}, {"value": 42}]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct Script(pub Vec<Step>);

impl Script {
    /// The script of a program: its source, if that begins with `[`; any other program gives its
    /// arguments back as its value.
    pub fn of(request: &ExecuteRequest) -> Result<Self> {
        let source = request.code.as_str();
        if !source.trim_start().starts_with('[') {
            return Ok(Self(vec![Step::Arguments]));
        }
        serde_json::from_str(source).map_err(error::unreadable)
    }
}

/// One step of a [`Script`]: an act, or a fact that the evidence then shows.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Writes to stdout.
    Stdout(String),
    /// Writes to stderr.
    Stderr(String),
    /// Returns a value.
    Value(Box<RawValue>),
    /// Returns the arguments.
    Arguments,
    /// Leaves a file with this name and text.
    Artifact(String, String),
    /// Leaves a file with this name and so many bytes.
    ArtifactOfSize(String, usize),
    /// Lets the provider skip a file with this name, for this reason.
    Skip(String, String),
    /// Takes so many milliseconds.
    SleepMs(u64),
    /// Goes on until it is cancelled or its wall clock runs out.
    Hang,
    /// Reports an uncaught error.
    Error(ProgramError),
    /// Writes nonsense to the channel of the value.
    Malformed(String),
    /// Exits with this code.
    Exit(i32),
    /// Dies of this signal.
    Signal(i32),
    /// Was never seen to end.
    Unseen,
    /// Is stopped by us.
    Stopped(Stop),
    /// The kernel kills so many of its processes for memory.
    OomKills(u64),
    /// The watch on memory ends it.
    MemoryWatch,
    /// Uses so many bytes of memory at most.
    MemoryPeak(u64),
    /// Uses so many microseconds of CPU time.
    CpuUs(u64),
    /// The kernel refuses so many forks.
    ForksRefused(u64),
    /// Fills its disk.
    DiskFull,
    /// Is denied this system call so many times.
    Denied(String, u32),
    /// Sends so many packets to nowhere.
    Unroutable(u64),
    /// The provider fails, with an error of this kind and this message, after the program started.
    Fail(String, String),
    /// The provider refuses to start the program, with an error of this kind and this message.
    Refuse(String, String),
    /// The provider panics.
    Panic,
    /// The provider breaks the law: its stream ends without an end.
    Vanish,
}

/// Why *we* stop a run, in a script.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// The wall clock ran out.
    Wall,
    /// The CPU time ran out.
    Cpu,
    /// Output passed its limit.
    Output,
    /// The platform could not go on.
    Platform,
}
