"""Runs one program: reads it from descriptor 0, calls its `main`, answers on descriptor 3.

    start -> imports -> 0x01 on 3 -> request from 0 -> the program -> one frame on 3 -> _exit

    start -> imports -> a zygote: forks workers, each of which goes on with 0x01

The program is hostile. It may patch, trace, close and empty whatever Python lets it reach, so:

* everything that is needed after the program has started is taken before, and kept in the cells of
  one function. Code that runs after the program uses no global and no builtin name;
* the value is encoded by the accelerator in C, which nobody can patch, straight from `_json`: the
  package `json` costs 4 ms of imports and is the program's to alter;
* the process leaves by `_exit`: no handler, thread or finalizer of the program runs after the frame.

What a program can do is choose its own value, or fail. It holds descriptor 3 itself, so that much is
true of any runner; whether the run succeeded is decided outside, by other evidence.

Called as `runner.py PACKAGES`, in the working directory of the program, with `-I -S -B -u -X utf8`.
`runner.py PACKAGES --zygote LIBRARY [--rehearse PROGRAM] MODULE...` imports the modules and forks
workers, as the launcher orders on descriptor 3. Up to the fork nothing is of any program; after it the worker is confined.
`-u` because what a program printed before it was killed counts: two system calls a print, measured
at 3 us each line instead of 1.5 us with line buffering, which loses the last unfinished line.
"""


