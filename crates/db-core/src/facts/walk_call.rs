//! Calls of functions, with their arguments, orders and windows.

use super::{
    TableName,
    functions::called,
    walk::{Walk, table_name},
};
use sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause, FunctionArgumentList, FunctionArguments,
    NamedWindowExpr, ObjectName, OrderByExpr, Value, ValueWithSpan, WindowFrameBound, WindowSpec, WindowType,
};

impl Walk<'_> {
    pub(super) fn call(&mut self, name: &ObjectName) {
        match table_name(name) {
            Some(TableName { schema, name }) => called(self.found, schema.as_deref(), &name),
            None => self.found.unknown(),
        }
    }

    pub(super) fn function(&mut self, function: &Function) {
        let Function {
            name,
            uses_odbc_syntax,
            parameters,
            args,
            within_group,
            filter,
            null_treatment: _,
            over,
        } = function;
        self.call(name);
        if *uses_odbc_syntax || !matches!(parameters, FunctionArguments::None) {
            self.found.unknown();
        }
        match args {
            FunctionArguments::None => {}
            FunctionArguments::Subquery(query) => self.query(query),
            FunctionArguments::List(FunctionArgumentList {
                duplicate_treatment: _,
                args,
                clauses,
            }) => {
                self.set_config(name, args);
                self.arguments(args);
                for clause in clauses {
                    self.clause(clause);
                }
            }
        }
        self.sort(within_group);
        self.exprs(filter.as_deref());
        match over {
            Some(WindowType::WindowSpec(spec)) => self.window(spec),
            Some(WindowType::NamedWindow(_)) | None => {}
        }
    }

    /// `set_config(name, value, true)` ends with the transaction, any other call stays.
    fn set_config(&mut self, name: &ObjectName, args: &[FunctionArg]) {
        if table_name(name).is_some_and(|table| &*table.name == "set_config") {
            let local = matches!(
                args,
                [
                    _,
                    _,
                    FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::Value(ValueWithSpan {
                        value: Value::Boolean(true),
                        span: _
                    })))
                ]
            );
            self.found.leaves_state |= !local;
        }
    }

    pub(super) fn arguments(&mut self, args: &[FunctionArg]) {
        for arg in args {
            let arg = match arg {
                FunctionArg::Named {
                    name: _,
                    arg,
                    operator: _,
                }
                | FunctionArg::Unnamed(arg) => arg,
                FunctionArg::ExprNamed { name, arg, operator: _ } => {
                    self.expr(name);
                    arg
                }
            };
            match arg {
                FunctionArgExpr::Expr(expr) => self.expr(expr),
                FunctionArgExpr::QualifiedWildcard(_) | FunctionArgExpr::Wildcard => {}
                FunctionArgExpr::WildcardWithOptions(_) => self.found.unknown(),
            }
        }
    }

    fn clause(&mut self, clause: &FunctionArgumentClause) {
        match clause {
            FunctionArgumentClause::OrderBy(items) => self.sort(items),
            FunctionArgumentClause::JsonNullClause(_) | FunctionArgumentClause::JsonReturningClause(_) => {}
            _ => self.found.unknown(),
        }
    }

    pub(super) fn sort(&mut self, items: &[OrderByExpr]) {
        for OrderByExpr {
            expr,
            options: _,
            with_fill,
        } in items
        {
            self.expr(expr);
            if with_fill.is_some() {
                self.found.unknown();
            }
        }
    }

    pub(super) fn named_window(&mut self, window: &NamedWindowExpr) {
        if let NamedWindowExpr::WindowSpec(spec) = window {
            self.window(spec);
        }
    }

    fn window(&mut self, spec: &WindowSpec) {
        let WindowSpec {
            window_name: _,
            partition_by,
            order_by,
            window_frame,
        } = spec;
        self.exprs(partition_by);
        self.sort(order_by);
        let bounds = window_frame
            .iter()
            .flat_map(|frame| [Some(&frame.start_bound), frame.end_bound.as_ref()]);
        for bound in bounds.flatten() {
            match bound {
                WindowFrameBound::Preceding(expr) | WindowFrameBound::Following(expr) => self.exprs(expr.as_deref()),
                WindowFrameBound::CurrentRow => {}
            }
        }
    }
}
