"""Control groups v2 on this machine's kernel, by real programs through the real command; asked in the
kernel's own tables, and not in our report, wherever that is possible."""

import base64
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time
import unittest
import urllib.error
import urllib.request

GROUPS = pathlib.Path("/sys/fs/cgroup")
TRACING = pathlib.Path("/sys/kernel/tracing")
DATA = f"AMPOULE_DATA_DIR={os.environ['AMPOULE_DATA_DIR']}"
MIB = 1 << 20

# A service with a subtree of its own is how an administrator starts one; as root, as an ordinary user.
SERVICE = ["systemd-run", "--quiet", "--pipe", "--wait", "--property=Delegate=yes", f"--setenv={DATA}"]


def logged_in(user, *command):
    """A command of somebody who has logged in: in a session's scope, with nothing delegated."""
    return ["runuser", "-l", user, "-c", shlex.join(["env", DATA, *command])]


class Run:
    """A program that is started as somebody, and what is said of it."""

    def __init__(self, how, code, *options):
        command = how("ampoule", "run", "-", "--lang", "python", "--json", *options)
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.process.stdin.write(code)
        self.process.stdin.close()
        self.process.stdin = None

    def end(self):
        """Ends it if nobody else has."""
        self.process.kill()
        self.process.communicate()

    def answer(self):
        """The report; `took` is how long the program ran, in seconds."""
        out, err = self.process.communicate(timeout=120)
        try:
            answer = json.loads(out)
        except ValueError:
            raise AssertionError(f"no report, exit code {self.process.returncode}: {out}{err}") from None
        if answer["error"]:
            raise AssertionError(answer["error"])
        answer["took"] = answer["usage"]["wall_us"] / 1e6
        return answer


def groups_of_ours():
    """Every group that a manager has made, by walking the kernel's tree, in which others come and go."""
    return [pathlib.Path(path) for path, _, _ in os.walk(GROUPS) if "/ampoule-" in path]


def group_of_a_run():
    """The group of the one run that is on."""
    for _ in range(200):
        found = [path for path in groups_of_ours() if re.fullmatch(r"\d+-\d+", path.name) and members(path)]
        if found:
            (group,) = found
            return group
        time.sleep(0.2)
    raise AssertionError("no run's group has appeared")


def wait_until(what, holds, seconds=30):
    """Waits until the machine agrees."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError(f"gave up waiting: {what}")


def read(group, name):
    return (group / name).read_text().strip()


def members(group):
    """The processes in a group."""
    return [int(pid) for pid in read(group, "cgroup.procs").split()]


def processes_named(name):
    """The processes with a name, as far as the kernel keeps it."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/comm"):
        try:
            if path.read_text().strip() == name[:15]:
                found.append(int(path.parent.name))
        except OSError:
            pass  # It has ended.
    return found


ALLOCATOR = """
def main():
    kept = []
    while len(kept) < 2048:
        kept.append(b'x' * (1 << 20))
"""
ALLOCATORS = """
import os, time
def main():
    for _ in range(3):
        if os.fork() == 0:
            time.sleep(600)
    kept = []
    while True:
        kept.append(b'x' * (1 << 20))
"""
FORK_TREE = """
import os, time
def main():
    while True:
        if os.fork() == 0:
            time.sleep(600)
"""
BUSY = """
def main():
    while True:
        pass
"""
SLEEP = """
import os, time
def main():
    os.fork()
    time.sleep(600)
"""
# What there is of it: the cell's first process, the program and its child.
SLEEPERS = 3
HELLO = "def main(): return 'hello'"
# How many fences doctor knows, at least.
FENCES = 18

# What stops what: a program and the limit that has to be told.
STOPPED = {
    "2 GB allocator": (ALLOCATOR, "memory", "60s"),
    "fork tree": (FORK_TREE, "processes", "60s"),
    "busy loop": (BUSY, "time", "3s"),
    "sleep": (SLEEP, "time", "3s"),
}
TABLE = []


