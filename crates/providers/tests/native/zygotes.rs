//! Warm interpreters: a forked worker is as an exec'd one, nothing of a run is in the next, and
//! whatever becomes of a zygote, every run is answered.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use ampoule_core::{
    ExecuteRequest, Language, LimitKind, Limits, Meters, Outcome, Profile, Provider as _,
    TrustGroup,
};
use ampoule_providers::native::{NativeRuntime, Warm};
use ampoule_testkit::{Failure, Suite, children_of, eventually, is_gone};
use rustix::process::{Pid, Signal, kill_process};

use crate::rig::{Rig, WARM, limits, request, runtimes};

/// Providers that are not as the others.
#[derive(Clone)]
pub(crate) struct Rigs {
    /// Nothing is warm.
    pub(crate) cold: Arc<Rig>,
    /// Its zygotes are hurt.
    hurt: Arc<Rig>,
    /// Its zygotes are replaced after three forks.
    short: Arc<Rig>,
    /// Its zygotes cannot be.
    broken: Arc<Rig>,
    /// Whoever serves its launcher is killed.
    bereft: Arc<Rig>,
    /// Its zygote grows with each fork.
    growing: Arc<Rig>,
    /// Its zygotes are replaced after a second.
    aging: Arc<Rig>,
}

impl Rigs {
    pub(crate) fn start() -> Self {
        let broken = BROKEN.iter().map(|(name, code)| altered(name, code)).collect();
        let aging = Warm { most_age: Duration::from_secs(1), ..WARM };
        Self {
            cold: Arc::new(Rig::with(24, Warm::default(), None)),
            hurt: Arc::new(Rig::with(24, WARM, None)),
            short: Arc::new(Rig::with(8, Warm { most_forks: 3, ..WARM }, None)),
            broken: Arc::new(Rig::of(broken, 8, WARM, None)),
            bereft: Arc::new(Rig::with(8, WARM, None)),
            growing: Arc::new(Rig::of(vec![altered("growing", GROWING)], 4, WARM, None)),
            aging: Arc::new(Rig::of(vec![altered("aging", "")], 4, aging, None)),
        }
    }

    pub(crate) fn stop(&self) {
        self.broken.close();
        for rig in [&self.cold, &self.hurt, &self.short, &self.bereft, &self.growing, &self.aging] {
            rig.close();
        }
    }
}

/// What goes wrong in a zygote at its start.
const BROKEN: [(&str, &str); 3] = [
    ("threaded", "import _thread, time; _thread.start_new_thread(time.sleep, (1000,))"),
    ("hanging", "import time; time.sleep(1000)"),
    ("failing", "import a_module_that_nobody_has"),
];

/// Has a zygote grow with each fork, by more in 64 forks than it may.
const GROWING: &str =
    "kept = []; posix.register_at_fork(after_in_parent=lambda: kept.append(b'x' * (1 << 19)))";

/// Python under another name, with another runner.
fn altered(name: &str, code: &str) -> NativeRuntime {
    let is_python = |runtime: &NativeRuntime| runtime.folder.language().as_str() == "python";
    let mut runtime = runtimes().into_iter().find(is_python).unwrap();
    let place = "        import _ctypes\n";
    assert!(runtime.folder.runner.contains(place));
    let runner = runtime.folder.runner.replace(place, &format!("{place}        {code}\n"));
    runtime.folder.runner = runner.into();
    runtime.compiled = None;
    runtime.folder.manifest.language = Language::new(name);
    runtime.folder.manifest.runner = format!("{name}.py");
    runtime.folder.manifest.templates.clear();
    runtime
}

/// How a program comes to its interpreter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Bare,
    Data,
    Strict,
}

/// Runs Python that returns a JSON value.
fn ask(rig: &Rig, way: Way, code: &str) -> Result<serde_json::Value, Failure> {
    let profile = if way == Way::Strict { Profile::Strict } else { Profile::Fast };
    of(rig, ExecuteRequest { profile, ..request("python", code, limits()) }, way)
}

