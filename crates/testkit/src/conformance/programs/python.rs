//! What each act is in Python.

use super::{PORT, quote};
use crate::conformance::act::Act;

/// Opens what every run sees of the host's tree and tries to lock it.
const LOCKABLE: &str = "('/usr/bin/env', '/usr/lib', '/dev/null')";

pub(super) fn statements(act: &Act) -> Option<String> {
    let source = match act {
        Act::Stdout(text) => format!("sys.stdout.write({})\nsys.stdout.flush()", quote(text)),
        Act::Stderr(text) => format!("sys.stderr.write({})\nsys.stderr.flush()", quote(text)),
        Act::Bytes(bytes) => format!("os.write(1, bytes({bytes:?}))"),
        Act::Pause(milliseconds) => format!("time.sleep({milliseconds} / 1000)"),
        Act::Hang => "while True: time.sleep(60)".to_owned(),
        Act::Return(json) => format!("return json.loads({})", quote(json)),
        Act::ReturnArguments => "return arguments".to_owned(),
        Act::Raise(message) => format!("raise ValueError({})", quote(message)),
        Act::Exit(code) => format!("os._exit({code})"),
        Act::Kill(signal) => format!("os.kill(os.getpid(), {signal})\ntime.sleep(60)"),
        Act::Artifact(name, text) => format!(
            "with open(os.path.join('artifacts', {}), 'w') as file: file.write({})",
            quote(name),
            quote(text)
        ),
        Act::Allocate => "taken = []\nwhile True: taken.append(bytearray(1 << 20))".to_owned(),
        Act::AtExit(text) => {
            format!("import atexit\natexit.register(lambda: os.write(1, {}.encode()))", quote(text))
        }
        Act::Descriptors(bytes) => format!(
            "for descriptor in range(3, 64):\n  try: os.write(descriptor, bytes({bytes:?}))\n  except OSError: pass"
        ),
        Act::Child(word) => format!(
            "import subprocess\nsubprocess.Popen([sys.executable, '-c', 'import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)', {}], start_new_session=True)",
            quote(word)
        ),
        Act::LeaveTraces(word) => leave(&quote(word)),
        Act::ReturnTraces(word) => seek(&quote(word)),
        Act::FailPlatform => return None,
    };
    Some(source)
}

pub(super) fn program(statements: &[String]) -> String {
    let mut program = "import json, os, sys, time\ndef main(**arguments):\n".to_owned();
    for line in statements.iter().flat_map(|statements| statements.lines()) {
        program.push_str(&format!("  {line}\n"));
    }
    program
}

fn leave(word: &str) -> String {
    format!(
        "import builtins, fcntl, socket
word, builtins.kept = {word}, []
builtins.trace = word
os.environ['TRACE'] = word
for place in ('.', '/tmp', '/var/tmp', '/dev/shm', '/run'):
  try: open(os.path.join(place, word), 'w').close()
  except OSError: pass
for address in ((socket.AF_UNIX, '\\0' + word), (socket.AF_INET, ('127.0.0.1', {PORT}))):
  try:
    listener = socket.socket(address[0])
    listener.bind(address[1])
    listener.listen()
    builtins.kept.append(listener)
  except OSError: pass
for place in {LOCKABLE}:
  try:
    file = open(os.open(place, os.O_RDONLY), 'rb', buffering=0, closefd=False)
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    builtins.kept.append(file)
  except OSError: pass"
    )
}

fn seek(word: &str) -> String {
    format!(
        "import builtins, fcntl, socket
word, seen = {word}, []
if getattr(builtins, 'trace', None) == word: seen.append('module')
if word in os.environ.values(): seen.append('environment')
for place in ('.', '/tmp', '/var/tmp', '/dev/shm', '/run'):
  if os.path.exists(os.path.join(place, word)): seen.append('file in ' + place)
for process in [name for name in os.listdir('/proc') if name.isdigit()]:
  try:
    if word.encode() in open('/proc/' + process + '/cmdline', 'rb').read(): seen.append('process')
  except OSError: pass
for address in ((socket.AF_UNIX, '\\0' + word), (socket.AF_INET, ('127.0.0.1', {PORT}))):
  try:
    socket.socket(address[0]).connect(address[1])
    seen.append('socket')
  except OSError: pass
for place in {LOCKABLE}:
  try: fcntl.flock(os.open(place, os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError: seen.append('lock on ' + place)
  except OSError: pass
return seen"
    )
}
