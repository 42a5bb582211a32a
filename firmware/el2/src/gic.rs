// SPDX-License-Identifier: Apache-2.0 OR MIT
//! This core's physical CPU interface (ICC_*) and virtual one (ICH_*), Arm IHI
//! 0069 chapter 12.

use crate::sysreg::isb;
use crate::{read_sysreg, write_sysreg};
pub use taichi_machine::list_registers::{Full, ListRegisters};

/// EL2's own interrupts: the kick.
pub const KICK: u32 = 0;
/// The list registers' maintenance interrupt.
pub const MAINTENANCE: u32 = 25;
/// The hypervisor physical timer.
pub const HYP_TIMER: u32 = 26;
/// The virtual timer.
pub const VIRTUAL_TIMER: u32 = 27;
/// From here to 1023: no interrupt. LPIs start at 8192.
const SPURIOUS: u32 = 1020;
/// The first LPI.
pub const FIRST_LPI: u32 = 8192;

/// Priority of EL2's own interrupts, above Linux's 0xa0.
pub const PRIORITY: u8 = 0x80;
/// Priority of Linux's interrupts, and so of those that EL2 injects.
pub const LINUX_PRIORITY: u8 = 0xa0;
/// ICC_CTLR_EL1.EOImode: priority drop and deactivation apart.
pub const EOI_MODE: u64 = 1 << 1;
/// Every interrupt passes.
const PMR_OPEN: u64 = 0xff;
/// Just EL2's own pass.
const PMR_OWN: u64 = 0x90;

/// Whether an interrupt number says that there is none.
#[inline]
pub fn is_spurious(intid: u32) -> bool {
    (SPURIOUS..1024).contains(&intid)
}

/// Group 1 interrupt that would be acknowledged next, without taking it.
#[inline]
pub fn highest_pending() -> u32 {
    read_sysreg!("icc_hppir1_el1") as u32
}

/// Acknowledges the highest pending interrupt; the core must deactivate it.
#[inline]
pub fn acknowledge() -> u32 {
    let intid = read_sysreg!("icc_iar1_el1") as u32;
    // The acknowledge must be over before its effects are relied upon.
    crate::sysreg::dsb_sy();
    intid
}

/// Priority drop; deactivates too where EOImode is 0 (DP cores).
#[inline]
pub fn end(intid: u32) {
    // SAFETY: changes which interrupts this core gets, not memory.
    unsafe { write_sysreg!("icc_eoir1_el1", intid) };
    isb();
}

/// Deactivates, where EOImode is 1 (CP cores).
#[inline]
pub fn deactivate(intid: u32) {
    // SAFETY: as above.
    unsafe { write_sysreg!("icc_dir_el1", intid) };
    isb();
}

/// Ends an interrupt of EL2's own. On a DP core EOImode is Linux's, which is 0.
#[inline]
pub fn end_own(intid: u32, is_dp: bool) {
    end(intid);
    if !is_dp {
        deactivate(intid);
    }
}

/// Sends SGIs, as ICC_SGI1R_EL1 says.
#[inline]
pub fn send_sgi(sgi1r: u64) {
    // What was written for the receiver must be there before it is interrupted.
    // SAFETY: a barrier; and interrupts to cores that run our own vectors or
    // Linux's.
    unsafe {
        core::arch::asm!("dsb ishst", options(nostack, preserves_flags));
        write_sysreg!("icc_sgi1r_el1", sgi1r);
    }
    isb();
}

/// Whether a physical interrupt is pending for this core that its CPU
/// interface would signal (ISR_EL1.I).
#[inline]
pub fn is_pending() -> bool {
    read_sysreg!("isr_el1") & 0b1000_0000 != 0
}

/// Whether this core's native context is inside an interrupt handler: a
/// physical priority is active.
#[inline]
pub fn is_priority_active() -> bool {
    read_sysreg!("icc_ap1r0_el1") != 0
}

/// Opens the physical CPU interface on a CP core, where it is EL2's.
pub fn init_cp() {
    // SAFETY: changes which interrupts this core gets, not memory.
    unsafe {
        write_sysreg!("icc_pmr_el1", PMR_OPEN);
        write_sysreg!("icc_bpr1_el1", 0u64);
        write_sysreg!("icc_ctlr_el1", EOI_MODE);
        write_sysreg!("icc_igrpen1_el1", 1u64);
    }
    isb();
}

/// Lets EL2 and Linux use the system register interface, and clears the
/// virtual one.
pub fn init_common() {
    // SAFETY: as above.
    unsafe {
        // SRE, no bypass, and EL1 may see ICC_SRE_EL1.
        write_sysreg!("icc_sre_el2", 0xfu64);
        isb();
        // The same at EL1, as Linux sets it: a vCPU may run here before this
        // core's own Linux has.
        write_sysreg!("icc_sre_el1", 0x7u64);
        isb();
        // Group 0 is the firmware's below: no FIQ from it.
        write_sysreg!("icc_igrpen0_el1", 0u64);
        write_sysreg!("ich_hcr_el2", 0u64);
        write_sysreg!("ich_ap1r0_el2", 0u64);
        write_sysreg!("ich_ap0r0_el2", 0u64);
        for i in 0..taichi_machine::list_registers::COUNT {
            write_list(i, 0);
        }
    }
    isb();
}

