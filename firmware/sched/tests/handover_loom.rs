// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The hand-over under every interleaving:
//! `RUSTFLAGS="--cfg loom" cargo test -p taichi-sched --release --test handover_loom`
//!
//! The protocol has three parties, and `handover.rs` is only the middle of it,
//! so the others are played here: senders, and the owner of a core with its
//! "SGI 0 pending" latch. Each rule that the header of `handover.rs` names,
//! and each that this model turned out to need, is a [`Fault`] when broken,
//! and each fault must be found: the tests that should panic prove that the
//! others can fail.
#![cfg(loom)]

use loom::sync::atomic::{
    AtomicBool, AtomicU32,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};
use loom::sync::{Arc, Mutex};
use loom::thread;
use taichi_sched::handover::{Handover, Mail};

/// A rule that one party breaks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Nothing,
    /// A sender raises SGI 0, then posts its level.
    RaiseBeforePost,
    /// `take` reads the mailbox and then empties it, in two steps.
    TakeInTwoSteps,
    /// `begin_lend` lends although it took something for the native context.
    LendDespiteMail,
    /// The owner refuses to lend, but does not raise SGI 0 again.
    NoRaiseAfterRefusal,
    /// The owner reclaims, but does not raise SGI 0 again.
    NoRaiseAfterReclaim,
    /// The world switch lends a core with SGI 0 pending.
    LendWhilePending,
    /// EL2 takes the mailbox, then acknowledges SGI 0.
    TakeBeforeAcknowledge,
    /// When a slice is over the owner takes the mailbox, and acts on nothing.
    SliceDropsMail,
    /// A probe posts its level, and raises nothing.
    ProbeWithoutRaise,
    /// A vCPU goes idle without a last look at what is pending for it.
    SleepBlindly,
    /// A core looks at what is pending for a vCPU, then says that it runs it.
    LookBeforeLoad,
    /// A sender reads where the vCPU runs, then makes the interrupt pending.
    PlaceBeforePending,
}
use Fault::*;

/// A core as the others see it.
struct Core {
    handover: Handover,
    /// SGI 0 is pending in the redistributor.
    sgi: AtomicBool,
    fault: Fault,
    /// Where mail goes that [`TakeInTwoSteps`] may lose.
    torn: AtomicU32,
}

impl Core {
    fn new(fault: Fault) -> Self {
        Self {
            handover: Handover::default(),
            sgi: AtomicBool::new(false),
            fault,
            torn: AtomicU32::new(0),
        }
    }

    // A sender.

    /// A read-modify-write, because one latch holds the SGIs of all senders:
    /// whoever acknowledges it knows what each of them posted before.
    fn raise(&self) {
        self.sgi.swap(true, AcqRel);
    }

    fn post(&self, mail: Mail) {
        if self.fault == TakeInTwoSteps {
            self.torn.fetch_or(mail.0, AcqRel);
        } else {
            self.handover.post(mail);
        }
    }

    fn send(&self, mail: Mail) {
        if self.fault == RaiseBeforePost {
            self.raise();
            self.post(mail);
        } else {
            self.post(mail);
            self.raise();
        }
    }

    fn probe(&self) -> bool {
        let lent = self.handover.post_probe();
        if lent && self.fault != ProbeWithoutRaise {
            self.raise();
        }
        lent
    }

    // The owner.

    fn take(&self) -> Mail {
        if self.fault == TakeInTwoSteps {
            let mail = self.torn.load(Acquire);
            self.torn.store(0, Release);
            return Mail(mail);
        }
        self.handover.take()
    }

    /// EL2 takes SGI 0: what is wanted?
    fn interrupt(&self) -> Mail {
        if self.fault == TakeBeforeAcknowledge {
            let mail = self.take();
            self.acknowledge();
            return mail;
        }
        self.acknowledge();
        self.take()
    }

    fn acknowledge(&self) -> bool {
        self.sgi.swap(false, AcqRel)
    }

