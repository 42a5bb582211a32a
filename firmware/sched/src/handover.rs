// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How a core changes hands while other cores send it interrupts.
//!
//! The kick is SGI 0, which is also Linux's reschedule IPI, so a core that
//! takes SGI 0 at EL2 must know what it meant. It looks into its mailbox,
//! which holds *levels* (what is wanted of this core), never events:
//!
//! - A sender first posts its level, then raises SGI 0, always.
//! - The owner takes all levels at once, and acts on each level it took.
//!   So a level that is gone has been acted upon, and an SGI 0 that finds an
//!   empty mailbox is a late one: nothing is lost by ignoring it.
//! - It acknowledges SGI 0 before it takes them, with a barrier (ISB) between:
//!   whoever posts in between has raised an SGI 0 of his own.
//! - Before the owner lends the core it publishes "lent" and then takes what
//!   is there for the native context; if there was something, it does not lend
//!   and raises SGI 0 for the native context again. Other levels stay for the
//!   SGI 0 that comes with them.
//! - A core with an SGI 0 pending is not lent: the level may be gone, so that
//!   EL2 would take the SGI for a late one.
//! - SGI 0 for the native context of a DP core may have been taken by Linux
//!   directly, with the level left behind. Then the next lend is refused once
//!   and Linux gets one reschedule IPI too many, which does no harm.
//! - A probe reads the published state first: to a core that is not lent it
//!   posts nothing.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU32, Ordering::SeqCst};

#[cfg(not(loom))]
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// What is wanted of a core: a set of levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Mail(pub u32);

impl Mail {
    /// SGI 0 for the native context.
    pub const NATIVE_SGI: Mail = Mail(1);
    /// The native context must have its core back: a probe.
    pub const RECLAIM: Mail = Mail(2);
    /// The native context keeps its core until this level is withdrawn: whoever
    /// takes it posts it again as long as that holds.
    pub const KEEP: Mail = Mail(4);
    /// The vCPU that runs here has interrupts pending.
    pub const VCPU: Mail = Mail(8);
    /// Look at the scheduler: there is something to run, or to time.
    pub const LOOK: Mail = Mail(16);
    /// What the native context must have its core for.
    const FOR_NATIVE: Mail = Mail(Self::NATIVE_SGI.0 | Self::RECLAIM.0 | Self::KEEP.0);

    /// Whether any level of `other` is set.
    #[inline]
    pub fn has(self, other: Mail) -> bool {
        self.0 & other.0 != 0
    }

    /// All levels but those of `other`.
    #[must_use]
    pub fn without(self, other: Mail) -> Mail {
        Mail(self.0 & !other.0)
    }

    /// Whether the native context must get the core.
    #[inline]
    pub fn for_native(self) -> bool {
        self.has(Self::FOR_NATIVE)
    }
}

const NATIVE: u32 = 0;
const LENT: u32 = 1;

/// One core's mailbox, and whether the core is lent.
#[derive(Debug, Default)]
pub struct Handover {
    state: AtomicU32,
    mail: AtomicU32,
}

impl Handover {
    /// Native, with an empty mailbox.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self {
            state: AtomicU32::new(NATIVE),
            mail: AtomicU32::new(0),
        }
    }

    /// Any core: posts `mail`. The caller then raises SGI 0 at the owner.
    #[inline]
    pub fn post(&self, mail: Mail) {
        self.mail.fetch_or(mail.0, SeqCst);
    }

    /// Any core: posts a probe if the core is lent, and says whether it did
    /// (then the caller raises SGI 0).
    #[inline]
    pub fn post_probe(&self) -> bool {
        let lent = self.is_lent();
        if lent {
            self.post(Mail::RECLAIM);
        }
        lent
    }

    /// Any core: whether the core is lent now.
    #[inline]
    pub fn is_lent(&self) -> bool {
        self.state.load(SeqCst) == LENT
    }

    /// Owner, at SGI 0 or at any other return to EL2: takes all levels.
    #[inline]
    pub fn take(&self) -> Mail {
        if self.mail.load(SeqCst) == 0 {
            return Mail(0);
        }
        Mail(self.mail.swap(0, SeqCst))
    }

    /// Any core: takes a level of [`Mail::KEEP`] back.
    pub fn withdraw_keep(&self) {
        self.mail.fetch_and(!Mail::KEEP.0, SeqCst);
    }

    /// Any core: what is in the mailbox now, which stays there.
    pub fn peek(&self) -> Mail {
        Mail(self.mail.load(SeqCst))
    }

    /// Owner: takes the levels of `wanted` only; the others stay for the SGI 0
    /// that was raised for them.
    #[inline]
    pub fn take_only(&self, wanted: Mail) -> Mail {
        if !Mail(self.mail.load(SeqCst)).has(wanted) {
            return Mail(0);
        }
        Mail(self.mail.fetch_and(!wanted.0, SeqCst) & wanted.0)
    }

    /// Owner: publishes "lent", then takes what is in the mailbox for the
    /// native context. If there is something, the core is native again and the
    /// owner must act on these levels.
    #[inline]
    pub fn begin_lend(&self) -> Result<(), Mail> {
        self.publish(LENT);
        let mail = self.take_only(Mail::FOR_NATIVE);
        if mail.for_native() {
            self.end_lend();
            return Err(mail);
        }
        Ok(())
    }

    /// Owner, after [`Self::begin_lend`] refused: lends all the same, because a
    /// vCPU starves and the native context couldn't take the interrupt now.
    /// What is posted from here on comes with an SGI 0 to a lent core.
    #[inline]
    pub fn lend_anyway(&self) {
        self.publish(LENT);
    }

    /// Stores the state where no later load of the mailbox can overtake it:
    /// both are sequentially consistent (STLR and LDAR).
    #[inline]
    fn publish(&self, state: u32) {
        #[cfg(not(loom))]
        self.state.store(state, SeqCst);
        // loom takes a sequentially consistent store for a release.
        #[cfg(loom)]
        self.state.swap(state, SeqCst);
    }

    /// Owner: the native context has the core again.
    #[inline]
    pub fn end_lend(&self) {
        self.state.store(NATIVE, SeqCst);
    }
}
