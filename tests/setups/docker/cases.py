"""The tests of Ampoule inside containers. `test.sh` starts the engine and then this: controls first,
each test named, counted and printed."""

import contextlib
import glob
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import traceback

BINARY = os.path.abspath(sys.argv[1])
IMAGE, PROFILE, ENGINE = os.environ["IMAGE"], os.environ["PROFILE"], os.environ["ENGINE"]

# So that a test that fails does no harm to the machine.
BOUNDS = ["--memory", "1g", "--memory-swap", "1g", "--pids-limit", "600"]
USER = ["--user", "1000:1000", "--cap-drop", "ALL"]
OUR_CALLS = ["--security-opt", f"seccomp={PROFILE}"]
WHOLE_PROC = ["--security-opt", "systempaths=unconfined"]
DATA = pathlib.Path(ENGINE) / "packages"
# The command line of docs/containers.md.
DOCUMENTED = [*USER, *OUR_CALLS, *WHOLE_PROC, "--read-only", "--security-opt", "no-new-privileges",
              "--volume", f"{DATA}:/data", "--env", "AMPOULE_DATA_DIR=/data"]

WATCHED = ["--env", "AMPOULE_NATIVE_ALLOW_MISSING=cgroup"]

# With the masks that Docker puts over /proc.
GIVEN_UP = ["--env", "AMPOULE_NATIVE_ALLOW_MISSING=cgroup,proc"]
MASKED = [*USER, *OUR_CALLS, *GIVEN_UP]
AS_ROOT = [*OUR_CALLS, *WHOLE_PROC]

# What the profile lets through beyond the engine's own: a call, or a call with its first argument.
CLONE_NEWCGROUP = 0x02000000
ADDED = {
    ("clone3", None), ("setns", None), ("unshare", CLONE_NEWCGROUP), ("sethostname", None),
    ("mount", None), ("mount_setattr", None), ("move_mount", None), ("open_tree", None),
    ("pivot_root", None), ("umount2", None),
}

HELLO = "def main(): return 42\n"
HELLO_JAVASCRIPT = "function main() { return 6 * 7 }\n"
BUSY = "def main():\n    while True: pass\n"
HUNGRY = "def main():\n    return len(bytearray(2 << 30))\n"
FORKS = """
import os, time
def main():
    children = 0
    try:
        while children < 300:
            if os.fork() == 0:
                time.sleep(60)
            children += 1
    finally:
        time.sleep(1)
    return children
"""
# What stays behind of a run if nobody looks after it.
DAEMON = """
import os, time
def main():
    open("/tmp/left", "w").write("left")
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(3600)
        os._exit(0)
    return os.getpid()
"""

CANARY = "canary-" + os.urandom(8).hex()
# Looks for the canary wherever a container has it: the environment of any process, files at known
# and unknown places, command lines, the host name.
SEARCH = """
import glob, os, socket
def main():
    found = [socket.gethostname(), *os.environ.values(), *os.listdir("/")]
    for pattern in ("/proc/[0-9]*/environ", "/proc/[0-9]*/cmdline", "/proc/[0-9]*/root/secret",
                    "/secret", "/etc/hostname", "/proc/mounts", "/proc/self/cgroup"):
        for path in glob.glob(pattern):
            try:
                found.append(open(path, errors="replace").read())
            except OSError:
                pass
    return found
"""


SECURITY = subprocess.run(["docker", "info", "--format", "{{.SecurityOptions}}"],
                          capture_output=True, text=True, check=True).stdout


class Result:
    """How a command in a container ended."""

    def __init__(self, process):
        self.code = process.returncode
        self.out = process.stdout.decode(errors="replace")
        self.error = process.stderr.decode(errors="replace")

    def __str__(self):
        return f"exit code {self.code}\n{self.out[-2000:]}\n{self.error[-2000:]}"

    def answer(self):
        """What `ampoule run --json` printed."""
        return json.loads(self.out)


def docker(*arguments, given="", check=False):
    process = subprocess.run(
        ["docker", *arguments], input=given.encode(), capture_output=True, timeout=90, check=False)
    result = Result(process)
    assert result.code == 0 or not check, f"docker {' '.join(arguments)}: {result}"
    return result


