//! A plan as the server prints it, its shape, and what it says in words.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::hash::{DefaultHasher, Hash, Hasher};

/// A sequential scan over fewer rows is nobody's trouble.
const MANY_ROWS: f64 = 10_000.0;
/// By so much an estimate must be off to be told.
const OFF: f64 = 100.0;

/// One step of a plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// `Seq Scan`, `Hash Join`, …
    pub kind: String,
    /// The table it reads, with its schema where the server says.
    pub relation: Option<String>,
    /// The name that the statement gives it.
    pub alias: Option<String>,
    /// The index it uses.
    pub index: Option<String>,
    /// The condition that it checks row by row.
    pub filter: Option<String>,
    /// The condition of a join.
    pub join: Option<String>,
    /// What it sorts by.
    pub sort: Vec<String>,
    /// Cost of it and all below.
    pub cost: f64,
    /// Rows that it is expected to return.
    pub rows: f64,
    /// Rows that it returned, in all loops; with ANALYZE only.
    pub actual_rows: Option<f64>,
    /// Rows that its filter threw away; with ANALYZE only.
    pub removed: f64,
    /// KiB that it sorted on disk; with ANALYZE only.
    pub disk_kib: f64,
    /// The steps that feed it.
    pub inputs: Vec<Node>,
}

/// A whole plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The last step.
    pub root: Node,
    /// Milliseconds, with ANALYZE only.
    pub execution_ms: Option<f64>,
}

impl Plan {
    pub(crate) fn from_json(json: &Value) -> Self {
        let whole = json.get(0).unwrap_or(json);
        Self {
            root: node(&whole["Plan"]),
            execution_ms: whole["Execution Time"].as_f64(),
        }
    }

    /// Its cost, in the server's unit: one page read in sequence.
    pub fn cost(&self) -> f64 {
        self.root.cost
    }

    /// The same for plans that do the same things in the same order, whatever they are expected to cost.
    pub fn shape(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for node in self.nodes() {
            (&node.kind, &node.relation, &node.index, node.inputs.len()).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// Every step, the last one first.
    pub fn nodes(&self) -> Vec<&Node> {
        let (mut all, mut next) = (Vec::new(), vec![&self.root]);
        while let Some(node) = next.pop() {
            all.push(node);
            next.extend(node.inputs.iter().rev());
        }
        all
    }

    /// The plan's steps in one line each.
    pub fn outline(&self) -> String {
        fn write(node: &Node, depth: usize, out: &mut String) {
            let on = node.relation.as_deref().map(|r| format!(" on {r}")).unwrap_or_default();
            let by = node.index.as_deref().map(|i| format!(" using {i}")).unwrap_or_default();
            let actual = node.actual_rows.map(|n| format!(", really {n:.0}")).unwrap_or_default();
            let pad = "  ".repeat(depth);
            out.push_str(&format!(
                "{pad}{}{by}{on} (cost {:.0}, {:.0} rows{actual})\n",
                node.kind, node.cost, node.rows
            ));
            node.inputs.iter().for_each(|input| write(input, depth + 1, out));
        }
        let mut out = String::new();
        write(&self.root, 0, &mut out);
        out
    }

    /// What is remarkable about it, in words. `rows_of` knows how many rows a table has.
    pub fn remarks(&self, rows_of: impl Fn(&str) -> Option<f64>) -> Vec<String> {
        let mut remarks = Vec::new();
        for node in self.nodes() {
            let table = node.relation.as_deref().unwrap_or_default();
            if node.kind == "Seq Scan" {
                let total = rows_of(table).unwrap_or(node.actual_rows.unwrap_or(node.rows) + node.removed);
                if total >= MANY_ROWS && node.filter.is_some() {
                    remarks.push(format!(
                        "sequential scan of {table}: {total:.0} rows are read for {:.0}",
                        node.actual_rows.unwrap_or(node.rows)
                    ));
                }
            }
            if let Some(actual) = node.actual_rows {
                let (low, high) = (node.rows.max(1.0).min(actual.max(1.0)), node.rows.max(actual));
                if high / low >= OFF {
                    remarks.push(format!(
                        "{}: {:.0} rows expected, {actual:.0} came: off by {:.0}x, run ANALYZE or raise the \
                         statistics target",
                        node.kind,
                        node.rows,
                        high / low
                    ));
                }
            }
            if node.disk_kib > 0.0 {
                remarks.push(format!(
                    "{} spills {:.0} KiB to disk: raise work_mem for this statement, or return fewer rows",
                    node.kind, node.disk_kib
                ));
            }
        }
        remarks
    }
}

fn node(json: &Value) -> Node {
    let text = |key: &str| json[key].as_str().map(str::to_owned);
    let number = |key: &str| json[key].as_f64();
    let loops = number("Actual Loops").unwrap_or(1.0).max(1.0);
    Node {
        kind: text("Node Type").unwrap_or_default(),
        relation: text("Relation Name"),
        alias: text("Alias"),
        index: text("Index Name"),
        filter: text("Filter"),
        join: text("Hash Cond")
            .or_else(|| text("Merge Cond"))
            .or_else(|| text("Join Filter")),
        sort: json["Sort Key"]
            .as_array()
            .map(|keys| keys.iter().filter_map(|k| k.as_str().map(str::to_owned)).collect())
            .unwrap_or_default(),
        cost: number("Total Cost").unwrap_or(0.0),
        rows: number("Plan Rows").unwrap_or(0.0),
        actual_rows: number("Actual Rows").map(|rows| rows * loops),
        removed: number("Rows Removed by Filter").unwrap_or(0.0) * loops,
        disk_kib: if json["Sort Space Type"] == "Disk" {
            number("Sort Space Used").unwrap_or(0.0)
        } else {
            0.0
        },
        inputs: json["Plans"]
            .as_array()
            .map(|plans| plans.iter().map(node).collect())
            .unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remarks_are_in_words_and_the_shape_ignores_costs() {
        let plan = |cost: f64, rows: f64| {
            serde_json::json!([{"Plan": {
                "Node Type": "Sort", "Total Cost": cost, "Plan Rows": 1, "Actual Rows": rows, "Actual Loops": 1,
                "Sort Space Type": "Disk", "Sort Space Used": 2048, "Sort Key": ["t.a"],
                "Plans": [{"Node Type": "Seq Scan", "Relation Name": "t", "Filter": "(a = 1)", "Plan Rows": 5,
                    "Rows Removed by Filter": 50000, "Actual Rows": 5, "Actual Loops": 1}],
            }, "Execution Time": 12.5}])
        };
        let slow = Plan::from_json(&plan(1.0, 900.0));
        let remarks = slow.remarks(|_| None).join("\n");
        for word in [
            "sequential scan of t: 50005 rows are read for 5",
            "off by 900x",
            "spills 2048 KiB",
        ] {
            assert!(remarks.contains(word), "{remarks}");
        }
        assert_eq!(slow.shape(), Plan::from_json(&plan(7.0, 1.0)).shape());
        assert_eq!(slow.execution_ms, Some(12.5));
        assert!(slow.outline().contains("  Seq Scan on t"));
    }
}
