// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The C ABI: `include/taichi.h` documents it for its users.
#![allow(unsafe_code)]

use std::ffi::c_char;

use crate::Yielder;

/// `TAICHI_NOT_LENT`.
const NOT_LENT: i32 = -1;

/// Opens a yielder, or returns null and writes why to `message`.
///
/// # Safety
/// `message` is null or points to `size` bytes that may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn taichi_open(message: *mut c_char, size: usize) -> *mut Yielder {
    match Yielder::open() {
        Ok(yielder) => Box::into_raw(Box::new(yielder)),
        Err(error) => {
            // SAFETY: the caller's promise.
            unsafe { write_message(&error.to_string(), message, size) };
            std::ptr::null_mut()
        }
    }
}

/// Closes a yielder.
///
/// # Safety
/// `yielder` is null or came from [`taichi_open`], and is not used afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn taichi_close(yielder: *mut Yielder) {
    if !yielder.is_null() {
        // SAFETY: it came from `Box::into_raw` and is given up by the caller.
        drop(unsafe { Box::from_raw(yielder) });
    }
}

/// As [`Yielder::poll`].
///
/// # Safety
/// `yielder` came from [`taichi_open`], and no other thread uses it now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn taichi_poll(yielder: *mut Yielder, got_work: bool) -> i32 {
    // SAFETY: the caller's promise: valid, and ours alone during the call.
    let yielder = unsafe { &mut *yielder };
    yielder
        .poll(got_work)
        .map_or(NOT_LENT, |reason| reason as i32)
}

/// As [`Yielder::is_inert`].
///
/// # Safety
/// `yielder` came from [`taichi_open`], and no other thread uses it now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn taichi_is_inert(yielder: *const Yielder) -> bool {
    // SAFETY: the caller's promise.
    unsafe { &*yielder }.is_inert()
}

/// The number of yields so far.
///
/// # Safety
/// `yielder` came from [`taichi_open`], and no other thread uses it now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn taichi_yields(yielder: *const Yielder) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { &*yielder }.stats().yields
}

/// Writes a string that ends in NUL, cut to fit.
///
/// # Safety
/// `message` is null or points to `size` bytes that may be written.
unsafe fn write_message(text: &str, message: *mut c_char, size: usize) {
    if message.is_null() || size == 0 {
        return;
    }
    let bytes = text.as_bytes();
    let len = bytes.len().min(size - 1);
    // SAFETY: `len` bytes and the NUL fit into `size`, by the caller's promise;
    // a Rust string and the caller's buffer don't overlap.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), message.cast::<u8>(), len);
        message.add(len).write(0);
    }
}
