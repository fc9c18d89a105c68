//! Fences, by trying to cross them, with the host as the oracle.

use std::{sync::Arc, time::Duration};

use ampoule_core::{Limits, Meters, Outcome};
use ampoule_testkit::{Failure, Suite, processes_with, skip, unique_word};

use crate::rig::{Rig, is_root, limits};

/// Runs Python that returns a JSON value and gives that value as text.
fn value(rig: &Rig, code: &str) -> Result<String, Failure> {
    let result = rig.run("python", code)?;
    assert_eq!(result.finished.outcome, Outcome::Succeeded, "{result:?}");
    Ok(result.value.ok_or("no value")?.get().replace(' ', ""))
}

/// What holds of every sandbox, wherever its interpreter comes from.
pub(crate) fn add(suite: &mut Suite, heading: &str, rig: &Arc<Rig>) {
    let same = Arc::clone(rig);
    suite.test(format!("{heading}::cpu_bandwidth_is_bounded"), move || {
        // An upper bound only: a busy machine gives less, never more.
        let code = "import time\ndef main():\n  end = time.monotonic() + 1\n  while time.monotonic() < end: pass\n  return 1";
        let finished =
            same.run_within("python", code, Limits { millicpus: 100, ..limits() })?.finished;
        if finished.evidence.meters == Meters::Watch {
            return skip("without control groups nobody bounds the CPU");
        }
        let usage = finished.usage;
        assert!(usage.cpu_us.is_some_and(|used| used < 500_000), "{usage:?}");
        Ok(ampoule_testkit::Outcome::Passed)
    });
    let mut with_rig = |name: &str, test: fn(&Rig) -> Result<(), Failure>| {
        let rig = Arc::clone(rig);
        suite.test(format!("{heading}::{name}"), move || test(&rig));
    };
    with_rig("no_identity_and_no_capability", |rig| {
        let code = "import os\ndef main():\n  s = dict(l.split(':', 1) for l in open('/proc/self/status'))\n  caps = [int(s[k], 16) for k in ('CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb')]\n  return [os.getresuid(), os.getresgid(), os.getgroups(), caps, s['NoNewPrivs'].strip(), s['Seccomp'].strip()]";
        let got = value(rig, code)?;
        // The kernel lets root alone give groups up; inside, those of an ordinary user are nobody's.
        let groups =
            if is_root() { Vec::new() } else { vec![65534; rustix::process::getgroups()?.len()] };
        let expected =
            format!(r#"[[65534,65534,65534],[65534,65534,65534],{groups:?},[0,0,0,0,0],"1","2"]"#);
        assert_eq!(got, expected.replace(' ', ""));
        Ok(())
    });
    with_rig("four_descriptors_and_no_more", |rig| {
        let code = "import os, stat\ndef main():\n  out = {}\n  for fd in range(1024):\n    try: out[fd] = stat.S_IFMT(os.fstat(fd).st_mode) in (stat.S_IFIFO, stat.S_IFCHR)\n    except OSError: pass\n  return out";
        assert_eq!(value(rig, code)?, r#"{"0":true,"1":true,"2":true,"3":true}"#);
        Ok(())
    });
    with_rig("the_root_shows_nothing_of_the_host", |rig| {
        std::fs::write("/tmp/ampoule-canary", "canary").unwrap();
        let code = "import os\ndef main():\n  seen = []\n  for p in ('/root', '/home', '/var', '/sys', '/etc/shadow', '/etc/hostname', '/proc/sys', '/proc/meminfo', '/run', '/tmp/ampoule-canary', '/usr/local', '/boot', '/mnt'):\n    if os.path.lexists(p): seen.append(p)\n  return [seen, sorted(os.listdir('/')), open('/etc/passwd').read().count('\\n')]";
        let got = value(rig, code)?;
        std::fs::remove_file("/tmp/ampoule-canary").unwrap();
        assert!(got.starts_with("[[],"), "{got}");
        assert!(got.ends_with(",1]"), "{got}");
        Ok(())
    });
    with_rig("only_scratch_space_is_writable", |rig| {
        let code = "import os\ndef main():\n  out = []\n  for d in ('/', '/usr/bin', '/usr/lib', '/etc', '/dev', '/proc', '/opt/ampoule', '/workspace', '/tmp', '/dev/shm'):\n    try:\n      open(d + '/probe', 'w').close(); out.append(d)\n    except OSError: pass\n  return out";
        assert_eq!(value(rig, code)?, r#"["/workspace","/tmp","/dev/shm"]"#);
        Ok(())
    });
    with_rig("every_mount_is_nosuid_and_names_no_host_path", |rig| {
        let code = "def main():\n  bad = []\n  for line in open('/proc/self/mountinfo'):\n    f = line.split()\n    o = f[5].split(',')\n    if 'nosuid' not in o or ('rw' in o and f[4] not in ('/tmp', '/workspace', '/dev/shm', '/proc')): bad.append(line)\n    if '/root' in line.replace('/t/0/root', '').replace('/t/1/root', '') or '/home' in line: bad.append(line)\n  return bad + [l for l in open('/proc/self/cgroup') if not l.strip().endswith(':/')]";
        assert_eq!(value(rig, code)?, "[]");
        Ok(())
    });
    with_rig("no_other_process_is_seen", |rig| {
        let code = "import os\ndef main():\n  seen = [p for p in os.listdir('/proc') if p.isdigit()]\n  return [seen, os.getpid()]";
        assert_eq!(value(rig, code)?, r#"[["2"],2]"#);
        Ok(())
    });
    with_rig("the_network_is_loopback_only", |rig| {
        let code = "import socket\ndef main():\n  s = socket.create_server(('127.0.0.1', 0))\n  c = socket.create_connection(s.getsockname())\n  c.close()\n  return [n for _, n in socket.if_nameindex()]";
        assert_eq!(value(rig, code)?, r#"["lo"]"#);
        Ok(())
    });
    with_rig("namespaces_cannot_be_made_or_joined", |rig| {
        let code = "import ctypes, os\ndef main():\n  l = ctypes.CDLL(None, use_errno=True)\n  made = [f for f in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000) if l.unshare(f) == 0]\n  for n in os.listdir('/proc/self/ns'):\n    try: fd = os.open('/proc/self/ns/' + n, os.O_RDONLY)\n    except OSError: continue\n    if l.setns(fd, 0) == 0: made.append(n)\n  return made";
        assert_eq!(value(rig, code)?, "[]");
        Ok(())
    });
    with_rig("daemons_die_before_the_answer", |rig| {
        let word = unique_word();
        let code = format!(
            "import os, subprocess, sys, time\ndef main():\n  subprocess.Popen([sys.executable, '-c', 'import os, time, signal\\nsignal.signal(15, signal.SIG_IGN)\\nif os.fork() == 0:\\n  os.setsid()\\n  if os.fork() == 0: time.sleep(60)\\nelse: time.sleep(60)', '{word}'], start_new_session=True)\n  time.sleep(0.3)\n  n = 0\n  for p in os.listdir('/proc'):\n    if p.isdigit() and '{word}' in open(f'/proc/{{p}}/cmdline').read(): n += 1\n  return n"
        );
        let got = value(rig, &code)?;
        assert_ne!(got, "0", "the control: the daemons did run");
        assert_eq!(processes_with(&word), Vec::<String>::new());
        Ok(())
    });
    with_rig("a_fork_bomb_leaves_nothing", |rig| {
        let word = unique_word();
        let code = format!(
            "import os, sys\ndef main():\n  while True:\n    try:\n      if os.fork() == 0:\n        os.setsid()\n        os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(60)', '{word}'])\n    except OSError: pass"
        );
        rig.run_within("python", &code, Limits { wall: Duration::from_secs(2), ..limits() })?;
        assert_eq!(processes_with(&word), Vec::<String>::new());
        Ok(())
    });
    with_rig("locks_and_watches_do_not_cross_runs", |rig| {
        // Two at once: each takes a lock on everything that it can open, and none sees the other's.
        let code = "import fcntl, os, time\ndef main():\n  refused, held, closed = [], [], []\n  for p in ('/', '/usr/bin/env', '/usr/lib', '/etc/passwd', '/dev', '/dev/null', '/dev/zero', '/dev/urandom', '/proc/self/exe', '/workspace', '/tmp', '/dev/shm', '/opt/ampoule/runner/runner.pyc'):\n    try: fd = os.open(p, os.O_RDONLY)\n    except PermissionError: closed.append(p); continue\n    try: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB); held.append(fd)\n    except BlockingIOError: refused.append(p)\n  time.sleep(1)\n  return [refused, len(held), closed]";
        std::thread::scope(|scope| -> Result<(), Failure> {
            let others: Vec<_> = (0..2).map(|_| scope.spawn(|| value(rig, code))).collect();
            for other in others {
                let got = other.join().map_err(|_| "panicked")??;
                // An ordinary user's sandboxes share the host's device nodes, and are told so.
                let shared = r#"["/dev","/dev/null","/dev/zero","/dev/urandom"]"#;
                let refused = if is_root() { "[]" } else { shared };
                // Of a forked worker the executable is its zygote's, which Landlock closes.
                let open = 13 - if is_root() { 0 } else { 4 };
                let cold = format!("[{refused},{open},[]]");
                let warm = format!(r#"[{refused},{},["/proc/self/exe"]]"#, open - 1);
                let free = ["[[],13,[]]".to_owned(), r#"[[],12,["/proc/self/exe"]]"#.to_owned()];
                assert!([cold, warm].contains(&got) || free.contains(&got), "{got}");
            }
            Ok(())
        })
    });
    with_rig("one_run_cannot_use_up_anothers_quotas", |rig| {
        let hold = "import ctypes, time\ndef main():\n  l = ctypes.CDLL(None)\n  n = 0\n  while l.inotify_init1(0) >= 0: n += 1\n  time.sleep(1)\n  return n";
        std::thread::scope(|scope| -> Result<(), Failure> {
            let others: Vec<_> = (0..4).map(|_| scope.spawn(|| value(rig, hold))).collect();
            for other in others {
                let got: u32 = other.join().map_err(|_| "panicked")??.parse()?;
                assert_eq!(got, 16);
            }
            Ok(())
        })
    });
    with_rig("foreign_architectures_are_refused", |rig| {
        let code = "import ctypes, mmap\ndef main():\n  m = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=7)\n  m.write(bytes.fromhex('b814000000cd80c3'))\n  return ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()";
        let result = rig.run("python", code)?;
        assert!(
            matches!(result.finished.outcome, Outcome::Failed { signal: Some(31), .. }),
            "{:?}",
            result.finished
        );
        Ok(())
    });
    with_rig("artifacts_are_regular_files_only", |rig| {
        let code = "import os\ndef main():\n  os.symlink('/etc/passwd', 'artifacts/link.csv')\n  os.mkfifo('artifacts/pipe.csv')\n  os.mkdir('artifacts/dir')\n  open('artifacts/.hidden', 'w').write('x')\n  open('artifacts/shut.csv', 'w').write('x')\n  os.chmod('artifacts/shut.csv', 0)\n  open('artifacts/sparse.csv', 'w').truncate(90 << 20)\n  open('artifacts/ok.csv', 'w').write('a,b')\n  return 1";
        let result = rig.run("python", code)?;
        let names: Vec<_> =
            result.artifacts.iter().map(|artifact| artifact.name.as_str()).collect();
        assert_eq!(names, ["ok.csv", "shut.csv"], "{:?}", result.finished.skipped_artifacts);
        assert_eq!(result.artifacts[0].content, b"a,b");
        assert_eq!(result.finished.skipped_artifacts.len(), 5);
        Ok(())
    });
    with_rig("artifacts_may_be_made_anew_but_not_led_astray", |rig| {
        let again = "import os, shutil\ndef main():\n  shutil.rmtree('artifacts')\n  os.mkdir('artifacts')\n  open('artifacts/a.txt', 'w').write('x')\n  return 1";
        assert_eq!(rig.run("python", again)?.artifacts.len(), 1);
        let astray = "import os, shutil\ndef main():\n  shutil.rmtree('artifacts')\n  os.symlink('/etc', 'artifacts')\n  return 1";
        assert_eq!(rig.run("python", astray)?.artifacts.len(), 0);
        Ok(())
    });
    with_rig("scratch_space_has_the_sizes_promised", |rig| {
        let code = "import os\ndef main():\n  out = []\n  for d in ('/workspace', '/tmp', '/dev/shm'):\n    s = os.statvfs(d)\n    out.append([s.f_blocks * s.f_frsize >> 20, s.f_files])\n  return out";
        assert_eq!(value(rig, code)?, "[[100,16384],[50,8192],[16,256]]");
        Ok(())
    });
    with_rig("resource_limits_are_as_promised_and_cannot_be_raised", |rig| {
        let code = "import resource as r\ndef main():\n  names = ('FSIZE', 'STACK', 'CORE', 'NPROC', 'NOFILE', 'MEMLOCK', 'SIGPENDING', 'MSGQUEUE', 'NICE', 'RTPRIO')\n  out = [r.getrlimit(getattr(r, 'RLIMIT_' + n)) for n in names]\n  for n in names:\n    k = getattr(r, 'RLIMIT_' + n)\n    try: r.setrlimit(k, (r.getrlimit(k)[1] + 1,) * 2); return 'raised ' + n\n    except (ValueError, OSError): pass\n  return [soft if soft == hard else 'differ' for soft, hard in out]";
        let promised = "[104857600,8388608,0,96,512,65536,256,0,0,0]";
        assert_eq!(value(rig, code)?, promised);
        Ok(())
    });
    with_rig("after_64_denied_calls_the_record_is_closed", |rig| {
        let code = "import ctypes\ndef main():\n  l = ctypes.CDLL(None, use_errno=True)\n  seen = []\n  for _ in range(80):\n    l.mount(b'none', b'/tmp', b'tmpfs', 0, None)\n    seen.append(ctypes.get_errno())\n  return [seen.count(1) >= 64, seen[0], seen[-1], set(seen) <= {1, 38}]";
        let result = rig.run("python", code)?;
        let got = result.value.ok_or("no value")?.get().replace(' ', "");
        assert_eq!(got, "[true,1,38,true]");
        assert_eq!(result.finished.evidence.denied[0].count, 64);
        Ok(())
    });
    with_rig("standard_output_can_be_opened_by_its_name", |rig| {
        let code = "def main():\n  open('/dev/stdout', 'w').write('out\\n')\n  open('/proc/self/fd/2', 'w').write('err\\n')\n  try: open('/proc/self/fd/3', 'w')\n  except OSError as error: return error.errno";
        let result = rig.run("python", code)?;
        assert_eq!((result.stdout.as_str(), result.stderr.as_str()), ("out\n", "err\n"));
        // With one id for everything the result is the program's own as well.
        let third = if is_root() { "13" } else { "null" };
        assert_eq!(result.value.ok_or("no value")?.get(), third);
        Ok(())
    });
    with_rig("pipes_that_others_pay_for_cannot_grow", |rig| {
        let code = "import fcntl, os\ndef main():\n  out = []\n  for fd in (1, 2, 3, os.pipe()[1]):\n    try: fcntl.fcntl(fd, 1031, 1 << 20); out.append(fd)\n    except OSError: pass\n  return out";
        assert_eq!(value(rig, code)?, "[]");
        Ok(())
    });
    with_rig("programs_go_first_when_the_machine_runs_out", |rig| {
        assert_eq!(
            value(rig, "def main(): return int(open('/proc/self/oom_score_adj').read())")?,
            "500"
        );
        Ok(())
    });
}
