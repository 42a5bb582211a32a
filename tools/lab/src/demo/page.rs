// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The HTML report: one file, nothing fetched.

use anyhow::Result;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::plots;
use super::summary::Comparison;

const STYLE: &str = include_str!("page.css");

/// The whole page.
///
/// # Errors
/// A plot can't be drawn.
pub fn html(all: &Comparison) -> Result<String> {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Tai Chi: a static partition against lent cores" }
                style { (PreEscaped(STYLE)) }
            }
            body { main {
                h1 { "Tai Chi" span { "a static partition against lent cores" } }
                p.lead { (all.headline()) "." }
                (figures(all))
                h2 { "In numbers" }
                (table(all))
                h2 { "CP tasks" }
                (plot(&plots::finished(all)?))
                h2 { "DP latency" }
                (plot(&plots::latency(all)?))
                h2 { "Where the DP cores' time goes" }
                (plot(&plots::shares(all)?))
                h2 { "A millisecond of it" }
                (legend())
                h3 { (all.still.name) }
                (plot(&plots::timeline(&all.still)?))
                h3 { (all.lending.name) }
                (plot(&plots::timeline(&all.lending)?))
                h2 { "What the numbers mean" }
                (meaning(all))
                h2 { "Run it again" }
                p { "Every run gives the same numbers, to the byte. Both guests and this page:" }
                pre { (demo_command(all)) }
                p { "Each guest's report as JSON, which holds every number above:" }
                pre { (all.still.command) }
                pre { (all.lending.command) }
            } }
        }
    };
    Ok(page.into_string())
}

fn figures(all: &Comparison) -> Markup {
    let p99 = all.lending.latency_us(0.99) / all.still.latency_us(0.99) - 1.0;
    html! {
        div.figures {
            div { b { (format!("{:.2}x", all.speed_up())) } "CP tasks done faster" }
            div { b { (format!("{:+.1}%", p99 * 100.0)) } "DP latency, p99" }
            div { b { (format!("{:.0}%", all.lending.harvest * 100.0)) } "of DP idle time used" }
        }
    }
}

fn table(all: &Comparison) -> Markup {
    html! {
        table {
            thead { tr { th {} th { (all.still.name) } th { (all.lending.name) } th { "ratio" } } }
            tbody {
                @for row in all.rows() {
                    tr {
                        td class=@if row.label.starts_with(' ') { "sub" } { (row.label.trim()) }
                        td { (row.still) } td { (row.lending) } td { (row.ratio) }
                    }
                }
            }
        }
    }
}

fn legend() -> Markup {
    html! {
        p.legend {
            span.busy {} "packets in hand" span.polling {} "empty polls" span.lent {} "lent to a vCPU"
        }
    }
}

fn meaning(all: &Comparison) -> Markup {
    html! {
        ul {
            li { "Times are core time: 1 ns is one instruction of a DP core. There are no caches, no \
                  TLB misses and no pipeline in it, so ratios mean something and microseconds of \
                  silicon don't." }
            li { "QEMU runs the cores in turn; one sees another's stores "
                 (format!("{:.1} us late at most (tick {} us of virtual time).",
                          all.still.tick_us.max(all.lending.tick_us), all.settings.tick))
                 " That is the error of every latency." }
            li { "Cores that wait for a lock or invalidate TLBs give up their turn, so virtual time \
                  by core time differs between the two guests. It is measured on the DP cores, in a \
                  first run of the same work, and is checked afterwards." }
            li { "Packets arrive in bursts of 16, Poisson, whatever the machine does; the \
                  accelerator needs 3.2 us before the DP core sees them. Latency is arrival to done." }
            li { "Harvest is what the firmware lent of the time in which a DP core had no packet." }
        }
    }
}

fn plot(svg: &str) -> Markup {
    html! { figure { (PreEscaped(svg)) } }
}

fn demo_command(all: &Comparison) -> String {
    let s = &all.settings;
    format!(
        "taichi demo --kernel {} --tick {} --vcpus {} --load {} --tasks {} --rounds {} --seed {}",
        s.kernel, s.tick, s.vcpus, s.load, s.tasks, s.rounds, s.seed
    )
}

#[cfg(test)]
mod tests {
    use super::super::summary::tests::comparison;
    use super::*;

    #[test]
    fn the_page_is_whole_and_fetches_nothing() {
        let all = comparison();
        let page = html(&all).unwrap();
        assert_eq!(page.matches("<svg").count(), 5);
        for row in all.rows() {
            assert!(page.contains(row.label.trim()), "{}", row.label);
        }
        for fetch in ["src=", "href=", "url(", "@import", "<script"] {
            assert!(!page.contains(fetch), "{fetch} would need a network");
        }
        assert_eq!(
            page,
            html(&all).unwrap(),
            "the same numbers, the same bytes"
        );
    }

    #[test]
    fn the_page_names_the_commands_that_made_it() {
        let all = comparison();
        let page = html(&all).unwrap();
        assert!(page.contains("taichi demo --kernel 6.1 --tick 20 --vcpus 4 --load 0.3"));
        assert!(page.contains("--cp 0,3,7-10"));
    }
}
