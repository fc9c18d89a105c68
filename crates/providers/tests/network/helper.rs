//! The helper itself: what it may do, and that it is gone when its run is.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use ampoule_core::{
    CancellationToken, Collector, Event, NetworkPolicy, Outcome, Provider as _, ProviderExt as _,
};
use ampoule_testkit::{Failure, Suite, children_of, eventually, is_gone, unique_word};
use futures_util::StreamExt as _;

use crate::{
    ROLE, Test,
    rig::{Rig, request, value},
};

/// A program whose child has `word` in its arguments, and which says so.
pub(crate) fn sleeper(word: &str) -> String {
    format!(
        "import subprocess, sys, time\ndef main():\n  subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)', '{word}'])\n  print('ready', flush=True)\n  time.sleep(60)"
    )
}

/// The processes whose file `name` in `/proc` holds `text`.
fn processes_where(name: &str, text: &str) -> Vec<u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            fs::read(format!("/proc/{pid}/{name}"))
                .is_ok_and(|have| String::from_utf8_lossy(&have).contains(text))
        })
        .collect()
}

fn user_namespace(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/user")).ok()
}

/// The helper of the run whose program has started a child with `word`: it lives in the user
/// namespace of the run's cell.
fn helper_of(word: &str) -> Result<u32, Failure> {
    let mut found = None;
    eventually("the program's child runs", || {
        let program = processes_where("cmdline", word)
            .into_iter()
            .filter_map(user_namespace)
            .find(|namespace| Some(namespace) != user_namespace(std::process::id()).as_ref());
        found = program.and_then(|program| {
            processes_where("comm", "slirp4netns")
                .into_iter()
                .find(|pid| user_namespace(*pid).as_ref() == Some(&program))
        });
        found.is_some()
    })?;
    found.ok_or_else(|| "no helper".into())
}

fn status(pid: u32, field: &str) -> Result<String, Failure> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":\t"));
    Ok(line.ok_or("no such field")?.to_owned())
}

fn kill(pid: u32) -> Result<(), Failure> {
    let killed = Command::new("kill").args(["-9", &pid.to_string()]).status()?;
    if killed.success() { Ok(()) } else { Err("kill failed".into()) }
}

/// This program again, in another role, with other programs on its path.
fn again(role: &str, path: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(ROLE, role).env("PATH", path).stdin(Stdio::null());
    command
}

/// Starts a manager with a run in it, kills the process that `whom` finds by the run's helper, and
/// looks what is left.
fn left_by_a_killed(whom: fn(u32) -> Result<u32, Failure>) -> Result<(), Failure> {
    let word = unique_word();
    let mut doomed = again("doomed", &std::env::var("PATH")?)
        .env("AMPOULE_NETWORK_TEST_WORD", &word)
        .stdout(Stdio::null())
        .spawn()?;
    let helper = helper_of(&word)?;
    kill(whom(helper)?)?;
    eventually("the helper is gone", || is_gone(helper))?;
    eventually("the program is gone", || processes_where("cmdline", &word).is_empty())?;
    // The manager has seen it, and ends well.
    if doomed.wait()?.success() { Ok(()) } else { Err("the manager did not see it".into()) }
}

/// The helpers of this process's keepers.
fn helpers() -> Vec<u32> {
    let keepers = children_of(std::process::id()).into_iter();
    let all = keepers.flat_map(children_of);
    all.filter(|pid| processes_where("comm", "slirp4netns").contains(pid)).collect()
}

fn every_slot_is_free(rig: &Rig) -> bool {
    rig.runtime.block_on(async {
        let spec = request("python", "def main(): return 1", NetworkPolicy::None).spec();
        let mut held = Vec::new();
        while let Ok(sandbox) = rig.strict.create(spec.clone()).await {
            held.push(sandbox);
        }
        let all = held.len() == crate::rig::SLOTS as usize;
        for sandbox in held {
            let _ = sandbox.destroy().await;
        }
        all
    })
}

