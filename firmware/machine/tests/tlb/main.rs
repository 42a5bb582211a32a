// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A model of TLBs under contexts that change cores: the check that
//! `docs/tlb-and-vmid.md` argues for. QEMU can't show a missing invalidation.
//!
//! Two cores with a TLB each, two native contexts, one vCPU; Linux's ASID
//! allocator; unmapping with broadcast TLBIs that arrive late. Random steps; no
//! context may hit an entry that Linux has invalidated and waited for, one of
//! another address space, or one from a boot with the MMU off. With every rule
//! kept nothing bad is ever found; with one left out something is.

mod linux;
mod world;

use world::{Rules, World};

/// Random histories until one goes wrong; how many there were.
fn first_bad(rules: Rules, histories: u64) -> Option<u64> {
    (1..=histories).find(|&seed| {
        let mut world = World::new(rules, seed);
        (0..300).any(|_| world.step().is_err())
    })
}

/// Enough to find what a missing rule lets through, many times over.
const HISTORIES: u64 = 10_000;

#[test]
fn with_all_rules_nothing_stale_is_hit() {
    assert_eq!(first_bad(Rules::ALL, HISTORIES), None);
}

#[test]
fn contexts_need_one_vmid() {
    assert!(
        first_bad(
            Rules {
                one_vmid: false,
                ..Rules::ALL
            },
            HISTORIES
        )
        .is_some()
    );
}

#[test]
fn local_invalidations_of_a_vcpu_must_be_broadcast() {
    assert!(
        first_bad(
            Rules {
                fb: false,
                ..Rules::ALL
            },
            HISTORIES
        )
        .is_some()
    );
}

/// BSU makes a vCPU's DSB NSH wait for other cores. A vCPU gets to those only
/// past the barrier of R6, which waits too: BSU is a second lock on the door.
#[test]
fn barriers_of_a_vcpu_are_covered_by_the_one_before_it_moves() {
    assert_eq!(
        first_bad(
            Rules {
                bsu: false,
                ..Rules::ALL
            },
            HISTORIES
        ),
        None
    );
    assert!(
        first_bad(
            Rules {
                bsu: false,
                barrier: false,
                ..Rules::ALL
            },
            HISTORIES
        )
        .is_some()
    );
}

#[test]
fn a_barrier_is_needed_before_a_vcpu_moves() {
    assert!(
        first_bad(
            Rules {
                barrier: false,
                ..Rules::ALL
            },
            HISTORIES
        )
        .is_some()
    );
}

#[test]
fn boot_page_tables_must_leave_nothing_behind() {
    assert!(
        first_bad(
            Rules {
                boot_flush: false,
                ..Rules::ALL
            },
            HISTORIES
        )
        .is_some()
    );
}

/// The known rest of R2: Linux announces its next ASID some instructions before
/// it loads it, and a context stopped just there may walk the old tables under
/// an ASID that has been given away.
#[test]
fn the_window_between_announcing_and_loading_an_asid_is_real() {
    assert!(
        first_bad(
            Rules {
                no_window: false,
                ..Rules::ALL
            },
            10 * HISTORIES
        )
        .is_some()
    );
}
