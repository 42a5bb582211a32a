// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A machine around the scheduler: it drives it as the firmware does, on a
//! clock of its own, and checks after every call what must always hold.
//!
//! Kicks arrive late, by up to [`KICK`] ticks; a core's hypervisor timer is
//! set only when that core itself was in EL2, and fires up to [`LATE`] ticks
//! late. So a scheduler that forgets to kick somebody is found out.

use taichi_sched::scheduler::{NEVER, WATCH};
use taichi_sched::state::{CoreId, Illegal, VcpuId};
use taichi_sched::{CoreState, Kicks, Params, Role, Scheduler, Tick, VcpuState, Why};

/// The longest a kick is under way, in ticks.
pub const KICK: u64 = 3;
/// The most a timer fires late, in ticks.
pub const LATE: u64 = 2;

/// The named steps of `state.rs`, for cores and then for vCPUs.
pub const STEPS: [&str; 13] = [
    "core start",
    "core stop",
    "core wait",
    "core wake",
    "core lend",
    "core rotate",
    "core reclaim",
    "vcpu start",
    "vcpu stop",
    "vcpu dispatch",
    "vcpu preempt",
    "vcpu sleep",
    "vcpu wake",
];

/// The machine.
pub struct World {
    /// What is tested.
    pub scheduler: Scheduler,
    /// Now, in ticks.
    pub now: u64,
    /// How often each of [`STEPS`] was seen.
    pub steps: [u64; STEPS.len()],
    /// Calls that were refused, as they must be.
    pub refused: u64,
    /// Ticks that a timer, not a kick, caused.
    pub timer_ticks: u64,
    /// The longest that a vCPU was ready.
    pub longest_wait: u64,
    params: Params,
    roles: Vec<Role>,
    vcpu_count: usize,
    /// When each core's hypervisor timer fires.
    armed: Vec<u64>,
    /// When each core's timer should fire, as the core last read it.
    read: Vec<u64>,
    /// Kicks under way: when they arrive, and where.
    kicks: Vec<(u64, CoreId)>,
    cores: Vec<CoreState>,
    vcpus: Vec<VcpuState>,
    /// When each vCPU entered its state, and when its timer fires.
    since: Vec<u64>,
    timers: Vec<u64>,
    /// DP cores are not lent.
    kept: bool,
    /// When the watchman last looked for lost kicks.
    watched: u64,
    /// When a CP core last left, so that its wards moved.
    moved: u64,
    /// How often code is inside a section when it is looked at, of 8 times.
    pub inside: u64,
    /// By when the native context of each core must have it back, where the
    /// vCPU may keep it for a moment.
    wanted: Vec<Option<u64>>,
    random: u64,
}

impl World {
    /// Core 0 runs, as the boot core does; all else is off.
    pub fn new(params: Params, roles: &[Role], vcpu_count: usize, seed: u64) -> Self {
        let mut world = Self {
            scheduler: Scheduler::new(params, roles, vcpu_count).watched_by(0),
            now: 1000,
            steps: [0; STEPS.len()],
            refused: 0,
            timer_ticks: 0,
            longest_wait: 0,
            params,
            roles: roles.to_vec(),
            vcpu_count,
            armed: vec![NEVER; roles.len()],
            read: vec![NEVER; roles.len()],
            kicks: Vec::new(),
            cores: vec![CoreState::Off; roles.len()],
            vcpus: vec![VcpuState::Off; vcpu_count],
            since: vec![0; vcpu_count],
            timers: vec![NEVER; vcpu_count],
            kept: false,
            watched: 1000,
            moved: 0,
            inside: 0,
            wanted: vec![None; roles.len()],
            random: seed | 1,
        };
        world.core_on(0);
        world
    }

    // What Linux and the hardware do. Each may be called at any time; where
    // the state doesn't allow it, the scheduler must refuse it.

    /// PSCI CPU_ON for a core.
    pub fn core_on(&mut self, core: CoreId) {
        let legal = self.cores[core] == CoreState::Off;
        self.call(legal, |s, _| s.core_on(core));
        self.leave(core);
    }

    /// PSCI CPU_OFF on a core.
    pub fn core_off(&mut self, core: CoreId) {
        let legal = self.cores[core] == CoreState::Native;
        if let Some(kicks) = self.call(legal, |s, now| s.core_off(core, now)) {
            self.moved = self.now;
            self.kick(kicks);
        }
        self.leave(core);
    }

