//! What a case works with: one language of a subject, short words for running programs, and what
//! was seen of a run.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ampoule_core::{
    Arguments, Artifact, CancellationToken, Capabilities, Code, Error, ErrorKind, Event,
    EventStream, ExecuteRequest, ExecutionId, Finished, IsolationLevel, Language, Limits,
    NetworkPolicy, Outcome, Profile, RawValue, Sandbox, SandboxSpec, TrustGroup,
};
use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::{act::Act, subject::Subject};

/// Why a case did not pass.
#[derive(Debug)]
pub(super) enum Stop {
    /// The provider breaks the law.
    Broken(String),
    /// It does not promise it, or no program can try.
    LeftOut(String),
}

/// How a case went.
pub(super) type Checked<T = ()> = Result<T, Stop>;

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Broken(error.chain())
    }
}

/// Ends the case unless a condition holds.
macro_rules! ensure {
    ($holds:expr, $($said:tt)+) => {
        if !$holds {
            return Err($crate::conformance::bench::Stop::Broken(format!($($said)+)));
        }
    };
}
pub(super) use ensure;

/// Says that a case does not apply.
pub(super) fn leave_out<T>(reason: impl Into<String>) -> Checked<T> {
    Err(Stop::LeftOut(reason.into()))
}

/// One language of a subject.
#[derive(Clone, Debug)]
pub(super) struct Bench {
    pub(super) subject: Subject,
    pub(super) language: Language,
}

impl Bench {
    pub(super) fn capabilities(&self) -> Arc<Capabilities> {
        self.subject.provider.capabilities()
    }

    /// Limits with another wall clock.
    pub(super) fn within(&self, wall: Duration) -> Limits {
        Limits { wall, ..self.subject.limits }
    }

    /// A request for a program that does these acts.
    pub(super) fn request(&self, acts: &[Act]) -> Checked<ExecuteRequest> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let mut statements = Vec::new();
        for act in acts {
            let Some(text) = self.subject.programs.statements(&self.language, act) else {
                let (language, name) = (&self.language, act.name());
                ensure!(!act.is_basic(), "the programs of `{language}` must know `{name}`");
                return leave_out(format!("no program of `{language}` does `{name}`"));
            };
            statements.push(text);
        }
        let source = self.subject.programs.program(&self.language, &statements);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        Ok(ExecuteRequest {
            id: ExecutionId::new(format!("conformance-{number}")),
            language: self.language.clone(),
            code: Code::new(&source).map_err(|error| Stop::Broken(error.to_string()))?,
            arguments: Arguments::none(),
            limits: self.subject.limits,
            network: NetworkPolicy::None,
            profile: Profile::Fast,
            trust_group: TrustGroup::default(),
        })
    }

    /// A sandbox; waits while every place is taken.
    pub(super) async fn create(&self, spec: SandboxSpec) -> Checked<Box<dyn Sandbox>> {
        let deadline = Instant::now() + self.subject.patience;
        loop {
            match self.within_patience("create", self.subject.provider.create(spec.clone())).await?
            {
                Err(error) if error.kind() == ErrorKind::Busy && Instant::now() < deadline => {
                    sleep(Duration::from_millis(20)).await;
                }
                other => return Ok(other?),
            }
        }
    }

    /// Runs a program that does these acts to its end, in a sandbox of its own.
    pub(super) async fn run(&self, acts: &[Act]) -> Checked<Seen> {
        self.run_request(self.request(acts)?).await
    }

    pub(super) async fn run_within(&self, limits: Limits, acts: &[Act]) -> Checked<Seen> {
        self.run_request(ExecuteRequest { limits, ..self.request(acts)? }).await
    }

    pub(super) async fn run_request(&self, request: ExecuteRequest) -> Checked<Seen> {
        let mut live = self.start(request).await?;
        let seen = self.to_end(&mut live.events).await;
        self.destroy(live.sandbox).await?;
        seen
    }

    /// Starts a program that does these acts.
    pub(super) async fn start_acts(&self, acts: &[Act]) -> Checked<Live> {
        self.start(self.request(acts)?).await
    }

    pub(super) async fn start(&self, request: ExecuteRequest) -> Checked<Live> {
        let mut sandbox = self.create(request.spec()).await?;
        let cancel = CancellationToken::new();
        let started = sandbox.execute(request, cancel.clone());
        let events = self.within_patience("execute", started).await??;
        // A case may look beyond the end, where other streams panic.
        Ok(Live { sandbox, events: Box::pin(events.fuse()), cancel })
    }

    /// Starts a program with a child that carries this word, and waits until the oracle sees the
    /// child: it proves that the oracle can.
    pub(super) async fn start_with_child(&self, word: &str) -> Checked<Live> {
        self.needs_sight()?;
        let acts = [Act::Child(word.to_owned()), print("ready\n"), Act::Hang];
        let mut live = self.start_acts(&acts).await?;
        self.first_output(&mut live.events).await?;
        self.eventually("the child", || !self.processes_with(word).is_empty()).await?;
        Ok(live)
    }

    pub(super) async fn destroy(&self, sandbox: Box<dyn Sandbox>) -> Checked {
        Ok(self.within_patience("destroy", sandbox.destroy()).await??)
    }

    /// Everything that a stream still gives.
    pub(super) async fn to_end(&self, events: &mut EventStream) -> Checked<Seen> {
        let mut seen = Seen::default();
        while let Some(item) = self.within_patience("an event", events.next()).await? {
            seen.items.push(item);
        }
        Ok(seen)
    }

    /// What a stream gives up to its first end.
    pub(super) async fn to_finished(&self, events: &mut EventStream) -> Checked<Seen> {
        let mut seen = Seen::default();
        while let Some(item) = self.within_patience("an event", events.next()).await? {
            let is_end = matches!(item, Ok(Event::Finished(_)) | Err(_));
            seen.items.push(item);
            if is_end {
                break;
            }
        }
        Ok(seen)
    }

    /// Waits for the first output of a running program.
    pub(super) async fn first_output(&self, events: &mut EventStream) -> Checked<Seen> {
        if !self.capabilities().stream_output {
            return leave_out("output does not arrive while the program runs");
        }
        match self.within_patience("the first output", events.next()).await? {
            Some(Ok(event @ (Event::Stdout(_) | Event::Stderr(_)))) => {
                Ok(Seen { items: vec![Ok(event)] })
            }
            other => Err(Stop::Broken(format!("instead of output came {other:?}"))),
        }
    }

    pub(super) async fn within_patience<T>(
        &self,
        what: &str,
        work: impl Future<Output = T>,
    ) -> Checked<T> {
        let patience = self.subject.patience;
        let waited = timeout(patience, work).await;
        waited.map_err(|_| Stop::Broken(format!("{what} did not come within {patience:?}")))
    }

    /// The processes of a run, by a word among their arguments.
    pub(super) fn processes_with(&self, word: &str) -> Vec<String> {
        self.subject.oracle.processes_with(word).unwrap_or_default()
    }

    /// Leaves the case out if nobody can look at processes.
    pub(super) fn needs_sight(&self) -> Checked {
        match self.subject.oracle.processes_with("none") {
            Some(_) => Ok(()),
            None => leave_out("nobody can look at the processes where programs run"),
        }
    }

    /// Waits until something holds.
    pub(super) async fn eventually(&self, what: &str, holds: impl Fn() -> bool) -> Checked {
        let waiting = async {
            while !holds() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        self.within_patience(what, waiting).await
    }

    /// Leaves the case out if nothing separates programs here.
    pub(super) fn needs_walls(&self) -> Checked {
        match self.capabilities().isolation {
            IsolationLevel::None => leave_out("isolation is `none`: nothing is walled off"),
            _ => Ok(()),
        }
    }
}

