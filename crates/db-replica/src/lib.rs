//! Reads on replicas that see their own writes: topology, lag, routing, causal tokens, failover.
