//! The client's half of the PostgreSQL protocol, as far as cuts need it.

use std::{collections::HashMap, sync::Arc};

use crate::proxy::{
    cut::{Cut, Message, When},
    fault::CutStyle,
};

/// How much of a message is held back to look at it.
const LIMIT: usize = 64 * 1024;
/// Prepared statements and portals remembered per connection.
const NAMES: usize = 4096;

/// What to do next, in order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Bytes(Vec<u8>),
    /// Cut both sides.
    Cut(CutStyle),
    /// Cut the client; the server goes on with what it has.
    CutClient(CutStyle),
    /// From here on, an answer cuts the client.
    Withhold(CutStyle),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Messages without a type: start-up, encryption requests.
    Startup,
    Messages,
    /// Encrypted or not PostgreSQL: bytes pass unseen.
    Raw,
}

/// Cuts a stream of bytes into messages and tells where a connection is to be cut.
#[derive(Debug)]
pub(crate) struct Frontend {
    phase: Phase,
    /// The beginning of a message, held back until it can be judged.
    held: Vec<u8>,
    /// Bytes of a judged message that are still to come.
    pass: usize,
    /// A cut to fire at the end of the present message.
    at_end: Option<CutStyle>,
    /// A cut that waits for the next Sync.
    at_sync: Option<Cut>,
    statements: HashMap<Vec<u8>, Arc<str>>,
    portals: HashMap<Vec<u8>, Arc<str>>,
}

impl Frontend {
    pub(crate) fn new() -> Self {
        Self {
            phase: Phase::Startup,
            held: Vec::new(),
            pass: 0,
            at_end: None,
            at_sync: None,
            statements: HashMap::new(),
            portals: HashMap::new(),
        }
    }

