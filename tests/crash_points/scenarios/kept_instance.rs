//! The units of work of [`unit_of_work`](super::unit_of_work), each on the instance that the one before left in memory.

use super::{Moment, unit_of_work};
use crate::desk::Desk;
use crate::site::Site;

const ROOM: usize = 4;

pub(super) async fn work<DB: Site>(desk: &Desk<DB>) -> anyhow::Result<()> {
    unit_of_work::work_by(desk, &desk.persister().with_instance_cache(&desk.pool, ROOM)).await
}

pub(super) async fn check<DB: Site>(desk: &Desk<DB>, moment: Moment) -> anyhow::Result<()> {
    unit_of_work::check(desk, moment).await
}