    /// The native context executes WFI: lends, or waits. `meanwhile` is what
    /// another core does between the two.
    pub fn idle(&mut self, core: CoreId, meanwhile: impl FnOnce(&mut Self)) {
        if self.is_kept(core) || self.lend(core, Why::Idle) == Some(None) {
            meanwhile(self);
            let legal = self.cores[core] == CoreState::Native;
            if let Some(kicks) = self.call(legal, |s, _| s.wait(core)) {
                self.kick(kicks);
            }
        }
        self.leave(core);
    }

    /// A poller loads from the doorbell.
    pub fn yields(&mut self, core: CoreId) {
        let waits = self.cores[core] == CoreState::Waiting;
        if self.roles[core] == Role::Dp && !waits && !self.is_kept(core) {
            self.lend(core, Why::Yield);
        }
        self.leave(core);
    }

    /// DP cores are kept for their native contexts, or lent again; `from` says so.
    pub fn keep(&mut self, from: CoreId, keep: bool) {
        if !self.runs(from) {
            return;
        }
        self.kept = keep;
        if let Some(kicks) = self.call(true, |s, _| Ok(s.keep_dp_cores(keep))) {
            self.kick(kicks);
        }
        self.leave(from);
        for core in 0..self.cores.len() {
            if self.is_kept(core) && self.vcpu_there(core).is_some() {
                self.reclaim(core);
                self.leave(core);
            }
        }
    }

    fn is_kept(&self, core: CoreId) -> bool {
        self.kept && self.roles[core] == Role::Dp
    }

    /// An interrupt for the native context of a core that doesn't run it.
    pub fn native_interrupt(&mut self, core: CoreId) {
        let state = self.cores[core];
        if !matches!(state, CoreState::Lent { .. }) {
            let legal = state == CoreState::Waiting;
            if let Some(kicks) = self.call(legal, |s, _| s.wake(core)) {
                self.kick(kicks);
            }
        }
        if state != CoreState::Waiting && !self.may_stay(core) {
            self.reclaim(core);
        }
        self.leave(core);
    }

    /// Whether the vCPU of a CP core keeps it for a moment, because it is inside
    /// a section.
    fn may_stay(&mut self, core: CoreId) -> bool {
        let asks = self.roles[core] == Role::Cp && self.vcpu_there(core).is_some();
        let stays = asks
            && self.is_inside()
            && self.call(true, |s, now| Ok(s.want_back(core, now))) == Some(true);
        if stays {
            let end = self.now + self.params.rescue;
            self.wanted[core].get_or_insert(end);
        }
        stays
    }

    /// PSCI CPU_ON for a vCPU, called on a core that runs something.
    pub fn vcpu_on(&mut self, vcpu: VcpuId, from: CoreId) {
        let legal = self.vcpus.get(vcpu) == Some(&VcpuState::Off);
        if self.runs(from)
            && let Some(kicks) = self.call(legal, |s, now| s.vcpu_on(vcpu, from, now))
        {
            self.kick(kicks);
        }
        self.leave(from);
    }

    /// PSCI CPU_OFF on the vCPU that runs on this core.
    pub fn vcpu_off(&mut self, core: CoreId) {
        let legal = matches!(self.cores[core], CoreState::Lent { .. });
        if let Some(next) = self.call(legal, |s, now| s.vcpu_off(core, now)) {
            self.check_next(core, next);
        }
        self.leave(core);
    }

    /// WFI on the vCPU that runs on this core; its timer fires `after` ticks
    /// from now, if at all.
    pub fn vcpu_idle(&mut self, core: CoreId, after: Option<u64>) {
        let timer = after.map_or(NEVER, |t| self.now + t);
        let legal = match self.cores[core] {
            CoreState::Lent { vcpu, .. } => {
                self.timers[vcpu] = timer;
                true
            }
            _ => false,
        };
        if let Some((next, kicks)) = self.call(legal, |s, now| s.vcpu_idle(core, timer, now)) {
            self.check_next(core, next);
            self.kick(kicks);
        }
        self.leave(core);
    }

    /// A core that runs something sends an interrupt to a vCPU.
    pub fn vcpu_interrupt(&mut self, vcpu: VcpuId, from: CoreId) {
        if vcpu < self.vcpu_count
            && self.runs(from)
            && let Some(kicks) = self.call(true, |s, now| Ok(s.vcpu_interrupt(vcpu, from, now)))
        {
            assert_ne!(self.vcpus[vcpu], VcpuState::Idle, "a wake-up that is lost");
            self.kick(kicks);
        }
        self.leave(from);
    }

