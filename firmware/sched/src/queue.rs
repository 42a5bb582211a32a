// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The queue of ready vCPUs: first in, first out, each at most once.

use crate::state::VcpuId;
use taichi_abi::MAX_VCPUS;

/// At most [`MAX_VCPUS`] different vCPUs, four bits each, the first in the
/// lowest bits: the whole queue is one register, and how much of it is used.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Queue {
    slots: u64,
    /// Bits of `slots` in use.
    used: u64,
}

const BITS: u64 = 4;
const ALL: u64 = u64::BITS as u64;
const _: () = assert!(MAX_VCPUS == 1 << BITS && MAX_VCPUS as u64 * BITS == ALL);

impl Queue {
    pub(crate) const fn new() -> Self {
        Self { slots: 0, used: 0 }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        (self.used / BITS) as usize
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Appends `vcpu`, which must not be in the queue.
    #[inline]
    pub(crate) fn push(&mut self, vcpu: VcpuId) {
        debug_assert!(!self.contains(vcpu) && self.used < ALL);
        // Masked, as the machine's shift is: it costs nothing.
        self.slots |= (vcpu as u64 & 0xf) << (self.used % ALL);
        self.used += BITS;
    }

    /// Puts `vcpu`, which must not be in the queue, in front of all others.
    pub(crate) fn push_front(&mut self, vcpu: VcpuId) {
        debug_assert!(!self.contains(vcpu) && self.used < ALL);
        self.slots = (self.slots << BITS) | (vcpu as u64 & 0xf);
        self.used += BITS;
    }

    #[inline]
    pub(crate) fn pop(&mut self) -> Option<VcpuId> {
        if self.used == 0 {
            return None;
        }
        let first = (self.slots & 0xf) as VcpuId;
        self.slots >>= BITS;
        self.used -= BITS;
        Some(first)
    }

    /// Takes `vcpu` out, wherever it stands; false if it isn't there.
    pub(crate) fn remove(&mut self, vcpu: VcpuId) -> bool {
        let Some(at) = self.iter().position(|v| v == vcpu) else {
            return false;
        };
        let low = (1u64 << (at as u64 * BITS)) - 1;
        self.slots = (self.slots & low) | ((self.slots >> BITS) & !low);
        self.used -= BITS;
        true
    }

    /// The one to be popped next.
    pub(crate) fn first(&self) -> Option<VcpuId> {
        self.iter().next()
    }

    pub(crate) fn contains(&self, vcpu: VcpuId) -> bool {
        self.iter().any(|v| v == vcpu)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = VcpuId> + use<> {
        let slots = self.slots;
        (0..self.used / BITS).map(move |i| ((slots >> (i * BITS)) & 0xf) as VcpuId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    extern crate std;
    use std::collections::VecDeque;

    proptest! {
        #[test]
        fn behaves_like_a_deque(ops in proptest::collection::vec((0u8..4, 0usize..MAX_VCPUS), 0..200)) {
            let mut queue = Queue::default();
            let mut model = VecDeque::new();
            for (op, v) in ops {
                match op {
                    0 if !model.contains(&v) => { queue.push(v); model.push_back(v); }
                    1 if !model.contains(&v) => { queue.push_front(v); model.push_front(v); }
                    2 => prop_assert_eq!(queue.pop(), model.pop_front()),
                    3 => {
                        let at = model.iter().position(|&m| m == v);
                        prop_assert_eq!(queue.remove(v), at.is_some());
                        at.map(|i| model.remove(i));
                    }
                    _ => {}
                }
                prop_assert!(queue.iter().eq(model.iter().copied()));
                prop_assert_eq!(queue.len(), model.len());
            }
        }
    }
}
