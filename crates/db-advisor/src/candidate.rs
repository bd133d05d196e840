//! The indexes that a plan asks for: from the conditions, joins and sorts over tables that it reads whole.

use crate::{
    advice::{TableFacts, Tables},
    plan::{Node, Plan},
    predicate::{Columns, columns, joined, sorted},
};

/// Smaller tables are read in one go whatever there is.
const ROWS: f64 = 10_000.0;
/// Columns of an advised index.
const WIDTH: usize = 3;
/// A descent of an index, and a row that it leads to, in the planner's unit: a page read in sequence.
const DESCENT: f64 = 8.0;
const ROW: f64 = 4.0;
/// Beyond this share of the table the planner goes on scanning.
const LARGE: f64 = 0.1;

/// What the index would be for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Purpose {
    /// Finds the rows of a condition.
    Filter,
    /// Finds the partners of each of so many rows.
    Join {
        /// Rows on the other side.
        outer: f64,
    },
    /// Brings the rows in order, so that only the first ones are read.
    Sort {
        /// How many are wanted, where the statement says.
        first: Option<f64>,
    },
}

/// A table and the columns of an index on it that the statement's plan asks for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) table: String,
    pub(crate) columns: Vec<String>,
    pub(crate) purpose: Purpose,
    /// Rows that the scan returns of all that it reads.
    pub(crate) returned: f64,
    /// Cost of what the index would replace.
    pub(crate) cost: f64,
}

/// Candidates of a plan, one for each table and columns.
pub(crate) fn candidates(plan: &Plan, tables: &Tables) -> Vec<Candidate> {
    let mut search = Search {
        tables,
        found: Vec::new(),
    };
    search.visit(&plan.root, None);
    search.found
}

impl Candidate {
    /// The cost of what replaces it, by a rule: a descent, and a page for each row that comes back.
    pub(crate) fn by_rule(&self, facts: &TableFacts) -> f64 {
        let rows = match self.purpose {
            Purpose::Filter => self.returned,
            Purpose::Join { outer } => {
                let each = self
                    .columns
                    .first()
                    .map_or(1.0, |column| facts.rows / distinct(facts, column).max(1.0));
                return match outer * each {
                    rows if rows / facts.rows.max(1.0) > LARGE => f64::INFINITY,
                    rows => outer * DESCENT + rows * ROW,
                };
            }
            // All rows in order are still all rows.
            Purpose::Sort { first } => first.unwrap_or(f64::INFINITY),
        };
        if rows / facts.rows.max(1.0) > LARGE {
            f64::INFINITY
        } else {
            DESCENT + rows * ROW
        }
    }

    /// What the statement does for want of it.
    pub(crate) fn reason(&self, facts: &TableFacts) -> String {
        let (table, rows) = (format!("{}.{}", facts.schema, self.table), facts.rows);
        match self.purpose {
            Purpose::Filter => format!("reads all {rows:.0} rows of {table} for {:.0}", self.returned),
            Purpose::Join { outer } => format!("reads all {rows:.0} rows of {table} to join {outer:.0} with them"),
            Purpose::Sort { first: Some(first) } => {
                format!("sorts {:.0} rows of {table} for the first {first:.0}", self.returned)
            }
            Purpose::Sort { first: None } => format!("sorts {:.0} rows of {table}", self.returned),
        }
    }
}

struct Search<'t> {
    tables: &'t Tables,
    found: Vec<Candidate>,
}

impl Search<'_> {
    /// `first`: of what this step returns only so many rows are wanted.
    fn visit(&mut self, node: &Node, first: Option<f64>) {
        self.filter(node);
        self.join(node);
        self.sort(node, first);
        let first = match &*node.kind {
            "Limit" => Some(node.rows),
            "Gather Merge" | "Result" | "Subquery Scan" => first,
            _ => None,
        };
        node.inputs.iter().for_each(|input| self.visit(input, first));
    }

    fn filter(&mut self, node: &Node) {
        let Some(filter) = node.filter.as_ref().filter(|_| node.kind == "Seq Scan") else {
            return;
        };
        let Columns { equal, range } = columns(filter);
        self.add(node, equal, range, Purpose::Filter, node.cost);
    }

    fn join(&mut self, node: &Node) {
        let (Some(condition), [one, other]) = (&node.join, &*node.inputs) else {
            return;
        };
        let pairs = joined(condition);
        for (scan, outer) in [(one, other), (other, one)] {
            let Some(scan) = scanned(scan) else { continue };
            let name = scan.alias.as_ref().or(scan.relation.as_ref());
            let mut equal: Vec<String> = pairs
                .iter()
                .flat_map(|(a, b)| [a, b])
                .filter(|side| Some(&side.table) == name)
                .map(|side| side.column.clone())
                .collect();
            if equal.is_empty() {
                continue;
            }
            let Columns { equal: more, .. } = scan.filter.as_deref().map(columns).unwrap_or_default();
            equal.extend(more);
            let purpose = Purpose::Join { outer: outer.rows };
            self.add(scan, equal, Vec::new(), purpose, scan.cost);
        }
    }

    fn sort(&mut self, node: &Node, first: Option<f64>) {
        if node.kind != "Sort" {
            return;
        }
        let Some(scan) = node.inputs.first().and_then(scanned) else {
            return;
        };
        let Some(keys) = sorted(&node.sort) else { return };
        let Columns { equal, range } = scan.filter.as_deref().map(columns).unwrap_or_default();
        // In order only within equal leading columns; another range would break it.
        if range.is_empty() && equal.len() + keys.len() <= WIDTH {
            self.add(scan, equal, keys, Purpose::Sort { first }, node.cost);
        }
    }

    /// The columns that are compared for equality by how well they tell rows apart, then the others as they are.
    fn add(&mut self, scan: &Node, mut equal: Vec<String>, then: Vec<String>, purpose: Purpose, cost: f64) {
        let Some((name, facts)) = scan.relation.as_ref().and_then(|name| self.tables.get_key_value(name)) else {
            return;
        };
        equal.sort_by(|a, b| distinct(facts, b).total_cmp(&distinct(facts, a)));
        equal.dedup();
        equal.truncate(WIDTH);
        let mut wanted = equal;
        let ordered = matches!(purpose, Purpose::Sort { .. });
        for column in then.into_iter().take(if ordered { WIDTH } else { 1 }) {
            if wanted.len() < WIDTH && !wanted.contains(&column) {
                wanted.push(column);
            }
        }
        let covered = facts
            .indexes
            .iter()
            .any(|index| index.first() == wanted.first() && index.len() >= wanted.len());
        let known = self.found.iter().any(|c| c.table == *name && c.columns == wanted);
        if facts.rows >= ROWS && !wanted.is_empty() && !covered && !known {
            self.found.push(Candidate {
                table: name.clone(),
                columns: wanted,
                purpose,
                returned: scan.rows,
                cost,
            });
        }
    }
}