    /// Lets time pass; kicks arrive and timers fire.
    pub fn advance(&mut self, ticks: u64) {
        let end = self.now + ticks;
        while let Some((at, core, kick)) = self.next_event()
            && at <= end
        {
            self.now = self.now.max(at);
            self.check_delays();
            match kick {
                Some(index) => drop(self.kicks.swap_remove(index)),
                None => self.timer_ticks += 1,
            }
            // A core that is off takes no interrupt, and a DP core's Linux takes
            // SGI 0 itself.
            let taken_by_linux = kick.is_some()
                && self.roles[core] == Role::Dp
                && self.cores[core] == CoreState::Native;
            if self.cores[core] != CoreState::Off && !taken_by_linux {
                self.tick(core);
            }
        }
        self.now = end;
        self.check_delays();
    }

    // What the firmware does.

    fn lend(&mut self, core: CoreId, why: Why) -> Option<Option<VcpuId>> {
        let legal = matches!(self.cores[core], CoreState::Native | CoreState::Waiting);
        let ready = self.scheduler.ready();
        let got = self.call(legal, |s, now| s.lend(core, why, now))?;
        assert_eq!(got.is_some(), ready > 0);
        assert!(!self.is_kept(core), "a kept core is lent");
        let expected = got.map_or(CoreState::Native, |vcpu| CoreState::Lent { vcpu, why });
        assert_eq!(self.cores[core], expected);
        Some(got)
    }

    fn reclaim(&mut self, core: CoreId) {
        let had = self.vcpu_there(core);
        let legal = had.is_some();
        let inside = self.is_inside();
        let forced = matches!(
            self.cores[core],
            CoreState::Lent {
                why: Why::Forced,
                ..
            }
        );
        let reclaimed = self.call(legal, |s, now| {
            if inside || forced {
                s.reclaim(core, now, inside)
            } else {
                s.reclaim_outside(core, now)
            }
        });
        if let Some((vcpu, kicks)) = reclaimed {
            assert_eq!(Some(vcpu), had);
            self.kick(kicks);
        }
    }

    fn vcpu_there(&self, core: CoreId) -> Option<VcpuId> {
        match self.cores[core] {
            CoreState::Lent { vcpu, .. } => Some(vcpu),
            _ => None,
        }
    }

    fn tick(&mut self, core: CoreId) {
        let had = self.vcpu_there(core);
        if self.scheduler.watch(core, self.now) {
            assert_eq!(core, 0, "not the watchman");
            self.watched = self.now;
        }
        let inside = self.is_inside();
        let Some((tick, kicks)) = self.call(true, |s, now| s.tick(core, now, inside)) else {
            return;
        };
        self.kick(kicks);
        match tick {
            Tick::Continue => {}
            Tick::Rotate { from, to } => {
                assert_eq!(Some(from), had);
                self.check_next(core, Some(to));
            }
            Tick::Return => self.reclaim(core),
            Tick::Lend(why) => assert!(matches!(self.lend(core, why), Some(Some(_)))),
        }
        assert!(self.scheduler.deadline(core) > self.now, "a timer storm");
        self.leave(core);
    }

    /// A core leaves EL2, with its timer set.
    fn leave(&mut self, core: CoreId) {
        let online = self.cores[core] != CoreState::Off;
        self.read[core] = if online {
            self.scheduler.deadline(core)
        } else {
            NEVER
        };
        self.armed[core] = self.read[core].saturating_add(self.random(LATE));
        self.check_timers();
    }

    fn kick(&mut self, kicks: Kicks) {
        for core in 0..self.cores.len() {
            if kicks.0 & (1 << core) != 0 {
                assert_ne!(
                    self.cores[core],
                    CoreState::Off,
                    "a kick for a core that is off"
                );
                let at = self.now + self.random(KICK);
                self.kicks.push((at, core));
            }
        }
    }

    /// The next thing that happens: when, where, and which kick if it is one.
    fn next_event(&self) -> Option<(u64, CoreId, Option<usize>)> {
        let kicks = self.kicks.iter().enumerate();
        let kicks = kicks.map(|(index, &(at, core))| (at, core, Some(index)));
        let timers = self.armed.iter().enumerate();
        let timers = timers.map(|(core, &at)| (at, core, None));
        kicks.chain(timers).filter(|e| e.0 != NEVER).min()
    }

