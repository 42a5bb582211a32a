// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The numbers of both guests side by side.

use std::fmt::{self, Write as _};

use anyhow::Result;
use hdrhistogram::Histogram;
use taichi_guest::report::{Latencies, SmartNic};

use super::scene::{Scene, Settings};

/// What one guest showed. Times are core time.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Its name.
    pub name: &'static str,
    /// How to run it again.
    pub command: String,
    /// From the first CP task's start to the last one's end, in ns.
    pub completion_ns: u64,
    /// Arrival to done of all packets, in ticks.
    pub latency: Histogram<u64>,
    /// Share of the DP cores' time without a packet in hand.
    pub idle: f64,
    /// Share of that time that vCPUs had.
    pub harvest: f64,
    /// The metronome's tick in us of core time: the error of a latency.
    pub tick_us: f64,
    /// All the rest.
    pub nic: SmartNic,
}

impl Summary {
    fn new(settings: &Settings, scene: &Scene, nic: SmartNic) -> Result<Self> {
        let total: u64 = nic.forwarders.iter().map(|f| f.total_ticks).sum();
        let idle: u64 = nic.forwarders.iter().map(|f| f.idle_ticks).sum();
        let lent: u64 = nic.forwarders.iter().map(|f| f.lent_ticks).sum();
        Ok(Self {
            name: scene.name,
            command: scene.shell_command(),
            completion_ns: nic.cp.completion_ns,
            latency: Latencies::merge(nic.forwarders.iter().map(|f| &f.latency))?,
            idle: share(idle, total),
            harvest: share(lent, idle),
            tick_us: f64::from(settings.tick) / nic.scale,
            nic,
        })
    }

    /// A quantile of the DP latency, in us.
    pub fn latency_us(&self, quantile: f64) -> f64 {
        self.nic.time().ns(self.latency.value_at_quantile(quantile)) as f64 / 1e3
    }

    /// CP completion time, in ms.
    pub fn completion_ms(&self) -> f64 {
        self.completion_ns as f64 / 1e6
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

/// Both guests.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// What was chosen.
    pub settings: Settings,
    /// Static partition.
    pub still: Summary,
    /// Ours.
    pub lending: Summary,
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What it is, with its unit.
    pub label: String,
    /// Static partition.
    pub still: String,
    /// Ours.
    pub lending: String,
    /// Ours by static, where that means something.
    pub ratio: String,
}

impl Comparison {
    /// From the reports of both guests.
    ///
    /// # Errors
    /// A report is damaged.
    pub fn new(
        settings: &Settings,
        still: (&Scene, SmartNic),
        lending: (&Scene, SmartNic),
    ) -> Result<Self> {
        Ok(Self {
            settings: settings.clone(),
            still: Summary::new(settings, still.0, still.1)?,
            lending: Summary::new(settings, lending.0, lending.1)?,
        })
    }

    /// How many times faster the CP tasks are done.
    pub fn speed_up(&self) -> f64 {
        self.still.completion_ns as f64 / self.lending.completion_ns as f64
    }

    /// What was run, in a sentence.
    pub fn headline(&self) -> String {
        let s = &self.settings;
        format!(
            "4 DP cores at {:.0}% load, 2 CP cores, 1 accelerator core, {} CP tasks; {} vCPUs or none; \
             Debian's kernel {}",
            s.load * 100.0,
            s.tasks,
            s.vcpus,
            s.kernel
        )
    }

