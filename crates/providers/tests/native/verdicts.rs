//! Every kind of end, told by evidence; and what a program can say or do to look like another. What
//! is so for every provider is in the conformance suite, and not here again.

use std::{sync::Arc, time::Duration};

use ampoule_core::{Denial, LimitKind, Limits, Outcome};
use ampoule_testkit::{Failure, Suite};

use crate::rig::{Rig, limits};

/// A program in Python and how it must end.
struct Case {
    name: &'static str,
    code: &'static str,
    ends: fn(&Outcome) -> bool,
}

fn signalled(outcome: &Outcome, number: i32) -> bool {
    matches!(outcome, Outcome::Failed { exit_code: None, signal: Some(got), .. } if *got == number)
}

fn error(outcome: &Outcome, kind: &str) -> bool {
    matches!(outcome, Outcome::Failed { error: Some(error), .. } if error.kind == kind)
}

fn exceeded(outcome: &Outcome, kind: LimitKind) -> bool {
    *outcome == Outcome::LimitExceeded { limit: kind }
}

const PYTHON: [Case; 17] = [
    Case {
        name: "a_claimed_memory_error_is_an_error",
        code: "def main(): raise MemoryError('fake')",
        ends: |o| error(o, "MemoryError"),
    },
    Case {
        name: "a_claimed_permission_error_is_an_error",
        code: "def main(): raise PermissionError(1, 'Operation not permitted')",
        ends: |o| error(o, "PermissionError"),
    },
    Case {
        name: "sigsys_to_oneself_is_a_signal",
        code: "import os\ndef main(): os.kill(os.getpid(), 31)",
        ends: |o| signalled(o, 31),
    },
    Case {
        name: "abort_is_a_signal",
        code: "import os\ndef main(): os.abort()",
        ends: |o| signalled(o, 6),
    },
    Case {
        name: "a_forged_frame_without_nonce_is_no_success",
        code: "import os, struct\ndef main():\n  b = b'{\"nonce\":\"x\",\"value\":1}'\n  os.write(3, struct.pack('<I', len(b)) + b)\n  os._exit(0)",
        ends: |o| error(o, "ResultChannelError"),
    },
    Case {
        name: "a_huge_frame_is_no_success",
        code: "import os\ndef main():\n  os.write(3, b'\\xff' * 100)\n  import time; time.sleep(60)",
        ends: |o| error(o, "ResultChannelError"),
    },
    Case {
        name: "memory_in_scratch_space_counts",
        code: "def main():\n  for n in range(9):\n    open(f'/tmp/{n}', 'wb').write(b'x' * (5 << 20))\n  x = bytearray(240 << 20)\n  return 1",
        ends: |o| exceeded(o, LimitKind::Memory),
    },
    Case {
        name: "a_busy_loop_meets_the_wall",
        code: "import signal\nfor s in (2, 15): signal.signal(s, signal.SIG_IGN)\ndef main():\n  while True: pass",
        ends: |o| exceeded(o, LimitKind::Time),
    },
    Case {
        name: "a_full_disk_that_fails_a_program_is_the_disk",
        code: "def main():\n  with open('big', 'wb') as f:\n    while True: f.write(b'x' * (1 << 20))",
        ends: |o| exceeded(o, LimitKind::Disk) || exceeded(o, LimitKind::Memory),
    },
    Case {
        name: "inodes_are_disk",
        code: "import os\ndef main():\n  os.mkdir('d')\n  n = 0\n  while True:\n    os.close(os.open(f'd/{n}', os.O_CREAT)); n += 1",
        ends: |o| exceeded(o, LimitKind::Disk),
    },
    Case {
        name: "refused_forks_that_fail_a_program_are_processes",
        code: "import os, time\ndef main():\n  while True:\n    if os.fork() == 0: time.sleep(60)",
        ends: |o| exceeded(o, LimitKind::Processes),
    },
    Case {
        name: "a_denied_call_that_fails_a_program_is_denied",
        code: "import ctypes\ndef main():\n  ctypes.CDLL(None).mount(b'none', b'/tmp', b'tmpfs', 0, None)\n  raise RuntimeError('no')",
        ends: |o| matches!(o, Outcome::Denied { what } if *what == [Denial::Syscall { name: "mount".into(), count: 1 }]),
    },
    Case {
        name: "an_unroutable_packet_that_fails_a_program_is_denied",
        code: "import urllib.request\ndef main(): urllib.request.urlopen('http://192.0.2.1/', timeout=2)",
        ends: |o| matches!(o, Outcome::Denied { what } if matches!(what[..], [Denial::Network { .. }])),
    },
    Case {
        name: "nan_is_no_value",
        code: "def main(): return float('nan')",
        ends: |o| error(o, "ValueError"),
    },
    Case {
        name: "a_cycle_is_no_value",
        code: "def main():\n  x = []\n  x.append(x)\n  return x",
        ends: |o| error(o, "ValueError"),
    },
    Case {
        name: "bytes_are_no_value",
        code: "def main(): return b'x'",
        ends: |o| error(o, "TypeError"),
    },
    Case {
        name: "a_missing_main_is_said",
        code: "x = 1",
        ends: |o| matches!(o, Outcome::Failed { error: Some(error), .. } if error.message.contains("main")),
    },
];

