// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whether the machine's Interrupt Translation Services can serve vCPUs.

use core::fmt;

/// Why vCPUs can't be had beside an ITS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its frame couldn't be read, so nothing is known of it.
    Unreadable,
    /// Its targets are physical addresses, which emulated frames don't have.
    PhysicalTargets,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreadable => {
                "an ITS of the device tree overlaps the firmware, and can't be read; \
                 correct its reg property, or set vcpus=0"
            }
            Self::PhysicalTargets => {
                "the ITS addresses redistributors physically (GITS_TYPER.PTA); \
                 vCPUs need processor numbers"
            }
        })
    }
}

/// Checks the GITS_TYPER of each ITS (Arm IHI 0069); `None` is one whose frame
/// couldn't be read.
///
/// # Errors
/// The first ITS that can't serve vCPUs.
pub fn check(typers: impl IntoIterator<Item = Option<u64>>) -> Result<(), Refusal> {
    const PTA: u64 = 1 << 19;
    typers.into_iter().try_for_each(|typer| match typer {
        None => Err(Refusal::Unreadable),
        Some(typer) if typer & PTA != 0 => Err(Refusal::PhysicalTargets),
        Some(_) => Ok(()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_numbers_pass_whatever_else_is_set() {
        assert_eq!(check([]), Ok(()));
        assert_eq!(check([Some(0), Some(!(1 << 19))]), Ok(()));
    }

    #[test]
    fn any_its_with_physical_targets_or_unread_is_refused() {
        assert_eq!(
            check([Some(0), Some(1 << 19)]),
            Err(Refusal::PhysicalTargets)
        );
        assert_eq!(check([Some(0), None]), Err(Refusal::Unreadable));
    }
}
