//! What Python programs do to their runner.

use crate::harness::Expect::{Error, Exit, NoFrame, Value};
use crate::harness::{Case, case};

const NO_MAIN: &str = "the program defines no function `main`";
const UNFIT: &str = "main() returned a value that JSON cannot hold";

pub(crate) const CASES: &[Case] = &[
    // How `main` is called.
    case("by name", "def main(a, b=2):\n    return [a, b]", Value("[1,2]")).with(r#"{"a":1}"#),
    case("any name", "def main(**all):\n    return all", Value(r#"{"é":1}"#)).with(r#"{"é":1}"#),
    case("the dictionary", "def main(args):\n    return args", Value(r#"{"x":1,"y":2}"#))
        .with(r#"{"x":1,"y":2}"#),
    case("the dictionary, empty", "def main(args):\n    return args", Value("{}")),
    case("the dictionary beside options", "def main(args, *, f=1):\n    return args", Value(r#"{"x":1}"#))
        .with(r#"{"x":1}"#),
    case("by position only", "def main(args, /):\n    return args", Value(r#"{"x":1}"#)).with(r#"{"x":1}"#),
    case("its own key wins", "def main(args):\n    return args", Value("7")).with(r#"{"args":7}"#),
    case("a default is kept", "def main(args=None):\n    return args", Value("null")),
    case("no parameters", "def main():\n    return 5", Value("5")).with(r#"{"x":1}"#),
    case("a misspelt name", "def main(a):\n    return a", Error("TypeError", "unexpected keyword argument 'b'", None))
        .with(r#"{"b":1}"#),
    case("a missing name", "def main(a, b):\n    return a", Error("TypeError", "missing 1 required", None))
        .with(r#"{"a":1}"#),
    case("no keywords", "def main(*a):\n    return a", Error("TypeError", "unexpected keyword", None))
        .with(r#"{"a":1}"#),
    case("decorated", "import functools\ndef d(f):\n    @functools.wraps(f)\n    def w(*a, **k): return f(*a, **k)\n    return w\n@d\ndef main(args): return args", Value(r#"{"x":1}"#)).with(r#"{"x":1}"#),
    case("a bound method", "class C:\n    def run(self, args): return args\nmain = C().run", Value(r#"{"x":1}"#))
        .with(r#"{"x":1}"#),
    case("an instance", "class C:\n    def __call__(self, x, y=2): return [x, y]\nmain = C()", Value("[1,2]"))
        .with(r#"{"x":1}"#),
    case("a partial", "import functools\nmain = functools.partial(lambda a, b: [a, b], 1)", Value("[1,3]"))
        .with(r#"{"b":3}"#),
    case("a long integer", "def main(n):\n    return n > 10 ** 4400", Value("true"))
        .with(concat!(r#"{"n":1"#, include_str!("zeros.txt"), "}")),
    case("arguments are data", "def main(a):\n    return a", Value(r#""'); import os #\"""#))
        .with(r#"{"a":"'); import os #\""}"#),
    case("asynchronous", "import asyncio\nasync def main(a):\n    await asyncio.sleep(0)\n    return a", Value("1"))
        .with(r#"{"a":1}"#),
    case("a coroutine", "async def f(): raise ValueError('in f')\ndef main(): return f()", Error("ValueError", "in f", Some(1))),
    case("none", "x = 1", Error("NameError", NO_MAIN, None)).says(&["NameError: the program defines no"]),
    case("not callable", "main = 42", Error("TypeError", "`main` is not a function", None)),
    // What the program is told it is.
    case("its name", "def main():\n    import __main__\n    return [__name__, __main__.main is main]", Value(r#"["main",true]"#)),
    case("pickling", "import dataclasses, pickle\n@dataclasses.dataclass\nclass A:\n    x: 'int' = 1\ndef main():\n    return pickle.loads(pickle.dumps(A(3))).x", Value("3")),
    case("child processes", "import multiprocessing as m\ndef sq(x): return x * x\ndef main():\n    with m.get_context('fork').Pool(2) as p: return p.map(sq, [1, 2])", Value("[1,4]")),
    case("stdin", "import sys\ndef main():\n    return sys.stdin.read()", Value("\"\"")),
    case("descriptors", "import os\ndef main():\n    return [n for n in range(10) if os.path.exists(f'/proc/self/fd/{n}')]", Value("[0,1,2,3]")),
    case("the channel is not inherited", "import subprocess\ndef main():\n    return subprocess.call(['sh', '-c', 'echo x >&3'], stderr=-3)", Value("2")),
    case("arguments of the process", "import sys\ndef main():\n    return sys.argv", Value(r#"["main.py"]"#)),
    case("no name of the runner", "import sys\ndef main():\n    return [k for k in sys.modules if 'runner' in k]", Value("[]")),
    case("the source", "import inspect\ndef main():\n    return inspect.getsource(main)[:11]", Value(r#""def main():""#)),
    // Ends without a frame.
    case("sys.exit()", "import sys\ndef main(): sys.exit()", Exit(0)),
    case("sys.exit(3)", "import sys\ndef main(): sys.exit(3)", Exit(3)),
    case("sys.exit(text)", "import sys\ndef main(): sys.exit('bye')", Exit(1)).says(&["bye\n"]),
    case("exit(4)", "exit(4)", Exit(4)),
    case("a huge code", "raise SystemExit(2 ** 70)", Exit(255)),
    case("an evil code", "class E(SystemExit):\n    code = property(lambda s: 1 / 0)\ndef main(): raise E(7)", Exit(7)),
    case("os._exit(0)", "import os\ndef main(): os._exit(0)", Exit(0)),
    case("in the encoder", "class D(dict):\n    def items(self): raise SystemExit(0)\ndef main(): return D(a=1)", Exit(0)),
    case("no channel", "import os\ndef main():\n    os.close(3)\n    return 1", NoFrame).says(&["closed the result channel"]),
    case("another channel", "import os\ndef main():\n    os.close(3); os.open('artifacts/x', os.O_CREAT | os.O_WRONLY)\n    return 1", NoFrame),
    case("no descriptors at all", "import os\ndef main():\n    os.closerange(0, 64)\n    return 1", NoFrame),
    // Errors.
    case("uncaught", "def main():\n    def f():\n        raise KeyError('x')\n    f()", Error("KeyError", "'x'", Some(3)))
        .says(&["Traceback (most recent call last):\n  File \"main.py\", line 4, in main\n    f()\n", "KeyError: 'x'\n"]),
    case("at the top", "raise RuntimeError('top')", Error("RuntimeError", "top", Some(1))).says(&["in <module>"]),
    case("a suggestion", "def main():\n    pritn(1)", Error("NameError", "'pritn'", Some(2))).says(&["Did you mean: 'print'"]),
    case("a chain", "def main():\n    try: 1 / 0\n    except Exception as e: raise ValueError('o') from e", Error("ValueError", "o", Some(3)))
        .says(&["ZeroDivisionError", "direct cause"]),
    case("a library's", "import json\ndef main():\n    json.loads('x')", Error("JSONDecodeError", "Expecting value", Some(3))),
    case("syntax", "def main(:", Error("SyntaxError", "invalid syntax", Some(1))).says(&["File \"main.py\", line 1\n    def main(:\n"]),
    case("tabs", "def main():\n\tif 1:\n        return 1", Error("TabError", "inconsistent", Some(3))),
    case("deep parentheses", concat!("x = ", include_str!("parentheses.txt")), Error("SyntaxError", "too many nested", Some(1))),
    case("interrupt", "def main(): raise KeyboardInterrupt", Error("KeyboardInterrupt", "", Some(1))),
    case("without a text", "class E(BaseException):\n    def __str__(self): raise E()\n    __repr__ = __str__\ndef main(): raise E()", Error("E", "__str__ failed", Some(4)))
        .says(&["main.E"]),
    case("with lies", "class E(Exception):\n    __traceback__ = property(lambda s: 1 / 0)\n    __class__ = property(lambda s: SystemExit)\n    code = 0\ndef main(): raise E('x')", Error("E", "x", Some(5))),
    case("recursion", "def main(): main()", Error("RecursionError", "maximum recursion", Some(1))).says(&["Previous line repeated"]),
    case("memory by hand", "def main(): raise MemoryError('fake')", Error("MemoryError", "fake", Some(1))),
    case("closed streams", "import sys\ndef main():\n    sys.stdout.close(); sys.stderr.close()\n    raise ValueError('x')", Error("ValueError", "x", Some(4)))
        .says(&["ValueError: x"]),
    case("no descriptors left", "import os\ndef main():\n    try:\n        while True: os.open('/dev/null', 0)\n    except OSError: pass\n    raise ValueError('x')", Error("ValueError", "x", Some(6)))
        .says(&["    raise ValueError('x')\n"]),
    // Values.
    case("nothing", "def main(): pass", Value("null")),
    case("text", "def main(): return 'a\\r\\né\"'", Value(r#""a\r\né\"""#)),
    case("keys", "def main(): return {1: 2, None: 3, 1.5: 4}", Value(r#"{"1":2,"null":3,"1.5":4}"#)),
    case("a bad key", "def main(): return {(1, 2): 3}", Error("TypeError", "keys must be str", None)),
    case("nan", "def main(): return [float('nan')]", Error("ValueError", "NaN or an infinite number", None)),
    case("a set", "def main(): return {1}", Error("TypeError", "type `set`; hint: return a list", None)),
    case("bytes", "def main(): return b'x'", Error("TypeError", UNFIT, None)),
    case("a generator", "def main(): yield 1", Error("TypeError", "type `generator`; hint: return a list", None)),
    case("an object", "import pathlib\ndef main(): return [pathlib.Path('.')]", Error("TypeError", "type `pathlib", None)),
    case("a cycle", "def main():\n    a = []; a.append(a)\n    return a", Error("ValueError", "contains itself", None)),
    case("a lone surrogate", "def main(): return '\\ud800'", Error("ValueError", "lone surrogate", None)),
    case("deep", "def main():\n    a = []\n    for _ in range(100): a = [a]\n    return a", Error("ValueError", "deeper than 100 levels", None)),
    case("not too deep", "def main():\n    a = ['[[[\\\\\"{']\n    for _ in range(98): a = [a]\n    return len(str(a)) > 0 and a and 1", Value("1")),
    case("very deep", "import sys\nsys.setrecursionlimit(10 ** 9)\ndef main():\n    a = []\n    for _ in range(10 ** 5): a = [a]\n    return a", Error("ValueError", "nested", None)),
    case("large", "def main(): return ['x'] * 100000", Error("ValueError", "more than 100000 bytes", None)),
    case("a digit too many", "def main(): return 10 ** 5000", Error("ValueError", UNFIT, None)),
    case("subclasses", "class S(str):\n    def encode(s, *a): return b'X'\nclass I(int):\n    def __repr__(s): return 'X'\ndef main(): return [S('s'), I(3)]", Value(r#"["s",3]"#)),
    // Programs that fight their runner.
    case("patched", "import json, sys, os, builtins, atexit, posix\ndef main():\n    json.dumps = lambda *a, **k: 'X'\n    json.encoder.c_make_encoder = None\n    os.write = posix.write = lambda fd, b: len(b)\n    builtins.len = lambda x: 0\n    builtins.isinstance = builtins.type = lambda *a: False\n    sys.stdout = sys.stderr = None\n    sys.excepthook = lambda *a: os._exit(0)\n    sys.settrace(lambda *a: None)\n    atexit.register(lambda: os._exit(0))\n    return {'real': [1, 2, 3]}", Value(r#"{"real":[1,2,3]}"#)),
    case("a tracer that raises", "import sys\ndef main():\n    sys.settrace(lambda *a: 1 / 0)\n    return 1", Value("1")),
    case("no modules", "import sys\ndef main():\n    sys.modules.clear()\n    raise KeyError('a')", Error("KeyError", "'a'", Some(4))),
    case("a raising module", "import sys\nclass M(type(sys)):\n    def __setattr__(s, *a): 1 / 0\n    def __getattribute__(s, *a): 1 / 0\nsys.__class__ = M\ndef main(): raise ValueError('x')", Error("ValueError", "x", Some(6))),
    case("audited", "import sys\ndef main():\n    sys.addaudithook(lambda *a: 1 / 0)\n    return 1", Value("1")),
    case("no builtins", "del __builtins__\ndef main(): return 2", Value("2")),
    case("little recursion", "import sys\ndef main():\n    sys.setrecursionlimit(10)\n    return {'a': [1]}", Value(r#"{"a":[1]}"#)),
    case("finalizers", "import gc\nclass X:\n    def __del__(self): raise SystemExit(3)\nkeep = [X()]\ngc.callbacks.append(lambda *a: 1 / 0)\ndef main():\n    keep.clear()\n    return 1", Value("1")),
    case("late work", "import atexit, threading, time\natexit.register(time.sleep, 600)\ndef main():\n    threading.Thread(target=time.sleep, args=(600,)).start()\n    return 1", Value("1")),
    case("signals", "import signal\nsignal.signal(14, lambda *a: None)\nsignal.setitimer(signal.ITIMER_REAL, 1e-3, 1e-3)\ndef main(): return 1", Value("1")),
    case("a forked child returns", "import os\ndef main():\n    if os.fork() == 0: return 'child'\n    return os.wait()[1]", Value("0")),
    case("a forked child fails", "import os\ndef main():\n    if os.fork() == 0: raise ValueError('child')\n    return os.wait()[1] >> 8", Value("1")).says(&["ValueError: child"]),
    case("buffered output", "import sys\ndef main():\n    sys.stderr = open(2, 'w', closefd=False)\n    print('held back', file=sys.stderr)\n    return 1", Value("1")).says(&["held back"]),
];
