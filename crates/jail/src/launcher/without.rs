//! The test switch: layers that are left out of every cell, so that a probe can be seen to get
//! through where its fence is gone. Empty but for `doctor`'s hidden flag and tests.

use ampoule_core::Layer;

use super::{cell::PROGRAM_ID, rules::Rules};
use crate::{confine::Spared, fences::Instruction, seccomp::RET_ALLOW};

/// The layers that are left out.
#[derive(Debug, Default)]
pub(super) struct Without(Vec<Layer>);

impl Without {
    pub(super) fn new(layers: Vec<Layer>) -> Self {
        Self(layers)
    }

    /// Whether nothing is left out.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `layer` is left out.
    pub(super) fn has(&self, layer: Layer) -> bool {
        self.0.contains(&layer)
    }

    /// Takes from CLONE_NEW… flags those that are left out. The mount namespace stays: without one
    /// a cell could not mount, and what it would mount would be the launcher's.
    pub(super) fn namespaces(&self, all: u64) -> u64 {
        const FLAGS: [(Layer, u64); 6] = [
            (Layer::UserNamespace, 0x1000_0000),
            (Layer::PidNamespace, 0x2000_0000),
            (Layer::IpcNamespace, 0x0800_0000),
            (Layer::UtsNamespace, 0x0400_0000),
            (Layer::NetworkNamespace, 0x4000_0000),
            (Layer::CgroupNamespace, 0x0200_0000),
        ];
        FLAGS
            .into_iter()
            .filter(|(layer, _)| self.has(*layer))
            .fold(all, |left, (_, flag)| left & !flag)
    }

    /// Loosens the rules of every worker.
    pub(super) fn loosen(&self, rules: &mut Rules) {
        if self.has(Layer::Seccomp) {
            // A filter all the same, so that there is a listener.
            const RETURN: u16 = 0x06;
            rules.filter = vec![Instruction { code: RETURN, jt: 0, jf: 0, k: RET_ALLOW }];
        }
        if self.has(Layer::Landlock) {
            rules.landlock_abi = 0;
        }
    }

    /// What `confine` leaves alone.
    pub(super) fn spared(&self) -> Spared {
        Spared {
            linux_caps: self.has(Layer::NoLinuxCaps),
            no_new_privs: self.has(Layer::NoNewPrivs),
        }
    }

    /// The ids of a cell: `hosts` are those of its first process and of its program, where they
    /// have their own.
    pub(super) fn ids(&self, hosts: Option<(u32, u32)>) -> Ids {
        match hosts {
            _ if self.has(Layer::UserNamespace) => {
                Ids { first: None, program: hosts.map_or(0, |(_, own)| own), map: None }
            }
            Some((_, own)) if self.has(Layer::OwnIds) => Ids {
                first: Some(PROGRAM_ID),
                program: PROGRAM_ID,
                map: Some(format!("{PROGRAM_ID} {own} 1")),
            },
            Some((first, own)) => Ids {
                first: Some(0),
                program: PROGRAM_ID,
                map: Some(format!("0 {first} 1\n{PROGRAM_ID} {own} 1")),
            },
            None => {
                Ids { first: None, program: PROGRAM_ID, map: Some(format!("{PROGRAM_ID} 0 1")) }
            }
        }
    }
}

/// The ids inside a cell.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ids {
    /// What the first process becomes; `None` if it stays what it is.
    pub(super) first: Option<u32>,
    /// What the program becomes.
    pub(super) program: u32,
    /// The map of the cell's user namespace, if it has one.
    pub(super) map: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_out_unless_it_is_named() {
        let none = Without::default();
        assert!(Layer::ALL.iter().all(|layer| !none.has(*layer)));
        assert_eq!(none.namespaces(u64::MAX), u64::MAX);
        assert_eq!(none.spared(), Spared::default());
        let ids = none.ids(Some((7, 8)));
        assert_eq!(ids.map.as_deref(), Some("0 7 1\n65534 8 1"));
        assert_eq!((ids.first, ids.program), (Some(0), PROGRAM_ID));
        assert_eq!(none.ids(None).map.as_deref(), Some("65534 0 1"));
    }

    #[test]
    fn one_layer_takes_its_own_flag_only() {
        let without = Without::new(vec![Layer::UtsNamespace]);
        assert_eq!(without.namespaces(u64::MAX), !0x0400_0000);
        assert!(!without.has(Layer::IpcNamespace));
    }
}
