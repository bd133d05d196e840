//! From what was counted to the `metrics` facade: handles resolved once, what was added since the last time handed on.

use crate::{
    bounded::Bounded,
    measures::{Ending, Meaning, Measures},
    readings::{PoolReading, Read, Readings, owned},
    registry::{Id, Kind, Label, METRICS, NameSet, Names, Unit},
    tally::Tally,
};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Level, Metadata, Recorder};
use std::{collections::HashMap, sync::Arc};

/// Where metrics go.
pub(crate) enum Target {
    /// A recorder of our own, behind the built-in exporter.
    Own(Box<dyn Recorder + Send + Sync>),
    /// Whatever recorder the application has installed.
    Global,
}

/// Servers, and checks of the user's own, that have series of their own.
const OUTSIDE: usize = 100;

enum Handle {
    Counter(Counter, u64),
    Gauge(Gauge),
    Histogram(Histogram),
}

/// Everything since the start, for the live page.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sums {
    pub(crate) calls: Tally,
    pub(crate) failed: u64,
    pub(crate) slow: u64,
    pub(crate) wait: Tally,
    pub(crate) pool: PoolReading,
    /// The newest gauges and totals, by metric and labels.
    pub(crate) figures: HashMap<(Id, Vec<String>), f64>,
}

pub(crate) struct Publisher {
    target: Target,
    names: Names,
    constant: Vec<(String, String)>,
    handles: HashMap<(Id, Vec<String>), Handle>,
    /// Counts that are added up here, since they come as times.
    counts: HashMap<(Id, Vec<String>), u64>,
    nodes: Bounded,
    checks: Bounded,
    sums: Sums,
}

impl Publisher {
    /// `constant` labels go on every series.
    pub(crate) fn new(target: Target, names: Names, constant: Vec<(String, String)>) -> Self {
        let publisher = Self {
            target,
            names,
            constant,
            handles: HashMap::new(),
            counts: HashMap::new(),
            nodes: Bounded::new(OUTSIDE),
            checks: Bounded::new(OUTSIDE),
            sums: Sums::default(),
        };
        publisher.describe();
        publisher
    }

    fn describe(&self) {
        self.on_recorder(|recorder, prometheus| {
            for metric in METRICS {
                let name = KeyName::from(self.names.facade(metric.id, prometheus));
                let unit = match metric.unit {
                    Unit::Seconds => Some(metrics::Unit::Seconds),
                    Unit::Bytes => Some(metrics::Unit::Bytes),
                    Unit::One | Unit::Of(_) => Some(metrics::Unit::Count),
                };
                match metric.kind {
                    Kind::Counter => recorder.describe_counter(name, unit, metric.help.into()),
                    Kind::Gauge => recorder.describe_gauge(name, unit, metric.help.into()),
                    Kind::Histogram(_) => recorder.describe_histogram(name, unit, metric.help.into()),
                }
            }
        });
    }

    fn on_recorder<T>(&self, act: impl FnOnce(&dyn Recorder, bool) -> T) -> T {
        match &self.target {
            Target::Own(recorder) => act(recorder, true),
            Target::Global => metrics::with_recorder(|recorder| act(recorder, false)),
        }
    }

    /// Hands on everything: afterwards the recorder shows this moment.
    pub(crate) fn publish(&mut self, measures: &Measures, sources: &[Arc<dyn Read>]) {
        for (meaning, tally) in measures.drain() {
            self.times(meaning, &tally);
        }
        let counts: Vec<_> = self.counts.iter().map(|(key, count)| (key.clone(), *count)).collect();
        for ((id, labels), count) in counts {
            self.total(id, labels, count);
        }
        for ((id, labels), count) in measures.happened.list() {
            let labels = labels[..id.metric().labels.len()].iter().map(|l| (*l).to_owned());
            self.total(id, labels.collect(), count);
        }
        for (labels, count) in measures.table_errors() {
            self.total(Id::TableErrors, labels.into(), count);
        }
        for (labels, count) in measures.tenants() {
            self.total(Id::TenantQueries, labels.into(), count);
        }
        self.sums.slow = 0;
        for (operation, count) in measures.slow() {
            self.sums.slow += count;
            self.total(Id::SlowQueries, owned(&[operation]), count);
        }
        let mut folded = measures.folded().to_vec();
        folded.extend([("node", self.nodes.folded()), ("check", self.checks.folded())]);
        for (what, count) in folded {
            self.total(Id::Folded, owned(&[what]), count);
        }
        let mut readings = Readings {
            gauges: measures.conditions.gauges(),
            ..Readings::default()
        };
        for source in sources {
            source.read(&mut readings);
        }
        self.read(readings);
        self.gauge(Id::Series, Vec::new(), self.handles.len() as f64);
    }

    pub(crate) fn sums(&self) -> &Sums {
        &self.sums
    }

    /// How many series there are.
    pub(crate) fn series(&self) -> usize {
        self.handles.len()
    }

    fn times(&mut self, meaning: Meaning, tally: &Tally) {
        match meaning {
            Meaning::Calls { operation, ending } => self.calls(operation, &ending, tally),
            Meaning::Of(id, labels) => {
                if id == Id::TableDuration {
                    *self.counts.entry((Id::TableQueries, labels.clone())).or_default() += tally.count();
                }
                if id == Id::ConnectionWait {
                    self.sums.wait.add(tally);
                }
                self.histogram(id, labels, tally);
            }
        }
    }

