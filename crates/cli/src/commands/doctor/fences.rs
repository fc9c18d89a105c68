//! Fences and meters, by trying them.

use ampoule_core::{Crossing, FenceProof, Layer, Provider as _, Result, SelfTest as _};
use ampoule_providers::native::{METERS, MeterProof, Native};

use super::report::{Check, MeterRow, Report};
use crate::{exit::Failure, provider};

const FENCES: &str = "fences";
const METER: &str = "meters";

/// Tries every fence, with these layers left out, and every meter. Where no sandbox can be built
/// that is what is told.
pub(super) fn try_all(without: &[Layer], report: &mut Report) -> std::result::Result<(), Failure> {
    let config = provider::for_probes(without.to_vec());
    let keeper = Native::spawn(&config);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::platform(format!("failed to start the runtime: {error}")))?;
    let tried = runtime
        .block_on(async { try_with(Native::connect(keeper?, &config).await?, report).await });
    if let Err(error) = tried {
        report.checks.push(no_sandbox(&error.chain()));
    }
    Ok(())
}

async fn try_with(native: Native, report: &mut Report) -> Result<()> {
    report.probes = native.prove().await;
    match the_same_hurdle(&report.probes) {
        Some(why) => report.checks.push(no_sandbox(why)),
        None => report.checks.extend(report.probes.iter().map(fence)),
    }
    report.checks.extend(native.missing().await?.into_iter().filter_map(missing_meter));
    // One after another, so that none takes the time of another.
    for limit in METERS {
        match native.try_meter(limit).await {
            Ok(proof) => {
                report.checks.push(meter(&proof));
                report.meters.push(row(&proof));
            }
            Err(error) => report.checks.push(Check::failed(
                METER,
                limit.as_str(),
                format!("could not be tried: {}", error.chain()),
                "see the lines above",
            )),
        }
    }
    native.shutdown().await
}

/// Why no fence could be tried, if one reason keeps all of them.
fn the_same_hurdle(proofs: &[FenceProof]) -> Option<&str> {
    let mut reasons = proofs.iter().map(|proof| match &proof.crossing {
        Crossing::Untried { why } => Some(why.as_str()),
        _ => None,
    });
    let first = reasons.next()??;
    reasons.all(|reason| reason == Some(first)).then_some(first)
}

/// Why nothing can be tried here. The provider names the hurdle and, behind `hint: `, the fix.
fn no_sandbox(text: &str) -> Check {
    let (detail, fix) = text.split_once("; hint: ").unwrap_or((text, "see the lines above"));
    Check::failed(FENCES, "sandbox", format!("no fence was tried: {detail}"), fix)
}

fn fence(proof: &FenceProof) -> Check {
    let name = proof.layer.as_str();
    match &proof.crossing {
        Crossing::Stopped { by } => Check::ok(FENCES, name, by),
        Crossing::Crossed { how } => Check::failed(
            FENCES,
            name,
            format!("not enforced: {how}"),
            "run nothing untrusted here, and report this with the table",
        ),
        Crossing::Untried { why } => {
            let (detail, fix) = why.split_once("; hint: ").unwrap_or((why, "see the lines above"));
            Check::failed(FENCES, name, format!("not tried: {detail}"), fix)
        }
        Crossing::Unseen { why } => Check::warning(FENCES, name, why, "see `proc`"),
        Crossing::Absent => {
            let (detail, fix) = match proof.layer {
                Layer::OwnIds => ("all runs have this user's one id", "start as root"),
                _ => ("given up on this machine, and every answer says so", "see the lines above"),
            };
            Check::warning(FENCES, name, detail, fix)
        }
    }
}

/// What is not counted here; the other layers have a probe and a line of their own.
fn missing_meter(layer: Layer) -> Option<Check> {
    let (detail, fix) = match layer {
        Layer::Cgroup => {
            ("no control group: limits are watched from outside", "see `control groups`")
        }
        Layer::CpuMeter => ("nothing bounds the share of a processor", "see `control groups`"),
        Layer::SwapMeter => ("memory that is swapped out does not count", "`swapoff -a`"),
        _ => return None,
    };
    Some(Check::warning(METER, layer.as_str(), detail, fix))
}

fn meter(proof: &MeterProof) -> Check {
    let name = proof.limit.as_str();
    let row = row(proof);
    let seconds = format!("{}.{:02} s", row.wall_us / 1_000_000, row.wall_us / 10_000 % 100);
    if proof.holds() {
        let rung = row.meters;
        return Check::ok(
            METER,
            name,
            format!("stopped by the {} after {seconds} ({rung})", row.by),
        );
    }
    let detail = format!("not enforced: the probe went on for {seconds}");
    Check::failed(METER, name, detail, "control groups, as the line above says")
}

fn row(proof: &MeterProof) -> MeterRow {
    MeterRow {
        limit: proof.limit.as_str(),
        held: proof.holds(),
        by: proof.by,
        meters: proof.meters.as_str(),
        wall_us: proof.usage.wall_us,
        cpu_us: proof.usage.cpu_us,
        memory_peak: proof.usage.memory_peak,
        processes_peak: proof.usage.processes_peak,
    }
}
