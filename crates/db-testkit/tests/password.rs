//! TCP asks for a password when told to.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use db_testkit::Postgres;
use sqlx::{Connection, PgConnection};

#[tokio::test]
async fn a_wrong_password_is_28p01() {
    let server = Postgres::builder().password_auth("s3cr:t/@").start().await.unwrap();
    PgConnection::connect(&server.url())
        .await
        .unwrap()
        .close()
        .await
        .unwrap();
    PgConnection::connect(&server.socket_url())
        .await
        .unwrap()
        .close()
        .await
        .unwrap();
    let error = PgConnection::connect_with(&server.options().password("wrong"))
        .await
        .unwrap_err();
    assert_eq!(error.as_database_error().unwrap().code().unwrap(), "28P01");
    let database = server.database().await.unwrap();
    PgConnection::connect(&database.url())
        .await
        .unwrap()
        .close()
        .await
        .unwrap();
    // Restarts keep it.
    server.restart().await.unwrap();
    assert!(
        PgConnection::connect_with(&server.options().password("wrong"))
            .await
            .is_err()
    );
    PgConnection::connect(&server.url()).await.unwrap();
}
