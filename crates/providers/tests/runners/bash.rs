//! What Bash programs do to their runner.

use crate::harness::Expect::{Error, Exit, NoFrame, Value};
use crate::harness::{Case, case};

const NO_MAIN: &str = "the program defines no function `main`";

pub(crate) const CASES: &[Case] = &[
    // How `main` is called, and what it finds.
    case("the arguments", "main() { result \"$1\"; }", Value(r#"{"x":[1, "é"]}"#)).with(r#"{"x":[1, "é"]}"#),
    case("a string", "main() { result \"$(json_quote \"${args[s]}\")\"; }", Value("\"a\\u000ab\\\\\\\"é\\u0001\"")).with(r#"{"s":"a\nb\\\"é\u0001"}"#),
    case("other values", "main() { result \"[${args[n]}, ${args[l]}, ${args[o]}, ${args[b]}, ${args[z]}]\"; }", Value(r#"[1.5, [1,2], {"a":1}, true, null]"#))
        .with(r#"{"n":1.5,"l":[1,2],"o":{"a":1},"b":true,"z":null}"#),
    case("an empty string", "main() { result \"\\\"${args[s]}${#args[@]}\\\"\"; }", Value("\"1\"")).with(r#"{"s":""}"#),
    case("arguments are data", "main() { for k in \"${!args[@]}\"; do [[ ${args[$k]} == *touch* ]] || exit 9; done; ls; result 1; }", Value("1"))
        .with(r#"{"a]b":"$(touch pwned)","$(touch pwned)":"touch","`touch pwned`":"`touch pwned`","x[$(touch pwned)]":"'\"; touch","@":"touch","*":"touch"}"#),
    case("code is data", "main() { result '\"$(touch pwned) `x` \\\\ %s \\u0041 \\\\0101 \\\\c\"'; }", Value(r#""$(touch pwned) `x` \\ %s \u0041 \\0101 \\c""#)),
    case("a long text", concat!("main() { result \"${#args[s]}\"; }\n# ", include_str!("zeros.txt")), Value("3")).with(r#"{"s":"é\\n"}"#),
    case("bytes and characters", "main() { result \"[${#args[s]}, \\\"${args[s]:1}\\\"]\"; }", Value(r#"[2, "ß"]"#)).with(r#"{"s":"éß"}"#),
    case("no name", "main() { :; }", Error("ValueError", "has no name", None)).with(r#"{"":1}"#),
    case("a null byte in an argument", "main() { :; }", Error("ValueError", "the value of an argument holds a null byte", None)).with(r#"{"a":"\u0000"}"#),
    case("no null byte", "main() { result \"\\\"${#args[a]}\\\"\"; }", Value("\"3\"")).with(r#"{"a":"\\\\0"}"#),
    case("a null byte in the code", "main() { echo '\0'; }", Error("ValueError", "the code holds a null byte", None)),
    case("line ends of other systems", "main() {\r\n  result 1\r\n}\r\n", Value("1")),
    case("its name", "main() { result \"[\\\"$0\\\", $#, \\\"${BASH_SOURCE[0]}\\\"]\"; }", Value(r#"["main.sh", 1, "./main.sh"]"#)),
    case("stdin", "main() { result \"\\\"$(cat)\\\"\"; }", Value("\"\"")),
    case("globals", "declare -A map=([a]=5)\nmain() { result \"${map[a]}\"; }", Value("5")),
    case("descriptor 3 is free", "main() { exec 3>/dev/null; echo x >&3; result 1; }", Value("1")),
    // Values.
    case("nothing", "main() { :; }", Value("null")),
    case("the last one counts", "main() { result 1; result 2; }", Value("2")),
    case("in a subshell", "main() { result 1; (result 2); }", Value("2")),
    case("from a pipe", "main() { echo '[1]' | result; }", Value("[1]\n")),
    case("from a loop", "main() { printf '1\\n2\\n' | while read -r n; do result \"$n\"; done; }", Value("2")),
    case("on standard output", "main() { echo '{\"forged\": 1}'; printf '5eed value 1\\n1'; }", Value("null")),
    case("noclobber", "set -C; main() { result 1; result 2; }", Value("2")),
    case("two values", "main() { result 1 2; }", Exit(2)).says(&["result: give one JSON text"]),
    case("a null byte in the value", "main() { printf '1\\0' | result; }", Error("ValueError", "the value holds a null byte", None)),
    case("large", "main() { printf -v x '%0100001d' 0; result \"$x\"; }", Error("ValueError", "more than 100000 bytes", None)),
    case("large by bytes", "main() { printf -v x '%060000d' 0; result \"\\\"${x//0/é}\\\"\"; }", Error("ValueError", "more than 100000 bytes", None)),
    // Ends.
    case("exit 3", "main() { exit 3; }", Exit(3)),
    case("exit 3 at the top", "exit 3", Exit(3)),
    case("exit 0", "main() { result 1; exit 0; }", Exit(0)),
    case("another status", "main() { result 1; return 4; }", Exit(4)),
    case("the last command's status", "main() { grep -q x /dev/null; }", Exit(1)),
    case("set -e", "set -e\nmain() { false; result 1; }", Exit(1)),
    case("set -e at the top", "set -e\nfalse\nmain() { result 1; }", Exit(1)),
    case("set -euo pipefail", "set -euo pipefail\nmain() { result 1; }", Value("1")),
    case("set -u", "set -u\nmain() { echo \"$nothing\"; }", Exit(1)).says(&["main.sh: line 2: nothing: unbound variable"]),
    case("an unknown command", "main() { nocommand; }", Exit(127)).says(&["./main.sh: line 1: nocommand: command not found"]),
    case("a child's signal", "main() { bash -c 'kill -9 $$'; }", Exit(137)),
    case("a handler of its own", "main() { trap 'echo bye >&2; exit 5' TERM; kill -TERM $$; }", Exit(5)).says(&["bye"]),
    // Errors.
    case("none", "x=1", Error("NameError", NO_MAIN, None)).says(&["NameError: the program defines no function"]),
    case("syntax", "echo a\nmain() { if; }", Error("SyntaxError", "syntax error near unexpected token `;'", Some(2))).says(&["main.sh: line 2: syntax error"]),
    case("an open quote", "main() { echo 'a; }", Error("SyntaxError", "unexpected EOF", Some(1))),
    // Programs that fight their runner.
    case("traps", "trap 'exit 9' DEBUG ERR EXIT RETURN\nmain() { result 1; }", Exit(9)),
    case("late traps", "main() { trap 'exit 9' EXIT; result 1; }", Value("1")),
    case("no channel", "main() { eval \"exec $__ampoule_channel>&-\"; result 1; }", NoFrame).says(&["ampoule: the program closed the result channel"]),
    case("readonly", "main() { (__ampoule_value=/dev/null) 2>/dev/null; result 1; }", Value("1")),
    case("late work", "main() { sleep 0.2 >/dev/null 2>&1 & result 1; }", Value("1")),
];
