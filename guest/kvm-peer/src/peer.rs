// SPDX-License-Identifier: Apache-2.0 OR MIT
//! KVM, as a user of /dev/kvm sees it.

use std::arch::asm;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kvm_bindings::{
    KVM_ARM_VCPU_PSCI_0_2, KVM_REG_ARM_COPROC_SHIFT, KVM_REG_ARM_CORE, KVM_REG_ARM64,
    KVM_REG_ARM64_SYSREG, KVM_REG_SIZE_U64, kvm_userspace_memory_region, kvm_vcpu_init,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};

use crate::guest::{BASE, DEVICE, LOOP, MEMORY, Memory, Program, SAMPLES};

/// Rounds of every measurement; the first of each finds cold caches in the
/// kernel's software (stage 2, static keys) and isn't counted.
const ROUNDS: usize = 256;
const COLD: usize = 16;

/// Measures and prints.
pub fn run() -> Result<()> {
    let machine = Machine::new()?;
    let empty = least(&machine.timed(Program::Nothing)?);
    let hundred = least(&machine.timed(Program::Hundred)?) - empty;
    ensure!(
        hundred == 100,
        "100 instructions are {hundred} ticks: needs -icount shift=0 and cntfrq=1000000000"
    );
    print("hvc", &machine.timed(Program::Hvc)?, empty);
    print("mmio", &machine.timed(Program::Mmio)?, empty);
    print("round-trip", &round_trips(machine)?, LOOP - 1 + 2 * empty);
    Ok(())
}

fn least(values: &[u64]) -> u64 {
    values.iter().copied().min().unwrap_or(0)
}

fn print(name: &str, values: &[u64], overhead: u64) {
    let least = least(values);
    let most = values.iter().copied().max().unwrap_or(0) - overhead;
    let equal = values.iter().filter(|&&v| v == least).count();
    let (least, rounds) = (least - overhead, values.len());
    println!("bench kvm-{name} {least} most {most} equal {equal} of {rounds}");
}

/// One VM with one vCPU. The fields keep it alive.
struct Machine {
    _kvm: Kvm,
    _vm: VmFd,
    vcpu: std::cell::RefCell<VcpuFd>,
}

impl Machine {
    fn new() -> Result<Self> {
        let kvm = Kvm::new().context("opening /dev/kvm (is this a bare machine, at EL2?)")?;
        let vm = kvm.create_vm().context("creating a VM")?;
        MEMORY.load();
        let (address, size) = MEMORY.host();
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: BASE,
            memory_size: size,
            userspace_addr: address,
        };
        // SAFETY: the memory is static and shared with nobody but the guest.
        unsafe { vm.set_user_memory_region(region) }.context("giving the guest memory")?;
        let vcpu = vm.create_vcpu(0).context("creating a vCPU")?;
        let mut init = kvm_vcpu_init::default();
        vm.get_preferred_target(&mut init)
            .context("asking for the CPU's model")?;
        init.features[0] |= 1 << KVM_ARM_VCPU_PSCI_0_2;
        vcpu.vcpu_init(&init).context("initializing the vCPU")?;
        Ok(Self {
            _kvm: kvm,
            _vm: vm,
            vcpu: vcpu.into(),
        })
    }

    /// The differences that a timed program measured.
    fn timed(&self, program: Program) -> Result<Vec<u64>> {
        self.enter(program, ROUNDS)?;
        Ok(MEMORY.samples(ROUNDS).split_off(COLD))
    }

    /// Runs a program until it has written `count` samples.
    fn enter(&self, program: Program, count: usize) -> Result<()> {
        let mut vcpu = self.vcpu.borrow_mut();
        let samples = Memory::range(count);
        for (number, value) in [(20, samples.start), (21, samples.end), (22, DEVICE)] {
            set(&vcpu, number, value)?;
        }
        set(&vcpu, PC, program.entry())?;
        loop {
            match vcpu.run().context("running the guest")? {
                VcpuExit::MmioRead(DEVICE, data) => data.fill(0),
                VcpuExit::MmioWrite(DEVICE, _) => return Ok(()),
                other => bail!("the guest exits with {other:?}"),
            }
        }
    }

    /// How far the guest's counter is behind ours, to half of what one call
    /// takes ([`SLACK`]).
    fn offset(&self) -> Result<u64> {
        let mut bytes = [0; 8];
        let id = KVM_REG_ARM64 | KVM_REG_SIZE_U64 | u64::from(KVM_REG_ARM64_SYSREG) | TIMER_COUNT;
        let before = now();
        self.vcpu
            .borrow()
            .get_one_reg(id, &mut bytes)
            .context("reading the guest's counter")?;
        let middle = before + (now() - before) / 2;
        Ok(middle.wrapping_sub(u64::from_le_bytes(bytes)))
    }
}

