// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The smallest poller: nothing ever arrives, so the core is lent whenever a
//! vCPU wants it. Usage: `poller [POLLS]`, pinned to a DP core (`taskset -c`).

use std::error::Error;

use taichi_dataplane::Yielder;

/// Where a real program looks at its receive queues.
fn take_packets() -> usize {
    0
}

fn main() -> Result<(), Box<dyn Error>> {
    let polls: u64 = std::env::args()
        .nth(1)
        .map_or(Ok(1_000_000), |n| n.parse())?;
    let mut yielder = Yielder::open()?;
    if yielder.is_inert() {
        println!("no firmware: never yields");
    }
    for _ in 0..polls {
        let packets = take_packets();
        yielder.poll(packets > 0);
    }
    let stats = yielder.stats();
    println!(
        "{polls} polls, {} yields, by reason {:?}",
        stats.yields, stats.reasons
    );
    Ok(())
}
