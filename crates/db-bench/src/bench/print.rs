//! The report for a reader and for a script.

use super::{
    report::{Kind, Report},
    sample::{Sample, Spread},
    subject::Subject,
};
use clap::ValueEnum;
use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};

/// One rule below the header: figures are read down a column.
const STYLE: TableStyle = TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// A table whose first column is a name and whose others are figures.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(STYLE).set_header(header.to_vec());
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// One table per cell: medians over the rounds, extremes in brackets.
pub(crate) fn cells(report: &Report) {
    println!(
        "\nPostgreSQL {}, {} rounds of {} s for each subject in turn: median (lowest..highest round)",
        report.server, report.rounds, report.seconds
    );
    for (scenario, setting) in report.cells() {
        println!("\n{scenario} {setting}");
        let mut table = table(&["", "calls/s", "p50", "p99", "p99.9", "own CPU/call"]);
        for subject in Subject::value_variants() {
            let samples: Vec<&Sample> = report
                .samples(&scenario, setting, subject.name())
                .map(|one| &one.sample)
                .collect();
            if samples.is_empty() {
                continue;
            }
            let spread = |value: fn(&Sample) -> f64, show: fn(f64) -> String| {
                Spread::of(samples.iter().map(|sample| value(sample))).map_or_else(String::new, |s| bracketed(s, show))
            };
            table.add_row([
                subject.name().to_owned(),
                spread(|sample| sample.throughput, rate),
                spread(|sample| sample.p50 as f64, time),
                spread(|sample| sample.p99 as f64, time),
                spread(|sample| sample.p999 as f64, time),
                spread(|sample| sample.cpu.map_or(f64::NAN, |nanos| nanos as f64), micros),
            ]);
        }
        println!("{table}");
    }
}

/// The ratios with their spread, then one line each for scripts.
pub(crate) fn ratios(report: &Report) {
    let mut throughput = table(&["throughput, more is better", "ratio", "lowest..highest", "rounds"]);
    let mut latency = table(&["p99 latency, less is better", "ratio", "lowest..highest", "rounds"]);
    for ratio in &report.ratios {
        let to = match ratio.kind {
            Kind::Throughput => &mut throughput,
            Kind::P99 => &mut latency,
        };
        to.add_row([
            format!("{}/{} {} {}", ratio.subject, ratio.peer, ratio.scenario, ratio.setting),
            format!("{:.2}", ratio.rounds.median),
            format!("{:.2}..{:.2}", ratio.rounds.min, ratio.rounds.max),
            ratio.rounds.count.to_string(),
        ]);
    }
    println!("\n{throughput}\n\n{latency}\n");
    for ratio in &report.ratios {
        println!("{} {:.3}", ratio.key(), ratio.rounds.median);
    }
}

/// How the ratios changed since an earlier run.
pub(crate) fn changes(report: &Report, baseline: &Report) {
    let mut table = table(&["against the baseline", "then", "now", "change"]);
    for ratio in &report.ratios {
        let now = ratio.rounds.median;
        let (then, change) = match baseline.ratio(&ratio.key()) {
            Some(then) => {
                let then = then.rounds.median;
                (format!("{then:.2}"), format!("{:+.1} %", (now / then - 1.0) * 100.0))
            }
            None => ("-".to_owned(), "new".to_owned()),
        };
        table.add_row([ratio.key(), then, format!("{now:.2}"), change]);
    }
    println!("\n{table}");
}

fn bracketed(spread: Spread, show: fn(f64) -> String) -> String {
    format!("{} ({}..{})", show(spread.median), show(spread.min), show(spread.max))
}

fn rate(calls: f64) -> String {
    if calls >= 10_000.0 {
        format!("{:.1} k", calls / 1e3)
    } else {
        format!("{calls:.0}")
    }
}

/// Nanoseconds, to a tenth of a microsecond.
fn micros(nanos: f64) -> String {
    format!("{:.1} us", nanos / 1e3)
}

/// Nanoseconds with a unit.
fn time(nanos: f64) -> String {
    if nanos >= 1e6 {
        format!("{:.2} ms", nanos / 1e6)
    } else {
        format!("{:.0} us", nanos / 1e3)
    }
}
