//! What JavaScript sees of the addon: `exports.serve()`.
//!
//! Node-API is found by name in the process that has loaded us; its functions are documented and
//! stable over versions.

use core::ffi::{CStr, c_char, c_void};

use super::{
    super::{fork_calls, sys::Fault},
    Lookup,
};

/// `napi_env`, `napi_value`, `napi_callback_info`: opaque to us.
type Opaque = *mut c_void;
type Callback = unsafe extern "C" fn(Opaque, Opaque) -> Opaque;
type CreateFunction =
    unsafe extern "C" fn(Opaque, *const c_char, usize, Callback, *mut c_void, *mut Opaque) -> i32;
type CreateDouble = unsafe extern "C" fn(Opaque, f64, *mut Opaque) -> i32;
type CreateString = unsafe extern "C" fn(Opaque, *const c_char, usize, *mut Opaque) -> i32;
type SetNamedProperty = unsafe extern "C" fn(Opaque, Opaque, *const c_char, Opaque) -> i32;

/// Serves orders that come over a socket: returns in a child, or with why no child can be.
pub(crate) type Serve = fn() -> Result<(), Fault>;

/// What the callback needs, found when the addon is loaded.
#[derive(Debug)]
#[repr(C)]
struct Bound {
    create_double: CreateDouble,
    create_string: CreateString,
    serve: Serve,
}

struct Place(core::cell::UnsafeCell<Option<Bound>>);

// SAFETY: written once, by the thread that loads the addon, before the function that reads it
// exists; a second environment (a worker thread) is refused.
unsafe impl Sync for Place {}

static BOUND: Place = Place(core::cell::UnsafeCell::new(None));

/// Gives `exports` the function `serve`. Leaves it out where anything is missing, or where another
/// thread of this process has it already.
///
/// # Safety
/// `environment` and `exports` must be what Node.js gave to the addon's entry, which is running.
pub(crate) unsafe fn export(environment: Opaque, exports: Opaque, lookup: Lookup, serve: Serve) {
    let found = (
        lookup(c"napi_create_function"),
        lookup(c"napi_create_double"),
        lookup(c"napi_create_string_utf8"),
        lookup(c"napi_set_named_property"),
    );
    let (Some(create), Some(double), Some(string), Some(set)) = found else {
        return;
    };
    // SAFETY: these are Node-API's documented signatures of the four symbols. The place is written
    // once, see there. The caller vouches for `environment` and `exports`.
    unsafe {
        if (*BOUND.0.get()).is_some() {
            return;
        }
        BOUND.0.get().write(Some(Bound {
            create_double: core::mem::transmute::<Opaque, CreateDouble>(double),
            create_string: core::mem::transmute::<Opaque, CreateString>(string),
            serve,
        }));
        let create = core::mem::transmute::<Opaque, CreateFunction>(create);
        let set = core::mem::transmute::<Opaque, SetNamedProperty>(set);
        let name = c"serve";
        let data = BOUND.0.get().cast::<c_void>();
        let mut function = core::ptr::null_mut();
        if create(environment, name.as_ptr(), name.count_bytes(), called, data, &mut function) == 0
        {
            set(environment, exports, name.as_ptr(), function);
        }
    }
}

/// `serve()`: in a child its pid, which `process.pid` does not know; a text that says why not,
/// where there can be no child.
unsafe extern "C" fn called(environment: Opaque, _info: Opaque) -> Opaque {
    let mut result = core::ptr::null_mut();
    // SAFETY: written before this function was given to anybody, and never again.
    let Some(bound) = (unsafe { &*BOUND.0.get() }) else { return result };
    let served = (bound.serve)();
    // SAFETY: the signatures are Node-API's; Node.js vouches for `environment` during the callback, and
    // `result` is a place for what the call makes. A value that cannot be made stays null: undefined.
    unsafe {
        match served {
            Ok(()) => (bound.create_double)(environment, f64::from(fork_calls::pid()), &mut result),
            Err(fault) => {
                let mut buffer = [0; 96];
                let text = describe(fault, &mut buffer);
                (bound.create_string)(environment, text.as_ptr().cast(), text.len(), &mut result)
            }
        };
    }
    result
}

/// `CALL: errno N`.
fn describe(fault: Fault, buffer: &mut [u8; 96]) -> &[u8] {
    let mut number = [0; 40];
    let number = super::listing::numbered(&mut number, b": errno ", fault.errno)
        .map_or(b"".as_slice(), CStr::to_bytes);
    let mut len = 0;
    for byte in fault.call.bytes().chain(number.iter().copied()) {
        if let Some(place) = buffer.get_mut(len) {
            *place = byte;
            len += 1;
        }
    }
    buffer.get(..len).unwrap_or(&[])
}
