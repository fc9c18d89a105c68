//! Python's side of a fork: the interpreter's own hooks, found in the process that has loaded us.

use super::{
    dlsym_of,
    sys::{Fault, Sys},
    zygote::Interpreter,
};

type Hook = unsafe extern "C" fn();

/// The hooks that `os.fork` calls.
pub(crate) struct Python {
    before: Hook,
    after_in_parent: Hook,
    after_in_child: Hook,
}

impl Python {
    /// Finds them.
    pub(crate) fn find() -> Sys<Self> {
        let hook = |name| {
            let address =
                dlsym_of(name).ok_or(Fault { call: "find Python's fork hooks", errno: 2 })?;
            // SAFETY: these three are documented as `void name(void)`.
            Ok(unsafe { core::mem::transmute::<*mut core::ffi::c_void, Hook>(address) })
        };
        Ok(Self {
            before: hook(c"PyOS_BeforeFork")?,
            after_in_parent: hook(c"PyOS_AfterFork_Parent")?,
            after_in_child: hook(c"PyOS_AfterFork_Child")?,
        })
    }
}

impl Interpreter for Python {
    fn threads(&self) -> u32 {
        1
    }

    fn before(&mut self) -> Sys<()> {
        // SAFETY: called with the interpreter's lock, by the only thread, before a fork.
        unsafe { (self.before)() };
        Ok(())
    }

    fn after_in_zygote(&mut self) {
        // SAFETY: as above, after it.
        unsafe { (self.after_in_parent)() };
    }

    fn after_in_worker(&mut self) -> Sys<()> {
        // SAFETY: as above, in the child.
        unsafe { (self.after_in_child)() };
        Ok(())
    }

    fn after_join(&mut self) -> Sys<&'static [i32]> {
        Ok(&[])
    }

    fn after_confine(&mut self) -> Sys<()> {
        Ok(())
    }
}
