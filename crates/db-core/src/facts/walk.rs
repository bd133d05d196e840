//! Walks sqlparser's tree of a query or of a statement that changes rows.
//!
//! Structs are taken apart without `..` and what PostgreSQL does not have is not understood, so that a newer
//! sqlparser can't add a place for a table or a function that nobody looks at.

use super::{
    TableName,
    found::{Found, fold},
    functions::{BARE, called},
};
use sqlparser::ast::{
    Cte, Distinct, GroupByExpr, GroupByWithModifier, Ident, JoinConstraint, JoinOperator, LimitClause, ObjectName,
    ObjectNamePart, OrderBy, OrderByKind, Query, Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr,
    Statement, TableFactor, TableSampleKind, TableWithJoins, Values, With,
};

/// The walk through one statement, with the names of the CTEs that are visible.
pub(super) struct Walk<'f> {
    pub(super) found: &'f mut Found,
    scope: Vec<Box<str>>,
}

impl<'f> Walk<'f> {
    pub(super) fn new(found: &'f mut Found) -> Self {
        Self {
            found,
            scope: Vec::new(),
        }
    }

    pub(super) fn statement(&mut self, statement: &Statement) {
        match statement {
            Statement::Query(query) => self.query(query),
            Statement::Insert(insert) => self.insert(insert),
            Statement::Update(update) => self.update(update),
            Statement::Delete(delete) => self.delete(delete),
            Statement::Merge(merge) => self.merge(merge),
            _ => self.found.unknown(),
        }
    }

    /// Notes that a part is there which PostgreSQL does not have.
    pub(super) fn foreign(&mut self, there: bool) {
        if there {
            self.found.unknown();
        }
    }

    pub(super) fn query(&mut self, query: &Query) {
        let Query {
            with,
            body,
            order_by,
            limit_clause,
            fetch,
            locks,
            for_clause,
            settings,
            format_clause,
            pipe_operators,
        } = query;
        let visible = self.scope.len();
        self.with(with.as_ref());
        self.body(body);
        self.order_by(order_by.as_ref());
        match limit_clause {
            None => {}
            Some(LimitClause::LimitOffset {
                limit,
                offset,
                limit_by,
            }) => {
                self.exprs(limit);
                self.exprs(offset.as_ref().map(|offset| &offset.value));
                self.exprs(limit_by);
            }
            Some(LimitClause::OffsetCommaLimit { .. }) => self.found.unknown(),
        }
        self.exprs(fetch.as_ref().and_then(|fetch| fetch.quantity.as_ref()));
        self.found.locking |= !locks.is_empty();
        self.foreign(
            for_clause.is_some() || settings.is_some() || format_clause.is_some() || !pipe_operators.is_empty(),
        );
        self.scope.truncate(visible);
    }

    fn with(&mut self, with: Option<&With>) {
        let Some(With {
            with_token: _,
            recursive,
            cte_tables,
        }) = with
        else {
            return;
        };
        // Under RECURSIVE every CTE sees all of them, otherwise only those before it.
        if *recursive {
            self.scope.extend(cte_tables.iter().map(|cte| ident(&cte.alias.name)));
        }
        for Cte {
            alias,
            query,
            from,
            materialized: _,
            closing_paren_token: _,
        } in cte_tables
        {
            self.foreign(from.is_some());
            self.query(query);
            if !*recursive {
                self.scope.push(ident(&alias.name));
            }
        }
    }

    fn body(&mut self, body: &SetExpr) {
        // `a UNION b UNION c` leans to the left; a loop keeps the stack flat.
        let mut rest = Vec::new();
        let mut first = body;
        while let SetExpr::SetOperation {
            left,
            op: _,
            set_quantifier: _,
            right,
        } = first
        {
            rest.push(&**right);
            first = left;
        }
        rest.push(first);
        for part in rest.into_iter().rev() {
            match part {
                SetExpr::Select(select) => self.select(select),
                SetExpr::Query(query) => self.query(query),
                SetExpr::Values(values) => self.values(values),
                SetExpr::Insert(statement)
                | SetExpr::Update(statement)
                | SetExpr::Delete(statement)
                | SetExpr::Merge(statement) => self.statement(statement),
                SetExpr::SetOperation { .. } => self.body(part),
                // Quotes are lost here; `TABLE t` is rewritten before it comes this far.
                SetExpr::Table(_) => self.found.unknown(),
            }
        }
    }

    pub(super) fn values(&mut self, values: &Values) {
        for row in &values.rows {
            self.exprs(&row.content);
        }
    }

    fn select(&mut self, select: &Select) {
        let Select {
            select_token: _,
            optimizer_hints: _,
            distinct,
            select_modifiers,
            top,
            top_before_distinct: _,
            projection,
            exclude,
            into,
            from,
            lateral_views,
            prewhere,
            selection,
            connect_by,
            group_by,
            cluster_by,
            distribute_by,
            sort_by,
            having,
            named_window,
            qualify,
            window_before_qualify: _,
            value_table_mode,
            flavor: _,
        } = select;
        self.foreign(
            select_modifiers.is_some()
                || top.is_some()
                || exclude.is_some()
                || !lateral_views.is_empty()
                || prewhere.is_some()
                || !connect_by.is_empty()
                || !cluster_by.is_empty()
                || !distribute_by.is_empty()
                || !sort_by.is_empty()
                || qualify.is_some()
                || value_table_mode.is_some(),
        );
        self.found.summary.nested("SELECT");
        if let Some(Distinct::On(exprs)) = distinct {
            self.exprs(exprs);
        }
        self.projection(projection);
        if let Some(into) = into {
            self.select_into(into);
        }
        self.tables(from);
        self.exprs(selection);
        let (exprs, modifiers) = match group_by {
            GroupByExpr::All(modifiers) => (&[][..], modifiers),
            GroupByExpr::Expressions(exprs, modifiers) => (&exprs[..], modifiers),
        };
        self.exprs(exprs);
        for modifier in modifiers {
            match modifier {
                GroupByWithModifier::GroupingSets(expr) => self.expr(expr),
                _ => self.found.unknown(),
            }
        }
        self.exprs(having);
        for window in named_window {
            self.named_window(&window.1);
        }
    }

