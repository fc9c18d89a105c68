//! Machines that lack something: the watch where no control group is ours, and hurdles told by name.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    sync::LazyLock,
};

use ampoule_testkit::{Outcome, Suite, skip, unique_word};
use serde_json::{Value, json};

use crate::support::{Done, Service, done};

/// The command where every user may execute it (a checkout is often below a private home), and
/// write beside it.
static PLACE: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_ampoule"), place.path().join("ampoule")).unwrap();
    place
});

fn binary() -> PathBuf {
    PLACE.path().join("ampoule")
}

fn program(code: &str) -> PathBuf {
    let file = PLACE.path().join(format!("{}.py", unique_word()));
    fs::write(&file, code).unwrap();
    file
}

/// Removes what this module has put on the host.
pub(crate) fn clear() {
    if let Some(place) = LazyLock::get(&PLACE) {
        let _ = fs::remove_dir_all(place.path());
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Puts a system call filter on itself that answers ENOSYS to the calls that are named, and execs
/// the rest of its arguments.
const FILTERED: &str = "
import ctypes, os, struct, sys
calls = [int(number) for number in sys.argv[1].split(',')]
code = [(0x20, 0, 0, 0)] + [(0x15, len(calls) - at, 0, call) for at, call in enumerate(calls)]
code += [(0x06, 0, 0, 0x7fff0000), (0x06, 0, 0, 0x00050000 | 38)]
bytes = b''.join(struct.pack('<HBBI', *line) for line in code)
buffer = ctypes.create_string_buffer(bytes)
program = struct.pack('<HxxxxxxQ', len(code), ctypes.addressof(buffer))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.c_char_p(program), 0, 0) == 0
os.execv(sys.argv[2], sys.argv[2:])
";

/// `ampoule run` of a Python program as an ordinary user, behind `before` (which runs as whoever
/// runs the tests).
fn run(before: &[&str], settings: &[(&str, &str)], code: &str) -> Done {
    let (binary, file) = (binary(), program(code));
    let mut words: Vec<&str> = before.to_vec();
    if is_root() {
        words.extend(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
    }
    let (binary, file) = (binary.to_str().unwrap(), file.to_str().unwrap());
    words.extend([binary, "run", "--timeout", "5", "--json", file]);
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    // Without a user manager to give a scope, whoever runs the tests.
    command.env("HOME", "/nonexistent").stdin(Stdio::null()).envs(settings.iter().copied());
    done(command.current_dir("/"))
}

fn report(shown: &Done) -> Value {
    serde_json::from_str(&shown.stdout).unwrap_or_else(|error| panic!("{error}: {shown:?}"))
}

/// The error of a run that was refused, for its parts.
fn refusal(shown: &Done) -> String {
    assert_eq!(shown.code, 5, "{shown:?}");
    assert!(shown.stderr.contains("hint: "), "{shown:?}");
    shown.stderr.clone()
}

/// Covers a part of `/proc`, as container engines do, and execs the rest.
const MASKED: [&str; 6] = [
    "unshare",
    "--mount",
    "sh",
    "-c",
    "mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec \"$@\"",
    "sh",
];

const VALUE: &str = "def main():\n    return 42\n";

const ALLOCATOR: &str = "
def main():
    kept = []
    for _ in range(2048):
        kept.append(bytearray(b'x') * (1 << 20))
    return len(kept)
";

/// The first thread ends, and with it what `/proc` tells of the process under its own number.
const HEADLESS_ALLOCATOR: &str = "
import ctypes, threading, time
def take():
    time.sleep(0.2)
    kept = []
    for _ in range(2048):
        kept.append(bytearray(b'x') * (1 << 20))
    time.sleep(3)
def main():
    threading.Thread(target=take).start()
    ctypes.CDLL(None).pthread_exit(None)
";

/// Reading one byte in each 2 MiB of much address space takes page tables and nothing else.
const PAGE_TABLES: &str = "
import ctypes
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
def main():
    size = 600 << 30
    place = libc.mmap(None, size, 1, 0x4022, -1, 0)
    libc.madvise(place, size, 15)
    for at in range(0, size, 2 << 20):
        ctypes.c_char.from_address(place + at).value
    return 1
";

/// Each socket counts at the size of its buffers.
const SOCKETS: &str = "
import os, socket, time
def main():
    for _ in range(8):
        if os.fork() == 0:
            kept = [socket.socketpair() for _ in range(240)]
            time.sleep(3)
            os._exit(0)
    time.sleep(3)
    return 1
";

/// Memory that need be mapped nowhere, and larger buffers, cannot be had: what is asked, and the
/// error.
const UNCOUNTED: &str = "
import errno, mmap, os, socket
def main():
    told = []
    for take in (
        lambda: mmap.mmap(-1, 4096),
        lambda: os.memfd_create('x'),
        lambda: mmap.mmap(os.open('/dev/zero', os.O_RDWR), 4096),
        lambda: socket.socketpair()[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20),
    ):
        try:
            take()
            told.append('taken')
        except OSError as error:
            told.append(errno.errorcode[error.errno])
    return told
";

/// Until a `vfork` has done its exec, parent and child have all of their memory in common.
const VFORKS: &str = "
import subprocess
def main():
    kept = bytearray(b'x') * (160 << 20)
    for _ in range(60):
        subprocess.run(['/bin/true'], check=True)
    return len(kept)
";

const SCRATCH_ALLOCATOR: &str = "
import time
def main():
    with open('/workspace/a', 'wb') as file:
        file.write(b'x' * (90 << 20))
    kept = bytearray(b'x') * (190 << 20)
    time.sleep(3)
    return len(kept)
";

const FORK_TREE: &str = "
import os, time
def main():
    while True:
        try:
            os.fork()
        except OSError:
            time.sleep(0.01)
";

const THREADS: &str = "
import threading, time
def main():
    for _ in range(80):
        threading.Thread(target=time.sleep, args=(4,), daemon=True).start()
    time.sleep(3)
    return 1
";

const BUSY_LOOP: &str = "def main():\n    while True:\n        pass\n";

/// Each child has all pages of its parent, and none of its own.
const SHARING_CHILDREN: &str = "
import os, time
def main():
    kept = bytearray(b'x') * (100 << 20)
    for _ in range(6):
        if os.fork() == 0:
            time.sleep(0.3)
            os._exit(0)
    for _ in range(6):
        os.wait()
    return len(kept)
";

const WRITING_CHILDREN: &str = "
import os, time
def main():
    kept = bytearray(b'x') * (100 << 20)
    for _ in range(6):
        if os.fork() == 0:
            for at in range(0, len(kept), 4096):
                kept[at] = 1
            time.sleep(3)
            os._exit(0)
    for _ in range(6):
        os.wait()
    return len(kept)
";

pub(crate) fn add(suite: &mut Suite) {
    for (name, code, limit, stopped) in [
        ("the_watch_stops_an_allocator", ALLOCATOR, "memory", "memory"),
        (
            "the_watch_stops_a_process_without_its_first_thread",
            HEADLESS_ALLOCATOR,
            "memory",
            "memory",
        ),
        ("the_watch_stops_page_tables", PAGE_TABLES, "memory", "memory"),
        ("the_watch_stops_many_sockets", SOCKETS, "memory", "memory"),
        (
            "the_watch_stops_scratch_space_and_memory_together",
            SCRATCH_ALLOCATOR,
            "memory",
            "memory",
        ),
        (
            "the_watch_stops_children_that_write_what_they_share",
            WRITING_CHILDREN,
            "memory",
            "memory",
        ),
        ("the_watch_stops_a_fork_tree", FORK_TREE, "processes", "processes"),
        ("the_watch_stops_too_many_threads", THREADS, "processes", "processes"),
        ("the_watch_stops_a_busy_loop", BUSY_LOOP, "time", "wall"),
    ] {
        suite.test(name, move || {
            let shown = run(&[], &[], code);
            let report = report(&shown);
            assert_eq!(shown.code, 3, "{report}");
            if report["isolation"]["meters"] != "watch" {
                return skip("this user has a control group to divide");
            }
            assert_eq!(report["outcome"]["limit"], limit, "{report}");
            assert_eq!(report["evidence"]["stopped"], stopped, "{report}");
            assert_eq!(report["evidence"]["meters"], "watch", "{report}");
            Ok(Outcome::Passed)
        });
    }
    suite.test("the_watch_counts_shared_pages_once", || {
        let report = report(&run(&[], &[], SHARING_CHILDREN));
        assert_eq!(report["value"], 100 << 20, "{report}");
        Ok(())
    });
    suite.test("the_watch_counts_no_memory_twice_after_a_vfork", || {
        let report = report(&run(&[], &[], VFORKS));
        assert_eq!(report["value"], 160 << 20, "{report}");
        Ok(())
    });
    suite.test("memory_that_the_watch_cannot_see_cannot_be_had", || {
        let report = report(&run(&[], &[], UNCOUNTED));
        if report["isolation"]["meters"] != "watch" {
            return skip("this user has a control group to divide");
        }
        assert_eq!(report["value"], json!(["ENOMEM", "ENOSYS", "ENODEV", "EPERM"]), "{report}");
        Ok(Outcome::Passed)
    });
    suite.test("an_ordinary_user_runs_programs_and_is_told_what_is_missing", || {
        let report = report(&run(&[], &[], VALUE));
        assert_eq!(report["value"], 42, "{report}");
        let missing = report["isolation"]["missing"].as_array().unwrap();
        assert!(missing.contains(&"own_id_per_sandbox".into()), "{report}");
        if report["isolation"]["meters"] == "watch" {
            assert!(missing.contains(&"cgroup".into()), "{report}");
        }
        Ok(())
    });
    suite.test("a_service_without_control_groups_is_refused_unless_they_are_given_up", || {
        if !is_root() {
            return skip("the rung that this user has is not known here");
        }
        let serve = |settings: &[(&str, &str)]| {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
            command.arg(binary()).env_clear().env("HOME", "/nonexistent");
            command.env("AMPOULE_DATA_DIR", PLACE.path().join(unique_word()));
            command.env("PATH", "/usr/bin:/bin").envs(settings.iter().copied());
            command
        };
        let mut refused = serve(&[]);
        let text = refusal(&done(refused.args(["serve", "--listen", "127.0.0.1:0"])));
        assert!(text.contains("allow_missing"), "{text}");

        let service =
            Service::start_with(&mut serve(&[("AMPOULE_NATIVE_ALLOW_MISSING", "cgroup")]));
        let answer = service.run("python", VALUE, &json!({}));
        assert_eq!(answer["isolation"]["meters"], "watch", "{answer}");
        let missing = answer["isolation"]["missing"].as_array().unwrap();
        assert!(missing.contains(&"cgroup".into()), "{answer}");
        Ok(Outcome::Passed)
    });
    add_hurdles(suite);
}

fn add_hurdles(suite: &mut Suite) {
    suite.test("a_mount_among_programs_is_shown_read_only", || {
        if !is_root() {
            return skip("only root can mount something there");
        }
        let script =
            "mount -t tmpfs x /usr/share/misc && touch /usr/share/misc/vendor && exec \"$@\"";
        let code = "import os
def main():
    try:
        open('/usr/share/misc/other', 'w')
    except OSError as error:
        return [os.listdir('/usr/share/misc'), error.errno]
";
        let report = report(&run(&["unshare", "--mount", "sh", "-c", script, "sh"], &[], code));
        assert_eq!(report["value"], json!([["vendor"], 30]), "{report}");
        Ok(Outcome::Passed)
    });
    suite.test("user_namespaces_switched_off_are_told_with_the_sysctl", || {
        let off = "echo 0 > /proc/sys/user/max_user_namespaces; exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "sh", "-c", off, "sh"]);
        let shown = done(command.arg(binary()).arg("run").arg(program(VALUE)).stdin(Stdio::null()));
        let text = refusal(&shown);
        assert!(text.contains("user namespaces are switched off"), "{text}");
        assert!(text.contains("sysctl -w user.max_user_namespaces="), "{text}");
        Ok(())
    });
    suite.test("a_masked_proc_is_told_and_can_be_given_up", || {
        if !is_root() {
            return skip("only root can cover a part of /proc");
        }
        let text = refusal(&run(&MASKED, &[], VALUE));
        assert!(text.contains("parts of /proc are masked"), "{text}");
        assert!(text.contains("systempaths=unconfined"), "{text}");

        let given_up = [("AMPOULE_NATIVE_ALLOW_MISSING", "cgroup,proc")];
        let code = "import os\ndef main():\n    return os.listdir('/proc')\n";
        let report = report(&run(&MASKED, &given_up, code));
        assert_eq!(report["value"], json!([]), "{report}");
        let missing = report["isolation"]["missing"].as_array().unwrap();
        for layer in ["proc", "kernel_quotas"] {
            assert!(missing.contains(&layer.into()), "{report}");
        }
        Ok(Outcome::Passed)
    });
    suite.test("a_masked_proc_does_not_blind_the_watch", || {
        if !is_root() {
            return skip("only root can cover a part of /proc");
        }
        let given_up = [("AMPOULE_NATIVE_ALLOW_MISSING", "cgroup,proc")];
        for (code, limit) in [(ALLOCATOR, "memory"), (FORK_TREE, "processes")] {
            let report = report(&run(&MASKED, &given_up, code));
            assert_eq!(report["outcome"]["limit"], limit, "{report}");
        }
        Ok(Outcome::Passed)
    });
    suite.test("a_kernel_without_landlock_is_told_and_can_be_given_up", || {
        const LANDLOCK: &str = "444,445,446";
        let without = ["/usr/bin/python3", "-c", FILTERED, LANDLOCK, "/usr/bin/env"];
        let text = refusal(&run(&without, &[], VALUE));
        assert!(text.contains("Landlock is not available"), "{text}");

        let given_up = [("AMPOULE_NATIVE_ALLOW_MISSING", "cgroup,landlock")];
        let report = report(&run(&without, &given_up, VALUE));
        assert_eq!(report["value"], 42, "{report}");
        let missing = report["isolation"]["missing"].as_array().unwrap();
        assert!(missing.contains(&"landlock".into()), "{report}");
        Ok(())
    });
    suite.test("a_seccomp_profile_without_namespaces_is_told", || {
        // clone3, as Docker's default profile has it.
        const CLONE3: &str = "435";
        let python = "/usr/bin/python3";
        let text = refusal(&run(&[python, "-c", FILTERED, CLONE3, "/usr/bin/env"], &[], VALUE));
        assert!(text.contains("a seccomp profile"), "{text}");
        assert!(text.contains("docs/containers.md"), "{text}");
        Ok(())
    });
}
