//! `cargo xtask`: the project's own commands. It only shells out; what is measured and proved lives in `db-bench`.

mod api;
mod bench;
mod cargo;
mod check;
mod child;
mod counts;
mod dashboards;
mod demo;
mod deny;
mod features;
mod fuzz;
mod layering;
mod manifests;
mod oldest;
mod pg;
mod pooled;
mod prove;
mod screenshots;
mod skips;
mod test;
mod tidy;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// The commands of this repository.
#[derive(Parser)]
#[command(name = "xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a small trading workload against a throwaway server with faults under it, and account for every order.
    #[command(disable_help_flag = true)]
    Demo(Forwarded),
    /// Compare with other pools in one interleaved run and print ratios.
    #[command(disable_help_flag = true)]
    Bench(Forwarded),
    /// Re-run a promised figure by name; without a name, list them.
    #[command(disable_help_flag = true)]
    Prove(Forwarded),
    /// Start a throwaway PostgreSQL and print its URL until Ctrl-C.
    #[command(disable_help_flag = true)]
    Pg(Forwarded),
    /// Write docs/monitoring (rules, dashboards, the reference of metrics) from the registry; `--check` only looks.
    #[command(disable_help_flag = true)]
    Dashboards(Forwarded),
    /// Take the pictures of the live page in docs/images, with a real browser, under the demo's workload.
    #[command(disable_help_flag = true)]
    Screenshots(Forwarded),
    /// Run every test against one throwaway PostgreSQL (or the one that `DB_STACK_PG_URL` names).
    Test(Forwarded),
    /// Write the public names of every crate to docs/api.txt; `check` compares with it.
    Api,
    /// Whether every feature compiles alone.
    Features,
    /// Whether the oldest versions that the manifests allow compile.
    Oldest,
    /// Look for inputs that break a parser of foreign bytes; needs cargo-fuzz.
    Fuzz(fuzz::Options),
    /// Formatting, lints, docs, crate layering, dependencies, tidiness.
    Check(check::Options),
}

/// Arguments handed on as they are.
#[derive(Args)]
struct Forwarded {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    args: Vec<OsString>,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Demo(Forwarded { args }) => demo::run(args),
        Command::Bench(Forwarded { args }) => bench::run(args),
        Command::Prove(Forwarded { args }) => prove::run(args),
        Command::Pg(Forwarded { args }) => pg::run(args),
        Command::Dashboards(Forwarded { args }) => dashboards::run(args),
        Command::Screenshots(Forwarded { args }) => screenshots::run(&args),
        Command::Test(Forwarded { args }) => test::run(args),
        Command::Api => api::write(),
        Command::Features => features::run(),
        Command::Oldest => oldest::run(),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Check(options) => check::run(&options),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
