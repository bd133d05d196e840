//! Advice measured on the own database: workload, indexes, plans, PgBouncer, and the command db-stack.