/// A program that runs.
pub(super) struct Live {
    pub(super) sandbox: Box<dyn Sandbox>,
    pub(super) events: EventStream,
    pub(super) cancel: CancellationToken,
}

/// What a stream gave, as it came: nothing is checked yet.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) items: Vec<ampoule_core::Result<Event>>,
}

impl Seen {
    /// With what came before.
    pub(super) fn after(mut self, earlier: Self) -> Self {
        self.items.splice(0..0, earlier.items);
        self
    }

    /// What one kind of event carries, in order.
    fn of<'seen, T>(&'seen self, kind: fn(&'seen Event) -> Option<T>) -> impl Iterator<Item = T> {
        self.items.iter().flatten().filter_map(kind)
    }

    pub(super) fn stdout(&self) -> String {
        self.of(|event| if let Event::Stdout(text) = event { Some(&**text) } else { None })
            .collect()
    }

    pub(super) fn stderr(&self) -> String {
        self.of(|event| if let Event::Stderr(text) = event { Some(&**text) } else { None })
            .collect()
    }

    pub(super) fn values(&self) -> Vec<&RawValue> {
        self.of(|event| if let Event::Value(value) = event { Some(&**value) } else { None })
            .collect()
    }

    pub(super) fn artifacts(&self) -> Vec<&Artifact> {
        self.of(|event| if let Event::Artifact(file) = event { Some(file) } else { None }).collect()
    }

    /// The one value, parsed.
    pub(super) fn value(&self) -> Checked<Value> {
        match self.values().as_slice() {
            [value] => serde_json::from_str(value.get())
                .map_err(|error| Stop::Broken(format!("the value is no JSON: {error}"))),
            other => Err(Stop::Broken(format!(
                "there are {} values and not one; it ended as {:?}",
                other.len(),
                self.outcome()
            ))),
        }
    }

    /// The end.
    pub(super) fn finished(&self) -> Checked<&Finished> {
        let mut ends =
            self.of(|event| if let Event::Finished(end) = event { Some(&**end) } else { None });
        let found = ends.next();
        found.ok_or_else(|| Stop::Broken(format!("no end among {:?}", self.items)))
    }

    pub(super) fn outcome(&self) -> Checked<&Outcome> {
        Ok(&self.finished()?.outcome)
    }
}

/// Text of the suite's own as an act.
pub(super) fn print(text: &str) -> Act {
    Act::Stdout(text.to_owned())
}

/// A value of the suite's own as an act.
pub(super) fn give(json: &str) -> Act {
    Act::Return(json.to_owned())
}
