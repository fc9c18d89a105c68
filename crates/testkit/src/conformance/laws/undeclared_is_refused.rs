//! What a provider does not declare is refused before anything is built, with the kind and the
//! field; what it declares is given in full, and nothing is clamped or downgraded.

use std::time::Duration;

use ampoule_core::{
    CancellationToken, ErrorKind, ExecuteRequest, Language, LimitKind, Limits, NetworkPolicy,
    Outcome, Profile, SandboxSpec, TrustGroup,
};

use crate::conformance::{
    act::Act,
    bench::{Bench, Checked, Seen, Stop, ensure, give, print},
    case::Law,
};

pub(super) fn add(law: &mut Law) {
    law.once("an_unknown_language_is_refused", language);
    law.once("limits_out_of_range_are_refused", limits);
    law.once("a_network_policy_that_is_not_declared_is_refused", network);
    law.once("a_request_for_another_sandbox_is_refused", another_sandbox);
    law.each("what_is_not_built_in_is_as_the_request_says", per_execution);
    law.each("limits_are_not_clamped", not_clamped);
    law.each("the_isolation_is_as_declared", isolation);
}

fn spec(bench: &Bench) -> SandboxSpec {
    SandboxSpec { limits: bench.subject.limits, ..SandboxSpec::of(bench.language.clone()) }
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
    let declared = bench.capabilities().networks.clone();
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
    let group = TrustGroup::new("another").map_err(|error| Stop::Broken(error.to_string()))?;
    let ordinary = request.limits;
    let within = |limits| ExecuteRequest { limits, ..request.clone() };
    let others = [
        ("limits", within(Limits { memory: ordinary.memory + (1 << 20), ..ordinary })),
        ("limits", within(Limits { disk: ordinary.disk + (1 << 20), ..ordinary })),
        ("profile", ExecuteRequest { profile: Profile::Strict, ..request.clone() }),
        ("trust_group", ExecuteRequest { trust_group: group, ..request.clone() }),
    ];
    for (field, asked) in others {
        let mut sandbox = bench.create(request.spec()).await?;
        match sandbox.execute(asked, CancellationToken::new()).await {
            Ok(_) => {
                let said =
                    format!("it takes a request whose `{field}` is not what it was created with");
                return Err(Stop::Broken(said));
            }
            Err(error) => {
                ensure!(error.kind() == ErrorKind::InvalidRequest, "it is refused as {error:?}");
                let named = format!("`{field}`");
                ensure!(error.message().contains(&named), "{named} is not named: {error}");
            }
        }
        bench.destroy(sandbox).await?;
    }
    Ok(())
}

/// A sandbox that waits cannot know how long its program may run and how much it may say.
async fn per_execution(bench: Bench) -> Checked {
    let ordinary = bench.subject.limits;
    let run = async |limits: Limits, acts: &[Act]| -> Checked<Seen> {
        let request = bench.request(acts)?;
        let mut sandbox = bench.create(request.spec()).await?;
        let request = ExecuteRequest { limits, ..request };
        let started = sandbox.execute(request, CancellationToken::new());
        let mut events = bench.within_patience("execute", started).await??;
        let seen = bench.to_end(&mut events).await;
        bench.destroy(sandbox).await?;
        seen
    };
    let short = Limits { wall: Duration::from_millis(500), ..ordinary };
    let seen = run(short, &[Act::Hang]).await?;
    let is_time = matches!(seen.outcome()?, Outcome::LimitExceeded { limit: LimitKind::Time });
    ensure!(is_time, "a wall clock of {:?} ended as {:?}", short.wall, seen.finished()?);
    let silent = Limits { output: 64, ..ordinary };
    let seen = run(silent, &[print(&"x".repeat(512)), give("1")]).await?;
    let (kept, lost) = (seen.stdout().len(), seen.finished()?.evidence.output.discarded);
    ensure!(kept <= 64 && lost >= 448, "of 512 bytes {kept} are kept and {lost} are told as lost");
    Ok(())
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
