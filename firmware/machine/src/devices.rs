// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Device interrupts on their way to a vCPU. There are none but where Linux has
//! crashed and its crash kernel runs on a vCPU: the boot core, where vCPUs'
//! device interrupts arrive, runs no Linux any more that could take them.

use crate::list_registers::Full;

/// The most that wait at once. Each interrupt waits once.
const MAX: usize = 128;

/// Interrupts that no list register has yet, the oldest first.
#[derive(Clone, Debug)]
pub struct Devices {
    waiting: [u32; MAX],
    count: usize,
}

impl Devices {
    /// None.
    pub const fn new() -> Self {
        Self {
            waiting: [0; MAX],
            count: 0,
        }
    }

    /// One more, if it doesn't wait already.
    ///
    /// # Errors
    /// There is no room.
    pub fn push(&mut self, intid: u32) -> Result<(), Full> {
        let waiting = self.waiting.iter().take(self.count);
        if waiting.copied().any(|waits| waits == intid) {
            return Ok(());
        }
        let slot = self.waiting.get_mut(self.count).ok_or(Full)?;
        *slot = intid;
        self.count += 1;
        Ok(())
    }

    /// Gives them to `take`, until that has no more room; says whether it had
    /// room for all.
    pub fn drain(&mut self, mut take: impl FnMut(u32) -> Result<(), Full>) -> bool {
        let waiting = self.waiting.iter().take(self.count);
        let taken = waiting.copied().take_while(|&i| take(i).is_ok()).count();
        self.waiting.copy_within(taken..self.count, 0);
        self.count -= taken;
        self.count == 0
    }
}

impl Default for Devices {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn each_waits_once_and_in_order() {
        let mut devices = Devices::new();
        for intid in [40, 8192, 40, 33] {
            devices.push(intid).unwrap();
        }
        let mut got = Vec::new();
        let mut two = |intid| {
            if got.len() == 2 {
                return Err(Full);
            }
            got.push(intid);
            Ok(())
        };
        assert!(!devices.drain(&mut two));
        assert!(!devices.drain(&mut two));
        assert_eq!(got, [40, 8192]);
        devices.push(40).unwrap();
        let mut rest = Vec::new();
        assert!(devices.drain(|intid| {
            rest.push(intid);
            Ok(())
        }));
        assert_eq!(rest, [33, 40]);
        assert!(devices.drain(|_| Err(Full)), "nothing waits");
    }

    #[test]
    fn room_ends() {
        let mut devices = Devices::new();
        for intid in 0..MAX as u32 {
            devices.push(intid).unwrap();
        }
        assert_eq!(devices.push(1000), Err(Full));
        assert_eq!(devices.push(5), Ok(()));
    }
}
