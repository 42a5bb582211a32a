// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Calls of the SMC Calling Convention (Arm DEN 0028) that are not PSCI: which
//! version it is, and paravirtualized time (Arm DEN 0057), through which a CPU
//! learns how much of its time went to others.

/// SMCCC_VERSION.
pub const VERSION: u32 = 0x8000_0000;
/// SMCCC_ARCH_FEATURES.
pub const ARCH_FEATURES: u32 = 0x8000_0001;
/// PV_TIME_FEATURES.
pub const PV_TIME_FEATURES: u32 = 0xc500_0020;
/// PV_TIME_ST.
pub const PV_TIME_ST: u32 = 0xc500_0021;

const SUCCESS: i64 = 0;
const NOT_SUPPORTED: i64 = -1;

/// The oldest version with SMCCC_ARCH_FEATURES, and the newest whose calls are
/// known here: 1.3 puts a hint into function numbers.
const VERSIONS: (u32, u32) = (0x1_0001, 0x1_0002);

/// What the caller of [`Smccc::call`] has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Return this in x0.
    Return(i64),
    /// Return the address of the calling CPU's stolen-time structure.
    StolenTime,
    /// The call is not ours: the firmware below answers.
    Forward,
}

/// The server of these calls.
#[derive(Clone, Copy, Debug)]
pub struct Smccc {
    /// What SMCCC_VERSION returned below; 1.0 where there is no such call.
    pub below: u32,
}

impl Smccc {
    /// Answers the call with function id `fid` and `argument` in x1.
    pub fn call(self, fid: u32, argument: u32) -> Answer {
        match fid {
            VERSION => Answer::Return(i64::from(self.version())),
            ARCH_FEATURES => self.features(argument),
            PV_TIME_FEATURES => Answer::Return(match argument {
                PV_TIME_FEATURES | PV_TIME_ST => SUCCESS,
                _ => NOT_SUPPORTED,
            }),
            PV_TIME_ST => Answer::StolenTime,
            _ => Answer::Forward,
        }
    }

    fn version(self) -> u32 {
        self.below.clamp(VERSIONS.0, VERSIONS.1)
    }

    /// Whether calls to the firmware below keep x4 to x17, as Linux expects of
    /// the version that it is told.
    pub fn keeps_registers(self) -> bool {
        self.below >= VERSIONS.0
    }

    fn features(self, fid: u32) -> Answer {
        match fid {
            VERSION | ARCH_FEATURES | PV_TIME_FEATURES => Answer::Return(SUCCESS),
            // Workarounds for the cores' errata, and whatever else is below.
            _ if self.below >= VERSIONS.0 => Answer::Forward,
            _ => Answer::Return(NOT_SUPPORTED),
        }
    }
}

/// Turns ticks of the system counter into nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Nanoseconds {
    /// Nanoseconds in a tick, times 2^32.
    factor: u64,
}

impl Nanoseconds {
    /// For a counter with `frequency` ticks in a second.
    pub fn new(frequency: u64) -> Self {
        let factor = (1_000_000_000 << 32) / frequency.max(1);
        Self { factor }
    }

    /// The nanoseconds that `ticks` took.
    #[inline]
    pub fn of(self, ticks: u64) -> u64 {
        ((u128::from(ticks) * u128::from(self.factor)) >> 32) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKAROUND_1: u32 = 0x8000_8000;

    #[test]
    fn time_is_ours_and_the_rest_is_not() {
        for below in [0x1_0000, 0x1_0001, 0x1_0005] {
            let smccc = Smccc { below };
            let ask = |fid, x1| smccc.call(fid, x1);
            let ok = Answer::Return(SUCCESS);
            assert_eq!(ask(ARCH_FEATURES, PV_TIME_FEATURES), ok);
            assert_eq!(ask(PV_TIME_FEATURES, PV_TIME_ST), ok);
            assert_eq!(ask(PV_TIME_FEATURES, PV_TIME_FEATURES), ok);
            let no = Answer::Return(NOT_SUPPORTED);
            assert_eq!(ask(PV_TIME_FEATURES, VERSION), no);
            assert_eq!(ask(PV_TIME_ST, 0), Answer::StolenTime);
            assert_eq!(ask(WORKAROUND_1, 0), Answer::Forward);
            assert_eq!(ask(0x8300_0001, 0), Answer::Forward);
            let workaround = ask(ARCH_FEATURES, WORKAROUND_1);
            let expected = if smccc.keeps_registers() {
                Answer::Forward
            } else {
                no
            };
            assert_eq!(workaround, expected);
        }
    }

    #[test]
    fn the_version_has_features_and_no_hints() {
        for (below, ours) in [
            (0x1_0000, 0x1_0001),
            (0x1_0001, 0x1_0001),
            (0x1_0002, 0x1_0002),
            (0x1_0003, 0x1_0002),
        ] {
            let version = Smccc { below }.call(VERSION, 0);
            assert_eq!(version, Answer::Return(ours));
        }
    }

    #[test]
    fn nanoseconds_are_exact_to_the_last() {
        let day = 86_400;
        for frequency in [1_000_000_000, 62_500_000, 24_000_000, 19_200_000] {
            let ns = Nanoseconds::new(frequency);
            assert_eq!(ns.of(0), 0);
            let far = ns.of(frequency * day * 365);
            let exact = 1_000_000_000 * day * 365;
            assert!(exact - far <= exact >> 31, "{frequency}: {far}");
        }
        assert_eq!(Nanoseconds::new(62_500_000).of(3), 48);
        assert_eq!(Nanoseconds::new(1_000_000_000).of(u64::MAX), u64::MAX);
    }
}
