//! Every fault of the proxy, seen by sqlx through it.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use db_testkit::{CutStyle, Direction, Fault, FaultProxy, Postgres, Scope};
use sqlx::{Connection, PgConnection};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const HANG: Duration = Duration::from_millis(250);
const LONG: Duration = Duration::from_secs(5);

struct Bench {
    server: &'static Postgres,
    proxy: FaultProxy,
}

impl Bench {
    async fn new() -> Self {
        let server = db_testkit::shared().await;
        Self {
            server,
            proxy: FaultProxy::start(server.addr()).await.unwrap(),
        }
    }

    async fn connect(&self) -> PgConnection {
        self.try_connect().await.unwrap()
    }

    async fn try_connect(&self) -> sqlx::Result<PgConnection> {
        timeout(LONG, PgConnection::connect(&self.proxy.url_for(self.server)))
            .await
            .unwrap()
    }
}

async fn ping(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::raw_sql("SELECT 1").execute(connection).await.map(drop)
}

async fn hangs(connection: &mut PgConnection) -> bool {
    timeout(HANG, ping(connection)).await.is_err()
}

fn kind(error: sqlx::Error) -> ErrorKind {
    match error {
        sqlx::Error::Io(error) => error.kind(),
        other => panic!("not an I/O error: {other:?}"),
    }
}

#[tokio::test]
async fn passes_through_and_counts() {
    let bench = Bench::new().await;
    let before = bench.proxy.counters();
    let mut a = bench.connect().await;
    let b = bench.connect().await;
    let text: String = sqlx::query_scalar("SELECT repeat('x', 1000000)")
        .fetch_one(&mut a)
        .await
        .unwrap();
    assert_eq!(text.len(), 1_000_000);
    b.close().await.unwrap();
    let mut seen = bench.proxy.counters();
    for _ in 0..100 {
        if seen.open == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        seen = bench.proxy.counters();
    }
    assert_eq!((seen.accepted, seen.open, seen.cuts), (2, 1, 0));
    assert!(
        seen.bytes_to_client > 1_000_000 && seen.bytes_to_server > 50,
        "{seen:?}"
    );
    assert_eq!(bench.proxy.connects_since(&before), 2);
    assert_eq!(bench.proxy.connects_since(&seen), 0);
    assert_eq!(
        bench.proxy.through(&bench.server.url()),
        bench.proxy.url_for(bench.server)
    );
    assert!(FaultProxy::start_for_url(&bench.server.url()).await.is_ok());
    assert!(FaultProxy::start_for_url(&bench.server.socket_url()).await.is_err());
}

#[tokio::test]
async fn delay_is_latency_and_not_bandwidth() {
    let bench = Bench::new().await;
    let mut connection = bench.connect().await;
    bench.proxy.delay(Direction::Both, Duration::from_millis(100));
    let start = Instant::now();
    ping(&mut connection).await.unwrap();
    let one = start.elapsed();
    assert!((200..2000).contains(&one.as_millis()), "{one:?}");
    // Many chunks overlap: their delays do not add up.
    let start = Instant::now();
    let text: String = sqlx::query_scalar("SELECT repeat('x', 2000000)")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(text.len(), 2_000_000);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    // Healing lets go of what is on its way.
    bench.proxy.delay(Direction::ToServer, Duration::from_secs(60));
    assert!(hangs(&mut connection).await);
    bench.proxy.heal();
    let start = Instant::now();
    timeout(LONG, ping(&mut connection)).await.unwrap().unwrap();
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[tokio::test]
async fn delay_for_new_or_present_connections_only() {
    let bench = Bench::new().await;
    let mut old = bench.connect().await;
    bench.proxy.inject(Fault::Stall, Direction::Both, Scope::New);
    ping(&mut old).await.unwrap();
    assert!(
        timeout(HANG, PgConnection::connect(&bench.proxy.url_for(bench.server)))
            .await
            .is_err()
    );
    bench.proxy.heal();
    bench.proxy.inject(
        Fault::Delay(Duration::from_millis(500)),
        Direction::ToClient,
        Scope::Present,
    );
    let start = Instant::now();
    ping(&mut old).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(500));
    let mut new = bench.connect().await;
    let start = Instant::now();
    ping(&mut new).await.unwrap();
    assert!(start.elapsed() < Duration::from_millis(450), "{:?}", start.elapsed());
}

