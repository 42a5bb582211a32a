// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where device interrupts go: `GICD_IROUTER<n>` and `GICD_IROUTER<n>E` (Arm IHI
//! 0069), the only registers of the distributor that trap.
//!
//! The real distributor knows no vCPU. A route to one becomes a route to the
//! boot core, which never goes offline, and reads back as asked; Linux handles
//! an interrupt on whatever CPU it arrives.

use crate::affinity::Mpidr;
use crate::spi::{self, Spi};
use crate::trap::AccessSize;
use core::ops::Range;

/// The pages that trap, from the distributor's base: SPIs, then extended SPIs.
/// Without extended ones theirs are reserved, and passed through.
pub const PAGES: Range<u64> = 0x6000..0xa000;
/// Aff3 is in the high half of a register.
const HIGH_HALF: u32 = 4;
/// `GICD_IROUTER<n>`.Interrupt_Routing_Mode: any core takes it.
const ANY: u64 = 1 << 31;

/// A store to carry out on the real distributor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhysicalWrite {
    /// Bytes from the distributor's base.
    pub offset: u32,
    /// 32 or 64 bits; maybe more than Linux stored.
    pub size: AccessSize,
    /// The value.
    pub value: u64,
}

/// The SPIs that Linux routed to vCPUs.
#[derive(Clone, Debug)]
pub struct Router {
    /// By [`Spi::index`]: 0, or one more than the vCPU's index.
    vcpu: [u8; spi::COUNT],
}

impl Default for Router {
    fn default() -> Self {
        Self::new()
    }
}

impl Router {
    /// No SPI is routed to a vCPU.
    pub const fn new() -> Self {
        Self {
            vcpu: [0; spi::COUNT],
        }
    }

    /// A store of `size` at `offset` bytes from the distributor's base: what
    /// to store instead; `None` for nothing.
    pub fn write(
        &mut self,
        offset: u32,
        size: AccessSize,
        value: u64,
        vcpus: &[Mpidr],
        boot: Mpidr,
    ) -> Option<PhysicalWrite> {
        let as_asked = PhysicalWrite {
            offset,
            size,
            value,
        };
        let Some(spi) = Spi::routed_at(offset) else {
            return Some(as_asked);
        };
        let slot = &mut self.vcpu[spi.index()];
        let before = vcpus
            .get(usize::from(*slot).wrapping_sub(1))
            .map(|vcpu| vcpu.value());
        // The whole register as Linux means it. Its other half, in a store of
        // a half, is known if the route is a vCPU's; else it doesn't matter,
        // because vCPUs have no Aff3.
        let route = match (size, offset & 7) {
            (AccessSize::Double, 0) => value,
            (AccessSize::Word, 0) => value & 0xffff_ffff,
            (AccessSize::Word, HIGH_HALF) => match before {
                Some(low) => value << 32 | low & 0xffff_ffff,
                None => return Some(as_asked),
            },
            // Other sizes do nothing defined.
            _ => return None,
        };
        let vcpu = vcpus
            .iter()
            .position(|vcpu| route & ANY == 0 && vcpu.value() == route & Mpidr::MASK);
        *slot = vcpu.map_or(0, |index| index as u8 + 1);
        let whole = |value| PhysicalWrite {
            offset: offset & !7,
            size: AccessSize::Double,
            value,
        };
        Some(match (vcpu, before) {
            (Some(_), _) => whole(boot.value()),
            // The real register's other half is the boot core's.
            (None, Some(_)) => whole(route),
            (None, None) => as_asked,
        })
    }

