# Runs one program: reads it from descriptor 0, sources it, calls its `main`, answers on descriptor 3.
#
#     start -> 0x01 on 3 -> request from 0 -> the program -> one result on 3 -> exit
#
# The protocol is `text` (docs/add-a-language.md). The program shares this shell, so that `exit`,
# `set -e`, a signal and a status end it as they end any script. It can break what comes after it, and
# then there is no result; what it prints never becomes one.

# What looks unused, unset or unreachable here is the program's to use, or set by name.
# shellcheck shell=bash disable=SC1091,SC2034,SC2154,SC2317

# Scripts use descriptor 3 for themselves, and the shell those from 10 on: the channel moves out of
# their way.
exec 200>&3 3>&-
BASH_ARGV0=main.sh
# In a file, because `result` may be called in a subshell or at the end of a pipe.
readonly __ampoule_channel=200 __ampoule_value=$TMPDIR/.value.$$

# Reads one item of the request: its name and its text, with the escapes still in it.
__ampoule_read() {
    # A length counts bytes.
    local LC_ALL=C length
    IFS=' ' read -r __ampoule_name length || exit 1
    __ampoule_text=
    if ((length > 0)); then
        IFS= read -r -N "$length" __ampoule_text || exit 1
    fi
    IFS= read -r _ || exit 1
}

# Puts an item's text into a variable without its escapes.
__ampoule_plain() {
    # Without the backslashes that stand for themselves, what is left begins an escape.
    if [[ $__ampoule_text == *'\0'* && ${__ampoule_text//\\\\/} == *'\0'* ]]; then
        __ampoule_fail ValueError '' "the $2 holds a null byte, which a shell cannot"
    fi
    printf -v "$1" %b "$__ampoule_text"
}

# Writes the one result: its kind and its text.
__ampoule_send() {
    local LC_ALL=C
    if ! printf '%s %s %d\n%s' "$__ampoule_nonce" "$1" "${#2}" "$2" >&"$__ampoule_channel"; then
        printf 'ampoule: the program closed the result channel\n' >&201
        exit 1
    fi 201>&2 2>/dev/null
}

# Ends with an error: its type, the line of the program or nothing, its message.
__ampoule_fail() {
    [[ $1 == SyntaxError ]] || printf '%s: %s\n' "$1" "$3" >&2
    __ampoule_send error "$1"$'\n'"$2"$'\n'"${3:0:8192}"
    exit 1
}

# Gives the value: one JSON text, or standard input. What was given before is replaced.
result() {
    case $# in
    0) command -p cat >|"$__ampoule_value" ;;
    1) printf '%s' "$1" >|"$__ampoule_value" ;;
    *)
        printf 'result: give one JSON text, or none to have standard input read\n' >&2
        return 2
        ;;
    esac
}

# Prints a text as a JSON string.
json_quote() {
    local text=$1 code character escape
    text=${text//\\/\\\\}
    text=${text//\"/\\\"}
    if [[ $text == *[$'\x01'-$'\x1f']* ]]; then
        for ((code = 1; code < 32; code++)); do
            printf -v escape '\\u%04x' "$code"
            printf -v character '%b' "\\x${escape:4}"
            text=${text//"$character"/"$escape"}
        done
    fi
    printf '"%s"' "$text"
}

# Says where a program cannot be parsed, if it cannot: the shell has told people already.
__ampoule_check_syntax() {
    local said
    if ! said=$("$BASH" -n ./main.sh 2>&1) && [[ $said =~ line\ ([0-9]+):\ ([^$'\n']*) ]]; then
        __ampoule_fail SyntaxError "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}"
    fi
}

# Ends with the value, now that `main` has returned.
__ampoule_finish() {
    local value=null LC_ALL=C
    if [[ -e $__ampoule_value ]]; then
        # Up to a null byte, which is an error to find.
        if IFS= read -r -d '' value <"$__ampoule_value"; then
            __ampoule_fail ValueError '' 'the value holds a null byte, which JSON cannot'
        fi
    fi
    if ((${#value} > __ampoule_most)); then
        __ampoule_fail ValueError '' "the value is more than $__ampoule_most bytes of JSON; hint: write large results to a file in \`artifacts/\`"
    fi
    __ampoule_send value "$value"
    exit 0
}

printf '\x01' >&"$__ampoule_channel"

declare -A args=()
while __ampoule_read; do
    case $__ampoule_name in
    nonce) readonly __ampoule_nonce="$__ampoule_text" ;;
    max_value_bytes) readonly __ampoule_most="$__ampoule_text" ;;
    code) __ampoule_plain __ampoule_code code ;;
    arguments) __ampoule_plain __ampoule_arguments arguments ;;
    key)
        __ampoule_plain __ampoule_key 'name of an argument'
        if [[ -z $__ampoule_key ]]; then
            __ampoule_fail ValueError '' 'an argument has no name, which a shell array cannot hold'
        fi
        ;;
    string | json)
        __ampoule_plain __ampoule_text 'value of an argument'
        args[$__ampoule_key]=$__ampoule_text
        ;;
    end) break ;;
    esac
done
exec </dev/null

# Line ends of other systems would be part of the last word of each line.
printf '%s' "${__ampoule_code//$'\r\n'/$'\n'}" >main.sh || exit 1
unset __ampoule_code __ampoule_key __ampoule_name __ampoule_text
readonly __ampoule_arguments

# Not `source … ||`, where `set -e` would not hold.
source ./main.sh
__ampoule_status=$?
if ((__ampoule_status != 0)); then
    __ampoule_check_syntax
fi
if ! declare -F main >/dev/null; then
    __ampoule_fail NameError '' "the program defines no function \`main\`; hint: define \`main() { ...; }\` and give its value with \`result JSON\`"
fi
main "$__ampoule_arguments"
__ampoule_status=$?
# Nothing of the program runs inside of what is left.
trap - DEBUG ERR EXIT RETURN
set +eux
if ((__ampoule_status != 0)); then
    exit "$__ampoule_status"
fi
__ampoule_finish
