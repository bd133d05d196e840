//! A report as text, Markdown, JSON and HTML.

use crate::{Area, Finding, Report, Severity};
use std::fmt::Write as _;

/// How a report is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// For a terminal.
    #[default]
    Text,
    /// For a ticket or a repository.
    Markdown,
    /// For a program.
    Json,
    /// For a browser: one file, no scripts, nothing loaded.
    Html,
}

impl Report {
    /// Writes it.
    pub fn render(&self, format: Format) -> String {
        match format {
            Format::Text => self.text(),
            Format::Markdown => self.markdown(),
            Format::Json => serde_json::to_string_pretty(self).unwrap_or_default(),
            Format::Html => self.html(),
        }
    }

    fn of(&self, area: Area) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| finding.area == area)
    }

    // Writing to a String can't fail.
    fn text(&self) -> String {
        let mut out = format!(
            "{} on PostgreSQL {}, {}: {:.1} of 10 (looked for {} ms)\n",
            printable(&self.database),
            self.version,
            self.at,
            self.score(),
            self.took_ms
        );
        for area in Area::ALL {
            let _ = writeln!(out, "\n{:<14} {:>4.1}", area.title(), area.score(&self.findings));
            for finding in self.of(area) {
                let _ = writeln!(out, "  [{}] {}", finding.severity.name(), printable(&finding.title));
                let _ = writeln!(out, "      known from: {}", printable(&finding.evidence));
                let _ = writeln!(out, "      fix: {}", printable(&finding.fix));
            }
        }
        if !self.top.is_empty() {
            let _ = writeln!(out, "\nStatements with the most time");
            for s in &self.top {
                let _ = writeln!(
                    out,
                    "  {:>5.1} %  {:>9} calls  {:>9.2} ms  {}",
                    s.share * 100.0,
                    s.calls,
                    s.mean_ms,
                    printable(&s.short(90))
                );
            }
        }
        if !self.outside.is_empty() {
            let _ = writeln!(out, "\nFor the caller, on the server, and between");
            for s in &self.outside {
                let _ = writeln!(
                    out,
                    "  {:>9.2} ms  {:>9.2} ms  {:>9.2} ms  {}",
                    s.client_ms,
                    s.server_ms,
                    s.outside_ms,
                    printable(&s.statement)
                );
            }
        }
        if !self.unseen.is_empty() {
            let _ = writeln!(out, "\nNot seen");
            for what in &self.unseen {
                let _ = writeln!(out, "  {}", printable(what));
            }
        }
        out
    }

    fn markdown(&self) -> String {
        let mut out = format!(
            "# {}: {:.1} of 10\n\nPostgreSQL {}, {}. Looked for {} ms.\n\n| Area | Score | Findings |\n|---|---:|---:|\n",
            inline(&self.database),
            self.score(),
            self.version,
            self.at,
            self.took_ms
        );
        for area in Area::ALL {
            let _ = writeln!(
                out,
                "| {} | {:.1} | {} |",
                area.title(),
                area.score(&self.findings),
                self.of(area).count()
            );
        }
        for area in Area::ALL {
            if self.of(area).next().is_none() {
                continue;
            }
            let _ = writeln!(out, "\n## {}\n", area.title());
            for finding in self.of(area) {
                let _ = writeln!(out, "- **{}**: {}", finding.severity.name(), inline(&finding.title));
                let _ = writeln!(out, "  - Known from: {}", inline(&finding.evidence));
                let _ = writeln!(out, "  - Fix: `{}`", finding.fix.replace(['`', '\n'], " "));
            }
        }
        if !self.top.is_empty() {
            let _ = writeln!(
                out,
                "\n## Statements with the most time\n\n| Share | Calls | Mean | Statement |\n|---:|---:|---:|---|"
            );
            for s in &self.top {
                let _ = writeln!(
                    out,
                    "| {:.1} % | {} | {:.2} ms | {} |",
                    s.share * 100.0,
                    s.calls,
                    s.mean_ms,
                    inline(&s.short(90))
                );
            }
        }
        if !self.outside.is_empty() {
            let _ = writeln!(
                out,
                "\n## For the caller and on the server\n\n| Caller | Server | Between | Statement |\n|---:|---:|---:|---|"
            );
            for s in &self.outside {
                let _ = writeln!(
                    out,
                    "| {:.2} ms | {:.2} ms | {:.2} ms | {} |",
                    s.client_ms,
                    s.server_ms,
                    s.outside_ms,
                    inline(&s.statement)
                );
            }
        }
        if !self.unseen.is_empty() {
            let _ = writeln!(out, "\n## Not seen\n");
            for what in &self.unseen {
                let _ = writeln!(out, "- {}", inline(what));
            }
        }
        out
    }

    fn html(&self) -> String {
        let mut out = format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{name}</title><style>\
             body{{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}}\
             table{{border-collapse:collapse;width:100%}}td,th{{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #d8dee4}}\
             code{{background:#f3f4f6;padding:.1rem .3rem;white-space:pre-wrap;overflow-wrap:anywhere}}\
             article{{border-left:.3rem solid #8c959f;padding:.1rem 1rem;margin:1rem 0}}\
             .warning{{border-color:#bf8700}}.critical{{border-color:#cf222e}}small{{color:#57606a}}</style>\
             <h1>{name}: {:.1} of 10</h1><p><small>PostgreSQL {}, {}. Looked for {} ms.</small></p><table><tr><th>Area<th>Score<th>Findings</tr>",
            self.score(),
            escaped(&self.version),
            escaped(&self.at),
            self.took_ms,
            name = escaped(&self.database),
        );
        for area in Area::ALL {
            let _ = write!(
                out,
                "<tr><td>{}<td>{:.1}<td>{}</tr>",
                area.title(),
                area.score(&self.findings),
                self.of(area).count()
            );
        }
        out.push_str("</table>");
        for area in Area::ALL {
            if self.of(area).next().is_none() {
                continue;
            }
            let _ = write!(out, "<h2>{}</h2>", area.title());
            for f in self.of(area) {
                let _ = write!(
                    out,
                    "<article class=\"{}\"><b>{}</b>: {}<br><small>{}</small><br><code>{}</code></article>",
                    f.severity.name(),
                    f.severity.name(),
                    escaped(&f.title),
                    escaped(&f.evidence),
                    escaped(&f.fix)
                );
            }
        }
        if !self.top.is_empty() {
            out.push_str(
                "<h2>Statements with the most time</h2><table><tr><th>Share<th>Calls<th>Mean<th>Statement</tr>",
            );
            for s in &self.top {
                let _ = write!(
                    out,
                    "<tr><td>{:.1} %<td>{}<td>{:.2} ms<td><code>{}</code></tr>",
                    s.share * 100.0,
                    s.calls,
                    s.mean_ms,
                    escaped(&s.short(120))
                );
            }
            out.push_str("</table>");
        }
        if !self.outside.is_empty() {
            out.push_str(
                "<h2>For the caller and on the server</h2><table><tr><th>Caller<th>Server<th>Between<th>Statement</tr>",
            );
            for s in &self.outside {
                let _ = write!(
                    out,
                    "<tr><td>{:.2} ms<td>{:.2} ms<td>{:.2} ms<td><code>{}</code></tr>",
                    s.client_ms,
                    s.server_ms,
                    s.outside_ms,
                    escaped(&s.statement)
                );
            }
            out.push_str("</table>");
        }
        if !self.unseen.is_empty() {
            out.push_str("<h2>Not seen</h2><ul>");
            for what in &self.unseen {
                let _ = write!(out, "<li>{}", escaped(what));
            }
            out.push_str("</ul>");
        }
        out.push_str("</html>\n");
        out
    }

    /// The exit code of a run: 0 for nothing above info, 1 for warnings, 2 for something critical.
    pub fn exit_code(&self) -> u8 {
        match self.worst() {
            Some(Severity::Critical) => 2,
            Some(Severity::Warning) => 1,
            Some(Severity::Info) | None => 0,
        }
    }
}

/// Names and texts come from the database: none of them may steer a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn inline(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in printable(text).chars() {
        if matches!(c, '|' | '*' | '_' | '`' | '<' | '[' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

fn escaped(text: &str) -> String {
    printable(text)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Snapshot;

    #[test]
    fn every_format_tells_the_same_and_escapes_what_the_database_says() {
        let finding = Finding::new(Area::Health, Severity::Critical, "x", "t")
            .title("<script>alert(1)</script> | \u{1b}[31m")
            .evidence("7 of 9")
            .fix("VACUUM t;");
        let report = Report {
            database: "shop".to_owned(),
            version: "15.0".to_owned(),
            at: "now".to_owned(),
            took_ms: 5,
            findings: vec![finding],
            unseen: vec!["replication: no right".to_owned()],
            advice: Vec::new(),
            top: Vec::new(),
            outside: Vec::new(),
            snapshot: Snapshot::default(),
        };
        for format in [Format::Text, Format::Markdown, Format::Json, Format::Html] {
            let text = report.render(format);
            for word in ["shop", "7 of 9", "VACUUM t;", "replication: no right", "critical"] {
                assert!(text.contains(word), "{format:?} lacks {word}: {text}");
            }
            assert!(!text.contains('\u{1b}'), "{format:?}");
        }
        assert!(!report.render(Format::Html).contains("<script>"));
        assert_eq!(report.exit_code(), 2);
        assert!((Area::Health.score(&report.findings) - 5.0).abs() < 1e-9);
    }
}
