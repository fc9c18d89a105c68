//! Files under `/proc` line by line, without an allocation.

use super::sys::{self, Sys, check, fd, syscall};

#[cfg(target_arch = "x86_64")]
const READ: usize = 0;
#[cfg(target_arch = "aarch64")]
const READ: usize = 63;
const O_CLOEXEC: i32 = 0o2_000_000;

/// `read(2)`.
pub(crate) fn read(descriptor: i32, bytes: &mut [u8]) -> Sys<usize> {
    // SAFETY: the kernel writes at most `bytes.len()` bytes to `bytes`, which is borrowed alone.
    check("read", unsafe {
        syscall(READ, [fd(descriptor), bytes.as_mut_ptr() as usize, bytes.len(), 0, 0, 0])
    })
}

/// Calls `visit` with each line of a file; one that is longer than the buffer is cut.
pub(crate) fn each(file: &core::ffi::CStr, visit: &mut dyn FnMut(&[u8]) -> Sys<()>) -> Sys<()> {
    let opened = sys::open(file, O_CLOEXEC)?;
    let outcome = each_of(opened, visit);
    sys::close(opened)?;
    outcome
}

fn each_of(file: i32, visit: &mut dyn FnMut(&[u8]) -> Sys<()>) -> Sys<()> {
    let mut buffer = [0_u8; 4096];
    let mut len = 0;
    loop {
        let count = read(file, buffer.get_mut(len..).unwrap_or(&mut []))?;
        if count == 0 {
            return Ok(());
        }
        len += count;
        let mut start = 0;
        while let Some(end) =
            buffer.get(start..len).and_then(|rest| rest.iter().position(|byte| *byte == b'\n'))
        {
            visit(buffer.get(start..start + end).unwrap_or(&[]))?;
            start += end + 1;
        }
        if start == 0 && len == buffer.len() {
            len = 0;
        } else {
            buffer.copy_within(start..len, 0);
            len -= start;
        }
    }
}
