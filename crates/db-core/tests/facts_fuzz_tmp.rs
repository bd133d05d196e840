//! tmp
use db_core::StatementFacts;
use std::io::Write;
#[test]
fn fuzz() {
    let seed: u64 = std::env::var("SEED").unwrap().parse().unwrap();
    let secs: u64 = std::env::var("SECS").unwrap().parse().unwrap();
    let words: Vec<&str> = "a b 1 'x' ( ( ( ) [ ] , . * + - = :: < > -> : ? @ { } $1 => || select from where join left right inner full cross natural lateral on using and or not is null in between like case when then else end exists any all array interval date timestamp with time zone at cast as union except order by group having limit offset fetch window over partition values table insert into update set delete returning merge conflict do default for row distinct extract substring trim collate filter within grouping sets rollup int struct map unnest tablesample operator similar escape connect prior pivot anti semi straight_join explain json_table tuple".split(' ').collect();
    let prefixes = ["select ", "select * from a ", "select * from ", "select a from b where ", "insert into t ", "update t set a = ", "merge into t using u on ", "with x as ", "select a::", "select f(", "delete from t ", "", "select case ", "select a from b group by "];
    let mut s = seed.wrapping_mul(0x9E3779B97F4A7C15) | 1;
    let mut next = move |n: usize| { s ^= s << 13; s ^= s >> 7; s ^= s << 17; (s >> 11) as usize % n };
    let t = std::time::Instant::now();
    let (mut count, mut worst) = (0, (std::time::Duration::ZERO, String::new()));
    while t.elapsed().as_secs() < secs {
        let pattern: String = (0..1 + next(5)).map(|_| words[next(words.len())].to_owned() + " ").collect();
        let close: String = (0..next(4)).map(|_| words[next(words.len())].to_owned() + " ").collect();
        let n = [12, 60, 300, 1500, 10_000][next(5)].min(60_000 / (pattern.len() + close.len()));
        let sql = format!("{}{}1 {}", prefixes[next(prefixes.len())], pattern.repeat(n), close.repeat(n));
        std::fs::File::create(format!("/tmp/fuzz_last_{seed}")).unwrap().write_all(format!("{n} {pattern} / {close} {}", &sql[..sql.len().min(150)]).as_bytes()).unwrap();
        let b = std::time::Instant::now();
        let s2 = sql.clone();
        std::thread::Builder::new().stack_size(512 * 1024).spawn(move || { std::hint::black_box(StatementFacts::of(&s2)); }).unwrap().join().unwrap();
        if b.elapsed() > worst.0 { worst = (b.elapsed(), format!("{n} {}", &sql[..sql.len().min(120)])); }
        count += 1;
    }
    println!("{count} ok; worst {worst:?}");
}
