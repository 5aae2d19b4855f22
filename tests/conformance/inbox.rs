//! Consumers without a saga handle a message once.

use std::time::Duration;

use anyhow::ensure;
use sagastore::{
    DEFAULT_INBOX_RETENTION, Envelope, Error, INBOX_FORGET_STEP, Inbox, MAX_INBOX_CONSUMER_BYTES, MessageId,
    MessageKind, NewOutboxRecord, OutboxRepository, Receipt,
};

use crate::harness::{Clause, Subject, TestDb, assert_error, clauses};

clauses! {
    a_message_is_received_once_by_each_consumer: BASIC,
    a_repeat_in_the_same_transaction_is_known: BASIC,
    what_was_rolled_back_was_not_received: BASIC,
    of_many_who_are_given_a_message_at_once_one_handles_it: SEVERAL_CONNECTIONS,
    who_waits_for_a_transaction_that_is_rolled_back_handles_the_message: SERVERS,
    only_what_is_older_than_the_retention_is_forgotten,
    any_number_is_forgotten,
    forgetting_ends_though_more_becomes_old_meanwhile: SQLITE,
    forgetting_very_many_lets_others_write_in_between: SQLITE_FILE,
    what_comes_again_within_the_retention_is_known_while_others_are_forgotten,
    names_are_compared_byte_for_byte,
    a_name_that_cannot_be_stored_is_refused,
}

async fn receive<DB: Subject>(db: &TestDb<DB>, inbox: &Inbox, message: MessageId) -> anyhow::Result<Receipt> {
    let mut tx = db.begin().await?;
    let receipt = inbox.receive(&mut tx, message).await?;
    db.commit(tx).await?;
    Ok(receipt)
}

const ROWS: &str = "SELECT COUNT(*) FROM saga_inbox";

async fn a_message_is_received_once_by_each_consumer<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (stock, mail) = (Inbox::new("stock")?, Inbox::new("mail")?);
    let (one, other) = (MessageId::new(), MessageId::new());
    for inbox in [&stock, &mail] {
        for message in [one, other] {
            assert_eq!(receive(&db, inbox, message).await?, Receipt::First);
            assert_eq!(receive(&db, inbox, message).await?, Receipt::Repeated);
        }
    }
    assert_eq!(receive(&db, &Inbox::new("stock")?, one).await?, Receipt::Repeated, "as another process would");
    assert_eq!(db.count(ROWS).await?, 4);
    Ok(())
}

async fn a_repeat_in_the_same_transaction_is_known<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (inbox, message, other) = (Inbox::new("stock")?, MessageId::new(), MessageId::new());
    let mut tx = db.begin().await?;
    assert_eq!(inbox.receive(&mut tx, message).await?, Receipt::First);
    ensure!(inbox.receive(&mut tx, message).await?.is_repeated());
    assert_eq!(inbox.receive(&mut tx, other).await?, Receipt::First, "the transaction can be used as before");
    db.commit(tx).await?;
    assert_eq!(db.count(ROWS).await?, 2);
    Ok(())
}

async fn what_was_rolled_back_was_not_received<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (inbox, message) = (Inbox::new("stock")?, MessageId::new());
    for _ in 0..2 {
        let mut tx = db.begin().await?;
        assert_eq!(inbox.receive(&mut tx, message).await?, Receipt::First);
        db.roll_back(tx).await?;
    }
    assert_eq!(receive(&db, &inbox, message).await?, Receipt::First);
    Ok(())
}

