//! Checks the policy, its compiler and the simulator against each other.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::policy::{Action, Rule, Test};
use super::*;

/// Calls that Python, Node and their usual libraries make, with the variants other C libraries use.
const NEEDED: &str = "
    accept accept4 access alarm arch_prctl bind brk capget chdir chmod chown clock_getres
    clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup dup2
    dup3 epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd
    eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fallocate fchdir
    fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock
    fork fstat fstatfs fsync ftruncate futex futex_requeue futex_wait futex_waitv futex_wake
    futimesat get_mempolicy get_robust_list getcpu getcwd getdents getdents64 getegid
    geteuid getgid getgroups getitimer getpeername getpgid getpgrp getpid getppid
    getpriority getrandom getresgid getresuid getrlimit getrusage getsid getsockname
    getsockopt gettid gettimeofday getuid getxattr inotify_add_watch inotify_init
    inotify_init1 inotify_rm_watch ioprio_get kill lchown lgetxattr link linkat listen
    listxattr llistxattr lseek lstat madvise mbind membarrier memfd_create mincore mkdir
    mkdirat mlock mlock2 mmap mprotect mremap msync munlock munmap nanosleep newfstatat open
    openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free
    pkey_mprotect poll ppoll pread64 preadv preadv2 prlimit64 pselect6 pwrite64 pwritev
    pwritev2 read readlink readlinkat readv recvfrom recvmmsg recvmsg rename renameat
    renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask
    rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo
    sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr
    sched_getparam sched_getscheduler sched_rr_get_interval sched_setaffinity sched_yield
    select sendfile sendmmsg sendmsg sendto set_robust_list set_tid_address setitimer
    setpgid setpriority setrlimit setsid setsockopt shutdown sigaltstack signalfd signalfd4
    splice stat statfs statx symlink symlinkat sync_file_range syncfs sysinfo tee tgkill
    time timer_create timer_delete timer_getoverrun timer_gettime timer_settime
    timerfd_create timerfd_gettime timerfd_settime times tkill truncate umask uname unlink
    unlinkat utime utimensat utimes vfork wait4 waitid write writev
";

/// Calls that undo a fence, reach other tenants or widen the kernel surface.
const DANGEROUS: &str = "
    acct add_key adjtimex bpf capset chroot clock_adjtime clock_settime delete_module
    fanotify_init fanotify_mark finit_module fremovexattr fsconfig fsetxattr fsmount fsopen
    fspick init_module io_setup io_uring_enter io_uring_register io_uring_setup ioperm iopl
    kcmp kexec_file_load kexec_load keyctl landlock_add_rule landlock_create_ruleset
    landlock_restrict_self listmount lookup_dcookie lremovexattr lsetxattr memfd_secret
    migrate_pages mknod mknodat modify_ldt mount mount_setattr move_mount move_pages
    mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget
    msgrcv msgsnd name_to_handle_at open_by_handle_at open_tree open_tree_attr
    perf_event_open pidfd_getfd pivot_root process_madvise process_vm_readv
    process_vm_writev ptrace quotactl quotactl_fd reboot removexattr request_key seccomp
    semctl semget semop semtimedop set_mempolicy setdomainname setfsgid setfsuid setgid
    setgroups sethostname setns setregid setresgid setresuid setreuid settimeofday setuid
    setxattr shmat shmctl shmdt shmget statmount swapoff swapon syslog umount2 unshare
    userfaultfd vhangup vmsplice
";

/// `AUDIT_ARCH_I386`, as `int 0x80` gives it.
const I386: u32 = 0x4000_0003;

fn call(arch: Arch, name: &str, args: &[u64]) -> CallData {
    let number = arch.number(name).unwrap_or_else(|| panic!("{arch:?} lacks `{name}`"));
    let mut all = [0; 6];
    all[..args.len()].copy_from_slice(args);
    CallData { number, arch: arch.audit(), args: all, ..CallData::default() }
}

fn x86(name: &str, args: &[u64]) -> u32 {
    let (policy, call) = (Policy::default_policy(), call(Arch::X86_64, name, args));
    let program = policy.compile(Arch::X86_64).unwrap();
    let value = simulate(&program, &call).unwrap().value;
    assert_eq!(value, evaluate(&policy, Arch::X86_64, &call), "{name} {args:x?}");
    value
}

