//! What each act is in JavaScript.

use super::{PORT, quote};
use crate::conformance::act::Act;

pub(super) fn statements(act: &Act) -> Option<String> {
    let source = match act {
        Act::Stdout(text) => format!("process.stdout.write({});", quote(text)),
        Act::Stderr(text) => format!("process.stderr.write({});", quote(text)),
        Act::Bytes(bytes) => format!("fs.writeSync(1, Buffer.from({bytes:?}));"),
        Act::Pause(milliseconds) => {
            format!("await new Promise(done => setTimeout(done, {milliseconds}));")
        }
        Act::Hang => "await new Promise(done => setTimeout(done, 600000));".to_owned(),
        Act::Return(json) => format!("return JSON.parse({});", quote(json)),
        Act::ReturnArguments => "return given;".to_owned(),
        Act::Raise(message) => format!("throw new TypeError({});", quote(message)),
        Act::Exit(code) => format!("process.exit({code});"),
        Act::Kill(signal) => format!("process.kill(process.pid, {signal}); for (;;);"),
        Act::Artifact(name, text) => {
            format!("fs.writeFileSync('artifacts/' + {}, {});", quote(name), quote(text))
        }
        Act::Allocate => {
            "const taken = []; for (;;) taken.push(Buffer.alloc(1 << 20, 1));".to_owned()
        }
        Act::AtExit(text) => format!("process.on('exit', () => fs.writeSync(1, {}));", quote(text)),
        Act::Descriptors(bytes) => format!(
            "for (let descriptor = 3; descriptor < 64; descriptor++) {{ try {{ fs.writeSync(descriptor, Buffer.from({bytes:?})) }} catch {{}} }}"
        ),
        Act::Child(word) => format!(
            "await new Promise(done => require('child_process').spawn(process.execPath, ['-e', 'process.on(\"SIGTERM\", () => {{}}); setTimeout(() => {{}}, 60000)', {}], {{detached: true, stdio: 'ignore'}}).on('spawn', done));",
            quote(word)
        ),
        Act::LeaveTraces(word) => leave(&quote(word)),
        Act::ReturnTraces(word) => seek(&quote(word)),
        Act::FailPlatform => return None,
    };
    Some(source)
}

pub(super) fn program(statements: &[String]) -> String {
    let mut program =
        "const fs = require('fs'), net = require('net');\nasync function main(given) {\n"
            .to_owned();
    for line in statements.iter().flat_map(|statements| statements.lines()) {
        program.push_str(&format!("  {line}\n"));
    }
    program.push_str("}\n");
    program
}

fn leave(word: &str) -> String {
    format!(
        "globalThis.trace = {word};
process.env.TRACE = {word};
for (const place of ['.', '/tmp', '/var/tmp', '/dev/shm', '/run']) {{ try {{ fs.writeFileSync(place + '/' + {word}, '') }} catch {{}} }}
for (const where of [{{path: '\\0' + {word}}}, {{host: '127.0.0.1', port: {PORT}}}]) {{
  await new Promise(done => net.createServer().on('error', done).listen(where, done).unref());
}}"
    )
}

fn seek(word: &str) -> String {
    format!(
        "const seen = [];
if (globalThis.trace === {word}) seen.push('module');
if (Object.values(process.env).includes({word})) seen.push('environment');
for (const place of ['.', '/tmp', '/var/tmp', '/dev/shm', '/run']) {{ if (fs.existsSync(place + '/' + {word})) seen.push('file in ' + place) }}
for (const process of fs.readdirSync('/proc').filter(name => Number(name))) {{
  try {{ if (fs.readFileSync('/proc/' + process + '/cmdline', 'utf8').includes({word})) seen.push('process') }} catch {{}}
}}
for (const where of [{{path: '\\0' + {word}}}, {{host: '127.0.0.1', port: {PORT}}}]) {{
  await new Promise(done => {{
    const socket = net.connect(where, () => {{ seen.push('socket'); socket.destroy(); done() }}).on('error', done);
  }});
}}
return seen;"
    )
}
