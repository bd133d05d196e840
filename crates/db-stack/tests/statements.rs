//! The figures of prepared statements, as the facade gives them.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use common::rig;

#[tokio::test]
async fn uses_inside_and_outside_of_transactions_are_counted_and_callers_are_timed() {
    let rig = rig().await.with_table().await;
    let db = rig.db(1);
    for n in 0..10 {
        sqlx::query("SELECT n FROM t WHERE n = $1")
            .bind(n)
            .fetch_all(&db)
            .await
            .unwrap();
    }
    let mut tx = db.begin().await.unwrap();
    for n in 0..5 {
        let found = sqlx::query("SELECT n FROM t WHERE n = $1").bind(n);
        found.fetch_optional(&mut *tx).await.unwrap();
        sqlx::query("INSERT INTO t VALUES ($1)")
            .bind(n)
            .execute(&mut *tx)
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();
    let stats = db.statements();
    let top = &stats.top()[0];
    assert_eq!(
        (top.summary.as_str(), top.uses, top.hits, top.prepares),
        ("SELECT t", 15, 14, 1)
    );
    let insert = &stats.top()[1];
    assert_eq!((insert.uses, insert.hits), (5, 4), "{insert:?}");
    assert_eq!(stats.fill, [2]);
    let scrape = db.metrics().render();
    for (outcome, count) in [("used", 18), ("prepared", 2), ("evicted", 0), ("stale", 0)] {
        let line = format!("ava_db_prepared_statements_total{{outcome=\"{outcome}\"}} {count}\n");
        assert!(scrape.contains(&line), "{line} is not in:\n{scrape}");
    }
    assert!(scrape.contains("ava_db_statement_thrash_total 0\n"), "{scrape}");
    assert!(top.mean_ms.is_some_and(|mean| mean > 0.0), "{top:?}");
    let json = serde_json::to_value(&stats).unwrap();
    assert_eq!(json["statements"][0]["fingerprint"], top.fingerprint.to_string());
    db.close().await;
}
