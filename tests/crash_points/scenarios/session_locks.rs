//! Locks on a session of the server: taken, used for a fenced write, released, by one locker after another.

use anyhow::ensure;

use super::Moment;
use crate::desk::Desk;
use crate::site::Site;

const ROUNDS: usize = 3;

pub(super) async fn work<DB: Site>(desk: &Desk<DB>) -> anyhow::Result<()> {
    for number in 1..=ROUNDS {
        DB::write_under_session_lock(desk, &number.to_string()).await?;
    }
    Ok(())
}

pub(super) async fn check<DB: Site>(desk: &Desk<DB>, moment: Moment) -> anyhow::Result<()> {
    let own = desk.own().await?;
    let expected: Vec<_> = (1..=own.len()).map(|number| number.to_string()).collect();
    ensure!(own == expected, "what was written under the lock is {own:?}");
    ensure!(moment == Moment::Killed || own.len() == ROUNDS, "{} of {ROUNDS} were written", own.len());
    // Whoever held it is gone, so nobody holds it.
    ensure!(DB::session_lock_is_free(desk).await?, "the lock is held by a process that is gone");
    Ok(())
}
