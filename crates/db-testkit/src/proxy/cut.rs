//! Cuts at a certain message of the PostgreSQL protocol.

use crate::proxy::fault::CutStyle;

/// Cuts the connection at a message from the client. Fires once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// Whether the server still gets the message.
    pub when: When,
    /// Which messages count.
    pub matches: Matches,
    /// The how-manieth of them, counted over all connections from 1.
    pub nth: u32,
    /// How the client's side is cut.
    pub style: CutStyle,
}

impl Cut {
    /// Before the server is told to run SQL that contains `text`: it has certainly not run.
    pub fn before(text: impl Into<String>) -> Self {
        Self::new(When::BeforeForward, text)
    }

    /// Right after the server was told to run SQL that contains `text`: it may still be running.
    pub fn after(text: impl Into<String>) -> Self {
        Self::new(When::AfterForward, text)
    }

    /// When the server has answered to SQL that contains `text`, with the answer lost: it has certainly run.
    pub fn after_reply(text: impl Into<String>) -> Self {
        Self::new(When::AfterReply, text)
    }

    fn new(when: When, text: impl Into<String>) -> Self {
        Self {
            when,
            matches: Matches::Runs(text.into()),
            nth: 1,
            style: CutStyle::Reset,
        }
    }

    /// Fires at the `nth` match, counted from 1.
    #[must_use]
    pub fn nth(mut self, nth: u32) -> Self {
        self.nth = nth;
        self
    }

    /// Which messages count.
    #[must_use]
    pub fn matching(mut self, matches: Matches) -> Self {
        self.matches = matches;
        self
    }

    /// How the client's side is cut.
    #[must_use]
    pub fn style(mut self, style: CutStyle) -> Self {
        self.style = style;
        self
    }
}

/// Whether the server still gets the message at which a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum When {
    /// It does not; both sides are cut.
    BeforeForward,
    /// It does, and the client is cut at once. Messages of the extended protocol do nothing until a Sync, so then the cut
    /// comes after the next Sync.
    AfterForward,
    /// It does, and the client is cut when the server begins to answer; none of the answer gets through.
    AfterReply,
}

/// Messages from the client. Texts match anywhere, ASCII letters in either case, in the first 64 KiB.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Matches {
    /// What makes the server run SQL that contains this: a Query, or an Execute of a statement prepared from it.
    Runs(String),
    /// A Query or a Parse whose text contains this.
    Text(String),
    /// Any message of this type, for example `b'B'` for Bind.
    Message(u8),
}

impl Matches {
    fn matches(&self, message: &Message<'_>) -> bool {
        match self {
            Self::Runs(text) => message.runs.is_some_and(|sql| contains(sql, text)),
            Self::Text(text) => message.text.is_some_and(|sql| contains(sql, text)),
            Self::Message(kind) => message.kind == *kind,
        }
    }
}

fn contains(sql: &str, text: &str) -> bool {
    text.is_empty()
        || sql
            .as_bytes()
            .windows(text.len())
            .any(|part| part.eq_ignore_ascii_case(text.as_bytes()))
}

/// What a cut looks at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'m> {
    pub(crate) kind: u8,
    /// SQL in the message itself.
    pub(crate) text: Option<&'m str>,
    /// SQL that the message runs.
    pub(crate) runs: Option<&'m str>,
}

/// Cuts that have not fired yet.
#[derive(Debug, Default)]
pub(crate) struct Armed(Vec<(Cut, u32)>);

impl Armed {
    pub(crate) fn arm(&mut self, cut: Cut) {
        self.0.push((cut, 0));
    }

    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Counts the message and takes out the first cut that it fires.
    pub(crate) fn judge(&mut self, message: &Message<'_>) -> Option<Cut> {
        let mut fired = None;
        for (at, (cut, seen)) in self.0.iter_mut().enumerate() {
            if cut.matches.matches(message) {
                *seen += 1;
                if *seen >= cut.nth && fired.is_none() {
                    fired = Some(at);
                }
            }
        }
        fired.map(|at| self.0.remove(at).0)
    }
}
