//! A thousand requests at once.

use std::time::{Duration, Instant};

use crate::{
    client::Client,
    failure::{Doing, Failure, Result},
    pool,
    program::{PYTHON, Request},
    report::Findings,
    service::Service,
    statistics::median,
};

use super::Context;

const REQUESTS: u32 = 1000;

/// A thousand connections are opened before. One thread writes all requests, one after the other, and
/// then reads the answers in the order of the requests; those that are there already wait in the
/// kernel, so the time of the last is right, and the client takes as little of the processors as can be.
pub(super) fn thousand(context: &Context, findings: &mut Findings) -> Result<()> {
    // By itself the service refuses the 257th that waits.
    let service = context.service(&[("AMPOULE_QUEUE_SIZE", "1000")])?;
    let mut all = (0..REQUESTS)
        .map(|index| Ok((service.connect()?, Request::new(&PYTHON).starting_at(index * 1000))))
        .collect::<Result<Vec<_>>>()?;
    let (mut last, mut written) = (Vec::new(), Vec::new());
    for _ in 0..context.either(5, 2) {
        pool::settle(&service)?;
        let (to_write, to_last) = once(&mut all)?;
        written.push(to_write.as_secs_f64());
        last.push(to_last.as_secs_f64());
    }
    findings.figure("seconds to the last answer", median(&last));
    findings.row("until the last answer", "s", last);
    findings.row("of that until all were written", "s", written);
    stop(service, all)
}

fn once(all: &mut [(Client, Request)]) -> Result<(Duration, Duration)> {
    let began = Instant::now();
    for (client, request) in &mut *all {
        client.send(request.next()).doing("send one of the requests")?;
    }
    let written = began.elapsed();
    let mut wrong = Vec::new();
    for (client, request) in &mut *all {
        let answer = client.receive().doing("receive one of the answers")?;
        if let Err(Failure::Wrong(text)) = request.check(answer) {
            wrong.push(text);
        }
    }
    let last = began.elapsed();
    match wrong.first() {
        None => Ok((written, last)),
        Some(text) => {
            let count = wrong.len();
            Err(Failure::Wrong(format!("{count} of {REQUESTS}, the first: {text}")))
        }
    }
}

fn stop(service: Service, all: Vec<(Client, Request)>) -> Result<()> {
    drop(all);
    service.stop()
}
