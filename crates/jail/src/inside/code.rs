//! A warm interpreter's own code, in large pages.
//!
//! Each run touches some megabytes of the interpreter's code. In pages of 4 KiB a fork has to find
//! them again, sixteen at a time, and its end has to let go of each: measured, a third of the pages
//! that a run has mapped. So a zygote puts a copy in pages of 2 MiB in the place of its code, which a
//! fork shares as it is. Nothing else changes: the bytes, their addresses, that nobody may write them.
//! What lies between the code in the same large pages, constants, can then be executed as well.
//!
//! Where the kernel gives no large pages everything stays as it is.

use super::{
    lines,
    sys::{Fault, Sys, check, fd, syscall},
};

#[cfg(target_arch = "x86_64")]
mod number {
    pub(super) const MMAP: usize = 9;
    pub(super) const MPROTECT: usize = 10;
    pub(super) const MUNMAP: usize = 11;
    pub(super) const MREMAP: usize = 25;
    pub(super) const MADVISE: usize = 28;
}

#[cfg(target_arch = "aarch64")]
mod number {
    pub(super) const MMAP: usize = 222;
    pub(super) const MPROTECT: usize = 226;
    pub(super) const MUNMAP: usize = 215;
    pub(super) const MREMAP: usize = 216;
    pub(super) const MADVISE: usize = 233;
}

const LARGE: usize = 2 << 20;
const PROT_READ: usize = 1;
const PROT_WRITE: usize = 2;
const PROT_EXEC: usize = 4;
/// So much is copied at the most: more than any interpreter's code.
const MOST: usize = 64 << 20;

/// A range of addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Range {
    start: usize,
    end: usize,
}

impl Range {
    fn len(self) -> usize {
        self.end.saturating_sub(self.start)
    }
}

/// Puts this process's main code into large pages, as far as it fills them; gives how many pages of
/// 4 KiB it took for that.
pub(crate) fn enlarge() -> Sys<u32> {
    let code = largest_code()?;
    if code.len() == 0 || code.len() > MOST {
        return Ok(0);
    }
    let copy = match copy(code) {
        Ok(copy) => copy,
        // No memory for it, or none that may be executed.
        Err(_) => return Ok(0),
    };
    // SAFETY: both ranges are whole pages of the same length; `copy` is this function's own and
    // holds what `code` holds, with its rights. Nothing writes to code, and no other thread executes
    // it: there is none, or they wait in this library. Both are aligned to large pages, which the
    // kernel then moves as they are.
    check("mremap", unsafe {
        const MAY_MOVE_FIXED: usize = 3;
        let arguments = [copy.start, copy.len(), copy.len(), MAY_MOVE_FIXED, code.start, 0];
        syscall(number::MREMAP, arguments)
    })?;
    Ok(u32::try_from(code.len() / 4096).unwrap_or(0))
}

/// The most code that lies in one piece, as whole large pages.
fn largest_code() -> Sys<Range> {
    let (mut best, mut piece, mut code) = (Range::default(), Range::default(), Range::default());
    lines::each(c"/proc/self/maps", &mut |line| {
        let Some(mapping) = Mapping::read(line) else { return Ok(()) };
        if !mapping.is_constant {
            (piece, code) = (Range::default(), Range::default());
            return Ok(());
        }
        if piece.end == mapping.range.start {
            piece.end = mapping.range.end;
        } else {
            (piece, code) = (mapping.range, Range::default());
        }
        if mapping.is_code {
            let start = if code.len() == 0 { mapping.range.start } else { code.start };
            code = Range { start, end: mapping.range.end };
        }
        if code.len() > 0 {
            let found = within(piece, code);
            if found.len() > best.len() {
                best = found;
            }
        }
        Ok(())
    })?;
    Ok(best)
}

/// The large pages of `piece` that hold any of `code`.
fn within(piece: Range, code: Range) -> Range {
    let down = |address: usize| address & !(LARGE - 1);
    let up = |address: usize| down(address.saturating_add(LARGE - 1));
    Range { start: up(piece.start).max(down(code.start)), end: down(piece.end).min(up(code.end)) }
}

/// A line of `/proc/self/maps`: `start-end rwxp offset device inode path`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mapping {
    range: Range,
    /// Of a file, for this process alone, and not to be written.
    is_constant: bool,
    is_code: bool,
}

impl Mapping {
    fn read(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ').filter(|field| !field.is_empty());
        let mut ends = fields.next()?.split(|byte| *byte == b'-');
        let range = Range { start: hexadecimal(ends.next()?)?, end: hexadecimal(ends.next()?)? };
        let rights = fields.next()?;
        let is_of_a_file = fields.nth(3).is_some_and(|path| path.starts_with(b"/"));
        let has = |place: usize, right: u8| rights.get(place) == Some(&right);
        let is_constant = has(0, b'r') && has(1, b'-') && has(3, b'p') && is_of_a_file;
        Some(Self { range, is_constant, is_code: is_constant && has(2, b'x') })
    }
}

fn hexadecimal(text: &[u8]) -> Option<usize> {
    text.iter().try_fold(0_usize, |number, byte| {
        let digit = char::from(*byte).to_digit(16)?;
        number.checked_mul(16)?.checked_add(digit as usize)
    })
}

