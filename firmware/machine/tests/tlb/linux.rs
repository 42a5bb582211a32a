// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What Linux does: ASIDs (arch/arm64/mm/context.c), and the steps of a context
//! switch and of an unmap.

/// CPUs that Linux sees: one per core, and the vCPU.
pub const CPUS: usize = 3;
/// Address spaces.
pub const SPACES: usize = 6;
/// ASIDs 1 to this; more than CPUs, as Linux demands, and fewer than address
/// spaces, so that they run out.
pub const ASIDS: usize = 4;
/// Pages of an address space.
pub const PAGES: usize = 2;

/// One thing that a CPU does without being stopped in between.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// Make a page's old mapping invalid and a new one valid.
    Remap { space: usize, page: usize },
    /// TLBI VAE1IS for a page.
    TlbiPage { space: usize, page: usize },
    /// TLBI VMALLE1.
    TlbiLocal,
    /// DSB ISH.
    DsbIsh,
    /// DSB NSH.
    DsbNsh,
    /// From here on nobody may hit a mapping older than this.
    Gone {
        space: usize,
        page: usize,
        version: u32,
    },
    /// `check_and_switch_context`, up to the flush.
    Switch { space: usize },
    /// The rest of it: the CPU's active ASID.
    Activate { space: usize, context: Context },
    /// The page tables and the ASID, in the registers.
    Load { space: usize, asid: usize },
    /// No access goes by the boot page tables any more.
    LeaveBootTables,
    /// Nothing of them is left.
    Booted,
}

/// Generation and ASID; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    pub generation: u64,
    pub asid: usize,
}

const NONE: Context = Context {
    generation: 0,
    asid: 0,
};

/// The allocator.
pub struct Asids {
    generation: u64,
    used: [bool; ASIDS + 1],
    of_space: [Context; SPACES],
    active: [Context; CPUS],
    reserved: [Context; CPUS],
    flush_pending: [bool; CPUS],
    /// Who holds `cpu_asid_lock`.
    lock: Option<usize>,
}

/// What [`Asids::switch`] says.
pub enum Switch {
    /// The lock is taken: try again.
    Busy,
    /// The fast path: this is the active ASID.
    Active(Context),
    /// Activate this, after a local flush or without.
    Go { context: Context, flush: bool },
}

impl Asids {
    pub fn new() -> Self {
        Self {
            generation: 1,
            used: [false; ASIDS + 1],
            of_space: [NONE; SPACES],
            active: [NONE; CPUS],
            reserved: [NONE; CPUS],
            flush_pending: [false; CPUS],
            lock: None,
        }
    }

    /// The ASID that invalidations of an address space name.
    pub fn asid(&self, space: usize) -> usize {
        self.of_space[space].asid
    }

    /// `check_and_switch_context`.
    pub fn switch(&mut self, cpu: usize, space: usize) -> Switch {
        let context = self.of_space[space];
        if self.active[cpu] != NONE && context.generation == self.generation {
            // One compare-and-swap, which a rollover makes fail.
            self.active[cpu] = context;
            return Switch::Active(context);
        }
        if self.lock.is_some() {
            return Switch::Busy;
        }
        self.lock = Some(cpu);
        if context.generation != self.generation {
            self.of_space[space] = self.new_context(space);
        }
        let flush = std::mem::take(&mut self.flush_pending[cpu]);
        Switch::Go {
            context: self.of_space[space],
            flush,
        }
    }

    pub fn activate(&mut self, cpu: usize, context: Context) {
        self.active[cpu] = context;
        if self.lock == Some(cpu) {
            self.lock = None;
        }
    }

    fn new_context(&mut self, space: usize) -> Context {
        let old = self.of_space[space];
        if old != NONE {
            let new = Context {
                generation: self.generation,
                asid: old.asid,
            };
            let mut reserved = false;
            for slot in self.reserved.iter_mut().filter(|slot| **slot == old) {
                *slot = new;
                reserved = true;
            }
            if reserved || !std::mem::replace(&mut self.used[old.asid], true) {
                return new;
            }
        }
        let free = |used: &[bool]| (1..=ASIDS).find(|&asid| !used[asid]);
        let asid = free(&self.used).unwrap_or_else(|| {
            self.roll_over();
            free(&self.used).expect("more ASIDs than CPUs")
        });
        self.used[asid] = true;
        Context {
            generation: self.generation,
            asid,
        }
    }

    /// `flush_context`.
    fn roll_over(&mut self) {
        self.generation += 1;
        self.used = [false; ASIDS + 1];
        for cpu in 0..CPUS {
            let active = std::mem::take(&mut self.active[cpu]);
            if active != NONE {
                self.reserved[cpu] = active;
            }
            self.used[self.reserved[cpu].asid] = true;
            self.flush_pending[cpu] = true;
        }
    }
}
