//! Whole sagas with compensation and timeouts come to their ends, by hand and with a message handler.

use crate::harness::{Clause, Subject, TestDb, clauses};
use crate::town;

clauses! {
    transfers_and_orders_come_to_their_ends: SEVERAL_CONNECTIONS,
}

async fn transfers_and_orders_come_to_their_ends<DB: Subject>(db: TestDb<DB>) -> Clause {
    db.will_relay();
    town::run(db.pool()).await
}