fn of(rig: &Rig, request: ExecuteRequest, way: Way) -> Result<serde_json::Value, Failure> {
    let template = (way == Way::Data).then_some("python-data");
    let result = rig.carry_out(request, template)?;
    if result.finished.outcome != Outcome::Succeeded {
        return Err(Failure::from(format!("{result:?}")));
    }
    Ok(serde_json::from_str(result.value.ok_or("no value")?.get())?)
}

/// Gives the hash seed's mark if the interpreter was forked.
const MARK: &str = "def main():\n  return hash('x') if 'ampoule_inside' in open('/proc/self/maps').read() else None";

fn mark(rig: &Rig, language: &str) -> Result<Option<i64>, Failure> {
    Ok(of(rig, request(language, MARK, limits()), Way::Bare)?.as_i64())
}

/// Everything that a program can tell of its interpreter and process, in words.
const FACTS: &str = r"
import sys
MODULES, GLOBALS, DEPTH = sorted(sys.modules), sorted(globals()), len(sys._current_frames())
import atexit, builtins, gc, locale, os, resource, signal, stat
def kind(fd):
  try: return stat.S_IFMT(os.fstat(fd).st_mode), os.get_inheritable(fd), os.get_blocking(fd)
  except OSError: return None
def read(name):
  with open('/proc/self/' + name) as file: return file.read()
def main():
  status = dict(line.split(':', 1) for line in read('status').splitlines())
  facts = {name: value for name, value in status.items() if name.startswith(('Cap', 'Sig', 'NS', 'Shd')) or name in (
    'Name', 'Umask', 'Tgid', 'Ngid', 'Pid', 'PPid', 'TracerPid', 'Uid', 'Gid', 'Groups', 'Threads', 'NoNewPrivs', 'Seccomp', 'Seccomp_filters',
    'Speculation_Store_Bypass', 'SpeculationIndirectBranch', 'CoreDumping', 'THP_enabled')}
  for name in ('oom_score_adj', 'cgroup', 'environ', 'comm', 'limits'):
    facts[name] = read(name)
  facts['mounts'] = [(f[4], f[5], f[f.index('-') + 1]) for f in map(str.split, read('mountinfo').splitlines())]
  facts['files'] = sorted(os.listdir('/')), os.listdir('/tmp'), sorted(os.listdir('/workspace')), os.listdir('/dev/shm')
  facts['ids'] = os.getpid(), os.getppid(), os.getsid(0), os.getpgrp(), os.getresuid(), os.getresgid()
  facts['place'] = os.getcwd(), os.umask(0o22)
  facts['signals'] = [(int(s), str(signal.getsignal(s))) for s in signal.valid_signals()], signal.pthread_sigmask(0, [])
  facts['argv'] = sys.argv, sys.orig_argv, sys.executable, sys.flags, sys.path, sys.warnoptions, sys._xoptions, sys.prefix
  facts['descriptors'] = {fd: kind(fd) for fd in range(1024) if kind(fd)}
  facts['owner'] = os.stat('/proc/self/fd').st_uid, sorted(os.listdir('/proc/self/fd'))
  facts['rlimits'] = {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith('RLIMIT_')}
  facts['schedule'] = os.getpriority(0, 0), os.sched_getscheduler(0), sorted(os.sched_getaffinity(0)), signal.getitimer(0)
  facts['gc'] = gc.isenabled(), gc.get_threshold(), gc.get_debug(), gc.callbacks
  facts['limits of the interpreter'] = sys.getrecursionlimit(), sys.getswitchinterval(), sys.get_int_max_str_digits()
  facts['tools'] = sys.gettrace(), sys.getprofile(), sys.excepthook is sys.__excepthook__, sys.displayhook is sys.__displayhook__, atexit._ncallbacks()
  facts['modules'], facts['globals'], facts['frames'] = MODULES, GLOBALS, DEPTH
  facts['builtins'] = sorted(dir(builtins))
  facts['sys'] = sorted(dir(sys))
  facts['main'] = __name__, __file__, sys.modules['__main__'] is sys.modules['main'], type(__loader__).__name__
  facts['locale'] = locale.setlocale(locale.LC_ALL), sys.getfilesystemencoding()
  facts['streams'] = [(s.encoding, s.errors, s.line_buffering, s.write_through, s.isatty(), s.seekable(), s.name, s.newlines, str(type(s.buffer)), s.closed) for s in (sys.stdin, sys.stdout, sys.stderr)]
  facts['stack'] = [f.f_code.co_name for f in frames()]
  return {name: repr(fact) for name, fact in facts.items()}
