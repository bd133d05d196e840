//! One server per test process.

use tokio::sync::OnceCell;

use crate::postgres::Postgres;

/// The server of this test process, started on the first call.
///
/// It ends with the process; its folder is removed by a later start. A runner that gives every test its own process
/// should rather name one server for all in `DB_STACK_PG_URL` and let tests call [`database`](crate::database).
///
/// # Panics
/// When it can't be started.
pub async fn shared() -> &'static Postgres {
    static SERVER: OnceCell<Postgres> = OnceCell::const_new();
    match SERVER.get_or_try_init(Postgres::start).await {
        Ok(server) => server,
        Err(error) => panic!("no throwaway PostgreSQL: {error}"),
    }
}