    fn runs(&self, core: CoreId) -> bool {
        matches!(self.cores[core], CoreState::Native | CoreState::Lent { .. })
    }

    fn is_inside(&mut self) -> bool {
        self.random(7) < self.inside
    }

    fn random(&mut self, most: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % (most + 1)
    }

    // What must hold.

    /// Calls the scheduler. A step that is not legal must be refused and
    /// change nothing.
    fn call<T>(
        &mut self,
        legal: bool,
        step: impl FnOnce(&mut Scheduler, u64) -> Result<T, Illegal>,
    ) -> Option<T> {
        let before = (!legal).then(|| format!("{:?}", self.scheduler));
        let result = step(&mut self.scheduler, self.now);
        if let Some(before) = before {
            assert!(result.is_err(), "an illegal step was done");
            assert_eq!(before, format!("{:?}", self.scheduler));
            self.refused += 1;
            return None;
        }
        self.observe();
        Some(result.expect("a legal step was refused"))
    }

    /// Compares all states with the last ones: every change is a named step.
    fn observe(&mut self) {
        for core in 0..self.cores.len() {
            let (old, new) = (self.cores[core], self.scheduler.core(core));
            use CoreState::*;
            let steps: &[usize] = match (old, new) {
                _ if old == new => &[],
                (Off, Native) => &[0],
                (Native, Off) => &[1],
                (Native, Waiting) => &[2],
                (Waiting, Native) => &[3],
                (Native, Lent { .. }) => &[4],
                (Waiting, Lent { .. }) => &[3, 4],
                (Lent { why: a, .. }, Lent { why: b, .. }) if a == b => &[5],
                (Lent { .. }, Native) => &[6],
                _ => panic!("core {core}: {old:?} to {new:?} has no name"),
            };
            self.count(steps);
            self.cores[core] = new;
            if steps.contains(&5) {
                assert_eq!(
                    self.wanted[core], None,
                    "a vCPU follows on a core that is wanted"
                );
            }
            if !matches!(new, Lent { .. }) {
                self.wanted[core] = None;
            }
        }
        for vcpu in 0..self.vcpu_count {
            let (old, new) = (self.vcpus[vcpu], self.scheduler.vcpu(vcpu));
            use VcpuState::*;
            let steps: &[usize] = match (old, new) {
                _ if old == new => continue,
                (Off, Ready) => &[7],
                (Running { .. }, Off) => &[8],
                (Ready, Running { .. }) => &[9],
                (Running { .. }, Ready) => &[10],
                (Running { .. }, Idle) => &[11],
                (Idle, Ready) => &[12],
                // A tick may do both.
                (Idle, Running { .. }) => &[12, 9],
                _ => panic!("vCPU {vcpu}: {old:?} to {new:?} has no name"),
            };
            self.count(steps);
            self.vcpus[vcpu] = new;
            self.since[vcpu] = self.now;
        }
        self.check_states();
    }

    fn count(&mut self, steps: &[usize]) {
        for &step in steps {
            self.steps[step] += 1;
        }
    }

    /// A vCPU runs where the core says that it runs, and is in the queue if
    /// and only if it is ready.
    fn check_states(&self) {
        for (core, &state) in self.cores.iter().enumerate() {
            if let CoreState::Lent { vcpu, .. } = state {
                assert_eq!(self.vcpus[vcpu], VcpuState::Running { core });
            }
        }
        for (vcpu, &state) in self.vcpus.iter().enumerate() {
            if let VcpuState::Running { core } = state {
                let there = self.cores[core];
                assert!(matches!(there, CoreState::Lent { vcpu: v, .. } if v == vcpu));
            }
        }
        let ready = |&v: &usize| self.vcpus[v] == VcpuState::Ready;
        let expected: Vec<_> = (0..self.vcpu_count).filter(ready).collect();
        assert_eq!(self.scheduler.ready(), expected.len());
        assert_eq!(self.queued(), expected);
    }

