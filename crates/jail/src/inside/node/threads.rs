//! Threads over a fork.
//!
//! A fork copies one thread. Node.js has helpers (V8's workers, the timer of its delayed tasks, the
//! watcher of SIGUSR1), and joins them at its end: without them a program could never exit, and what
//! they hold would stay held. So they are stopped for good in the zygote and started again in each
//! child, in the very place where they were:
//!
//! ```text
//! zygote   signal -> handler: note the thread's pointers, save registers on its own stack, wait for ever
//! child    clone(CLONE_THREAD | SETTLS) on the copy of that stack -> registers back -> leave the handler
//!          -> rt_sigreturn -> the interrupted wait goes on
//! ```
//!
//! Everything that a thread is in user space lies in memory, which the fork has copied: stack,
//! thread-local storage, and the registers, floating point and signal mask in the frame that the
//! kernel wrote for the handler. What lies in the kernel is set again: id, list of robust locks, name.
//! A lock that a helper held when it was stopped is held by it in the child, and released by it there;
//! until then the child's first thread makes nothing but raw system calls.

use core::{
    arch::global_asm,
    cell::UnsafeCell,
    ffi::c_void,
    sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
};

use super::{
    super::{
        fork_calls,
        sys::{Fault, Sys},
    },
    calls, listing,
};

/// The most helpers that a zygote may have. V8's own default is four, Node.js has two more.
const MOST: usize = 16;
/// glibc's own signal for changing ids in all threads, which neither it nor a library lets a
/// thread block. What it did is put back when the helpers are stopped.
const SIGNAL: i32 = 33;
/// How long all helpers together may take to stop, in steps.
const STEPS: u32 = 20_000;
const STEP_MICROSECONDS: u32 = 50;

/// Where a helper waits. The two first fields are the assembly's.
#[derive(Debug)]
#[repr(C)]
struct Parked {
    stack: usize,
    waits: AtomicU32,
    tid_address: *mut i32,
    thread_pointer: usize,
    robust_list: [usize; 2],
    name: [u8; 16],
}

const EMPTY: UnsafeCell<Parked> = UnsafeCell::new(Parked {
    stack: 0,
    waits: AtomicU32::new(0),
    tid_address: core::ptr::null_mut(),
    thread_pointer: 0,
    robust_list: [0; 2],
    name: [0; 16],
});

struct Table([UnsafeCell<Parked>; MOST]);

// SAFETY: each place is written by the one helper that has taken its index, before it sets `waits`,
// and read by others only after they have seen it.
unsafe impl Sync for Table {}

static PARKED: Table = Table([EMPTY; MOST]);
static TAKEN: AtomicUsize = AtomicUsize::new(0);
static FAILED: AtomicBool = AtomicBool::new(false);
/// Where glibc (2.35 and newer) keeps a thread's restartable sequences, from its thread pointer.
static RSEQ_OFFSET: AtomicUsize = AtomicUsize::new(0);

global_asm!(
    // fn park(place: *mut Parked): saves what a call must preserve, tells, and waits for ever.
    // Returns in a thread that `resume` has started on this stack.
    ".hidden ampoule_node_park",
    ".globl ampoule_node_park",
    "ampoule_node_park:",
    "push rbp",
    "push rbx",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov [rdi], rsp",
    "mov dword ptr [rdi + 8], 1",
    "add rdi, 8",
    // futex(&waits, FUTEX_WAIT_PRIVATE, 1, no timeout)
    "2:",
    "mov eax, 202",
    "mov esi, 128",
    "mov edx, 1",
    "xor r10d, r10d",
    "syscall",
    "jmp 2b",
    // fn resume(flags, stack, tid, tid, thread pointer) -> tid or -errno: clone(2), whose new thread
    // goes on behind its call of `park`.
    ".hidden ampoule_node_resume",
    ".globl ampoule_node_resume",
    "ampoule_node_resume:",
    "mov r10, rcx",
    "mov eax, 56",
    "syscall",
    "test rax, rax",
    "jz 3f",
    "ret",
    "3:",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbx",
    "pop rbp",
    "ret",
    // The end of a handler.
    ".hidden ampoule_node_restore",
    ".globl ampoule_node_restore",
    "ampoule_node_restore:",
    "mov eax, 15",
    "syscall",
);

unsafe extern "C" {
    fn ampoule_node_park(place: *mut Parked);
    fn ampoule_node_resume(
        flags: usize,
        stack: usize,
        parent_tid: *mut i32,
        child_tid: *mut i32,
        thread_pointer: usize,
    ) -> isize;
    fn ampoule_node_restore();
}

/// Runs in a helper, wherever it was. In the zygote it never comes back.
extern "C" fn stop_here(_signal: i32) {
    let index = TAKEN.fetch_add(1, Ordering::AcqRel);
    let Some(place) = PARKED.0.get(index) else {
        FAILED.store(true, Ordering::Release);
        return;
    };
    let place = place.get();
    let Ok(noted) = note() else {
        FAILED.store(true, Ordering::Release);
        return;
    };
    // SAFETY: the index was taken by this thread alone, and nobody reads the place before `waits` is
    // set, which `park` does.
    unsafe {
        place.write(noted);
        ampoule_node_park(place);
    }
    // From here on in a child: the same thread for the program, a new one for the kernel.
    // SAFETY: the place was written above, before the fork, and is only read from here on.
    let noted = unsafe { &*place };
    // Neither can fail for a thread's own list and a name that the kernel gave; a thread without
    // them would work.
    let _ = fork_calls::set_robust_list(noted.robust_list);
    let _ = calls::name_thread(&noted.name);
    forget_rseq(noted.thread_pointer);
}

