//! SQLSTATE codes as values, and the questions that the layers ask of them.
//!
//! Pure facts about codes; what to do about them is for the layer that asks.

use std::fmt;

macro_rules! states {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)+) => {
        /// A SQLSTATE: the codes that db-stack reacts to by name, any other one as its five characters.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum SqlState {
            $($(#[$doc])* $name,)+
            /// Any other code, as five characters of printable ASCII.
            Other([u8; 5]),
        }

        impl SqlState {
            /// Every code that has a name here, for tables and tests.
            pub const NAMED: &'static [(Self, &'static str)] = &[$((Self::$name, $code),)+];

            /// The state with this code. Text that is no SQLSTATE at all becomes `Other(*b"?????")`.
            pub fn from_code(code: &str) -> Self {
                match code {
                    $($code => Self::$name,)+
                    other => match <[u8; 5]>::try_from(other.as_bytes()) {
                        Ok(bytes) if bytes.iter().all(u8::is_ascii_alphanumeric) => Self::Other(bytes),
                        _ => Self::Other(*b"?????"),
                    },
                }
            }

            /// The five characters.
            pub fn code(&self) -> &str {
                match self {
                    $(Self::$name => $code,)+
                    Self::Other(bytes) => std::str::from_utf8(bytes).unwrap_or("?????"),
                }
            }
        }
    };
}