    fn pending(&self) -> bool {
        self.sgi.load(Acquire)
    }
}

/// What the native context must learn: a sender has work for it.
#[derive(Default)]
struct Native {
    work: AtomicBool,
}

/// Who takes a native core's SGI 0.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Linux itself.
    Dp,
    /// EL2, which forwards it as a virtual SGI 0.
    Cp,
}

/// The owner of a core; only it knows these.
struct Owner<'a> {
    core: &'a Core,
    native: &'a Native,
    kind: Kind,
    lent: bool,
    /// A virtual SGI 0 is in a list register of the native context.
    forwarded: bool,
    /// The native context found the work.
    served: bool,
    /// EL2 looked at the scheduler.
    looked: bool,
}

impl<'a> Owner<'a> {
    fn new(core: &'a Core, native: &'a Native, kind: Kind) -> Self {
        Self {
            core,
            native,
            kind,
            lent: false,
            forwarded: false,
            served: false,
            looked: false,
        }
    }

    /// The native context wants to lend its core.
    fn lend(&mut self) {
        let pending = self.core.pending() || self.forwarded;
        if pending && self.core.fault != LendWhilePending {
            return;
        }
        match self.core.handover.begin_lend() {
            Ok(_) => self.lent = true,
            Err(_) if self.core.fault == LendDespiteMail => self.lent = true,
            Err(mail) => {
                if self.core.fault != NoRaiseAfterRefusal {
                    self.tell_native(mail);
                }
            }
        }
    }

    /// EL2 takes SGI 0, if it is pending and comes to EL2.
    fn el2(&mut self) {
        if self.core.pending() && (self.lent || self.kind == Kind::Cp) {
            let mail = self.core.interrupt();
            self.looked |= mail.has(Mail::LOOK);
            if self.lent && mail.for_native() {
                self.reclaim();
                if self.core.fault != NoRaiseAfterReclaim {
                    self.tell_native(mail);
                }
            } else if !self.lent {
                self.tell_native(mail);
            }
        }
    }

    fn slice_over(&mut self) {
        if self.lent {
            self.reclaim();
            if self.core.fault == SliceDropsMail {
                self.core.take();
            }
        }
    }

    fn reclaim(&mut self) {
        self.core.handover.end_lend();
        self.lent = false;
    }

    fn tell_native(&mut self, mail: Mail) {
        if mail.has(Mail::NATIVE_SGI) {
            match self.kind {
                Kind::Dp => self.core.raise(),
                Kind::Cp => self.forwarded = true,
            }
        }
    }

    /// Linux, if it has the core, takes its SGI 0 and looks for work.
    fn linux(&mut self) {
        if self.lent {
            return;
        }
        let taken = match self.kind {
            Kind::Dp => self.core.acknowledge(),
            Kind::Cp => std::mem::take(&mut self.forwarded),
        };
        if taken && self.native.work.load(Relaxed) {
            self.served = true;
        }
    }

    /// Everybody else is done: what is latched has its effect.
    fn settle(&mut self) {
        while self.core.pending() || self.forwarded {
            self.el2();
            self.linux();
        }
    }
}

/// Every interleaving of two threads.
fn check(scenario: impl Fn() + Sync + Send + 'static) {
    loom::model::Builder::new().check(scenario);
}

/// Three threads take hours without a limit: every interleaving with at most
/// three preemptions, one more than any fault here needs to be found.
fn check_three(scenario: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(scenario);
}

