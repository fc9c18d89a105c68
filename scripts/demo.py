"""Sends the examples to a running service, as RAGFlow would, and shows what comes back.

    demo.py URL DIRECTORY

Artifacts are written into DIRECTORY. The exit code is not 0 if an example does not end as it should.
"""

import base64
import json
import os
import pathlib
import sys
import time
import urllib.request

EXAMPLES = pathlib.Path(__file__).resolve().parent.parent / "examples"

SALES = [
    ["January", "north", 120.5], ["January", "south", 80], ["February", "north", 99],
    ["February", "south", 130.25], ["March", "north", 150], ["March", "south", 142],
]


def chart_is_right(answer):
    yield answer["status"] == "success", "the status is `success`"
    value = (answer["result"] or {}).get("value")
    yield value == {"total": 721.75, "best_month": "March", "rows": 6}, "the value is as computed by hand"
    names = [artifact["name"] for artifact in answer["artifacts"]]
    yield names == ["chart.png", "sales.csv"], "both artifacts are there"
    png = [a for a in answer["artifacts"] if a["mime_type"] == "image/png"]
    yield bool(png) and base64.b64decode(png[0]["content_b64"])[:8] == b"\x89PNG\r\n\x1a\n", "the chart is a PNG"


def request_is_right(answer):
    yield answer["status"] == "success", "the status is `success`"
    value = (answer["result"] or {}).get("value") or {}
    yield value.get("answer") == {"city": "Oslo", "celsius": 21}, "axios has made and read the request"


def failure_is_right(answer):
    yield answer["status"] == "program_error", "the status is `program_error`"
    yield answer["runtime_error_type"] == "nonzero_exit", "it is the program's own doing"
    yield "ZeroDivisionError" in answer["stderr"], "the traceback is there"
    yield "first 2.0" in (answer["partial_stdout"] or ""), "what it printed before is kept"


CASES = [
    ("A pandas script that saves a chart", "chart.py", "python", {"title": "Sales by month", "sales": SALES}, chart_is_right),
    ("A Node.js script with axios", "request.js", "nodejs", {"city": "Oslo"}, request_is_right),
    ("A script that fails", "failing.py", "python", {}, failure_is_right),
]


def api_token():
    """The token of the service, which was started with the same environment and then asks for it."""
    # As there: ours wins where both are set.
    ours, contract = "AMPOULE_AUTH_API_TOKEN", "SANDBOX_EXECUTOR_MANAGER_API_TOKEN"
    token = os.environ.get(ours) or os.environ.get(contract) or ""
    if not token.strip() and (file := os.environ.get("AMPOULE_AUTH_API_TOKEN_FILE")):
        token = pathlib.Path(file).read_text()
    return token.strip()


def post(url, body):
    headers = {"Content-Type": "application/json"}
    if token := api_token():
        headers["X-Sandbox-Token"] = token
    request = urllib.request.Request(url + "/run", json.dumps(body).encode(), headers)
    # A proxy of this machine's has nothing to do with the service on it.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    began = time.perf_counter()
    with opener.open(request, timeout=120) as response:
        answer = json.load(response)
    return answer, (time.perf_counter() - began) * 1000


def show(name, text):
    lines = str(text).rstrip("\n").split("\n")
    print(f"  {name:<10}{lines[0]}")
    for line in lines[1:]:
        print(f"  {'':<10}{line}")


def save(artifacts, directory):
    for artifact in artifacts:
        # The service lets no other names through; a client had better not rely on it.
        path = directory / pathlib.PurePath(artifact["name"]).name
        path.write_bytes(base64.b64decode(artifact["content_b64"]))
        show("artifact", f"{artifact['name']} ({artifact['mime_type']}, {artifact['size']} bytes) -> {path}")


def run(url, directory, title, file, language, arguments, is_right):
    print(f"\n{title} (examples/{file})")
    code = (EXAMPLES / file).read_bytes()
    body = {"code_b64": base64.b64encode(code).decode(), "language": language, "arguments": arguments}
    answer, took = post(url, body)
    show("status", f"{answer['status']} (exit code {answer['exit_code']})")
    if answer["result"]:
        show("value", json.dumps(answer["result"]["value"], ensure_ascii=False))
    printed = answer["stdout"] or answer.get("partial_stdout")
    if printed:
        show("stdout", printed)
    if answer["stderr"]:
        show("stderr", answer["stderr"])
    memory = answer["memory_used_kb"]
    show("used", f"{answer['time_used_ms'] or 0:.0f} ms of the run's clock, {took:.0f} ms with HTTP and set-up, "
         + (f"{memory / 1024:.0f} MiB of memory" if memory else "memory unknown"))
    save(answer["artifacts"], directory)
    wrong = [what for holds, what in is_right(answer) if not holds]
    for what in wrong:
        show("WRONG", f"expected that {what}")
    if not wrong:
        show("check", "as it should be")
    return not wrong


def main():
    url, directory = sys.argv[1], pathlib.Path(sys.argv[2])
    directory.mkdir(parents=True, exist_ok=True)
    right = [run(url, directory, *case) for case in CASES]
    print(f"\n== {sum(right)} of {len(right)} examples ended as they should")
    sys.exit(0 if all(right) else 1)


if __name__ == "__main__":
    main()
