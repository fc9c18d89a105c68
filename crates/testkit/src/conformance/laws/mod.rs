//! The laws, a file each.

mod cancel;
mod create_and_destroy;
mod no_execution_sees_another;
mod nothing_is_left;
mod nothing_is_logged;
mod one_finished_last;
mod one_program_per_sandbox;
mod output_before_a_stop_is_kept;
mod output_beyond_the_limit;
mod text_is_utf8;
mod undeclared_is_refused;
mod value_channel;
mod verdict_from_evidence;

use ampoule_core::{Arguments, ExecuteRequest, Outcome};
use serde_json::json;

use super::{
    act::Act,
    bench::{Bench, Checked, Stop, ensure, leave_out, print},
    case::{Case, Law, When},
    floor,
};

/// Every case of every law.
pub(super) fn all() -> Vec<Case> {
    let laws: [(_, fn(&mut Law)); 14] = [
        ("control", controls),
        ("one_finished_last", one_finished_last::add),
        ("output_before_a_stop_is_kept", output_before_a_stop_is_kept::add),
        ("text_is_utf8", text_is_utf8::add),
        ("output_beyond_the_limit", output_beyond_the_limit::add),
        ("cancel", cancel::add),
        ("verdict_from_evidence", verdict_from_evidence::add),
        ("value_channel", value_channel::add),
        ("undeclared_is_refused", undeclared_is_refused::add),
        ("no_execution_sees_another", no_execution_sees_another::add),
        ("one_program_per_sandbox", one_program_per_sandbox::add),
        ("nothing_is_logged", nothing_is_logged::add),
        ("create_and_destroy", create_and_destroy::add),
        // After the shutdown, which is the last case of the law before.
        ("nothing_is_left", nothing_is_left::add),
    ];
    laws.into_iter()
        .flat_map(|(name, add)| {
            let mut law = Law::new(name);
            add(&mut law);
            law.cases
        })
        .collect()
}

/// The case of a language that nobody writes programs in.
pub(super) fn without_programs() -> Case {
    let mut law = Law::new("control");
    law.each("there_are_programs", no_programs);
    law.cases.remove(0)
}

fn controls(law: &mut Law) {
    law.add("the_provider_is_healthy_and_a_language_can_be_tested", When::First, false, healthy);
    law.add("a_program_gives_its_arguments_back", When::First, true, arguments);
    law.add("the_grades_reach_the_floor", When::Between, false, grades);
}

async fn no_programs(bench: Bench) -> Checked {
    leave_out(format!("no programs in `{}`; hint: implement `Programs`", bench.language))
}

async fn arguments(bench: Bench) -> Checked {
    let arguments = r#"{"a":[1,null,"é"],"b":{"c":true}}"#;
    let acts = [print("hi\n"), Act::Stderr("ho\n".to_owned()), Act::ReturnArguments];
    let arguments = Arguments::parse(arguments).map_err(|error| Stop::Broken(error.to_string()))?;
    let request = ExecuteRequest { arguments, ..bench.request(&acts)? };
    let seen = bench.run_request(request).await?;
    ensure!(*seen.outcome()? == Outcome::Succeeded, "it ended as {:?}", seen.finished()?);
    ensure!(seen.value()? == json!({"a": [1, null, "é"], "b": {"c": true}}), "{seen:?}");
    ensure!(seen.stdout() == "hi\n" && seen.stderr() == "ho\n", "{seen:?}");
    Ok(())
}

async fn healthy(bench: Bench) -> Checked {
    let declared = bench.capabilities().languages.clone();
    ensure!(
        declared.contains(&bench.language),
        "no programs for any of {declared:?}; hint: implement `Programs`"
    );
    Ok(bench.subject.provider.health().await?)
}

async fn grades(bench: Bench) -> Checked {
    let short = floor::shortfalls(&bench.capabilities());
    ensure!(short.is_empty(), "{}", short.join("; "));
    Ok(())
}