/// A copy of code in large pages, with the rights of code; nothing is left of one that fails.
fn copy(code: Range) -> Sys<Range> {
    const PRIVATE_ANONYMOUS: usize = 0x22;
    const HUGEPAGE: usize = 14;
    let length = code.len() + LARGE;
    // SAFETY: a new mapping at an address of the kernel's choice touches no other.
    let start = check("mmap", unsafe {
        let rights = PROT_READ | PROT_WRITE;
        syscall(number::MMAP, [0, length, rights, PRIVATE_ANONYMOUS, fd(-1), 0])
    })?;
    let aligned = (start + LARGE - 1) & !(LARGE - 1);
    let copy = Range { start: aligned, end: aligned + code.len() };
    forget(Range { start, end: copy.start })?;
    forget(Range { start: copy.end, end: start + length })?;
    // SAFETY: of the mapping above, which nobody else knows of.
    let advised = check("madvise", unsafe {
        syscall(number::MADVISE, [copy.start, copy.len(), HUGEPAGE, 0, 0, 0])
    });
    let done = advised.and_then(|_| {
        // SAFETY: `code` is mapped, readable and constant; `copy` is as long, writable, and nobody
        // else's; they do not overlap.
        unsafe {
            let (from, to) = (code.start as *const u8, copy.start as *mut u8);
            core::ptr::copy_nonoverlapping(from, to, copy.len());
        }
        if !is_large(copy)? {
            return Err(Fault { call: "large pages", errno: 12 });
        }
        // SAFETY: as above; nobody writes there any more.
        check("mprotect", unsafe {
            let rights = PROT_READ | PROT_EXEC;
            syscall(number::MPROTECT, [copy.start, copy.len(), rights, 0, 0, 0])
        })
    });
    match done {
        Ok(_) => Ok(copy),
        Err(fault) => {
            forget(copy)?;
            Err(fault)
        }
    }
}

/// Unmaps a range of [`copy`]'s own.
fn forget(range: Range) -> Sys<()> {
    if range.len() == 0 {
        return Ok(());
    }
    // SAFETY: callers pass parts of a mapping that they have just made, to which nothing leads.
    check("munmap", unsafe { syscall(number::MUNMAP, [range.start, range.len(), 0, 0, 0, 0]) })
        .map(drop)
}

/// Whether the kernel has put all of a mapping into large pages.
fn is_large(range: Range) -> Sys<bool> {
    let (mut here, mut kilobytes) = (false, 0);
    lines::each(c"/proc/self/smaps", &mut |line| {
        if let Some(mapping) = Mapping::read(line) {
            here = mapping.range.start == range.start;
        } else if let Some(text) = line.strip_prefix(b"AnonHugePages:").filter(|_| here) {
            let digits = text.iter().filter(|byte| byte.is_ascii_digit());
            kilobytes = digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'));
        }
        Ok(())
    })?;
    Ok(kilobytes * 1024 == range.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_large_pages_that_hold_code_are_taken() {
        let range = |start: usize, end: usize| Range { start: start << 12, end: end << 12 };
        // Debian's Python: constants, code, constants, from 4 MiB on.
        assert_eq!(within(range(0x400, 0x945), range(0x41f, 0x6d2)), range(0x400, 0x800));
        // Node.js: a hole is before its code.
        assert_eq!(within(range(0xb72, 0x25fe), range(0xb72, 0x25fe)), range(0xc00, 0x2400));
        assert_eq!(within(range(0x401, 0x5ff), range(0x401, 0x5ff)).len(), 0);
        // Constants far from the code stay as they are.
        assert_eq!(within(range(0x400, 0x2000), range(0x410, 0x420)), range(0x400, 0x600));
    }

    #[test]
    fn a_mapping_is_read_from_its_line() {
        let read = |line: &str| Mapping::read(line.as_bytes());
        let code =
            read("0041f000-006d2000 r-xp 0001f000 fe:00 1234   /usr/bin/python3.11").unwrap();
        assert_eq!(code.range, Range { start: 0x41_f000, end: 0x6d_2000 });
        assert!(code.is_constant && code.is_code);
        let constants = read("006d2000-00945000 r--p 002d2000 fe:00 1234  /usr/bin/a b").unwrap();
        assert!(constants.is_constant && !constants.is_code);
        for line in [
            "00945000-00946000 rw-p 00545000 fe:00 1234   /usr/bin/python3.11",
            "00945000-00946000 r-xs 00545000 fe:00 1234   /usr/bin/python3.11",
            "7ffc3b5f1000-7ffc3b612000 r-xp 00000000 00:00 0    [vdso]",
            "7ffc3b5f1000-7ffc3b612000 r-xp 00000000 00:00 0",
        ] {
            assert!(!read(line).unwrap().is_constant, "{line}");
        }
        assert_eq!(read("Size:                136 kB"), None);
    }

    #[test]
    fn this_very_program_has_code_and_a_copy_of_it_is_the_same() {
        let code = largest_code().unwrap();
        assert_eq!((code.start % LARGE, code.end % LARGE), (0, 0));
        if code.len() == 0 {
            return;
        }
        // Where there are no large pages there is no copy, and nothing is left of the attempt.
        if let Ok(copy) = copy(code) {
            // SAFETY: both are mapped, as long as each other, and readable.
            let bytes = |range: Range| unsafe {
                core::slice::from_raw_parts(range.start as *const u8, range.len())
            };
            assert!(bytes(code) == bytes(copy));
            forget(copy).unwrap();
        }
    }
}
