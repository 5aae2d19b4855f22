//! Looking at leases, and the ids of what they are on.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use sagastore::Error;
use sagastore::lock::lease::{LeaseState, Obtained};
use sagastore::lock::{Lock, Namespace, ResourceId};

use crate::harness::{
    Clause, LONG_LEASE, Subject, TestDb, assert_error, clauses, client, millis, obtain, resource, wait_for_expiry,
};

clauses! {
    held_expired_released_and_unknown_are_told_apart: BASIC,
    all_leases_are_paged_in_the_order_of_their_ids: BASIC,
    ids_that_differ_in_anything_are_different_resources: BASIC,
    ids_of_any_length_and_script_are_kept_as_they_are: BASIC,
}

async fn held_expired_released_and_unknown_are_told_apart<DB: Subject>(db: TestDb<DB>) -> Clause {
    let (long, short) = (db.lock(LONG_LEASE), db.lock(millis(20)));
    let held = obtain(&long, "held", "a").await?;
    let expired = obtain(&short, "expired", "b").await?;
    let released = obtain(&long, "released", "c").await?;
    ensure!(long.release(&released).await?);
    wait_for_expiry(&short, &expired).await?;

    assert_eq!(long.status(&resource("unknown")).await?, None);
    let all = long.statuses(None, 10).await?;
    assert_eq!(all.len(), 3);
    for (status, lease, state, who) in [
        (&all[0], &expired, LeaseState::Expired, Some(client("b"))),
        (&all[1], &held, LeaseState::Held, Some(client("a"))),
        (&all[2], &released, LeaseState::Released, None),
    ] {
        let alone = long.status(&lease.resource_id).await?.context("gone")?;
        for found in [&alone, status] {
            assert_eq!((&found.resource, found.state, &found.client_id), (&lease.resource(), state, &who));
            assert_eq!(found.sequence, lease.sequence);
            assert_eq!(found.remaining > Duration::ZERO, state == LeaseState::Held);
        }
        ensure!(state == LeaseState::Released || status.expiry == lease.expiry);
        ensure!(state != LeaseState::Released || status.expiry < lease.expiry);
    }
    Ok(())
}

async fn all_leases_are_paged_in_the_order_of_their_ids<DB: Subject>(db: TestDb<DB>) -> Clause {
    let lock = db.lock(LONG_LEASE);
    assert_eq!(lock.statuses(None, 10).await?, []);
    let mut ids: Vec<ResourceId> =
        ["b", "B", "a", "_", "Z", "ä", "z", "~", "\u{1}", "a b", "a-b", "ab", "a\u{200b}", "\u{1f600}", "\u{ff5e}"]
            .map(resource)
            .into();
    for id in &ids {
        obtain(&lock, id.as_str(), "a").await?;
    }
    obtain(&lock.clone().with_namespace(Namespace::new("other")?), "aa", "a").await?;
    ids.sort();
    for page in [1, 2, 7, 100] {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let statuses = lock.statuses(after.as_ref(), page).await?;
            ensure!(statuses.len() <= usize::try_from(page)?);
            found.extend(statuses.into_iter().map(|status| status.resource.id));
            if found.last() == after.as_ref() {
                break;
            }
            after = found.last().cloned();
        }
        assert_eq!(found, ids);
    }
    assert_eq!(lock.statuses(None, 0).await?, []);
    assert_eq!(lock.statuses(Some(&resource("a and no more")), 1).await?[0].resource.id, resource("a b"));
    Ok(())
}

async fn ids_that_differ_in_anything_are_different_resources<DB: Subject>(db: TestDb<DB>) -> Clause {
    let lock = db.lock(LONG_LEASE);
    let ids = [
        "straße",
        "strasse",
        "STRASSE",
        "é",
        "e\u{301}",
        "e",
        "E",
        "a",
        "a ",
        "a  ",
        " a",
        "a\t",
        "a\n",
        "'",
        "''",
        "\\",
        "\\\\",
        "\"",
        "%",
        "_",
        ";--",
        "$1",
        "?",
        "\u{feff}a",
        "a\u{200b}",
        "i",
        "İ",
        "ı",
        "ﬁ",
        "fi",
    ];
    let mut tokens = HashSet::new();
    for id in ids {
        let lease = obtain(&lock, id, "a").await.with_context(|| format!("{id:?}"))?;
        tokens.insert((lease.resource_id.clone(), lease.sequence));
    }
    assert_eq!(tokens.len(), ids.len());
    for id in ids {
        assert_eq!(lock.obtain_no_wait(&resource(id), &client("b")).await?, Obtained::Held, "{id:?}");
        assert_eq!(lock.status(&resource(id)).await?.context("gone")?.resource.id, resource(id));
    }
    Ok(())
}

async fn ids_of_any_length_and_script_are_kept_as_they_are<DB: Subject>(db: TestDb<DB>) -> Clause {
    let lock = db.lock(LONG_LEASE).with_namespace(Namespace::new("\u{1f512}".repeat(40))?);
    for id in ["x".repeat(512), "é".repeat(256), "\u{1f600}".repeat(128), "日本語".to_owned(), " ".to_owned()] {
        let who = "\u{1f642}".repeat(63);
        let lease = obtain(&lock, &id, &who).await?;
        ensure!(lock.renew(&lease).await?.is_some());
        let status = lock.status(&resource(&id)).await?.context("gone")?;
        assert_eq!((status.resource, status.client_id), (lease.resource(), Some(client(&who))));
        let mut tx = db.begin().await?;
        lease.fence(&mut tx).await?;
        db.commit(tx).await?;
        ensure!(lock.release(&lease).await?);
        let mut tx = db.begin().await?;
        assert_error!(lease.fence(&mut tx).await, Error::Fenced { .. });
        db.roll_back(tx).await?;
    }
    for id in [String::new(), "x".repeat(513), "a\0".to_owned()] {
        assert_error!(ResourceId::new(id), Error::InvalidInput { .. });
    }
    Ok(())
}
