//! The tables are made.

use anyhow::{bail, ensure};
use sagastore::{Error, Migrated, check_schema, migrate};

use super::Moment;
use crate::desk::Desk;
use crate::site::Site;

pub(super) async fn work<DB: Site>(desk: &Desk<DB>) -> anyhow::Result<()> {
    let _ = migrate(&desk.pool).await?;
    Ok(())
}

/// That the tables are those of a migration that nobody disturbed is seen by comparing all runs.
pub(super) async fn check<DB: Site>(desk: &Desk<DB>, moment: Moment) -> anyhow::Result<()> {
    match check_schema(&desk.pool).await {
        Ok(()) => {}
        Err(Error::SchemaMissing { .. }) if moment == Moment::Killed => {}
        Err(fault) => bail!(fault),
    }
    if moment == Moment::Finished {
        let again = migrate(&desk.pool).await?;
        ensure!(matches!(again, Migrated::NothingToDo { .. }), "migrating again did something: {again:?}");
    }
    Ok(())
}
