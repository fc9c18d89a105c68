# Runs one program: reads it from descriptor 0, calls its `main`, answers on descriptor 3.
#
#     start -> 0x01 on 3 -> request from 0 -> the program -> one frame on 3 -> _exit
#
# The protocol is `frames` (docs/add-a-language.md). The program shares this interpreter. It can break
# what comes after it, and then there is no result; what it prints never becomes one.

# First, so that the program sees no variable of the runner.
sub Ampoule::evaluate { eval shift }

package Ampoule;

use strict;
use warnings;
use JSON::PP ();
use POSIX    ();

our $started;
my ($channel, $request);
my $own_pid = $$;

sub read_exactly {
    my ($count) = @_;
    my $bytes = '';
    while (length $bytes < $count) {
        my $read = sysread STDIN, $bytes, $count - length $bytes, length $bytes;
        # Nobody wants this interpreter any more.
        POSIX::_exit(1) unless $read;
    }
    return $bytes;
}

sub write_all {
    my ($bytes) = @_;
    for (my $at = 0; $at < length $bytes;) {
        my $written = syswrite $channel, $bytes, length($bytes) - $at, $at;
        return unless $written;
        $at += $written;
    }
    return 1;
}

sub coder { JSON::PP->new->utf8->allow_nonref->allow_bignum->convert_blessed }

# Writes the one frame and leaves. The keys are laid out by hand: the value is JSON already.
sub send_and_leave {
    my ($body, $code) = @_;
    # A child that the program forked has nothing to report.
    POSIX::_exit($code) if $$ != $own_pid;
    my $frame = sprintf('{"nonce":"%s",', $request->{nonce}) . $body . '}';
    unless (write_all(pack('V', length $frame) . $frame)) {
        print STDERR "ampoule: the program closed the result channel\n";
        POSIX::_exit(1);
    }
    POSIX::_exit($code);
}

# Stops what the program may have left to run inside of our own code, and writes out what it left in
# buffers: all handles are flushed before another program would be started, and this one is none.
sub quiet {
    alarm 0;
    $SIG{__DIE__} = $SIG{__WARN__} = 'DEFAULT';
    no warnings 'exec';
    exec { '' } '';
}

sub fail {
    my ($type, $message, $line) = @_;
    quiet();
    my %error = (type => $type, message => substr($message, 0, 8192));
    $error{line} = 0 + $line if defined $line;
    send_and_leave('"error":' . coder()->encode(\%error), 1);
}

# Ends with what the program died of.
sub fail_with {
    my ($error) = @_;
    my $type    = ref $error || ($started ? 'Error' : 'SyntaxError');
    my $message = eval { "$error" } // '<an error without a text>';
    print STDERR $message =~ /\n\z/ ? $message : "$message\n";
    my ($line) = $message =~ /at main\.pl line (\d+)/;
    $message =~ s/ at main\.pl line \d+\.\n\z//;
    $message =~ s/\n\z//;
    fail($type, $message, $line);
}

sub encode_value {
    my ($value) = @_;
    my $text = coder()->max_depth($request->{max_depth})->encode($value);
    # Numbers that are none are written as words, which only then have to be told from text.
    if ($text =~ /nan|inf/i && !eval { coder()->decode($text); 1 }) {
        die "NaN or an infinite number\n";
    }
    if (length $text > $request->{max_value_bytes}) {
        die "more than $request->{max_value_bytes} bytes of JSON; hint: write large results to a file in `artifacts/`\n";
    }
    return $text;
}

sub run {
    binmode STDIN, ':raw';
    open $channel, '>&=', 3 or POSIX::_exit(1);
    binmode $channel, ':raw';
    # What was printed before a kill counts.
    $| = 1;
    write_all("\x01");
    $request = JSON::PP->new->utf8->allow_bignum->decode(read_exactly(unpack 'V', read_exactly(4)));
    open STDIN, '<', '/dev/null' or POSIX::_exit(1);
    my $code = $request->{code};
    utf8::upgrade($code);
    $0 = 'main.pl';

    # Set when the program begins: before that, what is wrong is its syntax.
    evaluate("package main; \$Ampoule::started = 1;\n# line 1 \"main.pl\"\n$code\n;1")
        or $@ and fail_with($@);
    unless (defined &main::main) {
        my $message = 'the program defines no function `main`; hint: define `sub main { ... }`';
        print STDERR "NameError: $message\n";
        fail('NameError', $message);
    }
    my $value;
    eval { $value = main::main($request->{arguments} // {}); 1 } or fail_with($@);
    my $text;
    unless (eval { $text = encode_value($value); 1 }) {
        my $message = "main() returned a value that JSON cannot hold: $@";
        $message =~ s/ at \S*runner\.pl line \d+\.?\n?\z//;
        $message =~ s/\n\z//;
        print STDERR "ValueError: $message\n";
        fail('ValueError', $message);
    }
    quiet();
    send_and_leave('"value":' . $text, 0);
}

run();
