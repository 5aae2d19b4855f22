//! What the processes do. The same work is done by the one that is killed and by the one that comes after it, which is
//! given every message once more.

use super::desk::Desk;
use super::site::Site;

mod dispatcher;
mod global_order;
mod group_commit;
#[cfg(feature = "export")]
mod import;
mod kept_instance;
mod leases;
mod message_handler;
mod migration;
mod own_transaction;
mod session_locks;
mod unit_of_work;
mod upkeep;

/// When something is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// A process was killed.
    Killed,
    /// Another one has done the work.
    Finished,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scenario {
    /// The tables are made.
    Migration,
    /// Units of work in transactions of the library's own.
    UnitOfWork,
    /// The same, on an instance that is kept in memory.
    KeptInstance,
    /// Units of work in transactions with writes of the program's own.
    OwnTransaction,
    /// Messages find their instance by keys; one fails, is parked, and is tried again.
    MessageHandler,
    /// Messages and timeouts are relayed; one fails until it is dead.
    Dispatcher,
    /// Leases and locks are obtained, renewed, used and released.
    Leases,
    /// Locks on a session of the server are taken, used and released. PostgreSQL only.
    SessionLocks,
    /// Old things are purged, dead letters dealt with, and messages relayed by hand.
    Upkeep,
    /// A reader of the global order keeps a table of its own.
    GlobalOrder,
    /// An export is imported.
    #[cfg(feature = "export")]
    Import,
    /// Units of work of many callers are committed together. SQLite only.
    GroupCommit,
}

macro_rules! each {
    ($self:ident, $verb:ident($($argument:expr),*)) => {
        match $self {
            Self::Migration => migration::$verb($($argument),*).await,
            Self::UnitOfWork => unit_of_work::$verb($($argument),*).await,
            Self::KeptInstance => kept_instance::$verb($($argument),*).await,
            Self::OwnTransaction => own_transaction::$verb($($argument),*).await,
            Self::MessageHandler => message_handler::$verb($($argument),*).await,
            Self::Dispatcher => dispatcher::$verb($($argument),*).await,
            Self::Leases => leases::$verb($($argument),*).await,
            Self::SessionLocks => session_locks::$verb($($argument),*).await,
            Self::Upkeep => upkeep::$verb($($argument),*).await,
            Self::GlobalOrder => global_order::$verb($($argument),*).await,
            #[cfg(feature = "export")]
            Self::Import => import::$verb($($argument),*).await,
            Self::GroupCommit => group_commit::$verb($($argument),*).await,
        }
    };
}

impl Scenario {
    pub(crate) const ALL: &[Self] = &[
        Self::Migration,
        Self::UnitOfWork,
        Self::KeptInstance,
        Self::OwnTransaction,
        Self::MessageHandler,
        Self::Dispatcher,
        Self::Leases,
        Self::SessionLocks,
        Self::Upkeep,
        Self::GlobalOrder,
        #[cfg(feature = "export")]
        Self::Import,
        Self::GroupCommit,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Migration => "a_migration",
            Self::UnitOfWork => "a_unit_of_work",
            Self::KeptInstance => "a_unit_of_work_on_a_kept_instance",
            Self::OwnTransaction => "a_unit_of_work_with_writes_of_its_own",
            Self::MessageHandler => "a_message_handler",
            Self::Dispatcher => "a_dispatcher",
            Self::Leases => "a_lease",
            Self::SessionLocks => "a_lock_on_a_session",
            Self::Upkeep => "the_upkeep",
            Self::GlobalOrder => "a_reader_of_the_global_order",
            #[cfg(feature = "export")]
            Self::Import => "an_import",
            Self::GroupCommit => "a_group_commit",
        }
    }

    pub(crate) fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|scenario| scenario.name() == name)
    }

    pub(crate) fn is_on<DB: Site>(self) -> bool {
        match self {
            Self::GroupCommit => DB::VARIABLE.is_none(),
            Self::SessionLocks => DB::SESSION_LOCKS,
            _ => true,
        }
    }

    pub(crate) fn begins_without_tables(self) -> bool {
        self == Self::Migration
    }

    /// One, where what is done shall be the same each time.
    pub(crate) fn connections(self) -> u32 {
        if self == Self::GroupCommit { group_commit::CONNECTIONS } else { 1 }
    }

    /// Does the same in the same order each time.
    pub(crate) fn repeats_itself(self) -> bool {
        self != Self::GroupCommit
    }

    /// Holds the same in the end, however often parts of it were done. What is written under a lease is written each time.
    pub(crate) fn ends_alike(self) -> bool {
        self != Self::Leases
    }

    /// Its messages are relayed.
    pub(crate) fn relays(self) -> bool {
        matches!(self, Self::Dispatcher | Self::Upkeep)
    }

    /// How many commits change what others see; `None` if that differs between databases.
    pub(crate) fn changes(self) -> Option<usize> {
        match self {
            Self::UnitOfWork | Self::KeptInstance => Some(unit_of_work::UNITS),
            Self::OwnTransaction => Some(own_transaction::CHANGES),
            Self::MessageHandler => Some(message_handler::CHANGES),
            Self::GlobalOrder => Some(global_order::CHANGES),
            #[cfg(feature = "export")]
            Self::Import => Some(import::CHANGES),
            _ => None,
        }
    }

    /// Makes what there is before.
    pub(crate) async fn prepare<DB: Site>(self, desk: &Desk<DB>) -> anyhow::Result<()> {
        match self {
            Self::Dispatcher => dispatcher::prepare(desk).await,
            Self::Upkeep => upkeep::prepare(desk).await,
            Self::GlobalOrder => global_order::prepare(desk).await,
            #[cfg(feature = "export")]
            Self::Import => import::prepare(desk).await,
            _ => Ok(()),
        }
    }

    pub(crate) async fn work<DB: Site>(self, desk: &Desk<DB>) -> anyhow::Result<()> {
        each!(self, work(desk))
    }

    /// What must hold, beside what must always hold.
    pub(crate) async fn check<DB: Site>(self, desk: &Desk<DB>, moment: Moment) -> anyhow::Result<()> {
        each!(self, check(desk, moment))
    }
}
