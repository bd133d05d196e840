//! Benchmarks, proofs and the demo of db-stack, behind `cargo xtask`.

mod bench;
mod demo;
mod pg;
mod prove;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(name = "db-bench", about, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The whole stack on a real workload, on a throwaway PostgreSQL, with faults.
    Demo(demo::Args),
    /// Ratios against the pools that people use today, interleaved in one run.
    Bench(bench::Args),
    /// Re-runs a promised number; without a name lists them.
    Prove(prove::Args),
    /// A throwaway server: prints its URL until Ctrl-C, or runs a command against it.
    Pg(pg::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the runtime could not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        match cli.command {
            Command::Demo(args) => Box::pin(demo::run(args)).await,
            Command::Bench(args) => Box::pin(bench::run(args)).await,
            Command::Prove(args) => Box::pin(prove::run(args)).await,
            Command::Pg(args) => pg::run(args).await,
        }
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
