//! The network policy against real networks: namespaces of the test's own, with servers on addresses
//! of every kind, seen from sandboxes of a provider that runs as root, and of one that runs as an
//! ordinary user. To be started as root.

mod closed;
mod helper;
mod reach;
mod rig;
mod world;

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::Arc,
};

use ampoule_testkit::{Suite, skip};
use rig::Rig;
use world::World;

/// What this process is to be: not set for the one that the user starts.
const ROLE: &str = "AMPOULE_NETWORK_TEST_ROLE";
const DIRECTORY: &str = "AMPOULE_NETWORK_TEST_DIRECTORY";
/// An ordinary user, whom nothing belongs to.
const ORDINARY: &str = "65533";

fn main() -> ExitCode {
    // Launcher processes are this very program, started again.
    ampoule_jail::entry();
    let role = env::var(ROLE).unwrap_or_default();
    let directory = env::var_os(DIRECTORY).map(PathBuf::from).unwrap_or_default();
    match role.as_str() {
        "" if !rustix::process::geteuid().is_root() => {
            let mut suite = Suite::new();
            suite.test("the_policy_open_in_networks_of_its_own", || {
                skip("only root can make networks of the tests' own")
            });
            suite.run(|| {})
        }
        "" => {
            let directory = tempfile::tempdir().unwrap();
            // Others have to read in it.
            let anyone = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(directory.path(), anyone).unwrap();
            let apart = ["unshare", "--net", "--mount", "--propagation", "private", "--"];
            again("host", &apart, &env::current_exe().unwrap(), directory.path())
        }
        "host" => {
            let world = World::build(&directory).unwrap_or_else(|error| panic!("{error:?}"));
            // This program and the packages may lie where an ordinary user cannot look.
            let program = directory.join("network");
            std::fs::copy(env::current_exe().unwrap(), &program).unwrap();
            let data = format!("AMPOULE_DATA_DIR={}", world.data_dir.display());
            let user =
                ["setpriv", "--reuid", ORDINARY, "--regid", ORDINARY, "--clear-groups", "--"];
            let by = ["env", &data];
            let codes = [
                again("root", &by, &program, &directory),
                again("ordinary", &[&user[..], &by].concat(), &program, &directory),
            ];
            drop(world);
            let failed = codes.into_iter().any(|code| code != ExitCode::SUCCESS);
            if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
        "without" => {
            #[expect(clippy::print_stdout, reason = "whoever started us reads it")]
            {
                println!("{}", Rig::refusal());
            }
            ExitCode::SUCCESS
        }
        "with" => {
            let rig = Rig::start(directory);
            let code =
                "import socket\ndef main(): socket.create_connection(('world.test', 7007), 10)";
            let result = rig.open("python", code).unwrap_or_else(|error| panic!("{error:?}"));
            assert!(result.finished.outcome.is_success(), "{result:?}");
            ExitCode::SUCCESS
        }
        "doomed" => {
            let rig = Rig::start(directory);
            let word = env::var("AMPOULE_NETWORK_TEST_WORD").unwrap();
            // Its keeper is killed under it.
            assert!(rig.open("python", &helper::sleeper(&word)).is_err());
            ExitCode::SUCCESS
        }
        role => suite(role, directory),
    }
}

/// Starts this program again in another role, by another program.
fn again(role: &str, by: &[&str], program: &Path, directory: &Path) -> ExitCode {
    let status = Command::new(by[0])
        .args(&by[1..])
        .arg(program)
        .args(env::args_os().skip(1))
        .env(ROLE, role)
        .env(DIRECTORY, directory)
        .status()
        .unwrap();
    if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn suite(role: &str, directory: PathBuf) -> ExitCode {
    let rig = Arc::new(Rig::start(directory));
    let mut suite = Suite::new();
    reach::add_controls(&mut suite, &rig);
    helper::add_controls(&mut suite, &rig);
    let mut with_rig = |group: &str, name: &str, test: Test| {
        let rig = Arc::clone(&rig);
        suite.test(format!("{role}::{group}::{name}"), move || test(&rig));
    };
    reach::add(&mut with_rig);
    closed::add(&mut with_rig);
    helper::add(&mut with_rig);
    if role == "root" {
        helper::add_for_root(&mut with_rig);
    }
    let last = Arc::clone(&rig);
    suite.run(move || last.stop())
}

/// One test on the shared rig.
type Test = fn(&Rig) -> Result<(), ampoule_testkit::Failure>;
