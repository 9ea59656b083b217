//! What a metric is called and what it says. A scrape carries it and the reference documents it, from the same constant.

use prometheus::{Opts, proto::MetricType};

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Name {
    pub name: &'static str,
    pub kind: MetricType,
    /// Its labels, comma-separated.
    pub labels: &'static str,
    pub help: &'static str,
}

impl Name {
    /// Its labels, one by one.
    pub fn label_names(&self) -> Vec<&'static str> {
        self.labels.split(", ").filter(|label| !label.is_empty()).collect()
    }

    /// What a collector of the prometheus crate is made of.
    #[must_use]
    pub fn opts(&self) -> Opts {
        Opts::new(self.name, self.help)
    }
}
