//! One client that leaves the pool time to refill, beside bare starts in the same rounds.

use crate::{
    bare::Bare,
    client::Client,
    failure::{Doing, Result},
    program::{NODE, PANDAS, PYTHON, Pool, Program, Request, STRICT},
    report::Findings,
    service::Service,
};

use super::Context;

/// Rounds that only warm caches.
const WARM_UP: usize = 3;

/// Nothing is kept ready, or only cells.
pub(crate) const NO_WORKERS: (&str, &str) = ("AMPOULE_POOL_READY", "0");
const TWO_CELLS: (&str, &str) = ("AMPOULE_NATIVE_CELLS", "2");
const NO_CELLS: (&str, &str) = ("AMPOULE_NATIVE_CELLS", "0");

/// The name of our row in each of these cases.
pub(crate) const OURS: &str = "POST /run";

pub(super) fn python_hit(context: &Context, findings: &mut Findings) -> Result<()> {
    let bare =
        vec![Bare::python(&context.interpreters), Bare::python_without_site(&context.interpreters)];
    Paced { environment: &[], bare, calls: 3, rests: 1, rounds: context.rounds, program: PYTHON }
        .measure(context, findings)
}

pub(super) fn python_miss_cell(context: &Context, findings: &mut Findings) -> Result<()> {
    let bare = vec![Bare::python(&context.interpreters)];
    let environment = &[NO_WORKERS, TWO_CELLS];
    Paced { environment, bare, calls: 2, rests: 1, rounds: context.rounds, program: PYTHON }
        .measure(context, findings)
}

pub(super) fn python_miss_bare(context: &Context, findings: &mut Findings) -> Result<()> {
    let bare = vec![Bare::python(&context.interpreters)];
    let environment = &[NO_WORKERS, NO_CELLS];
    Paced { environment, bare, calls: 2, rests: 1, rounds: context.rounds, program: PYTHON }
        .measure(context, findings)
}

pub(super) fn pandas_hit(context: &Context, findings: &mut Findings) -> Result<()> {
    let bare = vec![Bare::pandas(&context.interpreters)?];
    let rounds = context.share(5, 10);
    Paced { environment: &[], bare, calls: 5, rests: 4, rounds, program: PANDAS }
        .measure(context, findings)
}

pub(super) fn node_hit(context: &Context, findings: &mut Findings) -> Result<()> {
    let bare = vec![Bare::node(&context.interpreters)];
    Paced { environment: &[], bare, calls: 2, rests: 6, rounds: context.rounds, program: NODE }
        .measure(context, findings)
}

pub(super) fn strict_hit(context: &Context, findings: &mut Findings) -> Result<()> {
    let bare = vec![Bare::python(&context.interpreters)];
    Paced { environment: &[], bare, calls: 2, rests: 8, rounds: context.rounds, program: STRICT }
        .measure(context, findings)
}

/// Rounds of one start of each bare program and some calls, with pauses before each.
struct Paced<'a> {
    environment: &'a [(&'a str, &'a str)],
    /// The first is what we are compared with.
    bare: Vec<Bare>,
    calls: usize,
    /// How many pauses: longer where refilling takes longer.
    rests: u32,
    rounds: usize,
    program: Program,
}

impl Paced<'_> {
    fn measure(mut self, context: &Context, findings: &mut Findings) -> Result<()> {
        let service = context.service(self.environment)?;
        let mut caller = Caller::new(&service, &self.program)?;
        let mut bare: Vec<Vec<f64>> = vec![Vec::new(); self.bare.len()];
        let mut ours = Vec::new();
        for round in 0..WARM_UP + self.rounds {
            if round == WARM_UP {
                bare.iter_mut().for_each(Vec::clear);
                ours.clear();
                caller.forget();
            }
            for (program, times) in self.bare.iter_mut().zip(&mut bare) {
                context.rest(1);
                times.push(program.start()?);
            }
            for _ in 0..self.calls {
                context.rest(self.rests);
                ours.push(caller.call()?);
            }
        }
        let baseline = self.bare[0].name;
        for (program, times) in self.bare.iter().zip(bare) {
            findings.row(program.name, "ms", times);
        }
        findings.compared(OURS, "ms", ours, baseline);
        findings.ratio_is_a_figure();
        caller.tell(findings);
        service.stop()
    }
}

/// Calls and checks, one connection.
#[derive(Debug)]
pub(crate) struct Caller {
    client: Client,
    request: Request,
    hits: usize,
    misses: usize,
}

impl Caller {
    pub(crate) fn new(service: &Service, program: &Program) -> Result<Self> {
        Self::numbered(service, program, 0)
    }

    /// With numbers that no other caller has within a million calls.
    pub(crate) fn numbered(service: &Service, program: &Program, caller: u32) -> Result<Self> {
        let request = Request::new(program).starting_at(caller * 1_000_000);
        Ok(Self { client: service.connect()?, request, hits: 0, misses: 0 })
    }

    /// One run; its milliseconds, from before the request is written to the last byte of the answer.
    pub(crate) fn call(&mut self) -> Result<f64> {
        let (took, answer) = self.client.exchange(self.request.next()).doing("call the service")?;
        match self.request.check(answer)? {
            Pool::Hit => self.hits += 1,
            Pool::Miss => self.misses += 1,
            Pool::Untold => {}
        }
        Ok(took.as_secs_f64() * 1000.0)
    }

    /// Forgets what was counted.
    pub(crate) fn forget(&mut self) {
        (self.hits, self.misses) = (0, 0);
    }

    /// Hits, of how many that told.
    pub(crate) fn hits(&self) -> (usize, usize) {
        (self.hits, self.hits + self.misses)
    }

    /// Notes how many were hits. All calls are in the figures, whatever they were.
    pub(crate) fn tell(&self, findings: &mut Findings) {
        findings.note(match self.hits() {
            (_, 0) => "the answers do not tell hits from misses".to_owned(),
            (hits, told) => format!("{hits} of {told} answers were hits; all are counted"),
        });
    }
}
