// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The PSCI server (Arm DEN 0022): CPUs that appear and go.
//!
//! Linux's SMCs end at EL2. A call about a vCPU is answered here, one about a
//! real core is checked here and then carried out by EL2, so that the core
//! enters Linux below us; what concerns no CPU goes to the firmware below.
//!
//! A CPU's state changes in two steps, because another CPU does part of the
//! work:
//!
//! ```text
//!        CPU_ON             started             CPU_OFF             stopped
//! Off ──────────▶ OnPending ───────▶ On ──────────▶ OffPending ───────▶ Off
//!                     └──────────── failed ────────────▶ Off
//! ```
//!
//! With vCPUs the boot core may not go offline, because their device
//! interrupts are routed to it. Linux learns that by the standard way: a
//! Trusted OS that "lives" there and can't migrate (section 5.9). A Linux that
//! crashes switches it off regardless; then it is parked ([`Action::Park`]),
//! because a crash kernel may be running on a vCPU.
//!
//! What is optional and concerns CPUs or power states is not offered:
//! CPU_FREEZE, CPU_DEFAULT_SUSPEND, NODE_HW_STATE, SYSTEM_SUSPEND,
//! PSCI_SET_SUSPEND_MODE, PSCI_STAT_*. PSCI_FEATURES says so.

use crate::affinity::Mpidr;
use crate::smccc;
use core::ops::Range;

/// A CPU of Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuId {
    /// The pCPU with this index.
    Core(usize),
    /// The vCPU with this index.
    Vcpu(usize),
}

/// What the caller of [`Psci::call`] has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Return this in x0.
    Return(i64),
    /// Make vCPU `index` ready, with its program counter at `entry` and
    /// `context` in x0, MMU off; then [`Psci::started`], and return
    /// [`SUCCESS`] to the caller.
    StartVcpu {
        /// The vCPU.
        index: usize,
        /// Its first instruction.
        entry: u64,
        /// Its x0.
        context: u64,
    },
    /// The calling vCPU ends here. Once it is off its core: [`Psci::stopped`].
    StopVcpu,
    /// Start core `index` by a real CPU_ON, at EL2, to enter Linux at `entry`.
    /// The new core says [`Psci::started`]; if the real call fails, the
    /// caller says [`Psci::failed`] and returns its error.
    StartCore {
        /// The core.
        index: usize,
        /// Its first instruction at EL1.
        entry: u64,
        /// Its x0.
        context: u64,
    },
    /// The calling core ends here: [`Psci::stopped`], then a real CPU_OFF.
    StopCore,
    /// The caller sleeps like in WFI; after that the call returns [`SUCCESS`].
    Suspend,
    /// The boot core, whose interrupts vCPUs need, calls CPU_OFF, as it does
    /// only when Linux crashes: it runs no code of Linux any more, but stays.
    Park,
    /// The firmware below answers: pass the call on.
    Forward,
    /// Switch the machine off.
    SystemOff,
    /// Reset the machine.
    SystemReset,
}

/// The call did what it should.
pub const SUCCESS: i64 = 0;
/// There is no such function.
pub const NOT_SUPPORTED: i64 = -1;
/// An argument names nothing that exists.
pub const INVALID_PARAMETERS: i64 = -2;
/// The call is not allowed here.
pub const DENIED: i64 = -3;
/// The CPU is on.
pub const ALREADY_ON: i64 = -4;
/// The CPU is starting.
pub const ON_PENDING: i64 = -5;
/// The entry point is no memory of the caller's.
pub const INVALID_ADDRESS: i64 = -9;

