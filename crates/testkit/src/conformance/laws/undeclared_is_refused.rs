//! What a provider does not declare is refused before anything is built, with the kind and the
//! field; what it declares is given in full, and nothing is clamped or downgraded.

use std::time::Duration;

use ampoule_core::{
    CancellationToken, ErrorKind, ExecuteRequest, Language, Limits, NetworkPolicy, SandboxSpec,
};

use crate::conformance::{
    bench::{Bench, Checked, Stop, ensure, give},
    case::Law,
};

pub(super) fn add(law: &mut Law) {
    law.once("an_unknown_language_is_refused", language);
    law.once("limits_out_of_range_are_refused", limits);
    law.once("a_network_policy_that_is_not_declared_is_refused", network);
    law.once("a_request_for_another_sandbox_is_refused", another_sandbox);
    law.each("limits_are_not_clamped", not_clamped);
    law.each("the_isolation_is_as_declared", isolation);
}

fn spec(bench: &Bench) -> SandboxSpec {
    SandboxSpec {
        language: bench.language.clone(),
        limits: bench.subject.limits,
        network: NetworkPolicy::None,
    }
}

/// Asks for a sandbox that must be refused, with this kind and a message that names the field.
async fn refused(bench: &Bench, spec: SandboxSpec, kind: ErrorKind, named: &str) -> Checked {
    match bench.subject.provider.create(spec.clone()).await {
        Ok(sandbox) => {
            bench.destroy(sandbox).await?;
            Err(Stop::Broken(format!("{spec:?} was not refused")))
        }
        Err(error) => {
            ensure!(error.kind() == kind, "{spec:?} was refused as {error:?} and not as {kind:?}");
            ensure!(error.message().contains(named), "`{named}` is not named: {error}");
            ensure!(!error.program_may_have_started(), "nothing can have started: {error:?}");
            Ok(())
        }
    }
}

async fn language(bench: Bench) -> Checked {
    let spec = SandboxSpec { language: Language::new("tlhingan"), ..spec(&bench) };
    refused(&bench, spec, ErrorKind::Unsupported, "tlhingan").await
}

async fn limits(bench: Bench) -> Checked {
    let capabilities = bench.capabilities();
    let ordinary = bench.subject.limits;
    let second = Duration::from_secs(1);
    let mut outside = vec![
        ("timeout", Limits { wall: Duration::ZERO, ..ordinary }),
        ("timeout", Limits { wall: capabilities.max_wall.saturating_add(second), ..ordinary }),
        ("memory", Limits { memory: capabilities.max_memory.saturating_add(1), ..ordinary }),
    ];
    // Where any memory will do there is no less.
    if let Some(memory) = capabilities.least_memory(&bench.language).checked_sub(1) {
        outside.push(("memory", Limits { memory, ..ordinary }));
    }
    for (field, limits) in outside {
        let spec = SandboxSpec { limits, ..spec(&bench) };
        refused(&bench, spec, ErrorKind::InvalidRequest, &format!("`{field}`")).await?;
    }
    Ok(())
}

async fn network(bench: Bench) -> Checked {
    let declared = bench.capabilities().networks;
    ensure!(!declared.is_empty(), "no network policy is declared, not even `none`");
    for network in NetworkPolicy::ALL {
        let spec = SandboxSpec { network, ..spec(&bench) };
        if declared.contains(&network) {
            let sandbox = bench.create(spec).await?;
            let held = sandbox.isolation().network;
            bench.destroy(sandbox).await?;
            ensure!(held == network, "`{network:?}` was asked and {held:?} is held");
        } else {
            refused(&bench, spec, ErrorKind::Unsupported, "`network`").await?;
        }
    }
    Ok(())
}

async fn another_sandbox(bench: Bench) -> Checked {
    let request = bench.request(&[give("1")])?;
    let limits = Limits { memory: request.limits.memory + (1 << 20), ..request.limits };
    let mut sandbox = bench.create(request.spec()).await?;
    let asked = ExecuteRequest { limits, ..request };
    match sandbox.execute(asked, CancellationToken::new()).await {
        Ok(_) => {
            let said = "it takes a request with more memory than it was created with";
            return Err(Stop::Broken(said.to_owned()));
        }
        Err(error) => {
            ensure!(error.kind() == ErrorKind::InvalidRequest, "it is refused as {error:?}");
            ensure!(error.message().contains("`limits`"), "`limits` are not named: {error}");
        }
    }
    bench.destroy(sandbox).await
}

async fn not_clamped(bench: Bench) -> Checked {
    let capabilities = bench.capabilities();
    let ordinary = bench.subject.limits;
    for limits in [
        Limits { wall: capabilities.max_wall, memory: capabilities.max_memory, ..ordinary },
        Limits { processes: ordinary.processes + 1, ..ordinary },
    ] {
        let seen = bench.run_within(limits, &[give("1")]).await?;
        let evidence = &seen.finished()?.evidence;
        ensure!(
            (evidence.memory.limit, evidence.processes.limit) == (limits.memory, limits.processes),
            "{limits:?} was asked, and {:?} and {:?} was in force",
            evidence.memory,
            evidence.processes
        );
    }
    Ok(())
}

async fn isolation(bench: Bench) -> Checked {
    let sandbox = bench.create(spec(&bench)).await?;
    let report = sandbox.isolation().clone();
    bench.destroy(sandbox).await?;
    let declared = bench.capabilities().isolation;
    ensure!(report.level >= declared, "{declared:?} is declared, and there is {report:?}");
    let both: Vec<_> =
        report.enforced.iter().filter(|layer| report.missing.contains(layer)).collect();
    ensure!(both.is_empty(), "both enforced and missing: {both:?}");
    Ok(())
}