class Meters:
    """What holds on control groups v2, whoever starts the run."""

    # The layers that are not had: only root can give them.
    lacks = set()

    @staticmethod
    def how(*command):
        raise NotImplementedError

    def start(self, code, *options):
        run = Run(self.how, code, *options)
        self.addCleanup(run.end)
        return run

    def start_sleeping(self, *options):
        """A run that sleeps, and its group."""
        run = self.start(SLEEP, *options)
        group = group_of_a_run()
        wait_until("the program runs", lambda: len(members(group)) == SLEEPERS)
        return run, group

    def run_one(self, code, *options):
        return self.start(code, *options).answer()

    def tearDown(self):
        wait_until("every group is gone", lambda: not groups_of_ours())
        leaks = subprocess.run(["ampoule", "doctor", "--leaks"], capture_output=True, text=True, check=False)
        self.assertEqual((leaks.returncode, leaks.stdout), (0, "no leaks\n"), leaks)

    def test_the_answer_names_the_meters(self):
        answer = self.run_one(HELLO)
        self.assertEqual(answer["value"], "hello")
        self.assertEqual(answer["isolation"]["meters"], "cgroup_v2")
        self.assertEqual(answer["evidence"]["meters"], "cgroup_v2")
        for layer in ("cpu_meter", "swap_meter"):
            self.assertIn(layer, answer["isolation"]["enforced"])
        # What is left is not the meters' business.
        self.assertEqual(set(answer["isolation"]["missing"]), self.lacks)
        self.assertGreater(answer["usage"]["memory_peak"], MIB)
        self.assertGreater(answer["usage"]["cpu_us"], 0)

    def test_the_kernel_holds_the_limits_that_were_asked_for(self):
        run, group = self.start_sleeping("--memory", "300m", "--timeout", "4s")
        self.assertEqual(read(group, "memory.max"), str(300 * MIB))
        self.assertEqual(read(group, "memory.oom.group"), "1")
        # One more than the program's: the cell's first process.
        self.assertEqual(read(group, "pids.max"), "65")
        quota, period = map(int, read(group, "cpu.max").split())
        self.assertEqual(period, 100_000)
        self.assertGreaterEqual(quota, 10_000)
        if (group / "memory.swap.max").exists():
            self.assertEqual(read(group, "memory.swap.max"), "0")
        run.answer()

    def test_all_processes_of_a_run_are_in_its_group_and_no_other(self):
        run, group = self.start_sleeping("--timeout", "4s")
        self.assertEqual(set(processes_named("ampoule-cell")) - set(members(group)), set())
        # The launcher, which is above them, is not: it stays in the group of who started it.
        (launcher,) = processes_named("ampoule-launcher")
        self.assertNotIn(launcher, members(group))
        run.answer()

    def test_memory_beyond_the_limit_ends_the_whole_tree(self):
        answer = self.run_one(ALLOCATORS, "--memory", "128m", "--timeout", "60s")
        self.assertEqual(answer["outcome"], {"kind": "limit_exceeded", "limit": "memory"})
        memory = answer["evidence"]["memory"]
        # The kernel kills one for room. With memory.oom.group it kills the others too, and counts those
        # that are not on their way already because the cell's first process has ended.
        self.assertGreaterEqual(memory["oom_kills"], 2)
        self.assertGreater(memory["peak"], memory["limit"] * 4 // 5)
        self.assertLessEqual(memory["peak"], memory["limit"])

    def test_each_is_stopped_by_its_limit(self):
        for name, (code, limit, wall) in STOPPED.items():
            with self.subTest(name):
                answer = self.run_one(code, "--timeout", wall)
                self.assertEqual(answer["outcome"], {"kind": "limit_exceeded", "limit": limit})
                evidence = answer["evidence"]
                if limit == "memory":
                    self.assertGreater(evidence["memory"]["oom_kills"], 0)
                if limit == "processes":
                    self.assertGreater(evidence["processes"]["refused"], 0)
                    self.assertLessEqual(evidence["processes"]["peak"], evidence["processes"]["limit"])
                TABLE.append((type(self).__name__, name, limit, answer))

    def test_cpu_bandwidth_is_bounded(self):
        # Two CPUs and four spinning processes; the default is one CPU.
        code = """
import os, time
def main():
    end = time.monotonic() + 3
    for _ in range(3):
        if os.fork() == 0:
            while time.monotonic() < end: pass
            os._exit(0)
    while time.monotonic() < end: pass
    return 1
"""
        usage = self.run_one(code)["usage"]
        self.assertGreater(usage["cpu_us"], 0)
        self.assertLess(usage["cpu_us"], usage["wall_us"] * 1.25, usage)

    def test_doctor_tries_every_fence_and_meter_and_all_hold(self):
        ended = subprocess.run(
            self.how("ampoule", "doctor", "--json"), capture_output=True, text=True, timeout=240, check=False
        )
        report = json.loads(ended.stdout)
        failed = [check for check in report["checks"] if check["status"] == "failed"]
        self.assertEqual((ended.returncode, report["ok"], failed), (0, True, []), ended.stderr)
        verdicts = {probe["layer"]: probe["verdict"] for probe in report["probes"]}
        self.assertGreaterEqual(len(verdicts), FENCES)
        expected = {layer: "absent" if layer in self.lacks else "stopped" for layer in verdicts}
        self.assertEqual(verdicts, expected, report["probes"])
        self.assertLessEqual(self.lacks, set(verdicts))
        meters = {row["limit"]: (row["held"], row["meters"]) for row in report["meters"]}
        limits = ("memory", "processes", "cpu", "time")
        self.assertEqual(meters, dict.fromkeys(limits, (True, "cgroup_v2")), report["meters"])

    def test_processes_are_born_in_their_group(self):
        # A process that moves into a group fires this event, and one that is born in it does not.
        event = TRACING / "events/cgroup/cgroup_attach_task"
        made = TRACING / "events/cgroup/cgroup_mkdir"
        (TRACING / "trace").write_text("")
        try:
            for switch in (event, made):
                (switch / "enable").write_text("1")
            self.assertEqual(self.run_one(HELLO)["value"], "hello")
        finally:
            for switch in (event, made):
                (switch / "enable").write_text("0")
        lines = (TRACING / "trace").read_text().splitlines()
        into_a_run = re.compile(r"path=\S*/ampoule-[^/ ]+/\d+-\d+")
        self.assertTrue([line for line in lines if "cgroup_mkdir:" in line and into_a_run.search(line)], lines)
        moves = [line for line in lines if "cgroup_attach_task:" in line]
        # The control: systemd has moved somebody, so that the event works.
        self.assertTrue(moves)
        self.assertEqual([line for line in moves if into_a_run.search(line)], [])

    def test_a_run_is_ended_by_the_kill_of_its_group(self):
        (TRACING / "trace").write_text("")
        (TRACING / "kprobe_events").write_text("p:ampoule/kill cgroup_kill_write")
        switch = TRACING / "events/ampoule/kill/enable"
        try:
            switch.write_text("1")
            self.run_one(SLEEP, "--timeout", "1s")
            lines = (TRACING / "trace").read_text().splitlines()
        finally:
            switch.write_text("0")
            (TRACING / "kprobe_events").write_text("")
        self.assertTrue([line for line in lines if "ampoule-launch" in line], lines)

    def test_a_frozen_run_ends_in_time(self):
        # The whole group is frozen: nobody in it can do anything towards its end.
        run, group = self.start_sleeping("--timeout", "5s")
        (group / "cgroup.freeze").write_text("1")
        answer = run.answer()
        self.assertEqual(answer["outcome"], {"kind": "limit_exceeded", "limit": "time"})
        self.assertLess(answer["took"], 20)

    def test_a_killed_command_leaves_nothing(self):
        for victim in ("ampoule", "ampoule-launcher", "ampoule-keeper"):
            with self.subTest(victim):
                run, group = self.start_sleeping()
                pids = members(group)
                (pid,) = processes_named(victim)
                os.kill(pid, signal.SIGKILL)
                run.process.communicate(timeout=60)
                wait_until("they are gone", lambda: not any(pathlib.Path(f"/proc/{pid}").exists() for pid in pids))
                self.tearDown()


ROOTS = {"own_id_per_sandbox", "own_device_nodes"}


class Root(Meters, unittest.TestCase):
    """Root, in a service of its own."""

    @staticmethod
    def how(*command):
        return [*SERVICE, *command]


class DelegatedUser(Meters, unittest.TestCase):
    """An ordinary user, in a service with `Delegate=yes`."""

    lacks = ROOTS

    @staticmethod
    def how(*command):
        return [*SERVICE, "--uid=plain", *command]


class AloneUser(Meters, unittest.TestCase):
    """An ordinary user who has logged in, and nothing else: ampoule gets a scope from the user's own
    service manager."""

    lacks = ROOTS

    @staticmethod
    def how(*command):
        return logged_in("keeps", *command)


class Elsewhere(unittest.TestCase):
    """Other ways to start, that lead to the same meters."""

    def test_a_scope_of_a_user_is_divided(self):
        scope = ["systemd-run", "--user", "--quiet", "--scope", "--property=Delegate=yes"]
        answer = Run(lambda *given: logged_in("keeps", *scope, *given), HELLO).answer()
        self.assertEqual((answer["value"], answer["isolation"]["meters"]), ("hello", "cgroup_v2"))

    def test_root_in_a_shell_gets_a_scope_and_leaves_none(self):
        answer = Run(lambda *given: logged_in("root", *given), HELLO).answer()
        self.assertEqual((answer["value"], answer["isolation"]["meters"]), ("hello", "cgroup_v2"))
        listed = ["systemctl", "list-units", "--all", "--plain", "--no-legend", "ampoule-*"]
        units = lambda: subprocess.run(listed, capture_output=True, text=True, check=True).stdout
        wait_until("the scope is gone", lambda: units() == "")


class Served(unittest.TestCase):
    """The service, as systemd starts it for an ordinary user."""

    @staticmethod
    def ask(path, body=None):
        """The status and the answer; nothing while nobody listens."""
        request = urllib.request.Request(f"http://127.0.0.1:9385{path}", data=body and json.dumps(body).encode())
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, None
        except OSError:
            return None, None

    def test_a_service_is_ready_and_its_runs_are_stopped_by_their_groups(self):
        unit = "served-by-a-test"
        delegated = ["--property=Delegate=yes", "--uid=plain", "--property=StateDirectory=served", f"--unit={unit}"]
        subprocess.run(
            ["systemd-run", "--quiet", "--collect", *delegated, "--setenv=AMPOULE_DATA_DIR=/var/lib/served",
             "ampoule", "serve"],
            check=True,
        )
        try:
            # Every fence is tried and every example is run before it is ready.
            wait_until("the service is ready", lambda: self.ask("/readyz")[0] == 200, 120)
            for name in ("2 GB allocator", "fork tree"):
                program, limit, _ = STOPPED[name]
                body = {"code_b64": base64.b64encode(program.encode()).decode(), "language": "python"}
                code, answer = self.ask("/run", body)
                self.assertEqual((code, answer["status"]), (200, "resource_limit_exceeded"), answer)
                self.assertEqual(answer["resource_limit_type"], limit)
                self.assertEqual(answer["isolation"]["meters"], "cgroup_v2")
        finally:
            subprocess.run(["systemctl", "stop", unit], check=True)
        wait_until("every group is gone", lambda: not groups_of_ours())
        self.assertEqual(processes_named("ampoule"), [])


class Watched(unittest.TestCase):
    """A user who has nothing: no session, no service manager, no group. The watch counts."""

    @staticmethod
    def how(*command):
        # A user of the system's, who never logs in.
        return ["runuser", "-u", "games", "--", "env", DATA, *command]

    def test_the_watch_stops_each_and_says_so(self):
        for name, (code, limit, wall) in STOPPED.items():
            with self.subTest(name):
                answer = Run(self.how, code, "--timeout", wall).answer()
                self.assertEqual(answer["outcome"], {"kind": "limit_exceeded", "limit": limit})
                self.assertEqual(answer["evidence"]["meters"], "watch")
                self.assertIn("cgroup", answer["isolation"]["missing"])
                TABLE.append((type(self).__name__, name, limit, answer))


class Hurdles(unittest.TestCase):
    """What stands in the way is told by its name, with what removes it."""

    def test_user_namespaces_that_are_off_are_told_by_their_sysctl(self):
        for sysctl in ("kernel.unprivileged_userns_clone", "user.max_user_namespaces"):
            with self.subTest(sysctl):
                knob = pathlib.Path("/proc/sys", *sysctl.split("."))
                before = knob.read_text()
                knob.write_text("0")
                try:
                    command = logged_in("keeps", "ampoule", "run", "-", "--lang", "python")
                    ended = subprocess.run(command, input=HELLO, capture_output=True, text=True, check=False)
                finally:
                    knob.write_text(before)
                self.assertEqual(ended.returncode, 5, ended)
                self.assertIn(f"the sysctl {sysctl}", ended.stderr)
                self.assertIn(f"hint: as root: `sysctl -w {sysctl}=", ended.stderr)


class DelegatedShell(unittest.TestCase):
    """A shell that stands in the delegated group itself."""

    def test_others_in_a_delegated_group_make_room(self):
        for user in ("root", "plain"):
            with self.subTest(user):
                twice = "cat >/tmp/code; for _ in 1 2; do ampoule run - --lang python --json </tmp/code || exit; done"
                ended = subprocess.run(
                    [*SERVICE, f"--uid={user}", "--property=PrivateTmp=yes", "sh", "-c", twice],
                    input=HELLO, capture_output=True, text=True, check=False,
                )
                answers = [json.loads(line) for line in ended.stdout.splitlines()]
                self.assertEqual(len(answers), 2, ended)
                for answer in answers:
                    self.assertEqual((answer["value"], answer["isolation"]["meters"]), ("hello", "cgroup_v2"))

    def test_a_group_that_is_not_delegated_is_left_alone(self):
        script = "sleep 2 & cat >/tmp/code; ampoule run - --lang python --json </tmp/code; cat /proc/self/cgroup"
        command = [part for part in SERVICE if "Delegate" not in part]
        ended = subprocess.run(
            [*command, "--property=PrivateTmp=yes", "sh", "-c", script],
            input=HELLO, capture_output=True, text=True, check=False,
        )
        self.assertNotIn("ampoule.manager", ended.stdout, ended)


def show(title, command):
    """Prints what a command says, for people."""
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    print(f"-- {title} (exit code {said.returncode})\n{said.stdout}{said.stderr}")


def main():
    program = unittest.main(exit=False, verbosity=2, warnings="ignore")
    print("\n| started as | program | stopped by its limit of | meters | after |\n| --- | --- | --- | --- | ---: |")
    for who, name, limit, answer in TABLE:
        print(f"| {who} | {name} | {limit} | {answer['evidence']['meters']} | {answer['took']:.2f} s |")
    pathlib.Path("/tmp/hello.py").write_text(HELLO)
    for user in ("root", "keeps"):
        show(f"`ampoule run` of {user} in a login shell", logged_in(user, "ampoule", "run", "/tmp/hello.py"))
        show(f"`ampoule doctor` of {user}", logged_in(user, "ampoule", "doctor"))
    sys.exit(not program.result.wasSuccessful())


if __name__ == "__main__":
    main()