def frames():
  frame = sys._getframe()
  while frame: yield frame; frame = frame.f_back
";

/// What else is when more is imported, which is what a template is for. The signal is the C library's
/// own, which it takes when a process starts its first thread.
const OF_IMPORTS: [&str; 5] = ["modules", "tools", "builtins", "sys", "SigCgt"];

type Facts = BTreeMap<String, String>;

fn facts(rig: &Rig, way: Way) -> Result<Facts, Failure> {
    Ok(serde_json::from_value(ask(rig, way, FACTS)?)?)
}

/// Whatever chance gives; each is named.
const CHANCE: &str = r"
import os, random, secrets, ssl, tempfile, uuid
def main():
  named = dict(random=random.random(), bits=random.getrandbits(64), uuid1=str(uuid.uuid1()), uuid4=str(uuid.uuid4()), secrets=secrets.token_hex(),
    urandom=os.urandom(8).hex(), tempfile=next(tempfile._get_candidate_names()), ssl=ssl.RAND_bytes(8).hex(), own=random.Random().random(), system=random.SystemRandom().random())
  if NUMPY:
    import numpy, pandas
    named.update(rand=numpy.random.rand(), randint=int(numpy.random.randint(1 << 60)), rng=numpy.random.default_rng().random(), state=numpy.random.RandomState().rand(),
      sample=pandas.Series(range(1 << 16)).sample(8).tolist())
  return named, hash('x')
";

/// What a program would see if another had hurt its interpreter.
const WHOLE: &str = r"
import builtins, gc, json, os, signal, sys, threading
def main():
  import collections, decimal
  return [len('ab'), json.dumps({'a': [1, None]}), 2 - 1 == 1, gc.isenabled(), hash('x'), sorted(os.environ), str(signal.getsignal(2)), threading.active_count(),
    sys.getrecursionlimit(), os.listdir('/tmp'), sorted(dir(builtins)), int.__add__(1, 2), str(decimal.Decimal(1) / 3), os.getcwd(), os.path.__name__, sys.stdout.encoding]
";

/// Programs that hurt their own interpreter as much as they can.
const HARM: [&str; 9] = [
    "import builtins\nfor n in dir(builtins):\n  if n not in ('BaseException', 'RuntimeError'): builtins.__dict__.pop(n, None)\ndef main(): return 1",
    "import json, os, sys\njson.dumps = json.loads = os.listdir = os.path = None\nsys.modules.clear()\ndef main(): return 1",
    "import ctypes, sys\nctypes.c_int.from_address(id(1) + 24).value = 7\nctypes.memset(id(int.__dict__), 0, 16)\ndef main(): return 1",
    "import ctypes\nctypes.memset(id(None), 0xff, 16)\nctypes.memset(id(str), 0, 256)\ndef main(): return 1",
    "import ctypes\nl = ctypes.CDLL(None)\nfor line in open('/proc/self/maps'):\n  a, p = line.split()[:2]\n  if p.startswith('rw') and 'stack' not in line:\n    s, e = (int(x, 16) for x in a.split('-'))\n    ctypes.memset(s, 0x5a, e - s)\ndef main(): return 1",
    "import atexit, gc, signal, sys, threading, time\natexit.register(print, 'x')\ngc.disable()\nsys.setrecursionlimit(50)\nsignal.signal(2, signal.SIG_IGN)\nthreading.Thread(target=time.sleep, args=(60,)).start()\ndef main(): return 1",
    "import os, json\nfor d, _, names in os.walk(os.path.dirname(json.__file__)):\n  for n in names:\n    try: open(os.path.join(d, n), 'w').write('raise SystemExit')\n    except OSError: pass\nopen('/tmp/left', 'w').write('x')\nos.environ['LEFT'] = 'x'\nos.chdir('/tmp')\ndef main(): return 1",
    "import os, signal\nfor s in range(1, 32):\n  try: os.kill(0, s) if s in (10, 12) else os.kill(-1, 0)\n  except OSError: pass\nos.killpg(os.getpgrp(), 9)\ndef main(): return 1",
    "import os\nfor n in range(20000):\n  try: os.kill(n, 9) if n != os.getpid() else None\n  except OSError: pass\ndef main(): return 1",
];

