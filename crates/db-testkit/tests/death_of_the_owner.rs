//! What happens to a server when its test process ends in a bad way.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]
#![cfg(target_os = "linux")]

use std::{
    env, fs,
    io::{BufRead, BufReader},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use db_testkit::Postgres;
use sqlx::{Connection, PgConnection};

struct Kept {
    process: Child,
    url: String,
    postmaster: u32,
    dir: PathBuf,
}

fn keep_server(temp: &Path) -> Kept {
    let own = env::current_exe().unwrap();
    let example = own.parent().unwrap().parent().unwrap().join("examples/keep_server");
    let mut process = Command::new(example)
        .env("DB_STACK_PG_DIR", temp)
        .stdout(Stdio::piped())
        .spawn()
        .expect("examples are built with tests");
    let mut lines = BufReader::new(process.stdout.take().unwrap())
        .lines()
        .map(|line| line.unwrap());
    let mut next = || lines.next().expect("the example starts a server");
    Kept {
        url: next(),
        postmaster: next().parse().unwrap(),
        dir: next().into(),
        process,
    }
}

fn lives(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    !stat[stat.rfind(')').unwrap()..].starts_with(") Z")
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("{what}: {:?}", start.elapsed());
}

fn open_to_all() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    // Many servers start here, so rather in memory.
    let dir = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    dir
}

fn segments_of(pid: u32) -> usize {
    let table = fs::read_to_string("/proc/sysvipc/shm").unwrap();
    table
        .lines()
        .filter(|line| line.split_whitespace().nth(4) == Some(&pid.to_string()))
        .count()
}

#[tokio::test]
async fn a_killed_process_takes_its_server_down_and_a_later_start_cleans_up() {
    let temp = open_to_all();
    let mut kept = keep_server(temp.path());
    let mut session = PgConnection::connect(&kept.url).await.unwrap();
    kept.process.kill().unwrap();
    kept.process.wait().unwrap();
    until("the server is down", || !lives(kept.postmaster));
    assert!(sqlx::raw_sql("SELECT 1").execute(&mut session).await.is_err());
    assert!(kept.dir.join("data").exists(), "nobody was left to clean up");
    assert_eq!(segments_of(kept.postmaster), 1);

    // Not ours to remove: a living owner's folder, a link, a stranger's, and one that is just being made.
    let mut living = keep_server(temp.path());
    assert!(!kept.dir.exists(), "the next start sweeps");
    assert_eq!(segments_of(kept.postmaster), 0);
    let elsewhere = temp.path().join("precious");
    let link = temp.path().join("db-stack-pg-1-link");
    let unborn = temp.path().join(format!("db-stack-pg-{}-00000000", std::process::id()));
    fs::create_dir(&elsewhere).unwrap();
    fs::create_dir(&unborn).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
    let mut third = keep_server(temp.path());
    for path in [&living.dir, &elsewhere, &link, &unborn] {
        assert!(path.exists(), "{}", path.display());
    }
    assert!(PgConnection::connect(&living.url).await.is_ok());
    for kept in [&mut living, &mut third] {
        kept.process.kill().unwrap();
        kept.process.wait().unwrap();
        until("the server is down", || !lives(kept.postmaster));
    }
}

#[tokio::test]
async fn many_stale_folders_and_sweepers_at_once() {
    let temp = open_to_all();
    // A process id that is free: that of a child that has been reaped.
    let mut child = Command::new("true").spawn().unwrap();
    let dead = child.id();
    child.wait().unwrap();
    for n in 0..6 {
        let dir = temp.path().join(format!("db-stack-pg-{dead}-{n:08x}"));
        fs::create_dir_all(dir.join("data/base")).unwrap();
        fs::write(dir.join("owner"), dead.to_string()).unwrap();
        fs::write(dir.join("data/postmaster.pid"), format!("{dead}\n")).unwrap();
    }
    let mut servers: Vec<_> = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..4).map(|_| scope.spawn(|| keep_server(temp.path()))).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect()
    });
    for kept in &servers {
        assert!(PgConnection::connect(&kept.url).await.is_ok());
    }
    assert_eq!(
        fs::read_dir(temp.path()).unwrap().count(),
        4,
        "only the living are left"
    );
    for kept in &mut servers {
        kept.process.kill().unwrap();
        kept.process.wait().unwrap();
    }
    for kept in &servers {
        until("the server is down", || !lives(kept.postmaster));
    }
}

#[tokio::test]
async fn drop_leaves_nothing_even_in_a_panic_and_after_a_kill() {
    let server = Postgres::start().await.unwrap();
    let (pid, dir) = (server.pid().unwrap(), server.dir().to_owned());
    assert!(
        fs::metadata("/proc/self").unwrap().uid() != 0 || fs::metadata(&dir).unwrap().uid() != 0,
        "dropped root"
    );
    let start = Instant::now();
    let panicked = tokio::spawn(async move {
        let _server = server;
        panic!("as a failing test does");
    });
    assert!(panicked.await.is_err());
    println!("drop: {:?}", start.elapsed());
    assert!(!lives(pid) && !dir.exists());
    assert_eq!(segments_of(pid), 0);

    let server = Postgres::start().await.unwrap();
    let (pid, dir) = (server.pid().unwrap(), server.dir().to_owned());
    server.kill().await.unwrap();
    drop(server);
    assert!(!dir.exists());
    assert_eq!(segments_of(pid), 0, "a killed server's segment is given back");
}

#[test]
fn a_server_outlives_the_runtime_and_the_thread_that_started_it() {
    let server = std::thread::spawn(|| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(Postgres::start()).unwrap()
    });
    let server = server.join().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let connection = PgConnection::connect(&server.url()).await.unwrap();
        connection.close().await.unwrap();
        server.restart().await.unwrap();
    });
    drop(runtime);
    drop(server);
}
