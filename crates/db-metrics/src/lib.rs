//! Metrics, traces, the slow-query log, dashboards, alerts and a live page, made from the events of the stack.