/// Every number of the table and its surroundings, x32, and the edges of the range.
fn numbers() -> Vec<u32> {
    let table = 0..=600;
    let x32 = table.clone().map(|number| number | X32_BIT);
    let edges = [0x3fff_ffff, 0x7fff_ffff, 0x8000_0000, 0xbfff_ffff, 0xffff_fffe, 0xffff_ffff];
    let wild = (9..32).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1, (1 << bit) + 59]);
    table.chain(x32).chain(edges).chain(wild).collect()
}

/// Values of one argument at which a rule could change its mind.
fn values(rule: &Rule, arg: usize) -> Vec<u64> {
    let tests = rule.arms.iter().flat_map(|arm| &arm.all);
    let named = tests.filter(|condition| usize::from(condition.arg) == arg).flat_map(|condition| {
        match &condition.test {
            Test::Eq(value)
            | Test::Ne(value)
            | Test::Lt(value)
            | Test::Le(value)
            | Test::Gt(value)
            | Test::Ge(value) => vec![*value],
            Test::MaskedEq { mask, value } => vec![*mask, *value, !mask, value | !mask],
            Test::OneOf(values) => values.clone(),
        }
    });
    let mut all = BTreeSet::from([0, 1, u64::MAX, u64::from(u32::MAX)]);
    for value in named {
        for near in [value.wrapping_sub(1), value, value.wrapping_add(1)] {
            all.extend([near, near | 1 << 32, near | 1 << 63, near ^ u64::MAX << 32]);
        }
    }
    all.into_iter().collect()
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// All combinations of interesting arguments, thinned out evenly to at most `limit`.
fn arguments(rule: &Rule, limit: usize) -> impl Iterator<Item = [u64; 6]> {
    let values: Vec<Vec<u64>> = (0..6).map(|arg| values(rule, arg)).collect();
    let looked_at = |arg: &usize| {
        rule.arms.iter().flat_map(|arm| &arm.all).any(|one| usize::from(one.arg) == *arg)
    };
    let used: Vec<usize> = (0..6).filter(looked_at).collect();
    let total: usize = used.iter().map(|arg| values[*arg].len()).product();
    // A step that shares no factor with the counts does not lock onto a few values of one argument.
    let pace = total.div_ceil(limit);
    let coprime = |step: &usize| used.iter().all(|arg| gcd(*step, values[*arg].len()) == 1);
    let step = (pace..4 * pace).find(coprime).unwrap_or(pace);
    (0..total).step_by(step).map(move |mut index| {
        let mut args = [0x5a5a_5a5a_5a5a_5a5a; 6];
        for arg in &used {
            args[*arg] = values[*arg][index % values[*arg].len()];
            index /= values[*arg].len();
        }
        args
    })
}

/// Compares program and oracle for every number and argument of interest; returns the number of
/// comparisons.
fn compare(policy: &Policy, arch: Arch, numbers: &[u32], limit: usize) -> Result<usize, String> {
    let program = policy.compile(arch).map_err(|error| error.to_string())?;
    assert_fit_for_the_kernel(&program);
    let by_number = policy.by_number(arch);
    let mut compared = 0;
    let mut check = |call: CallData| {
        let (got, want) = (simulate(&program, &call), evaluate(policy, arch, &call));
        compared += 1;
        match got {
            Ok(outcome) if outcome.value == want => Ok(()),
            got => Err(format!("{call:x?}: the program says {got:x?}, the policy {want:#x}")),
        }
    };
    for &number in numbers {
        let archs =
            [Arch::X86_64.audit(), Arch::Aarch64.audit(), I386, 0, u32::MAX, arch.audit() ^ 1];
        for arch in archs {
            for args in [[0; 6], [1; 6], [u64::MAX; 6]] {
                check(CallData { number, arch, args, instruction_pointer: 7 })?;
            }
        }
        if let Some(rule) = by_number.get(&number) {
            for args in arguments(&policy.rules[*rule], limit) {
                check(CallData { number, arch: arch.audit(), args, instruction_pointer: 0 })?;
            }
        }
    }
    Ok(compared)
}

/// What `bpf_check_classic` and seccomp's own check demand of a program.
fn assert_fit_for_the_kernel(program: &Program) {
    let all = program.instructions();
    assert!((1..=MAX_INSTRUCTIONS).contains(&all.len()));
    for (at, one) in all.iter().enumerate() {
        let inside = |skip: usize| assert!(at + 1 + skip < all.len(), "{one:?} at {at}");
        match one.code {
            compile::LOAD => assert!(one.k < 64 && one.k.is_multiple_of(4)),
            compile::JUMP => inside(usize::try_from(one.k).unwrap()),
            compile::JUMP_EQ | compile::JUMP_GT | compile::JUMP_GE | compile::JUMP_SET => {
                inside(usize::from(one.jt));
                inside(usize::from(one.jf));
            }
            compile::AND | compile::RETURN => {}
            other => panic!("operation {other:#x}"),
        }
    }
    assert_eq!(all.last().unwrap().code, compile::RETURN);
}

#[test]
fn the_compiled_policy_equals_the_policy() {
    let policy = Policy::default_policy();
    for arch in Arch::ALL {
        let compared = compare(&policy, arch, &numbers(), usize::MAX).unwrap();
        assert!(compared > 100_000, "{compared} comparisons");
    }
}

#[test]
fn the_program_is_short_and_shallow() {
    let policy = Policy::default_policy();
    let program = policy.compile(Arch::X86_64).unwrap();
    let length = program.instructions().len();
    assert!(length <= 650, "{length} instructions");
    let by_number = policy.by_number(Arch::X86_64);
    let deepest = |with_arms: bool| {
        let chosen =
            by_number.iter().filter(|(_, rule)| policy.rules[**rule].arms.is_empty() != with_arms);
        chosen
            .flat_map(|(number, rule)| {
                arguments(&policy.rules[*rule], 10_000).map(|args| CallData {
                    number: *number,
                    arch: Arch::X86_64.audit(),
                    args,
                    instruction_pointer: 0,
                })
            })
            .map(|call| simulate(&program, &call).unwrap().executed)
            .max()
            .unwrap()
    };
    let (plain, checked) = (deepest(false), deepest(true));
    assert!(plain <= 20, "{plain} instructions for a call without arguments");
    assert!(checked <= 80, "{checked} instructions for a call with arguments");
}

#[test]
fn calls_that_programs_need_are_allowed() {
    let policy = Policy::default_policy();
    for name in NEEDED.split_whitespace() {
        let rule = policy.rules.iter().find(|rule| rule.calls.iter().any(|call| call == name));
        let rule = rule.unwrap_or_else(|| panic!("`{name}` has no rule"));
        // Some are checked: the caller's own limits, small pages, no leases, no filters on sockets.
        assert_eq!(x86(name, &[]), RET_ALLOW, "{name}");
        let checked = ["fadvise64", "fcntl", "memfd_create", "mmap", "prlimit64", "setsockopt"]
            .contains(&name);
        assert_eq!(checked, !rule.arms.is_empty(), "{name}");
    }
}

#[test]
fn dangerous_calls_are_reported() {
    let policy = Policy::default_policy();
    for name in DANGEROUS.split_whitespace() {
        let rule = policy.rules.iter().find(|rule| rule.calls.iter().any(|call| call == name));
        let rule = rule.unwrap_or_else(|| panic!("`{name}` has no rule"));
        assert_eq!(rule.otherwise, Action::Notify, "{name}");
        // Only nodes that are no devices may be made.
        assert_eq!(!rule.arms.is_empty(), name.starts_with("mknod"), "{name}");
    }
}

#[test]
fn unknown_calls_look_unknown() {
    let enosys = RET_ERRNO | 38;
    for name in
        ["clone3", "mseal", "cachestat", "sync", "io_submit", "getxattrat", "lsm_set_self_attr"]
    {
        assert_eq!(x86(name, &[]), enosys, "{name}");
    }
}

#[test]
fn arguments_decide() {
    let einval = RET_ERRNO | 22;
    let enomem = RET_ERRNO | 12;
    let high = 1 << 32;
    let cases: &[(&str, &[u64], u32)] = &[
        // A thread as glibc makes it, a fork, and each way to a new namespace.
        ("clone", &[0x003d_0f00], RET_ALLOW),
        ("clone", &[0x0120_0011], RET_ALLOW),
        ("clone", &[0x1000_0011], RET_USER_NOTIF),
        ("clone", &[0x0002_0011], RET_USER_NOTIF),
        ("clone", &[0x4000_0011 | high], RET_USER_NOTIF),
        ("clone", &[0x0000_8011], RET_USER_NOTIF),
        ("socket", &[1, 1, 0], RET_ALLOW),
        ("socket", &[1, 5 | 0x8_0800, 0], RET_ALLOW),
        ("socket", &[2, 1 | 0x8_0000, 6], RET_ALLOW),
        ("socket", &[10, 2, 17], RET_ALLOW),
        ("socket", &[2 | high, 1, 0], RET_ALLOW),
        ("socket", &[2, 3, 1], RET_USER_NOTIF),
        ("socket", &[2, 2, 1], RET_USER_NOTIF),
        ("socket", &[2, 1, 132], RET_USER_NOTIF),
        ("socket", &[16, 3 | 0x8_0000, 0], RET_ALLOW),
        ("socket", &[16, 3, 12], RET_USER_NOTIF),
        ("socket", &[40, 1, 0], RET_USER_NOTIF),
        ("socket", &[38, 5, 0], RET_USER_NOTIF),
        ("socket", &[17, 3, 0], RET_USER_NOTIF),
        ("socketpair", &[1, 1, 0], RET_ALLOW),
        ("socketpair", &[30, 1, 0], RET_USER_NOTIF),
        ("setsockopt", &[3, 1, 2], RET_ALLOW),
        ("setsockopt", &[3, 1, 26], RET_USER_NOTIF),
        ("setsockopt", &[3, 6, 31], RET_USER_NOTIF),
        ("fcntl", &[3, 2], RET_ALLOW),
        ("fcntl", &[3, 1024], RET_USER_NOTIF),
        ("fcntl", &[3, 1031], RET_ERRNO | 1),
        ("fadvise64", &[3, 0, 0, 4], RET_ERRNO | 22),
        ("fadvise64", &[3, 0, 0, 3], RET_ALLOW),
        ("ioctl", &[0, 0x5401], RET_ALLOW),
        ("ioctl", &[0, 0x541b], RET_ALLOW),
        ("ioctl", &[0, 0x5412], RET_USER_NOTIF),
        ("ioctl", &[0, 0x5412 | high], RET_USER_NOTIF),
        ("ioctl", &[0, 0xb701], RET_USER_NOTIF),
        ("ioctl", &[0, 0xff0a], RET_USER_NOTIF),
        ("ioctl", &[0, 0xff0b], RET_ALLOW),
        ("personality", &[0], RET_ALLOW),
        ("personality", &[0xffff_ffff], RET_ALLOW),
        ("personality", &[0x004_0000], RET_USER_NOTIF),
        ("prctl", &[15], RET_ALLOW),
        ("prctl", &[38, 1], RET_ALLOW),
        ("prctl", &[47, 1], RET_ALLOW),
        ("prctl", &[47, 2], RET_USER_NOTIF),
        ("prctl", &[22 | high], RET_USER_NOTIF),
        ("prctl", &[0x5961_6d61], RET_USER_NOTIF),
        ("prctl", &[9999], einval),
        ("prlimit64", &[0, 7], RET_ALLOW),
        ("prlimit64", &[1, 7], RET_USER_NOTIF),
        ("mknod", &[0, 0o010_600], RET_ALLOW),
        ("mknod", &[0, 0o600], RET_ALLOW),
        ("mknod", &[0, 0o020_600], RET_USER_NOTIF),
        ("mknodat", &[0, 0, 0o140_600], RET_ALLOW),
        ("mknodat", &[0, 0o010_600, 0o060_600], RET_USER_NOTIF),
        ("mmap", &[0, 4096, 3, 0x22], RET_ALLOW),
        ("mmap", &[0, 4096, 3, 0x4_0022], enomem),
        ("memfd_create", &[0, 3], RET_ALLOW),
        ("memfd_create", &[0, 5], enomem),
    ];
    for (name, args, want) in cases {
        assert_eq!(x86(name, args), *want, "{name} {args:x?}");
    }
}

#[test]
fn where_a_watch_counts_memory_that_it_cannot_see_is_refused() {
    let policy = Policy::default_policy().watched();
    let errno = |number: u32| 0x0005_0000 | number;
    let cases: &[(&str, &[u64], u32)] = &[
        ("memfd_create", &[0, 0], errno(38)),
        ("mmap", &[0, 4096, 3, 0x21], errno(12)),
        ("mmap", &[0, 4096, 3, 0x23], errno(12)),
        // Private memory, and a file's: as ever.
        ("mmap", &[0, 4096, 3, 0x22], RET_ALLOW),
        ("mmap", &[0, 4096, 3, 0x01], RET_ALLOW),
        ("mmap", &[0, 4096, 3, 0x4_0022], errno(12)),
        ("setsockopt", &[3, 1, 7], errno(1)),
        ("setsockopt", &[3, 1, 2], RET_ALLOW),
        ("setsockopt", &[3, 1, 26], RET_USER_NOTIF),
        ("read", &[], RET_ALLOW),
    ];
    let program = policy.compile(Arch::X86_64).unwrap();
    for (name, args, want) in cases {
        let call = call(Arch::X86_64, name, args);
        assert_eq!(evaluate(&policy, Arch::X86_64, &call), *want, "{name} {args:x?}");
        assert_eq!(simulate(&program, &call).unwrap().value, *want, "{name} {args:x?}");
    }
}

#[test]
fn other_calling_conventions_are_killed() {
    let policy = Policy::default_policy();
    let read = call(Arch::X86_64, "read", &[]);
    let ran = |arch, call| simulate(&policy.compile(arch).unwrap(), &call).unwrap().value;
    assert_eq!(ran(Arch::X86_64, read), RET_ALLOW);
    assert_eq!(ran(Arch::X86_64, CallData { arch: I386, ..read }), RET_KILL_PROCESS);
    assert_eq!(ran(Arch::X86_64, CallData { number: X32_BIT, ..read }), RET_KILL_PROCESS);
    assert_eq!(ran(Arch::Aarch64, read), RET_KILL_PROCESS);
}

#[test]
fn aarch64_has_what_a_program_needs() {
    // Names differ between architectures, and a name that is missing is skipped in silence.
    let policy = Policy::default_policy();
    for name in
        "read openat fstatat fstat execve clone mmap exit_group sendmsg ppoll mknodat".split(' ')
    {
        let args = if name == "mknodat" { &[0, 0, 0o010_600][..] } else { &[] };
        assert_eq!(
            evaluate(&policy, Arch::Aarch64, &call(Arch::Aarch64, name, args)),
            RET_ALLOW,
            "{name}"
        );
    }
}

#[test]
fn every_rule_has_a_reason_and_the_digest_is_that_of_the_text() {
    let text = include_str!("../../../../policies/seccomp.json");
    let json: serde_json::Value = serde_json::from_str(text).unwrap();
    for rule in json["rules"].as_array().unwrap() {
        let arms = rule["when"].as_array().map_or(&[][..], Vec::as_slice);
        for one in arms.iter().chain([rule]) {
            assert!(one["reason"].as_str().is_some_and(|reason| reason.len() > 10), "{one}");
        }
    }
    let digest = Policy::default_policy().digest();
    assert_eq!(digest.len(), 64);
    assert_eq!(digest, Policy::parse(text).unwrap().digest());
    assert_ne!(digest, Policy::parse(&format!("{text} ")).unwrap().digest());
}

#[test]
fn numbers_have_names() {
    assert_eq!(Policy::name_of(Arch::X86_64, 59), Some("execve"));
    assert_eq!(Policy::name_of(Arch::Aarch64, 221), Some("execve"));
    assert_eq!(Policy::name_of(Arch::X86_64, u32::MAX), None);
}

/// A policy file with these rules.
fn file(rules: &str) -> String {
    format!(
        r#"{{"version":1,"default":{{"action":"enosys","reason":"r"}},
        "foreign_architecture":{{"action":"kill","reason":"r"}},"x32":{{"action":"kill","reason":"r"}},
        "rules":[{rules}]}}"#
    )
}

