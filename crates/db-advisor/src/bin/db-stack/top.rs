//! `db-stack top`: what the server does, now and since the last look.

use crate::{Top, print};
use anyhow::{Context, Result};
use db_advisor::{Looking, Moment, Workload};
use ratatui::{
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
    layout::Constraint,
    style::Style,
    widgets::{Block, Row, Table},
};
use std::{io::IsTerminal, time::Duration};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::spawn_blocking,
    time::Instant,
};

/// How long a key may go unnoticed once the view has to end.
const POLL: Duration = Duration::from_millis(100);

pub(crate) async fn run(args: Top) -> Result<u8> {
    let mut looking = Looking::connect(&args.target.url).await?;
    let mut moment = Moment::look(&mut looking).await?;
    if args.once || !std::io::stdout().is_terminal() {
        print(&as_text(&moment))?;
        looking.close().await;
        return Ok(0);
    }
    let mut ends = Ends::watch()?;
    let mut terminal = ratatui::try_init().context("no terminal; --once prints text")?;
    let mut before: Option<Workload> = None;
    let outcome = async {
        loop {
            terminal.draw(|frame| draw(frame, &moment, before.as_ref()))?;
            match ends.within(args.every).await? {
                Next::Leave => return Ok(0),
                Next::Draw => continue,
                Next::Look => {}
            }
            before = moment.workload.take();
            moment = Moment::look(&mut looking).await?;
        }
    }
    .await;
    ratatui::restore();
    looking.close().await;
    outcome
}

enum Next {
    Leave,
    /// The window has another size.
    Draw,
    Look,
}

/// What ends the view: a key, or a signal from outside, after which the terminal must be as it was.
struct Ends {
    interrupt: Signal,
    terminate: Signal,
}

impl Ends {
    fn watch() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn within(&mut self, every: Duration) -> Result<Next> {
        let until = Instant::now() + every;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Next::Look);
            }
            let wait = left.min(POLL);
            let key = spawn_blocking(move || event::poll(wait)?.then(event::read).transpose());
            let event = tokio::select! {
                _ = self.interrupt.recv() => return Ok(Next::Leave),
                _ = self.terminate.recv() => return Ok(Next::Leave),
                event = key => event??,
            };
            match event {
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                    let control = key.modifiers.contains(KeyModifiers::CONTROL);
                    match key.code {
                        KeyCode::Char('q') | KeyCode::Esc => return Ok(Next::Leave),
                        // In the raw mode the terminal sends no signal for it.
                        KeyCode::Char('c') if control => return Ok(Next::Leave),
                        _ => {}
                    }
                }
                Some(Event::Resize(..)) => return Ok(Next::Draw),
                _ => {}
            }
        }
    }
}

fn as_text(moment: &Moment) -> String {
    let [active, in_transaction, idle] = moment.counts;
    let mut out = format!("{active} active, {in_transaction} idle in transaction, {idle} idle\n");
    for session in &moment.active {
        out.push_str(&format!(
            "{:>8} {:<12} {:<20} {:>8.1} s  {:<24} {}\n",
            session.pid, session.user, session.state, session.seconds, session.wait, session.query
        ));
    }
    out
}

fn draw(frame: &mut ratatui::Frame<'_>, moment: &Moment, before: Option<&Workload>) {
    use ratatui::layout::Layout;
    let [upper, lower] = Layout::vertical([Constraint::Fill(1), Constraint::Fill(1)]).areas(frame.area());
    let [active, in_transaction, idle] = moment.counts;
    let sessions = moment.active.iter().map(|s| {
        let blockers = s
            .blocked_by
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(",");
        Row::new([
            s.pid.to_string(),
            s.user.clone(),
            s.state.clone(),
            format!("{:.1} s", s.seconds),
            s.wait.clone(),
            blockers,
            s.query.clone(),
        ])
    });
    let widths = [8, 12, 20, 10, 24, 12]
        .map(Constraint::Length)
        .into_iter()
        .chain([Constraint::Fill(1)]);
    let head = Row::new(["pid", "user", "state", "since", "waits for", "blocked by", "statement"]);
    let title = format!(" {active} active, {in_transaction} idle in transaction, {idle} idle; q ends it ");
    frame.render_widget(
        Table::new(sessions, widths)
            .header(head.style(Style::new().bold()))
            .block(Block::bordered().title(title)),
        upper,
    );
    let latest = match (&moment.workload, before) {
        (Some(now), Some(before)) => now.since(before).statements,
        (Some(now), None) => now.statements.clone(),
        (None, _) => Vec::new(),
    };
    let statements = latest.iter().take(50).map(|s| {
        Row::new([
            format!("{:.1} %", s.share * 100.0),
            s.calls.to_string(),
            format!("{:.2} ms", s.mean_ms),
            s.short(200),
        ])
    });
    let widths = [8, 10, 12]
        .map(Constraint::Length)
        .into_iter()
        .chain([Constraint::Fill(1)]);
    frame.render_widget(
        Table::new(statements, widths)
            .header(Row::new(["share", "calls", "mean", "statement"]).style(Style::new().bold()))
            .block(Block::bordered().title(" statements since the last look ")),
        lower,
    );
}