    /// The vCPUs in the ready queue, sorted: those that a copy of the
    /// scheduler hands out when they switch themselves off one by one.
    fn queued(&self) -> Vec<VcpuId> {
        let mut copy = self.scheduler.clone();
        let mut taken_back = None;
        match copy.core(0) {
            CoreState::Lent { vcpu, .. } => {
                taken_back = Some(vcpu);
                let _ = copy.reclaim(0, self.now, false).expect("core 0 is lent");
            }
            CoreState::Waiting => drop(copy.wake(0).expect("core 0 waits")),
            CoreState::Native | CoreState::Off => {}
        }
        let mut queued = Vec::new();
        let mut next = copy
            .lend(0, Why::Yield, self.now)
            .expect("core 0 is native");
        while let Some(vcpu) = next {
            queued.push(vcpu);
            next = copy.vcpu_off(0, self.now).expect("a vCPU runs on core 0");
        }
        queued.retain(|&v| Some(v) != taken_back);
        queued.sort_unstable();
        queued
    }

    fn check_next(&self, core: CoreId, next: Option<VcpuId>) {
        match (self.cores[core], next) {
            (CoreState::Native, None) => {}
            (CoreState::Lent { vcpu, .. }, Some(next)) if vcpu == next => {}
            (state, next) => panic!("core {core} is {state:?}, but was told {next:?}"),
        }
    }

    /// A core whose timer is set too late is on its way into EL2, and so is
    /// one that waits while there is something to run.
    fn check_timers(&self) {
        let kicked = |core| self.kicks.iter().any(|k| k.1 == core);
        let mut unused = 0;
        for core in 0..self.cores.len() {
            let state = self.cores[core];
            assert!(
                state == CoreState::Off
                    || kicked(core)
                    || self.read[core] <= self.scheduler.deadline(core),
                "core {core} was not told that its timer must fire earlier"
            );
            let may = state == CoreState::Waiting && !self.is_kept(core);
            unused += usize::from(may && !kicked(core));
        }
        assert!(
            self.scheduler.ready() == 0 || unused == 0 || !self.kicks.is_empty(),
            "a vCPU is ready and a core waits, and nobody was told"
        );
    }

    /// Nothing is late.
    fn check_delays(&mut self) {
        assert!(
            self.now <= self.watched + WATCH * self.params.patience + LATE,
            "the watchman sleeps"
        );
        for (core, end) in self.wanted.iter().enumerate() {
            assert!(
                end.is_none_or(|end| self.now <= end + LATE),
                "core {core} is wanted in vain"
            );
        }
        for vcpu in 0..self.vcpu_count {
            let from = self.since[vcpu].max(self.moved);
            match self.vcpus[vcpu] {
                VcpuState::Idle if self.timers[vcpu] != NEVER => assert!(
                    self.now <= from.max(self.timers[vcpu]) + KICK + LATE,
                    "vCPU {vcpu} sleeps past its timer"
                ),
                VcpuState::Ready => {
                    let waited = self.now.saturating_sub(from);
                    self.longest_wait = self.longest_wait.max(waited);
                    assert!(
                        waited <= self.bound(),
                        "vCPU {vcpu} starves: {waited} ticks"
                    );
                }
                _ => {}
            }
        }
    }

    /// The longest that a vCPU may be ready without a core, while the CP cores
    /// stay. Its guardian looks when its patience ends, and then every two
    /// forced slices. From then on the head of the queue is a vCPU that
    /// starves and has waited as long or longer, and the guardian takes the
    /// head at that look, when the slice on it ends, or at its next look. None
    /// that was ready earlier can be served twice before it.
    pub fn bound(&self) -> u64 {
        let late = KICK + LATE;
        let mut turn = 2 * self.params.forced_slice + self.params.slice + 2 * late;
        if self.inside > 0 {
            // Slices are prolonged, and native code has its core as long as it
            // hadn't; rounds of asking come between.
            turn += 3 * self.params.forced_slice + 2 * self.params.look + self.params.rescue;
        }
        self.params.patience + late + self.vcpu_count as u64 * turn
    }

    /// More timer ticks than this would be a storm: each slice, each time a
    /// vCPU becomes idle or ready, and each turn of forced progress has a few.
    pub fn timer_tick_bound(&self, elapsed: u64) -> u64 {
        let caused: u64 = self.steps[7..].iter().sum();
        let mut turn = self.params.slice.min(2 * self.params.forced_slice);
        if self.inside > 0 {
            turn = turn.min(self.params.look);
        }
        let watched = elapsed / (WATCH * self.params.patience) + 1;
        2 * caused + self.cores.len() as u64 * (elapsed / turn + 2) + watched
    }
}