states! {
    /// It went well.
    SuccessfulCompletion = "00000",
    /// A warning of no particular kind.
    Warning = "01000",
    /// Privileges were not granted.
    PrivilegeNotGranted = "01007",
    /// No row was found where one was expected.
    NoData = "02000",
    /// The connection failed in a way that has no code of its own.
    ConnectionException = "08000",
    /// The client could not establish the connection.
    CannotConnect = "08001",
    /// The connection does not exist.
    ConnectionDoesNotExist = "08003",
    /// The server rejected the connection.
    ConnectionRejected = "08004",
    /// The connection broke while in use.
    ConnectionFailure = "08006",
    /// The connection broke and nobody knows whether the transaction was committed.
    TransactionResolutionUnknown = "08007",
    /// One side did not follow the protocol; also what PgBouncer says for its own refusals.
    ProtocolViolation = "08P01",
    /// The server can't do that; with routine `RevalidateCachedQuery`, a prepared plan outlived a change of schema.
    FeatureNotSupported = "0A000",
    /// A subquery or function gave more than one row.
    CardinalityViolation = "21000",
    /// A value has the wrong form or range.
    DataException = "22000",
    /// The text is too long for its column.
    StringTooLong = "22001",
    /// The number is too large for its type.
    NumericOutOfRange = "22003",
    /// The date or time is out of range.
    DatetimeOverflow = "22008",
    /// Division by zero.
    DivisionByZero = "22012",
    /// The bytes are not valid in the database's encoding.
    CharacterNotInRepertoire = "22021",
    /// A parameter has a value that is not allowed.
    InvalidParameterValue = "22023",
    /// The text is not a value of the type.
    InvalidTextRepresentation = "22P02",
    /// The bytes are not a value of the type.
    InvalidBinaryRepresentation = "22P03",
    /// An integrity constraint of no particular kind.
    IntegrityViolation = "23000",
    /// A row is still referenced and the constraint is RESTRICT.
    RestrictViolation = "23001",
    /// A column must not be null.
    NotNullViolation = "23502",
    /// A foreign key has no match, or is still referenced.
    ForeignKeyViolation = "23503",
    /// A unique key exists already.
    UniqueViolation = "23505",
    /// A CHECK constraint failed.
    CheckViolation = "23514",
    /// An exclusion constraint failed.
    ExclusionViolation = "23P01",
    /// The transaction is in the wrong state.
    InvalidTransactionState = "25000",
    /// A transaction is active where none may be.
    ActiveTransaction = "25001",
    /// A write in a read-only transaction: after a failover this means the node is a standby.
    ReadOnlyTransaction = "25006",
    /// No transaction is active where one must be.
    NoActiveTransaction = "25P01",
    /// The transaction has failed before: only ROLLBACK is accepted.
    InFailedTransaction = "25P02",
    /// The server ended a session that sat idle in its transaction.
    IdleInTransactionTimeout = "25P03",
    /// The server ended a session whose transaction took too long.
    TransactionTimeout = "25P04",
    /// The prepared statement does not exist (any more).
    InvalidStatementName = "26000",
    /// The role may not connect.
    InvalidAuthorization = "28000",
    /// The password is wrong.
    InvalidPassword = "28P01",
    /// The cursor does not exist.
    InvalidCursorName = "34000",
    /// The savepoint does not exist.
    InvalidSavepoint = "3B001",
    /// The database does not exist.
    InvalidCatalog = "3D000",
    /// The schema does not exist.
    InvalidSchema = "3F000",
    /// A transaction was rolled back for no particular reason.
    TransactionRollback = "40000",
    /// Concurrent transactions can't be put in an order; on a standby, a conflict with recovery.
    SerializationFailure = "40001",
    /// A deferred constraint failed at the end of the transaction.
    TransactionIntegrityViolation = "40002",
    /// Nobody knows whether the statement completed.
    StatementCompletionUnknown = "40003",
    /// Deadlock: this transaction was chosen to give way.
    DeadlockDetected = "40P01",
    /// A syntax error or a missing right, of no particular kind.
    SyntaxOrAccess = "42000",
    /// The role lacks a right; at connect time, the right to connect.
    InsufficientPrivilege = "42501",
    /// The text is not SQL.
    SyntaxError = "42601",
    /// The column does not exist.
    UndefinedColumn = "42703",
    /// The types do not fit.
    DatatypeMismatch = "42804",
    /// The function does not exist.
    UndefinedFunction = "42883",
    /// The table does not exist.
    UndefinedTable = "42P01",
    /// A prepared statement of that name exists already.
    DuplicatePreparedStatement = "42P05",
    /// The table exists already.
    DuplicateTable = "42P07",
    /// A view's WITH CHECK OPTION failed.
    WithCheckOptionViolation = "44000",
    /// A resource ran out.
    InsufficientResources = "53000",
    /// The disk is full.
    DiskFull = "53100",
    /// The server has no memory left.
    OutOfMemory = "53200",
    /// No connection slot is free.
    TooManyConnections = "53300",
    /// A configured limit was reached.
    ConfigurationLimitExceeded = "53400",
    /// A limit of the program was reached.
    ProgramLimitExceeded = "54000",
    /// The statement is too complex.
    StatementTooComplex = "54001",
    /// Too many columns.
    TooManyColumns = "54011",
    /// Too many arguments.
    TooManyArguments = "54023",
    /// The object is not in the state that the statement needs.
    ObjectNotInState = "55000",
    /// The object is in use.
    ObjectInUse = "55006",
    /// The lock could not be had at once or within `lock_timeout`.
    LockNotAvailable = "55P03",
    /// An operator stepped in.
    OperatorIntervention = "57000",
    /// The statement was cancelled, by a request or by `statement_timeout`.
    QueryCanceled = "57014",
    /// An administrator ended the session.
    AdminShutdown = "57P01",
    /// Another backend crashed and the server restarts.
    CrashShutdown = "57P02",
    /// The server starts, stops or recovers and takes no connections now.
    CannotConnectNow = "57P03",
    /// The database was dropped.
    DatabaseDropped = "57P04",
    /// The server ended a session that sat idle.
    IdleSessionTimeout = "57P05",
    /// The system around the server failed.
    SystemError = "58000",
    /// Reading or writing a file failed.
    IoError = "58030",
    /// The snapshot is older than what the server keeps.
    SnapshotTooOld = "72000",
    /// The configuration file is wrong.
    ConfigFileError = "F0000",
    /// An error in PL/pgSQL of no particular kind.
    PlPgSqlError = "P0000",
    /// `RAISE EXCEPTION` without a code.
    RaiseException = "P0001",
    /// `SELECT INTO STRICT` found no row.
    NoDataFound = "P0002",
    /// `SELECT INTO STRICT` found several rows.
    TooManyRows = "P0003",
    /// `ASSERT` failed.
    AssertFailure = "P0004",
    /// A bug in the server.
    InternalError = "XX000",
    /// A table is damaged.
    DataCorrupted = "XX001",
    /// An index is damaged.
    IndexCorrupted = "XX002",
}