/// Controls, because they take every slot: they run one after another.
pub(crate) fn add_controls(suite: &mut Suite, rig: &Arc<Rig>) {
    let dropping = Arc::clone(rig);
    suite.control("a_dropped_creation_leaves_no_helper", move || {
        let rig = &dropping;
        rig.runtime.block_on(async {
            let spec = request("python", "def main(): return 1", NetworkPolicy::Open).spec();
            // Dropped at every moment, more often than there are slots.
            for moment in 0..60_u64 {
                let soon = Duration::from_micros(moment * 500);
                let _ = tokio::time::timeout(soon, rig.strict.create(spec.clone())).await;
            }
        });
        eventually("no helper is left", || helpers().is_empty())?;
        eventually("every slot is back", || every_slot_is_free(rig))
    });
    let rig = Arc::clone(rig);
    suite.control("many_at_once_all_have_a_way_out", move || {
        let code = "import socket\ndef main():\n  c = socket.create_connection(('world.test', 7007), 15)\n  c.sendall(b'x')\n  return c.recv(1).decode()";
        let runs = (0..40).map(|_| async {
            let request = request("python", code, NetworkPolicy::Open);
            rig.strict.run(request, CancellationToken::new()).await
        });
        let results: Vec<_> =
            rig.runtime.block_on(futures_util::stream::iter(runs).buffer_unordered(6).collect());
        for result in results {
            assert_eq!(value(result?)?, "\"x\"");
        }
        assert_eq!(helpers(), Vec::<u32>::new());
        Ok(())
    });
}

/// What only root can set up: machines without a tun device, or with one for root alone.
pub(crate) fn add_for_root(add: &mut impl FnMut(&str, &str, Test)) {
    add("helper", "without_a_tun_device_the_policy_is_refused_with_the_fix", |_| {
        let ordinary = "setpriv --reuid 65533 --regid 65533 --clear-groups";
        let mine = "mknod -m 0600 /dev/net/tun c 10 200";
        for (device, by, said) in [
            (":", "exec", "(No such file or directory (os error 2)); hint: `modprobe tun`; for a"),
            (mine, ordinary, "cannot be opened by this user; hint: `chmod 0666 /dev/net/tun`"),
        ] {
            let script = format!("mount -t tmpfs tmpfs /dev/net && {device} && {by} \"$0\"");
            let output = Command::new("unshare")
                .args(["--mount", "--propagation", "private", "--", "sh", "-c", &script])
                .arg(std::env::current_exe()?)
                .env(ROLE, "without")
                .output()?;
            let got = String::from_utf8(output.stdout)?;
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(got.starts_with("Unsupported: `network` is open"), "{got}");
            assert!(got.contains(said), "{got}");
        }
        Ok(())
    });
    add("helper", "root_needs_no_tun_device_that_others_may_open", |_| {
        let script =
            "mount -t tmpfs tmpfs /dev/net && mknod -m 0600 /dev/net/tun c 10 200 && exec \"$0\"";
        let output = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--", "sh", "-c", script])
            .arg(std::env::current_exe()?)
            .env(ROLE, "with")
            .output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        Ok(())
    });
}