/// The scan of a whole table that feeds a step, under steps that only pass on or prepare what it reads.
fn scanned(node: &Node) -> Option<&Node> {
    match &*node.kind {
        "Seq Scan" => Some(node),
        "Hash" | "Sort" | "Materialize" | "Memoize" => node.inputs.first().and_then(scanned),
        _ => None,
    }
}

/// Distinct values of a column, as far as the statistics say.
fn distinct(facts: &TableFacts, column: &str) -> f64 {
    match facts.distinct.get(column) {
        Some(share) if *share < 0.0 => -share * facts.rows,
        Some(count) => *count,
        None => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn tables() -> Tables {
        let mut orders = TableFacts {
            schema: "public".to_owned(),
            rows: 50_000.0,
            ..TableFacts::default()
        };
        orders.distinct.extend([
            ("state".to_owned(), 4.0),
            ("customer".to_owned(), -0.5),
            ("id".to_owned(), -1.0),
        ]);
        Tables::from([("orders".to_owned(), orders)])
    }

    fn of(plan: Value) -> Vec<Candidate> {
        candidates(&Plan::from_json(&json!([{ "Plan": plan }])), &tables())
    }

    fn scan(filter: Option<&str>, rows: f64) -> Value {
        let mut scan = json!({"Node Type": "Seq Scan", "Relation Name": "orders", "Alias": "o", "Total Cost": 900.0,
            "Plan Rows": rows});
        if let Some(filter) = filter {
            scan["Filter"] = filter.into();
        }
        scan
    }

    #[test]
    fn the_most_selective_equality_comes_first_and_a_range_last() {
        let condition = "((state = $1) AND (customer = $2) AND (placed > $3))";
        let found = of(scan(Some(condition), 3.0));
        assert_eq!(found[0].columns, ["customer", "state", "placed"]);
        let mut tables = tables();
        let has = vec!["customer".to_owned(), "state".to_owned(), "placed".to_owned()];
        tables.get_mut("orders").unwrap().indexes.push(has);
        let plan = Plan::from_json(&json!([{ "Plan": scan(Some(condition), 3.0) }]));
        assert_eq!(candidates(&plan, &tables), []);
    }

    #[test]
    fn a_join_asks_for_the_column_of_the_table_that_is_read_whole() {
        let few = json!({"Node Type": "Index Scan", "Relation Name": "customers", "Alias": "c", "Plan Rows": 2});
        let hash = json!({"Node Type": "Hash", "Plan Rows": 2, "Plans": [few]});
        let join = json!({"Node Type": "Hash Join", "Hash Cond": "(o.customer = c.id)", "Total Cost": 950.0,
            "Plans": [scan(None, 50_000.0), hash]});
        let found = of(join);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].columns, ["customer"]);
        assert_eq!(found[0].purpose, Purpose::Join { outer: 2.0 });
        assert!(found[0].by_rule(&tables()["orders"]) < 100.0);
        let many = json!({"Node Type": "Nested Loop", "Join Filter": "(o.customer = c.id)",
            "Plans": [{"Node Type": "Seq Scan", "Relation Name": "c", "Plan Rows": 40_000}, scan(None, 50_000.0)]});
        assert!(of(many)[0].by_rule(&tables()["orders"]).is_infinite());
    }

    #[test]
    fn the_first_rows_in_an_order_ask_for_an_index_in_that_order() {
        let sort = |keys: &[&str], filter| {
            json!({"Node Type": "Limit", "Plan Rows": 20, "Plans": [{"Node Type": "Sort", "Sort Key": keys,
                "Total Cost": 2000.0, "Plans": [scan(filter, 40_000.0)]}]})
        };
        let found = of(sort(&["placed DESC", "id DESC"], Some("(state = $1)")));
        let sorting = found.iter().find(|c| c.columns.len() == 3).unwrap();
        assert_eq!(sorting.columns, ["state", "placed", "id"]);
        assert_eq!(sorting.purpose, Purpose::Sort { first: Some(20.0) });
        assert!(sorting.by_rule(&tables()["orders"]) < 100.0);
        assert_eq!(of(sort(&["placed DESC", "id"], None)), [], "two directions");
        assert_eq!(of(sort(&["lower(note)"], None)), [], "an expression");
        assert!(of(sort(&["o.placed"], None))[0].columns == ["placed"]);
    }
}