/// The class of a SQLSTATE: its first two characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SqlStateClass {
    /// `00`: it went well.
    Success,
    /// `01` and `02`: it went well, with a remark.
    Warning,
    /// `08`: the connection.
    ConnectionException,
    /// `0A`: not supported.
    FeatureNotSupported,
    /// `21` and `22`: the values.
    DataException,
    /// `23`: a constraint.
    IntegrityConstraint,
    /// `25`: the wrong moment in a transaction.
    InvalidTransactionState,
    /// `26`: a prepared statement.
    InvalidStatementName,
    /// `28`: who connects.
    InvalidAuthorization,
    /// `3D`: which database.
    InvalidCatalog,
    /// `40`: the transaction had to give way.
    TransactionRollback,
    /// `42` and `44`: the statement, its names and rights.
    SyntaxOrAccess,
    /// `53`: the server has too little of something.
    InsufficientResources,
    /// `54`: a limit of the program.
    ProgramLimit,
    /// `55`: the object is in use or not ready.
    ObjectNotInState,
    /// `57`: an operator stepped in.
    OperatorIntervention,
    /// `58`: the system around the server.
    SystemError,
    /// `72`: the snapshot.
    SnapshotTooOld,
    /// `F0`: the configuration file.
    ConfigFile,
    /// `P0`: PL/pgSQL.
    PlPgSql,
    /// `XX`: a bug or damaged data.
    InternalError,
    /// Any other class.
    Other,
}

impl SqlState {
    /// The class, by the first two characters.
    pub fn class(&self) -> SqlStateClass {
        use SqlStateClass as C;
        match self.code().get(..2).unwrap_or_default() {
            "00" => C::Success,
            "01" | "02" => C::Warning,
            "08" => C::ConnectionException,
            "0A" => C::FeatureNotSupported,
            "21" | "22" => C::DataException,
            "23" => C::IntegrityConstraint,
            "25" => C::InvalidTransactionState,
            "26" => C::InvalidStatementName,
            "28" => C::InvalidAuthorization,
            "3D" => C::InvalidCatalog,
            "40" => C::TransactionRollback,
            "42" | "44" => C::SyntaxOrAccess,
            "53" => C::InsufficientResources,
            "54" => C::ProgramLimit,
            "55" => C::ObjectNotInState,
            "57" => C::OperatorIntervention,
            "58" => C::SystemError,
            "72" => C::SnapshotTooOld,
            "F0" => C::ConfigFile,
            "P0" => C::PlPgSql,
            "XX" => C::InternalError,
            _ => C::Other,
        }
    }

    /// Whether concurrent transactions got in each other's way: rolled back for certain, worth another try.
    ///
    /// On a standby 40001 is a conflict with recovery; the same try belongs on the primary.
    pub fn is_contention(&self) -> bool {
        matches!(self, Self::SerializationFailure | Self::DeadlockDetected)
    }

    /// Whether the server takes no connection now but may soon: nothing was sent.
    pub fn is_connect_refusal(&self) -> bool {
        matches!(self, Self::TooManyConnections | Self::CannotConnectNow)
    }

    /// Whether the server is going down, coming up or restarting after a crash.
    pub fn is_shutdown(&self) -> bool {
        matches!(self, Self::AdminShutdown | Self::CrashShutdown | Self::CannotConnectNow)
    }

    /// Whether connecting fails until somebody changes the configuration. Ask it of connect errors only: 42501 in
    /// a statement is just a missing right.
    pub fn is_configuration_fault(&self) -> bool {
        use SqlStateClass as C;
        matches!(self.class(), C::InvalidAuthorization | C::InvalidCatalog) || *self == Self::InsufficientPrivilege
    }

    /// Whether the node can't write: after a failover, the old primary.
    pub fn is_wrong_node(&self) -> bool {
        *self == Self::ReadOnlyTransaction
    }

    /// Whether a prepared statement is out of date or gone; nothing was executed. `routine` is the server
    /// routine that the error names: every other 0A000 is final.
    pub fn is_stale_plan(&self, routine: Option<&str>) -> bool {
        match self {
            Self::InvalidStatementName => true,
            Self::FeatureNotSupported => routine == Some("RevalidateCachedQuery"),
            _ => false,
        }
    }

    /// Whether nobody knows if the statement or COMMIT took effect.
    pub fn is_ambiguous(&self) -> bool {
        matches!(
            self,
            Self::StatementCompletionUnknown | Self::TransactionResolutionUnknown
        )
    }

    /// Whether the error says that the server is in trouble: classes 08, 53 and 58, 57P0x and 25006.
    ///
    /// Never 22, 23, 40 and 42: those are about the statement, and a breaker must not open for a caller's mistake.
    pub fn counts_against_breaker(&self) -> bool {
        use SqlStateClass as C;
        match self.class() {
            C::ConnectionException | C::InsufficientResources | C::SystemError => true,
            C::OperatorIntervention => self.code().starts_with("57P0"),
            _ => self.is_wrong_node(),
        }
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}
