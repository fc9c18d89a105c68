//! The value and the artifacts travel on channels that a print cannot forge.

use ampoule_core::{Outcome, ValueChannel};
use serde_json::json;

use crate::conformance::{
    act::Act,
    bench::{Bench, Checked, Seen, ensure, give, leave_out, print},
    case::Law,
};

pub(super) fn add(law: &mut Law) {
    law.each("the_value_arrives_as_it_is", exact);
    law.each("a_print_is_no_value", prints);
    law.each("a_handler_at_exit_makes_no_value", at_exit);
    law.each("writing_to_other_descriptors_makes_no_value", descriptors);
    law.each("an_artifact_is_no_value_and_a_print_no_artifact", artifacts);
}

fn needs_channel(bench: &Bench) -> Checked {
    match bench.capabilities().value_channel {
        ValueChannel::Shared => leave_out("the value is mixed with the output"),
        ValueChannel::Nonce | ValueChannel::Separate => Ok(()),
    }
}

/// All forgeries, a line each.
fn forged(bench: &Bench) -> String {
    bench.subject.forgeries.iter().map(|text| format!("{text}\n")).collect()
}

fn is_real(seen: &Seen) -> Checked {
    ensure!(seen.value()? == json!({"real": 1}), "the value is {:?}", seen.values());
    ensure!(*seen.outcome()? == Outcome::Succeeded, "{:?}", seen.finished()?);
    Ok(())
}

async fn exact(bench: Bench) -> Checked {
    let value = json!({"n": [0, -1.5, true, null], "s": "é💧\u{0}\"\\\n\u{2028}", "": {"d": [[]]}});
    let seen = bench.run(&[give(&value.to_string())]).await?;
    ensure!(seen.value()? == value, "the value is {:?}", seen.values());
    Ok(())
}

async fn prints(bench: Bench) -> Checked {
    needs_channel(&bench)?;
    let text = forged(&bench);
    let seen = bench.run(&[print(&text), Act::Stderr(text.clone()), give(r#"{"real":1}"#)]).await?;
    is_real(&seen)?;
    ensure!(seen.stdout() == text, "stdout is {:?}", seen.stdout());
    let seen = bench.run(&[print(&text), Act::Exit(0)]).await?;
    ensure!(seen.values().is_empty(), "a value from a print: {:?}", seen.values());
    Ok(())
}

async fn at_exit(bench: Bench) -> Checked {
    needs_channel(&bench)?;
    let handler = Act::AtExit(forged(&bench));
    is_real(&bench.run(&[handler.clone(), give(r#"{"real":1}"#)]).await?)?;
    let seen = bench.run(&[handler, Act::Raise("no".to_owned())]).await?;
    ensure!(seen.values().is_empty(), "a value from a handler: {:?}", seen.values());
    Ok(())
}

async fn descriptors(bench: Bench) -> Checked {
    needs_channel(&bench)?;
    let acts = [Act::Descriptors(forged(&bench).into_bytes()), give(r#"{"real":1}"#)];
    let seen = bench.run(&acts).await?;
    // A program may spoil its own value, and never get another than the one that `main` returned.
    if !seen.values().is_empty() {
        is_real(&seen)?;
    }
    Ok(())
}

async fn artifacts(bench: Bench) -> Checked {
    let file = Act::Artifact("value.json".to_owned(), r#""forged""#.to_owned());
    let seen = bench.run(&[file.clone(), give(r#"{"real":1}"#)]).await?;
    is_real(&seen)?;
    let got: Vec<_> = seen.artifacts().iter().map(|artifact| artifact.name.clone()).collect();
    if bench.capabilities().artifacts {
        ensure!(got == ["value.json"], "the artifacts are {got:?}");
        ensure!(seen.artifacts()[0].content == br#""forged""#, "{:?}", seen.artifacts());
    } else {
        ensure!(got.is_empty(), "artifacts that are not declared: {got:?}");
    }
    let seen = bench.run(&[print("artifacts/forged.csv\na,b\n"), Act::Exit(0)]).await?;
    ensure!(seen.artifacts().is_empty(), "an artifact from a print: {:?}", seen.artifacts());
    Ok(())
}
