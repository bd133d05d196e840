//! What an answer takes in memory, without asking its type: from the rows that it was made of.

use crate::cached::query;
use db_cache::allocated;
use db_core::row_bytes;
use sqlx::{Column, Row, TypeInfo, ValueRef, postgres::PgRow};

/// An answer's own head: its counts and, for all rows, the list of them.
const HEAD: usize = 40;
/// For each column a row of sqlx's notes where its value is.
const PLACE: usize = 12;
/// What sqlx reads into at a time.
const READ_BUFFER: usize = 8 * 1024;

/// About what values of this type take that were made of these rows.
pub(crate) fn bytes<V: 'static>(rows: &[PgRow]) -> usize {
    let own = allocated(HEAD) + allocated(size_of::<V>() * rows.len());
    if query::is_row::<V>() {
        let values: usize = rows.iter().map(row_bytes).sum();
        let places: usize = rows.iter().map(|row| allocated(PLACE * row.len())).sum();
        // A row of sqlx's is a slice of the buffer it was read into, and keeps all of it.
        own + places + values.max(READ_BUFFER)
    } else {
        own + on_the_heap(rows)
    }
}

/// What values of a length of their own take beside the struct that they are in: one block each.
fn on_the_heap(rows: &[PgRow]) -> usize {
    let Some(first) = rows.first() else { return 0 };
    let varying: Vec<usize> = first
        .columns()
        .iter()
        .filter(|column| !is_fixed(column.type_info().name()))
        .map(Column::ordinal)
        .collect();
    let value = |row: &PgRow, column: usize| {
        let raw = row.try_get_raw(column).ok().filter(|raw| !raw.is_null())?;
        Some(allocated(raw.as_bytes().ok()?.len()))
    };
    rows.iter()
        .map(|row| varying.iter().filter_map(|column| value(row, *column)).sum::<usize>())
        .sum()
}

/// Whether values of this type lie within the struct.
fn is_fixed(name: &str) -> bool {
    matches!(
        name,
        "BOOL"
            | "\"CHAR\""
            | "INT2"
            | "INT4"
            | "INT8"
            | "FLOAT4"
            | "FLOAT8"
            | "OID"
            | "UUID"
            | "DATE"
            | "TIME"
            | "TIMETZ"
            | "TIMESTAMP"
            | "TIMESTAMPTZ"
            | "INTERVAL"
            | "MONEY"
            | "VOID"
    )
}
