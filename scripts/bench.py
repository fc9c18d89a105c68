"""Measures, in one interleaved run, what a sandboxed run costs beside a bare interpreter.

    bench.py --binary AMPOULE --url URL [--rounds 100] [--json FILE]

Every round measures each case once, in an order that moves on by one each round, so that what else
the machine does falls on all of them alike. The bare interpreters get an empty environment: extra
certificates for Node.js, or files of a version manager's Python, would make them slow and us look
fast. `POST /run` goes over one keep-alive connection to a running service.
"""

import argparse
import base64
import http.client
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time
import urllib.parse

PYTHON_SOURCE = "def main():\n    return 1\n"
NODE_SOURCE = "function main() { return 1 }\n"
CLEAN = {"PATH": "/usr/bin:/bin"}


def spawn(path, arguments, environment):
    """Runs a program to its end, with nothing on its standard streams."""
    null = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1, 2)]
    pid = os.posix_spawn(path, [path, *arguments], environment, file_actions=null)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code != 0:
        raise SystemExit(f"`{path} {' '.join(arguments)}` ended with {code}")


def api_token():
    """The token of the service, which was started with the same environment and then asks for it."""
    # As there: ours wins where both are set.
    ours, contract = "AMPOULE_AUTH_API_TOKEN", "SANDBOX_EXECUTOR_MANAGER_API_TOKEN"
    token = os.environ.get(ours) or os.environ.get(contract) or ""
    if not token.strip() and (file := os.environ.get("AMPOULE_AUTH_API_TOKEN_FILE")):
        token = pathlib.Path(file).read_text()
    return token.strip()


class Service:
    """`POST /run` over one connection."""

    def __init__(self, url):
        parts = urllib.parse.urlsplit(url)
        self.connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
        self.headers = {"Content-Type": "application/json"}
        if token := api_token():
            self.headers["X-Sandbox-Token"] = token

    def run(self, language, source):
        code = base64.b64encode(source.encode()).decode()
        body = json.dumps({"code_b64": code, "language": language, "arguments": {}})

        def once():
            self.connection.request("POST", "/run", body, self.headers)
            answer = json.loads(self.connection.getresponse().read())
            if answer["status"] != "success" or answer["result"]["value"] != 1:
                raise SystemExit(f"`POST /run` of {language} answered {answer}")

        return once


def first(*paths):
    return next((path for path in paths if os.access(path, os.X_OK)), None)


def cases(options, scratch):
    python = first(os.environ.get("AMPOULE_PYTHON_BIN") or "", "/usr/bin/python3")
    node = first(os.environ.get("AMPOULE_NODE_BIN") or "", "/usr/bin/node", "/usr/local/bin/node")
    if not python or not node:
        raise SystemExit("bench: needs /usr/bin/python3 and /usr/bin/node, or AMPOULE_PYTHON_BIN and AMPOULE_NODE_BIN")
    script_py, script_js = scratch / "main.py", scratch / "main.js"
    script_py.write_text(PYTHON_SOURCE)
    script_js.write_text(NODE_SOURCE)
    # What `ampoule` itself reads, and nothing else.
    ours = CLEAN | {k: v for k, v in os.environ.items() if k.startswith("AMPOULE_")}
    service = Service(options.url)

    def bare(path, *arguments):
        return lambda: spawn(path, arguments, CLEAN)

    def command(script):
        return lambda: spawn(options.binary, ["run", str(script)], ours)

    # name, what it is compared with, how to measure it once
    return [
        ("python3 -I -B -c pass", None, bare(python, "-I", "-B", "-c", "pass")),
        ("python3 -I -S -c pass", None, bare(python, "-I", "-S", "-c", "pass")),
        ("POST /run, python", "python3 -I -S -c pass", service.run("python", PYTHON_SOURCE)),
        ("ampoule run main.py", "python3 -I -S -c pass", command(script_py)),
        ("node -e 0", None, bare(node, "-e", "0")),
        ("POST /run, nodejs", "node -e 0", service.run("nodejs", NODE_SOURCE)),
        ("ampoule run main.js", "node -e 0", command(script_js)),
    ]


def measure(listed, rounds):
    times = {name: [] for name, _, _ in listed}
    for round_number in range(-3, rounds):  # the first three only warm the caches
        start = round_number % len(listed)
        for name, _, once in listed[start:] + listed[:start]:
            began = time.perf_counter()
            once()
            took = (time.perf_counter() - began) * 1000
            if round_number >= 0:
                times[name].append(took)
        if sys.stderr.isatty() or round_number % 25 == 0:
            end = "\r" if sys.stderr.isatty() else "\n"
            print(f"round {max(round_number, 0)} of {rounds}", end=end, file=sys.stderr, flush=True)
    return times


def percentile(sorted_times, share):
    return sorted_times[min(len(sorted_times) - 1, int(len(sorted_times) * share))]


def report(listed, times):
    medians = {name: statistics.median(values) for name, values in times.items()}
    rows = []
    for name, baseline, _ in listed:
        values = sorted(times[name])
        rows.append({
            "name": name, "n": len(values), "min_ms": values[0], "median_ms": medians[name],
            "p99_ms": percentile(values, 0.99), "baseline": baseline,
            "ratio_of_medians": medians[name] / medians[baseline] if baseline else None,
        })
    return rows


def print_table(rows):
    print(f"{'':<24}{'n':>5}{'min':>9}{'median':>9}{'p99':>9}   ratio of medians")
    for row in rows:
        ratio = f"{row['ratio_of_medians']:.2f} x `{row['baseline']}`" if row["baseline"] else "(bare)"
        print(f"{row['name']:<24}{row['n']:>5}{row['min_ms']:>9.2f}{row['median_ms']:>9.2f}{row['p99_ms']:>9.2f}   {ratio}")
    print("milliseconds; with fewer than 200 rounds p99 is little more than the maximum")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--json", type=pathlib.Path)
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds: at least 1")
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        listed = cases(options, pathlib.Path(scratch))
        times = measure(listed, options.rounds)
    rows = report(listed, times)
    machine = {
        "cpus": os.cpu_count(), "kernel": os.uname().release, "architecture": os.uname().machine,
        "load_before": before, "load_after": os.getloadavg()[0],
    }
    print_table(rows)
    print(f"{machine['cpus']} CPUs, kernel {machine['kernel']}, load {before:.2f} before and {machine['load_after']:.2f} after")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "cases": rows, "times_ms": times}, indent=1) + "\n")
        print(f"written to {options.json}")


if __name__ == "__main__":
    main()
