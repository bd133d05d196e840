//! The command `db-stack`.

mod top;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use db_advisor::{
    ClientLoad, DoctorOptions, ExplainConfig, Explainer, Format, Looking, PoolerLoad, Report, Snapshot, doctor, migrate,
};
use sqlx::{Connection, PgConnection};
use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

/// What could not be done, as against what was found.
const FAILED: u8 = 3;

#[derive(Debug, Parser)]
#[command(
    name = "db-stack",
    version,
    about = "Looks at a PostgreSQL database and says what to do"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A report on the whole database. Reads only. Exit code 0: fine, 1: warnings, 2: critical, 3: could not look.
    Doctor(Doctor),
    /// Sessions, waits and statements, live; q or Ctrl-C ends it. Without a terminal: one look, as text.
    Top(Top),
    /// The plan of a statement and what it says. Runs nothing unless --analyze, and that only for proven reads.
    Explain(Explain),
    /// Only the advice on indexes.
    Indexes(Indexes),
    /// Writes a pgbouncer.ini for a load.
    PgbouncerConfig(Pooler),
    /// Installs the stack's own tables, functions and triggers into a schema of their own, or takes them down.
    Migrate(Migrate),
}

#[derive(Debug, clap::Args)]
struct Target {
    /// postgres://user@host:port/database. Better in the environment than on the command line, which others can read.
    #[arg(env = "DATABASE_URL", hide_env_values = true)]
    url: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Text,
    Markdown,
    Json,
    Html,
}

impl From<Output> for Format {
    fn from(output: Output) -> Self {
        match output {
            Output::Text => Self::Text,
            Output::Markdown => Self::Markdown,
            Output::Json => Self::Json,
            Output::Html => Self::Html,
        }
    }
}

#[derive(Debug, clap::Args)]
struct Doctor {
    #[command(flatten)]
    target: Target,
    /// How the report is written.
    #[arg(long, value_enum, default_value = "text")]
    format: Output,
    /// Compares with the last visit, which left this file, and leaves it for the next one.
    #[arg(long, value_name = "FILE")]
    snapshot: Option<PathBuf>,
    /// A session that idles in a transaction for longer is told.
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    idle_in_transaction: Duration,
    /// A statement with a longer mean is slow.
    #[arg(long, default_value = "100ms", value_parser = humantime::parse_duration)]
    slow: Duration,
    /// Statements whose plan is looked at.
    #[arg(long, default_value_t = 20)]
    explain: u32,
    /// The client's own figures, a JSON file: `db.statements()` of the stack, written out. `-` is standard input.
    #[arg(long, value_name = "FILE")]
    client: Option<PathBuf>,
    /// Connections of one instance's pool.
    #[arg(long)]
    pool: Option<u32>,
    /// Instances with such a pool.
    #[arg(long, default_value_t = 1)]
    instances: u32,
}

#[derive(Debug, clap::Args)]
struct Top {
    #[command(flatten)]
    target: Target,
    /// The time between two looks.
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    every: Duration,
    /// Prints one look as text and ends.
    #[arg(long)]
    once: bool,
}

#[derive(Debug, clap::Args)]
struct Explain {
    #[command(flatten)]
    target: Target,
    /// The statement; `-` or none: from standard input.
    sql: Option<String>,
    /// Runs it, if it is proven to only read.
    #[arg(long)]
    analyze: bool,
    /// Plans a statement that would write. It is not run; planning takes ROW EXCLUSIVE on its tables.
    #[arg(long)]
    writes: bool,
}

#[derive(Debug, clap::Args)]
struct Indexes {
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, clap::Args)]
struct Pooler {
    /// The database.
    database: String,
    /// The server's host.
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// The server's port.
    #[arg(long, default_value_t = 5432)]
    port: u16,
    /// Connections of all clients together.
    #[arg(long, default_value_t = 1000)]
    clients: u32,
    /// Transactions a second.
    #[arg(long, default_value_t = 1000.0)]
    per_second: f64,
    /// How long one holds its connection, milliseconds.
    #[arg(long, default_value_t = 5.0)]
    transaction_ms: f64,
    /// max_connections of the server.
    #[arg(long, default_value_t = 100)]
    server_connections: u32,
    /// Cores of the server.
    #[arg(long, default_value_t = 4)]
    cores: u32,
    /// Where the pooler listens.
    #[arg(long, default_value = "127.0.0.1")]
    listen_addr: String,
    /// Where the pooler listens.
    #[arg(long, default_value_t = 6432)]
    listen_port: u16,
    /// Names and SCRAM secrets of the users.
    #[arg(long, default_value = "/etc/pgbouncer/userlist.txt")]
    auth_file: String,
    /// PgBouncer before 1.21, which does not follow prepared statements.
    #[arg(long)]
    old: bool,
}

