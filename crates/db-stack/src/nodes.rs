//! From the configuration to the nodes of the cluster.

use crate::{
    config::DbConfig,
    db::Inner,
    node::{NodeParts, NodeStack},
};
use arc_swap::ArcSwap;
use db_core::{Layer, Result, config::InvalidConfig};
use db_health::Breaker;
use db_leak::Leak;
use db_pool::{Pool, PoolConfig};
use db_replica::{Cluster, Member, ReplicaLayer, Routed};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx_core::{Url, percent_encoding::percent_decode_str};
use std::{str::FromStr, sync::Arc};

/// The first node, which `options` lead to, and those of `replica.urls`: what a URL leaves out is as for the first.
pub(crate) fn members(config: &DbConfig, options: &PgConnectOptions, own_options: bool) -> Result<Vec<Member>> {
    let mut members = vec![Member::new(options.clone())];
    for url in config.replica.urls.expose() {
        members.push(Member::new(node_options(config, options, own_options, url)?));
    }
    Ok(members)
}

/// How to connect to the node with this URL.
pub(crate) fn node_options(
    config: &DbConfig,
    options: &PgConnectOptions,
    own_options: bool,
    url: &str,
) -> Result<PgConnectOptions> {
    let refused = || InvalidConfig::one("replica.urls", "***", "URLs like postgres://host:port");
    let url = Url::parse(url).map_err(|_| refused())?;
    if own_options {
        return beside(options, &url).ok_or_else(|| refused().into());
    }
    let mut config = config.clone();
    config.connection = config.connection.at(&url).ok_or_else(refused)?;
    Ok(config.connect_options()?)
}

/// The same options for another node.
fn beside(options: &PgConnectOptions, url: &Url) -> Option<PgConnectOptions> {
    let text = |text: &str| Some(percent_decode_str(text).decode_utf8().ok()?.into_owned());
    // sqlx knows every way to write a host, a port and a socket.
    let place = PgConnectOptions::from_str(url.as_str()).ok()?;
    let mut options = at(options, &place);
    if !url.username().is_empty() {
        options = options.username(&text(url.username())?);
    }
    if let Some(password) = url.password() {
        options = options.password(&text(password)?);
    }
    if let Some(database) = place.get_database() {
        options = options.database(database);
    }
    if url.query_pairs().any(|(key, _)| key == "sslmode" || key == "ssl-mode") {
        let mode: PgSslMode = place.get_ssl_mode();
        options = options.ssl_mode(mode);
    }
    Some(options)
}

/// The same options for the host and port of another one.
fn at(options: &PgConnectOptions, place: &PgConnectOptions) -> PgConnectOptions {
    let options = options.clone().port(place.get_port());
    match place.get_socket() {
        Some(folder) => options.socket(folder),
        None => options.host(place.get_host()),
    }
}

/// The pool for reads on a node: as large as the primary's unless the configuration says otherwise.
pub(crate) fn reader_pool(config: &DbConfig) -> PoolConfig {
    let mut pool = config.pool.clone();
    if config.replica.max_connections > 0 {
        pool.max_connections = config.replica.max_connections;
    }
    pool.min_connections = pool.min_connections.min(pool.max_connections);
    pool
}

/// The routing over the primary's endpoint.
pub(crate) fn routed(
    config: &Arc<ArcSwap<DbConfig>>,
    members: Vec<Member>,
    leases: &Leak<Pool>,
    breaker: &Breaker,
    parts: NodeParts,
) -> Result<Routed<NodeStack>> {
    let now = config.load();
    let following = leases.get_ref().clone();
    let anew = breaker.clone();
    let cache = parts.cache.clone();
    let follow = move |node: &Member| {
        following.set_options(node.options().clone());
        // What it knows is about the node of before.
        anew.reset();
        // So is what is kept, and what is heard.
        cache.failed_over();
    };
    let cluster = Cluster::new(now.replica.clone(), members, parts.observers.clone(), follow)?;
    let writer = NodeStack::behind(leases.clone(), breaker.clone(), &parts);
    let config = config.clone();
    let connect = move |node: &Member| {
        let config = config.load();
        let pool = Pool::builder(node.options().clone(), reader_pool(&config))
            .session(config.session.clone())
            .observers(parts.observers.clone())
            .build()?;
        NodeStack::new(pool, &config, &parts)
    };
    let layer = ReplicaLayer::new(cluster, now.pool.max_connections, connect);
    Ok(layer.layer(writer))
}

/// Takes over settings that have been checked: nodes that stay keep what is known of them, unless how to reach them has
/// changed.
pub(crate) fn reload(inner: &Inner, before: &DbConfig, config: DbConfig) -> Result<()> {
    let moved = config.connection != before.connection && !inner.own_options;
    if moved || (config.session != before.session && !inner.own_options) {
        inner.options.store(Arc::new(config.connect_options()?));
    }
    let members = match inner.discovers {
        false => members(&config, &inner.options.load(), inner.own_options)?,
        // Those that were named last, with the new settings.
        true => {
            let options = inner.options.load();
            let known = inner.replicas.cluster().members();
            known
                .iter()
                .map(|member| Member::new(at(&options, member.options())))
                .collect()
        }
    };
    let (replica, pool) = (config.replica.clone(), reader_pool(&config));
    let primary_connections = config.pool.max_connections;
    let breaker = config.breaker.clone();
    let session = (config.session != before.session).then(|| config.session.clone());
    let nodes_changed = config.replica.urls != before.replica.urls && !inner.discovers;
    inner.config.store(Arc::new(config));
    let cluster = inner.replicas.cluster();
    cluster.reload(replica)?;
    inner.replicas.set_primary_connections(primary_connections);
    let renew = moved || session.is_some();
    if renew || nodes_changed {
        cluster.set_members(members, renew);
        // The pool of the primary has been pointed to the first node.
        if let Some(primary) = cluster.primary().filter(|_| renew && cluster.is_active()) {
            inner.pool.set_options(primary.options().clone());
        }
    }
    for (_, server) in inner.replicas.services() {
        // The primary's pool has its settings already, and tells of them once.
        if *server.pool.config() != pool {
            server.pool.reload(pool.clone())?;
        }
        server.breaker.reload(breaker.clone())?;
        if let Some(session) = &session {
            server.pool.set_session(session.clone());
        }
    }
    Ok(())
}

/// Ends the watching, and closes the pools for reads.
pub(crate) async fn close(replicas: &Routed<NodeStack>) {
    replicas.cluster().stop();
    let closing = replicas.services().into_iter().map(|(_, server)| async move {
        server.breaker.close();
        server.pool.close().await
    });
    futures_util::future::join_all(closing).await;
}
