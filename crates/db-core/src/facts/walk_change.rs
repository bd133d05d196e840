//! Statements that change rows: `INSERT`, `UPDATE`, `DELETE`, `MERGE`.

use super::{
    StatementKind,
    walk::{Walk, table_name},
};
use sqlparser::ast::{
    Assignment, Delete, FromTable, Insert, Merge, MergeAction, MergeClause, MergeInsertExpr, MergeInsertKind,
    MergeUpdateExpr, MergeUpdateKind, ObjectName, OnConflict, OnConflictAction, OnInsert, OutputClause, SelectInto,
    SelectItem, TableFactor, TableObject, TableWithJoins, Update, UpdateTableFromKind,
};

impl Walk<'_> {
    /// `SELECT … INTO` defines a table.
    pub(super) fn select_into(&mut self, into: &SelectInto) {
        let SelectInto {
            temporary,
            unlogged: _,
            table: _,
            targets,
        } = into;
        for target in targets {
            match self.name_of(target) {
                Some(table) => {
                    let temporary = *temporary || table.schema.as_deref() == Some("pg_temp");
                    self.found.kind(if temporary {
                        StatementKind::Session
                    } else {
                        StatementKind::Ddl
                    });
                    self.found.leaves_state |= temporary;
                    self.found.write(table);
                }
                None => self.found.unknown(),
            }
        }
    }

    /// The target of a change is never a CTE, whatever the CTEs are called.
    fn writes(&mut self, op: &str, name: &ObjectName) {
        self.found.kind(StatementKind::Write);
        self.found.summary.op(op);
        match table_name(name) {
            Some(table) => self.found.write(table),
            None => self.found.unknown(),
        }
    }

    fn target(&mut self, op: &str, factor: &TableFactor) {
        match factor {
            TableFactor::Table { name, args: None, .. } => self.writes(op, name),
            _ => self.found.unknown(),
        }
    }

    fn assignments(&mut self, assignments: &[Assignment]) {
        self.exprs(assignments.iter().map(|assignment| &assignment.value));
    }

    fn returning(&mut self, returning: Option<&[SelectItem]>, output: Option<&OutputClause>) {
        self.projection(returning.unwrap_or_default());
        match output {
            None => {}
            Some(OutputClause::Returning {
                returning_token: _,
                select_items,
            }) => self.projection(select_items),
            Some(OutputClause::Output { .. }) => self.found.unknown(),
        }
    }

    pub(super) fn insert(&mut self, insert: &Insert) {
        let Insert {
            insert_token: _,
            optimizer_hints: _,
            or,
            ignore,
            into: _,
            table,
            table_alias: _,
            columns: _,
            overwrite,
            source,
            assignments,
            partitioned,
            after_columns,
            has_table_keyword,
            on,
            returning,
            output,
            replace_into,
            priority,
            insert_alias,
            settings,
            format_clause,
            multi_table_insert_type,
            multi_table_into_clauses,
            multi_table_when_clauses,
            multi_table_else_clause,
        } = insert;
        self.foreign(
            or.is_some()
                || *ignore
                || *overwrite
                || !assignments.is_empty()
                || partitioned.is_some()
                || !after_columns.is_empty()
                || *has_table_keyword
                || *replace_into
                || priority.is_some()
                || insert_alias.is_some()
                || settings.is_some()
                || format_clause.is_some()
                || multi_table_insert_type.is_some()
                || !multi_table_into_clauses.is_empty()
                || !multi_table_when_clauses.is_empty()
                || multi_table_else_clause.is_some(),
        );
        match table {
            TableObject::TableName(name) => self.writes("INSERT", name),
            _ => self.found.unknown(),
        }
        if let Some(source) = source {
            self.query(source);
        }
        match on {
            None => {}
            Some(OnInsert::OnConflict(OnConflict {
                conflict_target: _,
                action,
            })) => match action {
                OnConflictAction::DoNothing => {}
                OnConflictAction::DoUpdate(update) => {
                    self.assignments(&update.assignments);
                    self.exprs(&update.selection);
                }
            },
            Some(_) => self.found.unknown(),
        }
        self.returning(returning.as_deref(), output.as_ref());
    }

    pub(super) fn update(&mut self, update: &Update) {
        let Update {
            update_token: _,
            optimizer_hints: _,
            table,
            assignments,
            from,
            selection,
            returning,
            output,
            or,
            order_by,
            limit,
        } = update;
        self.foreign(or.is_some() || !order_by.is_empty() || limit.is_some() || !table.joins.is_empty());
        self.target("UPDATE", &table.relation);
        self.assignments(assignments);
        if let Some(UpdateTableFromKind::BeforeSet(tables) | UpdateTableFromKind::AfterSet(tables)) = from {
            self.tables(tables);
        }
        self.exprs(selection);
        self.returning(returning.as_deref(), output.as_ref());
    }

    pub(super) fn delete(&mut self, delete: &Delete) {
        let Delete {
            delete_token: _,
            optimizer_hints: _,
            tables,
            from,
            using,
            selection,
            returning,
            output,
            order_by,
            limit,
        } = delete;
        self.foreign(!tables.is_empty() || !order_by.is_empty() || limit.is_some());
        match from {
            FromTable::WithFromKeyword(from) => match &from[..] {
                [TableWithJoins { relation, joins }] if joins.is_empty() => self.target("DELETE", relation),
                _ => self.found.unknown(),
            },
            FromTable::WithoutKeyword(_) => self.found.unknown(),
        }
        self.tables(using.as_deref().unwrap_or_default());
        self.exprs(selection);
        self.returning(returning.as_deref(), output.as_ref());
    }

    pub(super) fn merge(&mut self, merge: &Merge) {
        let Merge {
            merge_token: _,
            optimizer_hints: _,
            into: _,
            table,
            source,
            on,
            clauses,
            output,
        } = merge;
        self.target("MERGE", table);
        self.factor(source);
        self.expr(on);
        for MergeClause {
            when_token: _,
            clause_kind: _,
            predicate,
            action,
        } in clauses
        {
            self.exprs(predicate);
            match action {
                MergeAction::Insert(MergeInsertExpr {
                    insert_token: _,
                    columns: _,
                    kind_token: _,
                    kind,
                    insert_predicate,
                }) => {
                    match kind {
                        MergeInsertKind::Values(values) => self.values(values),
                        MergeInsertKind::Row | MergeInsertKind::Wildcard => self.found.unknown(),
                    }
                    self.exprs(insert_predicate);
                }
                MergeAction::Update(MergeUpdateExpr {
                    update_token: _,
                    kind,
                    update_predicate,
                    delete_predicate,
                }) => {
                    match kind {
                        MergeUpdateKind::Set(assignments) => self.assignments(assignments),
                        MergeUpdateKind::Wildcard => self.found.unknown(),
                    }
                    self.exprs(update_predicate);
                    self.exprs(delete_predicate);
                }
                MergeAction::Delete { .. } | MergeAction::DoNothing { .. } => {}
            }
        }
        self.returning(None, output.as_ref());
    }
}
