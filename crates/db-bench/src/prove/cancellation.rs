//! A call that is dropped at any await point must not hurt the next caller.

mod acts;
pub(crate) mod aftermath;
mod cut;
mod ledger;
mod poisoned;
mod random;

use crate::prove::{Verdict, findings::Findings, rig};

pub(crate) async fn run(quick: bool) -> anyhow::Result<Verdict> {
    let server = rig::server().await?;
    let mut findings = Findings::new();
    poisoned::run(&server, quick, &mut findings).await?;
    random::run(&server, quick, &mut findings).await?;
    Ok(findings.verdict())
}
