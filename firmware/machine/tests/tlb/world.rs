// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Cores, their TLBs, and the firmware that changes contexts.

use super::linux::{Asids, CPUS, Op, PAGES, SPACES, Switch};
use std::collections::VecDeque;

const CORES: usize = 2;
/// The CPU of Linux that is no core's.
const VCPU: usize = CORES;

/// Which of the rules of `docs/tlb-and-vmid.md` are kept.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// R1.
    pub one_vmid: bool,
    /// R3, HCR_EL2.FB.
    pub fb: bool,
    /// R3, HCR_EL2.BSU.
    pub bsu: bool,
    /// R4.
    pub boot_flush: bool,
    /// R6.
    pub barrier: bool,
    /// Linux announces and loads an ASID in one step.
    pub no_window: bool,
}

impl Rules {
    pub const ALL: Self = Self {
        one_vmid: true,
        fb: true,
        bsu: true,
        boot_flush: true,
        barrier: true,
        no_window: true,
    };
}

/// What a TLB entry translates to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    /// Itself: from a boot.
    Flat,
    /// A page of an address space, at some time.
    Page { space: usize, version: u32 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    vmid: usize,
    /// `None`: global.
    asid: Option<usize>,
    page: usize,
    target: Target,
}

/// An invalidation under way from one core to another.
#[derive(Clone, Copy, Debug)]
struct Invalidation {
    from: usize,
    to: usize,
    vmid: usize,
    /// ASID and page; `None` for all.
    what: Option<(usize, usize)>,
}

struct Cpu {
    /// On its boot page tables, or not rid of them yet.
    booting: bool,
    /// Accesses go by the boot page tables.
    flat: bool,
    /// Address space and ASID in the registers.
    loaded: Option<(usize, usize)>,
    todo: VecDeque<Op>,
}

/// A context hit an entry that it must not hit.
#[derive(Debug)]
pub struct Bad;

pub struct World {
    rules: Rules,
    random: u64,
    asids: Asids,
    version: [[u32; PAGES]; SPACES],
    /// Versions below are gone, as Linux believes.
    gone: [[u32; PAGES]; SPACES],
    cpus: Vec<Cpu>,
    /// The CPU of Linux that each core has loaded.
    runs: [usize; CORES],
    tlbs: [Vec<Entry>; CORES],
    under_way: Vec<Invalidation>,
}

impl World {
    pub fn new(rules: Rules, seed: u64) -> Self {
        let mut world = Self {
            rules,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            asids: Asids::new(),
            version: [[0; PAGES]; SPACES],
            gone: [[0; PAGES]; SPACES],
            cpus: Vec::new(),
            runs: [0, 1],
            tlbs: [Vec::new(), Vec::new()],
            under_way: Vec::new(),
        };
        for _ in 0..CPUS {
            let todo = VecDeque::new();
            world.cpus.push(Cpu {
                booting: true,
                flat: true,
                loaded: None,
                todo,
            });
        }
        (0..CPUS).for_each(|cpu| world.boot(cpu));
        world
    }

    /// xorshift64*.
    fn below(&mut self, limit: usize) -> usize {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    }

    fn vmid(&self, cpu: usize) -> usize {
        if self.rules.one_vmid { 0 } else { cpu }
    }

    /// One random step of the machine.
    pub fn step(&mut self) -> Result<(), Bad> {
        let core = self.below(CORES);
        match self.below(10) {
            0 => self.world_switch(core),
            1 if !self.under_way.is_empty() => {
                let at = self.below(self.under_way.len());
                let invalidation = self.under_way.swap_remove(at);
                self.arrive(invalidation);
            }
            2..=5 => return self.access(core),
            _ => self.execute(core),
        }
        Ok(())
    }

    /// The firmware: the native context and the vCPU take turns.
    fn world_switch(&mut self, core: usize) {
        let old = self.runs[core];
        let new = if old == VCPU { core } else { VCPU };
        if self.runs.contains(&new) {
            return;
        }
        if self.rules.barrier && old == VCPU {
            self.dsb(core, true);
        }
        if self.rules.boot_flush && self.cpus[old].booting {
            let vmid = self.vmid(old);
            self.tlbs[core].retain(|entry| entry.vmid != vmid);
        }
        self.runs[core] = new;
    }

    /// A load, or a speculative walk, of a random page.
    fn access(&mut self, core: usize) -> Result<(), Bad> {
        let cpu = self.runs[core];
        let page = self.below(PAGES);
        let vmid = self.vmid(cpu);
        if self.cpus[cpu].flat {
            self.tlbs[core].push(Entry {
                vmid,
                asid: None,
                page,
                target: Target::Flat,
            });
            return Ok(());
        }
        let Some((space, asid)) = self.cpus[cpu].loaded else {
            return Ok(());
        };
        let hits =
            |e: &&Entry| e.vmid == vmid && e.page == page && e.asid.is_none_or(|tag| tag == asid);
        // Between two address spaces the kernel doesn't touch user pages; it
        // may still walk.
        let between = matches!(self.cpus[cpu].todo.front(), Some(Op::Load { .. }));
        let gone = self.gone[space][page];
        let mut found = false;
        for entry in self.tlbs[core].iter().filter(hits) {
            found = true;
            let right = |s, version| s == space && version >= gone;
            match entry.target {
                Target::Page { space, version } if right(space, version) => {}
                _ if between => {}
                _ => return Err(Bad),
            }
        }
        if !found {
            let target = Target::Page {
                space,
                version: self.version[space][page],
            };
            self.tlbs[core].push(Entry {
                vmid,
                asid: Some(asid),
                page,
                target,
            });
        }
        Ok(())
    }