/// Function numbers (DEN 0022, 5.1): bits 0 to 5 of the function id.
mod function {
    pub const VERSION: u32 = 0x00;
    pub const CPU_SUSPEND: u32 = 0x01;
    pub const CPU_OFF: u32 = 0x02;
    pub const CPU_ON: u32 = 0x03;
    pub const AFFINITY_INFO: u32 = 0x04;
    pub const MIGRATE: u32 = 0x05;
    pub const MIGRATE_INFO_TYPE: u32 = 0x06;
    pub const MIGRATE_INFO_UP_CPU: u32 = 0x07;
    pub const SYSTEM_OFF: u32 = 0x08;
    pub const SYSTEM_RESET: u32 = 0x09;
    pub const FEATURES: u32 = 0x0a;
    pub const SYSTEM_RESET2: u32 = 0x12;
    pub const MEM_PROTECT: u32 = 0x13;
    pub const MEM_PROTECT_CHECK_RANGE: u32 = 0x14;
    pub const SYSTEM_OFF2: u32 = 0x15;

    /// Whether a function has an SMC64 form, whose arguments have 64 bits.
    pub const fn has_64_bits(number: u32) -> bool {
        matches!(
            number,
            CPU_SUSPEND
                | CPU_ON
                | AFFINITY_INFO
                | MIGRATE
                | MIGRATE_INFO_UP_CPU
                | SYSTEM_RESET2
                | MEM_PROTECT_CHECK_RANGE
                | SYSTEM_OFF2
        )
    }
}

/// Bit of a function id: SMC64.
const SMC64: u32 = 1 << 30;
/// Function ids without [`SMC64`] and the function's number.
const PSCI_BASE: u32 = 0x8400_0000;
/// The same of SDEI (Arm DEN 0054): its calls register entry points that the
/// firmware below would enter at EL2, so that they are not for Linux.
const SDEI_BASE: u32 = 0x8400_0020;

/// The versions that the functions here are those of: 1.1 to 1.3, in the form
/// of PSCI_VERSION. What later ones add is optional.
const VERSIONS: (u32, u32) = (0x1_0001, 0x1_0003);

/// MIGRATE_INFO_TYPE: a Trusted OS on one CPU that can't migrate.
const TOS_UP_NO_MIGRATE: i64 = 1;

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CpuState {
    /// Not in Linux's hands.
    #[default]
    Off,
    /// Somebody called CPU_ON and it has not arrived yet.
    OnPending,
    /// Linux runs on it.
    On,
    /// It called CPU_OFF and has not left yet.
    OffPending,
}

/// The most CPUs of one kind.
const MAX: usize = taichi_abi::MAX_CORES;
const _: () = assert!(MAX >= taichi_abi::MAX_VCPUS);

/// CPUs of one kind.
#[derive(Clone, Copy, Debug)]
struct Cpus {
    mpidr: [Mpidr; MAX],
    state: [CpuState; MAX],
    count: usize,
}

impl Cpus {
    fn new(names: &[Mpidr]) -> Self {
        let mut mpidr = [Mpidr::default(); MAX];
        for (slot, &name) in mpidr.iter_mut().zip(names) {
            *slot = name;
        }
        Self {
            mpidr,
            state: [CpuState::Off; MAX],
            count: names.len().min(MAX),
        }
    }

    fn find(&self, target: u64) -> Option<usize> {
        self.mpidr
            .iter()
            .take(self.count)
            .position(|m| m.value() == target)
    }
}

/// The PSCI server: the state of every CPU that Linux knows.
#[derive(Clone, Debug)]
pub struct Psci {
    /// What PSCI_VERSION returned below. Ours is between 1.1 and 1.3, because
    /// what is mandatory there is answered here.
    pub below: i64,
    /// Power states have the extended format (bit 1 of what PSCI_FEATURES of
    /// CPU_SUSPEND returned below).
    pub extended_state: bool,
    /// Physical addresses that belong to EL2: no entry point may lie there.
    pub firmware: Range<u64>,
    cores: Cpus,
    vcpus: Cpus,
    boot_core: usize,
}

