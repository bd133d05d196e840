//! Who the nodes are, as somebody else knows it: a name service, an orchestrator's API, a file.

use crate::{config::DbConfig, db::Inner, nodes};
use db_replica::Member;
use futures_core::future::BoxFuture;
use std::{error::Error, future::Future, io, sync::Arc};
use tokio::net::lookup_host;

type AnyError = Box<dyn Error + Send + Sync>;

/// Answers with the URLs of all nodes.
pub(crate) type Discovery = Box<dyn Fn() -> BoxFuture<'static, Result<Vec<String>, AnyError>> + Send + Sync>;

pub(crate) fn boxed<F, E>(discover: impl Fn() -> F + Send + Sync + 'static) -> Discovery
where
    F: Future<Output = Result<Vec<String>, E>> + Send + 'static,
    E: Into<AnyError>,
{
    Box::new(move || {
        let answer = discover();
        Box::pin(async move { answer.await.map_err(Into::into) })
    })
}

/// Keeps the nodes of a database as `discovery` names them.
pub(crate) fn keep(inner: &Arc<Inner>, discovery: Discovery) {
    let weak = Arc::downgrade(inner);
    inner.replicas.cluster().discover(move || {
        let (answer, weak) = (discovery(), weak.clone());
        async move {
            let urls = answer.await?;
            let Some(inner) = weak.upgrade() else {
                return Ok(Vec::new());
            };
            let config: Arc<DbConfig> = inner.config.load_full();
            let options = inner.options.load_full();
            let member = |url: &String| nodes::node_options(&config, &options, inner.own_options, url).map(Member::new);
            urls.iter()
                .map(member)
                .collect::<Result<_, _>>()
                .map_err(AnyError::from)
        }
    });
}

/// For [`DbBuilder::discover`](crate::DbBuilder::discover): one node for each address that `name` resolves to, such as the
/// pods of a headless service. A resolver that answers with one address at a time won't do.
///
/// The nodes are then known by their addresses, so a certificate that is made out to a name is not theirs: with
/// `verify-full` name the nodes themselves.
pub fn dns_nodes(
    name: impl Into<String>,
    port: u16,
) -> impl Fn() -> BoxFuture<'static, io::Result<Vec<String>>> + Send + Sync + 'static {
    let name: Arc<str> = name.into().into();
    move || {
        let name = name.clone();
        Box::pin(async move {
            let mut found: Vec<_> = lookup_host((&*name, port)).await?.collect();
            // The order says nothing: resolvers turn it.
            found.sort_unstable();
            found.dedup();
            Ok(found
                .into_iter()
                .map(|address| format!("postgres://{address}"))
                .collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_has_addresses() {
        let urls = dns_nodes("localhost", 5499)().await.unwrap();
        assert!(
            urls.contains(&"postgres://127.0.0.1:5499".to_owned())
                || urls.contains(&"postgres://[::1]:5499".to_owned()),
            "{urls:?}"
        );
        assert!(dns_nodes("nobody.invalid", 1)().await.is_err());
    }
}
