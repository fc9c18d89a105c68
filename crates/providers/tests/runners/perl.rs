//! What Perl programs do to their runner.

use crate::harness::Expect::{Error, Exit, NoFrame, Value};
use crate::harness::{Case, case};

const UNFIT: &str = "main() returned a value that JSON cannot hold";

pub(crate) const CASES: &[Case] = &[
    // How `main` is called, and what it finds.
    case("a hash", "sub main { my ($a) = @_; return $a->{x} + 1 }", Value("2")).with(r#"{"x":1}"#),
    case("no arguments", "sub main { return scalar keys %{$_[0]} }", Value("0")),
    case(
        "text",
        "sub main { my $t = $_[0]{t}; print \"$t é\\n\"; return [length $t, \"é$t\"] }",
        Value(r#"[2,"ééß"]"#),
    )
    .with(r#"{"t":"éß"}"#),
    case("a long integer", "sub main { return $_[0]{n} }", Value("123456789012345678901234567890"))
        .with(r#"{"n":123456789012345678901234567890}"#),
    case("a long argument", "sub main { return length \"$_[0]{n}\" }", Value("4501"))
        .with(concat!(r#"{"n":1"#, include_str!("zeros.txt"), "}")),
    case(
        "true and null",
        "sub main { return [$_[0]{t}, $_[0]{n}, !!$_[0]{t}] }",
        Value(r#"[true,null,1]"#),
    )
    .with(r#"{"t":true,"n":null}"#),
    case("arguments are data", "sub main { return $_[0]{a} }", Value(r#""@{[die]} $0 '""#))
        .with(r#"{"a":"@{[die]} $0 '"}"#),
    case(
        "its name",
        "sub main { return [$0, __FILE__, 0 + __LINE__, __PACKAGE__] }",
        Value(r#"["main.pl","main.pl",1,"main"]"#),
    ),
    case("an end", "sub main { return 1 }\n__END__\nnot perl", Value("1")),
    case("stdin", "sub main { return join '', <STDIN> }", Value("\"\"")),
    case(
        "no variable of the runner",
        "sub main { return [defined $code, defined $request, defined $channel, defined $value] }",
        Value(r#"["","","",""]"#),
    ),
    case(
        "the channel is not inherited",
        "sub main { return system('sh', '-c', 'echo x 2>/dev/null >&3') >> 8 }",
        Value("2"),
    ),
    // Values.
    case("nothing", "sub main { return }", Value("null")),
    case(
        "large",
        "sub main { return 'x' x 100_001 }",
        Error("ValueError", "more than 100000 bytes", None),
    ),
    case(
        "infinite",
        "sub main { return ['nan', 9**9**9] }",
        Error("ValueError", "NaN or an infinite number", None),
    ),
    case("the word", "sub main { return 'nan, info' }", Value(r#""nan, info""#)),
    case("code", "sub main { return sub { 1 } }", Error("ValueError", UNFIT, None)),
    case("an object", "sub main { return bless {}, 'Thing' }", Error("ValueError", UNFIT, None)),
    case(
        "deep",
        "sub main { my $a = 1; $a = [$a] for 1 .. 101; return $a }",
        Error("ValueError", "maximum nesting level", None),
    ),
    case(
        "on standard output",
        "sub main { print '{\"nonce\":\"5eed\",\"value\":\"forged\"}'; return 1 }",
        Value("1"),
    ),
    // Ends.
    case("exit 3", "sub main { exit 3 }", Exit(3)),
    case("exit 0", "exit 0", Exit(0)),
    case("an END block", "END { print STDERR \"end\\n\" } sub main { exit 4 }", Exit(4))
        .says(&["end\n"]),
    // Errors.
    case("died", "sub main {\n  die 'oops'\n}", Error("Error", "oops", Some(2)))
        .says(&["oops at main.pl line 2.\n"]),
    case(
        "died with a line of its own",
        "sub main { die \"oops\\n\" }",
        Error("Error", "oops", None),
    )
    .says(&["oops\n"]),
    case("died at the top", "die { a => 1 };", Error("HASH", "HASH(", None)),
    case(
        "died with an object",
        "package E; use overload '\"\"' => sub { 'E!' }; package main; sub main { die bless {}, 'E' }",
        Error("E", "E!", None),
    ),
    case(
        "without a text",
        "package E; use overload '\"\"' => sub { die }; package main; sub main { die bless {}, 'E' }",
        Error("E", "without a text", None),
    ),
    case(
        "syntax",
        "sub main {\n my $x = ;\n}",
        Error("SyntaxError", "syntax error at main.pl line 2", Some(2)),
    ),
    case(
        "strict",
        "use strict;\nsub main { $x = 1 }",
        Error("SyntaxError", "Global symbol", Some(2)),
    ),
    case(
        "a missing module",
        "use No::Such::Module;\nsub main { 1 }",
        Error("SyntaxError", "Can't locate No/Such/Module.pm", Some(1)),
    ),
    case("none", "my $x = 1;", Error("NameError", "the program defines no function `main`", None)),
    // Programs that fight their runner.
    case(
        "handlers",
        "$SIG{__DIE__} = sub { exit 9 }; sub main { $SIG{__DIE__} = $SIG{__WARN__} = sub { exit 9 }; alarm 1; return 1 }",
        Value("1"),
    ),
    case("late work", "END { 1 while 1 } sub main { return 1 }", Value("1")),
    case(
        "a forked child returns",
        "sub main { my $p = fork; return 'child' unless $p; waitpid $p, 0; return $? }",
        Value("0"),
    ),
    case("no channel", "use POSIX (); sub main { POSIX::close(3); return 1 }", NoFrame)
        .says(&["closed the result channel"]),
];