#[derive(Debug, clap::Args)]
struct Migrate {
    #[command(flatten)]
    target: Target,
    /// The schema.
    #[arg(long, default_value = "db_stack")]
    schema: String,
    /// Takes down everything above this version; 0: all, and the schema.
    #[arg(long, value_name = "VERSION")]
    down_to: Option<i64>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    match runtime.block_on(run(cli.command)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    // Not clap's 2: a script must not take a failure for a critical finding.
    let _ = writeln!(std::io::stderr(), "db-stack: {error:#}");
    ExitCode::from(FAILED)
}

/// To standard output; a reader that has gone is no failure.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("standard output"),
    }
}

async fn run(command: Command) -> Result<u8> {
    match command {
        Command::Doctor(args) => {
            let mut options = DoctorOptions::default();
            options.idle_in_transaction = args.idle_in_transaction;
            options.slow = args.slow;
            options.explain = args.explain;
            options.pool = args.pool;
            options.instances = args.instances;
            if let Some(path) = &args.client {
                options.client = client_load(path)?;
            }
            let before = args.snapshot.as_deref().map(Snapshot::load).transpose()?.flatten();
            let report = visit(&args.target.url, &options, before.as_ref()).await?;
            print(&report.render(args.format.into()))?;
            if let Some(path) = &args.snapshot {
                report.snapshot.save(path)?;
            }
            Ok(report.exit_code())
        }
        Command::Indexes(args) => {
            let report = visit(&args.target.url, &DoctorOptions::default(), None).await?;
            indexes(&report)
        }
        Command::Top(args) => top::run(args).await,
        Command::Explain(args) => explain(args).await,
        Command::PgbouncerConfig(args) => {
            let mut load = PoolerLoad::new(args.database);
            load.host = args.host;
            load.port = args.port;
            load.clients = args.clients;
            load.per_second = args.per_second;
            load.transaction_ms = args.transaction_ms;
            load.server_connections = args.server_connections;
            load.cores = args.cores;
            load.listen_addr = args.listen_addr;
            load.listen_port = args.listen_port;
            load.auth_file = args.auth_file;
            load.follows_statements = !args.old;
            print(&load.render()?)?;
            Ok(0)
        }
        Command::Migrate(args) => {
            let mut pg = PgConnection::connect(&args.target.url).await.context("can't connect")?;
            let (what, steps) = match args.down_to {
                Some(target) => ("taken down", migrate::down(&mut pg, &args.schema, target).await?),
                None => ("installed", migrate::up(&mut pg, &args.schema).await?),
            };
            for step in steps {
                let state = if step.done { what } else { "nothing to do" };
                print(&format!("{:04} {}: {state}\n", step.version, step.name))?;
            }
            Ok(0)
        }
    }
}

fn client_load(path: &Path) -> Result<Vec<ClientLoad>> {
    let mut text = String::new();
    if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).context("standard input")?;
    } else {
        text = std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
    }
    Ok(ClientLoad::from_json(&text)?)
}

async fn visit(url: &str, options: &DoctorOptions, before: Option<&Snapshot>) -> Result<Report> {
    let mut looking = Looking::connect(url).await?;
    let report = doctor(&mut looking, options, before).await?;
    looking.close().await;
    Ok(report)
}

fn indexes(report: &Report) -> Result<u8> {
    let mut worst = 0;
    for finding in report.findings.iter().filter(|f| f.area == db_advisor::Area::Indexes) {
        worst = 1;
        print(&format!(
            "-- {}: {}\n-- {}\n{}\n\n",
            finding.id, finding.title, finding.evidence, finding.fix
        ))?;
    }
    for what in &report.unseen {
        print(&format!("-- not seen: {what}\n"))?;
    }
    Ok(worst)
}

async fn explain(args: Explain) -> Result<u8> {
    let sql = match args.sql.as_deref() {
        Some("-") | None => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("standard input")?;
            text
        }
        Some(sql) => sql.to_owned(),
    };
    let mut explainer = Explainer::new(ExplainConfig {
        enabled: true,
        writes: args.writes,
        ..ExplainConfig::default()
    });
    let mut looking = Looking::connect(&args.target.url).await?;
    let plan = if args.analyze {
        explainer.analyze(&mut looking, &sql).await?
    } else {
        explainer.plan(&mut looking, &sql).await?
    };
    print(&plan.outline())?;
    for remark in plan.remarks(|_| None) {
        print(&format!("- {remark}\n"))?;
    }
    looking.close().await;
    Ok(0)
}