def options(*more):
    # Docker's AppArmor profile allows no mount; where there is none the option is an error.
    if "apparmor" in SECURITY:
        more = ("--security-opt", "apparmor=unconfined", *more)
    if "--network" not in more:
        more = ("--network", "none", *more)
    return ["--volume", f"{BINARY}:/usr/local/bin/ampoule:ro", *BOUNDS, *more]


def run_command(language="python", *more):
    return ["ampoule", "run", "-", "--lang", language, "--json", *more]


def run(container_options, program=HELLO, language="python", limits=()):
    """Runs one program with `ampoule run` in a container of its own."""
    return docker("run", "--rm", "--init", "--interactive", *options(*container_options), IMAGE,
                  *run_command(language, *limits), given=program)


@contextlib.contextmanager
def container(*container_options):
    """A container that waits; its id."""
    name = docker("run", "--detach", "--init", *options(*container_options), IMAGE,
                  "sleep", "infinity", check=True).out.strip()
    try:
        yield name
    finally:
        docker("rm", "--force", name)


def succeeded(result):
    assert result.code == 0, result
    answer = result.answer()
    assert answer["outcome"]["kind"] == "succeeded" and answer["value"] == 42, result
    return answer["isolation"]


def refused(result, *words):
    """The platform refuses, in words that lead on."""
    assert result.code == 5, result
    for word in words:
        assert word in result.error, f"`{word}` is not in: {result}"


def within(seconds, condition):
    """Waits until a condition holds; its last value."""
    end = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < end:
        time.sleep(0.1)
    return value


CONTROLS, TESTS = [], []


def control(function):
    CONTROLS.append(function)


def test(function):
    TESTS.append(function)


# --- controls -----------------------------------------------------------------------------------


@control
def the_engine_runs_a_container():
    assert docker("run", "--rm", *options(), IMAGE, "echo", "there", check=True).out == "there\n"


@control
def a_program_runs_as_the_page_says():
    succeeded(run(DOCUMENTED))


@control
def the_canary_is_there_to_be_found():
    with secretive_container(*DOCUMENTED) as name:
        plain = docker("exec", "--interactive", name, "python3", "-I", "-",
                       given=SEARCH + "print(main())\n", check=True)
        # The container's own environment, its file, its host name, and a command line.
        assert plain.out.count(CANARY) >= 4, plain


# --- what is refused, and how it is said --------------------------------------------------------


@test
def dockers_own_profile_is_named():
    for user in (USER, []):
        refused(run([*user]), "user namespaces", "seccomp")
        refused(run([*user, *WHOLE_PROC]), "user namespaces", "seccomp")


@test
def a_masked_proc_is_named():
    for user in (USER, []):
        refused(run([*user, *OUR_CALLS]), "/proc", "systempaths=unconfined")


@test
def a_masked_proc_may_be_given_up():
    for container_options in (MASKED, [*OUR_CALLS, *GIVEN_UP]):
        isolation = succeeded(run(container_options))
        assert {"proc", "kernel_quotas"} <= set(isolation["missing"]), isolation


@test
def root_that_may_not_map_ids_is_told():
    for container_options in (AS_ROOT, [*OUR_CALLS, *GIVEN_UP], []):
        refused(run(["--cap-drop", "ALL", *container_options]), "CAP_SETFCAP", "--user")


# --- what the profile opens ---------------------------------------------------------------------


def effective_rules(*container_options):
    """The calls that the engine lets through in such a container: (name, first argument)."""
    with container(*container_options) as name:
        [bundle] = glob.glob(f"{ENGINE}/run/**/{name}/config.json", recursive=True)
        seccomp = json.loads(pathlib.Path(bundle).read_text())["linux"]["seccomp"]
    assert seccomp["defaultAction"] == "SCMP_ACT_ERRNO", seccomp
    allowed = set()
    for rule in seccomp["syscalls"]:
        if rule["action"] == "SCMP_ACT_ALLOW":
            arguments = json.dumps(rule["args"], sort_keys=True) if rule.get("args") else None
            allowed.update((name, arguments) for name in rule["names"])
    return allowed


