//! The columns of a condition that an index could answer.

use sqlparser::{
    ast::{BinaryOperator, Expr},
    dialect::PostgreSqlDialect,
    parser::Parser,
};

/// Columns that are compared with something that is not a column.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Columns {
    /// By `=`, `IN`, `= ANY`.
    pub(crate) equal: Vec<String>,
    /// By `<`, `<=`, `>`, `>=`, `BETWEEN`.
    pub(crate) range: Vec<String>,
}

/// Those of a condition as plans print it. What is not understood is left out: it would only be less advice.
pub(crate) fn columns(condition: &str) -> Columns {
    let mut found = Columns::default();
    let parsed = Parser::new(&PostgreSqlDialect {})
        .with_recursion_limit(50)
        .try_with_sql(condition)
        .and_then(|mut parser| parser.parse_expr());
    if let Ok(condition) = parsed {
        walk(&condition, &mut found);
    }
    found
}

/// Every part of a conjunction; an OR can't be answered by one index.
fn walk(condition: &Expr, found: &mut Columns) {
    match condition {
        Expr::Nested(inner) => walk(inner, found),
        Expr::BinaryOp {
            left,
            op: BinaryOperator::And,
            right,
        } => {
            walk(left, found);
            walk(right, found);
        }
        Expr::BinaryOp { left, op, right } => {
            let column = match (column(left), column(right)) {
                (Some(column), None) | (None, Some(column)) => column,
                _ => return,
            };
            match op {
                BinaryOperator::Eq => add(&mut found.equal, column),
                BinaryOperator::Lt | BinaryOperator::LtEq | BinaryOperator::Gt | BinaryOperator::GtEq => {
                    add(&mut found.range, column);
                }
                _ => {}
            }
        }
        Expr::AnyOp {
            left,
            compare_op: BinaryOperator::Eq,
            right,
            ..
        } if self::column(right).is_none() => {
            if let Some(column) = column(left) {
                add(&mut found.equal, column);
            }
        }
        _ => {}
    }
}

/// The column that an expression is, under casts and parentheses.
fn column(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Nested(inner) => column(inner),
        // A cast of the column itself is another expression to an index, except between text types, which plans show.
        Expr::Cast { expr, data_type, .. } if data_type.to_string().eq_ignore_ascii_case("text") => column(expr),
        Expr::Identifier(name) => plain(&name.value, name.quote_style.is_some()),
        Expr::CompoundIdentifier(names) => names
            .last()
            .and_then(|name| plain(&name.value, name.quote_style.is_some())),
        _ => None,
    }
}

fn plain(name: &str, quoted: bool) -> Option<String> {
    const NOT_COLUMNS: [&str; 5] = ["true", "false", "null", "current_date", "current_user"];
    (quoted || !NOT_COLUMNS.contains(&&*name.to_ascii_lowercase())).then(|| name.to_owned())
}

fn add(columns: &mut Vec<String>, column: String) {
    if !columns.contains(&column) {
        columns.push(column);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_as_plans_print_them() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("(customer_id = $1)", &["customer_id"], &[]),
            ("((o.state = 'open'::text) AND (o.at > $2))", &["state"], &["at"]),
            ("((state)::text = $1)", &["state"], &[]),
            ("(id = ANY ('{1,2}'::integer[]))", &["id"], &[]),
            ("(id = ANY ($1))", &["id"], &[]),
            ("((a = $1) OR (b = $2))", &[], &[]),
            ("(a = b)", &[], &[]),
            ("(lower(name) = $1)", &[], &[]),
            ("(\"Odd Name\" = $1)", &["Odd Name"], &[]),
            ("(not a condition", &[], &[]),
        ];
        for (condition, equal, range) in cases {
            let found = columns(condition);
            assert_eq!(
                (found.equal, found.range),
                (
                    equal.iter().map(ToString::to_string).collect(),
                    range.iter().map(ToString::to_string).collect()
                ),
                "{condition}"
            );
        }
    }
}