pub(crate) fn add(add: &mut impl FnMut(&str, &str, Test)) {
    add("helper", "it_may_do_little_and_is_gone_with_its_run", |rig| {
        let word = unique_word();
        let cancel = CancellationToken::new();
        let request = request("python", &sleeper(&word), NetworkPolicy::Open);
        let (helper, result) = rig.runtime.block_on(async {
            let mut sandbox = rig.strict.create(request.spec()).await?;
            let mut events = sandbox.execute(request, cancel.clone()).await?;
            assert!(matches!(events.next().await, Some(Ok(Event::Stdout(_)))));
            let helper = helper_of(&word)?;
            let two = "0000000000201000";
            for field in ["CapPrm", "CapEff", "CapBnd"] {
                assert_eq!(status(helper, field)?, two, "{field}");
            }
            assert_eq!(
                (status(helper, "NoNewPrivs")?, status(helper, "Seccomp")?),
                ("1".into(), "2".into())
            );
            let ids = status(helper, "Uid")?;
            let manager = status(std::process::id(), "Uid")?;
            // As root it has an id that is nobody's; an ordinary user has but one.
            assert_eq!(ids == manager, !manager.starts_with("0\t"), "{ids}");
            assert_ne!(user_namespace(helper), user_namespace(std::process::id()));
            cancel.cancel();
            let result = Collector::collect(events).await?;
            // The answer is here; no process of the run is, nor its helper.
            assert!(is_gone(helper), "the helper lives on");
            sandbox.destroy().await?;
            Ok::<_, Failure>((helper, result))
        })?;
        assert_eq!(result.finished.outcome, Outcome::Cancelled);
        assert!(is_gone(helper));
        Ok(())
    });
    add("helper", "a_helper_that_is_killed_ends_its_run_and_says_so", |rig| {
        let word = unique_word();
        let request = request("python", &sleeper(&word), NetworkPolicy::Open);
        let error = rig.runtime.block_on(async {
            let mut sandbox = rig.strict.create(request.spec()).await?;
            let mut events = sandbox.execute(request, CancellationToken::new()).await?;
            assert!(matches!(events.next().await, Some(Ok(Event::Stdout(_)))));
            kill(helper_of(&word)?)?;
            let error = Collector::collect(events).await.expect_err("the run went on");
            assert_eq!(processes_where("cmdline", &word), Vec::<u32>::new());
            sandbox.destroy().await?;
            Ok::<_, Failure>(error)
        })?;
        assert!(error.message().contains("the network helper ended during the run"), "{error}");
        // The next run has another.
        assert_eq!(value(rig.open("python", "def main(): return 1")?)?, "1");
        Ok(())
    });
    add("helper", "a_killed_keeper_takes_its_helpers_along", |_| {
        left_by_a_killed(|helper| Ok(status(helper, "PPid")?.parse()?))
    });
    add("helper", "a_killed_launcher_leaves_no_helper", |_| {
        left_by_a_killed(|helper| {
            let keeper = status(helper, "PPid")?.parse()?;
            let mut others = children_of(keeper).into_iter();
            let launcher = others.find(|pid| {
                fs::read_to_string(format!("/proc/{pid}/comm"))
                    .is_ok_and(|name| name.trim() == "ampoule-launche")
            });
            Ok(launcher.ok_or("no launcher")?)
        })
    });
    add("helper", "one_that_nobody_keeps_is_a_leak", |_| {
        // Something with the arguments of a helper, whose parent is no keeper.
        let script = ["-c", "read wait", "slirp4netns", "--cidr=198.18.0.0/24"];
        let mut stray = Command::new("sh").args(script).stdin(Stdio::piped()).spawn()?;
        let found = ampoule_jail::leaks()?;
        drop(stray.stdin.take());
        stray.wait()?;
        let is_stray = |leak: &ampoule_jail::Leak| matches!(leak, ampoule_jail::Leak::Process { pid, .. } if *pid == stray.id());
        assert!(found.iter().any(is_stray), "{found:?}");
        Ok(())
    });
    add("helper", "two_runs_have_networks_of_their_own", |rig| {
        let serve = "import socket\ndef main():\n  s = socket.create_server(('0.0.0.0', 4000))\n  s.settimeout(4)\n  print('ready', flush=True)\n  try: s.accept(); return 'somebody came'\n  except TimeoutError: return 'nobody'";
        let visit = "import socket\ndef main():\n  out = []\n  for address in ('198.18.0.100', '198.18.0.2', '127.0.0.1'):\n    s = socket.socket(); s.settimeout(1)\n    try: s.connect((address, 4000)); out.append(address)\n    except OSError: pass\n  socket.create_connection(('world.test', 7007), 5)\n  return out";
        let cancel = CancellationToken::new;
        let (served, visited) = rig.runtime.block_on(async {
            let server = rig.strict.run(request("python", serve, NetworkPolicy::Open), cancel());
            let visitor = async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                rig.strict.run(request("python", visit, NetworkPolicy::Open), cancel()).await
            };
            tokio::join!(server, visitor)
        });
        assert_eq!(value(served?)?, "\"nobody\"");
        assert_eq!(value(visited?)?, "[]");
        Ok(())
    });
    add("helper", "without_one_the_policy_is_refused_with_the_fix", |_| {
        let output = again("without", "/nowhere").output()?;
        let said = String::from_utf8(output.stdout)?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(
            said.trim(),
            "Unsupported: `network` is open, and only none is allowed; no network helper is \
             installed; hint: install `slirp4netns` (Debian: `apt-get install slirp4netns`) and \
             start again"
        );
        Ok(())
    });
    add("helper", "one_that_does_not_start_is_told_by_its_own_words", |_| {
        let directory = tempfile::tempdir()?;
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        let program = directory.path().join("slirp4netns");
        let script = "#!/bin/sh\ncase $1 in --version) echo slirp4netns version 1.2.0;; *) echo out of luck >&2; exit 1;; esac\n";
        fs::write(&program, script)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        let path = directory.path().to_str().ok_or("a strange path")?.to_owned();
        let output = again("without", &path).output()?;
        let said = String::from_utf8(output.stdout)?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(said.trim(), "Internal: the network helper did not start: out of luck");
        Ok(())
    });
}
