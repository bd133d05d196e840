//! A coherent result cache for SQL: single flight, invalidation by table across processes, never lossy keys.