impl Psci {
    /// The server of a machine that has just booted on `boot_core`; every
    /// other CPU is off. CPUs beyond 16 of a kind are left out.
    pub fn new(cores: &[Mpidr], vcpus: &[Mpidr], boot_core: usize) -> Self {
        let mut psci = Self {
            below: i64::from(VERSIONS.0),
            extended_state: false,
            firmware: 0..0,
            cores: Cpus::new(cores),
            vcpus: Cpus::new(vcpus),
            boot_core,
        };
        psci.started(CpuId::Core(boot_core));
        psci
    }

    /// The state of a CPU; `Off` for one that doesn't exist.
    pub fn state(&self, cpu: CpuId) -> CpuState {
        let (cpus, index) = match cpu {
            CpuId::Core(index) => (&self.cores, index),
            CpuId::Vcpu(index) => (&self.vcpus, index),
        };
        cpus.state.get(index).copied().unwrap_or_default()
    }

    fn set(&mut self, cpu: CpuId, state: CpuState) {
        let (cpus, index) = match cpu {
            CpuId::Core(index) => (&mut self.cores, index),
            CpuId::Vcpu(index) => (&mut self.vcpus, index),
        };
        if let Some(slot) = cpus.state.get_mut(index).filter(|_| index < cpus.count) {
            *slot = state;
        }
    }

    /// `cpu` has entered Linux. (Also: its real CPU_OFF was refused.)
    pub fn started(&mut self, cpu: CpuId) {
        self.set(cpu, CpuState::On);
    }

    /// `cpu` has left Linux and may be started again.
    pub fn stopped(&mut self, cpu: CpuId) {
        self.set(cpu, CpuState::Off);
    }

    /// `cpu` could not be started.
    pub fn failed(&mut self, cpu: CpuId) {
        self.set(cpu, CpuState::Off);
    }

    /// Core `index` has entered Linux: [`Self::started`].
    pub fn core_started(&mut self, index: usize) {
        self.started(CpuId::Core(index));
    }

    /// Core `index` has left Linux: [`Self::stopped`].
    pub fn core_stopped(&mut self, index: usize) {
        self.stopped(CpuId::Core(index));
    }

    /// Answers the SMC (or HVC) with function id `fid` and x1 to x3 in `args`.
    pub fn call(&mut self, caller: CpuId, fid: u32, args: [u64; 3]) -> Action {
        if fid & !SMC64 & !0x1f == SDEI_BASE {
            return Action::Return(NOT_SUPPORTED);
        }
        if fid & !SMC64 & !0x1f != PSCI_BASE {
            return Action::Forward;
        }
        let number = fid & 0x1f;
        if fid & SMC64 != 0 && !function::has_64_bits(number) {
            return Action::Return(NOT_SUPPORTED);
        }
        let args = if fid & SMC64 != 0 {
            args
        } else {
            args.map(|a| a & 0xffff_ffff)
        };
        let lives_here = self.vcpus.count > 0;
        match number {
            function::VERSION => Action::Return(self.version()),
            function::CPU_SUSPEND => self.suspend(args),
            function::CPU_OFF => self.cpu_off(caller),
            function::CPU_ON => self.cpu_on(args),
            function::AFFINITY_INFO => Action::Return(self.affinity_info(args)),
            function::MIGRATE if lives_here => Action::Return(DENIED),
            function::MIGRATE_INFO_TYPE if lives_here => Action::Return(TOS_UP_NO_MIGRATE),
            function::MIGRATE_INFO_UP_CPU if lives_here => Action::Return(self.boot_mpidr()),
            function::MIGRATE | function::MIGRATE_INFO_TYPE | function::MIGRATE_INFO_UP_CPU => {
                Action::Forward
            }
            function::SYSTEM_OFF => Action::SystemOff,
            function::SYSTEM_RESET => Action::SystemReset,
            function::FEATURES => self.features(args[0] as u32),
            function::SYSTEM_RESET2
            | function::SYSTEM_OFF2
            | function::MEM_PROTECT
            | function::MEM_PROTECT_CHECK_RANGE => Action::Forward,
            _ => Action::Return(NOT_SUPPORTED),
        }
    }