/// The zygotes of a rig whose command line holds `word`: children of the launcher in its own pid
/// namespace; their workers have the same command line.
fn zygotes(rig: &Rig, word: &str) -> Vec<i32> {
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let Some(launcher) = rig.launcher() else { return Vec::new() };
    let is_it = |pid: &u32| {
        let arguments = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments.contains("--zygote")
            && arguments.contains(word)
            && namespace(*pid) == namespace(launcher)
    };
    let found = children_of(launcher).into_iter().filter(is_it);
    found.filter_map(|pid| i32::try_from(pid).ok()).collect()
}

fn send(pids: &[i32], signal: Signal) {
    for pid in pids {
        // One that is gone is as good.
        let _ = kill_process(Pid::from_raw(*pid).expect("a pid is not 0"), signal);
    }
}

/// What a launcher has when nothing runs: spare cells, zygotes, and who clears up for it.
fn at_rest(rig: &Rig) -> usize {
    rig.launcher().map_or(0, |launcher| children_of(launcher).len())
}

/// Runs at once that all have to succeed; and how long the slowest took.
fn at_once(rig: &Rig, tasks: usize, each: usize) -> Result<Duration, Failure> {
    thread::scope(|scope| {
        let run = || -> Result<Duration, Failure> {
            let mut slowest = Duration::ZERO;
            for _ in 0..each {
                let began = Instant::now();
                mark(rig, "python")?;
                slowest = slowest.max(began.elapsed());
            }
            Ok(slowest)
        };
        let tasks: Vec<_> = (0..tasks).map(|_| scope.spawn(run)).collect();
        let mut slowest = Duration::ZERO;
        for task in tasks {
            slowest = slowest.max(task.join().map_err(|_| "panicked")??);
        }
        Ok(slowest)
    })
}

fn warm_again(rig: &Rig) -> Result<(), Failure> {
    eventually("the next runs are forked again", || matches!(mark(rig, "python"), Ok(Some(_))))
}

/// Importing takes a while.
fn data_is_warm(rig: &Rig) -> Result<(), Failure> {
    eventually("there is a zygote with data", || {
        ask(rig, Way::Data, MARK).is_ok_and(|mark| !mark.is_null())
    })
}

/// Children of a rig's launcher by their name.
fn named(rig: &Rig, name: &str) -> Vec<i32> {
    let is_it = |pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
    };
    let children = rig.launcher().map(children_of).unwrap_or_default();
    children.into_iter().filter(is_it).filter_map(|pid| i32::try_from(pid).ok()).collect()
}

