//! The expressions of a statement: they call functions and hold subqueries.

use super::{
    TableName,
    builtins::OPERATORS,
    functions::{BARE, called},
    walk::{Walk, ident},
};
use sqlparser::ast::{
    AccessExpr, BinaryOperator, Expr, Ident, Interval, Subscript, Value, ValueWithSpan, WildcardAdditionalOptions,
};

impl Walk<'_> {
    pub(super) fn exprs<'e>(&mut self, exprs: impl IntoIterator<Item = &'e Expr>) {
        for expr in exprs {
            self.expr(expr);
        }
    }

    pub(super) fn expr(&mut self, expr: &Expr) {
        // Chains of operators lean to the left and have no limit of their own; a loop keeps the stack flat.
        let mut rest: Vec<&Expr> = Vec::new();
        let mut here = expr;
        while let Some(left) = self.left(here, &mut rest) {
            here = left;
        }
        for expr in rest.into_iter().rev() {
            self.expr(expr);
        }
    }

    /// Notes one expression. Returns its left-most operand and puts the others on `rest`, last one first.
    fn left<'e>(&mut self, expr: &'e Expr, rest: &mut Vec<&'e Expr>) -> Option<&'e Expr> {
        match expr {
            Expr::BinaryOp { left, op, right } => {
                self.operator(op);
                rest.push(right);
                Some(left)
            }
            Expr::AnyOp {
                left,
                compare_op: op,
                right,
                is_some: _,
            }
            | Expr::AllOp {
                left,
                compare_op: op,
                right,
            } => {
                self.operator(op);
                rest.push(right);
                Some(left)
            }
            Expr::IsDistinctFrom(left, right) | Expr::IsNotDistinctFrom(left, right) => {
                rest.push(right);
                Some(left)
            }
            Expr::IsFalse(expr)
            | Expr::IsNotFalse(expr)
            | Expr::IsTrue(expr)
            | Expr::IsNotTrue(expr)
            | Expr::IsNull(expr)
            | Expr::IsNotNull(expr)
            | Expr::IsUnknown(expr)
            | Expr::IsNotUnknown(expr)
            | Expr::IsJson { expr, .. }
            | Expr::IsNormalized { expr, .. }
            | Expr::UnaryOp { expr, op: _ }
            | Expr::Cast {
                expr,
                kind: _,
                data_type: _,
                format: None,
            }
            | Expr::Extract {
                expr,
                field: _,
                syntax: _,
            }
            | Expr::Ceil { expr, field: _ }
            | Expr::Floor { expr, field: _ }
            | Expr::Collate { expr, collation: _ }
            | Expr::Prefixed { value: expr, prefix: _ }
            | Expr::Named { expr, name: _ }
            | Expr::Interval(Interval { value: expr, .. })
            | Expr::Nested(expr) => Some(expr),
            Expr::Between {
                expr,
                negated: _,
                low,
                high,
            } => {
                rest.extend([&**high, low]);
                Some(expr)
            }
            Expr::Like {
                expr,
                pattern,
                escape_char,
                negated: _,
                any: _,
            }
            | Expr::ILike {
                expr,
                pattern,
                escape_char,
                negated: _,
                any: _,
            }
            | Expr::SimilarTo {
                expr,
                pattern,
                escape_char,
                negated: _,
            } => {
                rest.extend(escape_char.as_deref());
                rest.push(pattern);
                Some(expr)
            }
            Expr::InList { expr, list, negated: _ } => {
                rest.extend(list.iter().rev());
                Some(expr)
            }
            Expr::AtTimeZone { timestamp, time_zone } => {
                rest.push(time_zone);
                Some(timestamp)
            }
            _ => {
                self.other(expr);
                None
            }
        }
    }

    fn other(&mut self, expr: &Expr) {
        match expr {
            Expr::Value(ValueWithSpan { value, span: _ }) => {
                // MySQL's strings: PostgreSQL would take such a token for a name.
                if matches!(value, Value::DoubleQuotedString(_)) {
                    self.found.unknown();
                }
            }
            Expr::Identifier(name) => self.column(name),
            Expr::CompoundIdentifier(_) | Expr::TypedString(_) | Expr::Wildcard(_) | Expr::QualifiedWildcard(..) => {}
            Expr::CompoundFieldAccess { root, access_chain } => {
                self.expr(root);
                for access in access_chain {
                    match access {
                        AccessExpr::Dot(Expr::Identifier(_)) => {}
                        AccessExpr::Dot(expr) => self.expr(expr),
                        AccessExpr::Subscript(Subscript::Index { index }) => self.expr(index),
                        AccessExpr::Subscript(Subscript::Slice {
                            lower_bound,
                            upper_bound,
                            stride,
                        }) => {
                            self.exprs(lower_bound.iter().chain(upper_bound).chain(stride));
                        }
                    }
                }
            }
            Expr::InSubquery {
                expr,
                subquery,
                negated: _,
            } => {
                self.expr(expr);
                self.query(subquery);
            }
            Expr::Exists { subquery, negated: _ } | Expr::Subquery(subquery) => self.query(subquery),
            Expr::Position { expr, r#in } => self.exprs([&**expr, r#in]),
            Expr::Substring {
                expr,
                substring_from,
                substring_for,
                special: _,
                shorthand: _,
            } => {
                self.expr(expr);
                self.exprs(substring_from.as_deref().into_iter().chain(substring_for.as_deref()));
            }
            Expr::Trim {
                trim_where: _,
                trim_what,
                expr,
                trim_characters,
            } => {
                self.exprs(trim_what.as_deref());
                self.expr(expr);
                self.exprs(trim_characters.iter().flatten());
            }
            Expr::Overlay {
                expr,
                overlay_what,
                overlay_from,
                overlay_for,
            } => {
                self.exprs([&**expr, overlay_what, overlay_from]);
                self.exprs(overlay_for.as_deref());
            }
            Expr::Function(function) => self.function(function),
            Expr::Case {
                case_token: _,
                end_token: _,
                operand,
                conditions,
                else_result,
            } => {
                self.exprs(operand.as_deref());
                for when in conditions {
                    self.exprs([&when.condition, &when.result]);
                }
                self.exprs(else_result.as_deref());
            }
            Expr::GroupingSets(sets) | Expr::Cube(sets) | Expr::Rollup(sets) => self.exprs(sets.iter().flatten()),
            Expr::Tuple(exprs) => self.exprs(exprs),
            Expr::Array(array) => self.exprs(&array.elem),
            // What is left belongs to other databases.
            _ => self.found.unknown(),
        }
    }

    fn operator(&mut self, op: &BinaryOperator) {
        match op {
            BinaryOperator::PGCustomBinaryOperator(name) => {
                self.found.opaque |= name.len() > 1 && name[0] != "pg_catalog";
            }
            BinaryOperator::Custom(name) => self.found.opaque |= OPERATORS.binary_search(&&**name).is_err(),
            _ => {}
        }
    }

    fn column(&mut self, name: &Ident) {
        if name.quote_style.is_none() && BARE.iter().any(|bare| name.value.eq_ignore_ascii_case(bare)) {
            called(self.found, None, &ident(name));
        }
    }

    /// `*` as PostgreSQL has it: with nothing behind it.
    pub(super) fn wildcard(&mut self, options: &WildcardAdditionalOptions) {
        let WildcardAdditionalOptions {
            wildcard_token: _,
            opt_ilike: None,
            opt_exclude: None,
            opt_except: None,
            opt_replace: None,
            opt_rename: None,
            opt_alias: None,
        } = options
        else {
            return self.found.unknown();
        };
    }

    /// The table that an expression in the place of a name means.
    pub(super) fn name_of(&self, expr: &Expr) -> Option<TableName> {
        match expr {
            Expr::Identifier(name) => Some(TableName {
                schema: None,
                name: ident(name),
            }),
            Expr::CompoundIdentifier(parts) => match &parts[..] {
                [schema, name] | [_, schema, name] => Some(TableName {
                    schema: Some(ident(schema)),
                    name: ident(name),
                }),
                _ => None,
            },
            _ => None,
        }
    }
}
