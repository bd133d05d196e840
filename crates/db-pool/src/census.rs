//! What the server says of itself: how many connections it has for us, and whether ours wait for locks.

use sqlx::{PgConnection, Row};

/// The first key of the lock that every pool's control connection shares, so that the instances of one application can
/// be counted: "dbst".
const FAMILY: i32 = 0x6462_7374;

/// A lock that ends with the session: whoever has gone is not counted.
const MAKE_KNOWN: &str = "SELECT pg_advisory_lock_shared($1, hashtext(current_setting('application_name'))) \
    WHERE NOT EXISTS (SELECT FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory' AND objsubid = 2 \
        AND classid = $1::int4::oid AND objid = hashtext(current_setting('application_name'))::oid)";

/// Asks everything in one trip. Of other roles' sessions only the database is to be seen: those count as others.
const ASK: &str = "SELECT current_setting('max_connections')::int4 \
    - current_setting('superuser_reserved_connections')::int4 \
    - coalesce(current_setting('reserved_connections', true), '0')::int4, \
    count(*) FILTER (WHERE ours)::int4, count(*) FILTER (WHERE NOT ours)::int4, \
    count(*) FILTER (WHERE ours AND state = 'active' AND pid <> pg_backend_pid())::int4, \
    count(*) FILTER (WHERE ours AND state = 'active' AND wait_event_type IN ('Lock', 'LWLock', 'BufferPin'))::int4, \
    (SELECT count(DISTINCT pid)::int4 FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2 \
        AND classid = $1::int4::oid AND objid = hashtext(current_setting('application_name'))::oid) \
    FROM (SELECT pid, state, wait_event_type, \
        coalesce(application_name = current_setting('application_name'), false) AS ours FROM pg_stat_activity \
        WHERE datid IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend') AS sessions";

/// Connections left alone for newcomers and for whoever has to look at the server: one of 20, at least 2.
const SPARE: (u32, u32) = (20, 2);

/// What was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Census {
    /// Connections that the server has for users without privileges.
    pub(crate) usable: u32,
    /// Sessions of this application, of all its instances.
    pub(crate) ours: u32,
    pub(crate) others: u32,
    /// Those of ours that run a statement.
    pub(crate) active: u32,
    /// Those of ours that wait for a lock.
    pub(crate) blocked: u32,
    /// Pools of this application, this one included.
    pub(crate) instances: u32,
}

impl Census {
    /// Asks on the control connection, which makes itself known first where it has not yet.
    pub(crate) async fn take(pg: &mut PgConnection) -> sqlx::Result<Self> {
        sqlx::query(MAKE_KNOWN).bind(FAMILY).execute(&mut *pg).await?;
        let row = sqlx::query(ASK).bind(FAMILY).fetch_one(pg).await?;
        let number = |at: usize| Ok::<_, sqlx::Error>(u32::try_from(row.try_get::<i32, _>(at)?).unwrap_or(0));
        Ok(Self {
            usable: number(0)?,
            ours: number(1)?,
            others: number(2)?,
            active: number(3)?,
            blocked: number(4)?,
            instances: number(5)?.max(1),
        })
    }

    /// How many connections this pool may have open, when it has `open` beside its control connection.
    pub(crate) fn room(&self, open: u32) -> u32 {
        let spare = (self.usable / SPARE.0).max(SPARE.1);
        let for_us = self.usable.saturating_sub(self.others + spare);
        // Every instance has a control connection as well.
        let fair = (for_us / self.instances).saturating_sub(1);
        // What is free now is shared as well: all may grow at this moment.
        let free = for_us.saturating_sub(self.ours);
        fair.min(open + free / self.instances).max(1)
    }

    /// Whether most of what runs waits for locks.
    pub(crate) fn contended(&self) -> bool {
        self.active >= 4 && self.blocked * 2 > self.active
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn census(ours: u32, others: u32, instances: u32) -> Census {
        Census {
            usable: 37,
            ours,
            others,
            active: 0,
            blocked: 0,
            instances,
        }
    }

    #[test]
    fn one_instance_has_what_the_others_leave() {
        assert_eq!(census(1, 0, 1).room(0), 34);
        assert_eq!(census(11, 20, 1).room(10), 14);
        assert_eq!(census(3, 36, 1).room(2), 1, "never less than one");
    }

    #[test]
    fn three_instances_share_and_do_not_meet_in_what_is_free() {
        assert_eq!(census(3, 0, 3).room(0), 10);
        // One has taken 30 before the two came: they wait until it has given some back.
        let room = census(33, 0, 3).room(0);
        assert!(room <= 1, "{room}");
        for ours in 3..37 {
            let census = census(ours, 0, 3);
            let growth: u32 = (0..3).map(|_| census.room(0)).sum();
            assert!(growth <= (35_u32.saturating_sub(ours)).max(3), "{ours}: {growth}");
        }
    }

    #[test]
    fn contention_is_most_of_several() {
        let with = |active, blocked| Census {
            active,
            blocked,
            ..census(1, 0, 1)
        };
        assert!(with(10, 6).contended());
        assert!(!with(10, 5).contended());
        assert!(!with(3, 3).contended());
    }
}
