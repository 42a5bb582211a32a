// SPDX-License-Identifier: Apache-2.0 OR MIT
//! CPUs, real and virtual: what each owns, and how the first one gives the
//! others work.
//!
//! A CPU without a job waits in WFI, so its core is lent. Jobs are posted
//! under SGI [`WAKE`].

use core::cell::UnsafeCell;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use taichi_abi::telemetry::{self, CoreState, VcpuState};

use super::gic;
use super::lock::Once;
use super::mmu::{self, Tables};
use super::psci;
use super::sys::{self, get, set};
use super::tree::{MAX_CPUS, Machine};
use super::vectors;

/// The SGI that says "look for a job".
pub const WAKE: u64 = 1;
/// The SGI whose handler runs the job in [`Cpu::hook`].
pub const HOOK: u32 = 9;
/// In [`Cpu::caught`]: skip the next instruction that aborts.
pub const EXPECT_ABORT: u64 = u64::MAX;
/// The longest that anything may take, in microseconds.
pub const PATIENCE: u64 = 60_000_000;

const STACK: usize = 64 << 10;

/// One CPU of this guest.
#[repr(C, align(4096))]
pub struct Cpu {
    /// End of the stack; the entry code loads it.
    pub stack_top: u64,
    stack: UnsafeCell<[u8; STACK]>,
    tables: UnsafeCell<Tables>,
    /// Number in [`all`].
    pub index: usize,
    /// Affinity fields.
    pub mpidr: u64,
    /// The redistributor frame.
    pub frame: u64,
    /// The number of the vCPU, or of the real core.
    pub number: usize,
    /// No core of its own stands behind it.
    pub virt: bool,
    /// A real core that the firmware takes for a DP core.
    pub dp: bool,
    online: AtomicBool,
    job: AtomicU64,
    argument: AtomicU64,
    /// SGIs taken, by number.
    pub sgis: [AtomicU32; 16],
    /// Timer interrupts taken.
    pub timers: AtomicU32,
    /// Of these, taken before their time.
    pub early: AtomicU32,
    /// If not 0, the timer handler adds it to the deadline and goes on.
    pub period: AtomicU64,
    /// SPIs taken.
    pub spis: AtomicU32,
    /// Acknowledgements that gave no interrupt.
    pub spurious: AtomicU32,
    /// What SGI [`HOOK`] calls, inside its handler.
    pub hook: AtomicU64,
    /// [`EXPECT_ABORT`], then the syndrome of the abort.
    pub caught: AtomicU64,
    /// The address of the abort.
    pub caught_far: AtomicU64,
    /// Registers of whoever entered EL0.
    pub el0: [AtomicU64; 12],
}

// SAFETY: the stack and the tables are used by their own CPU only, the plain
// fields are written once before other CPUs start, the rest is atomic.
unsafe impl Sync for Cpu {}

#[allow(
    clippy::declare_interior_mutable_const,
    reason = "a blank to copy, never used in place"
)]
const NEW: Cpu = Cpu {
    stack: UnsafeCell::new([0; STACK]),
    tables: UnsafeCell::new(Tables::new()),
    stack_top: 0,
    index: 0,
    mpidr: 0,
    frame: 0,
    number: 0,
    virt: false,
    dp: false,
    online: AtomicBool::new(false),
    job: AtomicU64::new(0),
    argument: AtomicU64::new(0),
    sgis: [const { AtomicU32::new(0) }; 16],
    timers: AtomicU32::new(0),
    early: AtomicU32::new(0),
    period: AtomicU64::new(0),
    spis: AtomicU32::new(0),
    spurious: AtomicU32::new(0),
    hook: AtomicU64::new(0),
    caught: AtomicU64::new(0),
    caught_far: AtomicU64::new(0),
    el0: [const { AtomicU64::new(0) }; 12],
};

struct Array(UnsafeCell<[Cpu; MAX_CPUS]>);
// SAFETY: written by `init` alone, before a second CPU runs.
unsafe impl Sync for Array {}

static CPUS: Array = Array(UnsafeCell::new([NEW; MAX_CPUS]));
static MACHINE: Once<Machine> = Once::new();

/// The machine.
pub fn machine() -> &'static Machine {
    MACHINE.get()
}

/// All CPUs: the first one first.
pub fn all() -> &'static [Cpu] {
    // SAFETY: nothing writes the array after `init`, but by atomics.
    unsafe { &(&*CPUS.0.get())[..machine().cpus] }
}