@test
def the_profile_opens_what_it_says_and_nothing_else():
    before, after = effective_rules(*USER), effective_rules(*USER, *OUR_CALLS)
    always = {name for name, arguments in before if arguments is None}
    opened = {rule for rule in after - before if rule[0] not in always}
    shown = {
        (name, arguments and json.loads(arguments)[0]["value"]) for name, arguments in opened}
    assert shown == ADDED, f"{shown ^ ADDED}"


# Needed by a cell or a worker. The others are needed by the launcher, which says who refuses them.
BY_CELLS = {"mount_setattr", "setns", "sethostname", "unshare"}
# As Docker answers; after EPERM the C library would start nothing at all.
NO_CLONE3 = {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}


@test
def every_call_that_is_added_is_needed():
    profile = json.loads(pathlib.Path(PROFILE).read_text())
    for call, _ in sorted(ADDED, key=str):
        rules = [{**rule, "names": [name for name in rule["names"] if name != call]}
                 for rule in profile["syscalls"]]
        rules = [rule for rule in rules if rule["names"]]
        if call == "clone3":
            rules.append(NO_CLONE3)
        without = {**profile, "syscalls": rules}
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(without, file)
            file.flush()
            result = run([*USER, *WHOLE_PROC, "--security-opt", f"seccomp={file.name}"])
        assert result.code == 5, f"without {call}: {result}"
        assert call in BY_CELLS or "a seccomp profile" in result.error, f"without {call}: {result}"


# A world-writable file that asks for a capability when it is written.
ASKS_FOR_MORE = "/proc/sys/kernel/ns_last_pid"


@test
def the_whole_proc_is_for_root_to_write_and_for_nobody_else():
    look = ["sh", "-c", "find /proc/sys /proc/sysrq-trigger /proc/irq /proc/bus /proc/fs "
            f"-type f -writable ! -path {ASKS_FOR_MORE} 2>/dev/null; true"]
    writable = lambda container_options: docker(
        "run", "--rm", *options(*container_options), IMAGE, *look, check=True).out.split()
    assert writable(DOCUMENTED) == []
    # Why docs/containers.md warns of root: this is a way to the host.
    assert "/proc/sys/kernel/core_pattern" in writable(AS_ROOT)
    assert writable(OUR_CALLS) == []


# --- fences and ids -----------------------------------------------------------------------------

# What a container may lack: groups that we may write to, ids of its own, device nodes of its own.
MAY_LACK = {"cgroup", "cpu_meter", "swap_meter", "own_id_per_sandbox", "own_device_nodes"}


@test
def the_fences_are_those_of_a_host():
    isolation = succeeded(run(DOCUMENTED))
    assert set(isolation["missing"]) <= MAY_LACK, isolation
    for layer in ("user_namespace", "pid_namespace", "mount_namespace", "network_namespace",
                  "read_only_root", "kernel_quotas", "no_linux_caps", "seccomp", "landlock"):
        assert layer in isolation["enforced"], isolation


@test
def javascript_runs_as_well():
    succeeded(run(DOCUMENTED, HELLO_JAVASCRIPT, "javascript"))


@test
def root_with_dockers_capabilities_has_ids_and_no_devices():
    isolation = succeeded(run(AS_ROOT))
    assert "own_id_per_sandbox" in isolation["enforced"], isolation
    assert "own_device_nodes" in isolation["missing"], isolation


@test
def root_that_may_map_its_own_id_only_runs_with_one():
    isolation = succeeded(
        run(["--cap-drop", "ALL", "--cap-add", "SETFCAP", *AS_ROOT]))
    assert "own_id_per_sandbox" in isolation["missing"], isolation


@test
def root_that_may_mount_has_devices_of_its_own():
    isolation = succeeded(run(["--cap-add", "SYS_ADMIN", *AS_ROOT]))
    assert "own_device_nodes" in isolation["enforced"], isolation


# --- doctor ---------------------------------------------------------------------------------------


