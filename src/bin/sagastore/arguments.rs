//! What can be asked for.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Looks into the database of sagastore, checks it, and takes streams from one to another.
///
/// Exit status: 0 if all is well, 1 if something was found or failed, 2 if the command was not understood.
#[derive(Debug, Parser)]
#[command(name = "sagastore", version, max_term_width = 100)]
pub(crate) struct Arguments {
    /// sqlite:FILE, postgres://… or mysql://…
    #[arg(long, value_name = "URL", env = "DATABASE_URL", hide_env_values = true, global = true)]
    pub(crate) database_url: Option<String>,
    /// One JSON object a line, for scripts.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Brings the tables to the version of this release; makes the file of an SQLite database that is not there
    Migrate,
    /// Checks the schema and all rows: streams, commits, snapshots, outbox; fails if anything is found
    Check,
    /// Lists instances, oldest first
    Instances(Instances),
    /// Shows what happened to an instance, in order
    Show(Show),
    /// Lists messages that instances keep failing to handle, and those that wait behind them
    Parked {
        #[command(subcommand)]
        verb: Option<ParkedVerb>,
    },
    /// Tells how much waits in the outbox, and for how long
    Outbox {
        #[command(subcommand)]
        verb: Option<OutboxVerb>,
    },
    /// Writes all streams to a file of JSON lines, or goes on where an earlier run stopped
    Export {
        /// The file; one that is there already must be an export of the same database
        file: PathBuf,
    },
    /// Reads an export into the database; what is there already is compared and passed over
    Import(Import),
    /// Verifies an export without a database: checksums, dense streams, payloads that decode
    VerifyReplay {
        /// The file
        file: PathBuf,
    },
    /// Lists locks: leases that are held, and such as are free again
    Locks,
}

#[derive(Debug, Args)]
pub(crate) struct Instances {
    /// Only those of the saga with this persistence key
    #[arg(long, value_name = "KEY")]
    pub(crate) saga: Option<String>,
    /// Only those whose ids begin so
    #[arg(long, value_name = "TEXT")]
    pub(crate) prefix: Option<String>,
    /// Only completed ones
    #[arg(long, conflicts_with = "open")]
    pub(crate) completed: bool,
    /// Only those that are not completed
    #[arg(long)]
    pub(crate) open: bool,
    /// Only those with messages that are parked
    #[arg(long)]
    pub(crate) parked: bool,
    /// At most so many
    #[arg(long, value_name = "NUMBER")]
    pub(crate) limit: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ParkedVerb {
    /// Deletes one: it is never handled, and those behind it move up. (A program tries parked messages again.)
    Discard(DiscardParked),
}

#[derive(Debug, Args)]
pub(crate) struct DiscardParked {
    /// The one with this id, as listed
    #[arg(long, value_name = "ID")]
    pub(crate) id: i64,
    /// Does not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The name of its stream, as in order/42, or the instance id
    pub(crate) id: String,
    /// The persistence key of its saga, where several sagas have an instance of this id
    #[arg(long, value_name = "KEY")]
    pub(crate) saga: Option<String>,
    /// Also shows payloads and the values of metadata
    #[arg(long)]
    pub(crate) payloads: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The file
    pub(crate) file: PathBuf,
    /// Also puts all messages of sagas into the outbox, to be delivered from here
    #[arg(long)]
    pub(crate) deliver: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum OutboxVerb {
    /// Messages that could not be delivered
    #[command(subcommand)]
    DeadLetters(DeadLetters),
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLetters {
    /// Lists them in delivery order
    List,
    /// Lets them be delivered again, with all their attempts
    Retry(Chosen),
    /// Deletes them: they are never delivered
    Discard(Chosen),
}

impl DeadLetters {
    pub(crate) fn writes(&self) -> bool {
        !matches!(self, Self::List)
    }
}

#[derive(Debug, Args)]
pub(crate) struct Chosen {
    #[command(flatten)]
    pub(crate) which: Which,
    /// The instance of the saga, or the aggregate id that was given
    #[arg(long, value_name = "ID", requires = "saga")]
    pub(crate) instance: Option<String>,
    /// Does not ask
    #[arg(long)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Which {
    /// All of them
    #[arg(long)]
    pub(crate) all: bool,
    /// The one with this id, as listed
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<String>,
    /// Those of one instance of the saga with this persistence key, or of the aggregate type that was given
    #[arg(long, value_name = "KEY", requires = "instance")]
    pub(crate) saga: Option<String>,
}