/// The calling CPU, by the MPIDR_EL1 it reads.
pub fn this() -> &'static Cpu {
    let mpidr = affinity();
    match all().iter().find(|c| c.mpidr == mpidr) {
        Some(cpu) => cpu,
        None => panic!("MPIDR {mpidr:#x} is nobody's"),
    }
}

/// The affinity fields of the calling CPU's MPIDR_EL1.
pub fn affinity() -> u64 {
    get!("mpidr_el1") & 0xff_00ff_ffff
}

/// Real cores.
pub fn cores() -> impl Iterator<Item = &'static Cpu> {
    all().iter().filter(|c| !c.virt)
}

/// vCPUs.
pub fn vcpus() -> impl Iterator<Item = &'static Cpu> {
    all().iter().filter(|c| c.virt)
}

/// Fills in the CPUs from the tree and, where there is a firmware, from its
/// telemetry. The MMU must be on, on the first CPU's tables.
pub fn init(machine: Machine) {
    MACHINE.set(machine);
    // SAFETY: no other CPU runs.
    let array = unsafe { &mut *CPUS.0.get() };
    for (index, cpu) in array.iter_mut().enumerate().take(machine.cpus) {
        cpu.stack_top = (cpu.stack.get() as u64 + STACK as u64) & !15;
        cpu.index = index;
        cpu.number = index;
        cpu.mpidr = machine.mpidr[index];
        cpu.frame = gic::frame_of(&machine, cpu.mpidr).unwrap_or(0);
        let known = |c: &&telemetry::Vcpu| c.mpidr.load(Relaxed) == cpu.mpidr;
        if let Some(number) = (0..count().1).find(|&n| known(&vcpu_block(n))) {
            cpu.virt = true;
            cpu.number = number;
        }
        let dp = header().map_or(0, |h| h.dp_cores.load(Relaxed));
        cpu.dp = !cpu.virt && dp >> cpu.number & 1 == 1;
    }
}

/// Switches the MMU of CPU number `index` on, which calls this.
pub fn enable_mmu(index: usize, window: u64) {
    // SAFETY: each CPU borrows its own tables, and for this call only.
    let tables = unsafe { &mut *(*CPUS.0.get())[index].tables.get() };
    mmu::enable(tables, index as u64 + 1, window);
}

impl Cpu {
    /// The root of this CPU's tables, with its ASID: its TTBR0_EL1.
    pub fn ttbr0(&self) -> u64 {
        self.tables.get() as u64 | (self.index as u64 + 1) << 48
    }

    /// Sets up vectors and interrupt controller of the calling CPU.
    pub fn init_self(&self) {
        set!("vbar_el1", vectors::table(self.index as u64));
        set!("cpacr_el1", 3 << 20 | 3 << 16);
        set!("oslar_el1", 0);
        gic::init_cpu(self.frame);
        set!("cntv_ctl_el0", 0);
        self.online.store(true, Release);
    }

    /// Starts it by PSCI.
    ///
    /// # Errors
    ///
    /// What PSCI returned, or 1 if the CPU never came.
    pub fn start(&'static self) -> Result<(), i64> {
        self.online.store(false, Relaxed);
        match psci::cpu_on(self.mpidr, &raw const *self as u64) {
            0 if sys::wait_for(PATIENCE, || self.online()) => Ok(()),
            0 => Err(1),
            error => Err(error),
        }
    }

    /// It runs and takes jobs.
    pub fn online(&self) -> bool {
        self.online.load(Acquire)
    }

    /// Switches the calling CPU off.
    pub fn stop(&self) {
        self.online.store(false, Release);
        self.job.store(0, Release);
        sys::mask();
        psci::call([psci::CPU_OFF, 0, 0, 0]);
        panic!("CPU_OFF returned");
    }

    /// Gives it a job; it must have none.
    pub fn post(&self, job: fn(u64), argument: u64) {
        assert!(!self.busy(), "CPU {} has a job already", self.index);
        self.argument.store(argument, Relaxed);
        self.job.store(job as usize as u64, Release);
        gic::send(gic::sgi_to(WAKE, self.mpidr));
    }

    /// It has a job.
    pub fn busy(&self) -> bool {
        self.job.load(Acquire) != 0
    }

    /// Waits until the job is done.
    pub fn join(&self) {
        if !sys::wait_for(PATIENCE, || !self.busy()) {
            panic!("CPU {} never finished its job; {}", self.index, Whereabouts);
        }
    }

    /// Waits, for as long as it takes, until the job is done.
    pub fn join_slowly(&self) {
        while !self.busy_for(PATIENCE) {}
    }

    fn busy_for(&self, us: u64) -> bool {
        sys::wait_for(us, || !self.busy())
    }

