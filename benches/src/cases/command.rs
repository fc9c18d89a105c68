//! `ampoule run`: everything is built for one program and taken down again.

use std::fs;

use crate::{
    bare::Bare,
    failure::{Doing, Result},
    report::Findings,
    service::Interpreters,
};

use super::Context;

pub(super) fn python(context: &Context, findings: &mut Findings) -> Result<()> {
    measure(
        context,
        findings,
        "main.py",
        "def main():\n    return 1\n",
        "ampoule run main.py",
        Bare::python,
    )
}

pub(super) fn node(context: &Context, findings: &mut Findings) -> Result<()> {
    measure(
        context,
        findings,
        "main.js",
        "function main() { return 1 }\n",
        "ampoule run main.js",
        Bare::node,
    )
}

fn measure(
    context: &Context,
    findings: &mut Findings,
    file: &str,
    code: &str,
    name: &'static str,
    bare: fn(&Interpreters) -> Bare,
) -> Result<()> {
    let scratch = tempfile::tempdir().doing("make a directory for the script")?;
    let script = scratch.path().join(file);
    fs::write(&script, code).doing("write the script")?;
    let environment = context.setup.environment(&[]);
    let mut ours = Bare::ampoule(name, &context.setup.binary, &script, environment);
    let mut bare = bare(&context.interpreters);
    let (mut starts, mut times) = (Vec::new(), Vec::new());
    for round in 0..context.share(2, 20) + 3 {
        context.rest(1);
        let start = bare.start()?;
        context.rest(1);
        let took = ours.start()?;
        if round >= 3 {
            starts.push(start);
            times.push(took);
        }
    }
    findings.row(bare.name, "ms", starts);
    findings.compared(name, "ms", times, bare.name);
    findings.ratio_is_a_figure();
    Ok(())
}
