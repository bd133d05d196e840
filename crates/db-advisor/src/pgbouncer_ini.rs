//! A `pgbouncer.ini` for a given load.

use crate::AdvisorError;
use std::fmt::Write as _;

/// What the pooler is for.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PoolerLoad {
    /// The database.
    pub database: String,
    /// The server's host. Default 127.0.0.1.
    pub host: String,
    /// The server's port. Default 5432.
    pub port: u16,
    /// Connections of all clients together. Default 1000.
    pub clients: u32,
    /// Transactions a second. Default 1000.
    pub per_second: f64,
    /// How long a transaction holds its connection, milliseconds. Default 5.
    pub transaction_ms: f64,
    /// What the server allows in all (`max_connections`). Default 100.
    pub server_connections: u32,
    /// Cores of the server. Default 4.
    pub cores: u32,
    /// Where the pooler listens. Default 127.0.0.1.
    pub listen_addr: String,
    /// Default 6432.
    pub listen_port: u16,
    /// Names and SCRAM secrets of the users. Default `/etc/pgbouncer/userlist.txt`.
    pub auth_file: String,
    /// Whether it is 1.21 or newer, which follows prepared statements. Default true.
    pub follows_statements: bool,
}

impl PoolerLoad {
    /// For this database, everything else at its default.
    pub fn new(database: impl Into<String>) -> Self {
        Self {
            database: database.into(),
            host: "127.0.0.1".to_owned(),
            port: 5432,
            clients: 1000,
            per_second: 1000.0,
            transaction_ms: 5.0,
            server_connections: 100,
            cores: 4,
            listen_addr: "127.0.0.1".to_owned(),
            listen_port: 6432,
            auth_file: "/etc/pgbouncer/userlist.txt".to_owned(),
            follows_statements: true,
        }
    }

    /// Server connections for the load: as many as are busy on average (Little's law) with half as many again for
    /// bursts, at least two for each core, and never more than nine tenths of what the server allows.
    pub fn pool_size(&self) -> u32 {
        let busy = (self.per_second * self.transaction_ms / 1e3 * 1.5).ceil();
        let wanted = busy.max(f64::from(self.cores) * 2.0);
        let most = (f64::from(self.server_connections) * 0.9).floor().max(1.0);
        // Between 1 and a u32's tenth.
        wanted.min(most) as u32
    }

    /// The file.
    ///
    /// # Errors
    /// [`AdvisorError::Name`] when a value would break out of its line.
    pub fn render(&self) -> Result<String, AdvisorError> {
        for (what, name) in [
            ("database", &self.database),
            ("host", &self.host),
            ("listen address", &self.listen_addr),
            ("auth file", &self.auth_file),
        ] {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:*,".contains(c);
            if name.is_empty() || !name.chars().all(plain) {
                return Err(AdvisorError::Name {
                    what,
                    name: name.clone(),
                    allowed: "letters, digits and - _ . / : * ,",
                });
            }
        }
        let size = self.pool_size();
        let reserve = (size / 5).max(1).min(self.server_connections.saturating_sub(size));
        let busy = self.per_second * self.transaction_ms / 1e3;
        let mut out = format!(
            "; {:.0} transactions/s of {} ms keep {busy:.1} connections busy; {} clients may wait for them.\n\
             [databases]\n{db} = host={} port={} dbname={db}\n\n[pgbouncer]\n",
            self.per_second,
            self.transaction_ms,
            self.clients,
            self.host,
            self.port,
            db = self.database,
        );
        let mut line = |name: &str, value: String, why: &str| {
            // Writing to a String can't fail.
            let _ = writeln!(out, "; {why}\n{name} = {value}");
        };
        line("listen_addr", self.listen_addr.clone(), "Where clients connect.");
        line("listen_port", self.listen_port.to_string(), "6432 is the usual port.");
        line(
            "auth_type",
            "scram-sha-256".to_owned(),
            "MD5 secrets can be replayed from a stolen copy.",
        );
        line(
            "auth_file",
            self.auth_file.clone(),
            "\"user\" \"SCRAM-SHA-256$…\", from pg_authid.rolpassword.",
        );
        line(
            "pool_mode",
            "transaction".to_owned(),
            "A server connection is lent for one transaction.",
        );
        line(
            "default_pool_size",
            size.to_string(),
            "For each pair of user and database.",
        );
        line("reserve_pool_size", reserve.to_string(), "For a burst that has waited.");
        line("reserve_pool_timeout", "1".to_owned(), "Seconds.");
        line(
            "max_db_connections",
            (size + reserve).to_string(),
            "For all users together: the server's own limit stays out of reach.",
        );
        line(
            "max_client_conn",
            self.clients.to_string(),
            "They cost some KiB each; raise the limit of open files with it.",
        );
        if self.follows_statements {
            line(
                "max_prepared_statements",
                "200".to_owned(),
                "Without it the statements of one client run on the session of another. Keep it above the client's cache.",
            );
        }
        line(
            "query_wait_timeout",
            "10".to_owned(),
            "Seconds for a connection before the client is told no.",
        );
        line("server_idle_timeout", "600".to_owned(), "Seconds.");
        line("server_lifetime", "3600".to_owned(), "Seconds.");
        line(
            "client_tls_sslmode",
            "disable".to_owned(),
            "On another machine: require, with a key and a certificate.",
        );
        out.push_str(
            "\n; Settings of a session do not pass a pooler. Give them to the role, on the server:\n\
             ;   ALTER ROLE app SET statement_timeout = '130s';\n\
             ;   ALTER ROLE app SET lock_timeout = '10s';\n\
             ;   ALTER ROLE app SET idle_in_transaction_session_timeout = '30s';\n\
             ;   ALTER ROLE app SET client_connection_check_interval = '200ms';\n",
        );
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_the_load_and_stay_below_the_server() {
        let mut load = PoolerLoad::new("shop");
        assert_eq!(load.pool_size(), 8);
        load.per_second = 8_000.0;
        assert_eq!(load.pool_size(), 60);
        load.transaction_ms = 50.0;
        assert_eq!(load.pool_size(), 90);
        assert!(load.render().unwrap().contains("max_prepared_statements = 200"));
        load.follows_statements = false;
        assert!(!load.render().unwrap().contains("max_prepared_statements"));
        load.database = "x\nadmin_users = me".to_owned();
        assert!(matches!(
            load.render(),
            Err(AdvisorError::Name { what: "database", .. })
        ));
    }
}
