// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The report's plots, as SVG.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use taichi_guest::report::{Doing, Forwarder};

use super::summary::{Comparison, Summary};

const SIZE: (u32, u32) = (720, 340);
const STILL: RGBColor = RGBColor(0x8a, 0x94, 0xa6);
const LENDING: RGBColor = RGBColor(0x0f, 0x9d, 0x8a);
const BUSY: RGBColor = RGBColor(0x3b, 0x6f, 0xd4);
const POLLING: RGBColor = RGBColor(0xdf, 0xe3, 0xea);
const INK: RGBColor = RGBColor(0x2b, 0x31, 0x3d);
const FONT: &str = "system-ui, sans-serif";

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// How many CP tasks had finished by when.
///
/// # Errors
/// A plot can't be drawn.
pub fn finished(all: &Comparison) -> Result<String> {
    let last = all.still.completion_ns.max(all.lending.completion_ns) as f64 / 1e6;
    let tasks = all.still.nic.cp.tasks;
    svg(SIZE, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..last * 1.03, 0..tasks + 1)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_desc("ms of core time")
            .y_desc("CP tasks finished")
            .label_style((FONT, 13, &INK))
            .draw()
            .map_err(failed)?;
        for (one, colour) in [(&all.still, STILL), (&all.lending, LENDING)] {
            let series = LineSeries::new(steps(one), colour.stroke_width(3));
            chart
                .draw_series(series)
                .map_err(failed)?
                .label(one.name)
                .legend(move |(x, y)| {
                    Rectangle::new([(x, y - 4), (x + 14, y + 4)], colour.filled())
                });
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(TRANSPARENT)
            .label_font((FONT, 14, &INK))
            .draw()
            .map_err(failed)
    })
}

/// Tasks finished over time, as a staircase.
fn steps(one: &Summary) -> Vec<(f64, usize)> {
    let ends = one.nic.cp.finished_ns.iter().map(|&ns| ns as f64 / 1e6);
    let corners = ends.enumerate().flat_map(|(n, ms)| [(ms, n), (ms, n + 1)]);
    [(0.0, 0)].into_iter().chain(corners).collect()
}

/// DP latency by quantile, with ever more nines to the right.
///
/// # Errors
/// A plot can't be drawn.
pub fn latency(all: &Comparison) -> Result<String> {
    const NINES: f64 = 4.0;
    let quantile = |nines: f64| 1.0 - 10f64.powf(-nines);
    let top = |s: &Summary| s.latency_us(quantile(NINES));
    let most = top(&all.still).max(top(&all.lending)) * 1.08;
    svg(SIZE, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(12)
            // Half of the last label.
            .margin_right(32)
            .x_label_area_size(44)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..NINES, 0.0..most)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_labels(5)
            .x_label_formatter(&|nines| format!("{}%", quantile(*nines) * 100.0))
            .x_desc("share of packets that are faster")
            .y_desc("us of core time")
            .label_style((FONT, 13, &INK))
            .draw()
            .map_err(failed)?;
        for (one, colour) in [(&all.still, STILL), (&all.lending, LENDING)] {
            let points = (0..=200).map(|n| {
                let nines = f64::from(n) / 200.0 * NINES;
                (nines, one.latency_us(quantile(nines)))
            });
            chart
                .draw_series(LineSeries::new(points, colour.stroke_width(3)))
                .map_err(failed)?
                .label(one.name)
                .legend(move |(x, y)| {
                    Rectangle::new([(x, y - 4), (x + 14, y + 4)], colour.filled())
                });
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(TRANSPARENT)
            .label_font((FONT, 14, &INK))
            .draw()
            .map_err(failed)
    })
}