/// A sender has work for the native context, another one kicks the core for
/// EL2, while the owner lends the core again and again and at last stays lent
/// until somebody wants it back. `masked`: Linux takes no interrupt between
/// two lends.
fn native_sgi(kind: Kind, masked: bool, kicked: bool, fault: Fault) {
    let scenario = move || {
        let shared = Arc::new((Core::new(fault), Native::default()));
        let sender = thread::spawn({
            let shared = shared.clone();
            move || {
                shared.1.work.store(true, Relaxed);
                shared.0.send(Mail::NATIVE_SGI);
            }
        });
        let kicker = kicked.then(|| {
            let shared = shared.clone();
            thread::spawn(move || shared.0.send(Mail::LOOK))
        });

        let mut owner = Owner::new(&shared.0, &shared.1, kind);
        owner.lend();
        owner.el2();
        owner.slice_over();
        if !masked {
            owner.linux();
        }
        owner.lend();
        owner.el2();

        sender.join().expect("the sender ends");
        if let Some(kicker) = kicker {
            kicker.join().expect("the kicker ends");
        }
        owner.settle();
        assert!(owner.served, "the native context lost its SGI");
        // A native DP core's Linux may have taken that kick, as a late one.
        assert!(
            owner.looked || !kicked || kind == Kind::Dp,
            "EL2 lost its kick"
        );
    };
    if kicked {
        check_three(scenario);
    } else {
        check(scenario);
    }
}

/// A probe while the owner lends once; `slice_over`: the core also goes back
/// by itself.
fn probe(slice_over: bool, fault: Fault) {
    check(move || {
        let shared = Arc::new((Core::new(fault), Native::default()));
        let prober = thread::spawn({
            let shared = shared.clone();
            move || shared.0.probe()
        });

        let mut owner = Owner::new(&shared.0, &shared.1, Kind::Dp);
        owner.lend();
        owner.el2();
        if slice_over {
            owner.slice_over();
        }

        let posted = prober.join().expect("the prober ends");
        owner.settle();
        if posted {
            assert!(!owner.lent, "a probe did not get the core back");
        } else {
            assert_eq!(shared.0.take(), Mail(0), "a probe left something behind");
        }
    });
}

/// Where a vCPU is: behind the scheduler's lock.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Idle,
    Ready,
    Running(usize),
}

struct Vcpu {
    place: Mutex<Place>,
    /// Interrupts that it must get.
    pending: AtomicU32,
    cores: [Core; 2],
    fault: Fault,
}

impl Vcpu {
    fn place(&self) -> Place {
        *self.place.lock().expect("nobody panics with the lock")
    }

    fn move_to(&self, place: Place) {
        *self.place.lock().expect("nobody panics with the lock") = place;
    }

    /// A sender.
    fn send(&self) {
        let early = (self.fault == PlaceBeforePending).then(|| self.place());
        self.pending.fetch_or(1, AcqRel);
        match early.unwrap_or_else(|| self.place()) {
            Place::Running(core) => self.cores[core].send(Mail::VCPU),
            Place::Idle | Place::Ready => self.wake(),
        }
    }

    fn wake(&self) {
        let mut place = self.place.lock().expect("nobody panics with the lock");
        if *place == Place::Idle {
            *place = Place::Ready;
        }
    }

    /// What is pending goes into list registers; says whether there was any.
    fn inject(&self) -> bool {
        self.pending.swap(0, AcqRel) != 0
    }

    /// A core loads the vCPU.
    fn load(&self, core: usize) -> bool {
        if self.fault == LookBeforeLoad {
            let injected = self.inject();
            self.move_to(Place::Running(core));
            return injected;
        }
        self.move_to(Place::Running(core));
        self.inject()
    }

    /// SGI 0 may have come to the core that runs the vCPU.
    fn interrupts(&self, core: usize) -> bool {
        let core = &self.cores[core];
        core.pending() && core.interrupt().has(Mail::VCPU) && self.inject()
    }

    /// The vCPU executes WFI; says whether it got an interrupt instead.
    fn wfi(&self) -> bool {
        if self.inject() {
            return true;
        }
        self.move_to(Place::Idle);
        if self.fault != SleepBlindly && self.pending.load(Acquire) != 0 {
            self.wake();
        }
        false
    }
}

/// What a vCPU does that runs on core 0.
#[derive(Clone, Copy)]
enum Does {
    Stay,
    Sleep,
    /// To core 1.
    Move,
}

