//! Streams: appending and reading.

use sagastore::{Error, Offset};

use crate::harness::sample::{events, stream};
use crate::harness::{Clause, Subject, TestDb, assert_error, clauses};

clauses! {
    a_new_stream_gives_back_what_was_appended: BASIC,
    an_append_at_another_offset_than_the_end_is_a_conflict,
}

async fn a_new_stream_gives_back_what_was_appended<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (name, messages) = (stream("a"), events(1));
    assert_eq!(db.append(&name, 0, &messages).await?, Offset::of(1));
    let found = db.events(&name).await?.unwrap();
    assert_eq!(found.len(), 1);
    Ok(())
}

async fn an_append_at_another_offset_than_the_end_is_a_conflict<DB: Subject>(db: TestDb<DB>) -> Clause {
    let name = stream("a");
    db.append(&name, 0, &events(3)).await?;
    for wrong in [0, 2, 4, 100] {
        let refused = db.append(&name, wrong, &events(1)).await;
        assert_error!(refused, Error::Conflict { expected, actual, .. } => {
            assert_eq!((expected, actual), (Offset::of(wrong), Offset::of(3)));
        });
    }
    Ok(())
}