pub(crate) fn add(suite: &mut Suite, warm: &Arc<Rig>, rigs: &Rigs) {
    let mut with = |name: &str, test: fn(&Rig, &Rigs) -> Result<(), Failure>| {
        let (warm, rigs) = (Arc::clone(warm), rigs.clone());
        suite.test(format!("zygotes::{name}"), move || test(&warm, &rigs));
    };
    with("a_fork_is_as_an_exec", |warm, rigs| {
        warm_again(warm)?;
        data_is_warm(warm)?;
        let cold = facts(&rigs.cold, Way::Bare)?;
        for (which, rig, way) in
            [("warm", warm, Way::Bare), ("strict", warm, Way::Strict), ("data", warm, Way::Data)]
        {
            let found = facts(rig, way)?;
            assert_eq!(found.keys().collect::<Vec<_>>(), cold.keys().collect::<Vec<_>>());
            let mut differing = String::new();
            for (name, fact) in &found {
                let execd = &cold[name];
                if fact != execd && !(way == Way::Data && OF_IMPORTS.contains(&name.as_str())) {
                    differing.push_str(&format!("{name}\n  is     {fact}\n  exec'd {execd}\n"));
                }
            }
            if !differing.is_empty() {
                return Err(Failure::from(format!("{which}: {differing}")));
            }
        }
        Ok(())
    });
    with("the_code_of_forks_is_in_large_pages", |warm, _| {
        let code = "def main():\n  large = []\n  for line in open('/proc/self/smaps'):\n    if line.split(' ')[0].count('-') == 1: mapping = line.split()\n    elif line.startswith('AnonHugePages:') and ' 0 kB' not in line: large.append([mapping[1], int(line.split()[1])])\n  return large";
        warm_again(warm)?;
        let result = warm.run("python", code)?;
        let large: Vec<(String, u64)> =
            serde_json::from_str(result.value.as_deref().ok_or("no value")?.get())?;
        // Nobody may write it, and it counts as no memory of the program's.
        assert!(large.iter().all(|(rights, _)| rights == "r-xp"), "{large:?}");
        let inherited = result.finished.evidence.memory.inherited.ok_or("it is no fork")?;
        assert!((1 << 20..12 << 20).contains(&inherited), "{inherited}");
        let offered = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
        // Another interpreter than Debian's may have less than one such page of code.
        let debians =
            fs::canonicalize("/usr/bin/python3").is_ok_and(|path| path.ends_with("python3.11"));
        let has_groups = result.finished.evidence.meters != Meters::Watch;
        if debians && has_groups && offered.is_ok_and(|text| !text.contains("[never]")) {
            assert!(large.iter().any(|(_, kilobytes)| *kilobytes >= 2048), "{large:?}");
        }
        Ok(())
    });
    with("namespaces_are_nobody_elses", |warm, _| {
        let code = "import os, time\ndef main():\n  time.sleep(0.5)\n  return {n: os.readlink('/proc/self/ns/' + n) for n in os.listdir('/proc/self/ns')}";
        let runs: Vec<BTreeMap<String, String>> = thread::scope(|scope| {
            let runs: Vec<_> = (0..3).map(|_| scope.spawn(|| ask(warm, Way::Bare, code))).collect();
            let read = |run: thread::ScopedJoinHandle<'_, _>| -> Result<_, Failure> {
                let found: Result<_, Failure> = run.join().map_err(|_| "panicked")?;
                Ok(serde_json::from_value(found?)?)
            };
            runs.into_iter().map(read).collect::<Result<_, Failure>>()
        })?;
        for kind in ["cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "user", "uts"] {
            let mut seen: BTreeSet<String> = runs.iter().map(|run| run[kind].clone()).collect();
            for host in [std::process::id(), warm.launcher().ok_or("no launcher")?] {
                let link = fs::read_link(format!("/proc/{host}/ns/{kind}"))?;
                seen.insert(link.to_string_lossy().into_owned());
                assert!(runs.iter().all(|run| run[kind] != link.to_string_lossy()), "{kind}");
            }
            assert!(seen.len() > runs.len(), "{kind}: {seen:?}");
        }
        Ok(())
    });
    with("chance_does_not_repeat", |warm, _| {
        warm_again(warm)?;
        data_is_warm(warm)?;
        for (way, numpy) in [(Way::Bare, "False"), (Way::Data, "True"), (Way::Strict, "False")] {
            let code = CHANCE.replace("NUMPY", numpy);
            let first = ask(warm, way, &code)?;
            let second = ask(warm, way, &code)?;
            let named = first[0].as_object().ok_or("no object")?;
            assert!(named.len() >= 10, "{named:?}");
            for (name, value) in named {
                assert_ne!(*value, second[0][name], "{way:?}: {name}");
            }
            // The one that does: it is the interpreter's, and `strict` has its own.
            assert_eq!(first[1] == second[1], way != Way::Strict, "{way:?}");
        }
        Ok(())
    });
    with("harm_stays_in_its_run", |warm, _| {
        warm_again(warm)?;
        data_is_warm(warm)?;
        for way in [Way::Bare, Way::Data] {
            let whole = ask(warm, way, WHOLE)?;
            for (number, harm) in HARM.iter().enumerate() {
                let template = (way == Way::Data).then_some("python-data");
                let limits = Limits { wall: Duration::from_secs(5), ..limits() };
                warm.carry_out(request("python", harm, limits), template)?;
                assert_eq!(ask(warm, way, WHOLE)?, whole, "{way:?}: harm {number}");
            }
        }
        Ok(())
    });
    with("trust_groups_share_no_interpreter", |warm, _| {
        let mark_of = |group: &str| -> Result<Option<i64>, Failure> {
            let trust_group = TrustGroup::new(group)?;
            let request = ExecuteRequest { trust_group, ..request("python", MARK, limits()) };
            Ok(of(warm, request, Way::Bare)?.as_i64())
        };
        for group in ["one", "other"] {
            eventually("the group is warm", || matches!(mark_of(group), Ok(Some(_))))?;
        }
        let (one, other) = (mark_of("one")?, mark_of("other")?);
        assert_ne!(one, other);
        assert_eq!((mark_of("one")?, mark_of("other")?), (one, other));
        let nobodys = mark(warm, "python")?;
        assert!(nobodys != one && nobodys != other);
        Ok(())
    });
    with("a_spare_cell_has_the_limits_of_its_run", |warm, _| {
        let code = "def main():\n  x = bytearray(200 << 20)\n  return len(x)";
        for memory in [64 << 20, 400 << 20, 64 << 20] {
            thread::sleep(Duration::from_millis(300));
            let limits = Limits { memory, ..limits() };
            let outcome = warm.run_within("python", code, limits)?.finished.outcome;
            let expected = match memory < 200 << 20 {
                true => Outcome::LimitExceeded { limit: LimitKind::Memory },
                false => Outcome::Succeeded,
            };
            assert_eq!(outcome, expected);
        }
        Ok(())
    });
    with("a_zygote_is_replaced_after_its_count", |_, rigs| {
        let mut marks = Vec::new();
        for _ in 0..24 {
            marks.extend(mark(&rigs.short, "python")?);
            thread::sleep(Duration::from_millis(20));
        }
        let different: BTreeSet<_> = marks.iter().collect();
        assert!(marks.len() >= 20, "{marks:?}");
        assert!(different.len() >= 4, "{marks:?}");
        // And one that was replaced is not kept.
        eventually("the old ones end", || zygotes(&rigs.short, "runner.py").len() <= 3)
    });
    with("a_zygote_is_replaced_at_its_age_and_when_it_grows", |_, rigs| {
        for (rig, language, runs) in [(&rigs.aging, "aging", 0), (&rigs.growing, "growing", 65)] {
            let mut first = None;
            eventually("there is a zygote", || {
                first = mark(rig, language).ok().flatten();
                first.is_some()
            })?;
            for _ in 0..runs {
                assert!(mark(rig, language)?.is_some(), "{language}: no zygote");
            }
            eventually(
                "there is another zygote",
                || matches!(mark(rig, language), Ok(next) if next.is_some() && next != first),
            )?;
        }
        Ok(())
    });
    with("what_cannot_be_warm_is_cold", |_, rigs| {
        let rig = &rigs.broken;
        for (language, _) in BROKEN {
            let began = Instant::now();
            for _ in 0..6 {
                assert_eq!(mark(rig, language)?, None, "{language}");
            }
            // The first may have waited for the zygote.
            assert!(began.elapsed() < Duration::from_secs(6), "{language}: {:?}", began.elapsed());
        }
        for language in ["threaded", "failing"] {
            // Each run asks for another zygote, until that is given up for a while.
            for _ in 0..6 {
                mark(rig, language)?;
                thread::sleep(Duration::from_millis(150));
            }
            thread::sleep(Duration::from_millis(500));
            mark(rig, language)?;
            let left = zygotes(rig, &format!("{language}.py"));
            assert!(left.is_empty(), "{language} is tried again and again");
        }
        Ok(())
    });
    with("whatever_becomes_of_a_zygote_runs_go_on", |_, rigs| {
        let rig = &rigs.hurt;
        warm_again(rig)?;
        eventually("the spare cells are there", || at_rest(rig) >= 5)?;
        thread::sleep(Duration::from_millis(300));
        let before = at_rest(rig);
        // Killed between runs.
        for _ in 0..4 {
            send(&zygotes(rig, "runner.py"), Signal::KILL);
            at_once(rig, 2, 2)?;
        }
        warm_again(rig)?;
        // Stopped, with more orders than its queue has room for.
        let stopped = zygotes(rig, "runner.py");
        assert!(!stopped.is_empty());
        send(&stopped, Signal::STOP);
        let slowest = at_once(rig, 16, 1)?;
        assert!(slowest < Duration::from_secs(6), "{slowest:?}");
        warm_again(rig)?;
        // Given up while they fork.
        let spec = request("python", "def main(): return 1", limits()).spec();
        let first = mark(rig, "python")?;
        rig.runtime.block_on(async {
            for moment in 0..60_u64 {
                let soon = Duration::from_micros(200 + moment * 50);
                let _ = tokio::time::timeout(soon, rig.native.create(spec.clone())).await;
            }
        });
        let mut next = None;
        eventually("those are gone", || {
            next = mark(rig, "python").ok();
            next.is_some()
        })?;
        assert_eq!(next, Some(first), "that ended the zygote");
        // Killed while others run.
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    send(&zygotes(rig, "runner.py"), Signal::KILL);
                    thread::sleep(Duration::from_millis(15));
                }
            });
            let done = at_once(rig, 4, 50);
            over.store(true, Ordering::Relaxed);
            done
        })?;
        warm_again(rig)?;
        // Of the templates that nobody asks for a zygote may still be due.
        eventually("nothing of them is left", || (1..=before).contains(&at_rest(rig)))?;
        let launcher = rig.launcher().ok_or("no launcher")?;
        let dead = children_of(launcher).into_iter().filter(|pid| is_gone(*pid));
        assert_eq!(dead.collect::<Vec<_>>(), Vec::<u32>::new());
        Ok(())
    });
    with("a_janitor_and_spare_cells_may_end", |_, rigs| {
        let rig = &rigs.bereft;
        mark(rig, "python")?;
        for _ in 0..2 {
            // It is followed by another if it has lived for a second.
            thread::sleep(Duration::from_millis(1100));
            let janitor = named(rig, "ampoule-janitor");
            assert_eq!(janitor.len(), 1);
            send(&janitor, Signal::STOP);
            thread::scope(|scope| {
                let waiting = scope.spawn(|| at_once(rig, 4, 1));
                thread::sleep(Duration::from_millis(300));
                send(&janitor, Signal::KILL);
                waiting.join().map_err(|_| "panicked")?
            })?;
            // More than there are slots.
            at_once(rig, 4, 5)?;
        }
        eventually("the launcher does without", || {
            let janitor = named(rig, "ampoule-janitor");
            send(&janitor, Signal::KILL);
            janitor.is_empty()
        })?;
        at_once(rig, 4, 5)?;
        let spare = || named(rig, "ampoule-cell");
        // More often than there are slots.
        for _ in 0..10 {
            eventually("there is a spare cell", || !spare().is_empty())?;
            let spare = spare();
            send(&spare, Signal::KILL);
            eventually("it is reaped", || spare.iter().all(|pid| is_gone(pid.cast_unsigned())))?;
        }
        at_once(rig, 4, 5).map(drop)
    });
    with("sandboxes_that_were_ready_go_with_their_launcher", |_, rigs| {
        let rig = &rigs.short;
        let spec = request("python", "def main(): return 1", limits()).spec();
        rig.runtime.block_on(async {
            let mut ready = Vec::new();
            for _ in 0..3 {
                ready.push(rig.native.create(spec.clone()).await?);
            }
            assert!(ready.iter().all(|sandbox| sandbox.is_ready()));
            let launcher = i32::try_from(rig.launcher().ok_or("no launcher")?)?;
            send(&[launcher], Signal::KILL);
            for sandbox in ready {
                sandbox.destroy().await?;
            }
            Ok::<_, Failure>(())
        })?;
        // One that is asked for at the very moment may be told so.
        eventually("the next one serves", || mark(rig, "python").is_ok())?;
        warm_again(rig)
    });
}
