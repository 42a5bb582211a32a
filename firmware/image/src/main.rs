// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The firmware. No unsafe code: this binary wires the policy
//! (`taichi_sched`) and the machine that Linux believes in (`taichi_machine`)
//! to the hardware (`taichi_el2`).
//!
//! - [`boot`]: from the loader to Linux; what can go wrong on the way
//! - [`machine`]: the shared state; [`hot`]: of it, what the shortest paths need
//! - [`sync`]: traps; [`interrupts`]: physical interrupts; [`stray`]: those that
//!   can't be
//! - [`lend`], [`reclaim`]: cores change hands
//! - [`sgi`]: interrupts between CPUs; [`vcpu`], [`native`]: interrupts for
//!   vCPUs and for native contexts
//! - [`crash`]: devices for a crash kernel; [`stolen`]: stolen time
//! - [`watch`]: kicks that got lost; [`park`]: no DP core is lent
//! - [`plan`]: who may touch which memory; [`pages`]: emulated pages; [`power`]: PSCI
//!
//! On a host it compiles to an empty program.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod firmware {
    pub mod boot;
    pub mod crash;
    #[cfg(feature = "faults")]
    pub mod faults;
    pub mod hot;
    pub mod interrupts;
    pub mod lend;
    pub mod machine;
    pub mod native;
    pub mod pages;
    pub mod park;
    pub mod plan;
    pub mod power;
    pub mod reclaim;
    pub mod sgi;
    pub mod stolen;
    pub mod stray;
    pub mod sync;
    pub mod vcpu;
    pub mod watch;

    taichi_el2::handlers! {
        boot: boot::boot,
        core_up: boot::core_up,
        sync: sync::sync,
        irq: interrupts::irq,
        serror: interrupts::serror,
    }
}

#[cfg(not(target_os = "none"))]
fn main() {}
