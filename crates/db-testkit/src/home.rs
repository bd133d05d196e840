//! The folder of one server: data directory, socket and log.

use std::{
    env,
    fs::{self, DirBuilder, File},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process,
};

use crate::{account::Account, error::StartError, shared_memory};

/// How the folders of all servers begin.
pub(crate) const PREFIX: &str = "db-stack-pg-";
/// Held locked by the owner for as long as it lives; the text inside is its process id.
pub(crate) const OWNER: &str = "owner";
/// Free memory that must be left for a server to be put there, bytes.
const ROOM: u64 = 4 << 30;
/// How much of the log an error shows.
const TAIL: u64 = 4096;

/// A folder in memory or under the system's temporary folder, removed on drop.
#[derive(Debug)]
pub(crate) struct Home {
    dir: PathBuf,
    /// The lock is the proof of life: the system drops it however the owner ends.
    _owner: File,
}

impl Home {
    /// Makes the folder and gives it to `account`.
    pub(crate) fn create(account: Account, durable: bool) -> Result<Self, StartError> {
        let base = base(account, durable)?;
        for _ in 0..16 {
            let dir = base.join(format!("{PREFIX}{}-{:08x}", process::id(), fastrand::u32(..)));
            match DirBuilder::new().mode(0o755).create(&dir) {
                Ok(()) => {
                    return Self::furnish(dir.clone(), account)
                        .map_err(StartError::io(format!("prepare {}", dir.display())));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(StartError::io(format!("create {}", dir.display()))(error)),
            }
        }
        Err(StartError::io("find an unused folder name")(
            io::ErrorKind::AlreadyExists.into(),
        ))
    }

    fn furnish(dir: PathBuf, account: Account) -> io::Result<Self> {
        let mut owner = File::create_new(dir.join(OWNER))?;
        owner.try_lock().map_err(io::Error::from)?;
        let home = Self {
            dir,
            _owner: owner.try_clone()?,
        };
        writeln!(owner, "{}", process::id())?;
        // The umask may have taken the bits that let the server's user in.
        fs::set_permissions(&home.dir, fs::Permissions::from_mode(0o755))?;
        account.own(&home.dir)?;
        Ok(home)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The server's log, opened for appending.
    pub(crate) fn log(&self) -> io::Result<File> {
        File::options().create(true).append(true).open(self.dir.join("log"))
    }

    /// The end of the server's log, empty when there is none.
    pub(crate) fn log_tail(&self) -> String {
        self.log_since(0)
    }

    /// The end of what the server has logged behind the first `start` bytes.
    pub(crate) fn log_since(&self, start: u64) -> String {
        tail(&self.dir.join("log"), start).unwrap_or_default()
    }

    /// How many bytes the server has logged.
    pub(crate) fn log_length(&self) -> u64 {
        fs::metadata(self.dir.join("log")).map_or(0, |meta| meta.len())
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        shared_memory::release(&self.data());
        // A leftover is swept by a later start.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn tail(path: &Path, start: u64) -> io::Result<String> {
    let mut log = File::open(path)?;
    let skip = log.metadata()?.len().saturating_sub(TAIL).max(start);
    log.seek(SeekFrom::Start(skip))?;
    let mut bytes = Vec::new();
    log.take(TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Where the folders of servers are made.
///
/// A folder named by `DB_STACK_PG_DIR` is the only one. Else memory comes first: a new database is some 300 files, which
/// took ten times as long on a disk. Whoever wants durability wants a disk, though.
pub(crate) fn bases(durable: bool) -> Vec<PathBuf> {
    if let Some(dir) = env::var_os("DB_STACK_PG_DIR").filter(|dir| !dir.is_empty()) {
        return vec![dir.into()];
    }
    let memory = PathBuf::from("/dev/shm");
    // Containers often have 64 MiB there, which one server fills.
    let roomy =
        rustix::fs::statvfs(&memory).is_ok_and(|memory| memory.f_bavail.saturating_mul(memory.f_frsize) >= ROOM);
    let first = (cfg!(target_os = "linux") && roomy && !durable).then_some(memory);
    first
        .into_iter()
        .chain([env::temp_dir(), PathBuf::from("/tmp")])
        .collect()
}

/// The first of the folders that the server's user can reach and we can write.
fn base(account: Account, durable: bool) -> Result<PathBuf, StartError> {
    let bases = bases(durable);
    let usable = |dir: &&PathBuf| {
        (account == Account::Own || open_to_all(dir)) && rustix::fs::access(*dir, rustix::fs::Access::WRITE_OK).is_ok()
    };
    bases.iter().find(usable).cloned().ok_or_else(|| {
        let what = format!("find a folder that the server's user can enter; tried {bases:?}");
        StartError::io(what)(io::ErrorKind::PermissionDenied.into())
    })
}

fn open_to_all(dir: &Path) -> bool {
    dir.is_absolute()
        && dir
            .ancestors()
            .all(|dir| fs::metadata(dir).is_ok_and(|meta| meta.mode() & 0o001 != 0))
}
