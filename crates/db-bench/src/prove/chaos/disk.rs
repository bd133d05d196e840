//! A disk that is small enough to be filled.

use std::{
    io,
    os::unix::fs::{MetadataExt, chown},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use db_testkit::Postgres;
use sqlx::AssertSqlSafe;

/// In bytes.
const RESERVE: usize = 1 << 20;

/// A tmpfs of 8 MiB in a server's folder, unmounted on drop.
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// With a tablespace `small` on it. `Err` where this process may not mount.
    pub(crate) async fn mount(server: &Postgres) -> anyhow::Result<Self> {
        let folder = server.dir().join("small");
        std::fs::create_dir(&folder)?;
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"])
            .arg(&folder))?;
        let disk = Self(folder);
        let owner = std::fs::metadata(server.dir().join("data"))?;
        // The server takes a folder of its own only.
        chown(&disk.0, Some(owner.uid()), Some(owner.gid()))?;
        let path = disk.0.display().to_string().replace('\'', "''");
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE TABLESPACE small LOCATION '{path}'")))
            .execute(&mut server.admin().await?)
            .await?;
        Ok(disk)
    }

    /// Holds back some room, or gives it up: TRUNCATE needs some before it frees any.
    pub(crate) fn hold_back(&self, hold: bool) -> io::Result<()> {
        let reserve = self.0.join("reserve");
        if hold {
            std::fs::write(reserve, vec![0; RESERVE])
        } else {
            std::fs::remove_file(reserve)
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: the server may still have files of it open.
        let _ = run(Command::new("umount").arg("-l").arg(self.path()));
    }
}

fn run(command: &mut Command) -> io::Result<()> {
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("{status}")))
    }
}
