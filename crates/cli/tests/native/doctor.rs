//! `ampoule doctor`: fences and meters tried on this very kernel, and each missed when it is gone.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
};

use ampoule_core::Layer;
use ampoule_testkit::{Failure, Outcome, Suite, unique_word};
use serde_json::{Value, json};

use crate::support::{Done, Service, ampoule, done};

/// An id that nobody on this machine has.
const STRANGER: u32 = 60_123;

/// What only root can give a run.
const ROOTS: [Layer; 2] = [Layer::OwnIds, Layer::OwnDevices];

pub(crate) fn add(suite: &mut Suite) {
    suite.test("doctor::every_fence_is_tried_and_holds", || {
        let (shown, report) = told(ampoule().args(["doctor", "--json"]))?;
        assert_eq!(shown.code, 0, "{shown:?}");
        assert_eq!(report["ok"], true);
        for layer in ampoule_jail::probed_fences() {
            let expected = if has(layer) { ("stopped", "ok") } else { ("absent", "warning") };
            assert_eq!(verdict(&report, layer), expected.0, "{report}");
            assert_eq!(check(&report, layer.as_str())["status"], expected.1);
        }
        Ok(())
    });
    suite.test("doctor::every_meter_stops_its_probe", || {
        let (_, report) = told(ampoule().args(["doctor", "--json"]))?;
        let meters = report["meters"].as_array().ok_or("no meters")?;
        let limits: Vec<&str> = meters.iter().filter_map(|row| row["limit"].as_str()).collect();
        assert_eq!(limits, ["memory", "processes", "cpu", "time"]);
        for row in meters {
            assert_eq!(row["held"], true, "{row}");
            assert_ne!(row["by"], "nobody", "{row}");
            assert!(row["wall_us"].as_u64().is_some_and(|wall| wall < 5_000_000), "{row}");
        }
        Ok(())
    });
    for layer in ampoule_jail::probed_fences() {
        suite.test(format!("doctor::without_{layer}_its_probe_gets_through"), move || {
            if !has(layer) {
                return Ok(Outcome::LeftOut("only root's sandboxes have it".to_owned()));
            }
            let arguments = ["doctor", "--json", "--without", layer.as_str()];
            let (shown, report) = told(ampoule().args(arguments))?;
            assert_eq!((shown.code, &report["ok"]), (5, &json!(false)), "{shown:?}");
            let mut expected = with_those_that_come_along(layer);
            expected.retain(|layer| has(*layer));
            assert_eq!(crossed(&report), expected, "{report}");
            let line = check(&report, layer.as_str());
            assert_eq!(line["status"], "failed");
            let detail = line["detail"].as_str().ok_or("no detail")?;
            assert!(detail.starts_with("not enforced: "), "{detail}");
            Ok(Outcome::Passed)
        });
    }
    suite.test("doctor::the_table_fits_and_has_no_colour", || {
        let shown = done(ampoule().args(["doctor", "--without", "seccomp"]));
        assert_eq!(shown.code, 5, "{shown:?}");
        let table = shown.stdout;
        assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
        assert!(!table.contains('\u{1b}'));
        assert!(table.contains("\n  FAIL  seccomp             not enforced: "), "{table}");
        assert!(table.contains("; fix: "), "{table}");
        for section in ["kernel", "machine", "fences", "meters", "runtimes"] {
            assert!(table.lines().any(|line| line == section), "{table}");
        }
        assert!(table.contains("\n1 check failed"), "{table}");
        Ok(())
    });
    suite.test("doctor::an_ordinary_user_is_told_what_holds", || {
        let program = Shared::new()?;
        let groups = DelegatedGroups::new()?;
        let (shown, report) = told(groups.command(&program.path()).args(["doctor", "--json"]))?;
        assert_eq!(shown.code, 0, "{shown:?}");
        for layer in ampoule_jail::probed_fences() {
            let expected = if ROOTS.contains(&layer) { "absent" } else { "stopped" };
            assert_eq!(verdict(&report, layer), expected, "{report}");
        }
        let ids = check(&report, Layer::OwnIds.as_str());
        assert_eq!((&ids["status"], &ids["fix"]), (&json!("warning"), &json!("start as root")));
        Ok(())
    });
    suite.test("doctor::an_ordinary_users_fences_are_missed_when_they_are_gone", || {
        let program = Shared::new()?;
        let groups = DelegatedGroups::new()?;
        for layer in ampoule_jail::probed_fences().filter(|layer| !ROOTS.contains(layer)) {
            let mut command = groups.command(&program.path());
            command.args(["doctor", "--json", "--without", layer.as_str()]);
            let (shown, report) = told(&mut command)?;
            assert_eq!(shown.code, 5, "{shown:?}");
            let expected = with_those_that_come_along(layer);
            let expected: Vec<_> = expected.into_iter().filter(|l| !ROOTS.contains(l)).collect();
            assert_eq!(crossed(&report), expected, "{layer}: {report}");
        }
        Ok(())
    });
    suite.test("doctor::where_no_sandbox_can_be_built_the_rest_is_told", || {
        // A user namespace that may have none beneath it.
        let shown = done(
            Command::new("unshare")
                .args(["--user", "--map-root-user", "sh", "-c"])
                .arg("echo 0 > /proc/sys/user/max_user_namespaces && exec \"$0\" doctor --json")
                .arg(env!("CARGO_BIN_EXE_ampoule")),
        );
        assert_eq!(shown.code, 5, "{shown:?}");
        let report: Value = serde_json::from_str(&shown.stdout)?;
        assert_eq!(report["probes"], json!([]));
        let sandbox = check(&report, "sandbox");
        assert_eq!(sandbox["status"], "failed", "{report}");
        assert!(
            sandbox["detail"].as_str().is_some_and(|text| text.starts_with("no fence was tried: "))
        );
        let switch = check(&report, "user namespaces");
        assert_eq!(switch["status"], "failed", "{switch}");
        assert_eq!(check(&report, "landlock")["status"], "ok");
        assert_ne!(check(&report, "python"), Value::Null);
        Ok(())
    });
    suite.test("doctor::an_executable_that_programs_may_not_execute_is_said", || {
        if !is_root() {
            let why = "an ordinary user's programs have the user's own id, and may execute it";
            return Ok(Outcome::LeftOut(why.to_owned()));
        }
        let program = Shared::new()?;
        fs::set_permissions(program.path(), fs::Permissions::from_mode(0o700))?;
        let (shown, report) = told(Command::new(program.path()).args(["doctor", "--json"]))?;
        assert_eq!(shown.code, 5, "{shown:?}");
        let sandbox = check(&report, "sandbox");
        let fix = format!("`chmod o+rx {}`", program.path().display());
        assert_eq!((&sandbox["status"], &sandbox["fix"]), (&json!("failed"), &json!(fix)));
        Ok(Outcome::Passed)
    });
    suite.test("doctor::an_address_that_is_taken_is_a_failure_unless_it_is_ours", || {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let taken = listener.local_addr()?.to_string();
        let (shown, report) = told(ampoule().args(["doctor", "--json", "--listen", &taken]))?;
        assert_eq!(shown.code, 5, "{shown:?}");
        assert_eq!(check(&report, "address")["status"], "failed");
        let service = Service::start();
        let (_, report) =
            told(ampoule().args(["doctor", "--json", "--listen", service.address()]))?;
        assert_eq!(check(&report, "address")["status"], "ok", "{report}");
        Ok(())
    });
    suite.test("doctor::what_serve_would_refuse_is_a_failure", || {
        for (name, value, check_name, part) in [
            ("AMPOULE_LISTEN", "0.0.0.0:0", "service", "needs a token"),
            ("AMPOULE_LIMITS_MEMORY", "4m", "service", "at least 24m is needed"),
            ("AMPOULE_DATA_DIR", "/etc/passwd", "data directory", "is no directory"),
            ("AMPOULE_LIMITS_TIMEOUT", "soon", "configuration", "is `soon`"),
        ] {
            let (shown, report) = told(ampoule().args(["doctor", "--json"]).env(name, value))?;
            assert_eq!(shown.code, 5, "{name}: {shown:?}");
            let found = check(&report, check_name);
            assert_eq!(found["status"], "failed", "{name}: {report}");
            assert!(found["detail"].as_str().is_some_and(|text| text.contains(part)), "{found}");
            assert!(found["fix"].is_string(), "{found}");
        }
        Ok(())
    });
    suite.test("doctor::readiness_shares_the_probes", || {
        let service = Service::start();
        assert!(service.log().contains("the fences held"), "{}", service.log());
        Ok(())
    });
    suite.test("doctor::no_request_reaches_a_probe", || {
        let service = Service::start();
        for language in ["probe", "__probe"] {
            let body = json!({"code_b64": "YQ==", "language": language}).to_string();
            let (status, answer) = service.post(body.as_bytes())?;
            assert_eq!(status, 422, "{answer}");
        }
        Ok(())
    });
    suite.test("doctor::a_probe_without_a_sandbox_around_it_tries_nothing", || {
        let shown = done(ampoule().arg("__probe"));
        assert_eq!((shown.code, shown.stdout.as_str()), (1, ""), "{shown:?}");
        assert!(shown.stderr.contains("find the sandbox around a probe"), "{shown:?}");
        Ok(())
    });
    suite.test("doctor::nothing_but_doctor_leaves_a_layer_out", || {
        for command in ["serve", "run"] {
            let shown = done(ampoule().args([command, "--without", "seccomp"]));
            assert_eq!(shown.code, 2, "{shown:?}");
        }
        let help = done(ampoule().args(["doctor", "--help"]));
        assert!(!help.stdout.contains("without"), "{}", help.stdout);
        Ok(())
    });
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether the sandboxes of whoever runs these tests have a layer.
fn has(layer: Layer) -> bool {
    is_root() || !ROOTS.contains(&layer)
}

/// What doctor says in JSON.
fn told(command: &mut Command) -> Result<(Done, Value), Failure> {
    let shown = done(command);
    let report = serde_json::from_str(&shown.stdout)
        .map_err(|error| Failure::from(format!("{error}: {shown:?}")))?;
    Ok((shown, report))
}

/// The fences that a probe got through.
fn crossed(report: &Value) -> Vec<Layer> {
    ampoule_jail::probed_fences().filter(|layer| verdict(report, *layer) == "crossed").collect()
}

/// A layer, and those whose probe gets through without it: they are made of it, or it stands in for
/// them.
fn with_those_that_come_along(layer: Layer) -> Vec<Layer> {
    match layer {
        Layer::UserNamespace => vec![layer, Layer::KernelQuotas],
        Layer::PidNamespace => vec![layer, Layer::Proc],
        Layer::NoLinuxCaps => vec![Layer::OwnIds, layer],
        _ => vec![layer],
    }
}

fn verdict(report: &Value, layer: Layer) -> Value {
    let probes = report["probes"].as_array().cloned().unwrap_or_default();
    let proof = probes.iter().find(|proof| proof["layer"] == layer.as_str());
    proof.map_or(Value::Null, |proof| proof["verdict"].clone())
}

fn check(report: &Value, name: &str) -> Value {
    let checks = report["checks"].as_array().cloned().unwrap_or_default();
    let found = checks.iter().find(|check| check["name"] == name && check["section"] != "kernel");
    let found = found.or_else(|| checks.iter().find(|check| check["name"] == name));
    found.cloned().unwrap_or(Value::Null)
}

/// The command where a stranger may execute it.
struct Shared(tempfile::TempDir);

impl Shared {
    fn new() -> Result<Self, Failure> {
        let directory = tempfile::tempdir()?;
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        fs::copy(env!("CARGO_BIN_EXE_ampoule"), directory.path().join("ampoule"))?;
        Ok(Self(directory))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("ampoule")
    }
}

/// Control groups v1 that an ordinary user may write to, where this machine has such and root is
/// here to hand them over. Elsewhere the user has what the machine gives.
struct DelegatedGroups(Vec<PathBuf>);

impl DelegatedGroups {
    fn new() -> Result<Self, Failure> {
        let mut made = Self(Vec::new());
        if !is_root() {
            return Ok(made);
        }
        let found = ampoule_jail::control_groups()?;
        for own in found.groups.iter().filter(|_| found.version == 1) {
            let path = own.path.join(unique_word());
            fs::create_dir(&path)?;
            chown(&path, Some(STRANGER), Some(STRANGER))?;
            made.0.push(path);
        }
        Ok(made)
    }

    /// The program as an ordinary user in these groups; whoever is one already stays who it is.
    fn command(&self, program: &Path) -> Command {
        if !is_root() {
            let mut command = Command::new(program);
            command.env("AMPOULE_NATIVE_ALLOW_MISSING", "cgroup");
            command.env("AMPOULE_DATA_DIR", "/nonexistent");
            return command;
        }
        let mut script = String::new();
        for path in &self.0 {
            script.push_str(&format!("echo $$ > {}/tasks && ", path.display()));
        }
        script.push_str(&format!(
            "exec setpriv --reuid {STRANGER} --regid {STRANGER} --clear-groups \"$0\" \"$@\""
        ));
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).arg(program).env("AMPOULE_DATA_DIR", "/nonexistent");
        command
    }
}

impl Drop for DelegatedGroups {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = fs::remove_dir(path);
        }
    }
}
