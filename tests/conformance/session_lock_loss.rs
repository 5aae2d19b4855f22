//! Session locks on PostgreSQL: connections that die.

use std::time::{Duration, Instant};

use sagastore::Error;
use sagastore::postgres::session::{ANSWER_TIMEOUT, SessionLockerConfig};
use sqlx::Postgres;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::session_lock::{eventually, holders, key, locker, started, terminate, waiters, waiting};
use crate::harness::{Clause, TestDb, assert_error, postgres_clauses};

postgres_clauses! {
    the_death_of_the_connection_is_told_soon,
    a_lost_lock_is_not_released,
    a_connection_that_waited_loses_only_its_own_lock,
    waits_of_a_lost_locker_end_at_the_server,
    a_server_that_falls_silent_is_a_loss,
}

async fn the_death_of_the_connection_is_told_soon(db: TestDb<Postgres>) -> Clause {
    let (one, two, key) = (locker(&db).await?, locker(&db).await?, key(&db, &["a"]));
    let lock = one.lock(&key).await?;
    let (locker_lost, lock_lost) = (tokio::spawn(one.lost()), tokio::spawn(lock.lost()));
    let task = waiting(&db, &two, &key).await?;
    assert!(!locker_lost.is_finished() && !lock_lost.is_finished());
    let begun = Instant::now();
    terminate(&db, &key, true).await?;
    // The next gets it, and a fence of the first is refused from then on.
    let mut next = task.await??;
    assert_error!(lock.fence(&mut db.begin().await?).await, Error::LockLost { .. });
    for lost in [locker_lost.await?, lock_lost.await?] {
        assert!(matches!(lost, Error::LockLost { .. }), "{lost:?}");
    }
    assert!(begun.elapsed() < ANSWER_TIMEOUT, "it took {:?}", begun.elapsed());
    assert_error!(one.lock(&key).await, Error::LockLost { .. });
    assert_error!(one.try_lock(&key).await, Error::LockLost { .. });
    assert_error!(lock.fence(&mut db.begin().await?).await, Error::LockLost { .. });
    next.release().await?;
    one.close().await;
    two.close().await;
    Ok(())
}

async fn a_lost_lock_is_not_released(db: TestDb<Postgres>) -> Clause {
    let (one, two, key) = (locker(&db).await?, locker(&db).await?, key(&db, &["a"]));
    let (mut first, mut second) = (one.lock(&key).await?, one.lock(&key).await?);
    terminate(&db, &key, true).await?;
    eventually("it is free", async || Ok(holders(&db, &key).await? == 0)).await?;
    let mut next = two.lock(&key).await?;
    // At the first call after the death, and later.
    assert_error!(first.release().await, Error::LockLost { .. });
    assert_error!(second.release().await, Error::LockLost { .. });
    assert_error!(second.release().await, Error::NotReleased { .. });
    assert_eq!(holders(&db, &key).await?, 1);
    next.release().await?;
    one.close().await;
    two.close().await;
    Ok(())
}

async fn a_connection_that_waited_loses_only_its_own_lock(db: TestDb<Postgres>) -> Clause {
    let (one, two) = (locker(&db).await?, locker(&db).await?);
    let (a, b) = (key(&db, &["a"]), key(&db, &["b"]));
    let mut first = one.lock(&a).await?;
    let task = waiting(&db, &two, &a).await?;
    first.release().await?;
    let (mut lost, mut kept) = (task.await??, two.lock(&b).await?);
    terminate(&db, &a, true).await?;
    assert!(matches!(lost.lost().await, Error::LockLost { .. }));
    assert_error!(lost.release().await, Error::LockLost { .. });
    kept.fence(&mut db.begin().await?).await?;
    // And it can be had again.
    let mut again = two.lock(&a).await?;
    for lock in [&mut again, &mut kept] {
        lock.release().await?;
    }
    one.close().await;
    two.close().await;
    Ok(())
}

async fn waits_of_a_lost_locker_end_at_the_server(db: TestDb<Postgres>) -> Clause {
    let (one, two) = (locker(&db).await?, locker(&db).await?);
    let (a, b) = (key(&db, &["a"]), key(&db, &["b"]));
    let mut held = one.lock(&a).await?;
    let own = two.lock(&b).await?;
    let task = waiting(&db, &two, &a).await?;
    terminate(&db, &b, true).await?;
    assert_error!(task.await?, Error::LockLost { .. });
    eventually("nobody waits", async || Ok(waiters(&db, &a).await? == 0)).await?;
    drop(own);
    held.release().await?;
    one.close().await;
    two.close().await;
    Ok(())
}

/// Listens before a server. Once `silent` changes nothing gets through any more, and no connection
/// ends, as if a cable were cut; they end when `silent` is dropped.
async fn cable(host: String, port: u16, silent: watch::Receiver<()>) -> anyhow::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let own = listener.local_addr()?.port();
    let mut ended = silent.clone();
    let accept = async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (mut cut, target) = (silent.clone(), (host.clone(), port));
            tokio::spawn(async move {
                let Ok(mut server) = TcpStream::connect(target).await else { return };
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                    _ = cut.changed() => while cut.changed().await.is_ok() {},
                }
            });
        }
    };
    tokio::spawn(async move {
        tokio::select! {
            () = accept => {}
            () = async { while ended.changed().await.is_ok() {} } => {}
        }
    });
    Ok(own)
}

async fn a_server_that_falls_silent_is_a_loss(db: TestDb<Postgres>) -> Clause {
    let (options, key, heartbeat) = (db.home().options.clone(), key(&db, &["a"]), Duration::from_millis(300));
    let (silence, silent) = watch::channel(());
    let port = cable(options.get_host().to_owned(), options.get_port(), silent).await?;
    let config = SessionLockerConfig::new(options.host("127.0.0.1").port(port)).with_heartbeat(heartbeat)?;
    let locker = started(config).await?;
    let mut lock = locker.lock(&key).await?;
    let lost = lock.lost();
    lock.fence(&mut db.begin().await?).await?;
    let begun = Instant::now();
    silence.send(())?;
    assert!(matches!(lost.await, Error::LockLost { .. }));
    let limit = heartbeat + ANSWER_TIMEOUT + Duration::from_secs(10);
    assert!(begun.elapsed() < limit, "it took {:?}", begun.elapsed());
    // The server does not know yet; the holder does, and writes no more.
    assert_eq!(holders(&db, &key).await?, 1);
    assert_error!(lock.fence(&mut db.begin().await?).await, Error::LockLost { .. });
    assert_error!(lock.release().await, Error::LockLost { .. });
    assert!(matches!(locker.lost().await, Error::LockLost { .. }));
    locker.close().await;
    drop(silence);
    eventually("the server freed it", async || Ok(holders(&db, &key).await? == 0)).await
}
