//! Directories and small files under `/proc`, without an allocation.

use core::ffi::CStr;

use super::{
    super::{
        lines,
        sys::{self, Fault, Sys},
    },
    calls,
};

const O_DIRECTORY_CLOEXEC: i32 = 0o200_000 | 0o2_000_000;
const O_CLOEXEC: i32 = 0o2_000_000;

/// Calls `visit` with each thread's id.
pub(super) fn threads(mut visit: impl FnMut(i32) -> Sys<()>) -> Sys<()> {
    let opened = sys::open(c"/proc/self/task", O_DIRECTORY_CLOEXEC)?;
    let outcome = each(opened, &mut visit);
    sys::close(opened)?;
    outcome
}

/// Calls `visit` with each open descriptor.
pub(super) fn descriptors(mut visit: impl FnMut(i32) -> Sys<()>) -> Sys<()> {
    let opened = sys::open(c"/proc/self/fd", O_DIRECTORY_CLOEXEC)?;
    // The listing itself is one.
    let outcome = each(opened, &mut |number| if number == opened { Ok(()) } else { visit(number) });
    sys::close(opened)?;
    outcome
}

/// Calls `visit` with each entry of a directory whose name is a number.
fn each(directory: i32, visit: &mut dyn FnMut(i32) -> Sys<()>) -> Sys<()> {
    // struct linux_dirent64 { u64 ino, i64 off, u16 reclen, u8 type, char name[] }
    const NAME: usize = 19;
    let mut entries = [0_u64; 256];
    loop {
        let len = calls::directory_entries(directory, &mut entries)?;
        if len == 0 {
            return Ok(());
        }
        // SAFETY: the kernel has written `len` bytes, at most the array's, and any byte is a u8.
        let bytes = unsafe { core::slice::from_raw_parts(entries.as_ptr().cast::<u8>(), len) };
        let mut at = 0;
        while let Some(entry) = bytes.get(at..).filter(|entry| entry.len() > NAME) {
            let length = usize::from(u16::from_ne_bytes([entry[16], entry[17]]));
            if let Some(number) = number(entry.get(NAME..).unwrap_or(&[])) {
                visit(number)?;
            }
            if length == 0 {
                break;
            }
            at += length;
        }
    }
}

fn number(name: &[u8]) -> Option<i32> {
    let digits = name.split(|byte| *byte == 0).next()?;
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_i32, |number, digit| {
        let digit = i32::from(digit.checked_sub(b'0').filter(|digit| *digit < 10)?);
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// A path under `/proc/self` that ends in a number.
pub(super) fn numbered<'a>(buffer: &'a mut [u8; 40], prefix: &[u8], number: i32) -> Sys<&'a CStr> {
    let wrong = Fault { call: "a path under /proc", errno: 36 };
    let mut digits = [0_u8; 10];
    let mut left = number.unsigned_abs();
    let mut first = digits.len();
    loop {
        first -= 1;
        #[expect(clippy::cast_possible_truncation, reason = "a decimal digit")]
        let digit = (left % 10) as u8;
        digits[first] = b'0' + digit;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    let digits = &digits[first..];
    let len = prefix.len() + digits.len();
    if len >= buffer.len() {
        return Err(wrong);
    }
    buffer[..prefix.len()].copy_from_slice(prefix);
    buffer[prefix.len()..len].copy_from_slice(digits);
    buffer[len] = 0;
    CStr::from_bytes_with_nul(&buffer[..=len]).map_err(|_| wrong)
}

/// The beginning of a file, as far as `buffer` holds it.
pub(super) fn contents<'a>(file: &CStr, buffer: &'a mut [u8]) -> Sys<&'a [u8]> {
    let opened = sys::open(file, O_CLOEXEC)?;
    let mut len = 0;
    let outcome = loop {
        match lines::read(opened, buffer.get_mut(len..).unwrap_or(&mut [])) {
            Ok(0) => break Ok(()),
            Ok(count) => len += count,
            Err(fault) => break Err(fault),
        }
    };
    sys::close(opened)?;
    outcome.map(|()| buffer.get(..len).unwrap_or(&[]))
}
