//! The code that is loaded into an interpreter: plain C symbols for Python's `ctypes`, a Node addon
//! for `process.dlopen`.
//!
//! `build.rs` compiles this file, and only what is in this folder, as a `no_std` cdylib
//! with the compiler that builds everything else, and embeds the result. It links to nothing: what
//! it needs of Node is found with `dlsym` in the process that loads it.
#![no_std]

mod confine;
#[cfg(target_arch = "x86_64")]
#[expect(dead_code, reason = "called by the loop that serves forks, which is not here yet")]
mod node;
#[expect(dead_code, reason = "the launcher uses the rest of it")]
mod sys;

use core::ffi::{CStr, c_char, c_void};

use confine::{PathRule, Plan, ResourceLimit, Spared};
use sys::{Fault, Instruction};

/// Changes whenever a symbol below changes its meaning.
const ABI: u32 = 1;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Half a confinement must never run a program.
    sys::exit(127)
}

/// A Landlock rule as C lays it out.
#[repr(C)]
pub struct RawPathRule {
    path: *const c_char,
    access: u64,
}

/// [`Plan`] as C lays it out.
#[repr(C)]
pub struct RawPlan {
    id: u32,
    single_id: u32,
    landlock_abi: u32,
    setup_socket: i32,
    landlock_handled: u64,
    landlock_scoped: u64,
    limits: *const ResourceLimit,
    limits_len: usize,
    rules: *const RawPathRule,
    rules_len: usize,
    filter: *const Instruction,
    filter_len: usize,
}

const MAX_RULES: usize = 32;

/// Which version of this interface was loaded.
#[unsafe(no_mangle)]
pub extern "C" fn ampoule_inside_abi() -> u32 {
    ABI
}

/// Confines the calling process: 0, or the errno of the step that failed. After an error the
/// process must exit: it may be confined in part.
///
/// # Safety
/// `plan` must point to a whole [`RawPlan`] whose pointers hold as many elements as it says, all
/// alive during the call; the process must be single-threaded.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ampoule_inside_confine(plan: *const RawPlan) -> i32 {
    // SAFETY: the caller vouches for `plan`.
    let raw = unsafe { &*plan };
    if raw.rules_len > MAX_RULES {
        return 22;
    }
    let mut rules = [PathRule { path: c"/", access: 0 }; MAX_RULES];
    for (index, rule) in rules.iter_mut().take(raw.rules_len).enumerate() {
        // SAFETY: `index` is below `rules_len`, and the caller vouches for that many rules, each
        // with a NUL-terminated path.
        unsafe {
            let given = &*raw.rules.add(index);
            *rule = PathRule { path: CStr::from_ptr(given.path), access: given.access };
        }
    }
    // SAFETY: the caller vouches for pointers and lengths.
    let (limits, filter) = unsafe {
        (
            core::slice::from_raw_parts(raw.limits, raw.limits_len),
            core::slice::from_raw_parts(raw.filter, raw.filter_len),
        )
    };
    let plan = Plan {
        id: raw.id,
        single_id: raw.single_id != 0,
        limits,
        landlock_abi: raw.landlock_abi,
        landlock_handled: raw.landlock_handled,
        landlock_scoped: raw.landlock_scoped,
        landlock_rules: &rules[..raw.rules_len],
        filter,
        setup_socket: raw.setup_socket,
        spared: Spared::default(),
    };
    match confine::confine(&plan) {
        Ok(()) => 0,
        Err(Fault { errno, .. }) => errno.max(1),
    }
}

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, symbol: *const c_char) -> *mut c_void;
}

type CreateUint32 = unsafe extern "C" fn(*mut c_void, u32, *mut *mut c_void) -> i32;
type SetNamedProperty =
    unsafe extern "C" fn(*mut c_void, *mut c_void, *const c_char, *mut c_void) -> i32;

/// Looks up one of Node's symbols in the process that has loaded us.
fn node_symbol(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: a null handle is RTLD_DEFAULT, the global scope; `name` is NUL-terminated.
    let address = unsafe { dlsym(core::ptr::null_mut(), name.as_ptr()) };
    (!address.is_null()).then_some(address)
}

/// The version of Node-API that the addon asks for.
#[unsafe(no_mangle)]
pub extern "C" fn node_api_module_get_api_version_v1() -> i32 {
    8
}

/// The addon's entry: gives `exports` the property `abi`.
///
/// # Safety
/// Called by Node with a live environment and exports object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn napi_register_module_v1(
    environment: *mut c_void,
    exports: *mut c_void,
) -> *mut c_void {
    let (Some(create), Some(set)) =
        (node_symbol(c"napi_create_uint32"), node_symbol(c"napi_set_named_property"))
    else {
        return exports;
    };
    let mut value = core::ptr::null_mut();
    // SAFETY: these are Node-API's documented signatures of the two symbols, and Node vouches for
    // `environment` and `exports` while this function runs.
    unsafe {
        let create = core::mem::transmute::<*mut c_void, CreateUint32>(create);
        let set = core::mem::transmute::<*mut c_void, SetNamedProperty>(set);
        if create(environment, ABI, &mut value) == 0 {
            set(environment, exports, c"abi".as_ptr(), value);
        }
    }
    exports
}
