//! The user's code, arguments and output never reach a log, an error text or a `Debug`.

use ampoule_core::{Arguments, CancellationToken, ExecuteRequest};

use crate::conformance::{
    act::Act,
    bench::{Bench, Checked, Stop, ensure, give, print},
    case::{Law, When},
    logs,
};

pub(super) fn add(law: &mut Law) {
    law.add("what_is_logged_is_seen", When::First, false, control);
    law.each("no_content_is_logged", content);
    law.each("no_content_is_in_a_debug", debug);
}

async fn control(_: Bench) -> Checked {
    let word = crate::unique_word();
    tracing::trace!(word, "the control of the conformance suite");
    ensure!(
        logs::hold(&word),
        "the log cannot be seen; hint: let the suite install the tracing subscriber"
    );
    Ok(())
}

/// A request that has the word in its code and its arguments.
fn secret(bench: &Bench, word: &str, acts: &[Act]) -> Checked<ExecuteRequest> {
    let arguments = Arguments::parse(&format!(r#"{{"secret":"{word}"}}"#));
    let arguments = arguments.map_err(|error| Stop::Broken(error.to_string()))?;
    Ok(ExecuteRequest { arguments, ..bench.request(acts)? })
}

async fn content(bench: Bench) -> Checked {
    let word = crate::unique_word();
    let said = format!("said {word}\n");
    let ends = [
        give(&format!(r#""{word}""#)),
        Act::ReturnArguments,
        Act::Raise(word.clone()),
        Act::Exit(1),
    ];
    for end in ends {
        let acts = [print(&said), Act::Stderr(said.clone()), end.clone()];
        let seen = bench.run_request(secret(&bench, &word, &acts)?).await?;
        ensure!(seen.stdout() == said, "the program did not run: {seen:?}");
        ensure!(!logs::hold(&word), "after {end:?} the log holds what the program had");
    }
    // A request for another sandbox is refused by whoever has its content at hand.
    let mut refused = secret(&bench, &word, &[print(&word), give("1")])?;
    let mut sandbox = bench.create(refused.spec()).await?;
    refused.limits.memory += 1 << 20;
    let error = sandbox.execute(refused, CancellationToken::new()).await.err();
    bench.destroy(sandbox).await?;
    let text = format!("{error:?}");
    ensure!(!text.contains(&word) && !logs::hold(&word), "a refusal tells the content: {text}");
    Ok(())
}

async fn debug(bench: Bench) -> Checked {
    let word = crate::unique_word();
    let acts = [print(&word), give("1")];
    let request = secret(&bench, &word, &acts)?;
    let mut live = bench.start(request).await?;
    let during = format!("{:?} {:?}", live.sandbox, bench.subject.provider);
    bench.to_end(&mut live.events).await?;
    let after = format!("{:?} {:?}", live.sandbox, bench.subject.provider);
    bench.destroy(live.sandbox).await?;
    ensure!(!during.contains(&word) && !after.contains(&word), "`Debug` tells the content");
    Ok(())
}
