// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Scenarios that tests run shortly and a stress run for long.

pub mod devices;
pub mod power;
pub mod time;