#[tokio::test]
async fn throttle() {
    let bench = Bench::new().await;
    let mut connection = bench.connect().await;
    bench.proxy.throttle(Direction::ToClient, 100_000);
    let start = Instant::now();
    let text: String = sqlx::query_scalar("SELECT repeat('x', 50000)")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(text.len(), 50_000);
    let took = start.elapsed();
    assert!((450..5000).contains(&took.as_millis()), "{took:?}");
}

#[tokio::test]
async fn slices_are_put_together_again() {
    let bench = Bench::new().await;
    bench.proxy.slice(Direction::Both);
    let mut connection = bench.connect().await;
    let text: String = sqlx::query_scalar("SELECT repeat('x', 2000)")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(text.len(), 2000);
}

#[tokio::test]
async fn cuts_all_now_with_a_reset_or_in_order() {
    let bench = Bench::new().await;
    for (style, expected) in [
        (CutStyle::Reset, ErrorKind::ConnectionReset),
        (CutStyle::Finish, ErrorKind::UnexpectedEof),
    ] {
        let mut plain = TcpStream::connect(bench.proxy.addr()).await.unwrap();
        let mut connection = bench.connect().await;
        // In the middle of a query.
        let query = async { sqlx::raw_sql("SELECT pg_sleep(30)").execute(&mut connection).await };
        let (result, ()) = tokio::join!(timeout(LONG, query), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            bench.proxy.cut_all(style);
        });
        assert_eq!(kind(result.unwrap().unwrap_err()), expected);
        let read = timeout(LONG, plain.read(&mut [0; 1])).await.unwrap();
        match style {
            CutStyle::Reset => assert_eq!(read.unwrap_err().kind(), expected),
            CutStyle::Finish => assert_eq!(read.unwrap(), 0),
        }
        ping(&mut bench.connect().await).await.unwrap();
    }
    assert!(bench.proxy.counters().cuts >= 4);
}

#[tokio::test]
async fn cuts_after_so_many_bytes() {
    let bench = Bench::new().await;
    let mut connection = bench.connect().await;
    let before = bench.proxy.counters();
    bench.proxy.cut_after(Direction::ToClient, 10_000, CutStyle::Reset);
    let error = sqlx::raw_sql("SELECT repeat('x', 100000)")
        .execute(&mut connection)
        .await
        .unwrap_err();
    assert!(matches!(
        kind(error),
        ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof
    ));
    let seen = bench.proxy.counters().since(&before);
    assert_eq!((seen.bytes_to_client, seen.cuts), (10_000, 1));
    // It holds for new connections as well, whose start-up fits in.
    let mut next = bench.connect().await;
    assert!(
        sqlx::raw_sql("SELECT repeat('x', 100000)")
            .execute(&mut next)
            .await
            .is_err()
    );
    bench.proxy.heal();
    // Nothing more may pass: cut at once.
    let mut idle = bench.connect().await;
    bench.proxy.inject(
        Fault::CutAfter {
            bytes: 0,
            style: CutStyle::Finish,
        },
        Direction::ToServer,
        Scope::Present,
    );
    assert_eq!(
        kind(timeout(LONG, ping(&mut idle)).await.unwrap().unwrap_err()),
        ErrorKind::UnexpectedEof
    );
}