    /// Section 5.3.
    fn version(&self) -> i64 {
        let (oldest, newest) = VERSIONS;
        self.below.clamp(i64::from(oldest), i64::from(newest))
    }

    fn boot_mpidr(&self) -> i64 {
        self.cores
            .mpidr
            .get(self.boot_core)
            .map_or(0, |m| m.value() as i64)
    }

    fn find(&self, target: u64) -> Option<CpuId> {
        let core = self.cores.find(target).map(CpuId::Core);
        core.or_else(|| self.vcpus.find(target).map(CpuId::Vcpu))
    }

    /// Section 5.4. A power-down is made a standby, which is always allowed
    /// (5.4.2): nothing is saved by forgetting registers.
    fn suspend(&self, [power_state, entry, _]: [u64; 3]) -> Action {
        let type_bit = if self.extended_state { 30 } else { 16 };
        let standby = power_state >> type_bit & 1 == 0;
        if !standby && !self.may_enter(entry) {
            return Action::Return(INVALID_ADDRESS);
        }
        Action::Suspend
    }

    /// Section 5.5.
    fn cpu_off(&mut self, caller: CpuId) -> Action {
        if self.vcpus.count > 0 && caller == CpuId::Core(self.boot_core) {
            return Action::Park;
        }
        self.set(caller, CpuState::OffPending);
        match caller {
            CpuId::Core(_) => Action::StopCore,
            CpuId::Vcpu(_) => Action::StopVcpu,
        }
    }

    /// Section 5.6.
    fn cpu_on(&mut self, [target, entry, context]: [u64; 3]) -> Action {
        let Some(cpu) = self.find(target) else {
            return Action::Return(INVALID_PARAMETERS);
        };
        match self.state(cpu) {
            CpuState::On | CpuState::OffPending => return Action::Return(ALREADY_ON),
            CpuState::OnPending => return Action::Return(ON_PENDING),
            CpuState::Off => {}
        }
        if !self.may_enter(entry) {
            return Action::Return(INVALID_ADDRESS);
        }
        self.set(cpu, CpuState::OnPending);
        match cpu {
            CpuId::Core(index) => Action::StartCore {
                index,
                entry,
                context,
            },
            CpuId::Vcpu(index) => Action::StartVcpu {
                index,
                entry,
                context,
            },
        }
    }

    fn may_enter(&self, entry: u64) -> bool {
        entry.is_multiple_of(4) && !self.firmware.contains(&entry)
    }

    /// Section 5.7. Levels above 0 are optional since PSCI 1.0.
    fn affinity_info(&self, [target, level, _]: [u64; 3]) -> i64 {
        if level != 0 {
            return INVALID_PARAMETERS;
        }
        match self.find(target).map(|cpu| self.state(cpu)) {
            None => INVALID_PARAMETERS,
            Some(CpuState::On | CpuState::OffPending) => 0,
            Some(CpuState::Off) => 1,
            Some(CpuState::OnPending) => 2,
        }
    }

    /// Section 5.15.
    fn features(&self, fid: u32) -> Action {
        let number = fid & 0x1f;
        if fid == smccc::VERSION {
            return Action::Return(SUCCESS);
        }
        if fid & !SMC64 & !0x1f != PSCI_BASE || (fid & SMC64 != 0 && !function::has_64_bits(number))
        {
            return Action::Return(NOT_SUPPORTED);
        }
        match number {
            // Platform-coordinated only; the format is the one below.
            function::CPU_SUSPEND => Action::Return(i64::from(self.extended_state) << 1),
            function::VERSION..=function::FEATURES => Action::Return(SUCCESS),
            function::SYSTEM_RESET2
            | function::SYSTEM_OFF2
            | function::MEM_PROTECT
            | function::MEM_PROTECT_CHECK_RANGE => Action::Forward,
            _ => Action::Return(NOT_SUPPORTED),
        }
    }
}