fn note() -> Sys<Parked> {
    let tid_address = fork_calls::tid_address()? as *mut i32;
    // SAFETY: the kernel writes a zero there at this thread's end, so it is an int of this process.
    // musl has a lock of all threads there.
    if unsafe { tid_address.read_volatile() } != calls::tid() {
        return Err(Fault { call: "C library", errno: 38 });
    }
    Ok(Parked {
        stack: 0,
        waits: AtomicU32::new(0),
        tid_address,
        thread_pointer: calls::thread_pointer()?,
        robust_list: fork_calls::robust_list()?,
        name: calls::thread_name()?,
    })
}

/// A new thread has no restartable sequences; glibc then asks the kernel for its processor.
fn forget_rseq(thread_pointer: usize) {
    const REGISTRATION_FAILED: i32 = -2;
    let offset = RSEQ_OFFSET.load(Ordering::Relaxed);
    if offset == 0 {
        return;
    }
    // struct rseq { cpu_id_start, cpu_id, … }
    let area = thread_pointer.wrapping_add(offset) as *mut i32;
    // SAFETY: glibc says by `__rseq_offset` where in each thread's storage the structure is; the
    // kernel does not write it any more, and this thread is the one to read it.
    unsafe {
        area.write_volatile(0);
        area.add(1).write_volatile(REGISTRATION_FAILED);
    }
}

/// Stops every other thread of this process for good. Gives how many there were.
pub(super) fn stop_others(rseq_offset: Option<*const c_void>) -> Sys<usize> {
    if let Some(offset) = rseq_offset {
        // SAFETY: glibc documents the symbol as a constant of type ptrdiff_t.
        RSEQ_OFFSET.store(unsafe { *offset.cast::<usize>() }, Ordering::Relaxed);
    }
    const SA_RESTORER: usize = 0x0400_0000;
    const SA_RESTART: usize = 0x1000_0000;
    let action = [
        stop_here as extern "C" fn(i32) as usize,
        SA_RESTORER | SA_RESTART,
        ampoule_node_restore as unsafe extern "C" fn() as usize,
        // Nothing else is delivered to a helper that waits.
        usize::MAX,
    ];
    // SAFETY: the handler makes raw system calls and touches its own place only; the restorer does
    // `rt_sigreturn`.
    let before = unsafe { calls::signal_action(SIGNAL, &action) }?;
    let outcome = stop_each();
    // SAFETY: what was there before is as fit as it was.
    unsafe { calls::signal_action(SIGNAL, &before) }?;
    outcome
}

fn stop_each() -> Sys<usize> {
    let (process, own) = (fork_calls::pid(), calls::tid());
    let mut signalled = 0;
    listing::threads(|tid| {
        if tid != own {
            calls::signal_thread(process, tid, SIGNAL)?;
            signalled += 1;
        }
        Ok(())
    })?;
    for _ in 0..STEPS {
        if FAILED.load(Ordering::Acquire) {
            break;
        }
        if waiting() == signalled {
            // One that was born meanwhile would be missing in the child.
            let mut there = 0;
            listing::threads(|_| {
                there += 1;
                Ok(())
            })?;
            if there == signalled + 1 {
                return Ok(signalled);
            }
            break;
        }
        calls::sleep_microseconds(STEP_MICROSECONDS);
    }
    Err(Fault { call: "stop the threads of the interpreter", errno: 11 })
}

fn waiting() -> usize {
    PARKED
        .0
        .iter()
        // SAFETY: only the atomic is looked at, whoever writes the rest.
        .filter(|place| unsafe { &(*place.get()).waits }.load(Ordering::Acquire) == 1)
        .count()
}

/// Starts, in a child, what [`stop_others`] has stopped before the fork.
pub(super) fn start_again() -> Sys<()> {
    // VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, SETTLS, PARENT_SETTID, CHILD_CLEARTID: a thread of
    // the C library's.
    const FLAGS: usize = 0x003d_0f00;
    for place in PARKED.0.iter().take(waiting()) {
        // SAFETY: the helper has written its place before it set `waits`, and no such helper runs in
        // this process yet.
        let parked = unsafe { &*place.get() };
        // SAFETY: the stack is this process's own copy of one that no thread uses, with the
        // registers on top that `park` has saved there; thread pointer and id address are that
        // thread's own.
        let tid = unsafe {
            ampoule_node_resume(
                FLAGS,
                parked.stack,
                parked.tid_address,
                parked.tid_address,
                parked.thread_pointer,
            )
        };
        if tid < 0 {
            let errno = i32::try_from(-tid).unwrap_or(11);
            return Err(Fault { call: "clone of a thread", errno });
        }
    }
    Ok(())
}
