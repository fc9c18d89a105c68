// Runs one program: reads it from descriptor 0, calls its `main`, answers on descriptor 3.
//
//     start -> 0x01 on 3 -> request from 0 -> the program -> one frame on 3 -> process.reallyExit
//
// The program is hostile. It may patch every prototype and every global, so whatever is used after
// it has started is taken before, and used only in ways that no prototype can reach: bound calls
// instead of methods, `+` instead of templates of objects, indices instead of iterators, no arrays.
// What the program has left to run when `main` returns, a stream or a timer, has half a second; then
// the process leaves by `reallyExit`: no listener, timer or worker runs after the frame.
//
// What a program can do is choose its own value, or fail. It holds descriptor 3 itself, so that
// much is true of any runner; whether the run succeeded is decided outside, by other evidence.
//
// `runner.js PACKAGES --zygote ADDON MODULE...` is a zygote: it loads what programs use, runs a
// program that does nothing, and hands itself to the addon, whose `serve` returns in forked children
// only. They go on as if they had just been started. The zygote never sees a request.
//
// Two deliberate differences from Python: inside a value NaN and infinite numbers become null, and
// functions and undefined are left out, as JSON.stringify has it; as the value itself they are errors.
'use strict';

{
  const fs = require('fs');
  const Module = require('module');
  const path = require('path');
  const util = require('util');
  const vm = require('vm');

  if (parseInt(process.versions.node, 10) < 20) {
    fs.writeSync(2, 'found Node.js ' + process.versions.node + ', need 20 or newer; '
      + 'hint: set `AMPOULE_NODE_BIN` to a newer one\n');
    process.reallyExit(1);
  }

  const uncurry = Function.prototype.bind.bind(Function.prototype.call);
  const apply = Reflect.apply;
  const ownKeys = Reflect.ownKeys;
  const deleteProperty = Reflect.deleteProperty;
  const stringify = JSON.stringify;
  const inspect = util.inspect;
  const isNativeError = util.types.isNativeError;
  const isPromise = util.types.isPromise;
  const isFinite = Number.isFinite;
  const NativeError = Error;
  const NativePromise = Promise;
  const PromisePrototype = Promise.prototype;
  const prototypeOf = Reflect.getPrototypeOf;
  const define = Reflect.defineProperty;
  const toText = String;
  const indexOf = uncurry(String.prototype.indexOf);
  const slice = uncurry(String.prototype.slice);
  const startsWith = uncurry(String.prototype.startsWith);
  const includes = uncurry(String.prototype.includes);
  const trimEnd = uncurry(String.prototype.trimEnd);
  const matches = uncurry(RegExp.prototype.exec);
  const setBytes = uncurry(Uint8Array.prototype.set);
  const subarray = uncurry(Uint8Array.prototype.subarray);
  const Bytes = Uint8Array;
  const encoder = new TextEncoder();
  const encodeText = uncurry(TextEncoder.prototype.encode);
  const wait = Atomics.wait;
  const waitCell = new Int32Array(new SharedArrayBuffer(4));
  const writeSync = fs.writeSync;
  const readSync = fs.readSync;
  const fstatSync = fs.fstatSync;
  const leave = process.reallyExit.bind(process);
  const later = setTimeout;
  const now = Date.now;
  const activeResources = process.getActiveResourcesInfo.bind(process);
  const drainTime = 500;
  const drainStep = 5;
  const listenerCount = process.listenerCount.bind(process);
  const emit = process.emit.bind(process);

  const PLACE = /(?:^|[ (])main\.js:(\d+)(?::(\d+))?\)?$/;
  const FRAME = /^\s+at /;
  const NODE_FRAME = /^\s+at (?:.*[( ])?node:(?:internal|vm)|^\s+\.\.\. \d+ lines matching cause stack trace/;
  const OPENING = / \{$/;
  const LONE_SURROGATE = /(?:^|[^\\])(?:\\\\)*\\ud[89a-f]/;
  const MODULE_SYNTAX =
    /Cannot use import statement outside a module|Unexpected token 'export'|await is only valid in|import\.meta/;
  const messageLimit = 8192;
  const workspace = process.cwd();
  const programFile = path.join(workspace, 'main.js');
  const runnerFile = __filename;

  // What the common prototypes hold before the program runs, to put them back at the end.
  const clean = [
    Object.prototype, Array.prototype, String.prototype, Number.prototype, Boolean.prototype,
    Function.prototype, Uint8Array.prototype, Object.getPrototypeOf(Uint8Array.prototype),
  ].map((prototype) => ({ prototype, names: new Set(ownKeys(prototype)) }));
  const has = uncurry(Set.prototype.has);

  // --- descriptors ---------------------------------------------------------------------------

  // A pipe is blocking until something sets it otherwise, which the program can do.
  const writeAll = (descriptor, bytes) => {
    let offset = 0;
    while (offset < bytes.length) {
      try {
        offset += writeSync(descriptor, bytes, offset, bytes.length - offset);
      } catch (error) {
        if (error.code !== 'EAGAIN') throw error;
        wait(waitCell, 0, 0, 1);
      }
    }
  };

  const complain = (text) => {
    try {
      writeAll(2, encodeText(encoder, text));
    } catch {
      // Closed by the program; the verdict does not need it.
    }
  };

  const readExactly = (count, from = 0) => {
    const bytes = new Bytes(count);
    let offset = 0;
    while (offset < count) {
      const got = readSync(from, bytes, offset, count - offset, null);
      // Nobody wants this interpreter any more.
      if (got === 0) leave(1);
      offset += got;
    }
    return bytes;
  };

  const lengthOf = (head) => new DataView(head.buffer).getUint32(0, true);
  const parse = (bytes) => JSON.parse(new TextDecoder().decode(bytes));
  const readRequest = () => parse(readExactly(lengthOf(readExactly(4))));

  // The lowest free descriptor is the one just closed.
  const closeRequestPipe = () => {
    fs.closeSync(0);
    try {
      fs.openSync('/dev/null', 'r+');
    } catch {
      // Without it the program's stdin is a closed descriptor: an error, not a wait.
    }
  };

  const identity = (descriptor) => {
    const status = fstatSync(descriptor, { bigint: true });
    return status.dev + ':' + status.ino;
  };

  // Node writes to a pipe without waiting and forgets what did not fit when the process ends, so
  // both streams write at once, as Node's own do when they lead to a file.
  const makeSynchronous = (name, descriptor) => {
    let stream;
    const get = () => {
      if (stream) return stream;
      const { Writable } = require('stream');
      stream = new Writable({
        decodeStrings: true,
        write(chunk, encoding, done) {
          try {
            writeAll(descriptor, chunk);
          } catch (error) {
            return done(error.code === 'EPIPE' || error.code === 'EBADF' ? null : error);
          }
          done();
        },
      });
      stream.fd = descriptor;
      stream._type = 'fs';
      stream._isStdio = true;
      stream.destroySoon = stream.destroy;
      stream._destroy = (error, done) => done(error);
      return stream;
    };
    Object.defineProperty(process, name, { configurable: true, enumerable: true, get });
  };

  // --- the value -----------------------------------------------------------------------------

  // Errors of ours, told from the program's by being in this set.
  const failures = new WeakSet();
  const isFailure = uncurry(WeakSet.prototype.has);
  const addFailure = uncurry(WeakSet.prototype.add);
  const fail = (type, message) => {
    const failure = { type, message };
    addFailure(failures, failure);
    return failure;
  };

  // Takes away what the program added to the common prototypes: a `toJSON` there would replace
  // every value, and Node's own file calls look at plain objects.
  const scrub = () => {
    for (let index = 0; index < clean.length; index += 1) {
      const { prototype, names } = clean[index];
      const now = ownKeys(prototype);
      for (let at = 0; at < now.length; at += 1) {
        if (has(names, now[at])) continue;
        if (!deleteProperty(prototype, now[at]) && now[at] === 'toJSON') {
          throw fail('TypeError', 'the program fixed a `toJSON` on a common prototype, which replaces every value');
        }
      }
    }
  };

  const depthOf = (bytes) => {
    let depth = 0;
    let deepest = 0;
    let quoted = false;
    for (let index = 0; index < bytes.length; index += 1) {
      const byte = bytes[index];
      if (quoted) {
        if (byte === 0x5c) index += 1;
        else if (byte === 0x22) quoted = false;
      } else if (byte === 0x22) quoted = true;
      else if (byte === 0x5b || byte === 0x7b) {
        depth += 1;
        if (depth > deepest) deepest = depth;
      } else if (byte === 0x5d || byte === 0x7d) depth -= 1;
    }
    return deepest;
  };

  const NO_VALUE = 'main() must return a value. Use null for an empty result.';

  // Gives the JSON as bytes, or throws a failure of ours, or whatever the program's own getters throw.
  const encode = (value, mostBytes, mostDepth) => {
    const kind = typeof value;
    if (kind === 'undefined') throw fail('TypeError', NO_VALUE);
    if (kind === 'function' || kind === 'symbol' || kind === 'bigint') {
      const hint = kind === 'bigint' ? '; hint: return `String(value)` or `Number(value)`' : '';
      throw fail('TypeError', 'main() returned a ' + kind + ', which JSON cannot hold' + hint);
    }
    if (kind === 'number' && !isFinite(value)) {
      throw fail(
        'TypeError',
        'main() returned ' + toText(value) + ', which JSON cannot hold; hint: return null or a string instead',
      );
    }
    let text;
    try {
      text = stringify(value);
    } catch (error) {
      const message = isNativeError(error) ? toText(error.message) : '';
      if (startsWith(message, 'Converting circular structure')) {
        throw fail('TypeError', 'main() returned a value that contains itself, which JSON cannot hold');
      }
      if (startsWith(message, 'Maximum call stack size')) {
        throw fail('RangeError', 'main() returned a value that is nested too deeply');
      }
      if (includes(message, 'serialize a BigInt')) {
        throw fail(
          'TypeError',
          'main() returned a value with a BigInt, which JSON cannot hold; hint: use `String(value)` or `Number(value)`',
        );
      }
      if (startsWith(message, 'Invalid string length')) {
        throw fail('RangeError', 'main() returned a value that is too large');
      }
      throw error;
    }
    if (typeof text !== 'string') throw fail('TypeError', NO_VALUE);
    if (indexOf(text, '\\ud') >= 0 && matches(LONE_SURROGATE, text) !== null) {
      throw fail(
        'TypeError',
        'main() returned text with a lone surrogate, which is no character; hint: use `text.toWellFormed()`',
      );
    }
    const bytes = encodeText(encoder, text);
    if (bytes.length > mostBytes) {
      throw fail(
        'RangeError',
        'main() returned a value of more than ' + mostBytes +
          ' bytes of JSON; hint: write large results to a file in `artifacts/`',
      );
    }
    if (depthOf(bytes) > mostDepth) {
      throw fail('RangeError', 'main() returned a value that is nested deeper than ' + mostDepth + ' levels');
    }
    return bytes;
  };

  // --- errors --------------------------------------------------------------------------------

  const guarded = (action, otherwise) => {
    try {
      const value = action();
      return typeof value === 'string' ? value : otherwise;
    } catch {
      return otherwise;
    }
  };

  const isObject = (value) => (typeof value === 'object' && value !== null) || typeof value === 'function';

  const typeOf = (error) => {
    if (!isObject(error)) return error === null ? 'null' : typeof error;
    const name = guarded(() => error.name, '');
    if (name !== '') return name;
    return guarded(() => error.constructor.name, '') || 'Object';
  };

  const messageOf = (error) => {
    if (isObject(error)) {
      const message = guarded(() => error.message, '');
      if (message !== '' || isNativeError(error)) return message;
      return guarded(() => inspect(error), '<an object without a text>');
    }
    return guarded(() => (typeof error === 'symbol' ? inspect(error) : toText(error)), '');
  };

  // Walks the lines of a text without an iterator or a method that a prototype lends.
  const eachLine = (text, visit) => {
    let start = 0;
    for (;;) {
      const end = indexOf(text, '\n', start);
      visit(end < 0 ? slice(text, start) : slice(text, start, end));
      if (end < 0) return;
      start = end + 1;
    }
  };

  // Keeps the frames of the program and its libraries: none of the runner, none of Node's insides.
  const withoutRunner = (text) => {
    let kept = '';
    eachLine(text, (line) => {
      if (!includes(line, runnerFile) && matches(NODE_FRAME, line) === null) {
        kept += (kept === '' ? '' : '\n') + line;
      } else if (matches(OPENING, line) !== null) {
        // The properties of the error follow.
        kept += ' {';
      }
    });
    return kept;
  };

  // The innermost place in the program that a stack names.
  const placeIn = (stack) => {
    let place;
    eachLine(stack, (line) => {
      if (place !== undefined) return;
      const isFrame = matches(FRAME, line) !== null;
      const found = isFrame || startsWith(line, 'main.js:') ? matches(PLACE, trimEnd(line)) : null;
      if (found !== null) place = { line: +found[1], column: found[2] === undefined ? 0 : +found[2] };
    });
    return place;
  };

  const sourceLine = (source, number) => {
    let at = 0;
    let wanted = '';
    eachLine(source, (line) => {
      at += 1;
      if (at === number) wanted = line;
    });
    return wanted;
  };

  const spaces = (count) => {
    let text = '';
    while (text.length < count && text.length < 200) text += ' ';
    return text;
  };

  // What Node prints for an uncaught error: where, the line, a mark, the stack.
  const describe = (error, source) => {
    if (isObject(error) && isFailure(failures, error)) {
      return { type: error.type, message: error.message, line: undefined, shown: error.type + ': ' + error.message };
    }
    const type = typeOf(error);
    const message = messageOf(error);
    // A stack is written when it is first read: by the interpreter, not by the program.
    deleteProperty(NativeError, 'prepareStackTrace');
    const stack = isObject(error) ? guarded(() => error.stack, '') : '';
    const place = placeIn(stack);
    let shown = isObject(error) ? withoutRunner(guarded(() => inspect(error), '')) : 'Uncaught ' + message;
    if (shown === '' || !includes(shown, message)) shown = withoutRunner(stack);
    if (shown === '') shown = type + (message === '' ? '' : ': ' + message);
    // The stack of a syntax error begins with its place already.
    if (place !== undefined && !startsWith(shown, 'main.js:') && place.line > 0) {
      const line = sourceLine(source, place.line);
      if (line !== '') {
        const mark = place.column > 0 ? spaces(place.column - 1) + '^\n' : '';
        shown = 'main.js:' + place.line + '\n' + slice(line, 0, 500) + '\n' + mark + '\n' + shown;
      }
    }
    return { type, message, line: place === undefined ? undefined : place.line, shown };
  };

  // --- the end -------------------------------------------------------------------------------

  let request;
  let resultPipe;
  let finished = false;

  const frameOf = (body) => {
    const head = encodeText(encoder, '{"nonce":' + request.nonce + ',');
    const length = head.length + body.length + 1;
    const frame = new Bytes(4 + length);
    frame[0] = length & 0xff;
    frame[1] = (length >>> 8) & 0xff;
    frame[2] = (length >>> 16) & 0xff;
    frame[3] = (length >>> 24) & 0xff;
    setBytes(frame, head, 4);
    setBytes(frame, body, 4 + head.length);
    frame[3 + length] = 0x7d;
    return frame;
  };

  // Writes the one frame and leaves. `body` is what follows the nonce.
  const send = (body, code) => {
    if (finished) leave(1);
    finished = true;
    try {
      if (identity(3) === resultPipe) {
        writeAll(3, frameOf(body));
        // Whoever reads it ends all of us: sooner than this process could end by itself.
        wait(waitCell, 0, 0, 100);
        leave(code);
      }
    } catch {
      // Said below.
    }
    complain('ampoule: the program closed the result channel\n');
    leave(1);
  };

  const failWith = (error) => {
    let told = { type: 'Error', message: 'the error could not be read', line: undefined, shown: '' };
    try {
      told = describe(error, request.source);
    } catch {
      // An error that fights back is still an error.
    }
    complain((told.shown || told.type + ': ' + told.message) + '\n');
    const message = told.message.length > messageLimit ? slice(told.message, 0, messageLimit) + '...' : told.message;
    const line = told.line === undefined ? '' : ',"line":' + told.line;
    const text = '"error":{"type":' + quote(told.type) + ',"message":' + quote(message) + line + '}';
    send(encodeText(encoder, text), 1);
  };

  // A string as JSON without lone surrogates, which are no JSON to others.
  const quote = (text) => {
    const quoted = stringify(text);
    return matches(LONE_SURROGATE, quoted) === null ? quoted : '"(text with lone surrogates)"';
  };

  // The value as the rest of its frame, once `main` has returned.
  let returned;

  // Answers, if nothing stands against it any more.
  const answer = () => send(returned, 0);

  const bodyOf = (value) => {
    const prefix = encodeText(encoder, '"value":');
    const body = new Bytes(prefix.length + value.length);
    setBytes(body, prefix, 0);
    setBytes(body, value, prefix.length);
    return body;
  };

  const succeedWith = (value) => {
    let bytes;
    try {
      scrub();
      bytes = encode(value, request.mostBytes, request.mostDepth);
    } catch (error) {
      return failWith(error);
    }
    scrub();
    returned = bodyOf(bytes);
    drain(now() + drainTime, 0);
  };

  // Looks, without an event that the program could have patched, whether anything is left to run.
  // A timer is still counted while it fires, so that ours is one of them from the second look on.
  const drain = (deadline, ours) => {
    let left = 0;
    try {
      left = activeResources().length;
    } catch {
      // Nobody knows: nothing is waited for.
    }
    if (left <= ours || now() >= deadline) answer();
    later(drain, drainStep, deadline, 1);
  };

  // --- the program ---------------------------------------------------------------------------

  // The loader below works in every version that we take; that it is called experimental is not
  // the program's concern.
  const emitWarning = process.emitWarning;
  process.emitWarning = function (warning) {
    if (typeof warning === 'string' && includes(warning, 'USE_MAIN_CONTEXT_DEFAULT_LOADER')) return undefined;
    return apply(emitWarning, process, arguments);
  };

  const makeModule = () => {
    const module = new Module(programFile, null);
    module.filename = programFile;
    module.paths = Module._nodeModulePaths(workspace);
    // Nothing leads from the program's module to this one.
    delete Module._cache[runnerFile];
    Module._cache[programFile] = module;
    process.mainModule = undefined;
    process.argv.length = 1;
    process.argv[1] = programFile;
    return module;
  };

  const PARAMETERS = ['exports', 'require', 'module', '__filename', '__dirname'];
  // The functions of the source are reached by one more line, which a program that ends early or
  // exports its `main` does not need.
  const REACH = '\n;return { main: typeof main === "undefined" ? undefined : main };';

  const compile = (source) => {
    const options = {
      filename: 'main.js',
      importModuleDynamically: vm.constants && vm.constants.USE_MAIN_CONTEXT_DEFAULT_LOADER,
    };
    try {
      return vm.compileFunction(source + REACH, PARAMETERS, options);
    } catch {
      // Once more without our line: either it was in the way, or the error is shown as it is.
      return vm.compileFunction(source, PARAMETERS, options);
    }
  };

  const hintAtModules = (error) => {
    if (isNativeError(error) && matches(MODULE_SYNTAX, error.message) !== null) {
      error.message += '; hint: programs are CommonJS: use `require(...)`, define `function main(...)`, await inside it';
      error.stack = error.stack.replace(/^(SyntaxError: ).*$/m, (_, name) => name + error.message);
    }
    return error;
  };

  const findMain = (exported, local) => {
    if (isObject(exported) && typeof exported.main === 'function') return exported.main;
    if (typeof exported === 'function') return exported;
    if (isObject(local) && local.main !== undefined) return local.main;
    return isObject(exported) ? exported.main : undefined;
  };

  const run = async (module, programRequire) => {
    let compiled;
    try {
      compiled = compile(request.source);
    } catch (error) {
      return failWith(hintAtModules(error));
    }
    const given = request.arguments;
    try {
      const parameters = [module.exports, programRequire, module, programFile, workspace];
      const local = apply(compiled, module.exports, parameters);
      const main = findMain(module.exports, local);
      if (main === undefined) {
        throw fail(
          'ReferenceError',
          'the program defines no function `main`; hint: define `function main(args)` or set `module.exports = { main }`',
        );
      }
      if (typeof main !== 'function') {
        throw fail('TypeError', '`main` is not a function but of type ' + typeof main + '; hint: define `function main(args)`');
      }
      // A method of the exported object is called as one.
      const exported = module.exports;
      let value = apply(main, isObject(exported) && exported.main === main ? exported : undefined, [given]);
      if (isPromise(value) && prototypeOf(value) === PromisePrototype) {
        // With its own constructor in place, a promise is awaited without a look at `then`.
        define(value, 'constructor', { __proto__: null, value: NativePromise, configurable: true });
        value = await value;
      } else if (isObject(value) && typeof value.then === 'function') {
        value = await value;
      }
      succeedWith(value);
    } catch (error) {
      failWith(error);
    }
  };

  // --- the zygote ----------------------------------------------------------------------------

  // What programs use most. Nothing is visible of a module that was loaded before it is required.
  const FAMILIAR = [
    'assert', 'async_hooks', 'buffer', 'child_process', 'crypto', 'dns', 'events', 'fs/promises', 'http', 'https', 'net',
    'os', 'perf_hooks', 'querystring', 'readline', 'stream', 'stream/promises', 'string_decoder', 'timers/promises',
    'tls', 'url', 'v8', 'worker_threads', 'zlib',
  ];

  // Does what is done for each program, so that it is compiled and its memory is at hand. Nothing
  // here may draw a random number: what has been drawn ahead would be the same in all children.
  const rehearse = (rounds) => {
    const { Writable } = require('stream');
    const nowhere = new console.Console(new Writable({ write: (chunk, encoding, done) => done() }));
    const text = '{"nonce": 0, "code": "", "arguments": {"list": [1, "two", null], "object": {"deep": [{}]}}}';
    const bytes = encodeText(encoder, text);
    const parameters = [{}, require, {}, programFile, workspace];
    for (let round = 0; round < rounds; round += 1) {
      const spare = fs.openSync('/dev/null', 'r+');
      const zero = fs.openSync('/dev/zero', 'r');
      lengthOf(readExactly(4, zero));
      fs.closeSync(zero);
      const raw = parse(bytes);
      fs.writeFileSync('/dev/null', raw.code);
      request = { nonce: stringify(raw.nonce), source: '', mostBytes: 1 << 20, mostDepth: 64 };
      const { main } = apply(compile('function main(input) { return input; } // ' + round), {}, parameters);
      const value = main(raw.arguments);
      nowhere.log('value', value, 1.5);
      scrub();
      const frame = frameOf(bodyOf(encode(value, request.mostBytes, request.mostDepth)));
      activeResources();
      if (identity(spare) !== '') writeAll(spare, frame);
      try {
        apply(compile('function main() { throw new TypeError("rehearsal"); } // ' + round), {}, parameters).main();
      } catch (error) {
        quote(describe(error, '').message);
      }
      fs.closeSync(spare);
    }
    request = undefined;
  };

  const collectGarbage = () => {
    const { setFlagsFromString } = require('v8');
    setFlagsFromString('--expose-gc');
    const collect = vm.runInNewContext('gc');
    setFlagsFromString('--no-expose-gc');
    collect();
    collect();
  };

  // Returns in a child.
  const serveForks = (addon, packages, programRequire) => {
    for (const name of FAMILIAR) require(name);
    // `fetch` and its company are loaded when one of them is looked at.
    void globalThis.Response;
    for (const name of packages) programRequire(name);
    collectGarbage();
    rehearse(3);
    const { exports: inside } = loadAddon(addon);
    // The compiler's threads come to rest.
    wait(waitCell, 0, 0, 50);
    const served = typeof inside.serve === 'function' ? inside.serve() : 'no Node-API';
    if (typeof served === 'string') {
      complain('ampoule: this Node.js cannot be forked: ' + served + '\n');
      leave(1);
    }
    define(process, 'pid', { value: served, writable: false, enumerable: true, configurable: true });
    const { uptime } = process;
    const before = uptime();
    process.uptime = { uptime: () => uptime() - before }.uptime;
    // The pages that a run writes to become the child's own now, and not when it is waited for.
    rehearse(1);
  };

  const loadAddon = (addon) => {
    const module = { exports: {} };
    process.dlopen(module, addon);
    return module;
  };

  try {
    const [, , , mode, addon, ...packages] = process.argv;
    const module = makeModule();
    const programRequire = Module.createRequire(programFile);
    // Before the listeners of the program, which do get what it throws outside of `main`.
    process.setUncaughtExceptionCaptureCallback((error) => {
      if (!finished && listenerCount('uncaughtException') > 0) emit('uncaughtException', error, 'uncaughtException');
      else failWith(error);
    });
    process.on('exit', (code) => {
      if (returned !== undefined && code === 0) answer();
    });
    process.on('beforeExit', () => {
      failWith(fail('Error', 'main() never settled: nothing is left to run, and its promise is still pending'));
    });
    if (mode === '--zygote') serveForks(addon, packages, programRequire);
    resultPipe = identity(3);
    makeSynchronous('stdout', 1);
    makeSynchronous('stderr', 2);
    writeAll(3, new Bytes([1]));
    const raw = readRequest();
    closeRequestPipe();
    request = {
      nonce: stringify(raw.nonce),
      source: raw.code[0] === '\ufeff' ? raw.code.slice(1) : raw.code,
      arguments: raw.arguments || {},
      mostBytes: raw.max_value_bytes,
      mostDepth: raw.max_depth,
    };
    try {
      fs.writeFileSync(programFile, request.source);
    } catch {
      // A full or read-only workspace is no reason not to run.
    }
    run(module, programRequire);
  } catch (error) {
    complain('ampoule: the runner failed: ' + error + '\n');
    leave(1);
  }
}
