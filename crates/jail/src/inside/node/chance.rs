//! V8's random numbers over a fork.
//!
//! Each isolate has one generator, and each context's `Math.random` is seeded by it when it is first
//! called. A fork would copy it: all children of a zygote would draw the same numbers. No function
//! that Node.js exports in all its versions gives it a new seed, so it is looked for in the zygote,
//! and given one in each child. It cannot be mistaken for something else: it holds the seed that it
//! started from and a state of 128 bits, and only that seed leads to that state.

use core::{
    ffi::c_void,
    sync::atomic::{AtomicUsize, Ordering},
};

use super::{
    super::sys::{self, Fault, Sys},
    Lookup, calls,
};

/// More than an isolate's size, which differs by version.
const ISOLATE_BYTES: usize = 256 << 10;
/// How often the generator may have been used before.
const MOST_STEPS: u32 = 50_000;
const O_CLOEXEC: i32 = 0o2_000_000;
const WORD: usize = size_of::<u64>();

/// `v8::base::RandomNumberGenerator`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
struct Generator {
    seed: u64,
    state: [u64; 2],
}

static FOUND: AtomicUsize = AtomicUsize::new(0);

impl Generator {
    fn new(seed: u64) -> Self {
        let first = mix(seed);
        Self { seed, state: [first, mix(!first)] }
    }

    fn step(&mut self) {
        let [mut one, other] = self.state;
        one ^= one << 23;
        one ^= one >> 17;
        one ^= other ^ (other >> 26);
        self.state = [other, one];
    }

    /// Whether its seed leads to its state.
    fn is_one(self) -> bool {
        // Both halves look random; what is a pointer or a small number does not.
        if self.state.iter().any(|half| half >> 48 == 0) {
            return false;
        }
        let mut replay = Self::new(self.seed);
        for _ in 0..MOST_STEPS {
            if replay == self {
                return true;
            }
            replay.step();
        }
        false
    }
}

/// MurmurHash3's last step.
fn mix(mut bits: u64) -> u64 {
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits ^= bits >> 33;
    bits = bits.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ (bits >> 33)
}

/// In the zygote: finds the generator of the isolate that is running.
pub(super) fn find(lookup: Lookup) -> Sys<()> {
    let missing = Fault { call: "V8's generator of random numbers", errno: 2 };
    let current = lookup(c"_ZN2v87Isolate10GetCurrentEv").ok_or(missing)?;
    // SAFETY: `static v8::Isolate* v8::Isolate::GetCurrent()` is part of V8's public interface; we are
    // called by JavaScript, so there is one.
    let isolate = unsafe {
        core::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> *const c_void>(current)()
    } as usize;
    // Through the kernel, which knows what can be read.
    let memory = sys::open(c"/proc/self/mem", O_CLOEXEC)?;
    let outcome = search(memory, isolate);
    sys::close(memory)?;
    FOUND.store(outcome.ok_or(missing)?, Ordering::Release);
    Ok(())
}

fn search(memory: i32, isolate: usize) -> Option<usize> {
    let mut words = [0_u64; 256];
    for part in (isolate..isolate + ISOLATE_BYTES).step_by(size_of_val(&words)) {
        let count = calls::read_at(memory, &mut words, part).unwrap_or(0) / WORD;
        for word in words.iter().take(count) {
            let Ok(address) = usize::try_from(*word) else { continue };
            let mut held = [0_u64; 3];
            if address % WORD != 0
                || address < 1 << 16
                || address >> 47 != 0
                || calls::read_at(memory, &mut held, address) != Ok(size_of_val(&held))
            {
                continue;
            }
            if (Generator { seed: held[0], state: [held[1], held[2]] }).is_one() {
                return Some(address);
            }
        }
        if count < words.len() {
            return None;
        }
    }
    None
}

/// In a child: a seed of its own.
pub(super) fn renew() -> Sys<()> {
    let generator = FOUND.load(Ordering::Acquire) as *mut Generator;
    if generator.is_null() {
        return Err(Fault { call: "V8's generator of random numbers", errno: 2 });
    }
    let fresh = Generator::new(calls::random()?);
    // SAFETY: `find` has seen such a structure there, which lives as long as the isolate; the isolate's
    // one thread is this one.
    unsafe { generator.write(fresh) };
    Ok(())
}