    fn calls(&mut self, operation: &str, ending: &Ending, tally: &Tally) {
        let (status, error_type) = match ending {
            Ending::Done => ("success", ""),
            Ending::Cancelled => ("cancelled", "cancelled"),
            Ending::Failed(error_type) => ("error", error_type.as_str()),
        };
        let count = tally.count();
        self.sums.calls.add(tally);
        // There before the first one fails, so that a rate sees it.
        self.counts
            .entry((Id::Queries, owned(&[operation, "error"])))
            .or_default();
        *self
            .counts
            .entry((Id::Queries, owned(&[operation, status])))
            .or_default() += count;
        if status == "error" {
            self.sums.failed += count;
            *self.counts.entry((Id::Errors, owned(&[error_type]))).or_default() += count;
        }
        let mut labels = owned(&[operation]);
        if self.names.set == NameSet::OpenTelemetry {
            if count == 0 && !error_type.is_empty() {
                return;
            }
            labels.push(error_type.to_owned());
        }
        self.histogram(Id::QueryDuration, labels, tally);
    }

    fn read(&mut self, readings: Readings) {
        // Two of the same name, which the bounds make possible, are one.
        let mut gauges: HashMap<(Id, Vec<String>), f64> = HashMap::new();
        for (id, labels, value) in readings.gauges {
            let sum = gauges.entry((id, self.within(id, labels))).or_default();
            *sum += value;
        }
        for ((id, labels), value) in gauges {
            self.gauge(id, labels, value);
        }
        let mut totals: HashMap<(Id, Vec<String>), u64> = HashMap::new();
        for (id, labels, value) in readings.totals {
            *totals.entry((id, self.within(id, labels))).or_default() += value;
        }
        for ((id, labels), value) in totals {
            self.total(id, labels, value);
        }
        if let Some(pool) = readings.pool {
            self.sums.pool = pool;
            self.pool(&pool);
        }
    }

    /// The labels with what comes from outside bounded.
    fn within(&self, id: Id, labels: Vec<String>) -> Vec<String> {
        let bound = |(label, value): (&Label, String)| match label {
            Label::Node if self.nodes.number(&value) == 0 => crate::bounded::OTHER.to_owned(),
            Label::Check if self.checks.number(&value) == 0 => crate::bounded::OTHER.to_owned(),
            _ => value,
        };
        id.metric().labels.iter().zip(labels).map(bound).collect()
    }

    fn pool(&mut self, pool: &PoolReading) {
        let states: &[(&str, u32)] = match self.names.set {
            NameSet::Report => &[
                ("active", pool.used),
                ("idle", pool.idle),
                ("free", pool.free()),
                ("total", pool.open()),
            ],
            NameSet::OpenTelemetry => &[("used", pool.used), ("idle", pool.idle)],
        };
        for (state, value) in states {
            self.gauge(Id::PoolConnections, owned(&[state]), f64::from(*value));
        }
        for (state, value) in [
            ("opening", pool.opening),
            ("quarantined", pool.quarantined),
            ("lent", pool.lent),
        ] {
            self.gauge(Id::PoolAside, owned(&[state]), f64::from(value));
        }
        for (id, value) in [
            (Id::PoolMax, pool.max),
            (Id::PoolMin, pool.min),
            (Id::PoolWaiting, pool.waiting),
        ] {
            self.gauge(id, Vec::new(), f64::from(value));
        }
    }

    fn total(&mut self, id: Id, labels: Vec<String>, value: u64) {
        self.sums.figures.insert((id, labels.clone()), value as f64);
        if let Handle::Counter(counter, before) = self.handle(id, labels) {
            // A source that began anew counts from its new start.
            counter.increment(value.checked_sub(*before).unwrap_or(value));
            *before = value;
        }
    }

    fn gauge(&mut self, id: Id, labels: Vec<String>, value: f64) {
        self.sums.figures.insert((id, labels.clone()), value);
        if let Handle::Gauge(gauge) = self.handle(id, labels) {
            gauge.set(value);
        }
    }

    fn histogram(&mut self, id: Id, labels: Vec<String>, tally: &Tally) {
        if let Handle::Histogram(histogram) = self.handle(id, labels) {
            for (count, mean) in tally.means() {
                histogram.record_many(mean, usize::try_from(count).unwrap_or(usize::MAX));
            }
        }
    }

    fn handle(&mut self, id: Id, labels: Vec<String>) -> &mut Handle {
        let key = (id, labels);
        if !self.handles.contains_key(&key) {
            let handle = self.resolve(id, &key.1);
            self.handles.insert(key.clone(), handle);
        }
        self.handles.get_mut(&key).expect("it has just been put there")
    }

    fn resolve(&self, id: Id, values: &[String]) -> Handle {
        self.on_recorder(|recorder, prometheus| {
            let name = |label: &Label| match self.names.set {
                NameSet::OpenTelemetry if !prometheus => label.attribute().to_owned(),
                _ => self.names.label(*label),
            };
            let labels = self.names.labels(id);
            let labels = labels.iter().map(name).zip(values.iter().cloned());
            let labels: Vec<_> = labels
                .chain(self.constant.iter().cloned())
                .map(|(name, value)| metrics::Label::new(name, value))
                .collect();
            let key = Key::from_parts(self.names.facade(id, prometheus), labels);
            let metadata = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));
            match id.metric().kind {
                Kind::Counter => Handle::Counter(recorder.register_counter(&key, &metadata), 0),
                Kind::Gauge => Handle::Gauge(recorder.register_gauge(&key, &metadata)),
                Kind::Histogram(_) => Handle::Histogram(recorder.register_histogram(&key, &metadata)),
            }
        })
    }
}
