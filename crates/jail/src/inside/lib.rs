//! The code that is loaded into an interpreter: plain C symbols for Python's `ctypes`, a Node addon
//! for `process.dlopen`.
//!
//! `build.rs` compiles this file, and only what is in this folder, as a `no_std` cdylib
//! with the compiler that builds everything else, and embeds the result. It links to nothing: what
//! it needs of Node is found with `dlsym` in the process that loads it.
#![no_std]

#[expect(dead_code, reason = "the launcher uses the rest of it")]
mod allowed;
mod code;
mod confine;
#[expect(dead_code, reason = "the launcher uses the rest of it")]
mod fences;
mod fork_calls;
mod lines;
#[cfg(target_arch = "x86_64")]
mod node;
mod order;
mod python;
#[expect(dead_code, reason = "the launcher uses the rest of it")]
mod sys;
mod zygote;

use core::ffi::{CStr, c_char, c_void};

use python::Python;
use zygote::Returned;

/// What the precompiled `core` names for unwinding, which there is none of here.
#[unsafe(no_mangle)]
pub extern "C" fn rust_eh_personality() {}

/// Changes whenever a symbol below changes its meaning.
const ABI: u32 = 1;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Half a confinement must never run a program.
    sys::exit(127)
}

/// Which version of this interface was loaded.
#[unsafe(no_mangle)]
pub extern "C" fn ampoule_inside_abi() -> u32 {
    ABI
}

/// Makes a Python interpreter a zygote. Returns 0 in each worker, confined; in the zygote 1 when it
/// is dismissed, and 2 when it cannot go on, which the launcher has been told.
///
/// # Safety
/// To be called by the only thread of a Python interpreter that holds its lock, with the socket to
/// the launcher in its place.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ampoule_inside_python() -> i32 {
    match Python::find().and_then(|mut python| zygote::serve(&mut python)) {
        Ok(Returned::Worker) => 0,
        Ok(Returned::Dismissed) => 1,
        Err(fault) => {
            zygote::complain(order::CONTROL_FD, fault);
            2
        }
    }
}

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, symbol: *const c_char) -> *mut c_void;
}

type CreateUint32 = unsafe extern "C" fn(*mut c_void, u32, *mut *mut c_void) -> i32;
type SetNamedProperty =
    unsafe extern "C" fn(*mut c_void, *mut c_void, *const c_char, *mut c_void) -> i32;

/// Looks a symbol up in the process that has loaded us.
fn dlsym_of(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: a null handle is RTLD_DEFAULT, the global scope; `name` is NUL-terminated.
    let address = unsafe { dlsym(core::ptr::null_mut(), name.as_ptr()) };
    (!address.is_null()).then_some(address)
}

/// The version of Node-API that the addon asks for.
#[unsafe(no_mangle)]
pub extern "C" fn node_api_module_get_api_version_v1() -> i32 {
    8
}

/// The addon's entry: gives `exports` the property `abi`, and `serve` where forks are known to work.
///
/// # Safety
/// Called by Node with a live environment and exports object.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn napi_register_module_v1(
    environment: *mut c_void,
    exports: *mut c_void,
) -> *mut c_void {
    let (Some(create), Some(set)) =
        (dlsym_of(c"napi_create_uint32"), dlsym_of(c"napi_set_named_property"))
    else {
        return exports;
    };
    let mut value = core::ptr::null_mut();
    // SAFETY: these are Node-API's documented signatures of the two symbols, and Node vouches for
    // `environment` and `exports` while this function runs, which `export` asks for too.
    unsafe {
        let create = core::mem::transmute::<*mut c_void, CreateUint32>(create);
        let set = core::mem::transmute::<*mut c_void, SetNamedProperty>(set);
        if create(environment, ABI, &mut value) == 0 {
            set(environment, exports, c"abi".as_ptr(), value);
        }
        #[cfg(target_arch = "x86_64")]
        node::napi::export(environment, exports, dlsym_of, node::serve);
    }
    exports
}