/// List registers that this core has.
pub fn list_registers() -> usize {
    (read_sysreg!("ich_vtr_el2") & 0x1f) as usize + 1
}

/// ICC_PMR_EL1 of this core.
#[inline]
pub fn priority_mask() -> u64 {
    read_sysreg!("icc_pmr_el1")
}

/// Sets ICC_PMR_EL1.
#[inline]
pub fn set_priority_mask(pmr: u64) {
    // SAFETY: as above.
    unsafe { write_sysreg!("icc_pmr_el1", pmr) };
}

/// On a CP core: lets all interrupts pass, or EL2's own alone (while the list
/// registers are full).
#[inline]
pub fn own_interrupts_only(own_only: bool) {
    set_priority_mask(if own_only { PMR_OWN } else { PMR_OPEN });
}

/// ICC_CTLR_EL1 as EL1 of a DP core reads it.
pub fn read_control() -> u64 {
    read_sysreg!("icc_ctlr_el1")
}

/// ICC_CTLR_EL1 as EL1 of a DP core writes it.
pub fn write_control(value: u64) {
    // SAFETY: as above.
    unsafe { write_sysreg!("icc_ctlr_el1", value) };
    isb();
}

/// ICC_RPR_EL1.
pub fn running_priority() -> u64 {
    read_sysreg!("icc_rpr_el1")
}

/// Asks for the maintenance interrupt when the list registers run empty.
#[inline]
pub fn set_underflow(on: bool) {
    use crate::sysreg::ich_hcr::UIE;
    let hcr = read_sysreg!("ich_hcr_el2");
    let hcr = if on { hcr | UIE } else { hcr & !UIE };
    // SAFETY: changes which interrupts EL2 gets.
    unsafe { write_sysreg!("ich_hcr_el2", hcr) };
    isb();
}

/// Whether the maintenance interrupt has a cause (ICH_MISR_EL2).
#[inline]
pub fn is_maintenance_due() -> bool {
    read_sysreg!("ich_misr_el2") != 0
}

/// Makes virtual interrupt `intid` pending in the loaded context.
#[inline]
pub fn pend(lists: &mut ListRegisters, intid: u32, physical: bool) -> Result<(), Full> {
    refresh(lists);
    let changed = lists.pend(intid, LINUX_PRIORITY, physical)?;
    // SAFETY: a virtual interrupt for EL1.
    unsafe { write_list(changed, lists.lr[changed]) };
    Ok(())
}

/// Reads the list registers in use back from the loaded context.
#[inline]
pub fn refresh(lists: &mut ListRegisters) {
    let used = lists.used;
    for i in 0..lists.lr.len() {
        if used & 1 << i != 0 {
            lists.lr[i] = read_list(i);
        }
    }
}

/// Takes all virtual interrupts away from the loaded context.
pub fn discard(lists: &mut ListRegisters) {
    for i in 0..lists.lr.len() {
        // SAFETY: EL1 has fewer interrupts.
        unsafe { write_list(i, 0) };
    }
    *lists = ListRegisters::new();
}

/// Takes the list registers out of the core and leaves them empty.
#[inline]
pub(crate) fn unload(lists: &mut ListRegisters) {
    let used = lists.used;
    if used == 0 {
        return;
    }
    for i in 0..lists.lr.len() {
        if used & 1 << i != 0 {
            let lr = read_list(i);
            // SAFETY: takes virtual interrupts away from EL1, which is not
            // running.
            unsafe { write_list(i, 0) };
            let live = lr >> 62 != 0;
            lists.lr[i] = if live { lr } else { 0 };
            if !live {
                lists.used &= !(1 << i);
            }
        }
    }
}

/// Puts the list registers into the core, where they are empty.
///
/// # Safety
/// `lists` belongs to the context that EL2 returns to.
#[inline]
pub(crate) unsafe fn load(lists: &ListRegisters) {
    let used = lists.used;
    if used == 0 {
        return;
    }
    for i in 0..lists.lr.len() {
        if used & 1 << i != 0 {
            // SAFETY: the caller's promise.
            unsafe { write_list(i, lists.lr[i]) };
        }
    }
}

#[inline(always)]
fn read_list(i: usize) -> u64 {
    match i {
        0 => read_sysreg!("ich_lr0_el2"),
        1 => read_sysreg!("ich_lr1_el2"),
        2 => read_sysreg!("ich_lr2_el2"),
        _ => read_sysreg!("ich_lr3_el2"),
    }
}

/// # Safety
/// The value is a virtual interrupt for the context that EL2 returns to.
#[inline(always)]
unsafe fn write_list(i: usize, value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        match i {
            0 => write_sysreg!("ich_lr0_el2", value),
            1 => write_sysreg!("ich_lr1_el2", value),
            2 => write_sysreg!("ich_lr2_el2", value),
            _ => write_sysreg!("ich_lr3_el2", value),
        }
    }
}
