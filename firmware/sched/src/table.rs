// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One of everything per core or vCPU, found without a bounds check.

use core::ops::{Index, IndexMut};

/// `N` values, a power of two. An index is below `N`; the remainder, one
/// instruction, tells the compiler so.
#[derive(Clone, Debug)]
pub(crate) struct Table<T, const N: usize>(pub(crate) [T; N]);

impl<T, const N: usize> Index<usize> for Table<T, N> {
    type Output = T;

    #[inline]
    fn index(&self, index: usize) -> &T {
        const { assert!(N.is_power_of_two()) };
        debug_assert!(index < N);
        &self.0[index % N]
    }
}

impl<T, const N: usize> IndexMut<usize> for Table<T, N> {
    #[inline]
    fn index_mut(&mut self, index: usize) -> &mut T {
        debug_assert!(index < N);
        &mut self.0[index % N]
    }
}
