//! The vocabulary of Ampoule: what every layer says to its neighbour.
//!
//! No I/O and no `unsafe` here. A provider implements [`Provider`] and [`Sandbox`]; everything above
//! speaks of [`ExecuteRequest`], [`Event`], [`Outcome`] and [`Evidence`] only. How a user's program
//! ended is a value ([`Outcome`]); [`Error`] means that *we* failed.
#![forbid(unsafe_code)]

mod bounds;
mod capabilities;
mod error;
mod event;
mod evidence;
mod id;
mod language;
mod layer;
mod limits;
mod profile;
mod program_error;
mod proof;
mod provider;
mod request;
mod result;
mod runtime;
mod template;
mod text;
mod trust_group;
mod verdict;

pub use bounds::{Bounds, Excess};
pub use capabilities::{
    CancelGrade, Capabilities, DestroyGrade, EvidenceGrade, IsolationLevel, IsolationReport,
    Meters, ProviderInfo, ValueChannel,
};
pub use error::{Error, ErrorKind, Result};
pub use event::{Artifact, Event, EventStream, Finished, SkippedArtifact};
pub use evidence::{
    CpuEvidence, DeniedCall, DiskEvidence, Evidence, Exit, FrameEvidence, MemoryEvidence,
    NetworkEvidence, OutputEvidence, ProcessEvidence, StopReason, Usage,
};
pub use id::{ExecutionId, SandboxId};
pub use language::Language;
pub use layer::{Layer, UnknownLayer};
pub use limits::{
    Limits, LimitsError, NetworkPolicy, OnOutputLimit, format_bytes, format_cpus, format_duration,
    parse_bytes, parse_cpus, parse_duration,
};
pub use profile::{Profile, UnknownProfile};
pub use program_error::ProgramError;
pub use proof::{Crossing, FenceProof, ForkProof, SelfTest};
pub use provider::{Provider, ProviderExt, Sandbox};
pub use request::{
    Arguments, ArgumentsError, Code, CodeError, ExecuteRequest, MAX_JSON_DEPTH, SandboxSpec,
};
pub use result::{Collector, ExecutionResult};
pub use runtime::{Example, ManifestError, ManifestTemplate, Packages, Protocol, RuntimeManifest};
pub use template::{TemplateHint, TemplateName};
pub use text::{Utf8Decoder, json_depth};
pub use trust_group::{BadTrustGroup, TrustGroup};
pub use verdict::{Culprit, Denial, LimitKind, Outcome, Verdict, verdict};

pub use serde_json::value::RawValue;
pub use tokio_util::sync::CancellationToken;
