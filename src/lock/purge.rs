//! Deleting the rows of what is not locked any more.

use std::time::Duration;

/// For how long a resource must have been free before its row is deleted. Longer than the database's clock can
/// stand still, so that the next token, which then comes from the clock alone, is higher.
pub const PURGE_GRACE: Duration = Duration::from_secs(1);
/// How many resources one step of a purge looks at.
pub const PURGE_STEP: u32 = 1000;
