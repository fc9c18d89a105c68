//! Whether a computation costs more inside than outside.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{
    bare::Bare,
    failure::{Doing, Failure, Result},
    program::post,
    report::Findings,
    statistics::median,
};

use super::Context;

const PAIRS: usize = 20;
const STEPS: u32 = 9_000_000;
/// The same text inside and outside; no name of a module is looked up while it computes.
const COMPUTE: &str = "
def compute(steps):
    import time
    x, began = 1, time.process_time_ns()
    for _ in range(steps):
        x = (x * 1103515245 + 12345) % 2147483648
    return [x, time.process_time_ns() - began]
";

/// One computation.
struct Computed {
    /// By the kernel's counter for the whole process, in seconds.
    counted: f64,
    /// By the program's own clock around the loop, in seconds.
    own: f64,
}

/// Pairs of the same computation in a sandbox and in a bare interpreter, in turns which comes first.
/// The kernel's counters are compared: of the sandbox's processes the answer's, of the bare one its
/// `rusage`. Both begin before the loop: in the bare one with the interpreter, inside with the lease.
pub(super) fn pairs(context: &Context, findings: &mut Findings) -> Result<()> {
    let service = context.service(&[])?;
    let mut client = service.connect()?;
    let code = format!("{COMPUTE}\ndef main(steps):\n    return compute(steps)\n");
    let body = json!({
        "code_b64": STANDARD.encode(code),
        "language": "python",
        "arguments": { "steps": STEPS },
    });
    let request = post(&body.to_string());
    let mut inside = || -> Result<Computed> {
        let (_, answer) = client.exchange(&request).doing("call the service")?;
        let told: Value = serde_json::from_str(answer.body).doing("read the answer")?;
        let wrong = || Failure::Wrong(format!("of a computation: {}", answer.body));
        let counted = told.pointer("/evidence/cpu/used_us").and_then(Value::as_f64);
        let own = own_clock(&told["result"]["value"]).ok_or_else(wrong)?;
        Ok(Computed { counted: counted.ok_or_else(wrong)? / 1e6, own })
    };
    let text = format!("{COMPUTE}\nprint(compute({STEPS}))");
    let mut bare = Bare::python_text("python3 -I -S -B -c", &context.interpreters, &text);
    let mut outside = || -> Result<Computed> {
        let (printed, used) = bare.output_and_cpu()?;
        let value = serde_json::from_str(&printed).doing("read what the computation printed")?;
        let own = own_clock(&value)
            .ok_or_else(|| Failure::Broken(format!("the bare computation printed {printed}")))?;
        Ok(Computed { counted: used / 1e6, own })
    };
    let (mut ins, mut outs) = (Vec::new(), Vec::new());
    for pair in 0..PAIRS {
        if pair % 2 == 0 {
            ins.push(inside()?);
            outs.push(outside()?);
        } else {
            outs.push(outside()?);
            ins.push(inside()?);
        }
    }
    let ratios = |of: fn(&Computed) -> f64| -> Vec<f64> {
        ins.iter().zip(&outs).map(|(inside, outside)| of(inside) / of(outside)).collect()
    };
    let (counted, own) = (ratios(|one| one.counted), ratios(|one| one.own));
    findings.figure("inside over outside", median(&counted));
    findings.figure("the same, by its own clock", median(&own));
    findings.row("a pair's ratio", "", counted);
    findings.row("the same, by its own clock", "", own);
    findings.row("outside", "s", outs.iter().map(|one| one.counted).collect());
    findings.compared("inside", "s", ins.iter().map(|one| one.counted).collect(), "outside");
    findings.note("both figures are the median of the pairs' ratios".to_owned());
    service.stop()
}

/// The loop's seconds, if the result is right.
fn own_clock(value: &Value) -> Option<f64> {
    let right = (0..STEPS)
        .fold(1_u64, |x, _| x.wrapping_mul(1_103_515_245).wrapping_add(12_345) % 2_147_483_648);
    (value[0].as_u64()? == right).then(|| value[1].as_f64().map(|nanoseconds| nanoseconds / 1e9))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_result_counts() {
        assert_eq!(own_clock(&json!([1, 5])), None);
        assert_eq!(own_clock(&json!("text")), None);
    }
}
