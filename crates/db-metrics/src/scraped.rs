//! The recorder behind the built-in exporter, as far as this build has one.

use crate::registry::Names;
#[cfg(feature = "prometheus")]
use crate::registry::{Kind, METRICS};
use db_core::config::InvalidConfig;
use metrics::Recorder;
#[cfg(feature = "prometheus")]
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Shows what its recorder was told.
#[cfg(feature = "prometheus")]
pub(crate) struct Scraped(PrometheusHandle);

#[cfg(feature = "prometheus")]
impl Scraped {
    pub(crate) fn new(names: &Names) -> Result<(Box<dyn Recorder + Send + Sync>, Self), InvalidConfig> {
        let mut builder = PrometheusBuilder::new();
        for metric in METRICS {
            if let Kind::Histogram(buckets) = metric.kind {
                let name = names.prometheus(metric.id);
                builder = builder
                    .set_buckets_for_metric(Matcher::Full(name), buckets)
                    .map_err(|error| InvalidConfig::one("metrics.naming", error.to_string(), "names with buckets"))?;
            }
        }
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        Ok((Box::new(recorder), Self(handle)))
    }

    pub(crate) fn render(&self) -> String {
        self.0.render()
    }

    pub(crate) fn run_upkeep(&self) {
        self.0.run_upkeep();
    }
}

/// There is none.
#[cfg(not(feature = "prometheus"))]
pub(crate) enum Scraped {}

#[cfg(not(feature = "prometheus"))]
impl Scraped {
    pub(crate) fn new(_: &Names) -> Result<(Box<dyn Recorder + Send + Sync>, Self), InvalidConfig> {
        Err(InvalidConfig::one(
            "metrics.exporter",
            "prometheus",
            "global: this build of db-metrics has no feature `prometheus`",
        ))
    }

    pub(crate) fn render(&self) -> String {
        match *self {}
    }

    pub(crate) fn run_upkeep(&self) {
        match *self {}
    }
}
