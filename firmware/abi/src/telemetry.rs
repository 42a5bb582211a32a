// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The telemetry window: RAM that the firmware writes and Linux may only read.
//!
//! It starts with a [`Header`], followed at the offsets that the header names
//! by one [`Core`] per real core, one [`Vcpu`] per vCPU, and one trace ring
//! per core ([`crate::trace`]). All counters only grow (and wrap). A field is
//! written by one core at a time with single-copy atomic stores; fields are
//! not consistent with one another.
//!
//! Times are ticks of the system counter (CNTVCT_EL0), [`Header::frequency`]
//! a second.

use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU32, AtomicU64};

/// First word of [`Header`]: "TAICHI" and two zero bytes, little-endian.
pub const MAGIC: u64 = 0x0000_4948_4349_4154;

/// The window's first 4 KiB.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Header {
    /// [`MAGIC`], written last.
    pub magic: AtomicU64,
    /// [`crate::VERSION`].
    pub version: AtomicU32,
    /// Real cores.
    pub cores: AtomicU32,
    /// vCPUs.
    pub vcpus: AtomicU32,
    /// vCPUs that are ready to run and have no core now. A poller need not
    /// yield where this is 0.
    pub ready: AtomicU32,
    /// Ticks of the system counter in a second (CNTFRQ_EL0).
    pub frequency: AtomicU64,
    /// Byte offset of the first [`Core`] from the window's start.
    pub core_offset: AtomicU32,
    /// Byte offset of the first [`Vcpu`].
    pub vcpu_offset: AtomicU32,
    /// Byte offset of the first trace ring.
    pub trace_offset: AtomicU32,
    /// Records in one trace ring.
    pub trace_records: AtomicU32,
    /// Build id of the firmware: the first 8 bytes of it.
    pub build: AtomicU64,
    /// Bit n: core n is a DP core.
    pub dp_cores: AtomicU64,
    /// Byte offset of the last run's epitaph, if there is one
    /// ([`crate::epitaph`]).
    pub epitaph_offset: AtomicU32,
    /// 0.
    pub reserved: AtomicU32,
    /// Times a core was interrupted again because nobody had done what it had
    /// been interrupted for. Not 0 means that interrupts between cores get lost.
    pub kicks_again: AtomicU64,
    /// A [`Parked`]: whether DP cores are lent at all, and if not, why.
    pub parked: AtomicU32,
    /// 0.
    pub reserved2: AtomicU32,
}

/// Why no DP core is lent. vCPUs run on CP cores alone then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Parked {
    /// They are lent.
    No = 0,
    /// Root asked for it ([`crate::control::PARK`]).
    Asked = 1,
    /// Kicks got lost again and again ([`Header::kicks_again`]).
    LostKicks = 2,
}

impl Parked {
    /// The reason with this number; `None` for one that this version doesn't
    /// know.
    pub fn from_number(n: u32) -> Option<Self> {
        [Self::No, Self::Asked, Self::LostKicks]
            .into_iter()
            .find(|&p| p as u32 == n)
    }
}

/// What a core does, as [`Core::state`] tells it in its low 8 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CoreState {
    /// Linux's own CPU runs (the "P" of an accelerator's P/V word).
    Native = 0,
    /// A vCPU runs; bits 8..16 of the state hold its number ("V").
    Lent = 1,
    /// Linux's own CPU idles, and no vCPU wants the core.
    Waiting = 2,
    /// Not started, or switched off by PSCI.
    Off = 3,
}

/// One real core. 256 bytes.
#[repr(C, align(256))]
#[derive(Debug, Default)]
pub struct Core {
    /// The P/V word: a [`CoreState`], and the vCPU in bits 8..16.
    pub state: AtomicU64,
    /// MPIDR_EL1's affinity fields.
    pub mpidr: AtomicU64,
    /// Ticks the core was lent, counted when a vCPU leaves it.
    pub lent_ticks: AtomicU64,
    /// Ticks Linux's own CPU idled with no vCPU to run.
    pub waiting_ticks: AtomicU64,
    /// Times the core came back, by [`crate::doorbell::Reason`]; `Nothing`
    /// means that the vCPU had nothing more to do. See [`Self::lends`].
    pub reclaims: [AtomicU64; 8],
    /// Loads from the yield register that lent nothing, because no vCPU was
    /// ready.
    pub yields_empty: AtomicU64,
    /// Lends refused because something for the native context was pending.
    pub refusals: AtomicU64,
    /// Probes stored for this core while it was native.
    pub probes_late: AtomicU64,
    /// Times this core was taken from busy native code for a starving vCPU.
    pub forced: AtomicU64,
    /// Traps from EL1/EL0 (synchronous exceptions to EL2), but for yields and
    /// SGI sends, which have counters of their own.
    pub traps: AtomicU64,
    /// Physical interrupts taken to EL2.
    pub interrupts: AtomicU64,
    /// SGIs that EL1 sent from this core.
    pub sgis: AtomicU64,
    /// Times another vCPU followed at the end of a slice.
    pub rotations: AtomicU64,
    /// Ticks this core was taken from busy native code: what Linux calls stolen
    /// time. What a poller gives away by a yield isn't, nor is idle time.
    pub stolen_ticks: AtomicU64,
    /// Of [`Self::traps`]: loads and stores that stage 2 doesn't let through, by
    /// [`Page`].
    pub accesses: [AtomicU64; 5],
    /// Of [`Self::traps`]: system registers, but for SGI sends.
    pub registers: AtomicU64,
    /// Of [`Self::traps`]: SMC, that is PSCI and other calls of SMCCC.
    pub calls: AtomicU64,
}

