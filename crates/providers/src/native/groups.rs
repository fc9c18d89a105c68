//! Numbers for trust groups: the launcher knows no names.

use std::sync::{Mutex, PoisonError};

use ampoule_core::TrustGroup;

/// So many names are remembered. One that is forgotten and comes back has a new number, and with it
/// warm interpreters of its own as before.
const MOST: usize = 256;

/// The groups that were named last. No number is ever given twice.
#[derive(Debug, Default)]
pub(super) struct Groups(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// The one that was asked for last at the end.
    names: Vec<(TrustGroup, u32)>,
    last: u32,
}

impl Groups {
    /// The number of a group; 0 is the one of who names none.
    pub(super) fn number(&self, group: &TrustGroup) -> u32 {
        if *group == TrustGroup::default() {
            return 0;
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = match known.names.iter().position(|(name, _)| name == group) {
            Some(place) => known.names.remove(place),
            None => {
                known.last = known.last.checked_add(1).expect("fewer than 2^32 groups were named");
                (group.clone(), known.last)
            }
        };
        let number = entry.1;
        known.names.push(entry);
        if known.names.len() > MOST {
            known.names.remove(0);
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str) -> TrustGroup {
        TrustGroup::new(name).unwrap()
    }

    #[test]
    fn a_group_keeps_its_number_while_it_is_known_and_no_number_comes_back() {
        let groups = Groups::default();
        assert_eq!(groups.number(&TrustGroup::default()), 0);
        let first = groups.number(&group("a"));
        assert_eq!(groups.number(&group("b")), first + 1);
        assert_eq!(groups.number(&group("a")), first);
        for other in 0..MOST {
            groups.number(&group(&format!("other-{other}")));
        }
        assert!(groups.number(&group("a")) > first + u32::try_from(MOST).unwrap());
    }
}