def doctor(*container_options):
    """What doctor says in a container: its exit code, and its report. The table goes to the log."""
    table, told = (
        docker("run", "--rm", "--init", *options(*container_options), IMAGE, "ampoule", "doctor", *more)
        for more in ([], ["--json"]))
    print(table.out)
    assert table.code == told.code, f"{table}\n{told}"
    return told.code, json.loads(told.out)


def line(report, section, name):
    """The one line of this name; its status, what was found, and the fix."""
    [check] = [check for check in report["checks"]
               if (check["section"], check["name"]) == (section, name)]
    return check["status"], check["detail"], check["fix"]


def verdicts(report):
    return {probe["layer"]: probe["verdict"] for probe in report["probes"]}


@test
def doctor_names_dockers_own_profile():
    for user in (USER, []):
        code, report = doctor(*user)
        assert code == 5 and report["probes"] == [], report
        status, detail, fix = line(report, "kernel", "user namespaces")
        assert status == "failed" and detail.startswith("seccomp_profile: "), report
        assert "docs/containers.md" in fix, report
        status, detail, fix = line(report, "fences", "sandbox")
        assert status == "failed" and "a seccomp profile" in detail, report
        assert "docs/containers.md" in fix, report


@test
def doctor_proves_every_fence_as_the_page_says():
    code, report = doctor(*DOCUMENTED, *WATCHED)
    assert code == 0, report
    assert line(report, "kernel", "user namespaces")[0] == "ok", report
    assert line(report, "kernel", "/proc")[0] == "ok", report
    found = verdicts(report)
    # Root's, who is not here.
    for layer in ("own_id_per_sandbox", "own_device_nodes"):
        assert found.pop(layer) == "absent", report
    assert len(found) > 10 and set(found.values()) == {"stopped"}, report
    assert len(report["meters"]) == 4 and all(meter["held"] for meter in report["meters"]), report


@test
def doctor_says_what_a_masked_proc_costs():
    code, report = doctor(*MASKED)
    assert code == 0, report
    found = verdicts(report)
    for layer in ("proc", "kernel_quotas"):
        assert found[layer] == "absent" and line(report, "fences", layer)[0] == "warning", report
    assert "crossed" not in found.values() and "untried" not in found.values(), report
    status, detail, fix = line(report, "kernel", "/proc")
    assert status == "warning" and detail.startswith("masked_proc: "), report
    assert "systempaths=unconfined" in fix and "--user 1000:1000" in fix, report
    # Not given up, it is a failure.
    code, report = doctor(*USER, *OUR_CALLS, *WATCHED)
    assert code == 5 and line(report, "fences", "proc")[0] == "failed", report


@test
def doctor_tells_root_what_it_may_not_do():
    code, report = doctor("--cap-drop", "ALL", *AS_ROOT, *WATCHED)
    status, detail, fix = line(report, "fences", "sandbox")
    assert code == 5 and status == "failed" and "CAP_SETFCAP" in detail and "--user" in fix, report


# --- containment and what is left ---------------------------------------------------------------


def secretive_container(*container_options):
    return container(*container_options, "--env", f"SECRET={CANARY}", "--hostname", CANARY,
                     "--volume", f"{canary_file()}:/secret:ro")


def canary_file():
    path = pathlib.Path(ENGINE) / "secret"
    path.write_text(CANARY)
    path.chmod(0o644)
    return path


@test
def a_program_sees_nothing_of_its_container():
    for container_options in (DOCUMENTED, MASKED, AS_ROOT):
        with secretive_container(*container_options) as name:
            result = docker("exec", "--interactive", name, *run_command(), given=SEARCH)
            assert result.code == 0, result
            assert CANARY not in result.out, result
            assert "sandbox" in result.answer()["value"], result


def processes(name):
    """The command lines in a container."""
    lines = docker("top", name, "-o", "pid,args", check=True).out.splitlines()[1:]
    return sorted(re.sub(r"^\s*\d+\s+", "", line) for line in lines)


