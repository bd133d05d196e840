//! The arguments of a statement as parts of a key. sqlx keeps their types and bytes to itself: the types are in their
//! debug text alone, the bytes are shown to whatever is encoded behind them.

use sqlx::{
    Arguments, Encode, Postgres, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgArguments, PgTypeInfo, types::Oid},
};
use std::{
    cell::Cell,
    fmt::{self, Write},
};

/// Hands out everything that tells these arguments from others, in parts that are always cut in the same places.
/// The arguments are what they were afterwards.
pub(crate) fn parts(args: &mut PgArguments, part: &mut dyn FnMut(&[u8])) {
    let mut types = Types {
        part: &mut *part,
        simple: true,
        separated: false,
        ended: false,
        all: false,
    };
    // Stopped on the way, which is no error.
    _ = write!(types, "{args:?}");
    if types.ended && read(args, &mut *part) {
        return;
    }
    // A type that is more than a name, or a debug text that is not what it was: then all of the text counts.
    let mut text = Types {
        part,
        simple: false,
        separated: false,
        ended: false,
        all: true,
    };
    // The only error is that of a value's own `Debug`, after the same text each time.
    _ = write!(text, "{args:?}");
}

/// Hands out the encoded bytes; `false` when sqlx does not show them.
fn read(args: &mut PgArguments, part: &mut dyn FnMut(&[u8])) -> bool {
    let mut shown = false;
    let look = |bytes: &[u8]| {
        shown = true;
        part(bytes);
    };
    // It refuses to be encoded, and sqlx then undoes what it had begun.
    drop(args.add(Look(Cell::new(Some(look)))));
    shown
}

/// Takes the debug text of arguments as far as their bytes. The pieces it comes in are what tells names from signs.
struct Types<'a> {
    part: &'a mut dyn FnMut(&[u8]),
    /// All types so far are built-in ones, which a name tells in full.
    simple: bool,
    /// The last piece was the comma between fields.
    separated: bool,
    /// All types have been told.
    ended: bool,
    /// Every piece counts, and there is no end.
    all: bool,
}

impl Write for Types<'_> {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        if self.all {
            (self.part)(piece.as_bytes());
            return Ok(());
        }
        let separated = std::mem::replace(&mut self.separated, piece == ", ");
        match piece {
            // The field after the types. Within them no comma is followed by this: names follow a bracket or a colon.
            "buffer" if separated && self.simple => {
                self.ended = true;
                return Err(fmt::Error);
            }
            "PgArguments" | "PgTypeInfo" | "types" | "[" | "]" | "(" | ")" | ", " | ": " | " { " => {}
            _ => {
                self.simple &= !(piece == "Custom" || piece.starts_with("Declare") || piece.starts_with("Record"));
                (self.part)(piece.as_bytes());
            }
        }
        // The rest would be spelt out for nothing.
        if self.simple { Ok(()) } else { Err(fmt::Error) }
    }
}

/// What looks at the buffer: it never becomes an argument.
struct Look<F>(Cell<Option<F>>);

impl<F: FnMut(&[u8])> Encode<'_, Postgres> for Look<F> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        if let Some(mut look) = self.0.take() {
            look(buffer);
        }
        Err(Box::new(fmt::Error))
    }
}

impl<F> Type<Postgres> for Look<F> {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sqlx::postgres::types::PgInterval;
    use std::collections::HashSet;

    /// Each part with its length.
    fn all(args: &mut PgArguments) -> Vec<u8> {
        let mut all = Vec::new();
        parts(args, &mut |part| {
            all.extend_from_slice(&(part.len() as u64).to_le_bytes());
            all.extend_from_slice(part);
        });
        all
    }

    macro_rules! args {
        ($($value:expr),*) => {{
            #[allow(unused_mut, reason = "there may be none")]
            let mut args = PgArguments::default();
            $(args.add($value).unwrap();)*
            args
        }};
    }

    #[test]
    fn different_arguments_have_different_parts() {
        let mut seen = HashSet::new();
        let sets = [
            args!(),
            args!(1_i16),
            args!(1_i32),
            args!(1_i64),
            args!(1.0_f32),
            args!(1.0_f64),
            args!(true),
            args!("1"),
            args!(""),
            args!(None::<&str>),
            args!(None::<i32>),
            args!(&b"1"[..]),
            args!(1_i32, 1_i32),
            args!(1_i64, 1_i32),
            args!("ab", "c"),
            args!("a", "bc"),
            args!("abc", ""),
            args!(vec![1_i32, 2]),
            args!(vec![1_i64, 2]),
            args!(Vec::<i32>::new()),
            args!(Oid(1)),
            args!(PgInterval {
                months: 1,
                days: 0,
                microseconds: 0
            }),
        ];
        let count = sets.len();
        for mut set in sets {
            assert!(seen.insert(all(&mut set)), "{set:?}");
        }
        assert_eq!(seen.len(), count);
    }

    #[test]
    fn looking_leaves_the_arguments_as_they_were() {
        let mut args = args!(7_i64, "seven");
        let (before, parts) = (format!("{args:?}"), all(&mut args));
        assert_eq!(format!("{args:?}"), before);
        assert_eq!(all(&mut args), parts);
        assert_eq!(args.len(), 2);
    }

    #[test]
    fn the_bytes_of_simple_types_are_not_spelt_out() {
        let mut args = args!(7_i64, "seven");
        let mut count = 0;
        parts(&mut args, &mut |_| count += 1);
        assert_eq!(count, 3, "two types, and the bytes");
    }

    struct Named(&'static str, i32);

    impl Type<Postgres> for Named {
        fn type_info() -> PgTypeInfo {
            PgTypeInfo::with_name("buffer")
        }
    }

    impl Encode<'_, Postgres> for Named {
        fn produces(&self) -> Option<PgTypeInfo> {
            Some(PgTypeInfo::with_name(self.0))
        }

        fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
            Encode::<Postgres>::encode_by_ref(&self.1, buffer)
        }
    }

    #[test]
    fn a_type_that_is_a_name_counts_with_all_that_follows() {
        let mut seen = HashSet::new();
        for name in ["buffer", ", ", "Int4", "PgTypeInfo", "Int4), PgTypeInfo(Int4"] {
            for (value, behind) in [(1, 1_i32), (1, 2), (2, 1)] {
                assert!(
                    seen.insert(all(&mut args!(Named(name, value), behind))),
                    "{name} {value}"
                );
                assert!(
                    seen.insert(all(&mut args!(behind, Named(name, value)))),
                    "{name} {value}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn bytes_and_borders_count(one in any::<(String, Vec<u8>, Option<i32>)>(), other in any::<(String, Vec<u8>, Option<i32>)>()) {
            let parts = |(a, b, c): &(String, Vec<u8>, Option<i32>)| all(&mut args!(a.as_str(), b.as_slice(), *c));
            prop_assert_eq!(one == other, parts(&one) == parts(&other));
        }
    }
}