    /// The table's lines.
    pub fn rows(&self) -> Vec<Row> {
        let number = |label: &str, digits, of: &dyn Fn(&Summary) -> f64| {
            let (still, lending) = (of(&self.still), of(&self.lending));
            Row {
                label: label.to_owned(),
                still: format!("{still:.digits$}"),
                lending: format!("{lending:.digits$}"),
                ratio: format!("{:.3}", lending / still),
            }
        };
        let plain = |label: &str, of: &dyn Fn(&Summary) -> String| Row {
            label: label.to_owned(),
            still: of(&self.still),
            lending: of(&self.lending),
            ratio: String::new(),
        };
        let percent = |x: f64| format!("{:.1}%", x * 100.0);
        vec![
            number("CP completion time, ms", 1, &Summary::completion_ms),
            number("DP latency p50, us", 2, &|s| s.latency_us(0.5)),
            number("DP latency p99, us", 2, &|s| s.latency_us(0.99)),
            number("DP latency p99.9, us", 2, &|s| s.latency_us(0.999)),
            plain("  tick of these, us", &|s| format!("{:.2}", s.tick_us)),
            plain("DP cores idle", &|s| percent(s.idle)),
            plain("  of that given to vCPUs (harvest)", &|s| {
                percent(s.harvest)
            }),
            plain("packets", &|s| s.latency.len().to_string()),
            plain("lends", &|s| {
                s.nic
                    .forwarders
                    .iter()
                    .map(|f| f.lends)
                    .sum::<u64>()
                    .to_string()
            }),
            plain("probes when packets arrive / later", &|s| {
                let a = &s.nic.accelerator;
                format!("{} / {}", a.probes_early, a.probes_late)
            }),
            plain("virtual time by core time", &|s| {
                format!("{:.3}", s.nic.scale)
            }),
        ]
    }
}

impl fmt::Display for Comparison {
    /// The table.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (still, lending) = (self.still.name, self.lending.name);
        let mut out = format!(
            "{}\n\n{:<36}{still:>18}{lending:>14}{:>8}\n",
            self.headline(),
            "",
            "ratio"
        );
        for Row {
            label,
            still,
            lending,
            ratio,
        } in self.rows()
        {
            let line = format!("{label:<36}{still:>18}{lending:>14}{ratio:>8}");
            writeln!(out, "{}", line.trim_end())?;
        }
        writeln!(
            out,
            "\nCP tasks are done {:.2} times as fast.",
            self.speed_up()
        )?;
        f.write_str(&out)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use taichi_guest::report::{Accelerator, CpWork, Doing, Forwarder, Moment};

    use super::*;

    /// A report with one DP core; `lent` of its 600 idle ticks were lent.
    fn nic(completion_ns: u64, lent_ticks: u64) -> SmartNic {
        let moment = |at, doing| Moment { at, doing };
        let forwarder = Forwarder {
            cpu: 2,
            packets: 100,
            disorder: 0,
            latency: Latencies(vec![(1_000, 99), (5_000, 1)]),
            total_ticks: 1_000,
            idle_ticks: 600,
            service_instructions: 100_000,
            service_ticks: 12_500,
            empty_polls: 10,
            yields: 3,
            reasons: [0, 1, 0, 2, 0, 0],
            lent_ticks,
            lends: 3,
            timeline: vec![
                moment(10, Doing::Busy),
                moment(20, Doing::Idle),
                moment(30, Doing::Lent),
            ],
        };
        SmartNic {
            hz: 62_500_000,
            scale: 2.0,
            measured_scale: 2.0,
            firmware: true,
            accelerator: Accelerator::default(),
            forwarders: vec![forwarder],
            cp: CpWork {
                tasks: 2,
                rounds: 1,
                completion_ns,
                finished_ns: vec![completion_ns / 2, completion_ns],
                rounds_by_cpu: BTreeMap::from([(0, 2)]),
                ..CpWork::default()
            },
        }
    }

    pub fn comparison() -> Comparison {
        let settings = Settings::default();
        let (still, lending) = (settings.still(), settings.lending());
        let reports = (nic(3_000_000, 0), nic(2_000_000, 450));
        Comparison::new(&settings, (&still, reports.0), (&lending, reports.1)).unwrap()
    }

    #[test]
    fn the_table_says_what_the_reports_say() {
        let table = comparison().to_string();
        let row = |label: &str| {
            let line = table.lines().find(|l| l.starts_with(label));
            let words = line.unwrap_or_else(|| panic!("{label}:\n{table}"));
            words[label.len()..]
                .split_whitespace()
                .map(String::from)
                .collect::<Vec<_>>()
        };
        assert_eq!(row("CP completion time, ms"), ["3.0", "2.0", "0.667"]);
        assert_eq!(
            row("DP latency p50, us"),
            ["8.00", "8.00", "1.000"],
            "1000 x 16 ns / 2"
        );
        assert_eq!(
            row("DP latency p99.9, us"),
            ["40.02", "40.02", "1.000"],
            "three digits are exact"
        );
        assert_eq!(row("  tick of these, us"), ["10.00", "10.00"], "20 us / 2");
        assert_eq!(row("DP cores idle"), ["60.0%", "60.0%"]);
        assert_eq!(row("  of that given to vCPUs (harvest)"), ["0.0%", "75.0%"]);
        assert!(
            table.ends_with("CP tasks are done 1.50 times as fast.\n"),
            "{table}"
        );
    }
}