    /// The next thing that the CPU on this core has to do.
    fn execute(&mut self, core: usize) {
        let cpu = self.runs[core];
        let Some(op) = self.cpus[cpu].todo.pop_front() else {
            return self.invent(cpu);
        };
        match op {
            Op::Remap { space, page } => {
                self.version[space][page] += 1;
                let version = self.version[space][page];
                self.cpus[cpu].todo.push_back(Op::Gone {
                    space,
                    page,
                    version,
                });
            }
            Op::TlbiPage { space, page } => {
                let asid = self.asids.asid(space);
                self.tlbi(core, true, Some((asid, page)));
            }
            Op::TlbiLocal => self.tlbi(core, cpu == VCPU && self.rules.fb, None),
            Op::DsbIsh => self.dsb(core, true),
            Op::DsbNsh => self.dsb(core, cpu == VCPU && self.rules.bsu),
            Op::Gone {
                space,
                page,
                version,
            } => {
                let gone = &mut self.gone[space][page];
                *gone = version.max(*gone);
            }
            Op::Switch { space } => self.switch(core, space),
            Op::Activate { space, context } => {
                self.asids.activate(cpu, context);
                self.load_soon(core, space, context.asid);
            }
            Op::Load { space, asid } => self.cpus[cpu].loaded = Some((space, asid)),
            Op::LeaveBootTables => self.cpus[cpu].flat = false,
            Op::Booted => self.cpus[cpu].booting = false,
        }
    }

    /// The ASID is announced; now, or some instructions later, it is loaded.
    fn load_soon(&mut self, core: usize, space: usize, asid: usize) {
        self.cpus[self.runs[core]]
            .todo
            .push_front(Op::Load { space, asid });
        if self.rules.no_window {
            self.execute(core);
        }
    }

    fn switch(&mut self, core: usize, space: usize) {
        let cpu = self.runs[core];
        match self.asids.switch(cpu, space) {
            Switch::Busy => self.cpus[cpu].todo.push_front(Op::Switch { space }),
            Switch::Active(context) => self.load_soon(core, space, context.asid),
            Switch::Go { context, flush } => {
                let todo = &mut self.cpus[cpu].todo;
                todo.push_front(Op::Activate { space, context });
                if flush {
                    todo.push_front(Op::DsbNsh);
                    todo.push_front(Op::TlbiLocal);
                }
            }
        }
    }

    /// A new task for an idle CPU.
    fn invent(&mut self, cpu: usize) {
        let (space, page) = (self.below(SPACES), self.below(PAGES));
        match self.below(20) {
            0 if cpu == VCPU => self.boot(cpu),
            0..=9 => self.cpus[cpu].todo.push_back(Op::Switch { space }),
            // `Remap` adds the end.
            _ => self.cpus[cpu].todo.extend([
                Op::Remap { space, page },
                Op::TlbiPage { space, page },
                Op::DsbIsh,
            ]),
        }
    }

    /// A CPU that comes up: flat accesses, then its own invalidation.
    fn boot(&mut self, cpu: usize) {
        let space = self.below(SPACES);
        let cpu = &mut self.cpus[cpu];
        cpu.booting = true;
        cpu.flat = true;
        cpu.loaded = None;
        // Time for accesses.
        cpu.todo.extend([Op::DsbNsh; 3]);
        // `cpu_uninstall_idmap`: its tables go before what they left.
        cpu.todo
            .extend([Op::LeaveBootTables, Op::TlbiLocal, Op::DsbNsh, Op::Booted]);
        cpu.todo.push_back(Op::Switch { space });
    }

    fn tlbi(&mut self, from: usize, broadcast: bool, what: Option<(usize, usize)>) {
        let vmid = self.vmid(self.runs[from]);
        for to in (0..CORES).filter(|&to| broadcast || to == from) {
            self.under_way.push(Invalidation {
                from,
                to,
                vmid,
                what,
            });
        }
    }

    /// Waits for what this core has issued: everywhere, or here.
    fn dsb(&mut self, core: usize, everywhere: bool) {
        let waited = |i: &Invalidation| i.from == core && (everywhere || i.to == core);
        let arriving: Vec<_> = self.under_way.iter().copied().filter(waited).collect();
        self.under_way.retain(|i| !waited(i));
        arriving
            .into_iter()
            .for_each(|invalidation| self.arrive(invalidation));
    }

    fn arrive(&mut self, invalidation: Invalidation) {
        let Invalidation { to, vmid, what, .. } = invalidation;
        self.tlbs[to].retain(|entry| {
            let named = what.is_none_or(|(asid, page)| {
                entry.page == page && entry.asid.is_none_or(|tag| tag == asid)
            });
            entry.vmid != vmid || !named
        });
    }
}