#[tokio::test]
async fn blackhole_both_ways_or_one() {
    let bench = Bench::new().await;
    let mut torn = bench.connect().await;
    let mut idle = bench.connect().await;
    bench.proxy.blackhole(Direction::Both);
    assert!(hangs(&mut torn).await);
    bench.proxy.heal();
    assert!(
        timeout(LONG, ping(&mut torn)).await.unwrap().is_err(),
        "bytes were lost"
    );
    ping(&mut idle).await.unwrap();

    // Only answers vanish: the server does what it is told.
    let mut admin = bench.server.admin().await.unwrap();
    sqlx::raw_sql("CREATE TABLE one_way (n int)")
        .execute(&mut admin)
        .await
        .unwrap();
    bench.proxy.blackhole(Direction::ToClient);
    let insert = sqlx::raw_sql("INSERT INTO one_way VALUES (1)").execute(&mut idle);
    assert!(timeout(HANG, insert).await.is_err());
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM one_way")
        .fetch_one(&mut admin)
        .await
        .unwrap();
    assert_eq!(rows, 1);
    assert!(
        timeout(HANG, PgConnection::connect(&bench.proxy.url_for(bench.server)))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn half_open_stalls_the_present_and_loses_nothing() {
    let bench = Bench::new().await;
    let mut old = bench.connect().await;
    bench.proxy.half_open();
    ping(&mut bench.connect().await).await.unwrap();
    let ping_old = ping(&mut old);
    tokio::pin!(ping_old);
    assert!(timeout(HANG, &mut ping_old).await.is_err());
    bench.proxy.heal();
    timeout(LONG, ping_old).await.unwrap().unwrap();
}

#[tokio::test]
async fn refuses_hangs_or_closes_the_port() {
    let bench = Bench::new().await;
    let mut old = bench.connect().await;
    bench.proxy.refuse_new();
    let error = bench.try_connect().await.unwrap_err();
    assert!(matches!(error, sqlx::Error::Io(_)), "{error:?}");
    assert_eq!(bench.proxy.counters().refused, 1);
    ping(&mut old).await.unwrap();
    bench.proxy.heal();
    bench.connect().await;

    bench.proxy.hang_new();
    let url = bench.proxy.url_for(bench.server);
    {
        let connect = PgConnection::connect(&url);
        tokio::pin!(connect);
        assert!(timeout(HANG, &mut connect).await.is_err());
        ping(&mut old).await.unwrap();
        bench.proxy.heal();
        ping(&mut timeout(LONG, connect).await.unwrap().unwrap()).await.unwrap();
    }

    for _ in 0..5 {
        bench.proxy.close_port().await.unwrap();
        assert_eq!(
            kind(bench.try_connect().await.unwrap_err()),
            ErrorKind::ConnectionRefused
        );
        ping(&mut old).await.unwrap();
        bench.proxy.heal();
        ping(&mut bench.connect().await).await.unwrap();
    }
}

#[tokio::test]
async fn fails_over_to_another_upstream() {
    let bench = Bench::new().await;
    let other = Postgres::start().await.unwrap();
    let port = async |connection: &mut PgConnection| -> String {
        sqlx::query_scalar("SHOW port").fetch_one(connection).await.unwrap()
    };
    let mut old = bench.connect().await;
    bench.proxy.set_upstream(other.addr()).await.unwrap();
    assert_eq!(port(&mut old).await, bench.server.port().to_string());
    assert_eq!(port(&mut bench.connect().await).await, other.port().to_string());
    // A dead upstream looks like a reset, and dropping the proxy ends what is open.
    other.kill().await.unwrap();
    assert!(bench.try_connect().await.is_err());
    drop(bench.proxy);
    assert!(timeout(LONG, ping(&mut old)).await.unwrap().is_err());
}

#[tokio::test]
async fn chaos_cuts_at_the_same_bytes_for_the_same_seed() {
    let server = db_testkit::shared().await;
    let run = async |seed| {
        let proxy = FaultProxy::start(server.addr()).await.unwrap();
        proxy.chaos(seed, 4000);
        let mut survived = Vec::new();
        for _ in 0..20 {
            let mut pings = 0;
            if let Ok(mut connection) = PgConnection::connect(&proxy.url_for(server)).await {
                while timeout(LONG, ping(&mut connection)).await.unwrap().is_ok() {
                    pings += 1;
                }
            }
            survived.push(pings);
        }
        assert_eq!(proxy.counters().cuts, 20);
        survived
    };
    let first = run(7).await;
    assert_eq!(first, run(7).await);
    assert_ne!(first, run(8).await);
}

#[tokio::test]
async fn a_reader_that_does_not_read_makes_the_sender_wait() {
    // An upstream that sends without end; the client takes nothing.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = FaultProxy::start(listener.local_addr().unwrap()).await.unwrap();
    let _client = TcpStream::connect(proxy.addr()).await.unwrap();
    let (mut upstream, _) = listener.accept().await.unwrap();
    let mut sent = 0usize;
    let chunk = [0; 65536];
    while let Ok(Ok(n)) = timeout(Duration::from_millis(300), upstream.write(&chunk)).await {
        sent += n;
        assert!(sent < 64 << 20, "buffers without bound");
    }
    println!("buffered on the way: {} KiB", sent / 1024);
}