    /// A load of `size` at `offset` bytes from the distributor's base, where
    /// the real distributor gave `physical`: what Linux gets.
    pub fn read(&self, offset: u32, size: AccessSize, physical: u64, vcpus: &[Mpidr]) -> u64 {
        let slot = Spi::routed_at(offset).and_then(|spi| self.vcpu.get(spi.index()));
        let vcpu = slot.and_then(|&slot| vcpus.get(usize::from(slot).wrapping_sub(1)));
        vcpu.map_or(physical, |vcpu| {
            vcpu.value() >> (8 * (offset & 7)) & size.mask()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::AccessSize::*;
    use super::*;
    use crate::affinity::vcpu_mpidr;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn machine() -> (Vec<Mpidr>, Mpidr) {
        let cores: Vec<_> = (0..4).map(Mpidr::new).collect();
        (
            (0..3).map(|i| vcpu_mpidr(i, &cores)).collect(),
            Mpidr::from_affinity(7, 0, 0, 1),
        )
    }

    #[test]
    fn a_route_to_a_vcpu_and_back() {
        let (vcpus, boot) = machine();
        let mut router = Router::new();
        let to_vcpu = router.write(0x6108, Double, vcpus[2].value(), &vcpus, boot);
        assert_eq!(
            to_vcpu,
            Some(PhysicalWrite {
                offset: 0x6108,
                size: Double,
                value: boot.value()
            })
        );
        assert_eq!(router.read(0x6108, Double, 1, &vcpus), vcpus[2].value());
        assert_eq!(router.read(0x6108, Word, 1, &vcpus), 0x102);
        assert_eq!(router.read(0x610c, Word, 7, &vcpus), 0);
        assert_eq!(router.read(0x6100, Double, 1, &vcpus), 1);
        let back = router.write(0x6108, Double, 3, &vcpus, boot);
        assert_eq!(
            back,
            Some(PhysicalWrite {
                offset: 0x6108,
                size: Double,
                value: 3
            })
        );
        assert_eq!(router.read(0x6108, Double, 3, &vcpus), 3);
    }

    #[test]
    fn stores_of_halves() {
        let (vcpus, boot) = machine();
        let mut router = Router::new();
        let whole = |value| {
            Some(PhysicalWrite {
                offset: 0x7fd8,
                size: Double,
                value,
            })
        };
        let mut store = |offset, value| router.write(offset, Word, value, &vcpus, boot);
        assert_eq!(store(0x7fd8, 0x101), whole(boot.value()));
        assert_eq!(store(0x7fdc, 0), whole(boot.value()));
        assert_eq!(store(0x7fd8, 2), whole(2));
        let high = PhysicalWrite {
            offset: 0x7fdc,
            size: Word,
            value: 1,
        };
        assert_eq!(store(0x7fdc, 1), Some(high));
        assert_eq!(store(0x7fd8, 0x100), whole(boot.value()));
        assert_eq!(store(0x7fdc, 5), whole(5 << 32 | 0x100));
        assert_eq!(router.read(0x7fd8, Double, 9, &vcpus), 9);
    }

    #[test]
    fn extended_spis_have_routes_of_their_own() {
        let (vcpus, boot) = machine();
        let mut router = Router::new();
        let to = |offset, value| {
            Some(PhysicalWrite {
                offset,
                size: Double,
                value,
            })
        };
        let to_vcpu = router.write(0x8100, Double, vcpus[1].value(), &vcpus, boot);
        assert_eq!(to_vcpu, to(0x8100, boot.value()));
        assert_eq!(router.read(0x8100, Double, 1, &vcpus), vcpus[1].value());
        // INTID 32's, which has the same number among its own.
        assert_eq!(router.read(0x6100, Double, 1, &vcpus), 1);
        assert_eq!(router.write(0x8100, Double, 3, &vcpus, boot), to(0x8100, 3));
        assert_eq!(router.read(0x8100, Double, 3, &vcpus), 3);
    }

    #[test]
    fn any_core_is_no_vcpu() {
        let (vcpus, boot) = machine();
        let value = ANY | vcpus[0].value();
        let mut router = Router::new();
        let stored = router.write(0x6100, Double, value, &vcpus, boot);
        assert_eq!(
            stored,
            Some(PhysicalWrite {
                offset: 0x6100,
                size: Double,
                value
            })
        );
        assert_eq!(router.read(0x6100, Double, value, &vcpus), value);
    }

    proptest! {
        /// Against real registers and a model of what Linux asked for.
        #[test]
        fn linux_reads_what_it_wrote(
            writes in proptest::collection::vec((0u32..8, any::<bool>(), 0usize..6), 1..64),
            first in prop_oneof![Just(0x6100u32), Just(0x7fa0), Just(0x8000), Just(0x9fc0)],
        ) {
            let (vcpus, boot) = machine();
            let names: Vec<u64> =
                vcpus.iter().map(|v| v.value()).chain([0, 3, 5 << 32 | 1]).collect();
            let mut router = Router::new();
            let mut real = [0u64; 8];
            let mut asked = [0u64; 8];
            for (spi, halves, target) in writes {
                let (offset, value) = (first + spi * 8, names[target]);
                asked[spi as usize] = value;
                let stores: &[_] = if halves {
                    &[(0, Word, value & 0xffff_ffff), (4, Word, value >> 32)]
                } else {
                    &[(0, Double, value)]
                };
                for &(at, size, value) in stores {
                    let write = router.write(offset + at, size, value, &vcpus, boot).unwrap();
                    let cell = &mut real[(write.offset - first) as usize / 8];
                    let shift = 8 * (write.offset & 7);
                    *cell = *cell & !(write.size.mask() << shift) | write.value << shift;
                }
                for i in 0..8u32 {
                    let cell = real[i as usize];
                    let read = router.read(first + i * 8, Double, cell, &vcpus);
                    prop_assert_eq!(read, asked[i as usize]);
                    prop_assert!(!vcpus.iter().any(|vcpu| vcpu.value() == cell));
                }
            }
        }

        #[test]
        fn any_access_gives_an_answer(offset: u32, size in 0u64..4, value: u64) {
            let (vcpus, boot) = machine();
            let size = AccessSize::from_sas(size);
            let mut router = Router::new();
            router.write(offset, size, value, &vcpus, boot);
            router.read(offset, size, value, &vcpus);
        }
    }
}
