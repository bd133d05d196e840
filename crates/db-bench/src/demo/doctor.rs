//! What the doctor says of the database that the workload leaves behind.

use anyhow::Context;
use comfy_table::{CellAlignment, Table};
use db_advisor::{Area, ClientLoad, DoctorOptions, Looking, Report, Severity, doctor};
use db_stack::StatementStats;
use db_testkit::Postgres;

use crate::demo::report;

/// Statements that both sides have measured.
const BOTH_SIDES: usize = 3;

/// Looks at it, with the client's own figures beside the server's.
pub(crate) async fn visit(server: &Postgres, client: &StatementStats) -> anyhow::Result<Report> {
    // Where the server has the extension it has been loaded; without, the report says so.
    let mut admin = server.admin().await?;
    let _ = sqlx::query("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        .execute(&mut admin)
        .await;
    let mut options = DoctorOptions::default();
    options.pool = Some(super::CONNECTIONS);
    options.client = ClientLoad::from_json(&serde_json::to_string(client)?)?;
    let mut looking = Looking::connect(&server.url()).await?;
    let report = doctor(&mut looking, &options, None).await.context("the doctor")?;
    looking.close().await;
    Ok(report)
}

/// A row for each area, and the statements that cost their callers more than the server.
pub(crate) fn tables(report: &Report) -> Vec<Table> {
    let head = format!("the doctor, after {} ms", report.took_ms);
    let mut areas = report::table([&head, "of 10", "what to do something about"]);
    for area in Area::ALL {
        let findings = report.findings.iter();
        let told = findings.filter(|finding| finding.area == area && finding.severity > Severity::Info);
        let mut titles: Vec<_> = told.map(|finding| finding.title.as_str()).collect();
        // One for each line of pg_hba.conf, for example.
        titles.dedup();
        areas.add_row([
            area.title().to_owned(),
            format!("{:.0}", area.score(&report.findings)),
            titles.join("\n"),
        ]);
    }
    if let Some(told) = areas.column_mut(2) {
        told.set_cell_alignment(CellAlignment::Left);
    }
    let mut both = report::table(["statement", "calls", "for the caller", "on the server"]);
    for one in report.outside.iter().take(BOTH_SIDES) {
        let text: String = one.statement.chars().take(60).collect();
        let ms = |ms: f64| format!("{ms:.2} ms");
        both.add_row([text, one.calls.to_string(), ms(one.client_ms), ms(one.server_ms)]);
    }
    let shown = !report.outside.is_empty();
    [Some(areas), shown.then_some(both)].into_iter().flatten().collect()
}
