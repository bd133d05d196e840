//! The session of a user across HTTP requests, in a cookie and a header: for axum.

use crate::Db;
use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue,
        header::{COOKIE, SET_COOKIE},
    },
    middleware::Next,
    response::Response,
};
use db_core::{CausalError, CausalSession, CausalToken};
use std::{fmt, sync::Arc, time::Duration};

/// The header that carries the token, in requests and in responses.
const HEADER: HeaderName = HeaderName::from_static("db-token");
const COOKIE_NAME: &str = "db_token";
/// How many times the lag at which a replica gets no more reads a cookie lives: from then on every replica that serves has
/// what the token stands for.
const LIVES: u32 = 2;

/// Carries the causal token of a session from one request of a user to the next, so that a page shows what the form before
/// it has written, whichever process and replica answer it. For [`axum::middleware::from_fn_with_state`]:
///
/// ```no_run
/// use axum::{Extension, Router, middleware::from_fn_with_state, routing::get};
/// use db_stack::{Carry, Db};
///
/// # async fn example(db: Db) {
/// async fn orders(Extension(db): Extension<Db>) -> String {
///     // This handle is the request's session.
///     let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM orders").fetch_one(&db).await;
///     count.map_or_else(|error| error.to_string(), |count| count.to_string())
/// }
/// let app: Router = Router::new()
///     .route("/orders", get(orders))
///     .layer(from_fn_with_state(Carry::new(&db), Carry::session));
/// # drop(app); }
/// ```
///
/// A request brings its token in the header `db-token` or the cookie `db_token`; with both, the one that has seen more
/// counts. A response carries both as far as its session has seen anything: the position is asked for once, after the
/// handler has returned, and shared with all who ask at that moment. What a body does that is streamed later is not in it.
///
/// The token says how far the log of the database had got, and nothing else. It is not signed: who makes one up slows
/// down his own reads. One that is malformed is left aside. So is one of another cluster, or of writes that a failover has
/// lost: what it stands for is nowhere any more, and the response takes the cookie back.
#[derive(Clone)]
pub struct Carry {
    db: Db,
    cookie: bool,
    secure: bool,
    reads: bool,
}

impl Carry {
    /// Sessions of this database.
    pub fn new(db: &Db) -> Self {
        Self {
            db: db.clone(),
            cookie: true,
            secure: false,
            reads: true,
        }
    }

    /// No cookie, the header alone: for services that call one another.
    #[must_use]
    pub fn header_only(mut self) -> Self {
        self.cookie = false;
        self
    }

    /// The cookie is sent over TLS only. Default: over either.
    #[must_use]
    pub fn secure(mut self) -> Self {
        self.secure = true;
        self
    }

    /// Sessions that only read are not carried: their next request may see less than this one, and costs no question.
    #[must_use]
    pub fn writes_only(mut self) -> Self {
        self.reads = false;
        self
    }

    /// The middleware. The handler finds its session as `Extension<Db>`. Dropped with its request.
    pub async fn session(State(carry): State<Self>, mut request: Request, next: Next) -> Response {
        let brought = brought(request.headers());
        let lost = brought.is_some_and(|token| carry.is_lost(token));
        let session = match brought.filter(|_| !lost) {
            Some(token) => CausalSession::from_token(token),
            None => CausalSession::default(),
        };
        let db = carry.db.in_session(Arc::new(session));
        request.extensions_mut().insert(db.clone());
        let mut response = next.run(request).await;
        let token = match carry.leaves(&db).await {
            Some(token) => Some(token),
            // What it brought still holds.
            None => brought.filter(|_| !lost),
        };
        match token {
            Some(token) => carry.set(response.headers_mut(), &token.to_string(), carry.lives()),
            None if lost => carry.set(response.headers_mut(), "", Duration::ZERO),
            None => {}
        }
        response
    }

    /// What the session takes along from here.
    async fn leaves(&self, db: &Db) -> Option<CausalToken> {
        let seen = db.call.session.as_ref()?.seen();
        if seen.is_nothing() || !(self.reads || seen.wrote) {
            return None;
        }
        match db.token().await {
            Ok(token) => token,
            Err(error) => {
                tracing::warn!(%error, "a session can't be carried on");
                None
            }
        }
    }

    /// Whether nothing of what the token stands for can be shown any more.
    fn is_lost(&self, token: CausalToken) -> bool {
        let cluster = self.db.inner.replicas.cluster();
        let lost = cluster.is_active()
            && matches!(
                cluster.passed(token),
                Err(CausalError::OtherCluster { .. } | CausalError::Lost { .. })
            );
        if lost {
            tracing::info!(%token, "a request brought a token of what is lost: its session begins anew");
        }
        lost
    }

    fn lives(&self) -> Duration {
        self.db.config().replica.max_lag * LIVES
    }

    fn set(&self, headers: &mut HeaderMap, token: &str, lives: Duration) {
        if let (false, Ok(value)) = (token.is_empty(), HeaderValue::from_str(token)) {
            headers.insert(HEADER, value);
        }
        if !self.cookie {
            return;
        }
        let seconds = lives.as_millis().div_ceil(1000);
        let secure = if self.secure { "; Secure" } else { "" };
        let cookie = format!("{COOKIE_NAME}={token}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}");
        if let Ok(value) = HeaderValue::try_from(cookie) {
            // Beside the handler's own cookies.
            headers.append(SET_COOKIE, value);
        }
    }
}

/// The token that has seen most of those that a request brings.
fn brought(headers: &HeaderMap) -> Option<CausalToken> {
    let header = headers.get_all(HEADER).iter().filter_map(|value| value.to_str().ok());
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let cookies = cookies
        .flat_map(|cookies| cookies.split(';'))
        .filter_map(|cookie| cookie.trim().strip_prefix(COOKIE_NAME)?.strip_prefix('='));
    header
        .chain(cookies)
        .filter_map(|text| text.trim().parse::<CausalToken>().ok())
        .max()
}

impl fmt::Debug for Carry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carry")
            .field("cookie", &self.cookie)
            .field("secure", &self.secure)
            .field("reads", &self.reads)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_that_has_seen_most_counts() {
        let mut headers = HeaderMap::new();
        assert_eq!(brought(&headers), None);
        headers.insert(
            COOKIE,
            HeaderValue::from_static("a=b; db_token=7.1.20; db_tokens=7.1.90"),
        );
        assert_eq!(brought(&headers).unwrap().to_string(), "7.1.20");
        headers.insert(HEADER, HeaderValue::from_static("7.1.30"));
        assert_eq!(brought(&headers).unwrap().to_string(), "7.1.30");
        headers.insert(HEADER, HeaderValue::from_static("not a token"));
        assert_eq!(brought(&headers).unwrap().to_string(), "7.1.20");
    }
}
