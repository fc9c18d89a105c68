//! The contract that every back-end fulfils.

use std::fmt::Debug;

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

    /// Says what works here and now, after probing.
    fn capabilities(&self) -> Capabilities;

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

    /// Runs one program. A second call is refused as `Unsupported`, and does not disturb the first.
    ///
    /// - A request that asks for another sandbox than this one was created as
    ///   ([`ExecuteRequest::spec`]) is refused as `InvalidRequest`, with the field.
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
