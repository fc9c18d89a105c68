//! No execution sees anything of another: file, process, environment, socket, lock.

use ampoule_core::{CancelGrade, Layer, ValueChannel};
use serde_json::{Value, json};

use crate::conformance::{
    act::Act,
    bench::{Bench, Checked, ensure, give, leave_out, print},
    case::Law,
};

pub(super) fn add(law: &mut Law) {
    law.each("a_later_run_sees_nothing_of_an_earlier_one", later);
    law.each("runs_at_once_see_nothing_of_each_other", at_once);
}

/// Where a run by itself notices its own traces: what cannot be noticed at all proves nothing.
async fn control(bench: &Bench, word: &str) -> Checked {
    bench.needs_walls()?;
    if bench.capabilities().value_channel == ValueChannel::Shared {
        return leave_out("what a program saw comes back as its value, which is not sure here");
    }
    let own = [Act::LeaveTraces(word.to_owned()), Act::ReturnTraces(word.to_owned())];
    let noticed = bench.run(&own).await?.value()?;
    let places = noticed.as_array().map_or(0, Vec::len);
    ensure!(places >= 2, "traces are noticed in {noticed} only, so nothing would be proved");
    Ok(())
}

/// What a run sees of the others. Where sandboxes share device nodes and report it, whoever is told
/// so knows that locks on them are seen, of any run at the same time.
async fn seen_by_another(bench: &Bench, word: &str) -> Checked<Value> {
    let mut live = bench.start_acts(&[Act::ReturnTraces(word.to_owned())]).await?;
    let shares_devices = live.sandbox.isolation().missing.contains(&Layer::OwnDevices);
    let seen = bench.to_end(&mut live.events).await;
    bench.destroy(live.sandbox).await?;
    let mut noticed = seen?.value()?;
    if let (true, Value::Array(places)) = (shares_devices, &mut noticed) {
        let is_known =
            |place: &Value| place.as_str().is_some_and(|place| place.starts_with("lock on /dev/"));
        places.retain(|place| !is_known(place));
    }
    Ok(noticed)
}

async fn later(bench: Bench) -> Checked {
    let word = crate::unique_word();
    control(&bench, &word).await?;
    bench.run(&[Act::LeaveTraces(word.clone()), give("1")]).await?.value()?;
    let noticed = seen_by_another(&bench, &word).await?;
    ensure!(noticed == json!([]), "of a run before, this is seen: {noticed}");
    Ok(())
}

async fn at_once(bench: Bench) -> Checked {
    if bench.capabilities().cancel == CancelGrade::None {
        return leave_out("the first run could not be ended");
    }
    let word = crate::unique_word();
    control(&bench, &word).await?;
    let acts =
        [Act::LeaveTraces(word.clone()), Act::Child(word.clone()), print("ready\n"), Act::Hang];
    let mut live = bench.start_acts(&acts).await?;
    bench.first_output(&mut live.events).await?;
    let noticed = seen_by_another(&bench, &word).await;
    live.cancel.cancel();
    bench.to_end(&mut live.events).await?;
    bench.destroy(live.sandbox).await?;
    let noticed = noticed?;
    ensure!(noticed == json!([]), "of a run at the same time, this is seen: {noticed}");
    Ok(())
}
