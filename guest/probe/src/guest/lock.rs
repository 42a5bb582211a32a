// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A ticket lock that also masks interrupts, so that a handler can't wait for
//! what it interrupted.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

use super::sys::{self, get, set};

/// A value that one CPU at a time uses.
pub struct Lock<T> {
    next: AtomicU32,
    serving: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the lock gives the value to one CPU at a time.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    /// A free lock.
    pub const fn new(value: T) -> Self {
        Self {
            next: AtomicU32::new(0),
            serving: AtomicU32::new(0),
            value: UnsafeCell::new(value),
        }
    }

    /// Waits for the value.
    pub fn lock(&self) -> Guard<'_, T> {
        let daif = get!("daif");
        sys::mask();
        let ticket = self.next.fetch_add(1, Ordering::Relaxed);
        while self.serving.load(Ordering::Acquire) != ticket {
            core::hint::spin_loop();
        }
        Guard { lock: self, daif }
    }
}

/// The right to use a [`Lock`]'s value.
pub struct Guard<'a, T> {
    lock: &'a Lock<T>,
    daif: u64,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the guard holds the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard holds the lock.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        self.lock.serving.fetch_add(1, Ordering::Release);
        set!("daif", self.daif);
    }
}

/// A value that is set once, before a second CPU runs.
pub struct Once<T> {
    set: AtomicU32,
    value: UnsafeCell<Option<T>>,
}

// SAFETY: after `set` the value is only read.
unsafe impl<T: Send + Sync> Sync for Once<T> {}

impl<T> Once<T> {
    /// Not set yet.
    pub const fn new() -> Self {
        Self {
            set: AtomicU32::new(0),
            value: UnsafeCell::new(None),
        }
    }

    /// Sets it; a second time is a bug.
    pub fn set(&self, value: T) {
        assert!(self.set.load(Ordering::Relaxed) == 0, "set twice");
        // SAFETY: only one CPU runs, and nobody has read it.
        unsafe { *self.value.get() = Some(value) };
        self.set.store(1, Ordering::Release);
    }

    /// The value; not set yet is a bug.
    pub fn get(&self) -> &T {
        // SAFETY: see `set`.
        match unsafe { &*self.value.get() } {
            Some(value) => value,
            None => panic!("not set yet"),
        }
    }
}