/// What each DP core did in a millisecond: packets, empty polls, lent.
///
/// # Errors
/// A plot can't be drawn.
pub fn timeline(one: &Summary) -> Result<String> {
    const WINDOW_US: f64 = 1_000.0;
    let time = one.nic.time();
    let us = |ticks: u64| time.ns(ticks) as f64 / 1e3;
    let cores = &one.nic.forwarders;
    let first = cores
        .iter()
        .filter_map(|f| f.timeline.first())
        .map(|m| m.at)
        .min();
    let from = us(first.unwrap_or(0));
    let rows = i32::try_from(cores.len())?;
    svg((720, 60 + 34 * u32::try_from(rows)?), |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .x_label_area_size(40)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..WINDOW_US, 0..rows)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .disable_mesh()
            .disable_y_axis()
            .x_desc("us of core time")
            .label_style((FONT, 13, &INK))
            .draw()
            .map_err(failed)?;
        for (row, core) in (0..).zip(cores) {
            let bars = pieces(core).filter_map(|(at, until, doing)| {
                let (x0, x1) = (us(at) - from, (us(until) - from).min(WINDOW_US));
                let bar =
                    Rectangle::new([(x0.max(0.0), row), (x1, row + 1)], colour(doing).filled());
                (x1 > x0.max(0.0)).then_some(bar)
            });
            let mut bars: Vec<_> = bars.collect();
            for bar in &mut bars {
                bar.set_margin(4, 4, 0, 0);
            }
            chart.draw_series(bars).map_err(failed)?;
            let (x, y) = chart.backend_coord(&(0.0, row));
            let name = format!("core {}", core.cpu);
            let style = (FONT, 13, &INK).into_text_style(area);
            area.draw_text(&name, &style, (x - 52, y - 24))
                .map_err(failed)?;
        }
        Ok(())
    })
}

/// Stretches of a core's picture: from, until, doing.
fn pieces(core: &Forwarder) -> impl Iterator<Item = (u64, u64, Doing)> {
    let mut moments = core.timeline.clone();
    moments.sort_by_key(|m| m.at);
    let next: Vec<u64> = moments.iter().skip(1).map(|m| m.at).collect();
    moments
        .into_iter()
        .zip(next)
        .map(|(m, until)| (m.at, until, m.doing))
}

fn colour(doing: Doing) -> RGBColor {
    match doing {
        Doing::Busy => BUSY,
        Doing::Idle => POLLING,
        Doing::Lent => LENDING,
    }
}

/// Where the time of the DP cores went, a bar for each guest.
///
/// # Errors
/// A plot can't be drawn.
pub fn shares(all: &Comparison) -> Result<String> {
    svg((720, 150), |area| {
        let style = (FONT, 14, &INK).into_text_style(area);
        for (row, one) in (0..).zip([&all.still, &all.lending]) {
            let y = 14 + row * 66;
            area.draw_text(one.name, &style, (12, y + 12))
                .map_err(failed)?;
            let lent = one.idle * one.harvest;
            let parts = [
                (1.0 - one.idle, BUSY, "packets"),
                (lent, LENDING, "lent to vCPUs"),
                (one.idle - lent, POLLING, "empty polls"),
            ];
            let mut x = 130;
            for (share, colour, what) in parts {
                let width = (share * 570.0).round() as i32;
                let bar = Rectangle::new([(x, y), (x + width, y + 40)], colour.filled());
                area.draw(&bar).map_err(failed)?;
                if width > 90 {
                    let ink = if colour == POLLING { INK } else { WHITE };
                    let style = (FONT, 13, &ink).into_text_style(area);
                    let text = format!("{what} {:.0}%", share * 100.0);
                    area.draw_text(&text, &style, (x + 8, y + 13))
                        .map_err(failed)?;
                }
                x += width;
            }
        }
        Ok(())
    })
}

/// Draws into a string.
fn svg(size: (u32, u32), draw: impl FnOnce(&Area) -> Result<()>) -> Result<String> {
    let mut out = String::new();
    {
        let area = SVGBackend::with_string(&mut out, size).into_drawing_area();
        draw(&area)?;
        area.present().map_err(failed)?;
    }
    Ok(out)
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("a plot: {error}")
}
