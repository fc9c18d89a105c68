//! Fences and meters, by trying them.

use ampoule_core::{
    Crossing, FenceProof, Layer, NetworkPolicy, Provider as _, Result, SelfTest as _,
};
use ampoule_providers::native::{METERS, MeterProof, Native};

use super::report::{Check, MeterRow, Report};
use crate::{config::Config, exit::Failure, provider};

const FENCES: &str = "fences";
const METER: &str = "meters";

/// Tries every fence, with the layers `without` left out, and every meter. Where no sandbox can be
/// built that is what is told.
pub(super) fn try_all(
    config: &Config,
    without: &[Layer],
    report: &mut Report,
) -> std::result::Result<(), Failure> {
    let native = provider::for_probes(config, without.to_vec());
    let keeper = Native::spawn(&native);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::platform(format!("failed to start the runtime: {error}")))?;
    let tried = runtime.block_on(async {
        try_with(Native::connect(keeper?, &native).await?, config, report).await
    });
    if let Err(error) = tried {
        report.checks.push(no_sandbox(&error.chain()));
    }
    Ok(())
}

async fn try_with(native: Native, config: &Config, report: &mut Report) -> Result<()> {
    let given_up = &config.allow_missing;
    let hurdle = native.capabilities().network_hurdle.clone();
    report.checks.push(way_out(hurdle.as_deref(), config.network));
    report.probes = native.prove().await;
    match the_same_hurdle(&report.probes) {
        Some(why) => report.checks.push(no_sandbox(why)),
        None => report.checks.extend(report.probes.iter().map(|proof| fence(proof, given_up))),
    }
    let missing = native.missing().await?;
    report.checks.extend(missing.into_iter().filter_map(|layer| missing_meter(layer, given_up)));
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
    report.forks = native.prove_forks().await;
    native.shutdown().await
}

/// Whether programs can have network access, which no service needs but one whose policy it is.
fn way_out(hurdle: Option<&str>, policy: NetworkPolicy) -> Check {
    const NAME: &str = "network open";
    match hurdle {
        None => Check::ok("machine", NAME, "programs can have it, where the policy allows"),
        Some(hurdle) => {
            let (detail, fix) = hurdle.split_once("; hint: ").unwrap_or((hurdle, "install it"));
            match policy {
                NetworkPolicy::None => Check::warning("machine", NAME, detail, fix),
                NetworkPolicy::Open => Check::failed("machine", NAME, detail, fix),
            }
        }
    }
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

fn fence(proof: &FenceProof, given_up: &[Layer]) -> Check {
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
        Crossing::Absent if proof.layer == Layer::OwnIds => {
            Check::warning(FENCES, name, "all runs have this user's one id", "start as root")
        }
        Crossing::Absent if proof.layer == Layer::OwnDevices => {
            let what = "all runs have the host's device nodes: a lock on one is seen by others";
            Check::warning(FENCES, name, what, "start as root")
        }
        Crossing::Absent => missing(FENCES, proof.layer, "this machine has none", given_up),
    }
}

/// Says that a layer is missing: a service refuses to start, unless the operator has given it up.
fn missing(section: &'static str, layer: Layer, what: &str, given_up: &[Layer]) -> Check {
    let name = layer.as_str();
    if given_up.contains(&layer) || !Layer::WAIVABLE.contains(&layer) {
        return Check::warning(section, name, what, "see the lines above");
    }
    let fix = format!("see the lines above, or give it up: `native.allow_missing = [\"{name}\"]`");
    Check::failed(section, name, what, fix)
}

/// What is not counted here; the other layers have a probe and a line of their own.
fn missing_meter(layer: Layer, given_up: &[Layer]) -> Option<Check> {
    let what = match layer {
        Layer::Cgroup => "no control group: limits are watched from outside",
        Layer::CpuMeter => "nothing bounds the share of a processor",
        Layer::SwapMeter => "memory that is swapped out does not count",
        _ => return None,
    };
    Some(missing(METER, layer, what, given_up))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::report::Status;

    fn proof(layer: Layer, crossing: Crossing) -> FenceProof {
        FenceProof { layer, crossing }
    }

    fn untried(why: &str) -> Crossing {
        Crossing::Untried { why: why.to_owned() }
    }

    #[test]
    fn a_missing_layer_is_a_failure_unless_it_is_given_up() {
        let status =
            |layer, given_up: &[Layer]| fence(&proof(layer, Crossing::Absent), given_up).status;
        assert_eq!(status(Layer::Landlock, &[]), Status::Failed);
        assert_eq!(status(Layer::Landlock, &[Layer::Landlock]), Status::Warning);
        assert_eq!(status(Layer::OwnIds, &[]), Status::Warning);
        let cgroup = |given_up: &[Layer]| missing_meter(Layer::Cgroup, given_up).unwrap().status;
        assert_eq!(cgroup(&[]), Status::Failed);
        assert_eq!(cgroup(&[Layer::Cgroup]), Status::Warning);
        assert_eq!(missing_meter(Layer::CpuMeter, &[]).unwrap().status, Status::Warning);
        assert_eq!(missing_meter(Layer::OwnIds, &[]), None);
    }

    #[test]
    fn one_hurdle_for_all_is_told_once_with_its_fix() {
        let held = Crossing::Stopped { by: "EPERM".to_owned() };
        let all = [proof(Layer::Proc, untried("x")), proof(Layer::Seccomp, untried("x"))];
        assert_eq!(the_same_hurdle(&all), Some("x"));
        let some = [proof(Layer::Proc, untried("x")), proof(Layer::Seccomp, held)];
        assert_eq!(the_same_hurdle(&some), None);
        let check = no_sandbox("it is off; hint: turn it on");
        assert_eq!(check.detail, "no fence was tried: it is off");
        assert_eq!(check.fix.as_deref(), Some("turn it on"));
    }
}