/// Handles a message: what it does is a record in the outbox. Tries again while the database refuses to wait.
async fn handle<DB: Subject>(db: &TestDb<DB>, inbox: &Inbox, message: MessageId) -> anyhow::Result<Receipt> {
    loop {
        let mut tx = db.begin().await?;
        let receipt = match inbox.receive(&mut tx, message).await {
            Ok(receipt) => receipt,
            Err(error) if error.is_transient() => {
                db.roll_back(tx).await?;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if receipt == Receipt::First {
            tokio::task::yield_now().await;
            let effect = Envelope::new(MessageKind::Event, "Handled", 1, "text/plain", message.to_string())?;
            db.store().save(&mut tx, &[NewOutboxRecord::new("stock", "1", effect)]).await?;
        }
        db.commit(tx).await?;
        return Ok(receipt);
    }
}

async fn of_many_who_are_given_a_message_at_once_one_handles_it<DB: Subject>(db: TestDb<DB>) -> Clause {
    const WORKERS: usize = 8;
    let messages: Vec<_> = (0..20).map(|_| MessageId::new()).collect();
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        let (db, messages) = (db.clone(), messages.clone());
        workers.push(tokio::spawn(async move {
            let (inbox, mut first) = (Inbox::new("stock")?, 0);
            for message in messages {
                first += usize::from(handle(&db, &inbox, message).await? == Receipt::First);
            }
            anyhow::Ok(first)
        }));
    }
    let mut handled = 0;
    for worker in workers {
        handled += worker.await??;
    }
    assert_eq!(handled, messages.len());
    assert_eq!(db.count("SELECT COUNT(*) FROM saga_outbox_message").await?, i64::try_from(messages.len())?);
    Ok(())
}

async fn who_waits_for_a_transaction_that_is_rolled_back_handles_the_message<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (inbox, message) = (Inbox::new("stock")?, MessageId::new());
    let mut tx = db.begin().await?;
    assert_eq!(inbox.receive(&mut tx, message).await?, Receipt::First);
    let waiting = tokio::spawn({
        let (db, inbox) = (db.clone(), inbox.clone());
        async move { receive(&db, &inbox, message).await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    ensure!(!waiting.is_finished(), "it is not known yet whether the message will have been handled");
    db.roll_back(tx).await?;
    assert_eq!(waiting.await??, Receipt::First);
    Ok(())
}

async fn only_what_is_older_than_the_retention_is_forgotten<DB: Subject>(db: TestDb<DB>) -> Clause {
    const HOUR: Duration = Duration::from_secs(60 * 60);
    let (stock, mail) = (Inbox::new("stock")?, Inbox::new("mail")?);
    let (old, young) = (MessageId::new(), MessageId::new());
    for inbox in [&stock, &mail] {
        let _ = receive(&db, inbox, old).await?;
    }
    db.sql("UPDATE saga_inbox SET handled_at = handled_at - 3601000000").await?;
    for inbox in [&stock, &mail] {
        let _ = receive(&db, inbox, young).await?;
    }
    assert_eq!(stock.forget(db.pool(), DEFAULT_INBOX_RETENTION).await?, 0);
    assert_eq!(stock.forget(db.pool(), Duration::MAX).await?, 0);
    assert_eq!(stock.forget(db.pool(), HOUR).await?, 1);
    assert_eq!(stock.forget(db.pool(), HOUR).await?, 0);
    assert_eq!(receive(&db, &stock, young).await?, Receipt::Repeated, "it is within the retention");
    assert_eq!(receive(&db, &mail, old).await?, Receipt::Repeated, "another consumer remembers for itself");
    assert_eq!(receive(&db, &stock, old).await?, Receipt::First, "it was forgotten");
    Ok(())
}

async fn any_number_is_forgotten<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (inbox, messages) = (Inbox::new("stock")?, u64::from(INBOX_FORGET_STEP) * 2 + 10);
    let mut tx = db.begin().await?;
    for _ in 0..messages {
        let _ = inbox.receive(&mut tx, MessageId::new()).await?;
    }
    db.commit(tx).await?;
    db.sql("UPDATE saga_inbox SET handled_at = handled_at - 7200000000").await?;
    let kept = MessageId::new();
    let _ = receive(&db, &inbox, kept).await?;
    assert_eq!(inbox.forget(db.pool(), Duration::from_secs(60 * 60)).await?, messages);
    assert_eq!(db.count(ROWS).await?, 1);
    Ok(())
}

/// It went on for as long as each look found one more.
async fn forgetting_ends_though_more_becomes_old_meanwhile<DB: Subject>(db: TestDb<DB>) -> Clause {
    let inbox = Inbox::new("stock")?;
    for _ in 0..10 {
        let _ = receive(&db, &inbox, MessageId::new()).await?;
    }
    db.sql("UPDATE saga_inbox SET handled_at = handled_at - 2000000").await?;
    db.sql(
        "CREATE TRIGGER another_one AFTER DELETE ON saga_inbox
        BEGIN
            INSERT INTO saga_inbox (consumer, message_id, handled_at)
            VALUES (OLD.consumer, randomblob(16), OLD.handled_at);
        END",
    )
    .await?;
    let forgotten = tokio::time::timeout(Duration::from_secs(20), inbox.forget(db.pool(), Duration::from_secs(1)));
    assert_eq!(forgotten.await??, 10);
    assert_eq!(db.count(ROWS).await?, 10, "those are left to the next call");
    Ok(())
}

/// Whoever waits for the file looks again and again, and hardly ever came in between two steps: for 4 to 159 rounds in these 60,
/// where it now is thousands. A machine that is busy with other things may keep them out once.
async fn forgetting_very_many_lets_others_write_in_between<DB: Subject>(db: TestDb<DB>) -> Clause {
    const STEPS: u32 = 60;
    const HOUR: Duration = Duration::from_secs(60 * 60);
    let (old, inbox, mut seen) = (STEPS * INBOX_FORGET_STEP, Inbox::new("stock")?, Vec::new());
    for _ in 0..3 {
        db.sql(format!(
            "INSERT INTO saga_inbox
            WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {old})
            SELECT 'stock', randomblob(16), n FROM n"
        ))
        .await?;
        let (forgetting, pool, mut rounds) = (inbox.clone(), db.pool().clone(), 0);
        let forgetting = tokio::spawn(async move { forgetting.forget(&pool, HOUR).await });
        while !forgetting.is_finished() {
            ensure!(!receive(&db, &inbox, MessageId::new()).await?.is_repeated());
            rounds += 1;
        }
        assert_eq!(forgetting.await??, u64::from(old));
        if rounds > 3 * STEPS {
            return Ok(());
        }
        seen.push(rounds);
    }
    anyhow::bail!("so many rounds in {STEPS} steps: {seen:?}")
}

/// Forgets; again while the database refuses to wait.
async fn forget<DB: Subject>(db: TestDb<DB>, inbox: Inbox, retention: Duration) -> anyhow::Result<()> {
    loop {
        match inbox.forget(db.pool(), retention).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_transient() => {}
            Err(error) => return Err(error.into()),
        }
    }
}

