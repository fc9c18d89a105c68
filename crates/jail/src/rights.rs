//! What this process may really do of what root may. In a container root has few of its rights, and
//! in a user namespace few of the host's ids.

use std::{fs, ops::RangeInclusive};

use rustix::{
    process::geteuid,
    thread::{CapabilitySet, capabilities},
};

use crate::error::{Jail, Step};

/// Rights by what they are needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rights {
    /// To map our own id into a user namespace of ours.
    pub(crate) own_id: bool,
    /// To give processes the host ids of Ampoule.
    pub(crate) ids: bool,
    /// To make device nodes, on a mount of our own.
    pub(crate) devices: bool,
}

impl Rights {
    /// Those of this process; `ids` is every host id that may be wanted.
    pub(crate) fn of_self(ids: &RangeInclusive<u32>) -> Jail<Self> {
        let held = capabilities(None).step("read our Linux capabilities")?.effective;
        let map = |file: &str| {
            fs::read_to_string(format!("/proc/self/{file}")).step_with(|| format!("read {file}"))
        };
        let is_root = geteuid().is_root();
        Ok(Self::from(is_root, held, &map("uid_map")?, &map("gid_map")?, ids))
    }

    fn from(
        is_root: bool,
        held: CapabilitySet,
        uids: &str,
        gids: &str,
        ids: &RangeInclusive<u32>,
    ) -> Self {
        // The kernel asks for SETFCAP of whoever maps the id of root.
        let to_map = CapabilitySet::SETUID | CapabilitySet::SETGID | CapabilitySet::SETFCAP;
        let to_make = CapabilitySet::SYS_ADMIN | CapabilitySet::MKNOD;
        let every = 0..=u32::MAX - 1;
        Self {
            own_id: !is_root || held.contains(CapabilitySet::SETFCAP),
            ids: held.contains(to_map) && maps(uids, ids) && maps(gids, ids),
            // Only in the first user namespace, which is the one that knows every id.
            devices: held.contains(to_make) && maps(uids, &every),
        }
    }
}

/// Whether one line of a table of ids (`inside outside count`) holds all of `ids`.
fn maps(table: &str, ids: &RangeInclusive<u32>) -> bool {
    table.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(|word| word.parse::<u64>().unwrap_or(0));
        let (first, count) = (numbers.next().unwrap_or(0), numbers.nth(1).unwrap_or(0));
        first <= u64::from(*ids.start()) && u64::from(*ids.end()) < first + count
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "         0          0 4294967295\n";
    const REMAPPED: &str = "0 100000 65536\n";
    const WANTED: RangeInclusive<u32> = 1_900_000_000..=1_901_000_000;

    fn rights(held: CapabilitySet, table: &str) -> (bool, bool) {
        let rights = Rights::from(true, held, table, table, &WANTED);
        (rights.ids, rights.devices)
    }

    #[test]
    fn rights_are_those_that_are_held() {
        // As Docker starts root.
        let container = CapabilitySet::SETUID
            | CapabilitySet::SETGID
            | CapabilitySet::SETFCAP
            | CapabilitySet::MKNOD;
        assert_eq!(rights(CapabilitySet::all(), HOST), (true, true));
        assert_eq!(rights(container, HOST), (true, false));
        assert_eq!(rights(container - CapabilitySet::SETFCAP, HOST), (false, false));
        assert_eq!(rights(CapabilitySet::empty(), HOST), (false, false));
    }

    #[test]
    fn root_maps_itself_by_a_right_and_others_without() {
        let own_id = |is_root, held| Rights::from(is_root, held, HOST, HOST, &WANTED).own_id;
        assert!(own_id(true, CapabilitySet::SETFCAP));
        assert!(!own_id(true, CapabilitySet::empty()));
        assert!(own_id(false, CapabilitySet::empty()));
    }

    #[test]
    fn in_a_user_namespace_root_lacks_the_hosts_ids() {
        assert_eq!(rights(CapabilitySet::all(), REMAPPED), (false, false));
        assert_eq!(
            rights(CapabilitySet::all(), "0 0 1\n1900000000 1900000000 2000000\n"),
            (true, false)
        );
        assert_eq!(rights(CapabilitySet::all(), ""), (false, false));
    }
}