const JAVASCRIPT: [Case; 4] = [
    Case {
        name: "abort_is_a_signal",
        code: "function main() { process.abort() }",
        ends: |o| signalled(o, 6),
    },
    Case {
        name: "the_heap_meets_the_memory_limit",
        code: "function main() { const x = []; for (;;) x.push({a: [1, 2, 3], b: 'c' + x.length}) }",
        ends: |o| exceeded(o, LimitKind::Memory),
    },
    Case {
        name: "a_busy_loop_meets_the_wall",
        code: "function main() { for (;;); }",
        ends: |o| exceeded(o, LimitKind::Time),
    },
    Case {
        name: "undefined_is_no_value",
        code: "function main() {}",
        ends: |o| matches!(o, Outcome::Failed { error: Some(error), .. } if error.message.contains("must return a value")),
    },
];

pub(crate) fn add(suite: &mut Suite, heading: &str, rig: &Arc<Rig>) {
    for (language, case) in PYTHON
        .into_iter()
        .map(|case| ("python", case))
        .chain(JAVASCRIPT.into_iter().map(|case| ("javascript", case)))
    {
        let rig = Arc::clone(rig);
        suite.test(format!("{heading}::{language}::{}", case.name), move || {
            let wall = Duration::from_secs(if case.name.ends_with("the_wall") { 1 } else { 20 });
            let result = rig.run_within(language, case.code, Limits { wall, ..limits() })?;
            let finished = &result.finished;
            assert!((case.ends)(&finished.outcome), "{finished:?}\n{}", result.stderr);
            assert!(result.value.is_none());
            Ok(())
        });
    }
    let mut with_rig = |name: &str, test: fn(&Rig) -> Result<(), Failure>| {
        let rig = Arc::clone(rig);
        suite.test(format!("{heading}::{name}"), move || test(&rig));
    };
    with_rig("cpu_time_has_a_limit_of_its_own", |rig| {
        let code = "def main():\n  while True: pass";
        let limits = Limits { cpu: Some(Duration::from_millis(300)), ..limits() };
        let result = rig.run_within("python", code, limits)?;
        assert!(exceeded(&result.finished.outcome, LimitKind::Cpu), "{:?}", result.finished);
        Ok(())
    });
    with_rig("usage_is_counted", |rig| {
        let code = "import time\ndef main():\n  x = bytearray(50 << 20)\n  end = time.process_time() + 0.2\n  while time.process_time() < end: pass\n  return 1";
        let usage = rig.run("python", code)?.finished.usage;
        assert!(usage.wall_us >= 200_000, "{usage:?}");
        assert!(usage.cpu_us.is_some_and(|used| used >= 190_000), "{usage:?}");
        assert!(usage.memory_peak.is_some_and(|peak| peak >= 50 << 20), "{usage:?}");
        Ok(())
    });
    with_rig("a_traceback_shows_the_users_lines_and_no_host_path", |rig| {
        let result = rig.run("python", "def main():\n  x = {}\n  return x['gone']")?;
        assert!(result.stderr.contains("return x['gone']"), "{}", result.stderr);
        assert!(result.stderr.contains("line 3"), "{}", result.stderr);
        for part in ["/opt/", "/root", "/home", "runner"] {
            assert!(!result.stderr.contains(part), "{}", result.stderr);
        }
        Ok(())
    });
    with_rig("a_value_may_have_8_mib_and_no_more", |rig| {
        for (language, code) in [
            ("python", "def main(): return 'x' * (SIZE)"),
            ("javascript", "function main() { return 'x'.repeat(SIZE) }"),
        ] {
            // Two bytes are the quotes.
            let fits = rig.run(language, &code.replace("SIZE", "(8 << 20) - 2"))?;
            assert_eq!(fits.value.ok_or("no value")?.get().len(), 8 << 20);
            let too_large = rig.run(language, &code.replace("SIZE", "(8 << 20) - 1"))?;
            let outcome = &too_large.finished.outcome;
            assert!(
                matches!(outcome, Outcome::Failed { error: Some(error), .. } if error.message.contains("large") || error.message.contains("bytes")),
                "{outcome:?}"
            );
        }
        Ok(())
    });
    with_rig("a_flood_of_output_does_not_drown_the_error", |rig| {
        let code = "def main():\n  print('x' * 2_000_000)\n  raise ValueError('the reason')";
        let result = rig.run("python", code)?;
        assert!(result.stderr.contains("the reason"), "{:?}", result.finished.evidence.output);
        Ok(())
    });
    with_rig("a_name_lookup_that_fails_a_program_is_denied", |rig| {
        for (language, code) in [
            (
                "python",
                "import urllib.request\ndef main(): urllib.request.urlopen('http://example.com/', timeout=3)",
            ),
            ("javascript", "async function main() { await fetch('http://example.com/') }"),
        ] {
            let finished = rig.run(language, code)?.finished;
            assert!(
                matches!(&finished.outcome, Outcome::Denied { what } if matches!(what[..], [Denial::Network { .. }])),
                "{finished:?}"
            );
        }
        Ok(())
    });
    with_rig("what_node_has_left_to_run_gets_a_short_while", |rig| {
        let code = "const fs = require('fs');\nfunction main() {\n  const s = fs.createWriteStream('artifacts/a.csv');\n  s.write('a,b\\n'); s.end('1,2\\n');\n  setTimeout(() => console.log('later'), 20);\n  return 1;\n}";
        let result = rig.run("javascript", code)?;
        assert_eq!(result.stdout, "later\n");
        assert_eq!(result.artifacts[0].content, b"a,b\n1,2\n");
        let endless =
            rig.run("javascript", "function main() { setInterval(() => {}, 5); return 1 }")?;
        assert_eq!(endless.finished.outcome, Outcome::Succeeded);
        Ok(())
    });
}