@test
def nothing_is_left_in_the_container():
    with container(*[option for option in DOCUMENTED if option != "--read-only"]) as name:
        mounts = ["exec", name, "cat", "/proc/self/mountinfo"]
        look = lambda: {*docker(*mounts, check=True).out.splitlines(),
                        *docker("diff", name, check=True).out.splitlines()}
        idle, before = processes(name), look()
        for program, limits, code in (
                (HELLO, [], 0), (DAEMON, [], 0), (BUSY, ["--timeout", "1s"], 3), ("raise 1", [], 1)):
            result = docker("exec", "--interactive", name, *run_command("python", *limits),
                            given=program)
            assert result.code == code, result
            assert within(5, lambda: processes(name) == idle), processes(name)
        assert look() == before, look() ^ before
        leaks = docker("exec", name, "ampoule", "doctor", "--leaks")
        assert leaks.code == 0, leaks


@test
def a_manager_that_is_killed_leaves_nothing():
    with container(*DOCUMENTED) as name:
        idle = processes(name)
        docker("exec", "--detach", name, "sh", "-c",
               "printf 'import time\\ndef main(): time.sleep(600)\\n' | "
               "ampoule run - --lang python --timeout 5m", check=True)
        runs = lambda: [line for line in processes(name) if "runner" in line]
        assert within(10, runs), processes(name)
        docker("exec", name, "sh", "-c", "for p in /proc/[0-9]*; do "
               "tr '\\0' ' ' <$p/cmdline | grep -q '^ampoule run' && kill -9 ${p#/proc/}; done; true")
        assert within(10, lambda: processes(name) == idle), processes(name)


# --- limits -------------------------------------------------------------------------------------

LIMITS = (
    (BUSY, ["--timeout", "1s"], "time"),
    (HUNGRY, [], "memory"),
    (FORKS, ["--timeout", "30s"], "processes"),
)


def limits_hold(container_options):
    for program, limits, expected in LIMITS:
        result = run(container_options, program, limits=limits)
        assert result.code == 3, f"{expected}: {result}"
        outcome = result.answer()["outcome"]
        assert outcome == {"kind": "limit_exceeded", "limit": expected}, result


@test
def limits_hold_without_control_groups():
    limits_hold(DOCUMENTED)
    limits_hold(MASKED)