    pub(super) fn projection(&mut self, items: &[SelectItem]) {
        for item in items {
            match item {
                SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, alias: _ } => self.expr(expr),
                SelectItem::Wildcard(options) => self.wildcard(options),
                SelectItem::QualifiedWildcard(kind, options) => {
                    if let SelectItemQualifiedWildcardKind::Expr(expr) = kind {
                        self.expr(expr);
                    }
                    self.wildcard(options);
                }
                SelectItem::ExprWithAliases { .. } => self.found.unknown(),
            }
        }
    }

    fn order_by(&mut self, order_by: Option<&OrderBy>) {
        let Some(OrderBy { kind, interpolate }) = order_by else {
            return;
        };
        self.foreign(interpolate.is_some());
        match kind {
            OrderByKind::Expressions(items) => self.sort(items),
            OrderByKind::All(_) => self.found.unknown(),
        }
    }

    pub(super) fn tables(&mut self, tables: &[TableWithJoins]) {
        for TableWithJoins { relation, joins } in tables {
            self.factor(relation);
            for join in joins {
                self.factor(&join.relation);
                self.foreign(join.global);
                self.join(&join.join_operator);
            }
        }
    }

    fn join(&mut self, operator: &JoinOperator) {
        use JoinOperator as J;
        match operator {
            J::Join(on)
            | J::Inner(on)
            | J::Left(on)
            | J::LeftOuter(on)
            | J::Right(on)
            | J::RightOuter(on)
            | J::FullOuter(on)
            | J::CrossJoin(on) => match on {
                JoinConstraint::On(expr) => self.expr(expr),
                JoinConstraint::Using(_) | JoinConstraint::Natural | JoinConstraint::None => {}
            },
            _ => self.found.unknown(),
        }
    }

    pub(super) fn factor(&mut self, factor: &TableFactor) {
        match factor {
            TableFactor::Table {
                name,
                alias: _,
                args,
                with_hints,
                version,
                with_ordinality: _,
                partitions,
                json_path,
                sample,
                index_hints,
            } => {
                self.foreign(
                    !with_hints.is_empty()
                        || version.is_some()
                        || !partitions.is_empty()
                        || json_path.is_some()
                        || !index_hints.is_empty(),
                );
                match args {
                    Some(args) => {
                        self.foreign(args.settings.is_some());
                        self.call(name);
                        self.arguments(&args.args);
                    }
                    None => self.reads(name),
                }
                self.sample(sample.as_ref());
            }
            TableFactor::Derived {
                lateral: _,
                subquery,
                alias: _,
                sample,
            } => {
                self.query(subquery);
                self.sample(sample.as_ref());
            }
            TableFactor::Function {
                lateral: _,
                name,
                args,
                with_ordinality: _,
                alias: _,
            } => {
                self.call(name);
                self.arguments(args);
            }
            TableFactor::TableFunction { expr, alias: _ } => self.expr(expr),
            TableFactor::UNNEST { array_exprs, .. } => self.exprs(array_exprs),
            TableFactor::NestedJoin {
                table_with_joins,
                alias: _,
            } => {
                self.tables(std::slice::from_ref(&**table_with_joins));
            }
            TableFactor::JsonTable {
                json_expr,
                json_path: _,
                columns: _,
                alias: _,
            } => self.expr(json_expr),
            _ => self.found.unknown(),
        }
    }

    /// A sample is another one each time, unless it names its seed.
    fn sample(&mut self, sample: Option<&TableSampleKind>) {
        if let Some(TableSampleKind::BeforeTableAlias(sample) | TableSampleKind::AfterTableAlias(sample)) = sample {
            self.found.volatile |= sample.seed.is_none();
            self.exprs(sample.quantity.as_ref().map(|quantity| &quantity.value));
        }
    }

    pub(super) fn reads(&mut self, name: &ObjectName) {
        let Some(table) = table_name(name) else {
            return self.found.unknown();
        };
        let quoted = matches!(&name.0[..], [ObjectNamePart::Identifier(only)] if only.quote_style.is_some());
        if table.schema.is_none() && !quoted && BARE.contains(&&*table.name) {
            called(self.found, None, &table.name);
        } else if table.schema.is_some() || !self.scope.contains(&table.name) {
            self.found.read(table);
        }
    }
}

pub(super) fn ident(ident: &Ident) -> Box<str> {
    fold(&ident.value, ident.quote_style.is_some())
}

/// `table`, `schema.table` or `database.schema.table`.
pub(super) fn table_name(name: &ObjectName) -> Option<TableName> {
    let part = |part: &ObjectNamePart| match part {
        ObjectNamePart::Identifier(name) => Some(ident(name)),
        ObjectNamePart::Function(_) => None,
    };
    match &name.0[..] {
        [name] => Some(TableName {
            schema: None,
            name: part(name)?,
        }),
        [schema, name] | [_, schema, name] => Some(TableName {
            schema: Some(part(schema)?),
            name: part(name)?,
        }),
        _ => None,
    }
}
