//! The contract that every back-end fulfils.

use std::{fmt::Debug, sync::Arc};

use async_trait::async_trait;

use crate::{
    CancellationToken, Capabilities, Collector, EventStream, ExecuteRequest, ExecutionResult,
    IsolationReport, ProviderInfo, Result, SandboxId, SandboxSpec,
};

/// A back-end that creates sandboxes.
#[async_trait]
pub trait Provider: Debug + Send + Sync + 'static {
    /// Says which provider this is; never secrets.
    fn info(&self) -> ProviderInfo;

    /// Says what works here and now, after probing. It is asked for each request: it is shared, not
    /// copied.
    fn capabilities(&self) -> Arc<Capabilities>;

    /// Proves that a run is possible, not that a port answers.
    async fn health(&self) -> Result<()>;

    /// Creates a sandbox that is ready for one execution.
    ///
    /// - What [`Capabilities`] does not declare is refused as `Unsupported`, a limit outside of its
    ///   range as `InvalidRequest`, with the field.
    /// - After `shutdown` it is refused as `Unavailable`.
    /// - A sandbox that is dropped without `destroy` leaves nothing behind either.
    async fn create(&self, spec: SandboxSpec) -> Result<Box<dyn Sandbox>>;

    /// Ends every sandbox and frees what the provider holds.
    async fn shutdown(&self) -> Result<()>;
}

/// One isolated place, for one execution.
#[async_trait]
pub trait Sandbox: Debug + Send + Sync {
    /// The sandbox's id.
    fn id(&self) -> &SandboxId;

    /// Says what is enforced around it.
    fn isolation(&self) -> &IsolationReport;

    /// Whether its one execution can still begin: it has not begun, and nothing that it needs is
    /// gone. A sandbox may wait for long before it is used; one that lost its process, or whoever
    /// holds it, says no. It costs nothing to ask.
    fn is_ready(&self) -> bool;

    /// Runs one program. A second call is refused as `Unsupported`, and does not disturb the first.
    ///
    /// - A request that asks for another sandbox than this one was created as
    ///   ([`SandboxSpec::built_in`] of its [`ExecuteRequest::spec`]; the template is a hint) is
    ///   refused as `InvalidRequest`, with the field.
    /// - Wall clock, CPU time and output are bounded as the request says, whatever the sandbox was
    ///   created with. That they are within [`Capabilities`] is looked at before: at `create`, or
    ///   by whoever keeps sandboxes ready.
    /// - An error that is not [`Error::after_start`](crate::Error::after_start) means that the program has not begun and never
    ///   will: it may be run elsewhere.
    /// - The stream ends in exactly one `Finished`, last; or in `Err` when *we* failed.
    /// - Output before a stop is kept.
    /// - When `cancel` fires, the whole process tree is gone before `Finished(Cancelled)`.
    async fn execute(
        &mut self,
        request: ExecuteRequest,
        cancel: CancellationToken,
    ) -> Result<EventStream>;

    /// Frees everything. When it returns, no process, mount, cgroup or file of it exists.
    async fn destroy(self: Box<Self>) -> Result<()>;
}

/// Conveniences over [`Provider`].
#[async_trait]
pub trait ProviderExt: Provider {
    /// Creates, executes, collects and destroys.
    async fn run(
        &self,
        request: ExecuteRequest,
        cancel: CancellationToken,
    ) -> Result<ExecutionResult> {
        let mut sandbox = self.create(request.spec()).await?;
        let collected = match sandbox.execute(request, cancel).await {
            Ok(events) => Collector::collect(events).await,
            Err(error) => Err(error),
        };
        let destroyed = sandbox.destroy().await;
        let result = collected?;
        destroyed?;
        Ok(result)
    }
}

impl<P: Provider + ?Sized> ProviderExt for P {}