@test
def limits_hold_by_groups_that_root_may_write():
    if not os.path.exists("/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        return "control groups v1 are not mounted here"
    groups = [*AS_ROOT, "--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw"]
    assert succeeded(run(groups))["meters"] == "cgroup_v1"
    limits_hold(groups)
    left = glob.glob("/sys/fs/cgroup/*/" + os.path.basename(ENGINE) + "/*/ampoule-*")
    assert not left, left


# --- the network ----------------------------------------------------------------------------------

# Of a container that is there to be reached, with nobody else to reach.
ADDRESS, PORT = "10.99.0.1", 8080
SERVER = f"""
import http.server
http.server.HTTPServer(("{ADDRESS}", {PORT}), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
FETCH = f"""
import urllib.request
def main(): return urllib.request.urlopen("http://{ADDRESS}:{PORT}/", timeout=20).status
"""
OPEN = ["--env", "AMPOULE_NETWORK_MOST=open"]


def tun_device():
    """The options for a tun device that everybody may open; some machines keep theirs for root."""
    path = pathlib.Path(ENGINE) / "tun"
    if not path.exists():
        os.mknod(path, 0o020666, os.makedev(10, 200))
        path.chmod(0o666)
    return ["--device", f"{path}:/dev/net/tun"]


@contextlib.contextmanager
def reachable_container():
    """The options of a container's network, in which one address answers."""
    with container(*DOCUMENTED) as name:
        pid = docker("inspect", "--format", "{{.State.Pid}}", name, check=True).out.strip()
        subprocess.run(["nsenter", "--target", pid, "--net", "ip", "address", "add",
                        f"{ADDRESS}/32", "dev", "lo"], check=True)
        docker("exec", "--detach", name, "python3", "-I", "-c", SERVER, check=True)
        yield ["--network", f"container:{name}"]


@test
def a_program_has_network_access_where_there_is_a_tun_device():
    with reachable_container() as network:
        for container_options in (DOCUMENTED, MASKED, AS_ROOT):
            allowed = [*container_options, *network, *tun_device(), *OPEN]
            listed = [*allowed, "--env", f"AMPOULE_NETWORK_ALLOW={ADDRESS}:{PORT}"]
            reached = run(listed, FETCH, limits=["--network", "open"])
            assert reached.code == 0 and reached.answer()["value"] == 200, reached
            assert reached.answer()["isolation"]["network"] == "open", reached
            # The container's own addresses are closed, as a host's are.
            closed = run(allowed, FETCH, limits=["--network", "open"])
            assert closed.answer()["outcome"]["kind"] == "denied", closed


@test
def without_a_tun_device_network_access_is_refused():
    result = run([*DOCUMENTED, *OPEN], limits=["--network", "open"])
    assert result.code == 2, result
    message = result.answer()["error"]["message"]
    assert "--device /dev/net/tun" in message, result


# --- the service --------------------------------------------------------------------------------

# What a manager takes that may.
MANAGERS_ID = "1900000000"

ASK = """
import base64, json, urllib.request
body = {"code_b64": base64.b64encode(b"def main(): return 42").decode(), "language": "python"}
request = urllib.request.Request("http://127.0.0.1:9385/run", json.dumps(body).encode(),
                                 {"Content-Type": "application/json"})
print(urllib.request.urlopen(request, timeout=60).read().decode())
"""
READY = """
import urllib.error, urllib.request
try:
    print(urllib.request.urlopen("http://127.0.0.1:9385/readyz", timeout=60).status)
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
except OSError as error:
    print(error)
"""


@test
def the_service_answers_in_a_container():
    for container_options in (DOCUMENTED, AS_ROOT):
        # The service is the container's first process.
        name = docker("run", "--detach", *options(*container_options, *WATCHED), IMAGE,
                      "ampoule", "serve", check=True).out.strip()
        try:
            inside = lambda code: docker("exec", "--interactive", name, "python3", "-I", "-", given=code)
            ready = within(30, lambda: inside(READY).out.strip() == "200")
            assert ready, f"{inside(READY)}\n{docker('logs', name)}"
            owners = docker("top", name, "-o", "pid,uid,args", check=True).out.splitlines()
            own_id = MANAGERS_ID if container_options is AS_ROOT else "1000"
            assert any(line.split()[1:] == [own_id, "ampoule", "serve"] for line in owners), owners
            answer = json.loads(inside(ASK).out)
            assert answer["status"] == "success" and answer["result"]["value"] == 42, answer
            docker("stop", "--time", "20", name, check=True)
            state = json.loads(docker("inspect", name, check=True).out)[0]["State"]
            assert state["ExitCode"] == 0, f"{state}\n{docker('logs', name)}"
        finally:
            docker("rm", "--force", name)


# --- the harness --------------------------------------------------------------------------------


def attempt(function):
    """Runs one test and prints how it went: `ok`, the reason of a skip, or None."""
    began = time.monotonic()
    try:
        verdict = function() or "ok"
        mark = "ok" if verdict == "ok" else f"skipped: {verdict}"
    except Exception:
        verdict, mark = None, "FAILED\n" + traceback.format_exc(limit=-1)
    print(f"test {function.__name__} ... {mark} ({time.monotonic() - began:.1f} s)", flush=True)
    return verdict


def main():
    DATA.mkdir()
    os.chown(DATA, 1000, 1000)
    for function in CONTROLS:
        if attempt(function) != "ok":
            print("== a positive control failed: nothing else was run")
            sys.exit(1)
    verdicts = {function.__name__: attempt(function) for function in TESTS}
    allowed = pathlib.Path("tests/allowed-skips.txt").read_text()
    allowed = {line.split("#")[0].strip() for line in allowed.splitlines()}
    skipped = [name for name, verdict in verdicts.items() if verdict not in ("ok", None)]
    failed = [name for name, verdict in verdicts.items() if verdict is None]
    passed = len(CONTROLS) + len(TESTS) - len(skipped) - len(failed)
    print(f"== {passed} passed, {len(failed)} failed, {len(skipped)} skipped")
    if failed or (set(skipped) - allowed and os.environ.get("CI")):
        sys.exit(1)


if __name__ == "__main__":
    main()