/// Ticks by which [`Machine::offset`] may be wrong.
const SLACK: u64 = 1_500;

/// KVM_REG_ARM_TIMER_CNT: op0 3, op1 3, CRn 14, CRm 3, op2 2 (the kernel's
/// API swapped it with CVAL).
const TIMER_COUNT: u64 = 3 << 14 | 3 << 11 | 14 << 7 | 3 << 3 | 2;

/// The program counter's number among the core registers.
const PC: u64 = 32;

/// Sets core register `number`: x0-x30, or [`PC`].
fn set(vcpu: &VcpuFd, number: u64, value: u64) -> Result<()> {
    const { assert!(KVM_REG_ARM_COPROC_SHIFT == 16) };
    let id = KVM_REG_ARM64 | KVM_REG_SIZE_U64 | u64::from(KVM_REG_ARM_CORE) | (2 * number);
    vcpu.set_one_reg(id, &value.to_le_bytes())
        .context("setting a register of the guest")?;
    Ok(())
}

/// Ticks.
fn now() -> u64 {
    let ticks;
    // SAFETY: reads a counter.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack)) };
    ticks
}

// Preemption by a thread of the host

/// What the thread did while the guest was off the core.
struct Visit {
    woke: u64,
    slept: u64,
}

static STOP: AtomicBool = AtomicBool::new(false);

/// A host thread sleeps for a while and, when it wakes, preempts the guest on
/// the only CPU: what the guest misses, less what the thread had, is the way
/// from vCPU to thread and back.
fn round_trips(machine: Machine) -> Result<Vec<u64>> {
    let offset = machine.offset()?;
    let visitor = thread::spawn(visits);
    // The thread starts before the guest takes the CPU.
    thread::sleep(Duration::from_millis(5));
    machine.enter(Program::Sample, SAMPLES)?;
    STOP.store(true, Relaxed);
    let Ok(visits) = visitor.join() else {
        bail!("the visiting thread panicked")
    };
    let samples = MEMORY.samples(SAMPLES);
    let gaps: Vec<_> = samples.windows(2).filter(|w| w[1] - w[0] > 100).collect();
    let mut trips = Vec::new();
    for Visit { woke, slept } in visits? {
        // The guest was off the core for all of the visit.
        let [woke, slept] = [woke, slept].map(|t| t.wrapping_sub(offset));
        let around = |w: &&&[u64]| w[0] < woke + SLACK && slept < w[1] + SLACK;
        if let Some(gap) = gaps.iter().rfind(around) {
            trips.push((gap[1] - gap[0]).saturating_sub(slept - woke));
        }
    }
    ensure!(
        trips.len() > COLD,
        "only {} preemptions were seen",
        trips.len()
    );
    Ok(trips.split_off(COLD / 2))
}

fn visits() -> Result<Vec<Visit>> {
    let parameter = libc::sched_param { sched_priority: 50 };
    // SAFETY: the argument is a valid structure; 0 is the calling thread.
    let failed = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameter) };
    ensure!(
        failed == 0,
        "SCHED_FIFO: {}",
        std::io::Error::last_os_error()
    );
    let mut all = Vec::with_capacity(4096);
    let mut visit = None;
    while !STOP.load(Relaxed) {
        thread::sleep(Duration::from_micros(10));
        let woke = now();
        all.extend(visit.take());
        visit = Some(Visit { woke, slept: now() });
    }
    Ok(all)
}