/// A rule for `read` with one arm of these conditions.
fn arm(conditions: &str) -> String {
    format!(
        r#"{{"calls":["read"],"reason":"r","otherwise":"notify",
        "when":[{{"all":[{conditions}],"action":"allow","reason":"r"}}]}}"#
    )
}

#[test]
fn bad_policies_are_refused_by_name() {
    let good = r#"{"calls":["write"],"action":"allow","reason":"r"},"#;
    let cases = [
        (r#"{"calls":["reed"],"action":"allow","reason":"r"}"#, "unknown system call `reed`"),
        (r#"{"calls":["read","write"],"action":"allow","reason":"r"}"#, "`write` is listed twice"),
        (r#"{"calls":["read"],"action":"allow"}"#, "`reason` is missing"),
        (r#"{"calls":["read"],"action":"allow","reason":" "}"#, "`reason` is missing"),
        (r#"{"calls":["read"],"reason":"r"}"#, "give either"),
        (r#"{"calls":["read"],"when":[],"otherwise":"allow","reason":"r"}"#, "give either"),
        (r#"{"calls":["read"],"action":{"errno":0},"reason":"r"}"#, "errno 0"),
        (r#"{"calls":["read"],"action":"kill","reason":"r"}"#, "unknown variant `kill`"),
        (r#"{"calls":["read"],"action":"allow","reason":"r","why":"r"}"#, "unknown field `why`"),
    ];
    for (rule, want) in cases {
        let text = refusal(&file(&format!("{good}{rule}")));
        assert!(text.contains(want) && text.contains("rule 1 (`re"), "{text}");
    }
    let conditions = [
        (r"", "no conditions"),
        (r#"{"arg":6,"width":32,"op":"eq","value":1}"#, "arguments 0 to 5"),
        (r#"{"arg":0,"width":16,"op":"eq","value":1}"#, "32 or 64"),
        (r#"{"arg":0,"width":32,"op":"eq","value":"0x100000000"}"#, "does not fit"),
        (r#"{"arg":0,"width":32,"op":"eq","value":"x"}"#, "not a number"),
        (r#"{"arg":0,"width":32,"op":"eq","value":1,"mask":1}"#, "other fields"),
        (r#"{"arg":0,"width":32,"op":"lt","value":0}"#, "nothing is less"),
        (r#"{"arg":0,"width":32,"op":"gt","value":4294967295}"#, "nothing is greater"),
        (r#"{"arg":0,"width":64,"op":"ge","value":0}"#, "everything"),
        (r#"{"arg":0,"width":32,"op":"masked_eq","mask":0,"value":0}"#, "mask is 0"),
        (r#"{"arg":0,"width":32,"op":"masked_eq","mask":1,"value":2}"#, "outside the mask"),
        (r#"{"arg":0,"width":32,"op":"one_of","values":{}}"#, "empty"),
        (r#"{"arg":0,"width":32,"op":"one_of","values":{"A":1,"B":1}}"#, "two names"),
        (r#"{"arg":0,"width":32,"op":"one_of","values":{"A":1,"A":2}}"#, "`A` is listed twice"),
        (
            r#"{"arg":0,"width":32,"op":"eq","value":1},{"arg":0,"width":32,"op":"ne","value":1}"#,
            "contradicts condition 1",
        ),
    ];
    for (condition, want) in conditions {
        let text = refusal(&file(&arm(condition)));
        assert!(text.contains(want) && text.contains("rule 0 (`read`)"), "{text}");
    }
    let whole = file("").replace("\"enosys\"", "\"allow\"");
    assert!(refusal(&whole).contains("the default must refuse"));
    assert!(refusal(&file("").replace("\"version\":1", "\"version\":2")).contains("version 2"));
    assert!(refusal(&file("").replacen("\"kill\"", "\"allow\"", 1)).contains("unknown variant"));
    assert!(refusal("{").contains("EOF"));
}

/// The error a policy gives, with its causes.
fn refusal(json: &str) -> String {
    let error = Policy::parse(json).expect_err(json);
    let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |one| one.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[test]
fn a_program_too_long_for_the_kernel_is_refused() {
    let values: Vec<String> = (0..5000).map(|value| format!("\"V{value}\":{value}")).collect();
    let one_of = |width| {
        arm(&format!(
            r#"{{"arg":0,"width":{width},"op":"one_of","values":{{{}}}}}"#,
            values.join(",")
        ))
    };
    let policy = Policy::parse(&file(&one_of(32))).unwrap();
    assert!(matches!(policy.compile(Arch::X86_64), Err(PolicyError::TooLong(5000..))));
}

#[test]
fn the_simulator_refuses_what_the_kernel_would() {
    let run = |code, k| {
        let program = Program::from_raw(vec![Instruction { code, jt: 0, jf: 0, k }]);
        simulate(&program, &CallData::default())
    };
    assert_eq!(run(compile::LOAD, 2), Err(BadProgram::Load { at: 0, offset: 2 }));
    assert_eq!(run(compile::LOAD, 64), Err(BadProgram::Load { at: 0, offset: 64 }));
    assert_eq!(run(compile::AND, 0), Err(BadProgram::Outside(1)));
    assert!(matches!(run(compile::JUMP, u32::MAX), Err(BadProgram::Outside(_))));
    assert_eq!(run(0xff, 0), Err(BadProgram::Unknown { at: 0, code: 0xff }));
}

fn action() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("\"allow\"".to_owned()),
        Just("\"notify\"".to_owned()),
        Just("\"enosys\"".to_owned()),
        (1_u16..=4095).prop_map(|errno| format!("{{\"errno\":{errno}}}")),
    ]
}

/// Values on both sides of the boundaries that matter: of bytes, words and signs.
fn value() -> impl Strategy<Value = u64> {
    prop_oneof![
        0_u64..6,
        (0_u32..64, 0_u64..3)
            .prop_map(|(bit, near)| (1_u64 << bit).wrapping_add(near).wrapping_sub(1)),
        any::<u64>(),
        any::<u32>().prop_map(u64::from),
    ]
}

fn condition() -> impl Strategy<Value = String> {
    let op = prop::sample::select(vec!["eq", "ne", "lt", "le", "gt", "ge", "masked_eq", "one_of"]);
    (0_u8..3, any::<bool>(), op, prop::collection::btree_set(value(), 1..5), value()).prop_map(
        |(arg, wide, op, values, mask)| {
            let (width, max) = if wide { (64, u64::MAX) } else { (32, u64::from(u32::MAX)) };
            let values: BTreeSet<u64> = values.iter().map(|value| value & max).collect();
            let mask = mask & max;
            let first = values.first().copied().unwrap_or_default();
            let fields = match op {
                "masked_eq" => format!("\"mask\":\"{mask:#x}\",\"value\":\"{:#x}\"", first & mask),
                "one_of" => {
                    let named: Vec<String> =
                        values.iter().map(|value| format!("\"V{value}\":{value}")).collect();
                    format!("\"values\":{{{}}}", named.join(","))
                }
                _ => format!("\"value\":{first}"),
            };
            format!(r#"{{"arg":{arg},"width":{width},"op":"{op}",{fields}}}"#)
        },
    )
}

/// The part of a rule that decides: an action, or arms.
fn decision() -> impl Strategy<Value = String> {
    let arm = (prop::collection::vec(condition(), 1..4), action()).prop_map(|(all, action)| {
        format!(r#"{{"all":[{}],"action":{action},"reason":"r"}}"#, all.join(","))
    });
    let arms = (prop::collection::vec(arm, 1..4), action()).prop_map(|(arms, otherwise)| {
        format!(r#""when":[{}],"otherwise":{otherwise}"#, arms.join(","))
    });
    prop_oneof![3 => action().prop_map(|action| format!("\"action\":{action}")), 2 => arms]
}

/// A policy of random calls; rules that validation refuses are left out.
fn policy() -> impl Strategy<Value = Policy> {
    let names: Vec<&str> =
        (0..=600).filter_map(|number| Policy::name_of(Arch::X86_64, number)).collect();
    let rule = (prop::sample::subsequence(names, 1..60), decision());
    prop::collection::vec(rule, 0..25).prop_map(|drawn| {
        let mut seen = BTreeSet::new();
        let rules: Vec<String> = drawn
            .into_iter()
            .filter_map(|(mut calls, decision)| {
                calls.retain(|call| !seen.contains(call));
                let rule = format!(r#"{{"calls":{calls:?},"reason":"r",{decision}}}"#);
                Policy::parse(&file(&rule)).ok()?;
                seen.extend(calls);
                Some(rule)
            })
            .collect();
        Policy::parse(&file(&rules.join(","))).expect("each rule is valid and no call comes twice")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_compiled_policy_equals_its_policy(policy in policy()) {
        let numbers: Vec<u32> = numbers();
        for arch in Arch::ALL {
            prop_assert_eq!(compare(&policy, arch, &numbers, 200).map(|_| ()), Ok(()));
        }
    }
}