def runner():
    import _io
    import _json
    import _signal
    import _sitebuiltins
    import builtins
    import gc
    import posix
    import sys
    import time

    if sys.version_info < (3, 10):
        found = "found Python %d.%d, need 3.10 or newer; " % sys.version_info[:2]
        posix.write(2, (found + "hint: set `AMPOULE_PYTHON_BIN` to a newer one\n").encode())
        posix._exit(1)

    # Private references to everything that is used once the program has started.
    BaseException = builtins.BaseException
    BlockingIOError = builtins.BlockingIOError
    NameError = builtins.NameError
    OSError = builtins.OSError
    RecursionError = builtins.RecursionError
    SyntaxError = builtins.SyntaxError
    SystemExit = builtins.SystemExit
    TypeError = builtins.TypeError
    UnicodeEncodeError = builtins.UnicodeEncodeError
    ValueError = builtins.ValueError
    callable = builtins.callable
    compile = builtins.compile
    exec = builtins.exec
    getattr = builtins.getattr
    int = builtins.int
    issubclass = builtins.issubclass
    len = builtins.len
    range = builtins.range
    str = builtins.str
    tuple = builtins.tuple
    type = builtins.type
    import_module = builtins.__import__
    system = sys.__dict__
    display_exception = sys.__excepthook__
    set_recursion_limit = sys.setrecursionlimit
    set_trace = sys.settrace
    set_profile = sys.setprofile
    monitoring = getattr(sys, "monitoring", None)
    set_monitoring = monitoring and monitoring.set_events
    disable_collector = gc.disable
    every_object = gc.get_objects
    StringIO = _io.StringIO
    TextIOWrapper = _io.TextIOWrapper
    BufferedWriter = _io.BufferedWriter
    BufferedRandom = _io.BufferedRandom
    mask_signals = _signal.pthread_sigmask
    SIG_BLOCK = _signal.SIG_BLOCK
    every_signal = _signal.valid_signals()
    change_directory = posix.chdir
    close = posix.close
    close_range = posix.closerange
    duplicate = posix.dup2
    fstat = posix.fstat
    get_pid = posix.getpid
    list_directory = posix.listdir
    leave = posix._exit
    open_file = posix.open
    read = posix.read
    set_blocking = posix.set_blocking
    sleep = time.sleep
    unlink = posix.unlink
    write = posix.write
    CREATE = posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_CLOEXEC
    READ = posix.O_RDONLY | posix.O_CLOEXEC
    make_encoder = _json.make_encoder
    quote = _json.encode_basestring
    # Attributes of exceptions and types by their own descriptors: a subclass may override the name.
    traceback_of = BaseException.__dict__["__traceback__"].__get__
    with_traceback = BaseException.with_traceback
    exit_code_of = SystemExit.__dict__["code"].__get__
    syntax_message_of = SyntaxError.__dict__["msg"].__get__
    syntax_line_of = SyntaxError.__dict__["lineno"].__get__
    syntax_file_of = SyntaxError.__dict__["filename"].__get__
    type_name_of = type.__dict__["__name__"].__get__
    type_module_of = type.__dict__["__module__"].__get__
    FunctionType = type(runner)
    runner_file = runner.__code__.co_filename
    to_brackets = builtins.bytes.maketrans(b"{}", b"[]")
    not_brackets = builtins.bytes(builtins.set(range(256)) - builtins.set(b"[]{}"))

    message_limit = 8192
    ordinary_recursion_limit = sys.getrecursionlimit()
    value_letters = frozenset("abc")
    no_main = (
        "the program defines no function `main`; "
        "hint: define `def main(...)` at the top level and return the result from it"
    )
    hints = {
        "DataFrame": "return `value.to_dict('records')`",
        "Decimal": "return `str(value)` or `float(value)`",
        "Series": "return `value.tolist()`",
        "Timestamp": "return `value.isoformat()`",
        "async_generator": "return a list of its items",
        "bytearray": "return text, as in `value.decode()`",
        "bytes": "return text, as in `value.decode()`",
        "date": "return `value.isoformat()`",
        "datetime": "return `value.isoformat()`",
        "frozenset": "return a list, as in `sorted(value)`",
        "generator": "return a list, as in `list(value)`",
        "ndarray": "return `value.tolist()`",
        "set": "return a list, as in `sorted(value)`",
    }
    workspace = posix.getcwd()
    program_file = workspace.rstrip("/") + "/main.py"

    def is_a(thing, kind):
        # Not `isinstance`: an object may lie about its `__class__`.
        return issubclass(type(thing), kind)

    def attempt(action, *parameters):
        """Gives what an action returns and the error that it raises, one of them None."""
        value = error = None
        try:
            value = action(*parameters)
        except BaseException as caught:
            error = caught
        # At once, before our next call of a function, which is an event to a tracer.
        try:
            set_trace(None)
            set_profile(None)
        except BaseException:
            pass
        return value, error

    # --- descriptors ---------------------------------------------------------------------------

    def write_all(descriptor, data):
        try:
            set_blocking(descriptor, True)
        except BaseException:
            pass
        while data:
            data = data[write(descriptor, data) :]

    def complain(text):
        try:
            write_all(2, text.encode("utf-8", "backslashreplace"))
        except BaseException:
            pass

    def read_exactly(count, part):
        parts = [part]
        while part and count > len(part):
            count -= len(part)
            part = read(0, count if count < 1 << 20 else 1 << 20)
            parts.append(part)
        if not part:
            # Nobody wants this interpreter any more.
            leave(1)
        return b"".join(parts)

    def read_request():
        length = int.from_bytes(read_exactly(4, wait_for_request()), "little")
        return parse(read_exactly(length, read(0, length if length < 1 << 20 else 1 << 20)).decode("utf-8"))

    class Context:
        strict = True
        object_hook = object_pairs_hook = parse_constant = None
        parse_float = builtins.float
        parse_int = int
        memo = {}

    scan = _json.make_scanner(Context)

    def parse(text):
        # An argument may be a longer integer than Python reads by default.
        set_digits = getattr(sys, "set_int_max_str_digits", None)
        digits = set_digits and sys.get_int_max_str_digits()
        if set_digits:
            set_digits(0)
        request, _ = scan(text, 0)
        if set_digits:
            set_digits(digits)
        return request

    def open_null():
        try:
            return open_file("/dev/null", posix.O_RDWR | posix.O_CLOEXEC)
        except OSError:
            # A pipe that nobody writes to says the same: the end of the file.
            null, other = posix.pipe()
            close(other)
            return null

    def file_identity(descriptor):
        status = fstat(descriptor)
        return status.st_dev, status.st_ino

    # --- the value -----------------------------------------------------------------------------

    def refuse(value):
        kind = type(value)
        name = type_name_of(kind)
        module = type_module_of(kind)
        hint = hints.get(name)
        if hint is None:
            hint = "return text, numbers, booleans, None, lists and dictionaries of these"
            if module == "numpy":
                hint = "return `value.item()`"
        if type(module) is str and module != "builtins" and module != "main":
            name = module + "." + name
        raise TypeError(
            "main() returned a value that JSON cannot hold: an object of type `"
            + name
            + "`; hint: "
            + hint
        )

    def clear_complaint(error):
        """The encoder's own complaint in words that name the cause."""
        text = "".join((str(error),))
        if is_a(error, RecursionError):
            return ValueError("main() returned a value that is nested too deeply")
        if text.startswith("Out of range float"):
            return ValueError(
                "main() returned NaN or an infinite number, which JSON cannot hold; "
                "hint: return None or a string instead"
            )
        if text.startswith("Circular reference"):
            return ValueError("main() returned a value that contains itself, which JSON cannot hold")
        if is_a(error, UnicodeEncodeError):
            return ValueError(
                "main() returned text with a lone surrogate, which is no character; "
                "hint: decode it with `errors='replace'`"
            )
        if text.startswith("main() returned"):
            return error
        return type(error)("main() returned a value that JSON cannot hold: " + text)

    def is_deeper_than(text, most):
        """Whether brackets nest deeper than `most`: every pass takes away the innermost pairs."""
        if text.count(b"[") + text.count(b"{") <= most:
            return False
        parts = text.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = b"".join(parts[::2])
        brackets = outside.translate(to_brackets, not_brackets)
        for _ in range(most):
            brackets = brackets.replace(b"[]", b"")
            if not brackets:
                return False
        return True

    def encode(value, most_bytes, most_depth):
        too_large = (
            "main() returned a value of more than "
            + str(most_bytes)
            + " bytes of JSON; hint: write large results to a file in `artifacts/`"
        )
        if type(value) is str and len(value) > most_bytes:
            raise ValueError(too_large)
        encoder = make_encoder({}, refuse, quote, None, ":", ",", False, False, False)
        text = "".join(encoder(value, 0)).encode("utf-8")
        if len(text) > most_bytes:
            raise ValueError(too_large)
        if is_deeper_than(text, most_depth):
            raise ValueError(
                "main() returned a value that is nested deeper than " + str(most_depth) + " levels"
            )
        return text

    # --- main and its arguments ----------------------------------------------------------------

    def parameters(function):
        """What `inspect.signature` would say of a function, without its 5 ms.

        Gives the names that can be passed by position, those that also go by name, the names that
        must be passed, and whether any other name is taken; or None for anything but a function.
        """
        bound = 0
        for _ in range(100):
            if type(function) is MethodType:
                function, bound = function.__func__, bound + 1
                continue
            if type(function) is not FunctionType:
                return None
            wrapped = function.__dict__.get("__wrapped__")
            if wrapped is None:
                break
            function = wrapped
        code = function.__code__
        count = code.co_argcount
        names = code.co_varnames
        by_position = names[:count][bound:]
        only_by_position = names[: code.co_posonlyargcount][bound:]
        only_by_name = names[count : count + code.co_kwonlyargcount]
        defaults = len(function.__defaults__ or ())
        required = by_position[: len(by_position) - defaults] if defaults else by_position
        named_defaults = function.__kwdefaults__ or {}
        required += tuple([name for name in only_by_name if name not in named_defaults])
        by_name = by_position[len(only_by_position) :] + only_by_name
        takes_any_name = code.co_flags & 0x08
        takes_nothing = not by_position and not only_by_name and not code.co_flags & 0x0C
        return by_position, by_name, required, takes_any_name, takes_nothing

    def parameters_by_inspection(main):
        """The same for a class, a partial, an instance: rare enough to import for."""
        import_module("inspect")
        kinds = {}
        required = ()
        for parameter in system["modules"]["inspect"].signature(main).parameters.values():
            kind = int(parameter.kind)
            kinds.setdefault(kind, []).append(parameter.name)
            if kind in (0, 1, 3) and parameter.default is parameter.empty:
                required += (parameter.name,)
        by_position = tuple(kinds.get(0, []) + kinds.get(1, []))
        by_name = tuple(kinds.get(1, []) + kinds.get(3, []))
        return by_position, by_name, required, 4 in kinds, not kinds

    def call(main, arguments):
        """Calls `main` as the contract says: by name, else with the dictionary, else with nothing."""
        known = parameters(main)
        if known is None:
            try:
                known = parameters_by_inspection(main)
            except (TypeError, ValueError):
                return main(**arguments)
        by_position, by_name, required, takes_any_name, takes_nothing = known
        missing = [name for name in required if name not in by_name or name not in arguments]
        unknown = [name for name in arguments if name not in by_name]
        if not missing and (takes_any_name or not unknown):
            return main(**arguments)
        if takes_nothing:
            return main()
        if len(by_position) == 1 and by_position[0] not in arguments:
            # `main(a)` with `{"b": 1}` is a mistake in a name, not a wish for the dictionary: both
            # are letters that people number values with. The interpreter says so below.
            counted = by_position[0] in value_letters and len(arguments) == 1
            if not (counted and [name for name in arguments if name in value_letters]):
                return main(arguments)
        return main(**arguments)

    async def wait_for(value):
        return await value

    def run_program(code, namespace, arguments):
        # Before the program can be in the way: it costs 20 ms, and only such a program needs it.
        run_async = import_module("asyncio").run if "async" in code else None
        exec(compile(code, "main.py", "exec", 0, True), namespace)
        main = namespace.get("main", namespace)
        if main is namespace:
            raise NameError(no_main)
        if not callable(main):
            raise TypeError(
                "`main` is not a function but an object of type `"
                + type_name_of(type(main))
                + "`; hint: define `def main(...)`"
            )
        value = call(main, arguments)
        if getattr(type(value), "__await__", None) is not None:
            run_async = run_async or import_module("asyncio").run
            value = run_async(wait_for(value))
        return value

    # --- the end -------------------------------------------------------------------------------

    def quiet():
        """Stops what the program may have left to run inside of our own code."""
        attempt(set_recursion_limit, ordinary_recursion_limit)
        attempt(mask_signals, SIG_BLOCK, every_signal)
        attempt(disable_collector)

    def flush(stream):
        stream.flush()

    def flush_everything():
        """Writes out what the program left in buffers, as the interpreter's own end would."""
        for stream in (own_stdout, own_stderr, system.get("stdout"), system.get("stderr")):
            if stream is not None:
                attempt(flush, stream)
        # The four of its own, and the one that the listing itself takes.
        held, error = attempt(list_directory, "/proc/self/fd")
        if error is None and len(held) <= 5:
            return
        found, _ = attempt(every_object)
        for thing in found or ():
            kind = type(thing)
            if kind is TextIOWrapper or kind is BufferedWriter or kind is BufferedRandom:
                # Regular files only: a pipe could keep us waiting.
                descriptor, error = attempt(kind.fileno, thing)
                if error is None and type(descriptor) is int and descriptor > 3:
                    status, error = attempt(fstat, descriptor)
                    if error is None and status.st_mode & 0o170000 == 0o100000:
                        attempt(kind.flush, thing)

    def without_runner(traceback):
        """The part of a traceback that begins with the program's own frames."""
        while traceback is not None and traceback.tb_frame.f_code.co_filename != "main.py":
            traceback = traceback.tb_next
        return traceback

    def is_own(error):
        """Whether an error came from our own code, with no code but ours and C's involved."""
        traceback = traceback_of(error)
        while traceback is not None:
            if traceback.tb_frame.f_code.co_filename != runner_file:
                return False
            traceback = traceback.tb_next
        return True

    def restore_source(source):
        """Puts the program's file back, if it was altered, for the lines in its traceback."""
        change_directory(workspace)
        try:
            descriptor = open_file(program_file, READ)
            if read(descriptor, len(source) + 1) == source:
                return close(descriptor)
            close(descriptor)
        except OSError:
            # It may be gone, or the program holds every descriptor. It needs none any more.
            close_range(4, 65536)
        attempt(unlink, program_file)
        write_source(source)

    def create_source():
        return open_file(program_file, CREATE, 0o644)

    def write_source(source, descriptor=None):
        if descriptor is None:
            descriptor = create_source()
        try:
            write_all(descriptor, source)
        finally:
            close(descriptor)

    def text_of(error):
        kind = type(error)
        if is_a(error, SyntaxError):
            text = syntax_message_of(error)
            if type(text) is str:
                return text
        text, failure = attempt(str, error)
        if failure is not None:
            return "<" + type_name_of(kind) + " without a text: its __str__ failed>"
        # A subclass of str may have methods of its own.
        return "".join((text,)) if type(text) is str else str.__str__(text)

    def line_of(error):
        """The program's last line in the traceback, or the line of its syntax error."""
        line = None
        traceback = traceback_of(error)
        while traceback is not None:
            if traceback.tb_frame.f_code.co_filename == "main.py":
                line = traceback.tb_lineno
            traceback = traceback.tb_next
        if line is None and is_a(error, SyntaxError) and syntax_file_of(error) == "main.py":
            line = syntax_line_of(error)
        return line if type(line) is int else None

    def message_of(error):
        message = text_of(error)
        return message if len(message) <= message_limit else message[:message_limit] + "..."

    def show(error, kind, message):
        """Prints the traceback as the interpreter would, from the program's first frame on."""
        captured = StringIO()
        system["stderr"] = captured
        _, failure = attempt(trim, error)
        if failure is None:
            attempt(display_exception, type(error), error, traceback_of(error))
        complain(captured.getvalue() or kind + ": " + message + "\n")

    def trim(error):
        with_traceback(error, without_runner(traceback_of(error)))

    def json_text(text):
        return quote(text.encode("utf-8", "backslashreplace").decode("utf-8"))

    def send(body):
        """Writes the one frame, if the pipe that it is due to is still there."""
        nonlocal sent
        if sent:
            return
        sent = True
        try:
            if file_identity(3) == result_pipe:
                write_all(3, len(body).to_bytes(4, "little") + body)
                # Whoever reads it ends all of us: sooner than this process could end by itself.
                return sleep(0.1)
        except BaseException:
            pass
        complain("ampoule: the program closed the result channel\n")
        leave(1)

    def exit_as_asked(error):
        """Ends as SystemExit says; without a frame, because `main` did not return."""
        code = exit_code_of(error)
        if code is None:
            leave(0)
        if is_a(code, int):
            code = int.__int__(code)
            leave(code & 0xFF if -(1 << 63) <= code < 1 << 63 else 255)
        text, failure = attempt(str, code)
        complain(("<object>" if failure else str.__str__(text)) + "\n")
        leave(1)

    def finish(value, error):
        quiet()
        body = None
        if error is None:
            body, error = attempt(encode, value, most_bytes, most_depth)
            if error is not None and is_own(error):
                error = clear_complaint(error)
        flush_everything()
        quiet()
        if is_a(error, SystemExit):
            exit_as_asked(error)
        if error is not None:
            attempt(restore_source, source)
            kind, message = type_name_of(type(error)), message_of(error)
            line, _ = attempt(line_of, error)
            attempt(show, error, kind, message)
            body = '"error":{"type":' + json_text(kind) + ',"message":' + json_text(message)
            if line is not None:
                body += ',"line":' + str(line)
            body = (body + "}").encode("utf-8")
        else:
            body = b'"value":' + body
        # A child that the program forked ends here like its parent, but has nothing to report.
        if get_pid() == own_pid:
            send(b'{"nonce":"' + nonce + b'",' + body + b"}")
        leave(0 if error is None else 1)

    # --- what the program finds ----------------------------------------------------------------

    class Loader:
        """Gives the program's source to whoever asks its module."""

        def get_source(self, name=None):
            return code

    MethodType = type(Loader().get_source)

    def make_module():
        # What `site` would have added.
        builtins.exit = _sitebuiltins.Quitter("exit", "Ctrl-D (i.e. EOF)")
        builtins.quit = _sitebuiltins.Quitter("quit", "Ctrl-D (i.e. EOF)")
        builtins.help = _sitebuiltins._Helper()
        builtins.copyright = _sitebuiltins._Printer("copyright", sys.copyright)
        builtins.credits = _sitebuiltins._Printer("credits", "See www.python.org.")
        builtins.license = _sitebuiltins._Printer("license", "See www.python.org.")
        # Behind the standard library: what the program writes shadows nothing of it.
        sys.path += sys.argv[1:2]
        sys.path.append(workspace)
        del sys.orig_argv[len(sys.orig_argv) - len(sys.argv) + 2 :]
        sys.argv[:] = ["main.py"]
        module = type(sys)("main")
        module.__dict__.update(__file__=program_file, __loader__=Loader(), __builtins__=builtins)
        # Under both names: pickle and dataclasses look for the first, multiprocessing for the second.
        sys.modules["main"] = sys.modules["__main__"] = module
        return module.__dict__

    # --- the zygote ----------------------------------------------------------------------------

    def rehearsal():
        """Goes the way of a request, step by step: code is specialised, and pages are there."""
        stage = type(sys)("main").__dict__
        stage.update(namespace)
        request = parse(
            '{"nonce":"0","code":"import sys\\ndef main(a, b=2):\\n    return {\'l\': [a, b, 1.5, None]}\\n",'
            '"arguments":{"a":1},"max_value_bytes":1000,"max_depth":10}'
        )
        yield
        value, _ = attempt(run_program, request["code"], stage, request["arguments"])
        yield
        attempt(encode, value, request["max_value_bytes"], request["max_depth"])
        attempt(flush_everything)
        if own_rehearsal is not None:
            yield
            stage = type(sys)("main").__dict__
            stage.update(namespace)
            value, _ = attempt(run_program, own_rehearsal, stage, {})
            attempt(encode, value, 1 << 20, 100)

    def wait_for_request():
        """Gives the first bytes of the request, and rehearses until they come."""
        set_blocking(0, False)
        head = None
        for _ in rehearsal():
            try:
                head = read(0, 4)
                break
            except BlockingIOError:
                pass
        set_blocking(0, True)
        return read(0, 4) if head is None else head

    def become_zygote(library, modules):
        """Imports ahead and serves the launcher's orders; returns in a worker."""
        for name in modules:
            import_module(name)
        knows_ctypes = "_ctypes" in system["modules"]
        import _ctypes

        class Result(_ctypes._SimpleCData):
            _type_ = "i"

        class Function(_ctypes.CFuncPtr):
            _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_PYTHONAPI
            _restype_ = Result

        serve = Function(_ctypes.dlsym(_ctypes.dlopen(library, 2), "ampoule_inside_python"))
        # A thread that an import has started may be about to end.
        for _ in range(1000):
            if posix.stat("/proc/self/task").st_nlink <= 3:
                break
            import_module("time").sleep(0.001)
        for _ in range(8):
            for _ in rehearsal():
                pass
        remember_pipes()
        if not knows_ctypes:
            del system["modules"]["_ctypes"]
        gc.collect()
        gc.freeze()
        if serve() != 0:
            leave(0)
        reseed()

    def remember_pipes():
        """Has the streams find pipes: they keep what they found, which in a zygote is a device."""
        pipe = posix.pipe()
        for number, stream in (0, sys.stdin), (1, sys.stdout), (2, sys.stderr):
            kept = posix.dup(number)
            duplicate(pipe[number > 0], number)
            raw = _io.FileIO(number, "wb" if number else "rb", closefd=False)
            raw.name = stream.name
            stream.__init__(
                raw if number else _io.BufferedReader(raw),
                encoding=stream.encoding,
                errors=stream.errors,
                newline="\n",
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            duplicate(kept, number)
            close(kept)
        for end in pipe:
            close(end)

    def reseed():
        """Gives a worker random numbers of its own; Python's own module sees to itself."""
        numpy_random = sys.modules.get("numpy.random")
        if numpy_random is not None:
            numpy_random.seed()

    arguments = sys.argv[2:]
    own_rehearsal = arguments[3] if arguments[2:3] == ["--rehearse"] else None
    namespace = make_module()
    own_stdout, own_stderr = sys.stdout, sys.stderr
    if arguments[:1] == ["--zygote"]:
        try:
            become_zygote(arguments[1], arguments[2 if own_rehearsal is None else 4 :])
        except BaseException as error:
            # Nobody's program is near: the launcher is told.
            posix.write(3, ("E" + type(error).__name__ + ": " + str(error)).encode()[:200])
            leave(1)

    posix.set_inheritable(3, False)
    result_pipe = file_identity(3)
    sent = False

    write_all(3, b"\x01")
    # What can be opened before there is a request.
    null = open_null()
    source_file, _ = attempt(create_source)
    request = read_request()
    duplicate(null, 0)
    close(null)

    own_pid = get_pid()
    nonce = request["nonce"].encode("ascii")
    code = request["code"]
    if code[:1] == "\ufeff":
        code = code[1:]
    source = code.encode("utf-8", "replace")
    arguments = request.get("arguments") or {}
    most_bytes = request["max_value_bytes"]
    most_depth = request["max_depth"]
    request = None
    # A full or read-only workspace is no reason not to run: only source lines will be missing.
    attempt(write_source, source, source_file)

    def go():
        value, error = attempt(run_program, code, namespace, arguments)
        for tool in range(6 if set_monitoring else 0):
            try:
                set_monitoring(tool, 0)
            except BaseException:
                pass
        # A tracer, a handler or an audit hook of the program may break our end; once is an error
        # of the program, again and again is no end at all.
        for _ in range(3):
            _, error = attempt(finish, value, error)

    return go


# Nothing of the runner stays reachable by name: no global, and no module in `sys.modules`.
go = runner()
try:
    globals().pop("go")()
finally:
    # Only what tears our own code apart comes here, and without a frame that is a failure.
    import posix

    posix._exit(1)
