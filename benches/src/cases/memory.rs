//! What a ready worker costs in memory.

use std::collections::BTreeMap;

use crate::{
    failure::Result,
    pool,
    processes::{Tree, count_workers, kernel_kb, kind, private_kb},
    report::Findings,
    statistics::median,
};

use super::{Context, paced::NO_WORKERS};

/// Ready workers of the service whose kernel memory is looked at.
const MANY: &str = "16";

pub(super) fn workers(context: &Context, findings: &mut Findings) -> Result<()> {
    private(context, findings)?;
    kernel(context, findings)
}

/// Memory that nobody shares, of each ready worker of an idle service as it is by default.
fn private(context: &Context, findings: &mut Findings) -> Result<()> {
    let service = context.service(&[])?;
    let tree = service.tree()?;
    let mut by_kind: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let (mut seen, mut unread) = (0, 0);
    let cells = tree.cells().map(|process| ("cell's first process".to_owned(), process));
    let zygotes = tree.zygotes().map(|zygote| (format!("zygote, {}", kind(zygote.pid)), zygote));
    let ready = tree.workers().map(|worker| (of_worker(&tree, worker.pid), worker));
    for (kind, process) in ready.chain(zygotes).chain(cells) {
        match private_kb(process.pid) {
            Some(private) => by_kind.entry(kind).or_default().push(megabytes(private)),
            None => unread += 1,
        }
        seen += 1;
    }
    for (kind, values) in by_kind {
        match kind.as_str() {
            "python, forked" => findings.figure("MB, python worker", median(&values)),
            "node, forked" | "node, exec'd" => findings.figure("MB, node worker", median(&values)),
            _ => {}
        }
        findings.row(kind, "MB", values);
    }
    findings.note(format!("{seen} processes looked at; {unread} did not let themselves be read"));
    service.stop()
}

/// Kernel memory of the machine with many ready workers, less that with none: slab, stacks, page
/// tables and per-processor memory. Others on the machine move it too, so pairs are repeated.
fn kernel(context: &Context, findings: &mut Findings) -> Result<()> {
    let mut each = Vec::new();
    for _ in 0..context.either(5, 2) {
        let (none, without) = idle(context, &[NO_WORKERS, ("AMPOULE_NATIVE_CELLS", "0")])?;
        let (many, with) = idle(context, &[("AMPOULE_POOL_READY", MANY)])?;
        if let (true, Some(with), Some(without)) = (many > none, with, without) {
            let workers = u32::try_from(many - none).unwrap_or(1);
            each.push((megabytes(with) - megabytes(without)) / f64::from(workers));
        }
    }
    if each.is_empty() {
        findings.note("there are no ready workers, so no kernel memory of theirs");
        return Ok(());
    }
    findings.figure("MB of the kernel, each worker", median(&each));
    findings.row("kernel memory, each worker", "MB", each);
    Ok(())
}

/// Ready workers of an idle service, and the kernel's memory then.
fn idle(context: &Context, environment: &[(&str, &str)]) -> Result<(usize, Option<u64>)> {
    let service = context.service(environment)?;
    pool::settle(&service)?;
    let workers = count_workers(service.tree()?.launcher).unwrap_or(0);
    let kernel = kernel_kb();
    service.stop()?;
    Ok((workers, kernel))
}

/// What kind of worker: its interpreter, its libraries, and how it was made. One that was forked has
/// the command line of a zygote.
fn of_worker(tree: &Tree, pid: u32) -> String {
    let line = crate::processes::command_line(pid);
    let is_forked = tree.zygotes().any(|zygote| crate::processes::command_line(zygote.pid) == line);
    format!("{}, {}", kind(pid), if is_forked { "forked" } else { "exec'd" })
}

#[expect(clippy::cast_precision_loss, reason = "no machine has 2^53 kB")]
fn megabytes(kilobytes: u64) -> f64 {
    kilobytes as f64 / 1024.0
}
