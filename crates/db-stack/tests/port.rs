//! An application written for `PgPool` runs on `Db` by changing the type, and does the same.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::rig;
use std::{fs, path::PathBuf};

mod on_pg_pool {
    use sqlx::PgPool as Pool;
    include!("common/ledger.rs");
}

mod on_db {
    use db_stack::Db as Pool;
    include!("common/ledger.rs");
}

/// A folder with migrations, as a service has one; gone at the end of the test.
struct Migrations(PathBuf);

impl Migrations {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("db-stack-port-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let account = "CREATE TABLE account (id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY, owner text NOT NULL UNIQUE, \
                       balance int8 NOT NULL DEFAULT 0 CONSTRAINT not_overdrawn CHECK (balance >= 0), note text);";
        let entry = "CREATE TABLE entry (id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY, account int8 NOT NULL, \
                     amount int8 NOT NULL);\nCREATE INDEX ON entry (account);";
        fs::write(folder.join("1_account.sql"), account).unwrap();
        fs::write(folder.join("2_entry.sql"), entry).unwrap();
        // What can't run in a transaction.
        fs::write(
            folder.join("3_index.sql"),
            "-- no-transaction\nCREATE INDEX CONCURRENTLY ON entry (amount);",
        )
        .unwrap();
        Self(folder)
    }
}

impl Drop for Migrations {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_source_the_same_answers() {
    let migrations = Migrations::new();
    let (one, other) = (rig().await, rig().await);
    let before = on_pg_pool::run(&one.database.url(), &migrations.0).await.unwrap();
    let after = on_db::run(&other.database.url(), &migrations.0).await.unwrap();
    assert!(before.len() > 25, "{}", before.len());
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before, after);
    }
    assert_eq!(before.len(), after.len());
}
