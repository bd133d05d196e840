//! The account that the server runs as.

use std::{fs, io, os::unix::fs::chown, path::Path};

use crate::error::StartError;

/// The user that owns the data directory and runs the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Account {
    /// This process's own user.
    Own,
    /// Another user, because PostgreSQL refuses to run as root.
    Other { uid: u32, gid: u32 },
}

impl Account {
    /// The own account, or an unprivileged one when this process is root.
    pub(crate) fn choose() -> Result<Self, StartError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Own);
        }
        let passwd = fs::read_to_string("/etc/passwd").map_err(StartError::io("read /etc/passwd"))?;
        ["postgres", "nobody"]
            .into_iter()
            .find_map(|name| in_passwd(&passwd, name))
            .ok_or(StartError::NoAccount)
    }

    /// Gives `path` to this account.
    pub(crate) fn own(self, path: &Path) -> io::Result<()> {
        match self {
            Self::Own => Ok(()),
            Self::Other { uid, gid } => chown(path, Some(uid), Some(gid)),
        }
    }
}

fn in_passwd(passwd: &str, name: &str) -> Option<Account> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2);
    Some(Account::Other {
        uid: id(fields.next()?)?,
        gid: id(fields.next()?)?,
    })
}

/// macOS writes the id of `nobody` as -2.
fn id(field: &str) -> Option<u32> {
    field
        .parse::<u32>()
        .ok()
        .or_else(|| field.parse::<i32>().ok().map(i32::cast_unsigned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_from_the_line_of_exactly_that_name() {
        let passwd =
            "root:x:0:0::/root:/bin/sh\npostgres2:x:7:7::/:/x\npostgres:x:104:112:,:/v:/b\nnobody:*:-2:-2:x:/:/f\n";
        assert_eq!(
            in_passwd(passwd, "postgres"),
            Some(Account::Other { uid: 104, gid: 112 })
        );
        assert_eq!(
            in_passwd(passwd, "nobody"),
            Some(Account::Other {
                uid: u32::MAX - 1,
                gid: u32::MAX - 1
            })
        );
        assert_eq!(in_passwd(passwd, "post"), None);
    }
}