/// What stage 2 keeps from Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Page {
    /// The doorbell, but for yields, and the control page.
    Window = 0,
    /// A vCPU's redistributor.
    Redistributor = 1,
    /// Where the distributor sends SPIs (`GICD_IROUTER<n>`).
    Router = 2,
    /// The SGI and PPI page of a real core's redistributor.
    Private = 3,
    /// Nothing of Linux's: a bus error.
    Nothing = 4,
}

impl Core {
    /// All zero.
    pub const fn new() -> Self {
        Self {
            state: AtomicU64::new(0),
            mpidr: AtomicU64::new(0),
            lent_ticks: AtomicU64::new(0),
            waiting_ticks: AtomicU64::new(0),
            reclaims: [const { AtomicU64::new(0) }; 8],
            yields_empty: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
            probes_late: AtomicU64::new(0),
            forced: AtomicU64::new(0),
            traps: AtomicU64::new(0),
            interrupts: AtomicU64::new(0),
            sgis: AtomicU64::new(0),
            rotations: AtomicU64::new(0),
            stolen_ticks: AtomicU64::new(0),
            accesses: [const { AtomicU64::new(0) }; 5],
            registers: AtomicU64::new(0),
            calls: AtomicU64::new(0),
        }
    }

    /// Times the core was lent and came back.
    pub fn lends(&self) -> u64 {
        let all = self.reclaims.iter().map(|n| n.load(Relaxed));
        all.fold(0, u64::wrapping_add)
    }
}

/// What a vCPU does, as [`Vcpu::state`] tells it in its low 8 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum VcpuState {
    /// Never started, or switched off by PSCI.
    Off = 0,
    /// It executed WFI and waits for an interrupt.
    Idle = 1,
    /// It could run. It does where a core's state names it, else it is ready.
    Runnable = 2,
}

/// One vCPU. 128 bytes.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub struct Vcpu {
    /// A [`VcpuState`]. Where a core's state names it, it runs, whatever this
    /// says; one that its timer woke is shown idle until it gets a core.
    pub state: AtomicU64,
    /// The affinity fields of its MPIDR.
    pub mpidr: AtomicU64,
    /// Ticks it ran.
    pub run_ticks: AtomicU64,
    /// Ticks it was ready and had no core: what Linux calls stolen time.
    pub steal_ticks: AtomicU64,
    /// Times it was put on another core than the time before.
    pub migrations: AtomicU64,
    /// Virtual timer interrupts injected.
    pub timer_irqs: AtomicU64,
    /// The longest it ever was ready without a core, in ticks.
    pub longest_wait: AtomicU64,
}

const _: () = {
    assert!(size_of::<Header>() == 88);
    assert!(size_of::<Core>() == 256);
    assert!(size_of::<Vcpu>() == 128);
};

/// Byte offset of [`Core`] blocks in a window of this version.
pub const CORE_OFFSET: usize = crate::PAGE;
/// Byte offset of [`Vcpu`] blocks.
pub const VCPU_OFFSET: usize = CORE_OFFSET + crate::MAX_CORES * size_of::<Core>();
/// Byte offset of the trace rings.
pub const TRACE_OFFSET: usize =
    (VCPU_OFFSET + crate::MAX_VCPUS * size_of::<Vcpu>()).next_multiple_of(crate::PAGE);
/// Bytes of the whole window.
pub const SIZE: usize = TRACE_OFFSET + crate::MAX_CORES * size_of::<crate::trace::Ring>();

const _: () = assert!(SIZE.is_multiple_of(crate::PAGE));
