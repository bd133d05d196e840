use super::*;
use crate::proxy::cut::Armed;

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

fn startup() -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 8, 4, 210, 22, 47];
    bytes.extend([0, 0, 0, 16, 0, 3, 0, 0]);
    bytes.extend(b"user\0me\0");
    bytes
}

/// Feeds in chunks of every size and checks that the cuts do not depend on it.
fn run(stream: &[u8], cut: &Cut) -> Vec<Piece> {
    let mut outcomes = Vec::new();
    for size in [1, 2, 3, 7, stream.len()] {
        let mut armed = Armed::default();
        armed.arm(cut.clone());
        let mut frontend = Frontend::new();
        let mut pieces = Vec::new();
        for chunk in stream.chunks(size) {
            for piece in frontend.feed(chunk, &mut |message| armed.judge(message)) {
                match (pieces.last_mut(), piece) {
                    (Some(Piece::Bytes(all)), Piece::Bytes(more)) => all.extend(more),
                    (_, piece) => pieces.push(piece),
                }
            }
            if matches!(pieces.last(), Some(Piece::Cut(_) | Piece::CutClient(_))) {
                break;
            }
        }
        outcomes.push(pieces);
    }
    assert!(outcomes.windows(2).all(|pair| pair[0] == pair[1]), "{outcomes:?}");
    outcomes.remove(0)
}

#[test]
fn simple_queries() {
    let begin = [startup(), message(b'Q', b"BEGIN\0")].concat();
    let commit = message(b'Q', b"commit\0");
    let stream = [begin.clone(), commit.clone(), message(b'X', b"")].concat();
    let both = [begin.clone(), commit].concat();
    assert_eq!(
        run(&stream, &Cut::before("COMMIT")),
        [Piece::Bytes(begin.clone()), Piece::Cut(CutStyle::Reset)]
    );
    assert_eq!(
        run(&stream, &Cut::after("COMMIT")),
        [Piece::Bytes(both), Piece::CutClient(CutStyle::Reset)]
    );
    assert_eq!(
        run(&stream, &Cut::after_reply("COMMIT"))[1],
        Piece::Withhold(CutStyle::Reset)
    );
    assert_eq!(run(&stream, &Cut::before("COMMIT").nth(2)), [Piece::Bytes(stream)]);
}

#[test]
fn a_prepared_statement_runs_at_its_execute() {
    let prepare = [startup(), message(b'P', b"s1\0INSERT INTO t\0\0\0"), message(b'S', b"")].concat();
    let bind = message(b'B', b"\0s1\0\0\0\0\0\0\0");
    let execute = [message(b'E', b"\0\0\0\0\0"), message(b'S', b"")].concat();
    let stream = [
        prepare.clone(),
        bind.clone(),
        execute.clone(),
        message(b'Q', b"SELECT 1\0"),
    ]
    .concat();
    let before = [prepare, bind].concat();
    assert_eq!(
        run(&stream, &Cut::before("insert into")),
        [Piece::Bytes(before.clone()), Piece::Cut(CutStyle::Reset)]
    );
    let after = [before.clone(), execute].concat();
    assert_eq!(
        run(&stream, &Cut::after("insert into")),
        [Piece::Bytes(after), Piece::CutClient(CutStyle::Reset)]
    );
    let text = Cut::before("").matching(crate::Matches::Text("INSERT".into()));
    assert_eq!(
        run(&stream, &text),
        [Piece::Bytes(startup()), Piece::Cut(CutStyle::Reset)]
    );
}

#[test]
fn long_messages_and_strangers_pass() {
    let long = [b"SELECT '", vec![b'x'; 3 * LIMIT].as_slice(), b"'\0"].concat();
    let stream = [
        startup(),
        message(b'Q', &long),
        message(b'd', &vec![7; 2 * LIMIT]),
        message(b'Q', b"COMMIT\0"),
    ]
    .concat();
    assert_eq!(run(&stream, &Cut::before("nothing")), [Piece::Bytes(stream.clone())]);
    assert_eq!(
        run(&stream, &Cut::before("select")),
        [Piece::Bytes(startup()), Piece::Cut(CutStyle::Reset)]
    );
    let cut = run(&stream, &Cut::after("select"));
    let Piece::Bytes(bytes) = &cut[0] else { panic!() };
    assert_eq!(
        bytes.len(),
        startup().len() + long.len() + 5,
        "the whole long message gets through"
    );
    let tls = [0x16, 3, 1, 0, 200, 1, 0, 0, 42, 42, 42];
    let stream = [&startup()[..8], &tls[..]].concat();
    assert_eq!(run(&stream, &Cut::before("")), [Piece::Bytes(stream)]);
}