    /// Takes the next bytes. Nothing follows a [`Piece::Cut`] or [`Piece::CutClient`].
    pub(crate) fn feed(&mut self, mut bytes: &[u8], judge: &mut impl FnMut(&Message<'_>) -> Option<Cut>) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut out = Vec::with_capacity(self.held.len() + bytes.len());
        while !bytes.is_empty() {
            if self.phase == Phase::Raw {
                out.append(&mut self.held);
                out.extend_from_slice(bytes);
                break;
            }
            if self.pass > 0 {
                let now = self.pass.min(bytes.len());
                out.extend_from_slice(&bytes[..now]);
                (self.pass, bytes) = (self.pass - now, &bytes[now..]);
                if self.ended(&mut out, &mut pieces) {
                    return pieces;
                }
                continue;
            }
            let (needed, _) = self.size();
            let now = (needed - self.held.len()).min(bytes.len());
            self.held.extend_from_slice(&bytes[..now]);
            bytes = &bytes[now..];
            // The header tells how much more is needed, so ask again.
            let (needed, total) = self.size();
            if self.held.len() < needed || self.phase == Phase::Raw {
                continue;
            }
            if self.judged(&mut out, &mut pieces, judge) {
                return pieces;
            }
            self.pass = total - self.held.len();
            out.append(&mut self.held);
            if self.ended(&mut out, &mut pieces) {
                return pieces;
            }
        }
        if self.phase == Phase::Raw {
            out.append(&mut self.held);
        }
        flush(&mut out, &mut pieces);
        pieces
    }

    /// How many bytes must be held to judge the present message, and how long it is.
    fn size(&mut self) -> (usize, usize) {
        let header = if self.phase == Phase::Startup { 8 } else { 5 };
        if self.held.len() < header {
            return (header, header);
        }
        let at = header - if self.phase == Phase::Startup { 8 } else { 4 };
        let length = int(&self.held, at);
        if self.phase == Phase::Startup {
            // TLS, or anything else that is not a start-up message.
            if !(8..=10_000).contains(&length) || !startup_code(int(&self.held, 4)) {
                self.phase = Phase::Raw;
            }
            return (header, length.max(8));
        }
        if length < 4 {
            self.phase = Phase::Raw;
            return (header, header);
        }
        let total = length + 1;
        let needed = if b"QPBEC".contains(&self.held[0]) {
            total.min(LIMIT)
        } else {
            header
        };
        (needed, total)
    }

    /// Judges the held message; true when the connection is to be cut before it.
    fn judged(
        &mut self,
        out: &mut Vec<u8>,
        pieces: &mut Vec<Piece>,
        judge: &mut impl FnMut(&Message<'_>) -> Option<Cut>,
    ) -> bool {
        if self.phase == Phase::Startup {
            self.phase = match int(&self.held, 4) {
                SSL | GSS => Phase::Startup,
                CANCEL => Phase::Raw,
                _ => Phase::Messages,
            };
            return false;
        }
        let kind = self.held[0];
        let (text, runs) = self.note(kind);
        let cut = judge(&Message {
            kind,
            text: text.as_deref(),
            runs: runs.as_deref(),
        });
        // Bind, Execute and their like do nothing before the Sync.
        let sync = if kind == b'S' { self.at_sync.take() } else { None };
        let Some(cut) = sync.or(cut) else { return false };
        let (when, style) = (cut.when, cut.style);
        match when {
            When::BeforeForward => {
                flush(out, pieces);
                pieces.push(Piece::Cut(style));
                return true;
            }
            When::AfterForward | When::AfterReply if b"PBEDCH".contains(&kind) => self.at_sync = Some(cut),
            When::AfterForward => self.at_end = Some(style),
            When::AfterReply => {
                flush(out, pieces);
                pieces.push(Piece::Withhold(style));
            }
        }
        false
    }

    /// Remembers names, and says which SQL the held message brings and which it runs.
    fn note(&mut self, kind: u8) -> (Option<Arc<str>>, Option<Arc<str>>) {
        let body = &self.held[5..];
        let (first, rest) = c_string(body);
        match kind {
            b'Q' => {
                let sql: Arc<str> = String::from_utf8_lossy(first).into();
                (Some(Arc::clone(&sql)), Some(sql))
            }
            b'P' => {
                let sql: Arc<str> = String::from_utf8_lossy(c_string(rest).0).into();
                remember(&mut self.statements, first, Arc::clone(&sql));
                (Some(sql), None)
            }
            b'B' => {
                if let Some(sql) = self.statements.get(c_string(rest).0) {
                    remember(&mut self.portals, first, Arc::clone(sql));
                }
                (None, None)
            }
            b'E' => (None, self.portals.get(first).cloned()),
            b'C' if body.first() == Some(&b'S') => {
                self.statements.remove(c_string(&body[1..]).0);
                (None, None)
            }
            _ => (None, None),
        }
    }

    /// At the end of a message: true when the client is to be cut now.
    fn ended(&mut self, out: &mut Vec<u8>, pieces: &mut Vec<Piece>) -> bool {
        if self.pass > 0 {
            return false;
        }
        let Some(style) = self.at_end.take() else { return false };
        flush(out, pieces);
        pieces.push(Piece::CutClient(style));
        true
    }
}

const SSL: usize = 80_877_103;
const GSS: usize = 80_877_104;
const CANCEL: usize = 80_877_102;

fn startup_code(code: usize) -> bool {
    matches!(code, SSL | GSS | CANCEL) || code >> 16 == 3
}

fn int(bytes: &[u8], at: usize) -> usize {
    bytes[at..at + 4]
        .iter()
        .fold(0, |value, &byte| value << 8 | usize::from(byte))
}

/// The bytes before the first NUL, and those behind it.
fn c_string(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|&byte| byte == 0) {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, &[]),
    }
}

fn remember(names: &mut HashMap<Vec<u8>, Arc<str>>, name: &[u8], sql: Arc<str>) {
    if names.len() < NAMES || names.contains_key(name) {
        names.insert(name.to_owned(), sql);
    }
}

fn flush(out: &mut Vec<u8>, pieces: &mut Vec<Piece>) {
    if !out.is_empty() {
        pieces.push(Piece::Bytes(std::mem::take(out)));
    }
}

#[cfg(test)]
#[path = "frontend_tests.rs"]
mod tests;