async fn what_comes_again_within_the_retention_is_known_while_others_are_forgotten<DB: Subject>(
    db: TestDb<DB>,
) -> Clause {
    const HOUR: Duration = Duration::from_secs(60 * 60);
    let inbox = Inbox::new("stock")?;
    let mut tx = db.begin().await?;
    for _ in 0..INBOX_FORGET_STEP * 3 + 10 {
        let _ = inbox.receive(&mut tx, MessageId::new()).await?;
    }
    db.commit(tx).await?;
    db.sql("UPDATE saga_inbox SET handled_at = handled_at - 601000000").await?;
    let young: Vec<_> = (0..40).map(|_| MessageId::new()).collect();
    for message in &young {
        assert_eq!(handle(&db, &inbox, *message).await?, Receipt::First);
    }
    // An hour old, and nearly so.
    db.sql("UPDATE saga_inbox SET handled_at = handled_at - 3000000000").await?;
    let forgetting: Vec<_> = (0..3).map(|_| tokio::spawn(forget(db.clone(), inbox.clone(), HOUR))).collect();
    let mut new = Vec::new();
    for message in &young {
        assert_eq!(handle(&db, &inbox, *message).await?, Receipt::Repeated, "it is within the retention");
        new.push(MessageId::new());
        assert_eq!(handle(&db, &inbox, new[new.len() - 1]).await?, Receipt::First);
    }
    for done in forgetting {
        done.await??;
    }
    for message in young.iter().chain(&new) {
        assert_eq!(handle(&db, &inbox, *message).await?, Receipt::Repeated, "it is within the retention");
    }
    assert_eq!(db.count(ROWS).await?, i64::try_from(young.len() + new.len())?, "of the others all are forgotten");
    Ok(())
}

async fn names_are_compared_byte_for_byte<DB: Subject>(db: TestDb<DB>) -> Clause {
    let message = MessageId::new();
    let longest = "ü".repeat(MAX_INBOX_CONSUMER_BYTES / 2);
    let names = ["stock", "Stock", "stöck", "stock ", " stock", "stock\t", "'\"\\", "🙂", &longest];
    for name in names {
        assert_eq!(receive(&db, &Inbox::new(name)?, message).await?, Receipt::First, "{name:?}");
    }
    for name in names {
        assert_eq!(receive(&db, &Inbox::new(name)?, message).await?, Receipt::Repeated, "{name:?}");
    }
    Ok(())
}

async fn a_name_that_cannot_be_stored_is_refused<DB: Subject>(_: TestDb<DB>) -> Clause {
    for name in [String::new(), "a\0b".to_owned(), "x".repeat(MAX_INBOX_CONSUMER_BYTES + 1)] {
        assert_error!(Inbox::new(name), Error::InvalidInput { .. });
    }
    Ok(())
}
