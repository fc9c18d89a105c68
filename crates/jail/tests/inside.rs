//! The code that is loaded into an interpreter, loaded into both, and at work in one.

use std::{io::Write as _, path::PathBuf, process::Command};

use ampoule_jail::{INSIDE, seccomp};

/// The embedded library as a file. Each test has its own: a loaded library must not be rewritten.
fn library(test: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("inside-{test}.so"));
    std::fs::File::create(&path).unwrap().write_all(INSIDE).unwrap();
    path
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program}: {:?}\n{errors}", output.status);
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn python_loads_it() {
    let path = library("python");
    let code = format!("import ctypes; print(ctypes.CDLL({path:?}).ampoule_inside_abi())");
    assert_eq!(output("/usr/bin/python3", &["-I", "-c", &code]), "1");
}

#[test]
fn node_loads_it() {
    let path = library("node");
    let code = format!(
        "const m = {{exports: {{}}}}; process.dlopen(m, {path:?}); console.log(m.exports.abi)"
    );
    assert_eq!(output("node", &["-e", &code]), "1");
}

/// The very `confine()` of the cold way, called from inside an interpreter: afterwards the kernel
/// says of the process what it says of every worker. It needs the right to give up rights.
#[test]
fn python_confines_itself_with_it() {
    let path = library("confine");
    let instructions = seccomp::Policy::default_policy()
        .compile(seccomp::Arch::NATIVE)
        .unwrap()
        .instructions()
        .iter()
        .map(|i| format!("({},{},{},{})", i.code, i.jt, i.jf, i.k))
        .collect::<Vec<_>>()
        .join(",");
    let code = format!(
        r#"
import ctypes as c, os, socket, sys
libc = c.CDLL(None, use_errno=True)
uid, gid = os.getuid(), os.getgid()
if libc.unshare(0x10000000) != 0: sys.exit("unshare: errno %d" % c.get_errno())
open("/proc/self/setgroups", "w").write("deny")
open("/proc/self/uid_map", "w").write(f"65534 {{uid}} 1")
open("/proc/self/gid_map", "w").write(f"65534 {{gid}} 1")
class Limit(c.Structure): _fields_ = [("resource", c.c_uint32), ("value", c.c_uint64)]
class Rule(c.Structure): _fields_ = [("path", c.c_char_p), ("access", c.c_uint64)]
class Instruction(c.Structure): _fields_ = [("code", c.c_uint16), ("jt", c.c_uint8), ("jf", c.c_uint8), ("k", c.c_uint32)]
class Plan(c.Structure): _fields_ = [("id", c.c_uint32), ("single_id", c.c_uint32), ("abi", c.c_uint32), ("setup", c.c_int32),
    ("handled", c.c_uint64), ("scoped", c.c_uint64), ("limits", c.POINTER(Limit)), ("limits_len", c.c_size_t),
    ("rules", c.POINTER(Rule)), ("rules_len", c.c_size_t), ("filter", c.POINTER(Instruction)), ("filter_len", c.c_size_t)]
program = [{instructions}]
filter = (Instruction * len(program))(*[Instruction(*i) for i in program])
limits = (Limit * 1)(Limit(4, 0))
rules = (Rule * 1)(Rule(b"/proc", 0b1100))
lib = c.CDLL({path:?})
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
pid = os.fork()
if pid == 0:
    # The plan closes everything above the setup socket, so it goes to a place above the standard ones.
    os.dup2(theirs.fileno(), 4)
    plan = Plan(65534, 1, 1, 4, 0x1fff, 0, limits, 1, rules, 1, filter, len(program))
    errno = lib.ampoule_inside_confine(c.byref(plan))
    if errno: os._exit(errno)
    status = dict(l.split(":", 1) for l in open("/proc/self/status"))
    try: open("/etc/passwd"); outside = "read"
    except PermissionError: outside = "denied"
    print([status[k].strip() for k in ("NoNewPrivs", "Seccomp", "CapEff", "CapBnd")], os.getuid(), outside, flush=True)
    os._exit(0)
theirs.close()
message, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
_, status = os.waitpid(pid, 0)
print(message, len(descriptors), os.waitstatus_to_exitcode(status))
"#
    );
    let shown = output("/usr/bin/python3", &["-I", "-c", &code]);
    assert_eq!(shown, "['1', '2', '0000000000000000', '0000000000000000'] 65534 denied\nb'C' 1 0");
}
