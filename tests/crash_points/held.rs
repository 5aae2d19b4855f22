//! What a database holds, in numbers that are the same each time the same was done.

use super::desk::Desk;
use super::scenarios::Scenario;
use super::site::Site;

const COUNTED: [&str; 15] = [
    "saga_stream",
    "saga_stream WHERE completed_at IS NOT NULL",
    "saga_commit",
    "saga_snapshot",
    "saga_outbox_message",
    "saga_outbox_message WHERE attempts > 0",
    "saga_outbox_message WHERE dead_at IS NOT NULL",
    "saga_lease",
    "saga_lease WHERE client_id IS NOT NULL",
    "saga_inbox",
    "saga_correlation_key",
    "saga_parked_message",
    "saga_timeout",
    "saga_consumer",
    "crash_own",
];

/// Rows of each kind, or the tables themselves where these are what is made.
pub(crate) async fn held<DB: Site>(desk: &Desk<DB>, scenario: Scenario) -> anyhow::Result<Vec<String>> {
    if scenario.begins_without_tables() {
        return DB::schema(&desk.pool).await;
    }
    // Each row says which one it is by its last two digits.
    let count = |(place, rows): (usize, &&str)| format!("SELECT COUNT(*) * 100 + {place} FROM {rows}");
    let counts: Vec<_> = COUNTED.iter().chain([&DB::MARKED]).enumerate().map(count).collect();
    let mut numbers = DB::numbers(&mut *desk.pool.acquire().await?, counts.join("\nUNION ALL\n")).await?;
    numbers.sort_by_key(|number| number % 100);
    let lines = numbers.iter().zip(COUNTED.iter().chain([&DB::MARKED]));
    let some = lines.filter(|(number, _)| **number >= 100);
    Ok(some.map(|(number, rows)| format!("{} in {rows}", number / 100)).collect())
}
