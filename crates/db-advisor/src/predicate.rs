//! The columns of a condition that an index could answer.

use sqlparser::{
    ast::{BinaryOperator, Expr},
    dialect::PostgreSqlDialect,
    parser::Parser,
    tokenizer::Token,
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
    if let Some(condition) = parse(condition) {
        walk(&condition, &mut found);
    }
    found
}

/// All of the text as one expression.
fn parse(text: &str) -> Option<Expr> {
    let mut parser = Parser::new(&PostgreSqlDialect {})
        .with_recursion_limit(50)
        .try_with_sql(text)
        .ok()?;
    let parsed = parser.parse_expr().ok()?;
    (parser.peek_token() == Token::EOF).then_some(parsed)
}

/// A column of one of the statement's tables, by the name that the statement gives the table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Side {
    pub(crate) table: String,
    pub(crate) column: String,
}

/// The columns of two tables that a join's condition compares for equality.
pub(crate) fn joined(condition: &str) -> Vec<(Side, Side)> {
    fn walk(condition: &Expr, found: &mut Vec<(Side, Side)>) {
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
            Expr::BinaryOp {
                left,
                op: BinaryOperator::Eq,
                right,
            } => {
                if let (Some(left), Some(right)) = (side(left), side(right)) {
                    found.push((left, right));
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    if let Some(condition) = parse(condition) {
        walk(&condition, &mut found);
    }
    found
}

fn side(expr: &Expr) -> Option<Side> {
    match expr {
        Expr::Nested(inner) => side(inner),
        Expr::CompoundIdentifier(names) => match &**names {
            [table, column] => Some(Side {
                table: table.value.clone(),
                column: column.value.clone(),
            }),
            _ => None,
        },
        _ => None,
    }
}

/// The columns of sort keys as plans print them, when an index in that order serves them: plain columns, all in one
/// direction, which an index can be read in either of.
pub(crate) fn sorted(keys: &[String]) -> Option<Vec<String>> {
    let mut columns = Vec::new();
    let mut directions = Vec::new();
    for key in keys {
        let (expression, down) = match key.strip_suffix(" DESC") {
            Some(expression) => (expression, true),
            None => (key.as_str(), false),
        };
        columns.push(column(&parse(expression)?)?);
        directions.push(down);
    }
    directions.dedup();
    (directions.len() == 1).then_some(columns)
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
    fn joins_and_sorts_as_plans_print_them() {
        let sides = |condition: &str| {
            let one = |side: Side| format!("{}.{}", side.table, side.column);
            joined(condition)
                .into_iter()
                .map(|(a, b)| format!("{}={}", one(a), one(b)))
                .collect::<Vec<_>>()
        };
        assert_eq!(sides("(o.customer_id = c.id)"), ["o.customer_id=c.id"]);
        assert_eq!(
            sides("((o.a = c.a) AND (c.b = o.b) AND (o.n > c.n))"),
            ["o.a=c.a", "c.b=o.b"]
        );
        assert!(sides("((o.a = c.a) OR (c.b = o.b))").is_empty());
        assert!(sides("(lower(o.a) = c.a)").is_empty());
        let keys = |keys: &[&str]| sorted(&keys.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(
            keys(&["o.at DESC", "o.id DESC"]),
            Some(vec!["at".to_owned(), "id".to_owned()])
        );
        assert_eq!(keys(&["at"]), Some(vec!["at".to_owned()]));
        assert_eq!(keys(&["at DESC", "id"]), None);
        assert_eq!(keys(&["at NULLS FIRST"]), None, "an index has its nulls elsewhere");
        assert_eq!(keys(&["(count(*)) DESC"]), None);
        assert_eq!(keys(&["name COLLATE \"C\""]), None);
    }

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