/// A sender has an interrupt for a vCPU, whatever that does meanwhile.
fn vcpu_interrupt(does: Does, fault: Fault) {
    check(move || {
        let vcpu = Arc::new(Vcpu {
            place: Mutex::new(Place::Running(0)),
            pending: AtomicU32::new(0),
            cores: [Core::new(fault), Core::new(fault)],
            fault,
        });
        let sender = thread::spawn({
            let vcpu = vcpu.clone();
            move || vcpu.send()
        });

        let mut injected = vcpu.interrupts(0);
        match does {
            Does::Stay => injected |= vcpu.interrupts(0),
            Does::Sleep => injected |= vcpu.wfi(),
            Does::Move => {
                vcpu.move_to(Place::Ready);
                injected |= vcpu.load(1);
            }
        }

        sender.join().expect("the sender ends");
        match vcpu.place() {
            Place::Idle => {}
            Place::Ready => injected |= vcpu.load(1),
            Place::Running(core) => injected |= vcpu.interrupts(core),
        }
        assert!(injected, "the vCPU lost its interrupt");
    });
}

#[test]
fn a_dp_core_loses_no_native_sgi() {
    for masked in [false, true] {
        native_sgi(Kind::Dp, masked, false, Nothing);
        native_sgi(Kind::Dp, masked, true, Nothing);
    }
}

#[test]
fn a_cp_core_loses_no_native_sgi() {
    for masked in [false, true] {
        native_sgi(Kind::Cp, masked, false, Nothing);
        native_sgi(Kind::Cp, masked, true, Nothing);
    }
}

#[test]
fn a_probe_to_a_lent_core_gets_it_back_and_leaves_nothing_elsewhere() {
    probe(false, Nothing);
    probe(true, Nothing);
}

#[test]
fn a_vcpu_that_moves_or_sleeps_loses_no_interrupt() {
    vcpu_interrupt(Does::Stay, Nothing);
    vcpu_interrupt(Does::Move, Nothing);
    vcpu_interrupt(Does::Sleep, Nothing);
}

/// Tests that a scenario fails where a rule is broken.
macro_rules! must_fail {
    ($($name:ident: $message:literal, $scenario:expr;)*) => {$(
        #[test]
        #[should_panic(expected = $message)]
        fn $name() {
            $scenario
        }
    )*};
}

must_fail! {
    a_dp_sender_posts_first: "lost its SGI", native_sgi(Kind::Dp, true, false, RaiseBeforePost);
    a_cp_sender_posts_first: "lost its SGI", native_sgi(Kind::Cp, true, false, RaiseBeforePost);
    take_is_one_step: "lost its SGI", native_sgi(Kind::Dp, true, true, TakeInTwoSteps);
    mail_forbids_a_lend: "lost its SGI", native_sgi(Kind::Dp, true, false, LendDespiteMail);
    a_refusal_raises: "lost its SGI", native_sgi(Kind::Dp, true, false, NoRaiseAfterRefusal);
    a_reclaim_raises: "lost its SGI", native_sgi(Kind::Dp, true, false, NoRaiseAfterReclaim);
    pending_forbids_a_lend: "lost its SGI", native_sgi(Kind::Dp, true, false, LendWhilePending);
    el2_acknowledges_first: "lost its SGI", native_sgi(Kind::Dp, true, true, TakeBeforeAcknowledge);
    a_slice_keeps_mail: "lost its SGI", native_sgi(Kind::Dp, true, false, SliceDropsMail);
    a_probe_raises: "did not get the core back", probe(false, ProbeWithoutRaise);
    a_vcpu_sender_posts_first: "lost its interrupt", vcpu_interrupt(Does::Stay, RaiseBeforePost);
    a_vcpu_looks_before_it_sleeps: "lost its interrupt", vcpu_interrupt(Does::Sleep, SleepBlindly);
    a_load_looks_last: "lost its interrupt", vcpu_interrupt(Does::Move, LookBeforeLoad);
    pending_comes_before_place: "lost its interrupt", vcpu_interrupt(Does::Move, PlaceBeforePending);
}
