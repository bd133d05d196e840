//! dump
use db_core::StatementFacts;
#[test]
fn dump() {
    let Ok(path) = std::env::var("DUMP") else {
        return;
    };
    for line in std::fs::read_to_string(path)
        .unwrap()
        .lines()
        .filter(|l| !l.trim().is_empty())
    {
        let line = line.replace("\\n", "\n");
        let f = StatementFacts::of(&line);
        let names = |t: &[db_core::TableName]| t.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let mut out = format!("{:?}", f.kind()).to_lowercase();
        if !f.reads().is_empty() {
            out += &format!(" r={}", names(f.reads()));
        }
        if !f.writes().is_empty() {
            out += &format!(" w={}", names(f.writes()));
        }
        for (on, name) in [
            (f.touches_everything(), "all"),
            (f.locking(), "lock"),
            (f.volatile(), "vol"),
            (f.opaque_function(), "opaque"),
            (f.depends_on_time(), "time"),
            (f.depends_on_session(), "sess"),
            (f.leaves_session_state(), "state"),
            (f.leaves_transaction_open(), "open"),
            (f.is_pure_read(), "pure"),
            (f.is_self_contained(), "alone"),
        ] {
            if on {
                out += " ";
                out += name;
            }
        }
        println!(
            "{line}\n    {} | {out} | {} | {}",
            f.statements(),
            f.summary(),
            f.normalized()
        );
    }
}