    /// Posts and joins.
    pub fn run(&self, job: fn(u64), argument: u64) {
        self.post(job, argument);
        self.join();
    }

    fn serve(&self) -> ! {
        loop {
            sys::mask();
            let job = self.job.load(Acquire);
            if job == 0 {
                sys::wfi();
                sys::unmask();
            } else {
                sys::unmask();
                // SAFETY: `post` stored a `fn(u64)`.
                let job: fn(u64) = unsafe { core::mem::transmute(job as usize) };
                job(self.argument.load(Relaxed));
                self.job.store(0, Release);
            }
        }
    }

    /// The virtual timer's interrupt.
    pub fn on_timer(&self) {
        let deadline = get!("cntv_cval_el0");
        if sys::now() < deadline {
            self.early.fetch_add(1, Relaxed);
        }
        match self.period.load(Relaxed) {
            0 => set!("cntv_ctl_el0", 0),
            period => {
                set!("cntv_cval_el0", deadline + period);
                set!("cntv_ctl_el0", 1);
            }
        }
        self.timers.fetch_add(1, Relaxed);
    }

    /// An SGI arrived and is active.
    pub fn in_handler(&self, intid: u32) {
        let hook = self.hook.load(Acquire);
        if intid == HOOK && hook != 0 {
            // SAFETY: only `fn(u64)` is ever stored there.
            let hook: fn(u64) = unsafe { core::mem::transmute(hook as usize) };
            hook(self.index as u64);
        }
    }

    /// SGIs of this number taken so far.
    pub fn sgi(&self, number: u64) -> u32 {
        self.sgis[number as usize].load(Relaxed)
    }
}

#[unsafe(no_mangle)]
extern "C" fn next_cpu(me: &'static Cpu) -> ! {
    let window = machine().windows.map_or(0, |w| w.doorbell.base);
    enable_mmu(me.index, window);
    me.init_self();
    me.serve()
}

/// The firmware's telemetry, where there is a firmware.
pub fn header() -> Option<&'static telemetry::Header> {
    let base = machine().windows?.telemetry.base;
    // SAFETY: the tree says that the window is there; it is never unmapped.
    Some(unsafe { &*(base as *const telemetry::Header) })
}

/// Cores and vCPUs of the firmware: 0 and 0 without it.
fn count() -> (usize, usize) {
    header().map_or((0, 0), |h| {
        (
            h.cores.load(Relaxed) as usize,
            h.vcpus.load(Relaxed) as usize,
        )
    })
}

fn block<T>(offset: usize, n: usize) -> &'static T {
    let base = machine().windows.map_or(0, |w| w.telemetry.base) as usize;
    assert!(base != 0, "there is no telemetry without the firmware");
    // SAFETY: the window's layout is the ABI's, all its fields are atomics.
    unsafe { &*((base + offset + n * size_of::<T>()) as *const T) }
}

/// Counters of a real core.
pub fn core_block(n: usize) -> &'static telemetry::Core {
    block(telemetry::CORE_OFFSET, n)
}

/// The trace of a real core.
pub fn ring(n: usize) -> &'static taichi_abi::trace::Ring {
    block(telemetry::TRACE_OFFSET, n)
}

/// Counters of a vCPU.
pub fn vcpu_block(n: usize) -> &'static telemetry::Vcpu {
    block(telemetry::VCPU_OFFSET, n)
}

impl Cpu {
    /// What the firmware says that this vCPU does.
    pub fn vcpu_state(&self) -> u64 {
        vcpu_block(self.number).state.load(Relaxed) & 0xff
    }

    /// The vCPU waits in WFI.
    pub fn vcpu_idle(&self) -> bool {
        self.vcpu_state() == VcpuState::Idle as u64
    }

    /// The real core is lent.
    pub fn is_lent(&self) -> bool {
        core_block(self.number).state.load(Relaxed) & 0xff == CoreState::Lent as u64
    }
}

/// Prints what the firmware says everybody does.
pub struct Whereabouts;

impl core::fmt::Display for Whereabouts {
    fn fmt(&self, f: &mut core::fmt::Formatter) -> core::fmt::Result {
        if header().is_none() {
            return f.write_str("no firmware");
        }
        for cpu in all() {
            let state = match cpu.virt {
                false => core_block(cpu.number).state.load(Relaxed),
                true => vcpu_block(cpu.number).state.load(Relaxed),
            };
            let kind = if cpu.virt { "vcpu" } else { "core" };
            write!(
                f,
                "{kind}{}={state:#x}{} ",
                cpu.number,
                if cpu.busy() { "*" } else { "" }
            )?;
        }
        Ok(())
    }
}
