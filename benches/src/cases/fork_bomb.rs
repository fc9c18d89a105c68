//! How fast a fork bomb is gone: from its wall clock running out to its answer.
//!
//! The program fills its process limit and goes on trying, so that the clock finds a full tree that
//! forks. What is measured is the client's time less the limit: making the sandbox, killing, reaping,
//! counters, artifacts and the answer are all in it, so that killing and reaping took no longer.
//! Beside it stands the same by the service's own clock, `time_used_ms` less the limit, which ends when
//! the tree is gone. Nothing is kept ready, so whoever is in a cell when the answer is there has survived it, which is a
//! wrong answer.

use std::{thread, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{
    client::{Answer, Client},
    failure::{Doing, Failure, Result},
    processes::count_workers,
    program::post,
    report::Findings,
    statistics::Summary,
};

use super::{Context, paced::NO_WORKERS};

const CODE: &str = "import os\n\n\ndef main():\n    while True:\n        try:\n            os.fork()\n        \
                    except OSError:\n            pass\n";
const LIMIT_MS: f64 = 300.0;

pub(super) fn bomb(context: &Context, findings: &mut Findings) -> Result<()> {
    let service = context.service(&[NO_WORKERS])?;
    let launcher = service.tree()?.launcher;
    let body = json!({
        "code_b64": STANDARD.encode(CODE),
        "language": "python",
        "limits": { "timeout": "300ms" },
    });
    let request = post(&body.to_string());
    let mut client = service.connect()?;
    let seen = seen_while_one_runs(&mut client, launcher)?;
    if seen == 0 {
        return Err(Failure::Broken("a running program was not seen in its cell".to_owned()));
    }
    let (mut beyond, mut own, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..context.either(200, 30) {
        context.rest(1);
        let (took, answer) = client.exchange(&request).doing("call the service")?;
        let told = Told::read(answer)?;
        let alive = count_workers(launcher);
        if alive != Some(0) {
            return Err(Failure::Wrong(format!(
                "after the answer of a fork bomb: {alive:?} alive"
            )));
        }
        beyond.push(took.as_secs_f64() * 1000.0 - LIMIT_MS);
        own.push(told.used_ms - LIMIT_MS);
        peaks.push(told.peak);
    }
    if let Some(summary) = Summary::of(&beyond) {
        findings.figure("p99, ms beyond the limit", summary.p99);
    }
    findings.row("from the limit to the answer", "ms", beyond);
    findings.row("the service's own clock", "ms", own);
    findings.row("processes at once", "", peaks);
    service.stop()
}

/// The most processes in cells that are seen while a program sleeps: if it were none, seeing none after
/// a bomb would say nothing.
fn seen_while_one_runs(client: &mut Client, launcher: u32) -> Result<usize> {
    let code = STANDARD.encode("import time\n\n\ndef main():\n    time.sleep(0.5)\n");
    let request = post(&json!({ "code_b64": code, "language": "python" }).to_string());
    client.send(&request).doing("call the service")?;
    let mut seen = 0;
    for _ in 0..40 {
        thread::sleep(Duration::from_millis(10));
        seen = seen.max(count_workers(launcher).unwrap_or(0));
    }
    client.receive().doing("call the service")?;
    Ok(seen)
}

/// What the answer says.
struct Told {
    used_ms: f64,
    peak: f64,
}

impl Told {
    fn read(answer: Answer<'_>) -> Result<Self> {
        let told: Value = serde_json::from_str(answer.body).doing("read the answer")?;
        let number = |path: &str| told.pointer(path).and_then(Value::as_f64);
        let wrong =
            || Failure::Wrong(format!("of a fork bomb, HTTP {}: {}", answer.status, answer.body));
        let is_right = answer.status == 200
            && told["status"] == "resource_limit_exceeded"
            && told["evidence"]["stopped"] == "wall"
            && number("/evidence/processes/refused").unwrap_or(0.0) > 0.0;
        if !is_right {
            return Err(wrong());
        }
        let used_ms = number("/time_used_ms").ok_or_else(wrong)?;
        Ok(Self { used_ms, peak: number("/evidence/processes/peak").unwrap_or(0.0) })
    }
}
