//! Maps the names of system calls to their numbers, per architecture.

use std::str::FromStr;

/// An architecture the compiler knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Arch {
    /// 64-bit x86, without x32.
    X86_64,
    /// 64-bit little-endian ARM.
    Aarch64,
}

impl Arch {
    /// Every architecture of the table.
    pub const ALL: [Self; 2] = [Self::X86_64, Self::Aarch64];

    /// The architecture this program is built for.
    #[cfg(all(target_arch = "x86_64", target_pointer_width = "64"))]
    pub const NATIVE: Self = Self::X86_64;
    /// The architecture this program is built for.
    #[cfg(all(target_arch = "aarch64", target_pointer_width = "64", target_endian = "little"))]
    pub const NATIVE: Self = Self::Aarch64;

    /// The `AUDIT_ARCH_…` value that the kernel gives to filters (`linux/audit.h`).
    pub const fn audit(self) -> u32 {
        match self {
            Self::X86_64 => 0xc000_003e,
            Self::Aarch64 => 0xc000_00b7,
        }
    }

    /// The number of the call `name`, if this architecture has it.
    pub fn number(self, name: &str) -> Option<u32> {
        let id = match self {
            Self::X86_64 => syscalls::x86_64::Sysno::from_str(name).ok()?.id(),
            Self::Aarch64 => syscalls::aarch64::Sysno::from_str(name).ok()?.id(),
        };
        u32::try_from(id).ok()
    }

    /// The name of the call `number`, if the table has it.
    pub fn name(self, number: u32) -> Option<&'static str> {
        let id = usize::try_from(number).ok()?;
        match self {
            Self::X86_64 => Some(syscalls::x86_64::Sysno::new(id)?.name()),
            Self::Aarch64 => Some(syscalls::aarch64::Sysno::new(id)?.name()),
        }
    }
}
